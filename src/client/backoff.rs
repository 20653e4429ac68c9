//! How long to wait between attempts: ever longer, and differently for each client.
//!
//! Only arithmetic: it neither waits nor draws random numbers. "Full jitter": each wait is drawn evenly from nothing up
//! to a ceiling that doubles, so clients that were all turned away at one moment do not all come back at another.

use std::time::Duration;

/// The waits of one series of attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failed: u32,
}

impl Default for Backoff {
    /// From 0.5 s up to 30 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(30))
    }
}

impl Backoff {
    /// `base` is the ceiling of the first wait; it doubles with each further one, up to `cap`.
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failed: 0 }
    }

    /// How long the next wait can be at most.
    pub fn ceiling(&self) -> Duration {
        let factor = 2u32.checked_pow(self.failed).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// The next wait: that part of the ceiling that `random` is of all `u64`s.
    pub fn next_delay(&mut self, random: u64) -> Duration {
        let ceiling = self.ceiling();
        self.failed = self.failed.saturating_add(1);
        // A Duration may hold more nanoseconds than a u64: both halves are scaled for themselves.
        let part = |amount: u64| (u128::from(amount) * u128::from(random)) >> 64;
        let whole = u128::from(ceiling.as_secs()) * u128::from(random);
        let fraction = ((whole & u128::from(u64::MAX)) * 1_000_000_000) >> 64;
        let nanos = part(u64::from(ceiling.subsec_nanos())) + fraction;
        Duration::from_secs((whole >> 64) as u64) + Duration::from_nanos(nanos as u64)
    }

    /// Waits drawn since the beginning or the last reset.
    pub fn failed(&self) -> u32 {
        self.failed
    }

    /// Begins anew: for after a success.
    pub fn reset(&mut self) {
        self.failed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn by_default_the_ceiling_doubles_from_half_a_second_to_thirty() {
        let mut backoff = Backoff::default();
        let mut ceilings_ms = Vec::new();
        for _ in 0..8 {
            ceilings_ms.push(backoff.ceiling().as_millis());
            backoff.next_delay(0);
        }
        assert_eq!(ceilings_ms, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        backoff.reset();
        assert_eq!(backoff, Backoff::default());
    }

    #[test]
    fn the_waits_fill_the_whole_range() {
        let second = Duration::from_secs(1);
        let delay = |random| Backoff::new(second, second).next_delay(random);
        assert_eq!(delay(0), Duration::ZERO);
        assert_eq!(delay(1 << 63), Duration::from_millis(500));
        assert_eq!(delay(3 << 62), Duration::from_millis(750));
        assert!(delay(u64::MAX) >= second - Duration::from_nanos(2));
    }

    proptest! {
        #[test]
        fn no_wait_exceeds_its_ceiling_and_no_ceiling_the_cap(
            (base, cap) in (any::<Duration>(), any::<Duration>()),
            numbers in prop::collection::vec(any::<u64>(), 1..80),
        ) {
            let mut backoff = Backoff::new(base, cap);
            let mut last = Duration::ZERO;
            for (index, random) in numbers.into_iter().enumerate() {
                let ceiling = backoff.ceiling();
                prop_assert!(ceiling >= last && ceiling <= cap, "{ceiling:?} after {last:?}");
                prop_assert!(backoff.next_delay(random) <= ceiling);
                prop_assert_eq!(backoff.failed() as usize, index + 1);
                last = ceiling;
            }
        }

        #[test]
        fn a_greater_number_never_waits_shorter(base in any::<Duration>(), one in any::<u64>(), other in any::<u64>()) {
            let delay = |random| Backoff::new(base, Duration::MAX).next_delay(random);
            prop_assert!(delay(one.min(other)) <= delay(one.max(other)));
        }
    }
}
