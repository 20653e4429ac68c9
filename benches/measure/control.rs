//! `control`: how long pongs and health checks take while every worker is busy.
//!
//! Streams send as fast as the server takes it (`overflow=block`), to the most costly model inside the binary, so
//! that a batch is always waiting. Where the server is bound to one core, its loop shares that core with its worker:
//! the hard case. The threads that make the load yield to those that measure. Noise: what else runs on the machine.

use super::figures::{heading, line, mb, percentiles, share};
use super::peer;
use super::process::{DEADLINE, Server, yield_to_others};
use super::ten::{drain, open, sample};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use suzu::driver::Clock;
use suzu::wire::websocket::encode_ping;

/// Pause between two questions of a prober.
const PAUSE: Duration = Duration::from_millis(5);

pub fn run(streams: usize, duration: Duration) {
    heading(&format!("control: {streams} streams of denoise without a pause for {} s", duration.as_secs()));
    let server = Server::start(&[]);
    let addr = server.addr;
    let audio = sample();
    let (busy, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let clock = Clock::new();
    std::thread::scope(|scope| {
        let load: Vec<_> = (0..streams).map(|_| scope.spawn(|| press(addr, &audio, &busy, &stop))).collect();
        while !busy.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let (began, cpu) = (clock.instant(), server.cpu());
        let infer = server.metric("suzu_inference_seconds_total");
        let probers = [
            ("WebSocket pong", scope.spawn(|| pongs(addr, duration, &clock))),
            ("GET /health/live, keep-alive", scope.spawn(|| health_kept(addr, duration, &clock))),
            ("GET /health/live, fresh connections", scope.spawn(|| health_fresh(addr, duration, &clock))),
        ];
        for (name, prober) in probers {
            percentiles(name, &mut prober.join().expect("every question is answered"));
        }
        let (took, cpu) = (clock.instant() - began, server.cpu() - cpu);
        let infer = Duration::from_secs_f64(server.metric("suzu_inference_seconds_total") - infer);
        stop.store(true, Ordering::SeqCst);
        line("workers' time in inference (by the wall clock)", share(infer, took));
        line("server CPU", share(cpu.total, took));
        line("  of which the loop's thread", share(cpu.poll_loop, took));
        line("server waited for its core", share(cpu.waited, took));
        let processed: f64 = load.into_iter().map(|load| load.join().expect("the stream ends well")).sum();
        let took = (clock.instant() - began).as_secs_f64();
        line("audio through the model", format!("{:.0} times real time", processed / 1e3 / took));
        line("resident at most", mb(server.held().resident_bytes_max));
        line("errors", 0);
    });
    server.stop();
}

/// One stream that sends without a pause until `stop`. Gives the milliseconds of audio that were processed.
fn press(addr: SocketAddr, audio: &[u8], busy: &AtomicBool, stop: &AtomicBool) -> f64 {
    yield_to_others();
    let (sender, receiver) = open(addr, "denoise");
    std::thread::scope(|scope| {
        let listening = scope.spawn(|| {
            yield_to_others();
            drain(receiver, |_| busy.store(true, Ordering::SeqCst)).1
        });
        for chunk in audio.chunks(3_200).cycle() {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            sender.send_audio(chunk).expect("the server reads on");
        }
        sender.close_stream().expect("the server reads on");
        listening.join().expect("the stream ends well").processed_ms
    })
}

/// Asks again and again, each time when the last answer is there.
fn ask(duration: Duration, clock: &Clock, mut question: impl FnMut()) -> Vec<Duration> {
    let began = clock.instant();
    let mut times = Vec::new();
    while clock.instant() - began < duration {
        let asked = clock.instant();
        question();
        times.push(clock.instant() - asked);
        std::thread::sleep(PAUSE);
    }
    times
}

fn pongs(addr: SocketAddr, duration: Duration, clock: &Clock) -> Vec<Duration> {
    let mut stream = peer::connect(addr, "/v1/echo");
    let mut ping = Vec::new();
    encode_ping(&mut ping, b"are you there", peer::MASK);
    let mut pong = vec![0x8a, b"are you there".len() as u8];
    pong.extend_from_slice(b"are you there");
    let mut heard = vec![0; pong.len()];
    ask(duration, clock, || {
        stream.write_all(&ping).expect("the server reads");
        stream.read_exact(&mut heard).expect("a pong comes in time");
        assert_eq!(heard, pong);
    })
}

fn health_kept(addr: SocketAddr, duration: Duration, clock: &Clock) -> Vec<Duration> {
    let mut stream = TcpStream::connect(addr).expect("the server listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a valid time");
    ask(duration, clock, || health(&mut stream))
}

fn health_fresh(addr: SocketAddr, duration: Duration, clock: &Clock) -> Vec<Duration> {
    ask(duration, clock, || {
        let mut stream = TcpStream::connect_timeout(&addr, DEADLINE).expect("the server listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a valid time");
        health(&mut stream);
    })
}

fn health(stream: &mut TcpStream) {
    stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: suzu\r\n\r\n").expect("the server reads");
    let head = String::from_utf8(peer::read_head(stream)).expect("UTF-8").to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.expect("the answer tells its length")];
    stream.read_exact(&mut body).expect("the body comes in time");
}
