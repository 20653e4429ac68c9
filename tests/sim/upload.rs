//! The client that uploads a recording: a WAV or raw samples, in one body or in chunks, whole or cut, and reads the
//! answer while it sends. What comes back is held against the same reference as a stream.

use crate::faults::Tally;
use crate::frames::Said;
use crate::hearing::Hearing;
use crate::models::POISON;
use crate::peer::{Actor, Io, Pace, Peer};
use crate::pipe::Micros;
use crate::reference::{self, Sent};
use crate::rng::Rng;
use crate::seed::{MS, SECOND};
use std::collections::VecDeque;
use suzu::reason::Reason;
use suzu::wire::http::{BodyDecoder, ResponseHead, parse_response_head};
use suzu::wire::message::{DiscardReason, Encoding, StreamParams};
use suzu::wire::{pcm, wav};

/// What a client does at the end of what it sends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// All of it, and then it waits.
    Whole,
    /// Another request behind it.
    Followed,
    /// It says that nothing more comes, in the middle.
    HalfClose,
    /// It is gone, in the middle.
    Reset,
    /// It says nothing more, in the middle.
    Silence,
    /// Something that is no chunk, in the middle.
    Broken,
}

pub struct Uploader {
    name: String,
    pieces: VecDeque<Vec<u8>>,
    pause: Micros,
    due: Option<Micros>,
    end: End,
    audio_wanted: bool,
    params: StreamParams,
    sent: Sent,
    held: Vec<u8>,
    answer: Option<(ResponseHead, Option<BodyDecoder>)>,
    body: Vec<u8>,
    whole: bool,
    followed: bool,
    over: bool,
}

/// A client of its own link, drawn apart from the others.
pub fn peer(rng: &mut Rng, at: Micros, tally: &mut Tally) -> Peer {
    let uploader = Uploader::new(rng, at, tally);
    let mut peer = Peer::new(Box::new(uploader), rng.fork(), at);
    peer.read_max = rng.pick(&[61, 1_460, 16 * 1024, 64 * 1024]);
    match rng.below(8) {
        0 => peer.pace = Pace::Slow { bytes: rng.range(200, 2_000) as usize, every: rng.range(MS, 100 * MS) },
        1 => {
            tally.fire("upload reset");
            peer.reset_at = Some(at + rng.range(0, SECOND));
        }
        2 => {
            tally.fire("upload never reads");
            peer.pace = Pace::Never;
            peer.reset_at = Some(at + rng.range(0, 60 * SECOND));
        }
        _ => {}
    }
    peer
}

impl Uploader {
    fn new(rng: &mut Rng, at: Micros, tally: &mut Tally) -> Self {
        let audio_wanted = rng.chance(40);
        let model = if audio_wanted { "denoise" } else { rng.pick(&["echo", "vad", "glass", "choir"]) };
        let is_wav = rng.chance(60);
        let mut params = StreamParams { model: model.to_owned(), ..StreamParams::default() };
        params.sample_rate_hz = rng.pick(&[8_000, 16_000, 16_000, 44_100]);
        params.encoding = rng.pick(&[Encoding::Linear16, Encoding::F32le]);
        if !is_wav {
            params.encoding = rng.pick(Encoding::ALL);
            params.channels = rng.pick(&[1, 2]);
        }
        let count = rng.pick(&[0, 1, 300, 5_000, 30_000]) as usize;
        let bytes = noise(rng, &params, count, tally);
        let end = match rng.below(10) {
            0 => End::HalfClose,
            1 => End::Reset,
            2 => End::Silence,
            3 => End::Broken,
            4 | 5 => End::Followed,
            _ => End::Whole,
        };
        let mut file = Vec::new();
        if is_wav {
            let known = rng.chance(50).then_some(count as u64);
            wav::encode_head(&mut file, params.encoding == Encoding::F32le, params.sample_rate_hz, known);
        }
        file.extend_from_slice(&bytes);
        let mut target = format!("/v1/models/{model}?output={}", if audio_wanted { "audio" } else { "json" });
        if !is_wav {
            let StreamParams { encoding, sample_rate_hz, channels, .. } = &params;
            target += &format!("&encoding={encoding}&sample_rate={sample_rate_hz}&channels={channels}");
        }
        let (head, pieces) = request(rng, &target, &file, end, tally);
        let pause = rng.pick(&[0, 0, MS, 20 * MS]);
        Self {
            name: target,
            pieces: std::iter::once(head).chain(pieces).collect(),
            pause,
            due: Some(at),
            end,
            audio_wanted,
            params,
            sent: Sent { bytes, gaps: Vec::new() },
            held: Vec::new(),
            answer: None,
            body: Vec::new(),
            whole: false,
            followed: false,
            over: false,
        }
    }

