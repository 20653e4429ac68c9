//! `ten`: a few clients that stream speech at real time, in chunks of 100 ms, each connected on its own.
//!
//! Tells the added latency: the time from before the sending of the chunk that completed a result until the result
//! has been received and parsed, less the inference itself (`timing.infer_ms`). It holds both trips through the
//! kernel, the loop, the queue and the client. And what the server cost: its whole CPU time, and what of it is not
//! the model's. Noise: whatever else runs on the machine shows in p99 and max, and in the inference time, which is
//! measured by the clock on the wall; the CPU time of the loop's own thread is the steadier figure.

use super::figures::{heading, line, mb, percentiles, share};
use super::process::Server;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;
use suzu::client::{Options, Received, Receiver, Sender, Stream};
use suzu::driver::Clock;
use suzu::time::Instant;
use suzu::wire::message::{Results, ServerMessage, StreamParams, Termination};

pub const CHUNK: Duration = Duration::from_millis(100);
const SAMPLE_RATE_HZ: u32 = 16_000;
const CHUNK_BYTES: usize = 3_200;

/// What a stream gave.
#[derive(Default)]
pub struct Outcome {
    /// Added latency of each result.
    pub added: Vec<Duration>,
    /// Time of the batch that each result came from.
    pub infer: Vec<Duration>,
    /// Bytes of processed audio.
    pub audio_bytes: usize,
}

pub fn run(model: &str, clients: usize, duration: Duration) {
    heading(&format!("ten: {clients} clients at real time for {} s, model {model}", duration.as_secs()));
    let server = Server::start(&[]);
    let before = server.held();
    let audio = sample();
    let clock = Clock::new();
    let (began, cpu, infer) = (clock.instant(), server.cpu(), server.metric("suzu_inference_seconds_total"));
    let mut held = before;
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients)
            .map(|number| {
                // People do not begin to speak in the same instant.
                let start = began + CHUNK * number as u32 / clients as u32;
                let speech = Speech { addr: server.addr, model, audio: &audio, start, duration, key: None };
                scope.spawn(move || speak(speech, &clock))
            })
            .collect();
        std::thread::sleep(duration / 2);
        held = server.held();
        clients.into_iter().map(|client| client.join().expect("every stream ends well")).collect()
    });
    let (took, cpu) = (clock.instant() - began, server.cpu() - cpu);
    let infer = Duration::from_secs_f64(server.metric("suzu_inference_seconds_total") - infer);
    let mut added: Vec<_> = outcomes.into_iter().flat_map(|outcome| outcome.added).collect();
    percentiles("added latency", &mut added);
    line("errors", 0);
    line("server CPU", share(cpu.total, took));
    line("  of which inference (by the wall clock)", share(infer, took));
    line("  of which not inference", share(cpu.total.saturating_sub(infer), took));
    line("  of which the loop's thread", share(cpu.poll_loop, took));
    line("server waited for its core", share(cpu.waited, took));
    line("resident before", mb(before.resident_bytes));
    line("resident while they stream", mb(held.resident_bytes));
    line("resident at most", mb(server.held().resident_bytes_max));
    line("descriptors while they stream", held.descriptors);
    server.stop();
}

/// The noisy speech of the repository, 16 kHz mono linear16.
pub fn sample() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/speech-noisy.wav");
    let mut reader =
        hound::WavReader::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!((reader.spec().sample_rate, reader.spec().channels), (SAMPLE_RATE_HZ, 1));
    reader.samples::<i16>().flat_map(|sample| sample.expect("a whole file").to_le_bytes()).collect()
}

/// Opens a stream of [`sample`] audio.
pub fn open(addr: SocketAddr, model: &str) -> (Sender, Receiver) {
    open_with(addr, model, Vec::new())
}

fn open_with(addr: SocketAddr, model: &str, headers: Vec<(String, String)>) -> (Sender, Receiver) {
    let params = StreamParams {
        model: model.to_owned(),
        sample_rate_hz: SAMPLE_RATE_HZ,
        timing: true,
        ..StreamParams::default()
    };
    let options = Options { params, headers, ..Options::default() };
    Stream::connect(&format!("ws://{addr}"), &options).expect("the server takes the stream").split()
}

