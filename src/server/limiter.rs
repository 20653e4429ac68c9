//! How much one principal or address may have: rates as token buckets, and a bounded table of them.
//!
//! A bucket is one instant, the *theoretical arrival time* of the generic cell rate algorithm (ITU-T I.371, annex A): what is
//! taken moves it ahead, time catches up with it, and it may be ahead by the burst at most. Who has used nothing of late has
//! an entry that says nothing, so forgetting it changes nothing, and forgetting who used little changes little: that is how the
//! table stays bounded.

use crate::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
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
}

/// Buckets of many, at most so many; `N` buckets for each.
///
/// When the table is full, a newcomer takes the place of whoever's buckets are full soonest: a flood finds places, those of its own
/// kind, and who has used much is remembered longest.
pub struct Limiters<K, const N: usize> {
    entries: BTreeMap<K, [Bucket; N]>,
    /// Each entry once, by when its last bucket is full.
    order: BTreeSet<(Instant, K)>,
    max: usize,
}

impl<K: Ord + Clone, const N: usize> Limiters<K, N> {
    /// A table of at most `max` entries.
    pub fn new(max: usize) -> Self {
        Self { entries: BTreeMap::new(), order: BTreeSet::new(), max }
    }

    /// Takes units from one of the buckets of `key`.
    ///
    /// # Errors
    /// As [`Bucket::take`].
    pub fn take(
        &mut self,
        key: &K,
        bucket: usize,
        rate: Rate,
        units: f64,
        now: Instant,
    ) -> Result<Level, Duration> {
        let mut buckets = self.peek(key);
        let level = buckets[bucket].take(rate, units, now)?;
        if let Some(before) = self.entries.insert(key.clone(), buckets) {
            self.order.remove(&(full_at(&before), key.clone()));
        } else if self.entries.len() > self.max
            && let Some((_, soonest)) = self.order.pop_first()
        {
            self.entries.remove(&soonest);
        }
        self.order.insert((full_at(&buckets), key.clone()));
        Ok(level)
    }

    /// The buckets of `key`, without keeping anything.
    pub fn peek(&self, key: &K) -> [Bucket; N] {
        self.entries.get(key).copied().unwrap_or([Bucket::default(); N])
    }

    /// Entries that are kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

fn full_at<const N: usize>(buckets: &[Bucket; N]) -> Instant {
    buckets.iter().map(|bucket| bucket.full_at).max().unwrap_or_default()
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
    fn a_table_that_is_full_forgets_those_who_used_least() {
        let mut limiters: Limiters<u32, 1> = Limiters::new(100);
        for key in 0..50 {
            limiters.take(&key, 0, TEN, 20.0, at(0)).expect("the first use");
        }
        for key in 1_000..10_000 {
            limiters.take(&key, 0, TEN, 1.0, at(1)).expect("a newcomer has a place of its own");
            assert!(limiters.len() <= 100 && limiters.order.len() == limiters.len());
        }
        let remembered = (0..50).filter(|key| limiters.peek(key)[0].take(TEN, 1.0, at(1)).is_err()).count();
        assert_eq!(remembered, 50, "who had all is remembered");
    }
}
