//! WAV as it comes: the head in any pieces, then its samples; and the head of a WAV that is written.
//!
//! Reads forwards only and believes the head no further than it must: programs that write into a pipe do not know the
//! length yet and put 0, `0xFFFFFFFF` or some other huge number there, so then the audio ends where the bytes do. Chunks
//! that are not known are skipped without being held. Never reads or writes a file or a socket.
//!
//! Invariant: neither the head nor the samples depend on how the bytes were cut.

use crate::reason::{Fault, Reason};
use crate::wire::message::{CHANNELS, Encoding};
use crate::wire::pcm;

/// Declared lengths from here on mean "unknown". Writers into pipes use 0x7FFFF000 (sox), 0x80000000 (arecord) and
/// 0xFFFFFFFF (ffmpeg); a real file of 2 GiB is read to its end all the same.
const UNKNOWN_BYTES: u32 = 0x7FFF_0000;

/// Greatest `fmt ` chunk that makes sense, bytes; the standard's has 40.
const FORMAT_BYTES_MAX: usize = 1024;

/// `RIFF`, a length, `WAVE`.
const RIFF_BYTES: usize = 12;

/// A chunk's name and length.
const CHUNK_HEAD_BYTES: usize = 8;

/// Greatest frame that is mixed: 8 channels of 8 bytes.
const FRAME_BYTES_MAX: usize = 64;

/// How a sample stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Unsigned, 8 bits.
    Unsigned8,
    /// Signed, 24 bits in 3 bytes.
    Signed24,
    /// Signed, 32 bits, or fewer at the top of 32.
    Signed32,
    /// 64-bit float.
    Float64,
    /// One of those that the protocol has too.
    Native(Encoding),
}

impl Layout {
    /// Bytes of one sample.
    pub fn sample_bytes(self) -> usize {
        match self {
            Layout::Unsigned8 => 1,
            Layout::Signed24 => 3,
            Layout::Signed32 => 4,
            Layout::Float64 => 8,
            Layout::Native(encoding) => encoding.sample_bytes(),
        }
    }

    /// Whether samples are floats.
    pub fn is_float(self) -> bool {
        matches!(self, Layout::Float64 | Layout::Native(Encoding::F32le))
    }
}

/// What a WAV says before its first sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// How its samples stand in it.
    pub layout: Layout,
    /// Interleaved channels, at least 1.
    pub channels: u16,
    /// Samples a second of each channel, as it says: any number.
    pub sample_rate_hz: u32,
    /// Bytes of audio that follow, if it knows.
    pub audio_bytes: Option<u64>,
}

impl Head {
    /// Bytes of one sample of every channel.
    pub fn frame_bytes(&self) -> usize {
        self.layout.sample_bytes() * usize::from(self.channels)
    }

    /// Samples of each channel that follow, if the head knows.
    pub fn frames(&self) -> Option<u64> {
        self.audio_bytes.map(|bytes| bytes / self.frame_bytes() as u64)
    }

    /// A decoder of what follows, channels mixed to one.
    ///
    /// # Errors
    /// `InvalidAudioFormat` for more channels than are served.
    pub fn mixed(&self) -> Result<Decoder, Fault> {
        if !CHANNELS.contains(&self.channels) {
            let (channels, most) = (self.channels, CHANNELS.end());
            let message = format!("the WAV has {channels} channels; up to {most} are served");
            return Err(Fault::new(Reason::InvalidAudioFormat, message).at("channels"));
        }
        Ok(Decoder::new(self.layout, self.channels, self.audio_bytes))
    }

    /// A decoder of what follows that leaves the channels interleaved: as if they were one.
    pub fn interleaved(&self) -> Decoder {
        Decoder::new(self.layout, 1, self.audio_bytes)
    }
}

/// Finds the head of a WAV in bytes that come piece by piece. Holds a part of a chunk's head, or of the format; the rest
/// it skips.
#[derive(Debug, Default)]
pub struct HeadReader {
    stage: Stage,
    /// The piece that the stage looks at, as far as it has come.
    held: Vec<u8>,
    format: Option<(Layout, u16, u32)>,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    #[default]
    Riff,
    ChunkHead,
    Format {
        bytes: usize,
    },
    Skipped {
        left: u64,
    },
}

