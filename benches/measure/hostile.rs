//! `hostile`: what slow and greedy peers cost those who do nothing wrong.
//!
//! Some streams of `vad` speak at real time, in chunks of 100 ms, and `/health/live` is asked a hundred times a second, each time on a
//! connection of its own; alone, and beside a crowd: peers that send a byte now and then (of heads, bodies, WebSocket messages and a
//! proxy's headers) and come again when their time limit has closed them, one address that opens 400 connections a second and is
//! refused, and one that guesses a thousand keys a second. Noise: the crowd takes time from the clients, which share the cores that
//! the server leaves; a ratio therefore says more than it should, never less.

use super::fair::{MODEST, entry, report, speak_all};
use super::figures::{heading, line};
use super::process::{DEADLINE, Server, yield_to_others};
use super::ten::sample;
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use suzu::driver::Clock;

/// Time between two bytes of a slow peer.
const TURN: Duration = Duration::from_millis(50);
/// Connections opened, and keys guessed, in that time by the two greedy addresses.
const FLOOD: usize = 20;
const GUESSES: usize = 50;
/// Connections that one address may have.
const ADDRESS_CONNECTIONS_MAX: &str = "400";
const HEALTH_EVERY: Duration = Duration::from_millis(10);

pub fn run(streams: usize, slow: usize, duration: Duration) {
    heading(&format!(
        "hostile: {streams} streams of vad at real time and health, alone and beside {slow} slow peers and two floods, {} s each",
        duration.as_secs()
    ));
    let folder = std::env::temp_dir().join(format!("suzu-measure-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for temporary files");
    let file = folder.join("credentials.toml");
    std::fs::write(&file, entry(MODEST)).expect("room for a file");
    let file = file.to_str().expect("a path in UTF-8");
    let server = Server::start(&[
        "--credentials-file",
        file,
        "--proxy-protocol",
        "v2",
        "--trusted-proxies",
        "127.0.0.9",
        "--address-connections-max",
        ADDRESS_CONNECTIONS_MAX,
    ]);
    let audio = sample();
    let healthy = || {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let health = scope.spawn(|| ask_health(server.addr, &over));
            let (results, _) = speak_all(server.addr, "vad", &audio, streams, duration).totals();
            over.store(true, Ordering::SeqCst);
            (results, health.join().expect("health is always told"))
        })
    };
    let alone = healthy();
    let (ready, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let (beside, crowd) = std::thread::scope(|scope| {
        let crowd = scope.spawn(|| press(server.addr, slow, &ready, &over));
        while !ready.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let beside = healthy();
        over.store(true, Ordering::SeqCst);
        (beside, crowd.join().expect("the crowd comes and goes"))
    });
    line("slow peers that were closed and came again", crowd.closed);
    line("connections refused to the flood", crowd.refused);
    line("keys guessed", crowd.guesses);
    for (name, alone, beside) in [("chunk to result", alone.0, beside.0), ("/health/live", alone.1, beside.1)]
    {
        let before = report(&format!("{name}, alone"), alone);
        let after = report(&format!("{name}, beside the crowd"), beside);
        line(&format!("{name}, p99 beside to p99 alone"), format!("{:.2}", after.div_duration_f64(before)));
    }
    server.stop();
    // The folder is the system's to clean up if this fails.
    let _ = std::fs::remove_dir_all(&folder);
}

/// Asks again and again, each time on a new connection. Times from before connecting until the whole answer is there.
fn ask_health(addr: SocketAddr, over: &AtomicBool) -> Vec<Duration> {
    let (clock, mut times) = (Clock::new(), Vec::new());
    let mut due = clock.instant();
    while !over.load(Ordering::SeqCst) {
        std::thread::sleep(due - clock.instant());
        due = due + HEALTH_EVERY;
        let began = clock.instant();
        let mut stream = TcpStream::connect_timeout(&addr, DEADLINE).expect("the server listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a valid time");
        stream
            .write_all(b"GET /health/live HTTP/1.1\r\nHost: suzu\r\nConnection: close\r\n\r\n")
            .expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        times.push(clock.instant() - began);
    }
    times
}

