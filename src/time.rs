//! The server's own time: instants that are plain numbers, handed in by whoever drives the core.
//!
//! Nothing here reads a clock. The driver reads it once a turn (`driver/clock.rs`) and passes the value to every
//! call, so the simulation can jump hours in a microsecond and the same inputs always give the same outputs.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the monotonic clock: nanoseconds since an origin that the driver chose.
///
/// Instants of one server can be compared and subtracted; those of two drivers cannot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The instant that lies `since_origin` after the driver's origin.
    pub const fn from_origin(since_origin: Duration) -> Self {
        // 2^64 ns are 584 years: no process runs that long.
        Self(since_origin.as_nanos() as u64)
    }

    /// How much time passed from `earlier` to here; zero if `earlier` is in fact later.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Instant) -> Duration {
        self.since(earlier)
    }
}

/// The present, as the driver read it once for the whole turn of its loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic: for every interval, deadline and time-out.
    pub instant: Instant,
    /// Wall clock, milliseconds since 1970 (UTC): to be shown, and held against the times that stand in credentials.
    pub unix_ms: u64,
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}s", self.0 as f64 / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_never_go_below_zero() {
        let early = Instant::from_origin(Duration::from_secs(1));
        let late = early + Duration::from_millis(250);
        assert_eq!(late - early, Duration::from_millis(250));
        assert_eq!(early - late, Duration::ZERO);
    }

    #[test]
    fn adding_for_ever_stays_at_the_end_of_time() {
        let end = Instant::default() + Duration::MAX;
        assert_eq!(end + Duration::from_secs(1), end);
    }
}
