//! WAV in, from a file or a pipe; WAV out, to a file.
//!
//! Reads forwards only and believes the header no further than it must: programs that write into a pipe do not know the
//! length yet and put 0, `0xFFFFFFFF` or some other huge number there, so then the audio ends where the pipe does.

use crate::wire::message::Encoding;
use crate::wire::pcm;
use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::path::Path;

/// Declared lengths from here on mean "unknown". Writers into pipes use 0x7FFFF000 (sox), 0x80000000 (arecord) and
/// 0xFFFFFFFF (ffmpeg); a real file of 2 GiB is read to its end all the same.
const UNKNOWN_BYTES: u32 = 0x7FFF_0000;

/// Greatest `fmt ` chunk that makes sense, bytes; the standard's has 40.
const FORMAT_BYTES_MAX: u32 = 1024;

/// How a sample stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
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
    fn bytes(self) -> usize {
        match self {
            Layout::Unsigned8 => 1,
            Layout::Signed24 => 3,
            Layout::Signed32 => 4,
            Layout::Float64 => 8,
            Layout::Native(encoding) => encoding.sample_bytes(),
        }
    }
}

/// A WAV that is being read.
pub(super) struct WavReader<R> {
    reader: R,
    layout: Layout,
    channels: u16,
    sample_rate_hz: u32,
    /// Bytes of audio still to come, as far as the header knows.
    remaining: Option<u64>,
    buffer: Vec<u8>,
}

impl<R: Read> WavReader<R> {
    /// Reads up to the first sample. The error is a sentence for people.
    pub(super) fn new(mut reader: R) -> Result<Self, String> {
        let mut riff = [0; 12];
        read_exact(&mut reader, &mut riff)?;
        // RF64 is RIFF for more than 4 GiB; its length stands in a chunk that is skipped here.
        if !matches!(&riff[..4], b"RIFF" | b"RF64") || &riff[8..] != b"WAVE" {
            return Err(
                "it is not a WAV (it does not begin with RIFF ... WAVE); convert it, for example with \
                        `ffmpeg -i INPUT OUTPUT.wav`"
                    .into(),
            );
        }
        let mut format = None;
        loop {
            let mut header = [0; 8];
            read_exact(&mut reader, &mut header)?;
            let [name @ .., l0, l1, l2, l3] = header;
            let length = u32::from_le_bytes([l0, l1, l2, l3]);
            match (&name, format) {
                (b"fmt ", _) if length > FORMAT_BYTES_MAX => return Err("its fmt chunk is damaged".into()),
                (b"fmt ", _) => {
                    let mut chunk = vec![0; padded(length) as usize];
                    read_exact(&mut reader, &mut chunk)?;
                    format = Some(parse_format(&chunk)?);
                }
                (b"data", None) => return Err("its audio comes before its format".into()),
                (b"data", Some((layout, channels, sample_rate_hz))) => {
                    let known = length != 0 && length < UNKNOWN_BYTES;
                    let remaining = known.then_some(u64::from(length));
                    return Ok(Self {
                        reader,
                        layout,
                        channels,
                        sample_rate_hz,
                        remaining,
                        buffer: Vec::new(),
                    });
                }
                _ => {
                    let skipped = io::copy(&mut (&mut reader).take(padded(length)), &mut io::sink());
                    skipped.map_err(|error| format!("it cannot be read: {error}"))?;
                }
            }
        }
    }

    /// Samples a second of each channel.
    pub(super) fn sample_rate_hz(&self) -> u32 {
        self.sample_rate_hz
    }

    /// Interleaved channels, at least 1.
    pub(super) fn channels(&self) -> u16 {
        self.channels
    }

    /// Samples of each channel still to come, if the header knows.
    pub(super) fn frames(&self) -> Option<u64> {
        self.remaining.map(|bytes| bytes / self.frame_bytes() as u64)
    }

    fn frame_bytes(&self) -> usize {
        self.layout.bytes() * usize::from(self.channels)
    }

