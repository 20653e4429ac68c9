//! A blocking client: typed messages of `/v1/stream` both ways over one connection, plain or by TLS (`wss://`), and what it takes to keep
//! connections: trying again, and a pool.
//!
//! Owns the connection, the handshake and the masking. Has no thread of its own, does not pace audio, and tries nothing
//! again unless asked. [`Stream::connect`] gives both halves; [`Stream::split`] hands them to two threads.
//! [`Connection`] is a WebSocket to any other path, [`Pool`] lends such connections to many, and [`Retry`] tries again
//! what failed for a reason that passes.
//!
//! **A stream that broke in the middle is not resumed**: the server keeps no sessions. [`Retry`] opens a new stream, and
//! the results of what was on its way are lost.
//!
//! **It cannot deadlock with the server.** The receiver never waits for the sender: while a send is held up because the
//! server does not read, results are still received, and a pong that cannot go out at once goes out with the next send.
//! So whoever sends more than the server takes needs a second thread that receives, and nothing else.
//!
//! ```no_run
//! use suzu::client::{Options, Received, Stream};
//! use suzu::wire::message::{ServerMessage, StreamParams};
//!
//! # fn main() -> Result<(), suzu::client::Error> {
//! let params = StreamParams { model: "vad".into(), sample_rate_hz: 16_000, ..StreamParams::default() };
//! let mut stream = Stream::connect("ws://127.0.0.1:8080", &Options { params, ..Options::default() })?;
//! stream.send_audio(&[0; 32_000])?; // a second of silence
//! stream.close_stream()?;
//! while let Some(received) = stream.recv()? {
//!     match received {
//!         Received::Message(ServerMessage::Results(results)) => println!("{:?}", results.speech_probability),
//!         Received::Message(ServerMessage::Termination(end)) => assert!(end.ledger.balances()),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod backoff;
mod connection;
mod error;
mod handshake;
mod inbox;
mod link;
mod pipe;
mod pool;
mod random;
mod retry;
mod stream;
#[cfg(test)]
mod tests;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;
mod url;

pub use backoff::Backoff;
pub use connection::{Connection, Message};
pub use error::Error;
pub use handshake::get;
#[cfg(feature = "tools")]
pub(crate) use handshake::{check_upgrade, upgrade_request};
pub use pool::{Pool, PoolSettings, PoolStats, Pooled};
#[cfg(feature = "tools")]
pub(crate) use random::Random;
pub use retry::Retry;
pub use stream::{Options, Received, Receiver, Sender, Stream};
#[cfg(feature = "tools")]
pub(crate) use tls::{Greeter, Records};
pub use url::Url;
