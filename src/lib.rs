#![doc = include_str!("ARCHITECTURE.md")]
//!
//! # Embedding
//!
//! The library sets no logger, no signal handler and no environment; several servers fit in one process.
//!
//! ```
//! use suzu::{config::Config, driver::EventLoop, model::Registry};
//!
//! # fn main() -> std::io::Result<()> {
//! let config = Config { port: 0, ..Config::default() };
//! let event_loop = EventLoop::bind(config, Registry::builtin())?;
//! let (address, handle) = (event_loop.local_addr(), event_loop.handle());
//! let server = std::thread::spawn(move || event_loop.run());
//! // ... stream audio to ws://{address}/v1/stream ...
//! assert!(address.port() != 0);
//! handle.drain();
//! server.join().expect("the loop does not panic")
//! # }
//! ```

pub mod auth;
pub mod batch;
pub mod cli;
pub mod client;
pub mod config;
pub mod driver;
pub mod id;
#[cfg(feature = "tools")]
pub mod load;
pub mod model;
#[cfg(feature = "tls")]
mod pem;
pub mod reason;
pub mod server;
pub mod time;
pub mod wire;
