//! A WebSocket client that is no more than a socket and a decoder: thousands of them fit one thread.

use super::process::DEADLINE;
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use suzu::wire::websocket::{Decoder, Event, Role, encode_pong};

/// The key of every handshake here, and the answer to it: the example of RFC 6455, section 1.3. It is no secret.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Any mask will do: nothing stands between this program and the server.
pub const MASK: Option<[u8; 4]> = Some([0x37, 0xfa, 0x21, 0x3d]);

/// Greatest message that is received, bytes.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Connects and upgrades at `target`, waiting for each step.
pub fn connect(addr: SocketAddr, target: &str) -> TcpStream {
    connect_with(addr, target, "")
}

/// The same with more header fields, each a whole line.
pub fn connect_with(addr: SocketAddr, target: &str, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect_timeout(&addr, DEADLINE).expect("the server listens");
    stream.set_nodelay(true).expect("a TCP socket");
    stream.set_read_timeout(Some(DEADLINE)).expect("a valid time");
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: suzu\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{head}\r\n"
    );
    stream.write_all(request.as_bytes()).expect("the server reads");
    let head = String::from_utf8(read_head(&mut stream)).expect("UTF-8");
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains(ACCEPT), "{head}");
    stream
}

/// Reads to the end of a response's head, and takes nothing behind it: a server that speaks at once loses nothing.
pub fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    let mut bytes = [0; 512];
    while !head.ends_with(b"\r\n\r\n") {
        let peeked = stream.peek(&mut bytes).expect("the server answers in time");
        assert!(peeked > 0, "the server closed: {:?}", String::from_utf8_lossy(&head));
        let mut trial = head.clone();
        trial.extend_from_slice(&bytes[..peeked]);
        let end = trial.windows(4).position(|window| window == b"\r\n\r\n").map(|place| place + 4);
        let taken = end.unwrap_or(trial.len()) - head.len();
        stream.read_exact(&mut bytes[..taken]).expect("they have been seen");
        head.extend_from_slice(&bytes[..taken]);
    }
    head
}

/// Many connections, and one thread that serves those that have something to say.
pub struct Crowd {
    peers: Vec<Peer>,
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
}

struct Peer {
    stream: mio::net::TcpStream,
    decoder: Decoder,
    /// Frames to be sent; empty but for what the kernel did not take.
    outgoing: Vec<u8>,
    /// A good end was told: the server may close.
    ended: bool,
}

impl Crowd {
    /// Takes over connections that [`connect`] made.
    pub fn new(streams: Vec<TcpStream>) -> Crowd {
        let poll = Poll::new().expect("a descriptor is left");
        let peers = streams.into_iter().enumerate().map(|(number, stream)| {
            stream.set_nonblocking(true).expect("a TCP socket");
            let mut stream = mio::net::TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(number), interest).expect("room in the poll");
            let decoder = Decoder::new(Role::Client, MESSAGE_BYTES_MAX);
            Peer { stream, decoder, outgoing: Vec::new(), ended: false }
        });
        Crowd {
            peers: peers.collect(),
            poll,
            events: Events::with_capacity(1024),
            buffer: vec![0; 64 * 1024],
        }
    }

    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Sends frames from connection `number`.
    pub fn send(&mut self, number: usize, frames: &[u8]) {
        self.peers[number].outgoing.extend_from_slice(frames);
        self.peers[number].write();
    }

    /// Waits up to `patience`, answers pings, and tells of every message: from whom, and what. What `on_message`
    /// leaves in the buffer is sent back.
    pub fn turn(&mut self, patience: Duration, mut on_message: impl FnMut(usize, Event<'_>, &mut Vec<u8>)) {
        match self.poll.poll(&mut self.events, Some(patience)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            result => result.expect("the poll works"),
        }
        for event in &self.events {
            let number = event.token().0;
            let peer = &mut self.peers[number];
            if event.is_readable() {
                peer.read(&mut self.buffer, |event, out| on_message(number, event, out));
            }
            peer.write();
        }
    }
}

impl Peer {
    fn read(&mut self, buffer: &mut [u8], mut on_message: impl FnMut(Event<'_>, &mut Vec<u8>)) {
        loop {
            let count = match self.stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result.expect("the connection holds"),
            };
            if count == 0 && self.ended {
                return;
            }
            assert!(count > 0, "the server closed a connection");
            let mut input = &mut buffer[..count];
            while let Some(event) = self.decoder.next(&mut input).expect("the server keeps to the protocol") {
                match event {
                    Event::Close { code: Some(1000), .. } => self.ended = true,
                    event @ (Event::Binary(_) | Event::Text(_)) => on_message(event, &mut self.outgoing),
                    Event::Ping(payload) => encode_pong(&mut self.outgoing, payload, MASK),
                    Event::Pong(_) => {}
                    other => panic!("the server sent {other:?}"),
                }
            }
            if count < buffer.len() {
                return;
            }
        }
    }

    fn write(&mut self) {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => drop(self.outgoing.drain(..result.expect("the connection holds"))),
            }
        }
    }
}