    fn send(&mut self, io: &mut Io<'_>) {
        self.due = None;
        while let Some(piece) = self.pieces.pop_front() {
            io.out.extend_from_slice(&piece);
            // A client does not pile up more than it can send.
            if self.pause > 0 || io.out.len() > 128 * 1024 {
                self.due = Some(io.now + self.pause.max(MS));
                return;
            }
        }
        match self.end {
            End::Whole | End::Silence | End::Broken => {}
            End::Followed => io.out.extend_from_slice(b"GET /v1/models HTTP/1.1\r\nHost: sim\r\n\r\n"),
            End::HalfClose => io.fin = true,
            End::Reset => {
                self.over = true;
                io.reset = true;
            }
        }
    }

    /// Takes what came apart; everything of the first answer into `body`.
    fn take(&mut self) -> Result<(), String> {
        while self.answer.is_none() {
            let parsed = parse_response_head(&self.held).map_err(|fault| fault.to_string())?;
            let Some((head, taken)) = parsed else { return Ok(()) };
            self.held.drain(..taken);
            let framing = head.body().map_err(|fault| fault.to_string())?;
            let framing = framing.ok_or("an answer to HTTP/1.1 without a length")?;
            let decoder = BodyDecoder::new(&framing, usize::MAX).map_err(|fault| fault.to_string())?;
            self.answer = Some((head, Some(decoder)));
        }
        let Some((_, decoder)) = &mut self.answer else { return Ok(()) };
        if let Some(body) = decoder {
            let mut rest = &self.held[..];
            self.whole = body.decode(&mut rest, &mut self.body).map_err(|fault| fault.to_string())?;
            self.held = rest.to_vec();
            if self.whole {
                *decoder = None;
            }
        }
        if self.whole && !self.held.is_empty() && !self.followed {
            let parsed = parse_response_head(&self.held).map_err(|fault| fault.to_string())?;
            self.followed = parsed.is_some_and(|(head, _)| head.status == 200 || head.status == 503);
        }
        Ok(())
    }

    fn goes_on(&self) -> bool {
        let Some((head, _)) = &self.answer else { return false };
        self.end == End::Followed && !head.header("connection").is_some_and(|value| value.contains("close"))
    }

    /// Whether the stream ended as it should, and what it heard is right.
    fn check_json(&self, tally: &mut Tally) -> Result<bool, String> {
        let text = String::from_utf8_lossy(&self.body);
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        let mut hearing = Hearing::default();
        hearing.deaf = true;
        let begin = serde_json::json!({
            "type": "Begin", "session_id": "", "request_id": "", "resumed": false, "resume_ttl_s": 0, "audio_seq": 0,
            "audio_ms": 0, "message_seq": 0, "credit_ms": 0, "keepalive": {"ping_s": 0, "audio_idle_s": 0},
            "limits": {"max_frame_bytes": 0, "max_session_s": 0}, "configuration": {
                "model": self.params.model, "encoding": "linear16", "sample_rate": 16_000, "channels": 1,
                "interim_results": false, "framing": "raw", "overflow": "block", "ack_interval_ms": 1_000 }
        });
        let results = json["results"].as_array().ok_or("no results")?;
        for message in std::iter::once(&begin).chain(results).chain([&json["termination"]]) {
            hearing.hear(Said::Text(message.to_string()), &self.params, tally)?;
        }
        hearing.check_end(self.params.sample_rate_hz)?;
        let end = hearing.termination.as_ref().ok_or("no Termination")?;
        if end.reason == "finished" {
            tally.fire("upload finished");
            let all = self.sent.samples(&self.params).len() as u64;
            if end.ledger.received != all || !matches!(self.end, End::Whole | End::Followed) {
                return Err(format!("{all} samples sent, {:?} of them received", end.ledger));
            }
        } else if !hearing.errors.iter().any(|error| error.fatal) {
            return Err(format!("it ended by {} and no Error says so", end.reason));
        }
        let forced = hearing.discarded.iter().any(|(.., why)| *why == DiscardReason::Drain)
            || ["buffer_overflow", "blocked_too_long", "inference_failed"].contains(&end.reason.as_ref());
        let heard = reference::check(&hearing, &self.sent, &self.params, !forced);
        // A drain whose time is up ends a stream between its last sample and its last window.
        if ["draining", "overloaded"].contains(&end.reason.as_ref()) && heard.is_err() {
            reference::check(&hearing, &self.sent, &self.params, false)?;
        } else {
            heard?;
        }
        Ok(end.reason == "finished")
    }