/// What the crowd did.
#[derive(Default)]
struct Crowd {
    closed: usize,
    refused: usize,
    guesses: usize,
}

/// A peer that sends a byte in each turn.
struct Slow {
    number: usize,
    stream: TcpStream,
    bytes: Vec<u8>,
    sent: usize,
}

fn press(addr: SocketAddr, slow: usize, ready: &AtomicBool, over: &AtomicBool) -> Crowd {
    yield_to_others();
    let mut crowd = Crowd::default();
    let mut peers: Vec<_> = (0..slow).map(|number| Slow::open(addr, number)).collect();
    let mut flood: VecDeque<TcpStream> = VecDeque::new();
    let mut guesser = connect([127, 0, 4, 1], addr);
    let guesses = "GET /v1/models HTTP/1.1\r\nHost: suzu\r\nAuthorization: Bearer modest.a-guess\r\n\r\n"
        .repeat(GUESSES);
    ready.store(true, Ordering::SeqCst);
    while !over.load(Ordering::SeqCst) {
        for peer in &mut peers {
            if !peer.go_on() {
                crowd.closed += 1;
                *peer = Slow::open(addr, peer.number);
            }
        }
        flood.extend((0..FLOOD).map(|_| connect([127, 0, 3, 1], addr)));
        flood.retain_mut(|stream| {
            let open = is_open(stream);
            crowd.refused += usize::from(!open);
            open
        });
        if guesser.write_all(guesses.as_bytes()).is_ok() {
            crowd.guesses += GUESSES;
        }
        if !is_open(&mut guesser) {
            guesser = connect([127, 0, 4, 1], addr);
        }
        std::thread::sleep(TURN);
    }
    crowd
}

impl Slow {
    fn open(addr: SocketAddr, number: usize) -> Slow {
        let key = format!("Host: suzu\r\nAuthorization: Bearer {MODEST}\r\n");
        let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let message = [&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4][..], &[7; 4096]].concat();
        let text = |first: String, then: Vec<u8>| (first.into_bytes(), then);
        let (first, bytes) = match number % 5 {
            0 => text("GET / HTTP/1.1\r\nX: ".into(), vec![b'x'; 4096]),
            1 => text(
                format!("POST /v1/echo HTTP/1.1\r\n{key}Content-Length: 900000\r\n\r\n"),
                vec![b'x'; 4096],
            ),
            2 => text(format!("GET /v1/echo HTTP/1.1\r\n{key}{upgrade}"), message),
            3 => text(format!("GET /v1/stream?model=vad HTTP/1.1\r\n{key}{upgrade}"), message),
            _ => (
                Vec::new(),
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\x7f\0\0\x01\x01\x02\x01\xbb".to_vec(),
            ),
        };
        let host = if number % 5 == 4 { [127, 0, 0, 9] } else { [127, 0, 1, (number % 100) as u8 + 1] };
        let mut stream = connect(host, addr);
        // A server that has no place for it closes it, which shows in the next turn.
        let _ = stream.write_all(&first);
        Slow { number, stream, bytes, sent: 0 }
    }

    /// Sends a byte, except for the last, and listens. Whether it is still open.
    fn go_on(&mut self) -> bool {
        if self.sent + 1 < self.bytes.len() {
            self.sent += usize::from(self.stream.write(&self.bytes[self.sent..=self.sent]).is_ok());
        }
        is_open(&mut self.stream)
    }
}

/// A connection from another address of this machine, which waits for nothing once it is there.
fn connect(host: [u8; 4], addr: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor is left");
    socket.bind(&SockAddr::from(SocketAddr::from((host, 0)))).expect("an address of this machine");
    socket.connect(&SockAddr::from(addr)).expect("the server listens");
    socket.set_nonblocking(true).expect("a TCP socket");
    socket.into()
}

/// Takes what there is. Whether the server has not closed it.
fn is_open(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 16 * 1024];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}
