//! How much one principal or address may have: rates as token buckets, and a bounded table of them.
//!
//! A bucket is one instant, the *theoretical arrival time* of the generic cell rate algorithm (ITU-T I.371, annex A): what is
//! taken moves it ahead, time catches up with it, and it may be ahead by the burst at most. Who has used nothing of late has
//! an entry that says nothing, so forgetting it changes nothing: that is how the table stays bounded.

use crate::time::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// A rate: so much in a second on average, and so much at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Units in a second; more than 0.
    pub per_second: f64,
    /// Units at once; at least 1.
    pub burst: f64,
}

/// What a bucket says after it was asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Units that may be taken at once.
    pub remaining: f64,
    /// Time until it is full again.
    pub full_in: Duration,
}

/// What has been taken of a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// Takes so many units.
    ///
    /// # Errors
    /// There are not enough: the time after which there are.
    pub fn take(&mut self, rate: Rate, units: f64, now: Instant) -> Result<Level, Duration> {
        let seconds = |units: f64| Duration::from_secs_f64(units / rate.per_second);
        let full_at = self.full_at.max(now) + seconds(units);
        let latest = now + seconds(rate.burst);
        if full_at > latest {
            return Err(full_at - latest);
        }
        self.full_at = full_at;
        Ok(self.level(rate, now))
    }

    /// What there is.
    pub fn level(&self, rate: Rate, now: Instant) -> Level {
        let full_in = self.full_at.max(now) - now;
        Level { remaining: rate.burst - full_in.as_secs_f64() * rate.per_second, full_in }
    }

    /// Whether nothing is missing, so that it need not be kept.
    fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

/// Buckets of many, at most so many; `N` buckets for each.
pub struct Limiters<K, const N: usize> {
    entries: BTreeMap<K, [Bucket; N]>,
    /// What those have together who found no place.
    shared: [Bucket; N],
    max: usize,
    /// When full entries were last looked for in vain: not for each newcomer of a flood.
    swept: Option<Instant>,
}

/// How often a full table is looked through for entries that say nothing any more.
const SWEEP_PAUSE: Duration = Duration::from_millis(250);

impl<K: Ord + Clone, const N: usize> Limiters<K, N> {
    /// A table of at most `max` entries.
    pub fn new(max: usize) -> Self {
        Self { entries: BTreeMap::new(), shared: [Bucket::default(); N], max, swept: None }
    }

    /// The buckets of that one; the shared ones if the table is full.
    pub fn of(&mut self, key: &K, now: Instant) -> &mut [Bucket; N] {
        if !self.entries.contains_key(key) && self.entries.len() >= self.max {
            self.sweep(now);
            if self.entries.len() >= self.max {
                return &mut self.shared;
            }
        }
        self.entries.entry(key.clone()).or_insert([Bucket::default(); N])
    }

    /// Entries that are kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_none_or(|swept| now >= swept + SWEEP_PAUSE) {
            self.entries.retain(|_, buckets| !buckets.iter().all(|bucket| bucket.is_full(now)));
            self.swept = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEN: Rate = Rate { per_second: 10.0, burst: 20.0 };

    fn at(ms: u64) -> Instant {
        Instant::default() + Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_is_had_at_once_and_then_the_rate() {
        let mut bucket = Bucket::default();
        let taken = (0..).find(|_| bucket.take(TEN, 1.0, at(0)).is_err());
        assert_eq!(taken, Some(20));
        assert_eq!(bucket.take(TEN, 1.0, at(0)), Err(Duration::from_millis(100)));
        assert!(bucket.take(TEN, 1.0, at(100)).is_ok());
        assert!(bucket.take(TEN, 1.0, at(150)).is_err());
    }

    #[test]
    fn what_was_refused_costs_nothing() {
        let mut bucket = Bucket::default();
        assert!(bucket.take(TEN, 21.0, at(0)).is_err());
        assert!(bucket.take(TEN, 20.0, at(0)).is_ok());
        assert!((0..100).all(|_| bucket.take(TEN, 1.0, at(99)).is_err()));
        assert!(bucket.take(TEN, 1.0, at(100)).is_ok());
    }

    proptest! {
        #[test]
        fn no_more_than_the_burst_and_the_rate_is_ever_had(steps in prop::collection::vec((0u64..500, 1u8..10), 1..200)) {
            let (mut bucket, mut now, mut had) = (Bucket::default(), 0, 0.0);
            for (pause, units) in steps {
                now += pause;
                match bucket.take(TEN, f64::from(units), at(now)) {
                    Ok(level) => {
                        had += f64::from(units);
                        prop_assert!((-1e-6..=TEN.burst).contains(&level.remaining));
                    }
                    Err(wait) => {
                        let mut later = bucket;
                        prop_assert!(later.take(TEN, f64::from(units), at(now) + wait).is_ok());
                    }
                }
                prop_assert!(had <= TEN.burst + TEN.per_second * now as f64 / 1000.0 + 1e-6);
            }
        }
    }

    #[test]
    fn a_table_that_is_full_forgets_those_who_used_nothing_of_late() {
        let mut limiters: Limiters<u32, 1> = Limiters::new(100);
        for key in 0..100 {
            limiters.of(&key, at(0))[0].take(TEN, 20.0, at(0)).expect("the first use");
        }
        for key in 100..1_000 {
            let _ = limiters.of(&key, at(1))[0].take(TEN, 20.0, at(1));
        }
        assert_eq!(limiters.len(), 100);
        assert!(limiters.of(&5, at(1))[0].take(TEN, 1.0, at(1)).is_err(), "who had all is remembered");
        assert!(limiters.of(&5_000, at(1))[0].take(TEN, 1.0, at(1)).is_err(), "newcomers share a place");
        assert!(limiters.of(&5_000, at(2_500))[0].take(TEN, 1.0, at(2_500)).is_ok());
        assert_eq!(limiters.len(), 1);
    }
}
