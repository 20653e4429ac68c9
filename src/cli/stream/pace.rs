//! When audio goes out, and how long its results take. Only arithmetic: the clock is the caller's.

use crate::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// How fast audio is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Speed {
    /// Times real time.
    Factor(f64),
    /// As fast as the server takes it.
    Max,
}

impl Speed {
    /// Parses `max` or a number from 0.01 to 1000.
    pub(super) fn parse(text: &str) -> Result<Speed, String> {
        match text.parse::<f64>() {
            _ if text.eq_ignore_ascii_case("max") => Ok(Speed::Max),
            Ok(factor) if (0.01..=1_000.0).contains(&factor) => Ok(Speed::Factor(factor)),
            _ => Err("expected `max` or a number from 0.01 to 1000 (1 is real time)".into()),
        }
    }
}

/// When the sample at `position` may go out, counted from the moment the first did. Deadlines come from the position
/// alone, so a late chunk does not make the next ones late.
pub(super) fn due(speed: Speed, position: u64, sample_rate_hz: u32) -> Duration {
    match speed {
        Speed::Max => Duration::ZERO,
        Speed::Factor(factor) => {
            Duration::from_secs_f64(position as f64 / f64::from(sample_rate_hz.max(1)) / factor)
        }
    }
}

/// From sending the chunk that completes a result to receiving the result.
pub(super) struct Latency {
    /// Chunks in order: where each ends in the stream (milliseconds) and when it was sent.
    sent: VecDeque<(f64, Instant)>,
    microseconds: hdrhistogram::Histogram<u64>,
}

/// Chunks remembered without a result; more have none to wait for.
const CHUNKS_MAX: usize = 100_000;

impl Latency {
    pub(super) fn new() -> Self {
        // Up to an hour, two digits exact: 30 KB.
        let histogram = hdrhistogram::Histogram::new_with_max(3_600_000_000, 2);
        Self { sent: VecDeque::new(), microseconds: histogram.expect("the bounds are right") }
    }

    /// A chunk that ends at `end_ms` of the stream goes out now.
    pub(super) fn on_sent(&mut self, end_ms: f64, now: Instant) {
        if self.sent.len() == CHUNKS_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((end_ms, now));
    }

    /// A result about the stream up to `end_ms` came in now.
    pub(super) fn on_result(&mut self, end_ms: f64, now: Instant) {
        // Positions on the wire are rounded to a thousandth.
        while self.sent.front().is_some_and(|&(chunk_end_ms, _)| chunk_end_ms < end_ms - 0.001) {
            self.sent.pop_front();
        }
        if let Some(&(_, sent_at)) = self.sent.front() {
            let micros = now.since(sent_at).as_micros();
            self.microseconds.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
        }
    }

    /// The latency that the given share of results did not exceed, milliseconds; `None` without results.
    pub(super) fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let some = !self.microseconds.is_empty();
        some.then(|| self.microseconds.value_at_quantile(quantile) as f64 / 1_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_max_or_a_sensible_factor() {
        assert_eq!(Speed::parse("max"), Ok(Speed::Max));
        assert_eq!(Speed::parse("1"), Ok(Speed::Factor(1.0)));
        assert_eq!(Speed::parse("0.5"), Ok(Speed::Factor(0.5)));
        for text in ["", "0", "-1", "NaN", "inf", "1001", "fast"] {
            assert!(Speed::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn deadlines_follow_the_position_and_the_speed() {
        assert_eq!(due(Speed::Factor(1.0), 0, 16_000), Duration::ZERO);
        assert_eq!(due(Speed::Factor(1.0), 24_000, 16_000), Duration::from_millis(1_500));
        assert_eq!(due(Speed::Factor(2.0), 24_000, 16_000), Duration::from_millis(750));
        assert_eq!(due(Speed::Max, 24_000, 16_000), Duration::ZERO);
        // A day of audio is still exact to the microsecond.
        let day = due(Speed::Factor(1.0), 86_400 * 48_000 + 480, 48_000);
        assert_eq!(day.as_micros(), 86_400_010_000);
    }

    #[test]
    fn a_result_is_measured_from_the_chunk_that_completed_it() {
        let at = |ms| Instant::from_origin(Duration::from_millis(ms));
        let mut latency = Latency::new();
        assert_eq!(latency.quantile_ms(0.5), None);
        latency.on_sent(100.0, at(0));
        latency.on_sent(200.0, at(100));
        latency.on_result(99.9, at(4));
        latency.on_result(100.0005, at(4));
        assert!((latency.quantile_ms(1.0).expect("two results") - 4.0).abs() < 0.1);
        // Needs the second chunk.
        latency.on_result(130.0, at(130));
        assert!((latency.quantile_ms(1.0).expect("three results") - 30.0).abs() < 0.5);
        // About audio that was never sent: nothing to measure from.
        latency.on_result(900.0, at(9_000));
        assert!(latency.quantile_ms(1.0).expect("still three") < 31.0);
    }
}