impl HeadReader {
    /// Takes what belongs to the head off the front of `bytes`; gives it once it is whole. What is then left in `bytes`
    /// is audio.
    ///
    /// # Errors
    /// `InvalidAudio` if this is no WAV or a damaged one, `InvalidAudioFormat` for samples that are not read. The
    /// message says what "it" is and does.
    pub fn read(&mut self, bytes: &mut &[u8]) -> Result<Option<Head>, Fault> {
        while !bytes.is_empty() {
            if let Stage::Skipped { left } = self.stage {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                *bytes = &bytes[count..];
                let left = left - count as u64;
                self.stage = if left == 0 { Stage::ChunkHead } else { Stage::Skipped { left } };
                continue;
            }
            let wanted = match self.stage {
                Stage::Riff => RIFF_BYTES,
                Stage::ChunkHead => CHUNK_HEAD_BYTES,
                Stage::Format { bytes } => bytes,
                Stage::Skipped { .. } => 0,
            };
            let count = (wanted - self.held.len()).min(bytes.len());
            let (taken, rest) = bytes.split_at(count);
            self.held.extend_from_slice(taken);
            *bytes = rest;
            if self.held.len() == wanted {
                let piece = std::mem::take(&mut self.held);
                if let Some(head) = self.on_piece(&piece)? {
                    return Ok(Some(head));
                }
            }
        }
        Ok(None)
    }

    /// Heap bytes held, at most about a kibibyte.
    pub fn held_bytes(&self) -> usize {
        self.held.capacity()
    }

    /// What to say if the bytes end before the head is whole.
    pub fn cut_off() -> Fault {
        invalid("it ends before its audio begins; is it a WAV?")
    }

    /// A whole piece of the head.
    fn on_piece(&mut self, piece: &[u8]) -> Result<Option<Head>, Fault> {
        match self.stage {
            Stage::Riff => {
                check_riff(piece)?;
                self.stage = Stage::ChunkHead;
                Ok(None)
            }
            Stage::Format { .. } => {
                self.format = Some(parse_format(piece)?);
                self.stage = Stage::ChunkHead;
                Ok(None)
            }
            Stage::ChunkHead | Stage::Skipped { .. } => self.on_chunk_head(piece),
        }
    }

    fn on_chunk_head(&mut self, piece: &[u8]) -> Result<Option<Head>, Fault> {
        let (name, length) = piece.split_at(4);
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
        // Chunks begin at even places.
        let padded = u64::from(length) + u64::from(length & 1);
        match (name, self.format) {
            (b"fmt ", _) if padded > FORMAT_BYTES_MAX as u64 => Err(invalid("its fmt chunk is damaged")),
            (b"fmt ", _) if padded == 0 => Err(invalid("its fmt chunk is too short")),
            (b"fmt ", _) => {
                self.stage = Stage::Format { bytes: padded as usize };
                Ok(None)
            }
            (b"data", None) => Err(invalid("its audio comes before its format")),
            (b"data", Some((layout, channels, sample_rate_hz))) => {
                let known = length != 0 && length < UNKNOWN_BYTES;
                let audio_bytes = known.then_some(u64::from(length));
                Ok(Some(Head { layout, channels, sample_rate_hz, audio_bytes }))
            }
            _ => {
                self.stage = if padded == 0 { Stage::ChunkHead } else { Stage::Skipped { left: padded } };
                Ok(None)
            }
        }
    }
}

/// Whether bytes may be a WAV, by their first four.
pub fn is_wav(first: [u8; 4]) -> bool {
    // RF64 is RIFF for more than 4 GiB; its length stands in a chunk that is skipped here.
    matches!(&first, b"RIFF" | b"RF64")
}

fn check_riff(piece: &[u8]) -> Result<(), Fault> {
    if is_wav([piece[0], piece[1], piece[2], piece[3]]) && &piece[8..] == b"WAVE" {
        return Ok(());
    }
    Err(invalid(
        "it is not a WAV (it does not begin with RIFF ... WAVE); convert it, for example with `ffmpeg -i INPUT OUTPUT.wav`",
    ))
}

