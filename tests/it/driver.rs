//! The loop over real sockets: fairness, backpressure, half-closed peers, missing descriptors, hung workers, the end.

use crate::support::{BINARY, Client, DEADLINE, TEXT, TestServer, await_that, config, frame};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use suzu::config::Config;
use suzu::driver::Clock;
use suzu::model::{Lane, Model, ModelSpec, Registry, State};
use suzu::time::Instant;

#[test]
fn what_many_connections_send_comes_back_to_each() {
    let server = TestServer::start();
    let mut clients: Vec<_> = (0..400).map(|_| Client::websocket(server.addr, "/v1/echo")).collect();
    for round in 0..5u32 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.send_message(BINARY, &payload(number as u32, round));
        }
        for (number, client) in clients.iter_mut().enumerate() {
            client.hear_echo(&payload(number as u32, round));
        }
    }
}

#[test]
fn slots_are_used_again_without_a_trace_of_their_last_holder() {
    let server = TestServer::start();
    for number in 0..300 {
        let mut client = Client::websocket(server.addr, "/v1/echo");
        client.echo(&payload(number, 0));
        if number % 3 == 0 {
            // Leaves with an answer on the way that nobody will read.
            client.send_message(BINARY, &payload(number, 1));
        }
    }
}

#[test]
fn more_peers_at_once_than_a_turn_accepts_are_all_served() {
    let server = TestServer::start();
    let streams: Vec<_> = (0..500).map(|_| TcpStream::connect(server.addr).unwrap()).collect();
    let mut clients: Vec<_> = streams.into_iter().map(Client::over).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.upgrade("/v1/echo");
        client.echo(&payload(number as u32, 0));
    }
}

#[test]
fn bytes_behind_the_upgrade_are_served_without_another_edge() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    let mut bytes =
        b"GET /v1/echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            .to_vec();
    bytes.extend_from_slice(&frame(BINARY, b"already here"));
    client.send(&bytes);
    client.read_until("\r\n\r\n");
    client.hear_echo(b"already here");
}

#[test]
fn a_peer_that_finished_sending_still_gets_its_answer() {
    let server = TestServer::start();
    for _ in 0..50 {
        let mut client = Client::websocket(server.addr, "/v1/echo");
        client.send_message(BINARY, &payload(1, 1));
        client.finish_sending();
        client.hear_echo(&payload(1, 1));
        client.await_closed();
    }
}

#[test]
fn an_answer_larger_than_every_buffer_reaches_a_peer_that_reads_late() {
    let server = TestServer::start();
    let mut client = Client::websocket(server.addr, "/v1/echo");
    let large: Vec<u8> = (0..4 << 20).map(|place: u32| (place / 7) as u8).collect();
    // All of it is sent before anything is read.
    client.send_message(BINARY, &large);
    client.hear_echo(&large);
    client.echo(b"and on it goes");
}

#[test]
fn a_peer_that_floods_does_not_keep_the_others_waiting() {
    let server = TestServer::start();
    let stop = Arc::new(AtomicBool::new(false));
    let flooder = Client::websocket(server.addr, "/v1/echo");
    let (mut reader, mut writer) = (flooder.try_clone(), flooder);
    let flood = frame(BINARY, &vec![5; 1 << 20]);
    let stopped = Arc::clone(&stop);
    let writing = std::thread::spawn(move || {
        let mut count = 0;
        while !stopped.load(Ordering::SeqCst) {
            writer.send(&flood);
            count += 1;
        }
        writer.finish_sending();
        count
    });
    let reading = std::thread::spawn(move || reader.read_to_end().len());

    let mut polite = Client::websocket(server.addr, "/v1/echo");
    for round in 0..200 {
        polite.echo(&payload(0, round));
    }
    stop.store(true, Ordering::SeqCst);
    let sent: usize = writing.join().unwrap();
    assert!(reading.join().unwrap() > sent << 20, "the flood itself came back, with its frame heads");
}

#[test]
fn a_reset_in_the_middle_leaves_the_others_alone() {
    let server = TestServer::start();
    let mut other = Client::websocket(server.addr, "/v1/echo");
    for round in 0..50 {
        let mut client = Client::websocket(server.addr, "/v1/echo");
        client.send_message(BINARY, &vec![1; 300_000]);
        socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        other.echo(&payload(0, round));
    }
}

