//! What a process of this machine uses: its CPU time and its memory.

use std::time::Duration;

/// What a process has used up to a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    /// CPU time of all its threads, ended ones too.
    pub(super) cpu: Duration,
    /// Memory that is resident.
    pub(super) resident_bytes: u64,
    /// The most that was.
    pub(super) resident_bytes_max: u64,
}

/// Reads what the kernel tells. `None` if there is no such process or the system does not tell.
#[cfg(target_os = "linux")]
pub(super) fn read(pid: u32) -> Option<Usage> {
    let pid = i32::try_from(pid).ok()?;
    let status = procfs::process::Process::new(pid).ok()?.status().ok()?;
    Some(Usage {
        cpu: cpu(pid)?,
        resident_bytes: status.vmrss? * 1024,
        resident_bytes_max: status.vmhwm? * 1024,
    })
}

/// CPU time to the nanosecond, where `/proc` counts in hundredths of a second.
#[cfg(target_os = "linux")]
fn cpu(pid: i32) -> Option<Duration> {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both calls write to valid places of their own.
    let result = unsafe {
        match libc::clock_getcpuclockid(pid, &mut clock) {
            0 => libc::clock_gettime(clock, &mut time),
            error => error,
        }
    };
    (result == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn read(_pid: u32) -> Option<Usage> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something_and_no_process_uses_nothing() {
        let usage = read(std::process::id()).expect("it runs");
        assert!(usage.resident_bytes > 100_000 && usage.resident_bytes_max >= usage.resident_bytes);
        assert!(usage.cpu > Duration::ZERO);
        // Greater than any that Linux gives (2^22).
        assert_eq!(read(1 << 30), None);
    }
}
