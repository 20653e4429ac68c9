//! What streams hear.

use super::Error;
use crate::wire::message::{Encoding, StreamParams};
use crate::wire::pcm;

/// Length of the synthetic sound, seconds.
const SYNTHETIC_S: usize = 10;

/// Audio in the encoding in which it is sent, and the stream's parameters that say so. Streams go round and round in
/// it, each from a place of its own, so that one stream's answers are not another's.
#[derive(Clone, Debug)]
pub struct Audio {
    /// Encoding, rate, channels, model and whatever else the query says.
    pub params: StreamParams,
    bytes: Vec<u8>,
}

impl Audio {
    /// Encodes interleaved samples within -1..=1.
    pub fn new(params: StreamParams, samples: &[f32]) -> Audio {
        let mut bytes = Vec::new();
        pcm::encode(params.encoding, samples, &mut bytes);
        Audio { params, bytes }
    }

    /// [`Audio::synthetic_for`] the model `vad` at 16 kHz.
    pub fn synthetic() -> Audio {
        Self::synthetic_for(StreamParams { model: "vad".into(), ..StreamParams::default() })
    }

    /// Ten seconds of a voice-like hum that comes and goes over a little noise; the same every time.
    pub fn synthetic_for(params: StreamParams) -> Audio {
        let (rate, channels) = (params.sample_rate_hz as usize, usize::from(params.channels));
        let mut noise = 1_u32;
        let mut samples = Vec::with_capacity(SYNTHETIC_S * rate * channels);
        for frame in 0..SYNTHETIC_S * rate {
            let t = frame as f32 / rate as f32;
            // Marsaglia's xorshift, 32 bits: "Xorshift RNGs", 2003.
            noise ^= noise << 13;
            noise ^= noise >> 17;
            noise ^= noise << 5;
            let hiss = (noise as f32 / u32::MAX as f32 - 0.5) * 0.02;
            let loudness = (0.5 - 0.5 * (std::f32::consts::TAU * 1.3 * t).cos()) * 0.25;
            let hum: f32 = [1.0, 2.0, 3.0, 5.0]
                .iter()
                .map(|partial| (std::f32::consts::TAU * 140.0 * partial * t).sin() / partial)
                .sum();
            samples.extend(std::iter::repeat_n(loudness * hum * 0.5 + hiss, channels));
        }
        Self::new(params, &samples)
    }

    /// Bytes of a sample of every channel.
    pub(super) fn frame_bytes(&self) -> usize {
        self.params.encoding.sample_bytes() * usize::from(self.params.channels)
    }

    /// How long so many bytes sound, milliseconds.
    pub fn millis(&self, bytes: usize) -> f64 {
        (bytes / self.frame_bytes()) as f64 * 1e3 / f64::from(self.params.sample_rate_hz)
    }

    /// The encoding, for those who decode what was sent.
    pub(super) fn encoding(&self) -> Encoding {
        self.params.encoding
    }

    /// Fails unless chunks of so many bytes can be cut from it.
    pub(super) fn check(&self, chunk_bytes: usize) -> Result<(), Error> {
        let frame = self.frame_bytes();
        if chunk_bytes == 0 || !chunk_bytes.is_multiple_of(frame) {
            return Err(Error::Plan(format!(
                "a chunk of {chunk_bytes} bytes does not hold whole samples of {frame} bytes"
            )));
        }
        if self.bytes.len() < chunk_bytes {
            return Err(Error::Plan(format!(
                "the audio has {} bytes, less than one chunk of {chunk_bytes}",
                self.bytes.len()
            )));
        }
        Ok(())
    }

    /// The chunk with that number, for the stream with that number: always the same bytes. The audio must have as many
    /// as one chunk.
    pub fn chunk(&self, stream: usize, number: u64, chunk_bytes: usize) -> &[u8] {
        let chunks = self.bytes.len() / chunk_bytes;
        // 37 is prime to most lengths, so neighbours are far apart.
        let place = (number as usize + 37 * stream) % chunks;
        &self.bytes[place * chunk_bytes..(place + 1) * chunk_bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synthetic_sound_is_loud_enough_and_not_clipped() {
        let audio = Audio::synthetic();
        let samples: Vec<_> =
            audio.bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
        assert_eq!(samples.len(), 160_000);
        let peak = samples.iter().map(|sample| sample.unsigned_abs()).max().expect("samples");
        assert!((3_000..32_767).contains(&peak), "{peak}");
    }

    #[test]
    fn streams_hear_different_chunks_and_each_goes_round() {
        let audio = Audio::synthetic();
        assert_ne!(audio.chunk(0, 0, 3_200), audio.chunk(1, 0, 3_200));
        assert_eq!(audio.chunk(3, 0, 3_200), audio.chunk(3, 100, 3_200));
        assert_eq!(audio.millis(3_200), 100.0);
    }

    #[test]
    fn chunks_that_cut_a_sample_are_refused() {
        let audio = Audio::synthetic();
        assert!(audio.check(3_200).is_ok());
        for wrong in [0, 3, 3_201, 10_000_000] {
            assert!(audio.check(wrong).is_err(), "{wrong}");
        }
    }
}
