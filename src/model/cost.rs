//! What inference costs, printed: `cargo test --release --lib model::cost -- --ignored --nocapture`.
//!
//! Measures by the thread's CPU time, so other work on the machine disturbs little. Asserts nothing about time.

use super::rehearsal::{convert, recording};
use super::*;

#[test]
#[ignore = "prints figures; run it by hand in the release profile"]
fn microseconds_for_ten_milliseconds_of_audio() {
    let speech = recording("speech-noisy.wav");
    for rate_hz in [8_000, 16_000, 44_100, 44_101, 48_000] {
        let samples = if rate_hz == 16_000 { speech.clone() } else { convert(&speech, 16_000, rate_hz) };
        for model in Registry::builtin().audio() {
            let figures = [1, 10].map(|units| cost_us(model, rate_hz, &samples, units));
            println!(
                "{:8} {rate_hz:6} Hz: {:7.2} us per 10 ms in runs of 1 unit, {:7.2} of 10",
                model.spec().name,
                figures[0],
                figures[1]
            );
        }
    }
}

fn cost_us(model: &Arc<dyn Model>, rate_hz: u32, samples: &[f32], units: usize) -> f64 {
    let unit = unit(model.spec(), rate_hz).expect("a rate that is served");
    let state = Box::new(StreamState::new(&**model, rate_hz).expect("a rate that is served"));
    let mut runs = vec![Run::new(state, Vec::new(), false)];
    let mut spent = Duration::ZERO;
    for part in samples.chunks_exact(unit * units) {
        runs[0].samples.clear();
        runs[0].samples.extend_from_slice(part);
        let before = cpu_time();
        execute(&**model, &mut runs);
        spent += cpu_time() - before;
    }
    spent.as_secs_f64() * 1e6 / (samples.len() as f64 / f64::from(rate_hz) * 100.0)
}

/// CPU time that this thread used so far.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a valid timespec that outlives the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "the thread's CPU clock can be read");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
