//! `start`: from the start of the program to its first answer, and how large the program is.
//!
//! Each round starts the binary as a process of its own with its defaults and the models inside, waits until its log says
//! that it listens, connects and asks for `/health/ready`. The time holds the loading of the program, its trial runs of every
//! model, binding the port, and this program's own reading of the log.

use super::figures::{heading, line, mb, percentiles};
use super::process::{BINARY, Server};
use suzu::driver::Clock;

pub fn run(rounds: usize) {
    heading(&format!("start: {rounds} times from exec to the first answered request"));
    let clock = Clock::new();
    let mut times: Vec<_> = (0..rounds)
        .map(|_| {
            let began = clock.instant();
            let server = Server::start(&[]);
            server.get("/health/ready");
            let took = clock.instant() - began;
            server.stop();
            took
        })
        .collect();
    percentiles("exec to first answer", &mut times);
    let size = std::fs::metadata(BINARY).expect("it was run just now").len();
    line("size of the binary", mb(size));
}
