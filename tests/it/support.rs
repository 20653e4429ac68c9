//! A server on a free port in a thread of this process, and a client that knows no more than bytes and frames.
//!
//! Everything that waits has a deadline, so a test that goes wrong fails instead of hanging.

#![allow(dead_code)] // Each part of the tests uses its own share.

use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use suzu::config::Config;
use suzu::driver::{Clock, EventLoop, Handle};
use suzu::model::Registry;

/// After this long without progress a test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Opcodes of RFC 6455.
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The defaults, on a free port of this machine, with one worker. Overload by time is for the tests that want it: the machine may do
/// other things meanwhile.
pub fn config() -> Config {
    let (queue_wait_target, loop_lag_target) = (Duration::from_secs(60), Duration::from_secs(60));
    let host = "127.0.0.1".to_owned();
    let base = Config { host, port: 0, workers: 1, ..Config::default() };
    Config { capacity_percent: 0, queue_wait_target, loop_lag_target, ..base }
}

/// A running server. Stopped when it goes out of scope.
pub struct TestServer {
    pub addr: SocketAddr,
    pub handle: Handle,
    ended: Receiver<io::Result<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TestServer {
    /// With [`config`] and the models inside the binary.
    pub fn start() -> Self {
        Self::start_with(config(), Registry::builtin())
    }

    /// Panics with the server's own words if it does not start.
    pub fn start_with(config: Config, models: Registry) -> Self {
        #[cfg(feature = "tls")]
        if std::env::var_os("TEST_TLS").is_some() {
            let certificates = crate::bridge::Certificates::new();
            // TLS adds to the bound, and these tests are of other things.
            let config = Config { memory_max: config.memory_max.max(1 << 30), ..config };
            let mut server = Self::start_bare(certificates.on(config), models);
            server.addr = certificates.bridge(server.addr);
            return server;
        }
        Self::start_bare(config, models)
    }

    /// As it is told, without a bridge before it.
    pub fn start_bare(config: Config, models: Registry) -> Self {
        Self::start_on(EventLoop::bind(config, models).unwrap_or_else(|error| panic!("{error}")))
    }

    /// With a loop that is bound already.
    pub fn start_on(event_loop: EventLoop) -> Self {
        let (addr, handle) = (event_loop.local_addr(), event_loop.handle());
        let (end, ended) = channel();
        let thread = std::thread::Builder::new()
            .name("suzu-loop".to_owned())
            .spawn(move || {
                // A test that failed listens no more.
                let _ = end.send(event_loop.run());
            })
            .unwrap();
        Self { addr, handle, ended, thread: Some(thread) }
    }

    /// Waits until the loop returns. Panics if it panicked, failed or did not return within the deadline.
    pub fn join(mut self) {
        match self.ended.recv_timeout(DEADLINE) {
            Ok(result) => result.expect("the loop ends well"),
            Err(RecvTimeoutError::Disconnected) => panic!("the loop panicked"),
            Err(RecvTimeoutError::Timeout) => panic!("the loop did not end within {DEADLINE:?}"),
        }
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the loop panicked");
        }
    }
}