fn parse_format(chunk: &[u8]) -> Result<(Layout, u16, u32), Fault> {
    let short = |at: usize| chunk.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let fields = (short(0), short(2), short(4), short(6), short(12), short(14));
    let (Some(mut tag), Some(channels), Some(rate_low), Some(rate_high), Some(frame_bytes), Some(bits)) =
        fields
    else {
        return Err(invalid("its fmt chunk is too short"));
    };
    if tag == 0xFFFE {
        // WAVE_FORMAT_EXTENSIBLE: the tag stands at the beginning of the subformat.
        tag = short(24).ok_or_else(|| invalid("its extensible fmt chunk is too short"))?;
    }
    if channels == 0 || frame_bytes % channels != 0 {
        return Err(invalid(format!("it says that it has {channels} channels in {frame_bytes} bytes")));
    }
    let layout = match (tag, frame_bytes / channels, bits) {
        (1, 1, 1..=8) => Layout::Unsigned8,
        (1, 2, 1..=16) => Layout::Native(Encoding::Linear16),
        (1, 3, 1..=24) => Layout::Signed24,
        (1, 4, 1..=32) => Layout::Signed32,
        (3, 4, 32) => Layout::Native(Encoding::F32le),
        (3, 8, 64) => Layout::Float64,
        (6, 1, 8) => Layout::Native(Encoding::Alaw),
        (7, 1, 8) => Layout::Native(Encoding::Mulaw),
        _ => {
            return Err(Fault::new(
                Reason::InvalidAudioFormat,
                format!(
                    "its samples (format {tag}, {bits} bits) are of a kind that is not read; convert it, for example \
                     with `ffmpeg -i INPUT -c:a pcm_s16le OUTPUT.wav`"
                ),
            ));
        }
    };
    Ok((layout, channels, u32::from(rate_low) | u32::from(rate_high) << 16))
}

fn invalid(message: impl Into<String>) -> Fault {
    Fault::new(Reason::InvalidAudio, message)
}

/// Turns samples of any layout into mono, piece by piece, as [`pcm::Decoder`] does with those of the protocol. Bytes
/// behind a known end are left out: other chunks may follow there.
#[derive(Clone, Debug)]
pub struct Decoder {
    source: Source,
    /// Bytes of audio still to come, if that is known.
    remaining: Option<u64>,
}

#[derive(Clone, Debug)]
enum Source {
    Native(pcm::Decoder),
    Other {
        layout: Layout,
        channels: usize,
        /// The first `carried` bytes of a frame that is not whole yet.
        carry: [u8; FRAME_BYTES_MAX],
        carried: usize,
    },
}

impl Decoder {
    /// A decoder at the beginning of samples of 1 to 8 channels, `audio_bytes` of them if that is known.
    pub fn new(layout: Layout, channels: u16, audio_bytes: Option<u64>) -> Self {
        let source = match layout {
            Layout::Native(encoding) => Source::Native(pcm::Decoder::new(encoding, channels)),
            layout => {
                assert!(CHANNELS.contains(&channels), "channel counts are checked before: {channels}");
                let channels = usize::from(channels);
                Source::Other { layout, channels, carry: [0; FRAME_BYTES_MAX], carried: 0 }
            }
        };
        Self { source, remaining: audio_bytes }
    }

    /// Bytes of a frame that is not whole yet; 0 at the end of proper audio.
    pub fn partial_bytes(&self) -> usize {
        match &self.source {
            Source::Native(decoder) => decoder.partial_bytes(),
            Source::Other { carried, .. } => *carried,
        }
    }

    /// Bytes of audio that are still to come, if their number is known.
    pub fn remaining(&self) -> Option<u64> {
        self.remaining
    }

