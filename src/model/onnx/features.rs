//! Log-mel spectra, frame by frame as audio comes.
//!
//! The convention, in full: samples times `audio.scale`; frame `k` looks at the `win` samples from `k * hop` on, with no
//! padding at either end of the stream, no centring and no pre-emphasis; a periodic Hann window; zeros behind up to
//! `n_fft`; magnitudes of the transform to the `power`; `n_mels` triangles, evenly spread over the HTK or Slaney scale
//! between `f_min` and `f_max`, of height 1 or of equal area (`norm = "slaney"`); `log(max(energy + offset, floor))`;
//! then `(value - mean) / std`. With the same settings that is what librosa (`center=False`) and torchaudio
//! (`center=False`) compute where `win` is `n_fft`; where it is less, they look at the middle of `n_fft` samples, which
//! is a frame `(n_fft - win) / 2` samples later.
//!
//! Invariant: a frame is computed of its own samples alone, so it does not depend on how audio was cut.

use super::manifest::{Features, LogKind, MelNorm, MelScale, Numbers};
use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};
use std::f64::consts::TAU;
use std::sync::Arc;

/// What makes log-mel frames of samples; shared by all workers.
pub struct FilterBank {
    hop: usize,
    n_fft: usize,
    window: Vec<f32>,
    transform: Arc<dyn RealToComplex<f32>>,
    bands: Vec<Band>,
    power: u32,
    log: LogKind,
    floor: f32,
    offset: f32,
    mean: Vec<f32>,
    std: Vec<f32>,
}

/// A triangle over the bins of the transform, without the zeros around it.
struct Band {
    first: usize,
    weights: Vec<f32>,
}

/// Working memory of one thread, so that frames allocate nothing; made by [`FilterBank::bench`].
pub struct FeatureBench {
    frame: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    scratch: Vec<Complex<f32>>,
}

impl FilterBank {
    /// What `features` describe, for audio of that rate. They have been checked by `Manifest::parse`.
    pub fn new(features: &Features, sample_rate_hz: u32) -> FilterBank {
        let Features { n_mels, win, .. } = *features;
        let n_fft = features.n_fft();
        let hann = |n: usize| (0.5 - 0.5 * (TAU * n as f64 / win as f64).cos()) as f32;
        let each = |numbers: &Option<Numbers>, default: f32| match numbers {
            None => vec![default; n_mels],
            Some(Numbers::One(number)) => vec![*number; n_mels],
            Some(Numbers::Many(many)) => many.clone(),
        };
        FilterBank {
            hop: features.hop,
            n_fft,
            window: (0..win).map(hann).collect(),
            transform: RealFftPlanner::new().plan_fft_forward(n_fft),
            bands: bands(features, sample_rate_hz, n_fft),
            power: features.power,
            log: features.log,
            floor: features.floor,
            offset: features.offset,
            mean: each(&features.mean, 0.0),
            std: each(&features.std, 1.0),
        }
    }

    /// Bands in a frame.
    pub fn bands(&self) -> usize {
        self.bands.len()
    }

    /// Bands that no bin of the transform falls into: they are always `floor`.
    pub fn empty_bands(&self) -> usize {
        self.bands.iter().filter(|band| band.weights.is_empty()).count()
    }

    /// Whole frames in so many samples.
    pub fn frames_in(&self, samples: usize) -> usize {
        match samples.checked_sub(self.window.len()) {
            None => 0,
            Some(rest) => rest / self.hop + 1,
        }
    }

    /// Working memory for [`FilterBank::extend`].
    pub fn bench(&self) -> FeatureBench {
        FeatureBench {
            frame: vec![0.0; self.n_fft],
            spectrum: self.transform.make_output_vec(),
            scratch: self.transform.make_scratch_vec(),
        }
    }

    /// Appends the frames of `samples` from the `first` one on, each sample times `scale`.
    ///
    /// # Panics
    /// If `bench` was made by another filter bank of another `n_fft`: a fault of the caller.
    pub fn extend(
        &self,
        samples: &[f32],
        first: usize,
        scale: f32,
        bench: &mut FeatureBench,
        out: &mut Vec<f32>,
    ) {
        for frame in first..self.frames_in(samples.len()) {
            let heard = &samples[frame * self.hop..][..self.window.len()];
            bench.frame.fill(0.0);
            for ((slot, sample), weight) in bench.frame.iter_mut().zip(heard).zip(&self.window) {
                *slot = sample * scale * weight;
            }
            self.transform
                .process_with_scratch(&mut bench.frame, &mut bench.spectrum, &mut bench.scratch)
                .expect("buffers that the transform made");
            // The real parts become the energies: the spectrum itself is not needed again.
            for bin in &mut bench.spectrum {
                let power = bin.norm_sqr();
                bin.re = if self.power == 2 { power } else { power.sqrt() };
            }
            for (index, band) in self.bands.iter().enumerate() {
                let bins = &bench.spectrum[band.first..][..band.weights.len()];
                let energy: f32 = bins.iter().zip(&band.weights).map(|(bin, weight)| bin.re * weight).sum();
                out.push((self.logarithm(energy) - self.mean[index]) / self.std[index]);
            }
        }
    }

