//! What a message costs in allocations once the server is warm: counted by the allocator itself, in a server that runs
//! whole, over real sockets.
//!
//! Every thread of this program counts but the one that plays the client. One test, since all that runs at the same time
//! would be counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use suzu::config::Config;
use suzu::driver::EventLoop;
use suzu::model::Registry;
use suzu::wire::websocket::{Decoder, Event, Role, encode_binary};

/// Messages before counting begins, and counted.
const WARM: usize = 2_000;
const COUNTED: usize = 10_000;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_CLIENT: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

fn count() {
    // A thread that is ending has no locals any more.
    if !IS_CLIENT.try_with(Cell::get).unwrap_or(true) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is passed on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A client that sends the same frames again and again and knows what comes back by its number of messages.
struct Client {
    stream: TcpStream,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl Client {
    fn connect(addr: std::net::SocketAddr, target: &str) -> Client {
        let mut stream = TcpStream::connect(addr).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time");
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("it answers");
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        Client { stream, decoder: Decoder::new(Role::Client, 1 << 20), buffer: vec![0; 64 * 1024] }
    }

    /// Sends the frames at once and waits until so many messages came for which `counts` says so.
    fn exchange(&mut self, frames: &[u8], answers: usize, counts: fn(&Event<'_>) -> bool) {
        self.stream.write_all(frames).expect("it reads");
        let mut missing = answers;
        while missing > 0 {
            let count = self.stream.read(&mut self.buffer).expect("it answers in time");
            assert!(count > 0, "the server closed");
            let mut input = &mut self.buffer[..count];
            while let Some(event) = self.decoder.next(&mut input).expect("it keeps to RFC 6455") {
                missing -= usize::from(counts(&event) && missing > 0);
            }
        }
    }
}

/// Allocations for each message: `burst` messages go out together, each of which has an answer.
fn per_message(
    addr: std::net::SocketAddr,
    target: &str,
    bytes: usize,
    burst: usize,
    counts: fn(&Event<'_>) -> bool,
) -> f64 {
    let mut client = Client::connect(addr, target);
    let mut frame = Vec::new();
    encode_binary(&mut frame, &vec![0; bytes], Some([1, 2, 3, 4]));
    let frames = frame.repeat(burst);
    (0..WARM / burst).for_each(|_| client.exchange(&frames, burst, counts));
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (0..COUNTED / burst).for_each(|_| client.exchange(&frames, burst, counts));
    let counted = ALLOCATIONS.load(Ordering::Relaxed) - before;
    counted as f64 / (COUNTED / burst * burst) as f64
}

#[test]
fn a_warm_server_allocates_nothing_for_an_echo_and_a_known_number_for_a_chunk() {
    IS_CLIENT.set(true);
    let config = Config { host: "127.0.0.1".into(), port: 0, workers: 1, ..Config::default() };
    let event_loop = EventLoop::bind(config, Registry::builtin()).expect("a port");
    let (addr, handle) = (event_loop.local_addr(), event_loop.handle());
    let server = std::thread::spawn(move || event_loop.run());

    let binary = |event: &Event<'_>| matches!(event, Event::Binary(_));
    let results = |event: &Event<'_>| matches!(event, Event::Text(text) if text.contains("\"Results\""));
    let echo = per_message(addr, "/v1/echo", 640, 1, binary);
    let burst = per_message(addr, "/v1/echo", 640, 16, binary);
    // A chunk of 320 ms, 20 windows: one run, one result.
    let vad = per_message(addr, "/v1/stream?model=vad&sample_rate=16000", 10_240, 1, results);
    println!("allocations for each message: echo {echo:.4}, echo in bursts {burst:.4}, vad chunk {vad:.3}");

    // The figures of the process are taken once a second whatever the load, and cost some.
    assert!(echo < 0.05, "an echo allocates {echo}");
    assert!(burst < 0.05, "an echo in a burst allocates {burst}");
    assert!(vad <= VAD_MAX, "a chunk allocates {vad}");

    handle.stop();
    server.join().expect("the loop does not panic").expect("it ends well");
}

/// Allocations that a chunk through `vad` costs: its samples, its run and batch, the tensors that come home, the message.
/// A model's work for the same chunk is a hundred times theirs.
const VAD_MAX: f64 = 14.1;