    /// Appends one sample within -1..=1 for each whole frame and keeps the rest. Returns how many values were NaN or
    /// infinite: those count as silence.
    pub fn decode(&mut self, bytes: &[u8], out: &mut Vec<f32>) -> usize {
        let left = self.remaining.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        let bytes = &bytes[..bytes.len().min(left)];
        if let Some(remaining) = &mut self.remaining {
            *remaining -= bytes.len() as u64;
        }
        match &mut self.source {
            Source::Native(decoder) => decoder.decode(bytes, out),
            Source::Other { layout, channels, carry, carried } => {
                let frame_bytes = layout.sample_bytes() * *channels;
                let mut bytes = bytes;
                let mut non_finite = 0;
                if *carried > 0 {
                    let (first, rest) = bytes.split_at(bytes.len().min(frame_bytes - *carried));
                    carry[*carried..*carried + first.len()].copy_from_slice(first);
                    *carried += first.len();
                    bytes = rest;
                    if *carried < frame_bytes {
                        return 0;
                    }
                    non_finite += mix(*layout, *channels, &carry[..frame_bytes], out);
                }
                let (whole, part) = bytes.split_at(bytes.len() - bytes.len() % frame_bytes);
                non_finite += mix(*layout, *channels, whole, out);
                carry[..part.len()].copy_from_slice(part);
                *carried = part.len();
                non_finite
            }
        }
    }
}

/// Appends the mean of each frame's channels; whole frames only.
fn mix(layout: Layout, channels: usize, bytes: &[u8], out: &mut Vec<f32>) -> usize {
    let count = channels as f32;
    let mut non_finite = 0;
    out.extend(bytes.chunks_exact(layout.sample_bytes() * channels).map(|frame| {
        let samples = frame.chunks_exact(layout.sample_bytes()).map(|bytes| value(layout, bytes));
        let finite = samples.map(|value| {
            non_finite += usize::from(!value.is_finite());
            if value.is_finite() { value } else { 0.0 }
        });
        (finite.sum::<f32>() / count).clamp(-1.0, 1.0)
    }));
    non_finite
}

/// One sample of a layout that the protocol does not have. Not finite if what stands there is not.
fn value(layout: Layout, bytes: &[u8]) -> f32 {
    match (layout, bytes) {
        (Layout::Unsigned8, &[byte]) => (f32::from(byte) - 128.0) / 128.0,
        // Into the upper three bytes of 32 bits; what the float cannot hold of them is inaudible.
        (Layout::Signed24, &[a, b, c]) => i32::from_le_bytes([0, a, b, c]) as f32 / 2_147_483_648.0,
        (Layout::Signed32, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]) as f32 / 2_147_483_648.0,
        (Layout::Float64, &[a, b, c, d, e, f, g, h]) => {
            let value = f64::from_le_bytes([a, b, c, d, e, f, g, h]);
            // A finite one must not become an infinite one on its way to 32 bits; nor NaN a number.
            if value.is_finite() { value.clamp(-1.0, 1.0) as f32 } else { value as f32 }
        }
        _ => unreachable!("native layouts are decoded elsewhere, and samples have their layout's length"),
    }
}

/// The head of a mono WAV: 32-bit float if `float`, otherwise 16-bit. Without a number of samples, or with one that no
/// WAV can hold, its lengths say "unknown" (0xFFFFFFFF), as those of programs that write into a pipe.
pub fn encode_head(out: &mut Vec<u8>, float: bool, sample_rate_hz: u32, samples: Option<u64>) {
    let sample_bytes: u16 = if float { 4 } else { 2 };
    // Formats other than PCM have a longer fmt chunk and tell their length once more.
    let (tag, format_bytes, fact_bytes): (u16, u32, u32) = if float { (3, 18, 12) } else { (1, 16, 0) };
    let before_audio = 4 + 8 + format_bytes + fact_bytes + 8;
    let audio_bytes = samples
        .and_then(|samples| u32::try_from(samples.checked_mul(u64::from(sample_bytes))?).ok())
        .filter(|bytes| *bytes < UNKNOWN_BYTES);
    let riff_bytes = audio_bytes.map_or(u32::MAX, |bytes| bytes + before_audio);
    out.extend_from_slice(b"RIFF");
    out.extend_from_slice(&riff_bytes.to_le_bytes());
    out.extend_from_slice(b"WAVEfmt ");
    out.extend_from_slice(&format_bytes.to_le_bytes());
    out.extend_from_slice(&tag.to_le_bytes());
    out.extend_from_slice(&1u16.to_le_bytes());
    out.extend_from_slice(&sample_rate_hz.to_le_bytes());
    out.extend_from_slice(&(sample_rate_hz * u32::from(sample_bytes)).to_le_bytes());
    out.extend_from_slice(&sample_bytes.to_le_bytes());
    out.extend_from_slice(&(sample_bytes * 8).to_le_bytes());
    if float {
        out.extend_from_slice(b"\0\0fact\x04\0\0\0");
        let count = audio_bytes.map_or(u32::MAX, |bytes| bytes / u32::from(sample_bytes));
        out.extend_from_slice(&count.to_le_bytes());
    }
    out.extend_from_slice(b"data");
    out.extend_from_slice(&audio_bytes.unwrap_or(u32::MAX).to_le_bytes());
}

