//! What the operating system says of the process: its figures, and how many descriptors it may have.

use super::clock::thread_cpu_time;
use crate::server::{ProcessFigures, cores};
use crate::time::Instant;
use std::io;
use std::time::Duration;

/// How often the figures are taken.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Gathers the figures for the core's metrics.
///
/// Taking them costs about 40 us, whatever the number of descriptors: their directory is never walked.
#[derive(Debug)]
pub(super) struct ProcessMeter {
    due: Instant,
    figures: ProcessFigures,
    /// Descriptors besides the loop's own connections when it was made; for systems that cannot count them.
    descriptors_besides: u64,
}

impl ProcessMeter {
    pub(super) fn new() -> Self {
        Self {
            due: Instant::default(),
            figures: ProcessFigures { cores: cores(), ..ProcessFigures::default() },
            descriptors_besides: open_descriptors().unwrap_or(0),
        }
    }

    /// When the next figures are to be taken.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// A turn ended that took so long.
    pub(super) fn on_turn(&mut self, took: Duration) {
        self.figures.loop_turns += 1;
        self.figures.loop_turn_max = self.figures.loop_turn_max.max(took);
    }

    /// So many times has the machine refused a descriptor.
    pub(super) fn set_accept_failures(&mut self, failures: u64) {
        self.figures.accept_failures = failures;
    }

    /// So many handshakes of TLS were done, and failed.
    pub(super) fn set_handshakes(&mut self, (done, failed): (u64, u64)) {
        (self.figures.tls_handshakes, self.figures.tls_handshakes_failed) = (done, failed);
    }

    /// So many dead letters were written, and lost.
    pub(super) fn set_dead_letters(&mut self, (written, lost): (u64, u64)) {
        (self.figures.dead_letters_written, self.figures.dead_letters_lost) = (written, lost);
    }

    /// So many headers of proxies were wrong or late.
    pub(super) fn set_headers_refused(&mut self, refused: u64) {
        self.figures.proxy_headers_refused = refused;
    }

    /// The figures, if they are due.
    pub(super) fn poll(&mut self, now: Instant, connections: usize) -> Option<ProcessFigures> {
        if now < self.due {
            return None;
        }
        self.due = now + REPORT_INTERVAL;
        self.figures.descriptors =
            counted_descriptors().unwrap_or(self.descriptors_besides + connections as u64);
        sample(&mut self.figures);
        let figures = self.figures;
        self.figures.loop_turn_max = Duration::ZERO;
        Some(figures)
    }
}

/// Resident memory, CPU time and threads. What cannot be read stays as it was: it must not matter to the loop that
/// the process has no descriptor left to read it with.
#[cfg(target_os = "linux")]
fn sample(figures: &mut ProcessFigures) {
    let Ok(stat) = procfs::process::Process::myself().and_then(|process| process.stat()) else { return };
    figures.resident_bytes = stat.rss * procfs::page_size();
    figures.threads = u64::try_from(stat.num_threads).unwrap_or(0);
    let ticks_per_s = procfs::ticks_per_second().max(1);
    figures.cpu_time = Duration::from_millis((stat.utime + stat.stime) * 1000 / ticks_per_s);
    figures.loop_cpu_time = thread_cpu_time().unwrap_or_default();
}

#[cfg(not(target_os = "linux"))]
fn sample(_: &mut ProcessFigures) {}

/// The number of open descriptors where the kernel keeps count: since Linux 6.2 it is the directory's size.
fn counted_descriptors() -> Option<u64> {
    if cfg!(not(target_os = "linux")) {
        return None;
    }
    std::fs::metadata("/proc/self/fd").ok().map(|meta| meta.len()).filter(|&count| count > 0)
}

/// The number of open descriptors, by walking their directory if need be: only before there are many.
pub(super) fn open_descriptors() -> Option<u64> {
    let walk = || Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as u64);
    counted_descriptors().or_else(walk)
}

/// Raises the soft limit of open descriptors to the hard one and returns what holds then.
#[cfg(unix)]
pub(crate) fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a pointer to a valid `rlimit` that lives across the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: as above.
    if limit.rlim_cur < limit.rlim_max && unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 {
        limit = raised;
    }
    // The type is narrower on some systems.
    #[allow(clippy::unnecessary_cast)]
    Ok(limit.rlim_cur as u64)
}

#[cfg(not(unix))]
pub(crate) fn raise_descriptor_limit() -> io::Result<u64> {
    Ok(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    #[test]
    fn figures_come_once_a_second() {
        let mut meter = ProcessMeter::new();
        assert!(meter.poll(at(5), 0).is_some());
        assert!(meter.poll(at(1004), 0).is_none());
        assert_eq!(meter.due(), at(1005));
        assert!(meter.poll(at(1005), 0).is_some());
    }

    #[test]
    fn the_longest_turn_is_that_since_the_last_figures() {
        let mut meter = ProcessMeter::new();
        meter.on_turn(Duration::from_millis(3));
        meter.on_turn(Duration::from_millis(1));
        meter.set_accept_failures(7);
        let first = meter.poll(at(0), 0).unwrap();
        assert_eq!((first.loop_turns, first.loop_turn_max), (2, Duration::from_millis(3)));
        assert_eq!(first.accept_failures, 7);
        meter.on_turn(Duration::from_millis(2));
        let second = meter.poll(at(1000), 0).unwrap();
        assert_eq!((second.loop_turns, second.loop_turn_max), (3, Duration::from_millis(2)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_figures_are_those_of_this_process() {
        let files: Vec<_> = (0..20).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let figures = ProcessMeter::new().poll(at(0), 0).unwrap();
        assert!(figures.resident_bytes > 100_000, "{figures:?}");
        assert!(figures.descriptors >= files.len() as u64, "{figures:?}");
        assert!(figures.threads >= 1, "{figures:?}");
    }

    #[cfg(unix)]
    #[test]
    fn the_descriptor_limit_is_at_its_highest() {
        let first = raise_descriptor_limit().unwrap();
        assert!(first > 0);
        assert_eq!(raise_descriptor_limit().unwrap(), first);
    }
}
