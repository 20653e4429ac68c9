//! `start`: from the start of the program to its first answer, and how large the program is.
//!
//! Each round starts the binary as a process of its own, waits until its log says that it listens, connects and asks for
//! `/health/ready`: with the models inside alone, and with the folder of this repository, whose model is tried in a process of
//! its own and timed before the server listens.

use super::figures::{heading, line, mb, percentiles};
use super::process::{BINARY, Server};
use std::time::Duration;
use suzu::driver::Clock;

pub fn run(rounds: usize) {
    heading(&format!("start: {rounds} times from exec to the first answered request"));
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models");
    for (name, models) in
        [("with the models inside", ""), ("with the folder of models, tried and timed", folder)]
    {
        let mut times: Vec<_> = (0..rounds).map(|_| once(models)).collect();
        percentiles(name, &mut times);
    }
    let size = std::fs::metadata(BINARY).expect("it was run just now").len();
    line("size of the binary", mb(size));
}

/// Starts it once and gives the time to its first answer.
fn once(models: &str) -> Duration {
    let clock = Clock::new();
    let began = clock.instant();
    let server = Server::start(&["--models-dir", models]);
    server.get("/health/ready");
    let took = clock.instant() - began;
    server.stop();
    took
}
