//! What can go wrong between a client and a server.

use crate::reason::{self, Fault};
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
    /// There is a connection, and TLS failed on it: a certificate that is not trusted, or a server that speaks none.
    Tls {
        /// Host and port.
        address: String,
        /// What was wrong, and what to do.
        why: String,
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
    /// Every connection of the pool was taken for as long as [`super::PoolSettings::max_wait_time`].
    PoolExhausted {
        /// How many connections the pool may have.
        max_connections: usize,
        /// How long this caller stood in line.
        waited: Duration,
    },
    /// The pool has been closed.
    PoolClosed,
    /// The operating system failed.
    Io(io::Error),
}

impl Error {
    /// Whether the same attempt may succeed later: nobody listened, nothing moved, the connection broke, or the server
    /// refused for a reason that passes. Of a refusal this follows the protocol's own table; of one that is not the
    /// protocol's, such as a proxy's, the status (408, 425, 429, 502, 503, 504).
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Connect { source, .. } | Error::Io(source) => is_passing(source.kind()),
            Error::Refused { status, code, .. } => reason::refusal_is_retryable(*status, code.as_deref()),
            Error::TimedOut(_) | Error::Disconnected | Error::PoolExhausted { .. } => true,
            Error::Url(_) | Error::Tls { .. } | Error::Protocol(_) | Error::Closed | Error::PoolClosed => {
                false
            }
        }
    }

    /// How long the server asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

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

/// Whether a failure to connect, read or write may be over soon. A name without an address is taken for a wrong name.
fn is_passing(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::*;
    matches!(
        kind,
        ConnectionRefused
            | ConnectionReset
            | ConnectionAborted
            | BrokenPipe
            | UnexpectedEof
            | TimedOut
            | WouldBlock
            | Interrupted
            | HostUnreachable
            | NetworkUnreachable
            | NetworkDown
    )
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Url(why) => f.write_str(why),
            Error::Connect { address, source } => write!(f, "cannot connect to {address}: {source}"),
            Error::Tls { address, why } => write!(f, "TLS with {address} failed: {why}"),
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
            Error::PoolExhausted { max_connections, waited } => write!(
                f,
                "all {max_connections} connections of the pool were taken for {:.3} s",
                waited.as_secs_f64()
            ),
            Error::PoolClosed => f.write_str("the pool has been closed"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    #[test]
    fn what_passes_is_worth_another_attempt_and_a_mistake_is_not() {
        let connect = |kind: io::ErrorKind| Error::Connect { address: "a:80".into(), source: kind.into() };
        let refused = |status, code: Option<&str>| Error::Refused {
            status,
            code: code.map(str::to_owned),
            message: String::new(),
            retry_after: None,
        };
        for error in [
            connect(io::ErrorKind::ConnectionRefused),
            connect(io::ErrorKind::ConnectionReset),
            connect(io::ErrorKind::TimedOut),
            refused(503, Some("too_many_sessions")),
            refused(503, Some("draining")),
            refused(429, None),
            refused(502, Some("some_proxy")),
            Error::TimedOut("waiting"),
            Error::Disconnected,
        ] {
            assert!(error.is_retryable(), "{error}");
        }
        for error in [
            connect(io::ErrorKind::NotFound),
            refused(404, Some("model_not_found")),
            refused(400, Some("invalid_value")),
            refused(400, Some("invalid_state")),
            refused(401, None),
            Error::Protocol(Fault::new(Reason::ProtocolError, "HTTP/3")),
            Error::Closed,
            Error::PoolClosed,
        ] {
            assert!(!error.is_retryable(), "{error}");
        }
    }
}
