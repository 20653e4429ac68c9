//! How well the models inside the binary do on the shipped recordings: speech at 5 dB over steady and passing noise.
//! Thresholds lie safely below what is measured; each test prints its figure (`-- --nocapture`).

use super::rehearsal::{Heard, convert, play, recording, truth};
use super::*;

const RATE_HZ: u32 = 16_000;

fn builtin(name: &str) -> Arc<dyn Model> {
    Registry::builtin().get(name).expect("a model inside the binary")
}

/// Scale-invariant signal-to-distortion ratio, dB: how much of `signal` is `reference`, whatever its level.
fn si_sdr_db(signal: &[f32], reference: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let scale = dot(signal, reference) / dot(reference, reference);
    let target = scale * scale * dot(reference, reference);
    let distortion: f64 =
        signal.iter().zip(reference).map(|(&s, &r)| (f64::from(s) - scale * f64::from(r)).powi(2)).sum();
    10.0 * (target / distortion).log10()
}

/// By how many samples `signal` lags `reference`, where they agree best.
fn lag(signal: &[f32], reference: &[f32]) -> i64 {
    let likeness = |lag: i64| -> f64 {
        let (late, early) = (lag.max(0) as usize, (-lag).max(0) as usize);
        signal[late..].iter().zip(&reference[early..]).map(|(&s, &r)| f64::from(s * r)).sum()
    };
    (-40..=40).max_by(|&a, &b| likeness(a).total_cmp(&likeness(b))).expect("some lags")
}

/// F1 of 10 ms frames: `spoken` tells whether the model calls the frame speech.
fn f1(spoken: impl Fn(u64) -> bool, duration_ms: u64) -> f64 {
    let truth = truth();
    let (mut hits, mut false_alarms, mut misses) = (0.0, 0.0, 0.0);
    for ms in (5..duration_ms).step_by(10) {
        let true_speech = truth.iter().any(|[start, end]| (*start..*end).contains(&ms));
        match (spoken(ms), true_speech) {
            (true, true) => hits += 1.0,
            (true, false) => false_alarms += 1.0,
            (false, true) => misses += 1.0,
            (false, false) => {}
        }
    }
    2.0 * hits / (2.0 * hits + false_alarms + misses)
}

/// The stretches between the events, milliseconds.
fn stretches(heard: &Heard, rate_hz: u32) -> Vec<[u64; 2]> {
    let ms = |event: &Event| event.at_sample * 1000 / u64::from(rate_hz);
    assert!(heard.events.len().is_multiple_of(2), "every start has an end");
    heard.events.chunks(2).map(|pair| [ms(&pair[0]), ms(&pair[1])]).collect()
}

fn f1_of_events(heard: &Heard, rate_hz: u32) -> f64 {
    let stretches = stretches(heard, rate_hz);
    let spoken = |ms: u64| stretches.iter().any(|[start, end]| (*start..*end).contains(&ms));
    f1(spoken, heard.duration_ms as u64)
}

#[test]
fn denoise_makes_noisy_speech_cleaner() {
    let (noisy, clean) = (recording("speech-noisy.wav"), recording("speech-clean.wav"));
    let heard = play(&builtin("denoise"), RATE_HZ, &noisy, &[10]);
    let before = si_sdr_db(&noisy, &clean);
    let after = si_sdr_db(&heard.audio, &clean);
    println!("SI-SDR {before:.2} dB -> {after:.2} dB: {:+.2} dB", after - before);
    assert!(after - before >= 5.0, "{before:.2} dB -> {after:.2} dB");
}

#[test]
fn denoised_audio_is_aligned_and_as_long_as_what_went_in_at_every_rate() {
    let (noisy, clean) = (recording("speech-noisy.wav"), recording("speech-clean.wav"));
    for rate_hz in [8_000, 11_025, 44_100, 44_101, 48_000] {
        let noisy = convert(&noisy[..5 * 16_000 + 77], RATE_HZ, rate_hz);
        let clean = convert(&clean[..5 * 16_000 + 77], RATE_HZ, rate_hz);
        let heard = play(&builtin("denoise"), rate_hz, &noisy, &[3, 7]);
        assert_eq!(heard.audio.len(), noisy.len(), "{rate_hz} Hz");
        let lag = lag(&heard.audio, &clean);
        let gain = si_sdr_db(&heard.audio, &clean) - si_sdr_db(&noisy, &clean);
        println!("{rate_hz} Hz: lag {lag} samples, SI-SDR {gain:+.2} dB");
        assert!(lag.abs() <= 1, "{rate_hz} Hz: {lag} samples late");
        assert!(gain >= 4.0, "{rate_hz} Hz: {gain:+.2} dB");
    }
}

#[test]
fn vad_finds_the_speech_in_noise() {
    for (name, least) in [("speech-noisy.wav", 0.92), ("speech-clean.wav", 0.95)] {
        let heard = play(&builtin("vad"), RATE_HZ, &recording(name), &[6]);
        let probabilities = heard.probabilities();
        let of_windows =
            f1(|ms| probabilities.get(ms as usize / 16).is_some_and(|&p| p >= 0.5), heard.duration_ms as u64);
        let of_events = f1_of_events(&heard, 16_000);
        println!(
            "{name}: F1 {of_events:.3} of the events, {of_windows:.3} of the windows; {:?}",
            stretches(&heard, 16_000)
        );
        assert!(of_events >= least, "{name}: {of_events:.3}");
    }
}

#[test]
fn vad_finds_the_speech_at_every_rate() {
    let noisy = recording("speech-noisy.wav");
    for rate_hz in [8_000, 11_025, 44_100, 44_101, 48_000] {
        let heard = play(&builtin("vad"), rate_hz, &convert(&noisy, RATE_HZ, rate_hz), &[6]);
        let of_events = f1_of_events(&heard, 16_000);
        println!("{rate_hz} Hz: F1 {of_events:.3}");
        assert!(of_events >= 0.89, "{rate_hz} Hz: {of_events:.3}");
    }
}

#[test]
fn denoise_tells_where_speech_is() {
    let heard = play(&builtin("denoise"), RATE_HZ, &recording("speech-noisy.wav"), &[10]);
    let of_windows = f1(|ms| heard.probabilities()[ms as usize / 10] >= 0.3, heard.duration_ms as u64);
    println!("denoise: F1 {of_windows:.3} of the windows");
    assert!(of_windows >= 0.75, "{of_windows:.3}");
}

#[test]
fn speech_that_goes_on_until_the_stream_ends_is_ended_there() {
    let [start, end] = truth()[1];
    let until = (start + end) / 2;
    let cut = &recording("speech-clean.wav")[..until as usize * 16];
    let heard = play(&builtin("vad"), RATE_HZ, cut, &[6]);
    let [.., [_, end]] = *stretches(&heard, 16_000) else { panic!("no speech found") };
    assert!(end <= until && end + 100 >= until, "ended at {end} of {until} ms");
}