    fn check_audio(&self, tally: &mut Tally) -> Result<(), String> {
        let mut rest = &self.body[..];
        let head = wav::HeadReader::default().read(&mut rest).map_err(|fault| fault.to_string())?;
        let Some(head) = head else {
            return if self.whole { Err("not even the head of a WAV".into()) } else { Ok(()) };
        };
        if head.sample_rate_hz != self.params.sample_rate_hz || head.channels != 1 {
            return Err(format!("it comes back as {head:?}"));
        }
        let encoding = match self.params.encoding {
            Encoding::F32le => Encoding::F32le,
            _ => Encoding::Linear16,
        };
        let mut wanted = Vec::new();
        pcm::encode(encoding, &reference::audio(&self.sent, &self.params)?, &mut wanted);
        if self.whole {
            tally.fire("upload came back whole");
            let said = head.audio_bytes.is_none_or(|bytes| bytes == wanted.len() as u64);
            let right = rest == wanted && said && matches!(self.end, End::Whole | End::Followed);
            return if right {
                Ok(())
            } else {
                Err(format!("{} bytes, {} belong", rest.len(), wanted.len()))
            };
        }
        // Where it was cut, silence stands for what would have come: the model looks that far ahead.
        let ahead = self.params.sample_rate_hz as usize / 5 * encoding.sample_bytes();
        let right = wanted.starts_with(&rest[..rest.len().saturating_sub(ahead)]);
        if right { Ok(()) } else { Err(format!("{} bytes of other audio", rest.len())) }
    }
}

/// The head of the request and its body in pieces, cut as the end wants it.
fn request(rng: &mut Rng, target: &str, file: &[u8], end: End, tally: &mut Tally) -> (Vec<u8>, Vec<Vec<u8>>) {
    let chunked = rng.chance(50) || end == End::Broken;
    let size = rng.pick(&[200, 3_000, 40_000]);
    let cut = match end {
        End::Whole | End::Followed => file.len(),
        _ => {
            tally.fire("upload cut");
            rng.below(file.len() as u64 + 1) as usize
        }
    };
    let framing = match chunked {
        true => "Transfer-Encoding: chunked".to_owned(),
        // What was cut was to be longer.
        false => format!(
            "Content-Length: {}",
            file.len() + usize::from(cut == file.len() && end != End::Whole && end != End::Followed)
        ),
    };
    let head = format!("POST {target} HTTP/1.1\r\nHost: sim\r\n{framing}\r\n\r\n").into_bytes();
    let mut pieces = Vec::new();
    for piece in file[..cut].chunks(size) {
        match chunked {
            true => pieces.push([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()),
            false => pieces.push(piece.to_vec()),
        }
    }
    match end {
        End::Whole | End::Followed if chunked => pieces.push(b"0\r\n\r\n".to_vec()),
        End::Broken => pieces.push(b"no chunk\r\n".to_vec()),
        _ => {}
    }
    (head, pieces)
}

fn noise(rng: &mut Rng, params: &StreamParams, frames: usize, tally: &mut Tally) -> Vec<u8> {
    let level = rng.pick(&[0.02, 0.3, 1.0]);
    let count = frames * usize::from(params.channels);
    let values: Vec<f32> = (0..count).map(|_| level * (rng.below(65_536) as f32 / 32_768.0 - 1.0)).collect();
    let mut bytes = Vec::new();
    pcm::encode(params.encoding, &values, &mut bytes);
    let breakable = params.model == "glass" && params.encoding == Encoding::Linear16 && params.channels == 1;
    if breakable && count > 0 && rng.chance(40) {
        tally.fire("upload poisoned");
        let at = rng.below(count as u64) as usize * 2;
        bytes[at..at + 2].copy_from_slice(&POISON.to_le_bytes());
    }
    bytes
}

impl Actor for Uploader {
    fn act(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        self.held.extend_from_slice(io.input);
        self.take()?;
        if io.ended || self.whole && (!self.goes_on() || self.followed) {
            self.over = true;
        } else if self.due.is_some_and(|due| due <= io.now) {
            self.send(io);
        }
        Ok(())
    }

    fn due(&self) -> Option<Micros> {
        self.due.filter(|_| !self.over)
    }

    fn done(&self) -> bool {
        self.over
    }

    fn verdict(&mut self, cut: bool, tally: &mut Tally) -> Result<(), String> {
        let Some((head, _)) = &self.answer else {
            let gone = cut || matches!(self.end, End::HalfClose | End::Reset | End::Silence);
            return if gone { Ok(()) } else { Err("no answer to the upload".into()) };
        };
        if head.status != 200 {
            if !self.whole {
                return if cut { Ok(()) } else { Err("half a refusal".into()) };
            }
            let body: serde_json::Value =
                serde_json::from_slice(&self.body).map_err(|error| error.to_string())?;
            let right = Reason::all()
                .any(|reason| reason.status() == head.status && body["error"]["code"] == reason.code());
            let ours = matches!(self.end, End::Whole | End::Followed) && !self.sent.bytes.is_empty();
            if !right || (head.status == 400 && ours) {
                return Err(format!("a strange refusal: {} {body}", head.status));
            }
            return Ok(());
        }
        let well = match (self.audio_wanted, self.whole) {
            (true, _) => self.check_audio(tally).map(|()| self.whole)?,
            (false, true) => self.check_json(tally)?,
            (false, false) if !cut => return Err("half an answer".into()),
            (false, false) => false,
        };
        // A fault in the middle of an answer ends the connection.
        if well && self.goes_on() && !self.followed && !cut {
            return Err("the request behind it was never answered".into());
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}
