//! The golden conversations against the core alone, in virtual time.

use crate::pipe::Micros;
use crate::talk::{Talk, Transport};
use crate::world::{duration, now_at};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use suzu::batch::Batch;
use suzu::id::ConnId;
use suzu::model::Registry;
use suzu::server::{Input, Output, Server};
use suzu::time::Instant;

/// Virtual time after which an answer is late.
const PATIENCE: Micros = 60_000_000;
/// How long an inference takes here.
const INFERENCE: Micros = 1_000;

struct Loopback {
    server: Server,
    now: Micros,
    connections: Vec<Socket>,
    batches: VecDeque<(Micros, Batch)>,
}

struct Socket {
    conn: ConnId,
    inbox: Vec<u8>,
    open: bool,
}

impl Loopback {
    fn new(talk: &Talk) -> Self {
        let server = Server::new(talk.config(), Registry::builtin(), 1, now_at(0, 0));
        let server = server.unwrap_or_else(|error| panic!("{}: {error}", talk.name));
        Self { server, now: 0, connections: Vec::new(), batches: VecDeque::new() }
    }

    fn input(&mut self, input: Input<'_>) {
        self.server.handle_input(input, now_at(self.now, 0));
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(output) = self.server.poll_output() {
            self.server.check_invariants();
            match output {
                Output::Flush(conn) => {
                    let bytes = self.server.outgoing(conn).to_vec();
                    if let Some(socket) = self.connections.iter_mut().find(|socket| socket.conn == conn) {
                        socket.inbox.extend_from_slice(&bytes);
                    }
                    self.server.sent(conn, bytes.len(), now_at(self.now, 0));
                }
                Output::Close(conn) => {
                    if let Some(socket) = self.connections.iter_mut().find(|socket| socket.conn == conn) {
                        socket.open = false;
                    }
                }
                Output::Infer(batch) => self.batches.push_back((self.now + INFERENCE, batch)),
                Output::SetReadable { .. }
                | Output::Abandon(_)
                | Output::Repository { .. }
                | Output::ReadFiles
                | Output::Post(_)
                | Output::DeadLetter(_)
                | Output::Drained => {}
            }
        }
    }

    fn pop_due(&mut self) -> Option<(Micros, Batch)> {
        let due = self.batches.front().is_some_and(|(at, _)| *at <= self.now);
        due.then(|| self.batches.pop_front()).flatten()
    }

    /// Goes to the next event; false if there is none in good time.
    fn step(&mut self, until: Micros) -> bool {
        let origin = Instant::default();
        let timeout =
            self.server.poll_timeout().map(|at| at.since(origin).as_nanos().div_ceil(1000) as Micros);
        let batch = self.batches.front().map(|(at, _)| *at);
        let Some(next) = [timeout, batch].into_iter().flatten().min().filter(|at| *at <= until) else {
            return false;
        };
        self.now = self.now.max(next);
        if let Some((_, mut batch)) = self.pop_due() {
            batch.execute(&Default::default);
            batch.infer_time = duration(INFERENCE);
            batch.cpu_time = batch.infer_time;
            self.input(Input::Inferred(batch));
        }
        self.server.handle_timeout(now_at(self.now, 0));
        self.settle();
        true
    }
}

impl Transport for Loopback {
    fn open(&mut self) -> Result<(), String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let conn =
            self.server.accept(address, now_at(self.now, 0)).map_err(|reason| format!("{reason:?}"))?;
        self.connections.push(Socket { conn, inbox: Vec::new(), open: true });
        Ok(())
    }

    fn send(&mut self, connection: usize, bytes: &[u8]) -> Result<(), String> {
        let conn = self.connections[connection].conn;
        self.input(Input::Received { conn, bytes: &mut bytes.to_vec() });
        Ok(())
    }

    fn half_close(&mut self, connection: usize) -> Result<(), String> {
        let conn = self.connections[connection].conn;
        self.input(Input::HalfClosed { conn });
        Ok(())
    }

    fn receive(&mut self, connection: usize) -> Result<Vec<u8>, String> {
        let until = self.now + PATIENCE;
        while self.connections[connection].inbox.is_empty() && self.connections[connection].open {
            if !self.step(until) {
                return Err(format!("nothing comes for {:?}", Duration::from_micros(PATIENCE)));
            }
        }
        Ok(std::mem::take(&mut self.connections[connection].inbox))
    }
}

#[test]
fn golden_conversations_go_as_written() {
    let talks = Talk::all();
    assert!(talks.len() >= 8, "the conversations are not where they were");
    let played = talks.iter().filter_map(|talk| talk.play(&mut Loopback::new(talk)).err());
    let failures: Vec<String> = played.collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_conversation_that_goes_otherwise_is_noticed() {
    for line in ["< 201", "< 200 {\"status\":\"ill\"}", "< 200\n< header retry-after: 2", "< says x"] {
        let talk = Talk::parse("wrong", &format!("> GET /health/live\n{line}\n"));
        assert!(talk.play(&mut Loopback::new(&talk)).is_err(), "{line}");
    }
}
