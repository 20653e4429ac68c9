//! A recording that comes as the body of a request: what the request asks for, what its first bytes are, and how the
//! answer grows while the rest is still coming.
//!
//! Owns the answer's bytes until they are written, and no decision about the stream: that is a [`crate::server::session`]
//! as any other. Never knows connections or sessions; `on_upload.rs` asks it what to write.
//!
//! Invariants: a JSON answer is one JSON value however it ends; an answer of audio is never ended properly if a sample
//! is missing.

use crate::auth::Principal;
use crate::id::SessionId;
use crate::reason::{Fault, Reason};
use crate::server::connection::Manners;
use crate::time::Instant;
use crate::wire::compress::Packer;
use crate::wire::http::{BodyDecoder, BodyFraming, BodyLength, RequestHead, encode_chunk, encode_last_chunk};
use crate::wire::message::{Encoding, ServerMessage, StreamParams};
use crate::wire::pcm;
use crate::wire::wav::{self, Decoder, HeadReader, Layout};
use serde_json::json;
use std::sync::Arc;

/// Parameters of the query, as listed to people.
const NAMES: [&str; 6] = ["encoding", "sample_rate", "channels", "timing", "tag", "output"];

/// Those that a WAV's head says.
const SAID_BY_WAV: [&str; 3] = ["encoding", "sample_rate", "channels"];

/// What to send, for those who sent something else.
const WHAT_TO_SEND: &str = "send the bytes of a WAV, for example with \
    `curl -H 'Content-Type: audio/wav' --data-binary @FILE.wav`, or raw samples as application/octet-stream";

/// A request whose body is a recording.
pub struct Upload {
    /// When its head was here.
    pub since: Instant,
    /// Its name.
    pub request_id: String,
    /// Who sent it.
    pub principal: Arc<Principal>,
    /// How the answer is written.
    pub manners: Manners,
    /// Whether the client speaks HTTP/1.0, which has no chunks.
    pub http_1_0: bool,
    /// Takes the framing off its body.
    pub decoder: BodyDecoder,
    /// How far the body has come.
    pub body: Body,
    /// What its bytes are.
    pub source: Source,
}

/// How far a body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// More is to come.
    Coming,
    /// All of it is here.
    Whole,
    /// Its framing broke, or its connection was half closed before its end: what follows cannot be trusted.
    Broken,
}

/// What the bytes of a body are.
pub enum Source {
    /// That is not known yet.
    Opening(Box<Opening>),
    /// Audio of this stream, whose results go into this answer.
    Stream(SessionId, Box<Answer>),
}

/// What a request asks for.
pub struct Wish {
    /// The stream that it wants, as far as the body does not say.
    pub params: StreamParams,
    /// Whether the processed audio is wanted, not what the model found.
    pub audio: bool,
    /// Whether the body is said to be a WAV.
    wav: bool,
    /// A parameter that only raw samples need.
    raw_param: Option<&'static str>,
}

impl Wish {
    /// What a request with this head asks for, on top of `defaults`.
    ///
    /// # Errors
    /// Names the parameter or header field that is at fault.
    pub fn parse(head: &RequestHead, defaults: StreamParams) -> Result<Wish, Fault> {
        let wav = check_content(head)?;
        let mut pairs = head.query.clone();
        if let Some((name, _)) = pairs.iter().find(|(name, _)| !NAMES.contains(&name.as_str())) {
            let shown: String = name.chars().take(48).collect();
            let message = format!("parameter {shown:?} is not known, accepted: {}", NAMES.join(", "));
            return Err(Fault::new(Reason::InvalidValue, message).at(shown));
        }
        let audio = output(&mut pairs)?.unwrap_or_else(|| accepts_audio(head));
        let given = |name: &&'static str| pairs.iter().any(|(given, _)| given == *name);
        let raw_param = SAID_BY_WAV.into_iter().find(|name| given(name));
        let wish = Wish { params: StreamParams::parse(&pairs, defaults)?, audio, wav, raw_param };
        if wav {
            wish.check_no_raw_param()?;
        }
        Ok(wish)
    }

    /// A WAV says itself what these parameters say: one of the two would be ignored.
    fn check_no_raw_param(&self) -> Result<(), Fault> {
        let Some(name) = self.raw_param else { return Ok(()) };
        let message = format!("the body is a WAV, which says its {name} itself; leave the parameter out");
        Err(Fault::new(Reason::InvalidValue, message).at(name))
    }
}

