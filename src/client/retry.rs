//! Trying again: which errors are worth it, how long to wait in between, and when it is enough.
//!
//! Owns the decision and the limits. It never waits by itself: whoever calls does, and can stop it at any moment.

use super::random::Random;
use super::{Backoff, Error};
use crate::driver::Clock;
use std::time::Duration;

/// How often, and for how long, something is tried again.
///
/// ```no_run
/// use std::sync::mpsc;
/// use suzu::client::{Options, Retry, Stream};
///
/// # fn main() -> Result<(), suzu::client::Error> {
/// // Whoever holds `stop` ends the waiting, by a message or by dropping it.
/// let (stop, stopped) = mpsc::channel::<()>();
/// let options = Options::default();
/// let stream = Retry::default().run(
///     || Stream::connect("ws://127.0.0.1:8080", &options),
///     |error, delay| {
///         eprintln!("{error}; trying again in {delay:?}");
///         stopped.recv_timeout(delay) == Err(mpsc::RecvTimeoutError::Timeout)
///     },
/// )?;
/// # drop((stream, stop));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Ceiling of the first wait; it doubles from failure to failure. 0.5 s.
    pub base: Duration,
    /// Greatest ceiling. 30 s.
    pub cap: Duration,
    /// Attempts in all, the first included. No limit by default.
    pub attempts_max: u32,
    /// No attempt begins later than this after the first began. 1 min.
    pub time_max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(500),
            cap: Duration::from_secs(30),
            attempts_max: u32::MAX,
            time_max: Duration::from_secs(60),
        }
    }
}

impl Retry {
    /// Calls `attempt` until it succeeds, fails with what is not worth another attempt
    /// ([`Error::is_retryable`]), or a limit is met. Before each further attempt it calls `wait` with the last error and how
    /// long to wait. `wait` does the waiting, and gives `false` to stop.
    ///
    /// Each wait is drawn at random below its ceiling; if the server said when to come back, it begins there. The last
    /// wait is cut short so that one attempt falls on the end of [`Retry::time_max`], but never below what the server said.
    ///
    /// # Errors
    /// The last attempt's.
    pub fn run<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, Error>,
        mut wait: impl FnMut(&Error, Duration) -> bool,
    ) -> Result<T, Error> {
        let (clock, mut random) = (Clock::new(), Random::default());
        let mut backoff = Backoff::new(self.base, self.cap);
        let began = clock.instant();
        loop {
            let error = match attempt() {
                Err(error) => error,
                success => return success,
            };
            let elapsed = clock.instant() - began;
            match self.next_delay(&mut backoff, &error, elapsed, random.number()) {
                Some(delay) if wait(&error, delay) => {}
                _ => return Err(error),
            }
        }
    }

    /// How long to wait after `error`; `None` if that was the last attempt.
    fn next_delay(
        &self,
        backoff: &mut Backoff,
        error: &Error,
        elapsed: Duration,
        random: u64,
    ) -> Option<Duration> {
        let left = self.time_max.checked_sub(elapsed).filter(|left| !left.is_zero())?;
        if !error.is_retryable() || backoff.failed().saturating_add(1) >= self.attempts_max {
            return None;
        }
        let at_least = error.retry_after().unwrap_or_default();
        // Whoever was told the same time must not come back at the same time: the jitter is added to it.
        let delay = at_least.saturating_add(backoff.next_delay(random)).min(left);
        (delay >= at_least).then_some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(status: u16, code: Option<&str>, retry_after: Option<Duration>) -> Error {
        Error::Refused { status, code: code.map(str::to_owned), message: "no".into(), retry_after }
    }

    /// Attempts and waits of a series whose every attempt fails with 503.
    fn play(retry: &Retry, wait: impl Fn(u32) -> bool) -> (u32, Vec<Duration>) {
        let (mut attempts, mut waits) = (0, Vec::new());
        let result: Result<(), Error> = retry.run(
            || {
                attempts += 1;
                Err(refused(503, Some("overloaded"), None))
            },
            |error, delay| {
                assert!(error.to_string().contains("overloaded"));
                waits.push(delay);
                wait(waits.len() as u32)
            },
        );
        assert!(matches!(result, Err(Error::Refused { status: 503, .. })));
        (attempts, waits)
    }

    #[test]
    fn it_goes_on_until_success_and_waits_in_between() {
        let (mut attempts, mut waits) = (0, 0);
        let result = Retry::default().run(
            || {
                attempts += 1;
                if attempts < 4 { Err(Error::Disconnected) } else { Ok("open") }
            },
            |_, _| {
                waits += 1;
                true
            },
        );
        assert_eq!((result.expect("the fourth succeeds"), attempts, waits), ("open", 4, 3));
    }

    #[test]
    fn it_ends_with_the_attempts_or_when_it_is_told_to() {
        let limited = Retry { attempts_max: 5, ..Retry::default() };
        let (attempts, waits) = play(&limited, |_| true);
        assert_eq!((attempts, waits.len()), (5, 4));
        assert_eq!(play(&Retry::default(), |waits| waits < 3).0, 3, "stopped while waiting for the fourth");
        assert_eq!(play(&Retry { time_max: Duration::ZERO, ..Retry::default() }, |_| true).0, 1);
    }

    #[test]
    fn what_will_not_get_better_is_not_tried_again() {
        for error in [refused(404, Some("model_not_found"), None), Error::Url("no".into()), Error::Closed] {
            let mut error = Some(error);
            let result: Result<(), Error> =
                Retry::default().run(|| Err(error.take().expect("one attempt")), |_, _| true);
            assert!(result.is_err());
        }
    }

    proptest! {
        #[test]
        fn no_wait_is_shorter_than_the_server_asks_nor_longer_than_the_time_left(
            (time_max_ms, elapsed_ms, retry_after_s) in (0u64..100_000, 0u64..100_000, prop::option::of(0u64..100)),
            (failed, random) in (0u32..40, any::<u64>()),
        ) {
            let retry = Retry { time_max: Duration::from_millis(time_max_ms), ..Retry::default() };
            let mut backoff = Backoff::default();
            for _ in 0..failed {
                backoff.next_delay(0);
            }
            let ceiling = backoff.ceiling();
            let retry_after = retry_after_s.map(Duration::from_secs);
            let error = refused(503, None, retry_after);
            let elapsed = Duration::from_millis(elapsed_ms);
            let at_least = retry_after.unwrap_or_default();
            match retry.next_delay(&mut backoff, &error, elapsed, random) {
                Some(delay) => {
                    prop_assert!(delay >= at_least && delay <= at_least + ceiling);
                    prop_assert!(elapsed + delay <= retry.time_max);
                }
                None => prop_assert!(elapsed >= retry.time_max || elapsed + at_least > retry.time_max),
            }
        }
    }
}
