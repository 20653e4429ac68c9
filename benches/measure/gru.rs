//! `gru`: streams through a recurrent model, whole server against the bare model in a loop.
//!
//! Streams go through the GRU of `tests/conformance/make_models.py` (300,000 parameters, windows of 32 ms), each with its
//! own state: as fast as results come back, with a message of one window or of four on the way for each stream, or at
//! real time, without and with 5 ms to wait for each other. After each stretch the bare model runs on the same core in
//! calls of as many rows as the server's batches had on average; so both are of one run, and what the machine does meanwhile hits both. At full speed the same
//! streams also go one at a time (`--batch-max 1`), and the same bytes through `/v1/echo`: what the messages alone cost.

use super::bare::Bare;
use super::figures::{heading, line, percentiles, ratio, share, us};
use super::peer::{self, Crowd, MASK};
use super::process::{DEADLINE, Server};
use super::ten::sample;
use std::path::Path;
use std::time::Duration;
use suzu::driver::Clock;
use suzu::time::Instant;
use suzu::wire::message::{ServerMessage, Termination};
use suzu::wire::websocket::{Event, encode_binary, encode_text};

/// 512 samples at 16 kHz: a window of the model.
const WINDOW: Duration = Duration::from_millis(32);
const WINDOW_BYTES: usize = 1024;
/// Time before the first window that counts.
const BEFORE: Duration = Duration::from_millis(300);
/// How often each is measured, in turns.
const ROUNDS: usize = 3;

#[derive(Clone, Copy, PartialEq)]
enum Pace {
    /// The next message of so many windows as soon as the last one has its result.
    Full(usize),
    /// A window every 32 ms, the streams spread over that time.
    RealTime,
}

/// What a stretch of streaming came to.
#[derive(Default)]
struct Stretch {
    windows: f64,
    cpu: Duration,
    /// Runs in a batch on average.
    batch: f64,
    /// From the sending of a window to its result.
    latencies: Vec<Duration>,
    took: Duration,
}

pub fn run(models: &Path, streams: &[usize], duration: Duration) {
    let bare = Bare::gru(models);
    let batched = Server::start(&["--models-dir", text(models), "--capacity-percent", "0"]);
    let unbatched =
        Server::start(&["--models-dir", text(models), "--capacity-percent", "0", "--batch-max", "1"]);
    let patient =
        Server::start(&["--models-dir", text(models), "--capacity-percent", "0", "--queue-delay-max", "5ms"]);
    let stretch = duration / ROUNDS as u32;
    for &streams in streams {
        heading(&format!("gru: {streams} streams, {} s of each kind", duration.as_secs()));
        let servers = [
            ("full speed", Pace::Full(1), &batched),
            ("full speed, unbatched", Pace::Full(1), &unbatched),
            ("full speed, four windows in a message", Pace::Full(4), &batched),
            ("real time", Pace::RealTime, &batched),
            ("real time, 5 ms for company", Pace::RealTime, &patient),
        ];
        let per_window: Vec<_> = servers
            .iter()
            .map(|(name, pace, server)| kind(name, server, &bare, streams, *pace, stretch))
            .collect();
        line(
            "streams a core, batched against unbatched",
            format!("{:.2}", per_window[1].div_duration_f64(per_window[0])),
        );
        line("the same bytes through /v1/echo, CPU", us(echo(&batched, streams, stretch)));
    }
    batched.stop();
    unbatched.stop();
    patient.stop();
}

/// Measures one kind of load, and gives the CPU time of a window.
fn kind(name: &str, server: &Server, bare: &Bare, streams: usize, pace: Pace, stretch: Duration) -> Duration {
    let (mut served, mut alone, mut ratios) = (Stretch::default(), Duration::ZERO, Vec::new());
    for _ in 0..ROUNDS {
        let round = stream(server, streams, pace, stretch);
        let rows = (round.batch.round() as usize).max(1);
        let bare = bare.run(rows, stretch / 2).mul_f64(round.windows);
        ratios.push(round.cpu.div_duration_f64(bare));
        alone += bare;
        served.add(round);
    }
    line(name, "");
    line("  runs in a batch on average", format!("{:.1}", served.batch / ROUNDS as f64));
    line("  server CPU for a window", us(served.cpu.div_f64(served.windows)));
    line("  bare model, as many rows in a call", us(alone.div_f64(served.windows)));
    ratio("  ratio", served.cpu, alone, ratios);
    line("  server CPU", share(served.cpu, served.took));
    percentiles("  window to result", &mut served.latencies);
    served.cpu.div_f64(served.windows)
}

