//! One connection's socket: edge-triggered reading and writing, and closing without losing the last bytes.
//!
//! Registered once for both directions. An edge says that something *may* be there; it stays noted until the
//! kernel says `WouldBlock` (or a short read says the same), because no second edge will come for bytes already
//! there. The socket holds no buffer: bytes are read into the loop's and written from the core's. With TLS ([`super::tls`])
//! the same is said of plaintext: it comes out of [`Socket::read`] and goes into [`Socket::write`].

use super::tls::Tls;
use crate::id::ConnId;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

/// Bytes not yet sent that the kernel takes before it says `WouldBlock`. Small, so that a peer that does not read
/// shows within a second rather than after megabytes; large enough to fill a fast link between two turns.
#[cfg(target_os = "linux")]
const KERNEL_UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// What the kernel may hold of a peer whose records wait there until they are whole.
const KERNEL_UNREAD_BYTES: usize = 256 * 1024;

/// What is left unread of a peer is read away before closing, up to this many bytes.
const FAREWELL_BYTES_MAX: usize = 64 * 1024;

/// A registered socket.
pub(super) struct Socket {
    id: ConnId,
    stream: TcpStream,
    tls: Option<Box<Tls>>,
    life: Life,
    /// Whether the core wants this peer's bytes.
    wanted: bool,
    /// An edge came and the kernel has not said since that there is nothing to read.
    read_ready: bool,
    /// The peer finished sending: the end is to be read however short a read is, since no edge follows.
    read_closed: bool,
    /// The kernel has not said `WouldBlock` since the last edge.
    write_ready: bool,
    /// The core holds bytes to be written.
    output_waits: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Both directions.
    Open,
    /// The peer sends no more; it may still read.
    HalfClosed,
    /// Broken, which the core does not know yet.
    Lost,
    /// Broken, which the core knows.
    Dead,
}

/// What reading gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing now; an edge will tell.
    Nothing,
    /// The peer sends no more. Told once.
    End,
    /// The connection is broken. Told once.
    Broken,
}

/// What writing gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// So many bytes, perhaps 0, went to the kernel. If not all, an edge will tell when to go on.
    Sent(usize),
    /// The connection is broken. Told once.
    Broken,
}

