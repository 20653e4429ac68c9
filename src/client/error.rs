//! What can go wrong between a client and a server.

use crate::reason::Fault;
use std::fmt;
use std::io;
use std::time::Duration;

/// Why the client could not go on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The URL cannot be used; the text says why.
    Url(String),
    /// No connection could be made.
    Connect {
        /// Host and port.
        address: String,
        /// What the operating system said of the last address tried.
        source: io::Error,
    },
    /// The server answered and did not take the stream.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The protocol's error code, if there was one.
        code: Option<String>,
        /// What the server said.
        message: String,
        /// When to try again, if the server said so.
        retry_after: Option<Duration>,
    },
    /// The other side does not speak the protocol.
    Protocol(Fault),
    /// Nothing moved for as long as [`super::Options`] allows.
    TimedOut(&'static str),
    /// The connection ended without a close.
    Disconnected,
    /// The stream has been closed, so nothing can be sent.
    Closed,
    /// The operating system failed.
    Io(io::Error),
}

impl Error {
    /// The error of a read or write, with those that have a name of their own recognised.
    pub(super) fn from_io(error: io::Error, doing: &'static str) -> Self {
        match error.kind() {
            // Which of the two a socket's time-out gives depends on the platform.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::TimedOut(doing),
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                Error::Disconnected
            }
            _ => Error::Io(error),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Url(why) => f.write_str(why),
            Error::Connect { address, source } => write!(f, "cannot connect to {address}: {source}"),
            Error::Refused { status, code, message, retry_after } => {
                write!(f, "the server refused the stream with HTTP {status}")?;
                if let Some(code) = code {
                    write!(f, " ({code})")?;
                }
                write!(f, ": {message}")?;
                match retry_after {
                    Some(wait) => write!(f, " (try again in {} s)", wait.as_secs()),
                    None => Ok(()),
                }
            }
            Error::Protocol(fault) => write!(f, "the server does not speak the protocol: {}", fault.message),
            Error::TimedOut(doing) => write!(f, "nothing moved for too long while {doing}"),
            Error::Disconnected => f.write_str("the connection ended before the stream did"),
            Error::Closed => f.write_str("the stream has been closed"),
            Error::Io(error) => write!(f, "the connection failed: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Connect { source, .. } | Error::Io(source) => Some(source),
            Error::Protocol(fault) => Some(fault),
            _ => None,
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Error::Protocol(fault)
    }
}
