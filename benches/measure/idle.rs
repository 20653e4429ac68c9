//! `idle`: many WebSockets at `/v1/echo`, each having exchanged one message, then resting.
//!
//! Tells the memory, the descriptors and the CPU time of each, and what they cost while they rest: pings and the
//! look at their deadlines. Memory is resident memory of the process, which leaves out what the kernel holds for the
//! sockets. Noise: the handshake rate is that of this program's opening threads as well; the rest is steady.

use super::figures::{heading, line, mb, share, us};
use super::peer::{self, Crowd, MASK};
use super::process::{DEADLINE, Server};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use suzu::driver::Clock;
use suzu::wire::websocket::{Event, encode_binary};

/// Threads that open connections at the same time, so that the server need not wait for one peer.
const OPENERS: usize = 16;

/// What each connection exchanges: 20 ms of speech at 16 kHz.
const MESSAGE: [u8; 640] = [7; 640];

pub fn run(connections: usize, rest: Duration) {
    heading(&format!("idle: {connections} WebSockets"));
    let connections_max = (connections + 100).to_string();
    let server = Server::start(&["--connections-max", &connections_max]);
    let clock = Clock::new();
    let (before, sockets_before) = (server.held(), server.sockets());
    line("resident before", mb(before.resident_bytes));

    let (began, cpu) = (clock.instant(), server.cpu());
    let mut crowd = Crowd::new(open(server.addr, connections));
    let took = clock.instant() - began;
    line("handshakes", format!("{:.0} / s", connections as f64 / took.as_secs_f64()));
    line("server CPU per handshake", us((server.cpu() - cpu).total / connections as u32));

    let cpu = server.cpu();
    exchange(&mut crowd, &clock);
    line("server CPU per first message", us((server.cpu() - cpu).total / connections as u32));

    let (began, cpu) = (clock.instant(), server.cpu());
    while clock.instant() - began < rest {
        crowd.turn(Duration::from_millis(100), |_, _, _| panic!("nobody spoke, yet a message came"));
    }
    let (took, cpu) = (clock.instant() - began, server.cpu() - cpu);
    let after = server.held();
    line("server CPU at rest", share(cpu.total, took));
    line("resident after", mb(after.resident_bytes));
    line("resident at most", mb(after.resident_bytes_max));
    let each = after.resident_bytes.saturating_sub(before.resident_bytes) / connections as u64;
    line("resident per connection", format!("{each} bytes"));
    line("descriptors", format!("{} (of which {} before)", after.descriptors, before.descriptors));

    assert_eq!(server.sockets() - sockets_before, connections, "every connection is held");
    exchange(&mut crowd, &clock);
    line("connections lost", 0);
    drop(crowd);
    server.stop();
}

/// Opens connections in a few threads at once.
fn open(addr: SocketAddr, count: usize) -> Vec<TcpStream> {
    std::thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS)
            .map(|number| {
                let share = count / OPENERS + usize::from(number < count % OPENERS);
                scope.spawn(move || (0..share).map(|_| peer::connect(addr, "/v1/echo")).collect::<Vec<_>>())
            })
            .collect();
        openers.into_iter().flat_map(|opener| opener.join().expect("every handshake succeeds")).collect()
    })
}

/// Each connection sends a message and gets it back.
fn exchange(crowd: &mut Crowd, clock: &Clock) {
    let mut frame = Vec::new();
    encode_binary(&mut frame, &MESSAGE, MASK);
    let mut answered = vec![false; crowd.len()];
    let mut missing = crowd.len();
    (0..crowd.len()).for_each(|number| crowd.send(number, &frame));
    let began = clock.instant();
    while missing > 0 {
        assert!(clock.instant() - began < DEADLINE, "{missing} connections got no answer");
        crowd.turn(Duration::from_millis(100), |number, event, _| {
            let same = matches!(event, Event::Binary(message) if message == MESSAGE);
            assert!(same, "other bytes came back than were sent");
            assert!(!std::mem::replace(&mut answered[number], true), "an answer came twice");
            missing -= 1;
        });
    }
}
