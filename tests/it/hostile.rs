//! All at once against the real binary: peers that dribble what they send, wherever that can be done, a flood of connections from
//! one address and a flood of wrong credentials; beside them clients that are served as if nothing were.
//!
//! The server has TLS, credentials and a proxy before it, so that every kind of slowness has its place. What each kind meets
//! alone is tested where it belongs: `http_faults`, `limits`, `tls`, `proxy`, `access`, `overload`.

use crate::answer::{Answer, request, upgrade_request};
use crate::bridge::{Certificates, TlsStream};
use crate::proxy::header;
use crate::shutdown::Binary;
use crate::stream_client::{Story, StreamClient};
use crate::streams::recording;
use crate::support::{BINARY, Client, DEADLINE, await_that, connect_from, frame};
use rustls::StreamOwned;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use suzu::auth::{Scopes, key_entry};
use suzu::driver::Clock;
use suzu::time::Instant;

const KEY: &str = "friend.nothing-that-anyone-would-want-to-know";
/// Connections that one address may have. The friends share one.
const ADDRESS_CONNECTIONS_MAX: usize = 24;
/// Friends that stream at a time.
const FRIENDS: usize = 4;
/// Slow peers of each kind.
const SLOW: u8 = 8;

/// Where the server is, and where friends without TLS reach it.
struct World {
    addr: SocketAddr,
    certificates: Certificates,
    bridge: SocketAddr,
    _folder: tempfile::TempDir,
}

