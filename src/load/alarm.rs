//! Waking up to the microsecond: `epoll` counts in milliseconds, a timer of the kernel does not.
//!
//! Where there is no such timer the poll's own time-out serves, rounded up to the next millisecond.

#[cfg(target_os = "linux")]
mod kernel {
    use mio::unix::SourceFd;
    use mio::{Interest, Registry, Token};
    use std::io;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::time::Duration;

    /// A timer of the kernel.
    pub(in crate::load) struct Alarm(OwnedFd);

    impl Alarm {
        /// A timer that makes `token` readable.
        pub(in crate::load) fn new(registry: &Registry, token: Token) -> io::Result<Alarm> {
            let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
            // SAFETY: a plain system call; the descriptor is new and nobody else's.
            let fd = unsafe {
                match libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) {
                    -1 => return Err(io::Error::last_os_error()),
                    fd => OwnedFd::from_raw_fd(fd),
                }
            };
            registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
            Ok(Alarm(fd))
        }

        /// Sets it to ring once after `wait`; what it was set to before is forgotten.
        pub(in crate::load) fn set(&self, wait: Duration) -> io::Result<()> {
            let value = libc::timespec {
                tv_sec: wait.as_secs() as libc::time_t,
                // Zero would stop the timer.
                tv_nsec: wait.subsec_nanos().max(1) as libc::c_long,
            };
            let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            let time = libc::itimerspec { it_interval: zero, it_value: value };
            // SAFETY: the descriptor is open and the time is a valid one of our own.
            match unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &time, std::ptr::null_mut()) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }
}

#[cfg(target_os = "linux")]
pub(super) use kernel::Alarm;

/// None: the poll's time-out is all there is.
#[cfg(not(target_os = "linux"))]
pub(super) struct Alarm;

#[cfg(not(target_os = "linux"))]
impl Alarm {
    pub(super) fn new(_: &mio::Registry, _: mio::Token) -> std::io::Result<Alarm> {
        Ok(Alarm)
    }

    pub(super) fn set(&self, _: std::time::Duration) -> std::io::Result<()> {
        Ok(())
    }
}
