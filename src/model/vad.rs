//! `vad`: where somebody speaks. earshot's small network on 16 ms windows at 16 kHz, then hysteresis.

use super::segment::{Rule, Segmenter};
use super::{Datatype, Lane, Model, ModelLimits, ModelSpec, OutputSpec, State};
use earshot::Detector;

const RATE_HZ: u32 = 16_000;
const WINDOW: usize = 256;

/// How far behind a window its probability is: the network looks at three spectra of 48 ms, one window apart, whose
/// middle lies two windows before the middle of the newest window.
const LAG: u64 = 2 * WINDOW as u64;

/// Chosen on `tests/data/speech-noisy.wav` (5 dB) without hurting the clean file; see `quality`. A window is 16 ms:
/// speech counts from 48 ms on and ends after 192 ms of silence, with 32 ms added before and after. At earshot's
/// own 0.5, noise that swells and fades counts as speech.
const RULE: Rule = Rule { on: 0.7, off: 0.65, windows_on: 3, windows_off: 12, pad: 512 };
const _: () = assert!(RULE.pad <= RULE.windows_off as u64 * WINDOW as u64);

/// Peak of the noise that is added to what the network hears: a rms of -75 dBFS, far below speech. Without it a band
/// that is wholly empty, as above 4 kHz in a stream that came at 8 kHz, is so unlike anything the network knows that
/// it takes noise for speech (F1 in noise at 11,025 Hz: 0.83, with it 0.94; no change at 16 kHz and above).
const DITHER: f32 = 3e-4;

/// The model `vad`.
pub(super) struct Vad {
    spec: ModelSpec,
}

struct Ears {
    detector: Box<Detector>,
    segmenter: Segmenter,
    /// Where the sequence of dither stands.
    seed: u32,
}

impl Vad {
    pub(super) fn new() -> Self {
        let spec = ModelSpec {
            name: "vad".into(),
            version: 1,
            description:
                "Finds speech: its probability for every 16 ms, and events where it starts and ends.".into(),
            sample_rate_hz: Some(RATE_HZ),
            window: WINDOW,
            hop: WINDOW,
            latency: 0,
            audio_out: false,
            outputs: vec![OutputSpec::scalar("speech_probability", Datatype::Fp32)],
            state_bytes: size_of::<Detector>() + size_of::<Ears>(),
            batched: false,
            weights_bytes: 0,
            limits: ModelLimits { prompt: true, ..ModelLimits::default() },
        };
        Self { spec }
    }
}

impl Model for Vad {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn start(&self) -> State {
        Box::new(Ears { detector: Detector::default_boxed(), segmenter: Segmenter::default(), seed: 1 })
    }

    fn infer(&self, lanes: &mut [Lane<'_>]) {
        for lane in lanes {
            listen(lane);
        }
    }
}

fn listen(lane: &mut Lane<'_>) {
    let ears: &mut Ears = lane.state.downcast_mut().expect("the state that `start` made");
    let findings = &mut *lane.findings;
    let mut start = lane.first_window * WINDOW as u64;
    let mut dithered = [0.0; WINDOW];
    for window in lane.samples.chunks_exact(WINDOW).take(lane.count) {
        for (dithered, sample) in dithered.iter_mut().zip(window) {
            *dithered = (sample + DITHER * noise(&mut ears.seed)).clamp(-1.0, 1.0);
        }
        let probability = ears.detector.predict_f32(&dithered);
        let end = start + WINDOW as u64;
        let heard = start.saturating_sub(LAG)..end.saturating_sub(LAG);
        ears.segmenter.step(&RULE, probability, heard, &mut findings.events);
        findings.outputs[0].push_f32(probability);
        findings.speech_probability = Some(probability);
        start = end;
    }
    if lane.count > 0 {
        findings.is_speech = Some(ears.segmenter.is_speech());
    }
    if let Some(end) = lane.ends_at {
        ears.segmenter.close(&RULE, end, &mut findings.events);
    }
}

/// The next of a fixed sequence, evenly spread over -1..1 (a linear congruential generator, constants of Numerical
/// Recipes): the same stream must give the same result every time.
fn noise(seed: &mut u32) -> f32 {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (*seed >> 8) as f32 / (1 << 23) as f32 - 1.0
}