/// What a client is to say.
pub struct Speech<'a> {
    pub addr: SocketAddr,
    pub model: &'a str,
    pub audio: &'a [u8],
    pub start: Instant,
    pub duration: Duration,
    /// Its credentials.
    pub key: Option<&'a str>,
}

/// One client: speaks for `duration`, listens until the end.
pub fn speak(speech: Speech<'_>, clock: &Clock) -> Outcome {
    let Speech { addr, model, audio, start, duration, key } = speech;
    let headers = key.map(|key| ("Authorization".to_owned(), format!("Bearer {key}")));
    let (sender, receiver) = open_with(addr, model, headers.into_iter().collect());
    let departures = Mutex::new(Vec::new());
    let chunks = duration.div_duration_f64(CHUNK) as u32;
    let (outcome, end) = std::thread::scope(|scope| {
        let listening = scope.spawn(|| listen(receiver, &departures, clock));
        let sample = audio.chunks_exact(CHUNK_BYTES).cycle();
        for (chunk, number) in sample.zip(0..chunks) {
            std::thread::sleep(start + CHUNK * number - clock.instant());
            departures.lock().expect("the listener lives").push(clock.instant());
            sender.send_audio(chunk).expect("the server reads");
        }
        sender.close_stream().expect("the server reads");
        listening.join().expect("the stream ends well")
    });
    let sent = u64::from(chunks) * CHUNK_BYTES as u64 / 2;
    assert_eq!((end.ledger.received, end.ledger.processed), (sent, sent), "all audio went through the model");
    outcome
}

/// Receives until the end, with the departures of the chunks so far.
fn listen(receiver: Receiver, departures: &Mutex<Vec<Instant>>, clock: &Clock) -> (Outcome, Termination) {
    let (mut added, mut infer) = (Vec::new(), Vec::new());
    let (mut outcome, end) = drain(receiver, |results| {
        let arrived = clock.instant();
        let Some(timing) = results.timing else { panic!("timing was asked for") };
        // Ends lie on milliseconds at least; a little less keeps rounding from naming the next chunk.
        let end_ms = results.start_ms + results.duration_ms;
        let chunk = (end_ms / CHUNK.as_secs_f64() / 1e3 - 1e-6).ceil().max(1.0) as usize - 1;
        let departures = departures.lock().expect("the sender lives");
        // The last result holds what the end of the stream gave up; its audio was complete before.
        let departed = departures[chunk.min(departures.len() - 1)];
        let took = Duration::from_secs_f64(timing.infer_ms / 1e3);
        added.push((arrived - departed).saturating_sub(took));
        infer.push(took);
    });
    (outcome.added, outcome.infer) = (added, infer);
    (outcome, end)
}

/// Receives until the end, which must be a good one.
pub fn drain(mut receiver: Receiver, mut on_results: impl FnMut(&Results)) -> (Outcome, Termination) {
    let mut outcome = Outcome::default();
    let mut end = None;
    let mut results = 0;
    while let Some(received) = receiver.recv().expect("the stream goes on until its end") {
        match received {
            Received::Message(ServerMessage::Results(message)) => {
                results += 1;
                on_results(&message);
            }
            Received::Message(ServerMessage::Termination(message)) => end = Some(*message),
            Received::Audio { samples, .. } => outcome.audio_bytes += samples.len(),
            Received::Closed { code, .. } => {
                assert_eq!(code, Some(1000), "the close that follows a good end")
            }
            Received::Unknown
            | Received::Message(
                ServerMessage::Error(_)
                | ServerMessage::Warning(_)
                | ServerMessage::Discarded(_)
                | ServerMessage::Reconnect(_),
            ) => panic!("the server sent {}", receiver.text()),
            Received::Message(_) => {}
        }
    }
    let end = end.expect("a Termination comes last");
    assert!(end.ledger.balances() && end.ledger.pending == 0 && end.ledger.discarded == 0, "{end:?}");
    assert_eq!(end.results, results, "every result arrived");
    (outcome, end)
}
