//! The bound on this process's memory, for trying models that may ask for any amount.
//!
//! Called once by `suzu models check --memory-max`, before the first model is opened.

use std::io;

/// Address space that an engine reserves and never fills: an arena of the allocator for each of its threads.
#[cfg(unix)]
const RESERVED_BYTES: u64 = 128 << 20;

/// Lets the process take so many bytes more than it has. What asks for more aborts it.
#[cfg(unix)]
pub(super) fn limit(bytes: u64) -> io::Result<()> {
    let most = bytes.saturating_add(address_space()).saturating_add(RESERVED_BYTES);
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a pointer to a valid `rlimit` that lives across the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The type is narrower on some systems.
    #[allow(clippy::unnecessary_cast)]
    let lower = (most as libc::rlim_t).min(limit.rlim_max);
    let lowered = libc::rlimit { rlim_cur: lower, rlim_max: limit.rlim_max };
    // SAFETY: as above.
    if unsafe { libc::setrlimit(libc::RLIMIT_AS, &lowered) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(not(unix))]
pub(super) fn limit(_: u64) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no limit for the memory of a process"))
}

/// What the process has by now; nothing where that cannot be told.
#[cfg(target_os = "linux")]
fn address_space() -> u64 {
    let statm = procfs::process::Process::myself().and_then(|process| process.statm());
    statm.map_or(0, |statm| statm.size * procfs::page_size())
}

#[cfg(all(unix, not(target_os = "linux")))]
fn address_space() -> u64 {
    0
}