    /// Appends up to `frames` samples of each channel, interleaved, within -1..=1. Fewer only at the end. A part of a
    /// frame at the very end is dropped.
    pub(super) fn read(&mut self, frames: usize, out: &mut Vec<f32>) -> io::Result<usize> {
        let frame_bytes = self.frame_bytes();
        let wanted = (frames as u64 * frame_bytes as u64).min(self.remaining.unwrap_or(u64::MAX));
        self.buffer.clear();
        let count = (&mut self.reader).take(wanted).read_to_end(&mut self.buffer)?;
        if let Some(remaining) = &mut self.remaining {
            // A file that was cut ends where it ends.
            *remaining = if (count as u64) < wanted { 0 } else { *remaining - wanted };
        }
        let frames = count / frame_bytes;
        convert(self.layout, &self.buffer[..frames * frame_bytes], out);
        Ok(frames)
    }
}

/// Chunks begin at even places.
fn padded(length: u32) -> u64 {
    u64::from(length) + u64::from(length & 1)
}

fn read_exact(reader: &mut impl Read, bytes: &mut [u8]) -> Result<(), String> {
    reader.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => "it ends before its audio begins; is it a WAV?".into(),
        _ => format!("it cannot be read: {error}"),
    })
}

fn parse_format(chunk: &[u8]) -> Result<(Layout, u16, u32), String> {
    let short = |at: usize| chunk.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let fields = (short(0), short(2), short(4), short(6), short(12), short(14));
    let (Some(mut tag), Some(channels), Some(rate_low), Some(rate_high), Some(frame_bytes), Some(bits)) =
        fields
    else {
        return Err("its fmt chunk is too short".into());
    };
    if tag == 0xFFFE {
        // WAVE_FORMAT_EXTENSIBLE: the tag stands at the beginning of the subformat.
        tag = short(24).ok_or("its extensible fmt chunk is too short")?;
    }
    if channels == 0 || frame_bytes % channels != 0 {
        return Err(format!("it says that it has {channels} channels in {frame_bytes} bytes"));
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
            return Err(format!(
                "its samples (format {tag}, {bits} bits) are of a kind that is not read; convert it, for example with \
                 `ffmpeg -i INPUT -c:a pcm_s16le OUTPUT.wav`"
            ));
        }
    };
    Ok((layout, channels, u32::from(rate_low) | u32::from(rate_high) << 16))
}

fn convert(layout: Layout, bytes: &[u8], out: &mut Vec<f32>) {
    match layout {
        Layout::Unsigned8 => out.extend(bytes.iter().map(|&byte| (f32::from(byte) - 128.0) / 128.0)),
        Layout::Signed24 => {
            // Into the upper three bytes of 32 bits; what the float cannot hold of them is inaudible.
            let samples = bytes.as_chunks::<3>().0.iter();
            out.extend(samples.map(|&[a, b, c]| i32::from_le_bytes([0, a, b, c]) as f32 / 2_147_483_648.0));
        }
        Layout::Signed32 => {
            let samples = bytes.as_chunks::<4>().0.iter();
            out.extend(samples.map(|&bytes| i32::from_le_bytes(bytes) as f32 / 2_147_483_648.0));
        }
        Layout::Float64 => {
            let samples = bytes.as_chunks::<8>().0.iter().map(|&bytes| f64::from_le_bytes(bytes));
            out.extend(
                samples.map(|value| if value.is_finite() { value.clamp(-1.0, 1.0) as f32 } else { 0.0 }),
            );
        }
        Layout::Native(encoding) => {
            // As one channel: they stay interleaved.
            pcm::Decoder::new(encoding, 1).decode(bytes, out);
        }
    }
}

/// A mono WAV that is being written: 32-bit float if the stream is, otherwise 16-bit.
pub(super) struct WavWriter {
    writer: hound::WavWriter<BufWriter<File>>,
    decoder: pcm::Decoder,
    encoding: Encoding,
    samples: Vec<f32>,
    /// Samples written.
    pub(super) count: u64,
    /// The sum of their squares.
    pub(super) energy: f64,
}

