//! Figures as lines of text.

use std::fmt::Display;
use std::time::Duration;

/// Begins the figures of a measurement.
pub fn heading(text: &str) {
    println!("\n{text}");
}

/// One figure.
pub fn line(name: &str, value: impl Display) {
    println!("  {name:<46} {value}");
}

/// Percentiles of times, none of which is left out.
pub fn percentiles(name: &str, times: &mut [Duration]) {
    times.sort_unstable();
    assert!(!times.is_empty(), "{name}: nothing was measured");
    let at = |share: f64| {
        let place = (times.len() as f64 * share).ceil() as usize;
        ms(times[place.clamp(1, times.len()) - 1])
    };
    let text = format!(
        "p50 {}  p95 {}  p99 {}  max {}  (n = {})",
        at(0.5),
        at(0.95),
        at(0.99),
        at(1.0),
        times.len()
    );
    line(name, text);
}

/// How many times as long something took as something else: over all rounds, and in the least and the greatest of them.
pub fn ratio(name: &str, whole: Duration, part: Duration, mut rounds: Vec<f64>) {
    rounds.sort_by(f64::total_cmp);
    let [least, .., greatest] = &rounds[..] else { panic!("{name}: fewer than two rounds") };
    line(name, format!("{:.2} ({least:.2} to {greatest:.2})", whole.div_duration_f64(part)));
}

pub fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

pub fn us(time: Duration) -> String {
    format!("{:.1} us", time.as_secs_f64() * 1e6)
}

pub fn mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// What part of `wall` was used, as a share of one core.
pub fn share(cpu: Duration, wall: Duration) -> String {
    format!(
        "{:.2} % of one core ({:.2} s)",
        100.0 * cpu.as_secs_f64() / wall.as_secs_f64(),
        cpu.as_secs_f64()
    )
}