/// Takes the parameter `output` out; whether it asks for audio.
fn output(pairs: &mut Vec<(String, String)>) -> Result<Option<bool>, Fault> {
    let mut values = pairs.extract_if(.., |(name, _)| name == "output").map(|(_, value)| value);
    let (first, second) = (values.next(), values.next());
    drop(values);
    match first.as_deref() {
        None => Ok(None),
        Some("json") if second.is_none() => Ok(Some(false)),
        Some("audio") if second.is_none() => Ok(Some(true)),
        _ => {
            let message = "output is given twice or is neither json nor audio";
            Err(Fault::new(Reason::InvalidValue, message).at("output"))
        }
    }
}

/// Whether the client would rather have audio: it names some before it names JSON.
fn accepts_audio(head: &RequestHead) -> bool {
    let kinds = head.header_list("accept").map(|kind| kind.split(';').next().unwrap_or_default().trim());
    let mut kinds = kinds.map(str::to_ascii_lowercase);
    kinds
        .find(|kind| kind.starts_with("audio/") || kind == "application/json")
        .is_some_and(|kind| kind != "application/json")
}

/// Whether the body is said to be a WAV; kinds that are certainly no samples are refused.
fn check_content(head: &RequestHead) -> Result<bool, Fault> {
    let unsupported = |message: String, field: &str| Fault::new(Reason::UnsupportedData, message).at(field);
    if let Some(coding) =
        head.header("content-encoding").filter(|coding| !coding.eq_ignore_ascii_case("identity"))
    {
        let shown: String = coding.chars().take(48).collect();
        let message =
            format!("a body in Content-Encoding {shown:?} is not taken here: audio does not compress");
        return Err(unsupported(message, "content-encoding"));
    }
    let kind = head.header("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "audio/wav" | "audio/x-wav" | "audio/wave" | "audio/vnd.wave" => Ok(true),
        "" | "application/octet-stream" | "audio/pcm" | "audio/x-pcm" | "audio/raw" | "audio/x-raw" => {
            Ok(false)
        }
        _ => {
            let shown: String = kind.chars().take(48).collect();
            Err(unsupported(format!("a body of {shown:?} is not taken here; {WHAT_TO_SEND}"), "content-type"))
        }
    }
}

/// The body's first bytes, until it is known what they are.
pub struct Opening {
    wish: Wish,
    /// Bytes of the whole body, if that is known.
    body_bytes: Option<u64>,
    /// Bytes of it that have come.
    seen: u64,
    /// The first four, as far as they are here.
    first: Vec<u8>,
    heads: Option<HeadReader>,
}

/// What the body turned out to be.
pub struct Opened {
    /// The stream that it makes.
    pub params: StreamParams,
    /// Turns the bytes that follow into samples.
    pub decoder: Decoder,
    /// Whether the processed audio is wanted.
    pub audio: bool,
    /// Whether samples are floats, in the answer too.
    pub float: bool,
    /// How many samples of each channel will come, if that is known.
    pub samples: Option<u64>,
    /// Bytes taken off the body that are samples.
    pub first: Vec<u8>,
}

impl Opening {
    /// The beginning of a body.
    pub fn new(wish: Wish, framing: &BodyFraming) -> Self {
        let body_bytes = match framing {
            BodyFraming::Length(length) => Some(*length),
            BodyFraming::None | BodyFraming::Chunked => None,
        };
        let heads = wish.wav.then(HeadReader::default);
        Self { wish, body_bytes, seen: 0, first: Vec::new(), heads }
    }

    /// Takes bytes off the front; gives what they are once it is known. What is then left are samples.
    ///
    /// # Errors
    /// A WAV that is broken or of a kind that is not served.
    pub fn read(&mut self, bytes: &mut &[u8]) -> Result<Option<Opened>, Fault> {
        let before = bytes.len();
        if self.heads.is_none() {
            let (taken, rest) = bytes.split_at(bytes.len().min(4 - self.first.len()));
            self.first.extend_from_slice(taken);
            *bytes = rest;
            self.seen += taken.len() as u64;
            let Ok(first) = <[u8; 4]>::try_from(&self.first[..]) else { return Ok(None) };
            if !wav::is_wav(first) {
                check_raw(first)?;
                return Ok(Some(self.raw()));
            }
            self.wish.check_no_raw_param()?;
            self.heads.insert(HeadReader::default()).read(&mut &first[..])?;
            return self.read(bytes);
        }
        let found =
            self.heads.as_mut().map(|heads| heads.read(bytes)).transpose().map_err(of_a_wav)?.flatten();
        self.seen += (before - bytes.len()) as u64;
        let Some(head) = found else { return Ok(None) };
        let decoder = head.mixed()?;
        let left = self.body_bytes.map(|bytes| bytes.saturating_sub(self.seen));
        let audio_bytes = [left, head.audio_bytes].into_iter().flatten().min();
        let encoding = match head.layout {
            Layout::Native(encoding) => encoding,
            layout if layout.is_float() => Encoding::F32le,
            _ => Encoding::Linear16,
        };
        let params = StreamParams {
            encoding,
            channels: head.channels,
            sample_rate_hz: head.sample_rate_hz,
            ..self.wish.params.clone()
        };
        Ok(Some(Opened {
            params,
            decoder,
            audio: self.wish.audio,
            float: head.layout.is_float(),
            samples: audio_bytes.map(|bytes| bytes / head.frame_bytes() as u64),
            first: Vec::new(),
        }))
    }

