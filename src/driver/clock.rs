//! The only place that reads clocks. Everything else is told the time.

use crate::time::{Instant, Now};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A monotonic clock that counts from its own making, and the wall clock beside it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock whose origin is now.
    #[allow(clippy::new_without_default, clippy::disallowed_methods)]
    pub fn new() -> Self {
        Self { origin: std::time::Instant::now() }
    }

    /// The present, on both clocks.
    #[allow(clippy::disallowed_methods)]
    pub fn now(&self) -> Now {
        // A wall clock set before 1970 shows as 1970: it is only ever shown.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { instant: self.instant(), unix_ms: unix.as_millis() as u64 }
    }

    /// The present on the monotonic clock only: for measuring how long something took.
    pub fn instant(&self) -> Instant {
        Instant::from_origin(self.origin.elapsed())
    }
}

/// CPU time that this thread has used so far; None where the system does not tell.
#[cfg(unix)]
pub(super) fn thread_cpu_time() -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a valid timespec that outlives the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    // The types are narrower on some systems.
    #[allow(clippy::unnecessary_cast)]
    (result == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

#[cfg(not(unix))]
pub(super) fn thread_cpu_time() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_from_the_making_and_does_not_run_backwards() {
        let clock = Clock::new();
        let mut last = Instant::default();
        for _ in 0..1000 {
            let now = clock.now().instant;
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn a_copy_tells_the_same_time() {
        let clock = Clock::new();
        let copy = clock;
        let earlier = clock.instant();
        assert!(copy.instant() >= earlier);
        assert!(clock.instant() >= earlier);
    }

    #[cfg(unix)]
    #[test]
    fn a_thread_that_sleeps_uses_no_time() {
        let slept = std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            thread_cpu_time().expect("the system tells")
        });
        assert!(slept.join().expect("it ends") < Duration::from_millis(20));
        let before = thread_cpu_time().expect("the system tells");
        let mut sum = 0u64;
        while thread_cpu_time().expect("the system tells") == before {
            sum = std::hint::black_box(sum + 1);
        }
    }

    #[test]
    fn the_wall_clock_is_in_milliseconds() {
        let year_2020_ms = 1_577_836_800_000;
        let year_2200_ms = 7_258_118_400_000;
        assert!((year_2020_ms..year_2200_ms).contains(&Clock::new().now().unix_ms));
    }
}
