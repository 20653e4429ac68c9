//! For tests: streams played through a model as a worker would, and the shipped recordings.

use super::*;
use std::path::PathBuf;

/// Everything that a stream gave, put together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Heard {
    pub(super) outputs: Vec<TensorData>,
    pub(super) audio: Vec<f32>,
    pub(super) events: Vec<Event>,
    pub(super) windows: usize,
    pub(super) duration_ms: f64,
    pub(super) failures: Vec<Failure>,
}

impl Heard {
    /// Adds one outcome, which must follow on from the last.
    pub(super) fn add(&mut self, outcome: &Outcome) {
        assert!(
            (outcome.start_ms - self.duration_ms).abs() < 1e-6,
            "{} after {}",
            outcome.start_ms,
            self.duration_ms
        );
        self.windows += outcome.windows;
        self.duration_ms = outcome.start_ms + outcome.duration_ms;
        self.audio.extend_from_slice(&outcome.findings.audio);
        self.events.extend_from_slice(&outcome.findings.events);
        self.failures.extend(outcome.failure.clone());
        if self.outputs.is_empty() {
            self.outputs = outcome.findings.outputs.clone();
            return;
        }
        for (all, new) in self.outputs.iter_mut().zip(&outcome.findings.outputs) {
            match (all, new) {
                (TensorData::Fp32(all), TensorData::Fp32(new)) => all.extend_from_slice(new),
                (TensorData::Uint32(all), TensorData::Uint32(new)) => all.extend_from_slice(new),
                _ => panic!("an output changed its type"),
            }
        }
    }

    /// The elements of the first output.
    pub(super) fn probabilities(&self) -> &[f32] {
        match &self.outputs[0] {
            TensorData::Fp32(data) => data,
            other => panic!("{other:?}"),
        }
    }
}

/// Plays a stream cut into runs of so many units each, over and over, and then its end.
pub(super) fn play(model: &Arc<dyn Model>, rate_hz: u32, samples: &[f32], units_per_run: &[usize]) -> Heard {
    let unit = unit(model.spec(), rate_hz).expect("a rate that is served");
    let mut state = Box::new(StreamState::new(&**model, rate_hz).expect("a rate that is served"));
    let mut heard = Heard::default();
    let mut rest = samples;
    for units in units_per_run.iter().cycle() {
        let len = units * unit;
        let last = rest.len() < len;
        let (part, after) = rest.split_at(if last { rest.len() } else { len });
        let run = Run::new(state, part.to_vec(), last);
        let mut runs = vec![run];
        execute(&**model, &mut runs);
        let run = runs.pop().expect("the run comes home");
        heard.add(&run.outcome);
        (state, rest) = (run.state, after);
        if last {
            break;
        }
    }
    heard
}

/// A recording of `tests/data`, mono 16 kHz.
pub(super) fn recording(name: &str) -> Vec<f32> {
    let path = data(name);
    let mut reader =
        hound::WavReader::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(reader.spec().sample_rate, 16_000);
    reader.samples::<i16>().map(|sample| f32::from(sample.expect("whole samples")) / 32_768.0).collect()
}

/// Where speech truly is in the recordings, milliseconds.
pub(super) fn truth() -> Vec<[u64; 2]> {
    let path = data("speech.truth.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    serde_json::from_value(value["speech_ms"].clone()).expect("pairs of milliseconds")
}

fn data(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "data", name].iter().collect()
}

/// The same recording at another rate, by a converter that has nothing to do with the one under test: a sinc of 16
/// samples to either side, computed in double precision for every output sample.
pub(super) fn convert(samples: &[f32], from_hz: u32, to_hz: u32) -> Vec<f32> {
    const HALF: i64 = 16;
    let ratio = f64::from(from_hz) / f64::from(to_hz);
    let cutoff = 0.9 / ratio.max(1.0);
    let value = |n: usize| {
        let at = n as f64 * ratio;
        let centre = at.floor() as i64;
        let reach = (centre - HALF).max(0)..(centre + HALF).min(samples.len() as i64);
        let sum: f64 = reach
            .map(|k| {
                let x = k as f64 - at;
                let hann = 0.5 + 0.5 * (std::f64::consts::PI * x / (HALF + 1) as f64).cos();
                let angle = std::f64::consts::PI * cutoff * x;
                let sinc = if angle == 0.0 { 1.0 } else { angle.sin() / angle };
                f64::from(samples[k as usize]) * cutoff * sinc * hann
            })
            .sum();
        sum.clamp(-1.0, 1.0) as f32
    };
    (0..(samples.len() as f64 / ratio) as usize).map(value).collect()
}