impl World {
    fn start() -> (Binary, Self) {
        let (folder, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
        let credentials = folder.path().join("credentials.toml");
        let scopes = Scopes::parse(["stream", "infer", "metrics", "admin"]).unwrap();
        std::fs::write(&credentials, key_entry(KEY, scopes)).unwrap();
        let path = |name: &str| certificates.path(name).display().to_string();
        let connections = ADDRESS_CONNECTIONS_MAX.to_string();
        let binary = Binary::start(
            "",
            &[
                &["--models-dir", "", "--workers", "1", "--credentials-file", credentials.to_str().unwrap()]
                    [..],
                &["--tls-certificate", &path("chain.pem"), "--tls-key", &path("key.pem")],
                &["--proxy-protocol", "v2", "--trusted-proxies", "127.0.0.9"],
                &["--address-connections-max", &connections, "--limiters-max", "64"],
                &["--tls-handshake-timeout", "2s", "--head-timeout", "2s", "--body-timeout", "2s"],
                // The machine may do other things meanwhile: overload by time is not what is looked at.
                &["--queue-wait-target", "1min", "--loop-lag-target", "1min"],
            ]
            .concat(),
        );
        let bridge = certificates.bridge(binary.addr);
        let world = Self { addr: binary.addr, certificates, bridge, _folder: folder };
        (binary, world)
    }

    /// A stream of a friend from beginning to end.
    fn stream(&self, audio: &[u8]) -> Story {
        let mut stream = StreamClient::open_with(self.bridge, "/v1/stream?model=vad", &bearer(KEY));
        audio.chunks(3_200).for_each(|chunk| stream.audio(chunk));
        let story = stream.finish();
        let end = story.termination();
        assert_eq!((story.close, story.errors()), (1000, Vec::new()));
        assert_eq!(end["ledger"]["received"], end["ledger"]["processed"], "{end}");
        story
    }

    fn figure(&self, name: &str) -> f64 {
        let Answer { body, .. } = Client::connect(self.bridge).ask("GET", "/metrics", &bearer(KEY));
        let text = String::from_utf8(body).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// A TLS connection from one of the addresses of slow peers.
    fn connect(&self, host: u8) -> TlsStream {
        let mut tcp = connect_from([127, 0, 1, host], self.addr).stream;
        let mut session = self.certificates.session(&["http/1.1"]);
        while session.is_handshaking() {
            session.complete_io(&mut tcp).expect("greeted");
        }
        StreamOwned::new(session, tcp)
    }

    fn hello(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.certificates.session(&[]).write_tls(&mut bytes).unwrap();
        bytes
    }
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// A peer that sends a byte now and then, and never all.
struct Slow {
    kind: &'static str,
    pipe: Pipe,
    bytes: Vec<u8>,
    sent: usize,
    heard: Vec<u8>,
    /// What must have been heard when it is closed.
    wanted: &'static [u8],
}

enum Pipe {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Slow {
    fn new(kind: &'static str, pipe: Pipe, bytes: Vec<u8>, wanted: &'static [u8]) -> Self {
        let tcp = match &pipe {
            Pipe::Plain(tcp) => tcp,
            Pipe::Tls(tls) => &tls.sock,
        };
        tcp.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        Self { kind, pipe, bytes, sent: 0, heard: Vec::new(), wanted }
    }

    /// Over TLS; what stands first is sent at once.
    fn within(
        kind: &'static str,
        world: &World,
        first: &str,
        bytes: Vec<u8>,
        wanted: &'static [u8],
    ) -> Vec<Slow> {
        let open = |host| {
            let mut tls = world.connect(host);
            tls.write_all(first.as_bytes()).unwrap();
            tls.flush().unwrap();
            Slow::new(kind, Pipe::Tls(Box::new(tls)), bytes.clone(), wanted)
        };
        (1..=SLOW).map(open).collect()
    }

    /// Sends a byte, except for the last, and listens. Whether it is still open.
    fn go_on(&mut self) -> bool {
        if self.sent + 1 < self.bytes.len() {
            let byte = &self.bytes[self.sent..=self.sent];
            // Whoever is closed cannot be written to; reading tells.
            let _ = match &mut self.pipe {
                Pipe::Plain(tcp) => tcp.write_all(byte),
                Pipe::Tls(tls) => tls.write_all(byte).and_then(|()| tls.flush()),
            };
            self.sent += 1;
        }
        let mut bytes = [0; 4096];
        loop {
            let read = match &mut self.pipe {
                Pipe::Plain(tcp) => tcp.read(&mut bytes),
                Pipe::Tls(tls) => tls.read(&mut bytes),
            };
            match read {
                Ok(0) => return false,
                Ok(count) => self.heard.extend_from_slice(&bytes[..count]),
                Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            }
        }
    }
}

fn slow_peers(world: &World) -> Vec<Slow> {
    let (key, long) = (bearer(KEY), frame(BINARY, &[7; 60_000]));
    let body = request("POST", "/v1/echo", &format!("{key}Content-Length: 900000\r\n"));
    let recording = request("POST", "/v1/models/vad", &format!("{key}Content-Length: 900000\r\n"));
    let (echo, stream) = (upgrade_request("/v1/echo", &key), upgrade_request("/v1/stream?model=vad", &key));
    // Code 4408 of a Close.
    let late: &[u8] = &[0x11, 0x38];
    let mut peers = [
        Slow::within("heads", world, "GET / HTTP/1.1\r\n", b"X: y\r\n".repeat(50), b"HTTP/1.1 408 "),
        Slow::within("bodies", world, &body, vec![b'x'; 900_000], b"HTTP/1.1 408 "),
        Slow::within("recordings", world, &recording, b"RIFF".to_vec(), b"HTTP/1.1 408 "),
        Slow::within("echoes", world, &echo, long.clone(), late),
        Slow::within("streams", world, &stream, long, late),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    for host in 1..=SLOW {
        let plain = |from| Pipe::Plain(connect_from(from, world.addr).stream);
        peers.push(Slow::new("greetings", plain([127, 0, 2, host]), world.hello(), b""));
        peers.push(Slow::new("headers", plain([127, 0, 0, 9]), header("192.0.2.1:1"), b""));
    }
    peers
}

/// Until all slow peers are closed, each by its time limit.
fn dribble(world: &World) {
    let mut peers = slow_peers(world);
    let clock = Clock::new();
    while !peers.is_empty() {
        let kinds: Vec<_> = peers.iter().map(|peer| peer.kind).collect();
        assert!(clock.instant() < Instant::from_origin(DEADLINE * 3), "not closed: {kinds:?}");
        peers.retain_mut(|peer| {
            let open = peer.go_on();
            let told = peer.heard.windows(peer.wanted.len().max(1)).any(|part| part == peer.wanted);
            let words = String::from_utf8_lossy(&peer.heard);
            assert!(open || told || peer.wanted.is_empty(), "{}: {words:?}", peer.kind);
            open
        });
    }
}

/// One address opens connections as fast as it can. Those beyond its share are closed at once.
fn flood(world: &World, over: &AtomicBool) -> usize {
    let mut refused = 0;
    while !over.load(Ordering::SeqCst) {
        let mut kept: Vec<_> = (0..2 * ADDRESS_CONNECTIONS_MAX)
            .map(|_| connect_from([127, 0, 3, 1], world.addr).stream)
            .collect();
        await_that("those beyond the share are closed", || {
            kept.retain_mut(|stream| {
                stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
                let closed = stream.read(&mut [0]);
                let open = closed
                    .is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
                refused += usize::from(!open);
                open
            });
            kept.len() <= ADDRESS_CONNECTIONS_MAX
        });
    }
    refused
}

/// One address guesses keys as fast as it can. Each is refused.
fn guess(world: &World, over: &AtomicBool) -> usize {
    let mut tls = world.connect(99);
    let mut guesses = 0;
    while !over.load(Ordering::SeqCst) {
        let asks: String = (0..50).map(|_| request("GET", "/v1/models", &bearer("friend.a-guess"))).collect();
        tls.write_all(asks.as_bytes()).and_then(|()| tls.flush()).expect("the server reads");
        let (mut heard, mut answers) = (Vec::new(), 0);
        while answers < 50 {
            let mut bytes = [0; 16 * 1024];
            let count = tls.read(&mut bytes).expect("each is answered");
            heard.extend_from_slice(&bytes[..count]);
            let count = |mark: &str| String::from_utf8_lossy(&heard).matches(mark).count();
            answers = count("HTTP/1.1 ");
            assert_eq!(answers, count("HTTP/1.1 401 ") + count("HTTP/1.1 429 "));
        }
        guesses += answers;
    }
    guesses
}

fn results(story: &Story) -> Vec<f64> {
    story.tensor("speech_probability")
}

#[test]
fn friends_are_served_as_ever_while_slow_and_greedy_peers_come_from_all_sides() {
    let (binary, world) = World::start();
    let audio = recording("speech-noisy.wav");
    let expected = results(&world.stream(&audio));
    assert!(expected.len() > 100);
    await_that("nobody else is inside", || world.figure("suzu_connections") <= 1.0);
    let descriptors = world.figure("suzu_process_descriptors");
    let resident = world.figure("suzu_process_resident_bytes");

    let (over, streams) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (world, over, streams) = (&world, &over, &streams);
        let until_over = |mut work: Box<dyn FnMut() + Send>| {
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    work()
                }
            })
        };
        let mut friends = Vec::new();
        for _ in 0..FRIENDS {
            let (audio, expected) = (&audio, &expected);
            friends.push(until_over(Box::new(move || {
                assert!(results(&world.stream(audio)) == *expected, "other results than before");
                streams.fetch_add(1, Ordering::SeqCst);
            })));
        }
        friends.push(until_over(Box::new(move || {
            assert_eq!(Client::connect(world.bridge).ask("GET", "/health/live", "").status, 200);
        })));
        let (flood, guess) = (scope.spawn(|| flood(world, over)), scope.spawn(|| guess(world, over)));
        let slow = scope.spawn(|| dribble(world));
        // Whatever goes wrong, the others are told to stop.
        let slow = slow.join();
        await_that("every friend was served", || streams.load(Ordering::SeqCst) >= FRIENDS);
        over.store(true, Ordering::SeqCst);
        slow.expect("the slow ones are closed");
        friends.into_iter().for_each(|friend| friend.join().expect("no friend notices"));
        assert!(flood.join().expect("the flood is kept out") >= ADDRESS_CONNECTIONS_MAX);
        assert!(guess.join().expect("every guess is refused") >= 50);
    });

    await_that("all are gone", || world.figure("suzu_connections") <= 1.0);
    for held in ["incoming", "outgoing", "audio"] {
        assert_eq!(world.figure(&format!("suzu_{held}_bytes")), 0.0, "{held}");
    }
    assert_eq!((world.figure("suzu_sessions"), world.figure("suzu_samples_pending")), (0.0, 0.0));
    await_that("the descriptors are back", || world.figure("suzu_process_descriptors") <= descriptors + 1.0);
    let grown = world.figure("suzu_process_resident_bytes") - resident;
    assert!(grown < f64::from(32 << 20), "{grown} bytes more than before");
    assert!(world.figure("suzu_limiters") <= 2.0 * 64.0);
    assert!(world.figure("suzu_proxy_headers_refused_total") >= f64::from(SLOW));
    assert!(world.figure("suzu_tls_handshakes_failed_total") >= f64::from(SLOW));
    assert!(results(&world.stream(&audio)) == expected, "and afterwards too");
    binary.signal(libc::SIGTERM);
    assert_eq!(binary.end().0, Some(0));
}
