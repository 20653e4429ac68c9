//! Load for a server: thousands of connections from one thread, with every answer checked.
//!
//! Owns the generator behind `suzu load` and `suzu tune`: it opens connections at a rate, sends at a pace, and accounts for
//! every message until the last answer. It never decides whether a figure is good: bounds are the caller's.
//!
//! **No stall is hidden.** At an open pace ([`Pace::Every`]) a message has a time when it is due, and its latency counts
//! from then, whether or not the generator or the server was late to it. So a server that stands still for a second
//! shows in every message that was due within that second, and not in one alone.
//!
//! **Answers are checked as they come.** What comes back twice, in another order, with other bytes or not at all is counted
//! and makes the error rate; for streams so is a hole in the results, a wrong checksum of the model `echo`, and a
//! balance that is not that of the audio sent.
//!
//! The parts: `plan` what to do; `target` where; `generator` the loop of sockets and times; `peer` one connection; `talk` and
//! beneath it `echo`, `stream` and `http` what is said on it and checked; `tally` what is counted; `report` what it came to.
//!
//! ```no_run
//! use suzu::load::{Plan, run};
//!
//! # fn main() -> Result<(), suzu::load::Error> {
//! let plan = Plan::new("ws://127.0.0.1:8080/v1/echo")?;
//! let report = run(&plan, |_progress| ())?;
//! assert_eq!(report.messages.lost, 0);
//! println!("p99 {} ms", report.latency_ms.p99);
//! # Ok(())
//! # }
//! ```

mod alarm;
mod audio;
mod checksums;
mod echo;
mod generator;
mod http;
mod infer;
mod peer;
mod plan;
mod report;
mod stream;
mod talk;
mod tally;
mod target;
#[cfg(test)]
mod tests;
mod usage;

pub use audio::Audio;
pub use generator::run;
pub use infer::{Form, infer_request};
pub use plan::{Length, Pace, Plan, Pooling};
pub use report::{Connections, Latency, Messages, Moment, Progress, Report, Seconds, ServerUsage};
pub use target::{Ask, Request, Target};

use std::fmt;

/// Why a load could not be made at all. What fails while it runs is counted in the [`Report`] instead.
#[derive(Debug)]
pub enum Error {
    /// The plan asks for what cannot be; the text says what and what to write instead.
    Plan(String),
    /// The machine does not give what the generator needs.
    System {
        /// What was wanted.
        doing: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Plan(why) => f.write_str(why),
            Error::System { doing, source } => write!(f, "{doing} failed: {source}"),
        }
    }
}

impl std::error::Error for Error {}