    fn logarithm(&self, energy: f32) -> f32 {
        let energy = (energy + self.offset).max(self.floor);
        match self.log {
            LogKind::Ln => energy.ln(),
            LogKind::Log10 => energy.log10(),
            LogKind::Db => 10.0 * energy.log10(),
            LogKind::None => energy,
        }
    }
}

fn bands(features: &Features, sample_rate_hz: u32, n_fft: usize) -> Vec<Band> {
    let rate = f64::from(sample_rate_hz);
    let to_mel = |hz: f64| match features.mel {
        MelScale::Htk => 2595.0 * (1.0 + hz / 700.0).log10(),
        MelScale::Slaney if hz < 1000.0 => hz * 3.0 / 200.0,
        MelScale::Slaney => 15.0 + (hz / 1000.0).ln() * 27.0 / 6.4f64.ln(),
    };
    let to_hz = |mel: f64| match features.mel {
        MelScale::Htk => 700.0 * (10f64.powf(mel / 2595.0) - 1.0),
        MelScale::Slaney if mel < 15.0 => mel * 200.0 / 3.0,
        MelScale::Slaney => 1000.0 * ((mel - 15.0) * 6.4f64.ln() / 27.0).exp(),
    };
    let low = to_mel(f64::from(features.f_min));
    let high = to_mel(features.f_max.map_or(rate / 2.0, f64::from));
    let edge = |n: usize| to_hz(low + (high - low) * n as f64 / (features.n_mels + 1) as f64);
    let band = |n: usize| {
        let (left, peak, right) = (edge(n), edge(n + 1), edge(n + 2));
        let scale = match features.norm {
            MelNorm::None => 1.0,
            MelNorm::Slaney => 2.0 / (right - left),
        };
        let weight = |bin: usize| {
            let hz = bin as f64 * rate / n_fft as f64;
            let slope = ((hz - left) / (peak - left)).min((right - hz) / (right - peak));
            (slope.max(0.0) * scale) as f32
        };
        let bins = 0..n_fft / 2 + 1;
        let first = bins.clone().find(|&bin| weight(bin) > 0.0).unwrap_or(0);
        Band { first, weights: bins.skip(first).map(weight).take_while(|&weight| weight > 0.0).collect() }
    };
    (0..features.n_mels).map(band).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Manifest;
    use super::*;

    /// What `tests/data/features.py` computed with numpy in double precision.
    fn reference() -> Vec<serde_json::Value> {
        let path = [env!("CARGO_MANIFEST_DIR"), "tests", "data", "features.json"];
        let path: std::path::PathBuf = path.iter().collect();
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// The signal of the script: a chirp from 100 Hz to 3,300 Hz with a hum beneath it.
    fn chirp(len: usize) -> Vec<f32> {
        let sample = |n: usize| {
            let t = n as f64 / 16_000.0;
            (0.5 * (TAU * (100.0 * t + 8_000.0 * t * t)).sin() + 0.1 * (TAU * 50.0 * t).cos()) as f32
        };
        (0..len).map(sample).collect()
    }

    fn filter_bank(features: &str) -> FilterBank {
        let text = format!("[audio]\nsample_rate = 16000\nhop = 9600\n[features]\n{features}");
        let manifest = Manifest::parse("model.toml", &text).unwrap();
        FilterBank::new(&manifest.features.unwrap(), 16_000)
    }

    fn frames(bank: &FilterBank, samples: &[f32]) -> Vec<f32> {
        let mut out = Vec::new();
        bank.extend(samples, 0, 1.0, &mut bank.bench(), &mut out);
        out
    }

    #[test]
    fn frames_are_those_of_the_reference() {
        let cases = reference();
        assert_eq!(cases.len(), 4);
        for case in cases {
            let bank = filter_bank(case["features"].as_str().unwrap());
            let got = frames(&bank, &chirp(1_600));
            let wanted: Vec<f64> = serde_json::from_value(case["frames"].clone()).unwrap();
            let scale = wanted.iter().fold(1.0f64, |most, value| most.max(value.abs()));
            assert_eq!(got.len(), wanted.len(), "{}", case["features"]);
            for (got, wanted) in got.iter().zip(&wanted) {
                assert!(
                    (f64::from(*got) - wanted).abs() < 1e-4 * scale,
                    "{got} for {wanted}: {}",
                    case["features"]
                );
            }
        }
    }

    #[test]
    fn a_frame_is_the_same_bits_wherever_it_was_cut_out() {
        let bank = filter_bank("n_mels = 12\nwin = 400\nhop = 160");
        let samples = chirp(1_600);
        let all = frames(&bank, &samples);
        assert_eq!(all.len(), 12 * bank.frames_in(1_600));
        for frame in 0..bank.frames_in(1_600) {
            assert_eq!(frames(&bank, &samples[frame * 160..][..400]), all[frame * 12..][..12]);
        }
    }

    #[test]
    fn silence_is_the_floor_and_too_many_bands_are_empty() {
        let bank =
            filter_bank("n_mels = 4\nwin = 400\nhop = 160\nlog = \"log10\"\nfloor = 1e-5\nmean = 1\nstd = 2");
        assert!(frames(&bank, &[0.0; 400]).iter().all(|value| (value + 3.0).abs() < 1e-6));
        assert_eq!((bank.empty_bands(), bank.frames_in(399), bank.frames_in(560)), (0, 0, 2));
        assert!(filter_bank("n_mels = 128\nwin = 128\nhop = 64").empty_bands() > 0);
    }
}