/// A blocking TCP client with a deadline for each step.
pub struct Client {
    pub stream: TcpStream,
    /// Received and not yet taken.
    seen: Vec<u8>,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&addr, DEADLINE).expect("the server listens"))
    }

    /// A client over a stream that is connected already.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, seen: Vec::new() }
    }

    /// Another client on the same connection, for sending while this one reads.
    pub fn try_clone(&self) -> Self {
        Self::over(self.stream.try_clone().unwrap())
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server reads on");
    }

    /// No more bytes will follow; reading goes on.
    pub fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Takes everything up to and including `mark`.
    pub fn read_until(&mut self, mark: impl AsRef<[u8]>) -> Vec<u8> {
        let mark = mark.as_ref();
        let mut searched = 0;
        loop {
            let place = self.seen[searched..].windows(mark.len()).position(|window| window == mark);
            if let Some(place) = place {
                return self.take(searched + place + mark.len());
            }
            searched = self.seen.len().saturating_sub(mark.len() - 1);
            self.fill(&format!("waiting for {:?}", String::from_utf8_lossy(mark)));
        }
    }

    /// Takes exactly so many bytes.
    pub fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        while self.seen.len() < count {
            self.fill(&format!("waiting for {count} bytes"));
        }
        self.take(count)
    }

    /// Takes everything until the server closes. A reset is an error, not an end.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        while self.read_more().unwrap_or_else(|error| panic!("instead of an end: {error}")) > 0 {}
        std::mem::take(&mut self.seen)
    }

    /// Waits until the server ends the connection in whatever way.
    pub fn await_closed(&mut self) {
        loop {
            match self.read_more() {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("the server did not close within {DEADLINE:?}")
                }
                Err(_) => return,
            }
        }
    }

    /// Upgrades to a WebSocket at `target`, such as `/v1/echo`.
    pub fn websocket(addr: SocketAddr, target: &str) -> Self {
        let mut client = Self::connect(addr);
        client.upgrade(target);
        client
    }

    pub fn upgrade(&mut self, target: &str) {
        // The key and its answer are the example of RFC 6455, section 1.3.
        self.send(format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ));
        let head = String::from_utf8(self.read_until("\r\n\r\n")).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    }

    /// Sends a whole message in one frame.
    pub fn send_message(&mut self, opcode: u8, payload: &[u8]) {
        self.send(frame(opcode, payload));
    }

    /// Takes a whole message, which must come in one frame.
    pub fn read_message(&mut self) -> (u8, Vec<u8>) {
        let head = self.read_exactly(2);
        assert_eq!(head[0] & 0xf0, 0x80, "a fragment, or reserved bits: {head:?}");
        assert_eq!(head[1] & 0x80, 0, "a server must not mask");
        let length = match head[1] {
            126 => usize::from(u16::from_be_bytes(self.read_exactly(2).try_into().unwrap())),
            127 => u64::from_be_bytes(self.read_exactly(8).try_into().unwrap()) as usize,
            short => usize::from(short),
        };
        (head[0] & 0x0f, self.read_exactly(length))
    }

    /// Sends a binary message to `/v1/echo` and checks that the same comes back.
    pub fn echo(&mut self, payload: &[u8]) {
        self.send_message(BINARY, payload);
        self.hear_echo(payload);
    }

    /// Checks that this comes next.
    pub fn hear_echo(&mut self, payload: &[u8]) {
        let (opcode, heard) = self.read_message();
        assert_eq!((opcode, heard.len()), (BINARY, payload.len()));
        assert!(heard == payload, "other bytes came back than were sent");
    }

    fn fill(&mut self, doing: &str) {
        let so_far = |seen: &[u8]| {
            let tail = &seen[seen.len().saturating_sub(200)..];
            format!("{} bytes so far, the last: {:?}", seen.len(), String::from_utf8_lossy(tail))
        };
        match self.read_more() {
            Ok(0) => panic!("the server closed, {doing}; {}", so_far(&self.seen)),
            Ok(_) => {}
            Err(error) => panic!("{error}, {doing}; {}", so_far(&self.seen)),
        }
    }

    fn read_more(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(count) => {
                    self.seen.extend_from_slice(&bytes[..count]);
                    return Ok(count);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let rest = self.seen.split_off(count);
        std::mem::replace(&mut self.seen, rest)
    }
}

/// A connection from another address of this machine.
pub fn connect_from(ip: [u8; 4], addr: SocketAddr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::from(SocketAddr::from((ip, 0)))).unwrap();
    socket.connect(&SockAddr::from(addr)).unwrap();
    Client::over(socket.into())
}

/// A whole masked message in one frame, as a client sends it.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | short as u8),
        medium @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Sends to each of these a byte of `bytes` at a time, and the last again and again, until the server has closed all of them;
/// a fifth of them say nothing at all. `beside` is done after each byte, with its place.
pub fn dribble_until_closed(mut slow: Vec<TcpStream>, bytes: &[u8], mut beside: impl FnMut(usize)) {
    let clock = Clock::new();
    let mut place = 0;
    while !slow.is_empty() {
        assert!(
            clock.instant() < suzu::time::Instant::from_origin(DEADLINE),
            "{} are not closed",
            slow.len()
        );
        for (number, stream) in slow.iter_mut().enumerate() {
            // Whoever is closed cannot be written to.
            if number % 5 > 0 {
                let _ = stream.write_all(&bytes[place..=place]);
            }
        }
        place = (place + 1).min(bytes.len() - 1);
        beside(place);
        slow.retain_mut(|stream| !is_closed(stream));
    }
}

/// Whether the server has closed the connection, after whatever it still says.
pub fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

/// Asks again and again until it is so. For what no socket tells.
pub fn await_that(what: &str, mut is_so: impl FnMut() -> bool) {
    let clock = Clock::new();
    while !is_so() {
        assert!(
            clock.instant() < suzu::time::Instant::from_origin(DEADLINE),
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::yield_now();
    }
}
