//! What is counted while a load runs.

use super::report::{Messages, Moment, in_ms};
use crate::time::Instant;
use hdrhistogram::Histogram;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Longest latency told apart, microseconds: an hour.
const LATENCY_MAX_US: u64 = 3_600_000_000;
/// Kinds of failure told apart; further ones are summed up.
const KINDS_MAX: usize = 32;
/// Length of a moment of the report at the beginning; it doubles when there are too many of them.
const MOMENT: Duration = Duration::from_secs(1);
const MOMENTS_MAX: usize = 600;

/// Latencies in microseconds to three digits.
pub(super) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("constants within what the crate takes")
}

/// Counters of the whole load.
pub(super) struct Tally {
    /// What counts was due from here on.
    from: Option<Instant>,
    /// And before this.
    to: Option<Instant>,
    /// Of every message that counts.
    pub(super) all: Histogram<u64>,
    /// Answers that arrived within the stretch that counts.
    pub(super) arrived: u64,
    pub(super) messages: Messages,
    /// Time from beginning to connect until open, of every connection.
    pub(super) opening: Histogram<u64>,
    /// Time from beginning to connect until being refused.
    pub(super) refusals: Histogram<u64>,
    /// What failed, and how often.
    pub(super) failures: BTreeMap<String, u64>,
    /// What the server warned of, and how often.
    pub(super) warnings: BTreeMap<String, u64>,
    pub(super) ledgers_off: u64,
    /// Audio sent, processed and discarded, milliseconds.
    pub(super) audio_ms: [f64; 3],
    began: Instant,
    moment: Histogram<u64>,
    moment_length: Duration,
    moment_errors: u64,
    moments: Vec<Moment>,
}

impl Tally {
    pub(super) fn new(began: Instant) -> Self {
        Self {
            from: None,
            to: None,
            all: latencies(),
            arrived: 0,
            messages: Messages::default(),
            opening: latencies(),
            refusals: latencies(),
            failures: BTreeMap::new(),
            warnings: BTreeMap::new(),
            ledgers_off: 0,
            audio_ms: [0.0; 3],
            began,
            moment: latencies(),
            moment_length: MOMENT,
            moment_errors: 0,
            moments: Vec::new(),
        }
    }

    /// From now on it counts.
    pub(super) fn begin(&mut self, now: Instant) {
        self.from = Some(now);
    }

    /// What is due from now on does not count.
    pub(super) fn end(&mut self, now: Instant) {
        self.to = Some(now);
    }

    /// How long what counts has lasted until `now`.
    pub(super) fn counted(&self, now: Instant) -> Duration {
        self.from.map_or(Duration::ZERO, |from| self.to.unwrap_or(now) - from)
    }

    /// A message was answered well.
    pub(super) fn answer(&mut self, due: Instant, now: Instant) {
        self.messages.answered += 1;
        let latency_us = (now - due).as_micros() as u64;
        self.moment.saturating_record(latency_us.max(1));
        let Some(from) = self.from else { return };
        if now >= from && self.to.is_none() {
            self.arrived += 1;
        }
        if due >= from && self.to.is_none_or(|to| due < to) {
            self.all.saturating_record(latency_us.max(1));
        }
    }

    /// Something failed; the text is its kind.
    pub(super) fn failure(&mut self, kind: &str) {
        self.moment_errors += 1;
        count(&mut self.failures, kind);
    }

    /// The server warned of something; the text is its kind.
    pub(super) fn warning(&mut self, kind: &str) {
        count(&mut self.warnings, kind);
    }

    /// What the order of a numbered message says.
    pub(super) fn order(&mut self, order: Order) {
        match order {
            Order::Next => {}
            Order::Late => self.messages.reordered += 1,
            Order::Again => self.messages.duplicated += 1,
        }
        if order != Order::Next {
            self.moment_errors += 1;
        }
    }

    /// An answer says something else than it must.
    pub(super) fn wrong(&mut self) {
        self.messages.wrong += 1;
        self.moment_errors += 1;
    }

    /// Everything that went wrong.
    pub(super) fn errors(&self) -> u64 {
        let messages = &self.messages;
        messages.lost
            + messages.duplicated
            + messages.reordered
            + messages.wrong
            + self.ledgers_off
            + self.failures.values().sum::<u64>()
    }

    /// Closes the moment if it is over.
    pub(super) fn tick(&mut self, now: Instant) {
        let end = self.moments.len() as u32 + 1;
        if now - self.began < self.moment_length * end {
            return;
        }
        self.push_moment(self.moment_length);
        if self.moments.len() >= MOMENTS_MAX {
            // A load of hours is drawn as well with coarser moments.
            self.moment_length *= 2;
            let pairs = std::mem::take(&mut self.moments);
            self.moments = pairs.chunks(2).map(Moment::merged).collect();
        }
    }