impl WavWriter {
    /// Creates the file, or empties it.
    pub(super) fn create(path: &Path, encoding: Encoding, sample_rate_hz: u32) -> Result<Self, hound::Error> {
        let float = encoding == Encoding::F32le;
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: sample_rate_hz,
            bits_per_sample: if float { 32 } else { 16 },
            sample_format: if float { hound::SampleFormat::Float } else { hound::SampleFormat::Int },
        };
        let writer = hound::WavWriter::create(path, spec)?;
        let decoder = pcm::Decoder::new(encoding, 1);
        Ok(Self { writer, decoder, encoding, samples: Vec::new(), count: 0, energy: 0.0 })
    }

    /// Writes what the server sent.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), hound::Error> {
        self.samples.clear();
        self.decoder.decode(bytes, &mut self.samples);
        self.count += self.samples.len() as u64;
        self.energy += energy(&self.samples);
        for &sample in &self.samples {
            match self.encoding {
                Encoding::F32le => self.writer.write_sample(sample)?,
                // Exact for linear16; what came as G.711 has fewer bits.
                _ => self.writer.write_sample((sample * 32_768.0).round() as i16)?,
            }
        }
        Ok(())
    }

    /// Writes the header. A file that is dropped instead gets it too, its errors lost.
    pub(super) fn finish(self) -> Result<(), hound::Error> {
        self.writer.finalize()
    }
}