impl Stretch {
    fn add(&mut self, other: Stretch) {
        self.windows += other.windows;
        self.cpu += other.cpu;
        self.batch += other.batch;
        self.took += other.took;
        self.latencies.extend(other.latencies);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// The sample in messages of so many windows.
fn frames(windows: usize) -> Vec<Vec<u8>> {
    let frame = |chunk: &[u8]| {
        let mut frame = Vec::new();
        encode_binary(&mut frame, chunk, MASK);
        frame
    };
    sample().chunks_exact(windows * WINDOW_BYTES).map(frame).collect()
}

/// A stream as its client knows it.
#[derive(Default)]
struct Progress {
    sent: usize,
    heard: usize,
    /// When each window that has no result yet was sent.
    departures: std::collections::VecDeque<Instant>,
    end: Option<Box<Termination>>,
}

fn stream(server: &Server, streams: usize, pace: Pace, duration: Duration) -> Stretch {
    let target = "/v1/stream?model=gru&sample_rate=16000";
    let mut crowd = Crowd::new((0..streams).map(|_| peer::connect(server.addr, target)).collect());
    let mut progress: Vec<Progress> = (0..streams).map(|_| Progress::default()).collect();
    let windows = match pace {
        Pace::Full(windows) => windows,
        Pace::RealTime => 1,
    };
    let (frames, clock) = (frames(windows), Clock::new());
    let began = clock.instant();
    let mut measured = None;
    let mut stretch = Stretch::default();
    loop {
        let now = clock.instant();
        if measured.is_none() && now > began + BEFORE {
            let done = work(server);
            measured = Some((clock.instant(), done, server.cpu()));
        }
        if let Some((start, before, cpu)) = &measured
            && now > *start + duration
        {
            stretch.cpu = server.cpu().total - cpu.total;
            stretch.took = clock.instant() - *start;
            let [batches, runs, samples] = work(server);
            stretch.windows = (samples - before[2]) / (WINDOW_BYTES / 2) as f64;
            stretch.batch = (runs - before[1]) / (batches - before[0]);
            break;
        }
        let mut patience = Duration::from_millis(100);
        for (number, progress) in progress.iter_mut().enumerate() {
            let due = match pace {
                Pace::Full(_) if progress.sent == progress.heard => now,
                Pace::Full(_) => continue,
                Pace::RealTime => {
                    began + WINDOW * number as u32 / streams as u32 + WINDOW * progress.sent as u32
                }
            };
            if due <= now {
                crowd.send(number, &frames[(progress.sent / windows + 37 * number) % frames.len()]);
                progress.sent += windows;
                progress.departures.extend(std::iter::repeat_n(now, windows));
            } else {
                patience = patience.min(due - now);
            }
        }
        listen(&mut crowd, patience, &mut progress, &clock, measured.is_some(), &mut stretch.latencies);
    }
    finish(&mut crowd, &mut progress, &clock);
    stretch
}

/// Batches, runs and samples that have been inferred.
fn work(server: &Server) -> [f64; 3] {
    server.metrics(["suzu_batch_size_count", "suzu_batch_size_sum", "suzu_samples_processed_total"])
}

/// Takes what comes; notes how long windows took if they count.
fn listen(
    crowd: &mut Crowd,
    patience: Duration,
    progress: &mut [Progress],
    clock: &Clock,
    counts: bool,
    latencies: &mut Vec<Duration>,
) {
    crowd.turn(patience, |number, event, _| {
        let Event::Text(text) = event else { panic!("the server sent {event:?}") };
        let progress = &mut progress[number];
        match ServerMessage::parse(text).expect("a message") {
            ServerMessage::Results(results) => {
                let rows = results.outputs[0].shape[0];
                progress.heard += rows;
                let now = clock.instant();
                let departed = progress.departures.drain(..rows).map(|departed| now - departed);
                latencies.extend(departed.filter(|_| counts));
            }
            ServerMessage::Termination(end) => progress.end = Some(end),
            ServerMessage::Begin(_) | ServerMessage::AudioAdded(_) => {}
            other => panic!("the server sent {other:?}"),
        }
    });
}

/// Ends every stream; all audio must have gone through the model.
fn finish(crowd: &mut Crowd, progress: &mut [Progress], clock: &Clock) {
    let mut close = Vec::new();
    encode_text(&mut close, r#"{"type":"CloseStream"}"#, MASK);
    (0..progress.len()).for_each(|number| crowd.send(number, &close));
    let began = clock.instant();
    while progress.iter().any(|progress| progress.end.is_none()) {
        assert!(clock.instant() - began < DEADLINE, "a stream does not end");
        listen(crowd, Duration::from_millis(100), progress, clock, false, &mut Vec::new());
    }
    for progress in progress {
        let ledger = progress.end.as_ref().expect("it ended").ledger;
        let sent = (progress.sent * WINDOW_BYTES / 2) as u64;
        assert_eq!((ledger.received, ledger.processed, progress.heard), (sent, sent, progress.sent));
    }
}

/// CPU for a message of a window's size there and back, with one of each connection on the way.
fn echo(server: &Server, connections: usize, duration: Duration) -> Duration {
    let streams = (0..connections).map(|_| peer::connect(server.addr, "/v1/echo")).collect();
    let mut crowd = Crowd::new(streams);
    let (count, cpu) = super::echo::play(&mut crowd, server, WINDOW_BYTES, 1, duration, &Clock::new());
    cpu.div_f64(count as f64)
}