    fn push_moment(&mut self, length: Duration) {
        let at = |quantile| in_ms(self.moment.value_at_quantile(quantile));
        self.moments.push(Moment {
            at_s: (self.moment_length * self.moments.len() as u32).as_secs_f64(),
            length_s: length.as_secs_f64(),
            answered: self.moment.len(),
            errors: self.moment_errors,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: in_ms(self.moment.max()),
        });
        self.moment.reset();
        self.moment_errors = 0;
    }

    /// The moments up to `now`, with what has begun of the last.
    pub(super) fn into_moments(mut self, now: Instant) -> Vec<Moment> {
        let begun = (now - self.began).saturating_sub(self.moment_length * self.moments.len() as u32);
        if !self.moment.is_empty() || self.moment_errors > 0 {
            self.push_moment(begun.max(Duration::from_millis(1)));
        }
        self.moments
    }
}

fn count(kinds: &mut BTreeMap<String, u64>, kind: &str) {
    if let Some(count) = kinds.get_mut(kind) {
        *count += 1;
        return;
    }
    let kind = if kinds.len() < KINDS_MAX { kind } else { "other" };
    *kinds.entry(kind.to_owned()).or_default() += 1;
}

/// What the number of a message says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// It is the next, or the first after a gap.
    Next,
    /// It was missing: a later one came before it.
    Late,
    /// It has come before.
    Again,
}

/// Watches numbers that should come one after the other.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    next: u64,
    missing: BTreeSet<u64>,
}

impl Sequence {
    /// Expects this number first.
    pub(super) fn from(next: u64) -> Self {
        Self { next, missing: BTreeSet::new() }
    }

    /// A number has come.
    pub(super) fn see(&mut self, number: u64) -> Order {
        if number >= self.next {
            // A number out of thin air must not fill the memory.
            let gap = self.next..number.min(self.next + 1024);
            self.missing.extend(gap);
            self.next = number + 1;
            return Order::Next;
        }
        if self.missing.remove(&number) { Order::Late } else { Order::Again }
    }

    /// How many never came, of those before the last that came.
    pub(super) fn missing(&self) -> u64 {
        self.missing.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stall_counts_from_when_messages_were_due() {
        let at = |ms| Instant::from_origin(Duration::from_millis(ms));
        let mut tally = Tally::new(at(0));
        tally.begin(at(0));
        // Due every 10 ms, all answered at 1 s.
        (0..100).for_each(|n| tally.answer(at(n * 10), at(1000)));
        let median_ms = in_ms(tally.all.value_at_quantile(0.5));
        assert!((480.0..530.0).contains(&median_ms), "{median_ms}");
    }

    #[test]
    fn only_what_was_due_within_the_stretch_counts() {
        let at = |ms| Instant::from_origin(Duration::from_millis(ms));
        let mut tally = Tally::new(at(0));
        tally.answer(at(1), at(2));
        tally.begin(at(10));
        tally.answer(at(5), at(11));
        tally.answer(at(12), at(13));
        tally.answer(at(15), at(16));
        tally.end(at(20));
        tally.answer(at(19), at(40));
        tally.answer(at(21), at(41));
        assert_eq!((tally.all.len(), tally.arrived, tally.messages.answered), (3, 3, 6));
    }

    #[test]
    fn hours_are_kept_in_a_bounded_number_of_moments() {
        let at = |s| Instant::from_origin(Duration::from_secs(s));
        let mut tally = Tally::new(at(0));
        for second in 1..5_000 {
            tally.answer(at(second - 1), at(second - 1));
            tally.tick(at(second));
        }
        let moments = tally.into_moments(at(5_000));
        assert!(moments.len() < MOMENTS_MAX, "{}", moments.len());
        assert_eq!(moments.iter().map(|moment| moment.answered).sum::<u64>(), 4_999);
    }

    proptest! {
        #[test]
        fn every_number_is_next_late_or_again_and_what_never_came_is_missing(
            numbers in proptest::collection::vec(0_u64..50, 0..100),
        ) {
            let mut sequence = Sequence::default();
            let mut seen = BTreeSet::new();
            for &number in &numbers {
                let later = seen.iter().any(|&other| other > number);
                let wanted = match (seen.insert(number), later) {
                    (false, _) => Order::Again,
                    (true, true) => Order::Late,
                    (true, false) => Order::Next,
                };
                prop_assert_eq!(sequence.see(number), wanted);
            }
            let last = seen.last().map_or(0, |last| last + 1);
            prop_assert_eq!(sequence.missing(), last - seen.len() as u64);
        }
    }
}
