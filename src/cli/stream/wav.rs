//! WAV in, from a file or a pipe; WAV out, to a file. What a WAV is stands in [`crate::wire::wav`].

use crate::wire::message::Encoding;
use crate::wire::pcm;
use crate::wire::wav::{Decoder, Head, HeadReader};
use std::fs::File;
use std::io::{self, BufWriter, Chain, Cursor, Read};
use std::path::Path;

/// Read at a time until the head is whole; a whole head has usually 44 bytes.
const HEAD_PIECE_BYTES: usize = 4096;

/// A WAV that is being read.
pub(in crate::cli) struct WavReader<R> {
    /// What was read together with the head, and the rest.
    reader: Chain<Cursor<Vec<u8>>, R>,
    head: Head,
    decoder: Decoder,
    /// Bytes of audio still to come, as far as the head knows.
    remaining: Option<u64>,
    buffer: Vec<u8>,
}

impl<R: Read> WavReader<R> {
    /// Reads up to the first sample. The error is a sentence for people.
    pub(in crate::cli) fn new(mut reader: R) -> Result<Self, String> {
        let mut heads = HeadReader::default();
        let mut piece = vec![0; HEAD_PIECE_BYTES];
        loop {
            let count = match reader.read(&mut piece) {
                Ok(0) => return Err(HeadReader::cut_off().message),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(format!("it cannot be read: {error}")),
            };
            let mut rest = &piece[..count];
            if let Some(head) = heads.read(&mut rest).map_err(|fault| fault.message)? {
                return Ok(Self {
                    reader: Cursor::new(rest.to_vec()).chain(reader),
                    head,
                    decoder: head.interleaved(),
                    remaining: head.audio_bytes,
                    buffer: Vec::new(),
                });
            }
        }
    }

    /// Samples a second of each channel.
    pub(in crate::cli) fn sample_rate_hz(&self) -> u32 {
        self.head.sample_rate_hz
    }

    /// Interleaved channels, at least 1.
    pub(in crate::cli) fn channels(&self) -> u16 {
        self.head.channels
    }

    /// Samples of each channel still to come, if the header knows.
    pub(in crate::cli) fn frames(&self) -> Option<u64> {
        self.remaining.map(|bytes| bytes / self.head.frame_bytes() as u64)
    }

    /// Appends up to `frames` samples of each channel, interleaved, within -1..=1. Fewer only at the end. A part of a
    /// frame at the very end is dropped.
    pub(in crate::cli) fn read(&mut self, frames: usize, out: &mut Vec<f32>) -> io::Result<usize> {
        let frame_bytes = self.head.frame_bytes();
        let wanted = (frames as u64 * frame_bytes as u64).min(self.remaining.unwrap_or(u64::MAX));
        self.buffer.clear();
        let count = (&mut self.reader).take(wanted).read_to_end(&mut self.buffer)?;
        if let Some(remaining) = &mut self.remaining {
            // A file that was cut ends where it ends.
            *remaining = if (count as u64) < wanted { 0 } else { *remaining - wanted };
        }
        let frames = count / frame_bytes;
        self.decoder.decode(&self.buffer[..frames * frame_bytes], out);
        Ok(frames)
    }
}

/// A mono WAV that is being written: 32-bit float if the stream is, otherwise 16-bit.
pub(in crate::cli) struct WavWriter {
    writer: hound::WavWriter<BufWriter<File>>,
    decoder: pcm::Decoder,
    encoding: Encoding,
    samples: Vec<f32>,
    /// Samples written.
    pub(in crate::cli) count: u64,
    /// The sum of their squares.
    pub(in crate::cli) energy: f64,
}

impl WavWriter {
    /// Creates the file, or empties it.
    pub(in crate::cli) fn create(
        path: &Path,
        encoding: Encoding,
        sample_rate_hz: u32,
    ) -> Result<Self, hound::Error> {
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
    pub(in crate::cli) fn write(&mut self, bytes: &[u8]) -> Result<(), hound::Error> {
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
    pub(in crate::cli) fn finish(self) -> Result<(), hound::Error> {
        self.writer.finalize()
    }
}

/// The sum of the squares.
pub(in crate::cli) fn energy(samples: &[f32]) -> f64 {
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
