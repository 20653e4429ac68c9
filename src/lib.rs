//! Suzu: streaming audio inference on one poll loop.

pub mod cli;
pub mod client;
pub mod config;
pub mod driver;
pub mod id;
pub mod model;
pub mod reason;
pub mod server;
pub mod time;
pub mod wire;
