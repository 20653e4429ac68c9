//! `denoise`: speech without the noise. RNNoise's network (nnnoiseless) on 10 ms windows at 48 kHz.
//!
//! What it gives back lags by one window, which the pipeline takes out. It costs clean speech some quality: it is
//! meant for noisy input.

use super::{Datatype, Lane, Model, ModelLimits, ModelSpec, OutputSpec, State};
use nnnoiseless::{DenoiseState, RnnModel};
use std::sync::LazyLock;

const RATE_HZ: u32 = 48_000;
const WINDOW: usize = DenoiseState::FRAME_SIZE;

/// nnnoiseless works on floats in the range of 16-bit integers.
const SCALE: f32 = 32_768.0;

/// RNNoise's own speech probability is strict: at 0.5 it misses much of the speech in noise.
const SPEECH_ON: f32 = 0.3;
const SPEECH_OFF: f32 = 0.2;

/// Upper bound of a stream's state, bytes; measured in `footprint`.
const STATE_BYTES: usize = 32 * 1024;

/// The weights, once in the process for all streams.
static WEIGHTS: LazyLock<RnnModel> = LazyLock::new(RnnModel::default);

/// The model `denoise`.
pub(super) struct Denoise {
    spec: ModelSpec,
}

struct Cleaner {
    denoiser: Box<DenoiseState<'static>>,
    is_speech: bool,
}

impl Denoise {
    pub(super) fn new() -> Self {
        let spec = ModelSpec {
            name: "denoise".into(),
            version: 1,
            description:
                "Takes noise out of speech: cleaned audio, and the probability of speech for every 10 ms."
                    .into(),
            sample_rate_hz: Some(RATE_HZ),
            window: WINDOW,
            hop: WINDOW,
            latency: WINDOW,
            audio_out: true,
            outputs: vec![OutputSpec::scalar("speech_probability", Datatype::Fp32)],
            state_bytes: STATE_BYTES,
            batched: false,
            weights_bytes: 0,
            limits: ModelLimits { prompt: true, ..ModelLimits::default() },
        };
        Self { spec }
    }
}

impl Model for Denoise {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn start(&self) -> State {
        Box::new(Cleaner { denoiser: DenoiseState::with_model(&WEIGHTS), is_speech: false })
    }

    fn infer(&self, lanes: &mut [Lane<'_>]) {
        for lane in lanes {
            clean(lane);
        }
    }
}

fn clean(lane: &mut Lane<'_>) {
    let cleaner: &mut Cleaner = lane.state.downcast_mut().expect("the state that `start` made");
    let findings = &mut *lane.findings;
    let ends_at = lane.ends_at.unwrap_or(u64::MAX);
    let mut start = lane.first_window * WINDOW as u64;
    let mut scaled = [0.0; WINDOW];
    for window in lane.samples.chunks_exact(WINDOW).take(lane.count) {
        for (scaled, sample) in scaled.iter_mut().zip(window) {
            *scaled = sample * SCALE;
        }
        let done = findings.audio.len();
        findings.audio.resize(done + WINDOW, 0.0);
        let cleaned = &mut findings.audio[done..];
        let probability = cleaner.denoiser.process_frame(cleaned, &scaled);
        cleaned.iter_mut().for_each(|sample| *sample /= SCALE);
        findings.outputs[0].push_f32(probability);
        if start < ends_at {
            cleaner.is_speech = probability >= if cleaner.is_speech { SPEECH_OFF } else { SPEECH_ON };
            findings.speech_probability = Some(probability);
            findings.is_speech = Some(cleaner.is_speech);
        }
        start += WINDOW as u64;
    }
}
