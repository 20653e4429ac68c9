//! `echo`: says what it heard. A checksum and the level of each window, at the stream's own rate, without memory.
//!
//! The wall test: whoever sent the samples can compute the same and knows that nothing was lost, reordered or mixed
//! with another stream. A last window that is not full is filled up with zeros, which count towards all three.

use super::{Datatype, Lane, Model, ModelLimits, ModelSpec, OutputSpec, State};
use crc32fast::Hasher;

/// Samples of a window of the model `echo`.
pub const WINDOW: usize = 320;

/// The model `echo`.
pub(super) struct Echo {
    spec: ModelSpec,
}

impl Echo {
    pub(super) fn new() -> Self {
        let spec = ModelSpec {
            name: "echo".into(),
            version: 1,
            description: "Says what it heard: CRC-32, RMS and peak of every 320 samples, at any sample rate."
                .into(),
            sample_rate_hz: None,
            window: WINDOW,
            hop: WINDOW,
            latency: 0,
            audio_out: false,
            outputs: vec![
                OutputSpec::scalar("checksum", Datatype::Uint32),
                OutputSpec::scalar("rms", Datatype::Fp32),
                OutputSpec::scalar("peak", Datatype::Fp32),
            ],
            state_bytes: 0,
            batched: false,
            weights_bytes: 0,
            limits: ModelLimits { prompt: true, ..ModelLimits::default() },
        };
        Self { spec }
    }
}

impl Model for Echo {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn start(&self) -> State {
        Box::new(())
    }

    fn infer(&self, lanes: &mut [Lane<'_>]) {
        for lane in lanes {
            for window in lane.samples.chunks_exact(WINDOW).take(lane.count) {
                lane.findings.outputs[0].push_u32(checksum(window));
                lane.findings.outputs[1].push_f32(rms(window));
                lane.findings.outputs[2].push_f32(peak(window));
            }
        }
    }
}

/// CRC-32 (IEEE) of the samples as little-endian 32-bit floats: what `echo` says of a window.
pub fn checksum(window: &[f32]) -> u32 {
    let mut hasher = Hasher::new();
    let mut bytes = [0; 4 * 64];
    for part in window.chunks(64) {
        for (bytes, sample) in bytes.chunks_exact_mut(4).zip(part) {
            bytes.copy_from_slice(&sample.to_le_bytes());
        }
        hasher.update(&bytes[..4 * part.len()]);
    }
    hasher.finalize()
}

fn rms(window: &[f32]) -> f32 {
    let sum: f64 = window.iter().map(|&sample| f64::from(sample) * f64::from(sample)).sum();
    (sum / window.len() as f64).sqrt() as f32
}

fn peak(window: &[f32]) -> f32 {
    window.iter().fold(0.0, |peak, sample| peak.max(sample.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_well_known_one_of_the_bytes() {
        // "12345678" read as two little-endian floats; CRC-32 of that text is 9ae0daaf.
        let samples = [f32::from_le_bytes(*b"1234"), f32::from_le_bytes(*b"5678")];
        assert_eq!(checksum(&samples), 0x9ae0_daaf);
    }

    #[test]
    fn levels_are_those_of_a_square_wave() {
        let wave: Vec<f32> = (0..WINDOW).map(|n| if n % 2 == 0 { 0.25 } else { -0.25 }).collect();
        assert_eq!(rms(&wave), 0.25);
        assert_eq!(peak(&wave), 0.25);
    }
}
