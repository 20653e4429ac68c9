//! The shell around the server's core: sockets, threads and the clock, and no policy.
//!
//! [`EventLoop`] owns every socket and sleeps only in `poll`. Whatever arrives it gives to
//! [`crate::server::Server`]; whatever the server wants done it does. It never decides who is served, what is
//! answered or when something is late: limits that stand here are the machine's (descriptors, one turn's share of
//! the loop), not the service's.
//!
//! The parts: `event_loop` the turn and nothing else; `listener` accepting, also without descriptors; `socket` and
//! `sockets` edge-triggered reading and writing, and who is to be read or written next; `tls`
//! what happens to their bytes on the way, `greetings` who is late with the handshake; `introductions` connections of proxies
//! that have not said whose they are; `workers` the threads that infer, `in_place` what is too short for them; `loader` the thread
//! that asks the folder of models, `reader` the one that reads credentials and certificate; `webhooks` those that
//! post, and `dead_letters` the one that keeps what nobody took; `doorbell` how they wake the loop; `process` what the operating system says of the process; `clock` the
//! only reader of clocks.
//!
//! As a library it sets no logger, no signal handler and no environment, and two loops fit in one process. One
//! thing is the process's and not the loop's: [`EventLoop::bind`] raises the soft limit of open descriptors to the
//! hard one.

mod clock;
mod dead_letters;
mod doorbell;
mod event_loop;
mod greetings;
mod in_place;
mod introductions;
mod listener;
mod loader;
mod process;
mod reader;
mod socket;
mod sockets;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;
mod webhooks;
mod workers;

use crate::config::Config;

pub use clock::Clock;
pub use event_loop::{EventLoop, Handle};
#[cfg(feature = "tools")]
pub(crate) use process::raise_descriptor_limit;

/// Reads what TLS needs and forgets it again: whether the files that the configuration names can be used.
pub(crate) fn check_tls(config: &Config) -> std::io::Result<()> {
    tls::Acceptor::open(config).map(drop)
}

/// Reads what webhooks need and forgets it again: whether the secret and the authorities can be used.
pub(crate) fn check_webhooks(config: &Config) -> std::io::Result<()> {
    webhooks::check(config)
}
