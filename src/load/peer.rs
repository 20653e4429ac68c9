//! One connection: its socket, what waits to be written, and how far it is.

use super::plan::Plan;
use super::talk::Talk;
use super::tally::Tally;
use crate::client::{Greeter, Records};
use crate::time::Instant;
use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

/// Bytes that wait for a server that does not read, before its connection is given up.
const UNSENT_BYTES_MAX: usize = 4 << 20;
/// A buffer that has grown beyond this is given back when it is empty.
const BUFFER_BYTES_KEPT: usize = 16 * 1024;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// TCP is not there yet.
    Connecting,
    /// The handshake is under way.
    Greeting,
    /// Messages go to and fro.
    Open,
    /// The proper end has been said.
    Ending,
    /// It is closed.
    Gone,
}

/// A connection.
pub(super) struct Peer {
    socket: TcpStream,
    /// Of a connection by TLS.
    records: Option<Box<Records>>,
    pub(super) talk: Talk,
    pub(super) stage: Stage,
    /// When the stage began, or the connection for those before [`Stage::Open`].
    pub(super) since: Instant,
    /// When anything was last asked or answered.
    pub(super) busy_at: Instant,
    /// Messages of the client that has it now.
    pub(super) asked: u64,
    /// Messages that will be asked when their time to think is over.
    pub(super) thinking: usize,
    out: Vec<u8>,
    written: usize,
}

impl Peer {
    /// Begins to connect.
    pub(super) fn connect(
        plan: &Plan,
        number: usize,
        request: &Arc<[u8]>,
        greeter: Option<&Greeter>,
        registry: &Registry,
        now: Instant,
    ) -> std::io::Result<Peer> {
        let records = greeter.map(Greeter::begin).transpose()?.map(Box::new);
        let mut socket = TcpStream::connect(plan.target.address)?;
        socket.register(registry, Token(number), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Peer {
            socket,
            records,
            talk: Talk::new(plan, number, request),
            stage: Stage::Connecting,
            since: now,
            busy_at: now,
            asked: 0,
            thinking: 0,
            out: Vec::new(),
            written: 0,
        })
    }

    /// Goes on from connecting to greeting if the system says that TCP is there.
    pub(super) fn connected(&mut self, plan: &Plan) -> Result<(), String> {
        if let Some(error) = self.socket.take_error().map_err(|error| kind_of(&error))? {
            return Err(format!("connecting: {}", kind_of(&error)));
        }
        if self.socket.peer_addr().is_err() {
            return Ok(());
        }
        // Fails on a socket that is none any more, which reading tells better.
        let _ = self.socket.set_nodelay(true);
        self.stage = Stage::Greeting;
        self.talk.greet(plan, &mut self.out)
    }

    /// Says a message that was due at `due`.
    pub(super) fn ask(&mut self, due: Instant, tally: &mut Tally) {
        self.asked += 1;
        self.talk.ask(due, &mut self.out, tally);
    }

    /// Says what ends the conversation.
    pub(super) fn end(&mut self, now: Instant) {
        if self.stage == Stage::Open {
            self.stage = Stage::Ending;
            self.since = now;
            self.talk.end(&mut self.out);
        }
    }

    /// Reads what there is. The error is the kind of failure.
    pub(super) fn read(&mut self, buffer: &mut [u8], now: Instant, tally: &mut Tally) -> Result<(), String> {
        loop {
            let read = match &mut self.records {
                None => self.socket.read(buffer),
                Some(records) => records.read(&mut self.socket, buffer),
            };
            let count = match read {
                Ok(0) if self.talk.is_over() && self.stage == Stage::Ending => return Ok(()),
                Ok(0) => return Err("closed by the server".into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) if self.talk.is_over() && self.stage == Stage::Ending => return Ok(()),
                Err(error) => return Err(kind_of(&error)),
            };
            self.busy_at = now;
            self.talk.hear(&mut buffer[..count], now, &mut self.out, tally)?;
            // What a session gives says nothing of what lies in the socket.
            if count < buffer.len() && self.records.is_none() {
                return Ok(());
            }
        }
    }

    /// Writes what the connection takes. The error is the kind of failure.
    pub(super) fn write(&mut self) -> Result<(), String> {
        if self.records.is_some() {
            return self.write_records();
        }
        while self.written < self.out.len() {
            match self.socket.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.check_unsent(),
                // The server has said its last word and gone.
                Err(_) if self.talk.is_over() => break,
                Err(error) => return Err(kind_of(&error)),
            }
        }
        self.out.clear();
        self.written = 0;
        self.give_back();
        Ok(())
    }

    fn write_records(&mut self) -> Result<(), String> {
        let Some(records) = self.records.as_mut().filter(|_| self.stage != Stage::Connecting) else {
            return Ok(());
        };
        loop {
            match records.write(&mut self.socket, &mut self.out) {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) if self.talk.is_over() => self.out.clear(),
                Err(error) => return Err(kind_of(&error)),
            }
            if self.talk.is_over() {
                break;
            }
        }
        self.give_back();
        self.check_unsent()
    }

    fn check_unsent(&self) -> Result<(), String> {
        let unsent = self.out.len() - self.written;
        if unsent > UNSENT_BYTES_MAX { Err("the server does not read".into()) } else { Ok(()) }
    }

    fn give_back(&mut self) {
        if self.out.is_empty() && self.out.capacity() > BUFFER_BYTES_KEPT {
            self.out = Vec::new();
        }
    }

    /// Closes it.
    pub(super) fn close(&mut self, registry: &Registry) {
        self.stage = Stage::Gone;
        self.out = Vec::new();
        // Fails if it was never registered, which is as well.
        let _ = self.socket.deregister(registry);
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

/// The kind of an error, without the address that would make every one another kind.
fn kind_of(error: &std::io::Error) -> String {
    match error.kind() {
        // TLS says what was wrong, which is the same for every connection.
        ErrorKind::InvalidData => error.to_string(),
        kind => kind.to_string(),
    }
}