impl Socket {
    /// Registers a connection just accepted. The poll tells at once of bytes that are there already.
    pub(super) fn open(
        id: ConnId,
        stream: TcpStream,
        tls: Option<Box<Tls>>,
        registry: &Registry,
    ) -> io::Result<Self> {
        let mut stream = stream;
        // Each message goes out when it is written: the loop already gathers a turn's messages into one write.
        stream.set_nodelay(true)?;
        #[cfg(target_os = "linux")]
        socket2::SockRef::from(&stream).set_tcp_notsent_lowat(KERNEL_UNSENT_BYTES_MAX)?;
        registry.register(&mut stream, Token(id.slot as usize), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            id,
            stream,
            tls,
            life: Life::Open,
            wanted: true,
            read_ready: false,
            read_closed: false,
            write_ready: true,
            output_waits: false,
        })
    }

    /// Whose socket it is.
    pub(super) fn id(&self) -> ConnId {
        self.id
    }

    /// Notes what the poll told.
    pub(super) fn on_event(&mut self, event: &Event) {
        self.read_ready |= event.is_readable() || event.is_read_closed();
        self.read_closed |= event.is_read_closed();
        self.write_ready |= event.is_writable();
        // While it is read, the error comes behind the last bytes. Otherwise nobody would find it.
        if event.is_error() && !self.is_reading() {
            self.break_off();
        }
    }

    /// Notes whether the core wants this peer's bytes.
    pub(super) fn set_wanted(&mut self, wanted: bool) {
        self.wanted = wanted;
    }

    /// Notes that the core holds bytes to be written.
    pub(super) fn set_output_waits(&mut self) {
        self.output_waits = true;
    }

    /// Whether [`Socket::read`] has something to tell.
    pub(super) fn can_read(&self) -> bool {
        self.life == Life::Lost || (self.is_reading() && self.read_ready)
    }

    /// Whether there is something to write and the kernel may take it.
    pub(super) fn can_write(&self) -> bool {
        let waits = match &self.tls {
            None => self.output_waits,
            Some(tls) => !tls.unsent().is_empty() || (self.output_waits && !tls.is_greeting()),
        };
        waits && self.write_ready && self.is_alive()
    }

    /// Whether the handshake of TLS is under way.
    pub(super) fn is_greeting(&self) -> bool {
        self.is_alive() && self.tls.as_ref().is_some_and(|tls| tls.is_greeting())
    }

    /// Reads once. `area` is not empty. With TLS an area too small for a record gives nothing, and it can be read on.
    pub(super) fn read(&mut self, area: &mut [u8]) -> Arrival {
        if self.life == Life::Lost {
            self.life = Life::Dead;
            return Arrival::Broken;
        }
        if !self.can_read() {
            return Arrival::Nothing;
        }
        match self.tls.take() {
            None => self.read_plain(area),
            Some(mut tls) => {
                let arrival = self.read_sealed(&mut tls, area);
                self.tls = Some(tls);
                arrival
            }
        }
    }

    fn read_plain(&mut self, area: &mut [u8]) -> Arrival {
        match retry(|| self.stream.read(area)) {
            Ok(0) => self.end(),
            Ok(count) => {
                self.read_ready = count == area.len() || self.read_closed;
                Arrival::Bytes(count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.read_ready = false;
                Arrival::Nothing
            }
            Err(_) => self.break_now(),
        }
    }

    fn read_sealed(&mut self, tls: &mut Tls, area: &mut [u8]) -> Arrival {
        if tls.is_finished() {
            return self.end();
        }
        let Some(mut room) = tls.room(area) else { return Arrival::Nothing };
        // Once the peer finished sending, nothing becomes whole any more.
        if tls.is_scarce() && !self.read_closed {
            room = self.whole(tls, room);
            if room.is_empty() {
                self.read_ready = false;
                // The kernel asks for no more while less than a segment would fit beside what lies there, and segments
                // are long on some links (64 KiB within a host). If it refuses, the limits of time end it.
                let _ = socket2::SockRef::from(&self.stream).set_recv_buffer_size(KERNEL_UNREAD_BYTES);
                return Arrival::Nothing;
            }
        }
        let count = match self.read_plain(room) {
            Arrival::Bytes(count) => count,
            // Nobody who is half through the handshake waits for an answer.
            Arrival::End if tls.is_greeting() => return self.break_now(),
            other => return other,
        };
        let opened = tls.open(area, count);
        if let Some(fault) = opened.fault {
            self.on_fault(tls, &fault, &mut area[opened.bytes..]);
        } else if tls.is_finished() {
            // To be told next.
            self.read_ready = true;
        }
        match opened.bytes {
            0 if self.life == Life::Lost => self.break_now(),
            0 if tls.is_finished() => self.end(),
            0 => Arrival::Nothing,
            bytes => Arrival::Bytes(bytes),
        }
    }

    /// So much of the room as the kernel has whole records for. If there is none, an edge tells of what comes next.
    fn whole<'a>(&mut self, tls: &Tls, room: &'a mut [u8]) -> &'a mut [u8] {
        match retry(|| self.stream.peek(room)) {
            Ok(count) if count > 0 => {
                let whole = tls.whole(&room[..count]);
                &mut room[..whole]
            }
            // Reading tells what it is.
            _ => room,
        }
    }

    /// The alert goes out, if it can at once, and nothing else follows.
    fn on_fault(&mut self, tls: &mut Tls, fault: &str, area: &mut [u8]) {
        log::debug!("TLS with {:?} failed: {fault}", self.stream.peer_addr().ok());
        // Whatever this gives, it is over.
        let _ = self.flush(tls);
        self.take_leave(area);
        self.life = Life::Lost;
    }

    /// Writes until all is with the kernel or it takes no more.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Departure {
        match self.tls.take() {
            None => self.write_plain(bytes),
            Some(mut tls) => {
                let departure = self.write_sealed(&mut tls, bytes);
                self.tls = Some(tls);
                departure
            }
        }
    }

    fn write_sealed(&mut self, tls: &mut Tls, bytes: &[u8]) -> Departure {
        if !self.is_alive() {
            return Departure::Sent(0);
        }
        let mut sent = 0;
        loop {
            match self.flush(tls) {
                Ok(count) => sent += count,
                Err(_) => return self.fail(),
            }
            if !tls.unsent().is_empty() || tls.is_greeting() || sent >= bytes.len() {
                break;
            }
            if tls.seal(&bytes[sent..]).is_err() {
                return self.fail();
            }
        }
        self.output_waits = sent < bytes.len();
        Departure::Sent(sent)
    }

    /// Writes what is encrypted. Gives how many bytes of the core are with the kernel by that.
    fn flush(&mut self, tls: &mut Tls) -> io::Result<usize> {
        let mut sent = 0;
        while self.write_ready && !tls.unsent().is_empty() {
            match retry(|| self.stream.write(tls.unsent())) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => sent += tls.on_sent(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.write_ready = false,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    fn write_plain(&mut self, bytes: &[u8]) -> Departure {
        let mut sent = 0;
        while self.can_write() && sent < bytes.len() {
            match retry(|| self.stream.write(&bytes[sent..])) {
                Ok(0) => return self.fail(),
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.write_ready = false,
                Err(_) => return self.fail(),
            }
        }
        self.output_waits = sent < bytes.len();
        Departure::Sent(sent)
    }

    /// Closes. Bytes that are already with the kernel still reach the peer.
    ///
    /// Closing a socket with unread bytes resets the connection, which may destroy what the peer has not read yet;
    /// so what is there is read away first, into `area`.
    pub(super) fn close(mut self, area: &mut [u8]) {
        if !self.is_alive() {
            return;
        }
        if let Some(mut tls) = self.tls.take() {
            tls.say_goodbye();
            // If it cannot go out at once, the peer does not read.
            let _ = self.flush(&mut tls);
        }
        self.take_leave(area);
    }

    fn take_leave(&mut self, area: &mut [u8]) {
        // An error means that the peer is gone, and then there is nothing to save.
        let shut = self.stream.shutdown(Shutdown::Write);
        if shut.is_err() || self.life == Life::HalfClosed {
            return;
        }
        let mut left = FAREWELL_BYTES_MAX;
        while left > 0 {
            match retry(|| self.stream.read(area)) {
                Ok(count) if count > 0 => left = left.saturating_sub(count),
                _ => return,
            }
        }
    }

    fn is_alive(&self) -> bool {
        matches!(self.life, Life::Open | Life::HalfClosed)
    }

    /// The peer sends no more.
    fn end(&mut self) -> Arrival {
        self.read_ready = false;
        self.life = Life::HalfClosed;
        Arrival::End
    }

    fn is_reading(&self) -> bool {
        self.wanted && self.life == Life::Open
    }

    fn break_off(&mut self) {
        if self.life != Life::Dead {
            self.life = Life::Lost;
        }
    }

    fn break_now(&mut self) -> Arrival {
        self.life = Life::Dead;
        Arrival::Broken
    }

    fn fail(&mut self) -> Departure {
        self.life = Life::Dead;
        Departure::Broken
    }
}

/// Does it again when a signal interrupted it.
pub(super) fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