    /// The body is whole and too short for a head: raw samples, or a WAV without any.
    ///
    /// # Errors
    /// There is nothing in it, or not even a whole head.
    pub fn finish(&mut self) -> Result<Opened, Fault> {
        if self.heads.is_some() {
            return Err(of_a_wav(HeadReader::cut_off()));
        }
        if self.first.is_empty() {
            return Err(Fault::new(Reason::InvalidAudio, format!("the body is empty; {WHAT_TO_SEND}")));
        }
        Ok(self.raw())
    }

    fn raw(&mut self) -> Opened {
        let params = self.wish.params.clone();
        let frame_bytes = params.encoding.sample_bytes() * usize::from(params.channels);
        Opened {
            decoder: Decoder::new(Layout::Native(params.encoding), params.channels, None),
            audio: self.wish.audio,
            float: params.encoding == Encoding::F32le,
            samples: self.body_bytes.map(|bytes| bytes / frame_bytes as u64),
            first: std::mem::take(&mut self.first),
            params,
        }
    }

    /// Heap bytes held.
    pub fn held_bytes(&self) -> usize {
        self.first.capacity() + self.heads.as_ref().map_or(0, HeadReader::held_bytes)
    }
}

/// Compressed audio that is sent as raw samples would be noise to the model.
fn check_raw(first: [u8; 4]) -> Result<(), Fault> {
    let kind = match &first {
        b"OggS" => "Ogg",
        b"fLaC" => "FLAC",
        [b'I', b'D', b'3', _] => "MP3",
        _ => return Ok(()),
    };
    let message = format!(
        "the body is {kind}, which is not decoded; convert it, for example with `ffmpeg -i INPUT OUTPUT.wav`"
    );
    Err(Fault::new(Reason::InvalidAudioFormat, message))
}

/// The reader says what "it" does: here it is the body.
fn of_a_wav(fault: Fault) -> Fault {
    Fault { message: format!("the body is no WAV that can be read: {}", fault.message), ..fault }
}

/// The answer to an upload, from its first result to its end.
pub struct Answer {
    kind: Kind,
    /// Encoded and not yet written.
    pending: Vec<u8>,
    begun: Option<Begun>,
    /// The client has been told of a fault that ends the stream, or is to be told by the status alone.
    pub told: bool,
}

enum Kind {
    Json { items: u64 },
    Audio { float: bool, sample_rate_hz: u32, samples: Option<u64> },
}

struct Begun {
    length: BodyLength,
    /// Bytes that the head promised and that have not been written.
    owed: u64,
    packer: Option<Packer>,
}

impl Answer {
    /// An answer of what the model finds.
    pub fn json(model: &str, version: u32, request_id: &str) -> Self {
        let (model, request_id) = (json!(model), json!(request_id));
        let said = format!(r#"{{"model":{model},"version":{version},"request_id":{request_id},"results":["#);
        let pending = said.into_bytes();
        Self { kind: Kind::Json { items: 0 }, pending, begun: None, told: false }
    }

    /// An answer of the audio that the model gives back.
    pub fn audio(float: bool, sample_rate_hz: u32, samples: Option<u64>) -> Self {
        let kind = Kind::Audio { float, sample_rate_hz, samples };
        Self { kind, pending: Vec::new(), begun: None, told: false }
    }

    /// Whether its head has been written.
    pub fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// Whether it is audio.
    pub fn is_audio(&self) -> bool {
        matches!(self.kind, Kind::Audio { .. })
    }

    /// Its `Content-Type`.
    pub fn content_type(&self) -> &'static str {
        if self.is_audio() { "audio/wav" } else { "application/json" }
    }