/// The sum of the squares.
pub(super) fn energy(samples: &[f32]) -> f64 {
    samples.iter().map(|&sample| f64::from(sample) * f64::from(sample)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hound::{SampleFormat, WavSpec};
    use proptest::prelude::*;
    use std::io::Cursor;

    /// Gives bytes a few at a time, as a pipe does.
    struct Pipe<'a>(&'a [u8], usize);

    impl Read for Pipe<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(self.1).min(self.0.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn spec(channels: u16, bits: u16, sample_format: SampleFormat) -> WavSpec {
        WavSpec { channels, sample_rate: 16_000, bits_per_sample: bits, sample_format }
    }

    fn written<S: hound::Sample + Copy>(spec: WavSpec, samples: &[S]) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut file, spec).expect("a header");
        for &sample in samples {
            writer.write_sample(sample).expect("a sample");
        }
        writer.finalize().expect("the end");
        file.into_inner()
    }

    fn read_all(bytes: &[u8]) -> Vec<f32> {
        let mut reader = WavReader::new(Pipe(bytes, 7)).expect("a WAV");
        let mut samples = Vec::new();
        while reader.read(3, &mut samples).expect("readable") > 0 {}
        samples
    }

    /// Where the length of the data stands in the 44-byte header.
    const DATA_LENGTH: std::ops::Range<usize> = 40..44;

    #[test]
    fn every_width_is_read() {
        let values = [0.0, 0.5, -0.25, -1.0];
        let int = SampleFormat::Int;
        assert_eq!(read_all(&written(spec(1, 8, int), &[0i8, 64, -32, -128])), values);
        assert_eq!(read_all(&written(spec(2, 16, int), &[0i16, 16_384, -8_192, -32_768])), values);
        assert_eq!(read_all(&written(spec(1, 24, int), &[0i32, 1 << 22, -(1 << 21), -(1 << 23)])), values);
        assert_eq!(read_all(&written(spec(4, 32, int), &[0i32, 1 << 30, -(1 << 29), i32::MIN])), values);
        assert_eq!(read_all(&written(spec(1, 32, SampleFormat::Float), &values)), values);
    }

    #[test]
    fn a_header_of_a_pipe_does_not_know_the_length() {
        let file = written(spec(1, 16, SampleFormat::Int), &[1i16, 2, 3, 4, 5]);
        for length in [0, u32::MAX, 0x7FFF_F000, 0x8000_0000] {
            let mut file = file.clone();
            file[DATA_LENGTH].copy_from_slice(&length.to_le_bytes());
            assert_eq!(WavReader::new(Pipe(&file, 5)).expect("a WAV").frames(), None);
            assert_eq!(read_all(&file).len(), 5, "{length:#x}");
        }
    }

    #[test]
    fn what_follows_the_audio_is_not_audio() {
        let mut file = written(spec(1, 16, SampleFormat::Int), &[1i16, 2, 3]);
        file.extend_from_slice(b"LIST\x04\0\0\0abcd");
        assert_eq!(WavReader::new(Pipe(&file, 5)).expect("a WAV").frames(), Some(3));
        assert_eq!(read_all(&file).len(), 3);
    }

    #[test]
    fn chunks_before_the_audio_are_skipped_with_their_padding() {
        let file = written(spec(1, 16, SampleFormat::Int), &[7i16, -7]);
        let with_list = [&file[..12], b"LIST\x03\0\0\0abc\0", &file[12..]].concat();
        assert_eq!(read_all(&with_list), read_all(&file));
    }

    #[test]
    fn a_file_that_was_cut_ends_where_it_ends() {
        let file = written(spec(2, 16, SampleFormat::Int), &[1i16, 2, 3, 4, 5, 6]);
        assert_eq!(read_all(&file[..file.len() - 3]).len(), 4);
    }

    #[test]
    fn g711_and_double_floats_are_read() {
        let mut file = written(spec(1, 8, SampleFormat::Int), &[0i8, 0]);
        file[20] = 7; // mu-law
        file.truncate(44);
        file.extend([0xFF, 0x80]);
        assert_eq!(read_all(&file), [0.0, 32_124.0 / 32_768.0]);

        let mut file = written(spec(1, 32, SampleFormat::Float), &[0.0f32; 4]);
        let start = file.windows(4).position(|name| name == b"fmt ").expect("a format") + 8;
        let data = file.windows(4).position(|name| name == b"data").expect("data") + 8;
        file[start + 12] = 8; // bytes of a frame
        file[start + 14] = 64; // bits
        file.truncate(data);
        file.extend(0.75f64.to_le_bytes());
        file.extend(f64::NAN.to_le_bytes());
        assert_eq!(read_all(&file), [0.75, 0.0]);
    }

    #[test]
    fn what_is_no_wav_says_so() {
        let message = |bytes: &[u8]| WavReader::new(Pipe(bytes, 9)).err().expect("no WAV");
        assert!(message(b"").contains("is it a WAV?"));
        assert!(message(b"OggS and so on and on").contains("ffmpeg"));
        let mut adpcm = written(spec(1, 16, SampleFormat::Int), &[0i16]);
        adpcm[20] = 2;
        assert!(message(&adpcm).contains("format 2"));
        let mut none = written(spec(1, 16, SampleFormat::Int), &[0i16]);
        none[22] = 0;
        assert!(message(&none).contains("0 channels"));
        none[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(message(&none).contains("damaged"));
    }

    #[test]
    fn what_is_written_can_be_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("out.wav");
        for (encoding, samples) in
            [(Encoding::Linear16, vec![0.5, -1.0, 0.25]), (Encoding::F32le, vec![0.1, -0.7, 1.0])]
        {
            let mut bytes = Vec::new();
            pcm::encode(encoding, &samples, &mut bytes);
            let mut writer = WavWriter::create(&path, encoding, 8_000).expect("a file");
            // Cut in the middle of a sample.
            writer.write(&bytes[..3]).expect("written");
            writer.write(&bytes[3..]).expect("written");
            assert_eq!(writer.count, 3);
            writer.finish().expect("the end");
            assert_eq!(read_all(&std::fs::read(&path).expect("the file")), samples, "{encoding}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), at in 0..44usize) {
            let mut file = written(spec(1, 16, SampleFormat::Int), &[1i16, 2, 3]);
            for (place, byte) in file[at..].iter_mut().zip(&bytes) {
                *place = *byte;
            }
            for bytes in [&bytes, &file] {
                if let Ok(mut reader) = WavReader::new(Pipe(bytes, 3)) {
                    let mut samples = Vec::new();
                    prop_assert!(reader.read(1_000, &mut samples).is_ok());
                    prop_assert!(samples.iter().all(|sample| (-1.0..=1.0).contains(sample)));
                }
            }
        }
    }
}