#[test]
fn peers_wait_in_the_backlog_until_there_is_room() {
    let server = TestServer::start_with(
        Config { connections_max: 2, sessions_max: 2, ..config() },
        Registry::builtin(),
    );
    let first = Client::websocket(server.addr, "/v1/echo");
    let second = Client::websocket(server.addr, "/v1/echo");
    drop((first, second));
    // They may find the server full or not; whoever is served is served well once the first two are gone.
    await_that("somebody is served again", || {
        let mut client = Client::connect(server.addr);
        client.send(
            "GET /v1/echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
        );
        client.send("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
        client.read_until(b"\r\n\r\n").starts_with(b"HTTP/1.1 101")
    });
}

#[test]
fn results_wake_a_sleeping_loop() {
    let server = TestServer::start();
    let mut client = Client::websocket(server.addr, "/v1/stream?model=echo&sample_rate=16000");
    // A result that does not wake the loop waits for its next tick, up to a second: that adds up past any deadline.
    let clock = Clock::new();
    for round in 0..300 {
        client.send_message(BINARY, &[0; 3200]);
        await_text(&mut client, "\"Results\"");
        assert!(clock.instant() < Instant::from_origin(DEADLINE), "only {round} results within {DEADLINE:?}");
    }
}

#[test]
fn a_hung_worker_is_replaced_and_others_are_served_on() {
    let (model, begun, release) = Hanging::new();
    let mut models = Registry::builtin();
    models.insert(Arc::new(model));
    let server = TestServer::start_with(
        Config { infer_timeout: Duration::from_secs(1), workers: 2, ..config() },
        models,
    );
    let mut unlucky = Client::websocket(server.addr, "/v1/stream?model=hanging&sample_rate=16000");
    unlucky.send_message(BINARY, &[0; 32_000]);
    begun.recv_timeout(Duration::from_secs(20)).expect("a worker hangs");
    await_text(&mut unlucky, "inference_failed");
    for _ in 0..3 {
        let mut lucky = Client::websocket(server.addr, "/v1/stream?model=echo&sample_rate=16000");
        lucky.send_message(BINARY, &[0; 32_000]);
        await_text(&mut lucky, "\"Results\"");
    }
    // It ends although a thread still hangs.
    server.handle.stop();
    server.join();
    drop(release);
}

#[test]
fn draining_ends_the_connections_then_the_loop() {
    let server = TestServer::start_with(
        Config { drain_timeout: Duration::from_millis(500), ..config() },
        Registry::builtin(),
    );
    let mut client = Client::websocket(server.addr, "/v1/echo");
    client.echo(b"still here");
    server.handle.drain();
    client.await_closed();
    let addr = server.addr;
    server.join();
    assert!(TcpStream::connect(addr).is_err(), "nobody listens any more");
}

#[test]
fn draining_an_idle_server_ends_it() {
    let server = TestServer::start();
    server.handle.drain();
    server.handle.drain();
    server.join();
}

#[test]
fn stopping_cuts_what_is_open() {
    let server = TestServer::start();
    let mut client = Client::websocket(server.addr, "/v1/echo");
    server.handle.stop();
    server.join();
    client.await_closed();
}

#[test]
fn a_handle_outlives_its_loop() {
    let server = TestServer::start();
    let handle = server.handle.clone();
    handle.stop();
    server.join();
    handle.drain();
    handle.stop();
}

#[test]
fn two_servers_live_in_one_process() {
    let (one, two) = (TestServer::start(), TestServer::start());
    assert_ne!(one.addr, two.addr);
    let mut client = Client::websocket(two.addr, "/v1/echo");
    one.handle.drain();
    one.join();
    client.echo(b"not my server");
}

/// In a process of its own, since descriptors are the whole process's.
#[test]
fn peers_wait_without_descriptors_and_are_served_when_others_leave() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "driver::without_descriptors", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by its parent test in a process of its own"]
fn without_descriptors() {
    const PEERS: usize = 12;
    const PLACES: usize = 4;
    let server = TestServer::start();
    // The peers have their descriptors before the limit comes down; the server gets only a few more.
    let sockets: Vec<_> = (0..PEERS)
        .map(|_| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap())
        .collect();
    limit_descriptors_to(open_descriptors() + PLACES);
    let mut clients = Vec::new();
    for socket in sockets {
        socket.connect(&server.addr.into()).unwrap();
        clients.push(Client::over(socket.into()));
    }
    let request = frame(BINARY, b"anybody?");
    for client in &mut clients {
        client.send(
            "GET /v1/echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        client.send(&request);
    }
    // Each that leaves frees a descriptor of its own and one of the server.
    for mut client in clients {
        client.read_until("\r\n\r\n");
        client.hear_echo(b"anybody?");
    }
    server.handle.drain();
    server.join();
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

fn limit_descriptors_to(count: usize) {
    let limit = libc::rlimit { rlim_cur: count as u64, rlim_max: count as u64 };
    // SAFETY: the pointer is to a valid `rlimit` that lives across the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

/// Bytes of their own for each connection and round, of many lengths.
fn payload(number: u32, round: u32) -> Vec<u8> {
    let length = 8 + (number as usize * 37 + round as usize * 101) % 3000;
    let seed = number.to_le_bytes().into_iter().chain(round.to_le_bytes());
    seed.cycle().take(length).collect()
}

fn await_text(client: &mut Client, part: &str) {
    loop {
        let (opcode, text) = client.read_message();
        if opcode == TEXT && String::from_utf8(text).unwrap().contains(part) {
            return;
        }
    }
}

/// A model that never returns until it is let go.
struct Hanging {
    spec: ModelSpec,
    begun: Mutex<Sender<()>>,
    released: Mutex<Receiver<()>>,
}

impl Hanging {
    fn new() -> (Self, Receiver<()>, Sender<()>) {
        let (begin, begun) = channel();
        let (release, released) = channel();
        let spec = Registry::builtin().find("echo").unwrap().spec().clone();
        let spec = ModelSpec { name: "hanging".into(), ..spec };
        (Self { spec, begun: Mutex::new(begin), released: Mutex::new(released) }, begun, release)
    }
}

impl Model for Hanging {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn start(&self) -> State {
        Box::new(())
    }

    fn infer(&self, _: &mut [Lane<'_>]) {
        let _ = self.begun.lock().unwrap().send(());
        let _ = self.released.lock().unwrap().recv();
    }
}