/// Bytes of what [`encode_head`] writes.
pub fn head_bytes(float: bool) -> u64 {
    if float { 58 } else { 44 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hound::{SampleFormat, WavSpec};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::io::Cursor;

    const LAYOUTS: [Layout; 8] = [
        Layout::Unsigned8,
        Layout::Signed24,
        Layout::Signed32,
        Layout::Float64,
        Layout::Native(Encoding::Linear16),
        Layout::Native(Encoding::F32le),
        Layout::Native(Encoding::Mulaw),
        Layout::Native(Encoding::Alaw),
    ];

    /// A WAV of any layout, with a chunk before and one behind its audio.
    fn file(layout: Layout, channels: u16, audio: &[u8], known: bool) -> Vec<u8> {
        let tag: u16 = match layout {
            Layout::Float64 | Layout::Native(Encoding::F32le) => 3,
            Layout::Native(Encoding::Alaw) => 6,
            Layout::Native(Encoding::Mulaw) => 7,
            _ => 1,
        };
        let sample_bytes = layout.sample_bytes() as u16;
        let mut file = b"RIFF\xff\xff\xff\xffWAVELIST\x03\0\0\0abc\0fmt \x10\0\0\0".to_vec();
        for field in [tag, channels, 16_000, 0, 0, 0, sample_bytes * channels, sample_bytes * 8] {
            file.extend(field.to_le_bytes());
        }
        file.extend(b"data");
        file.extend(if known { audio.len() as u32 } else { u32::MAX }.to_le_bytes());
        file.extend(audio);
        if known {
            file.extend(b"LIST\x04\0\0\0abcd");
        }
        file
    }

    type Read = (Head, Vec<f32>, usize, usize);

    /// Head, samples, values that were none, and bytes left over, read in pieces of the given lengths (over and over).
    fn read(file: &[u8], lengths: &[usize]) -> Result<Option<Read>, Fault> {
        let (mut heads, mut read) = (HeadReader::default(), None::<(Head, Decoder)>);
        let (mut samples, mut odd, mut at) = (Vec::new(), 0, 0);
        for length in lengths.iter().cycle() {
            let end = (at + length).min(file.len());
            let mut piece = &file[at..end];
            if read.is_none()
                && let Some(head) = heads.read(&mut piece)?
            {
                read = Some((head, head.mixed()?));
            }
            if let Some((_, decoder)) = &mut read {
                odd += decoder.decode(piece, &mut samples);
            }
            assert!(heads.held.len() <= FORMAT_BYTES_MAX);
            at = end;
            if at == file.len() {
                break;
            }
        }
        Ok(read.map(|(head, decoder)| (head, samples, odd, decoder.partial_bytes())))
    }

    #[test]
    fn other_layouts_are_mixed_as_those_of_the_protocol() {
        let halves: Vec<u8> = [0.5f32, -1.0, 0.25, 0.75].iter().flat_map(|v| v.to_le_bytes()).collect();
        let doubles: Vec<u8> = [0.5f64, -1.0, 0.25, 0.75].iter().flat_map(|v| v.to_le_bytes()).collect();
        let wanted = vec![-0.25, 0.5];
        for (layout, bytes) in [(Layout::Native(Encoding::F32le), halves), (Layout::Float64, doubles)] {
            let (head, samples, ..) = read(&file(layout, 2, &bytes, true), &[5]).unwrap().expect("a head");
            assert_eq!((head.frames(), &samples), (Some(2), &wanted), "{layout:?}");
        }
        let bytes = [192, 0, 160, 224];
        let (_, samples, ..) =
            read(&file(Layout::Unsigned8, 2, &bytes, false), &[1]).unwrap().expect("a head");
        assert_eq!(samples, wanted);
    }

    #[test]
    fn doubles_that_are_no_numbers_are_silence_and_counted() {
        let values = [f64::NAN, 1e300, f64::NEG_INFINITY, -0.5];
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let read = read(&file(Layout::Float64, 1, &bytes, true), &[3]).unwrap().expect("a head");
        assert_eq!((read.1, read.2), (vec![0.0, 1.0, 0.0, -0.5], 2));
    }

    #[test]
    fn more_channels_than_are_served_are_refused_where_they_are_mixed() {
        let file = file(Layout::Signed24, 9, &[0; 54], true);
        let fault = read(&file, &[100]).expect_err("nine channels");
        assert_eq!((fault.reason, fault.param.as_deref()), (Reason::InvalidAudioFormat, Some("channels")));
    }

    #[test]
    fn a_format_that_is_empty_or_huge_is_a_fault() {
        for length in [0u32, 1025, u32::MAX] {
            let file = [b"RIFF\0\0\0\0WAVEfmt ".as_slice(), &length.to_le_bytes(), &[0; 32]].concat();
            assert_eq!(read(&file, &[7]).expect_err("no format").reason, Reason::InvalidAudio, "{length}");
        }
    }

    #[test]
    fn a_head_that_is_written_is_the_one_that_others_write() {
        let spec = WavSpec {
            channels: 1,
            sample_rate: 8_000,
            bits_per_sample: 16,
            sample_format: SampleFormat::Int,
        };
        let mut hounds = Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut hounds, spec).expect("a header");
        writer.write_sample(7i16).expect("a sample");
        writer.finalize().expect("the end");
        let mut ours = Vec::new();
        encode_head(&mut ours, false, 8_000, Some(1));
        assert_eq!(ours, hounds.into_inner()[..44]);
    }

    #[test]
    fn both_kinds_of_heads_are_read_again() {
        for (float, samples) in [(false, Some(3)), (true, Some(3)), (false, None), (true, Some(1 << 40))] {
            let mut file = Vec::new();
            encode_head(&mut file, float, 48_000, samples);
            assert_eq!(file.len() as u64, head_bytes(float));
            let known = samples.filter(|samples| *samples < 1 << 30);
            let head = HeadReader::default().read(&mut &file[..]).unwrap().expect("a head");
            assert_eq!((head.frames(), head.layout.is_float(), head.sample_rate_hz), (known, float, 48_000));
            file.extend([0; 12]);
            if known.is_some() {
                let reader = hound::WavReader::new(Cursor::new(file)).expect("hound reads it");
                assert_eq!(u64::from(reader.duration()), 3);
            }
        }
    }

    proptest! {
        #[test]
        fn cutting_changes_nothing(
            layout in prop::sample::select(LAYOUTS.to_vec()),
            channels in 1..=8u16,
            audio in vec(any::<u8>(), 1..300),
            known in any::<bool>(),
            lengths in vec(1..90usize, 1..12),
        ) {
            let file = file(layout, channels, &audio, known);
            let whole = read(&file, &[file.len()]).expect("a WAV").expect("a head");
            let pieces = read(&file, &lengths).expect("a WAV").expect("a head");
            prop_assert_eq!(&whole, &pieces);
            let (head, samples, _, partial) = whole;
            prop_assert_eq!(head.layout, layout);
            prop_assert_eq!(samples.len() * head.frame_bytes() + partial, audio.len());
            prop_assert!(samples.iter().all(|sample| (-1.0..=1.0).contains(sample)));
        }

        #[test]
        fn no_bytes_make_it_panic(
            bytes in vec(any::<u8>(), 0..200),
            at in 0..80usize,
            channels in 0..10u16,
            lengths in vec(1..90usize, 1..5),
        ) {
            let mut file = file(Layout::Signed24, channels, &[7; 30], true);
            for (place, byte) in file[at.min(80)..].iter_mut().zip(&bytes) {
                *place = *byte;
            }
            for bytes in [&bytes, &file] {
                if let Ok(Some((_, samples, ..))) = read(bytes, &lengths) {
                    prop_assert!(samples.iter().all(|sample| (-1.0..=1.0).contains(sample)));
                }
            }
        }
    }
}