    /// Heap bytes held until they are written.
    pub fn held_bytes(&self) -> usize {
        self.pending.capacity()
    }

    /// Whether it keeps the memory of a packer.
    pub fn packs(&self) -> bool {
        self.begun.as_ref().is_some_and(|begun| begun.packer.is_some())
    }

    /// Adds a message. An answer of audio has no place for one.
    pub fn push_message(&mut self, message: &ServerMessage) {
        let Kind::Json { items } = &mut self.kind else { return };
        // A message a line: people look at it, and `grep` too.
        self.pending.extend_from_slice(if *items == 0 { b"\n" } else { b",\n" });
        *items += 1;
        message.encode(&mut self.pending);
    }

    /// Adds audio.
    pub fn push_audio(&mut self, audio: &[f32]) {
        if let Kind::Audio { float, .. } = self.kind {
            pcm::encode(if float { Encoding::F32le } else { Encoding::Linear16 }, audio, &mut self.pending);
        }
    }

    /// Adds the balance. Nothing can follow it.
    pub fn push_termination(&mut self, termination: &ServerMessage) {
        if !self.is_audio() {
            self.pending.extend_from_slice(b"\n],\"termination\":");
            termination.encode(&mut self.pending);
            self.pending.extend_from_slice(b"}\n");
        }
    }

    /// Its head is written, with `packer` if it is to be compressed: gives how the client finds the end.
    pub fn begin(&mut self, http_1_0: bool, packer: Option<Packer>) -> BodyLength {
        let known = match self.kind {
            Kind::Json { .. } => None,
            Kind::Audio { float, samples, .. } => samples.and_then(|samples| wav_bytes(float, samples)),
        };
        let length = match known {
            Some(bytes) => BodyLength::Known(bytes),
            None if http_1_0 => BodyLength::UntilClose,
            None => BodyLength::Chunked,
        };
        if let Kind::Audio { samples, .. } = self.kind {
            self.put_wav_head(samples);
        }
        self.begun = Some(Begun { length, owed: known.unwrap_or(0), packer });
        length
    }

    fn put_wav_head(&mut self, samples: Option<u64>) {
        let Kind::Audio { float, sample_rate_hz, .. } = self.kind else { return };
        let mut head = Vec::with_capacity(wav::head_bytes(float) as usize + self.pending.len());
        wav::encode_head(&mut head, float, sample_rate_hz, samples);
        head.append(&mut self.pending);
        self.pending = head;
    }

    /// Writes what waits.
    pub fn write(&mut self, out: &mut Vec<u8>) {
        let Some(begun) = &mut self.begun else { return };
        let pending = std::mem::take(&mut self.pending);
        begun.write(&pending, out);
    }

    /// Writes what waits and the end. False if less came than its head promised.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> bool {
        self.write(out);
        let Some(begun) = &mut self.begun else { return false };
        if let Some(packer) = begun.packer.take() {
            let mut packed = Vec::new();
            packer.finish(&mut packed);
            begun.frame(&packed, out);
        }
        if begun.length == BodyLength::Chunked {
            encode_last_chunk(out);
        }
        begun.owed == 0
    }

    /// The whole body of an answer that is complete before its head was written.
    pub fn into_body(mut self) -> Vec<u8> {
        if let Kind::Audio { float, .. } = self.kind {
            let sample_bytes = if float { 4 } else { 2 };
            self.put_wav_head(Some(self.pending.len() as u64 / sample_bytes));
        }
        self.pending
    }
}

/// Bytes of a WAV of that many samples; `None` if there is no such number.
fn wav_bytes(float: bool, samples: u64) -> Option<u64> {
    samples.checked_mul(if float { 4 } else { 2 })?.checked_add(wav::head_bytes(float))
}

impl Begun {
    fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match &mut self.packer {
            None => self.frame(bytes, out),
            Some(packer) => {
                let mut packed = Vec::new();
                packer.push(bytes, &mut packed);
                self.frame(&packed, out);
            }
        }
    }

    fn frame(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match self.length {
            BodyLength::Chunked => encode_chunk(out, bytes),
            BodyLength::UntilClose => out.extend_from_slice(bytes),
            BodyLength::Known(_) => {
                debug_assert!(bytes.len() as u64 <= self.owed, "more audio came back than went in");
                let count = usize::try_from(self.owed).unwrap_or(usize::MAX).min(bytes.len());
                out.extend_from_slice(&bytes[..count]);
                self.owed -= count as u64;
            }
        }
    }
}
