//! A blocking client for `/v1/stream`: typed messages both ways over one TCP connection.
//!
//! Owns the connection, the handshake and the masking. Has no thread, clock or policy of its own: it neither paces
//! audio nor reconnects. [`Stream::connect`] gives both halves; [`Stream::split`] hands them to two threads.
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

mod error;
mod handshake;
mod link;
mod random;
mod stream;
#[cfg(test)]
mod tests;
mod url;

pub use error::Error;
pub(crate) use handshake::{check_upgrade, upgrade_request};
pub(crate) use random::Random;
pub use stream::{Options, Received, Receiver, Sender, Stream};
pub use url::Url;
