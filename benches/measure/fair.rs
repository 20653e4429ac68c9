//! `fair`: what a greedy user costs a modest one.
//!
//! The modest user has a few streams at real time, in chunks of 100 ms; the greedy one has many, each with a second of audio on its
//! way at any time. Each has an API key of its own in a file of credentials that this program writes. Tells the time from before the
//! sending of a chunk until its result has been received, alone and beside the greedy user, and how long the greedy user's batches
//! take then. With fair shares a chunk waits for no queue: only for the batch that runs, so the p99 rises by about one batch however
//! many streams the greedy user has. Noise: this program shares its cores with whatever else runs, and with many streams it needs a
//! core for itself.

use super::figures::{heading, line, ms, percentiles};
use super::peer::{self, Crowd, MASK};
use super::process::{DEADLINE, Server};
use super::ten::{CHUNK, Outcome, Speech, sample, speak};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use suzu::auth::{Scope, Scopes, key_entry};
use suzu::driver::Clock;
use suzu::wire::message::{ServerMessage, Termination};
use suzu::wire::websocket::{Event, encode_binary, encode_text};

/// Made for this program: they open nothing else.
pub const MODEST: &str = "modest.nothing-that-anyone-would-want-to-know";
const GREEDY: &str = "greedy.nothing-that-anyone-would-want-to-know";
/// Audio of a greedy stream that is on its way at a time.
const AHEAD_MS: f64 = 1000.0;
const CHUNK_BYTES: usize = 3_200;

pub fn run(model: &str, modest: usize, greedy: usize, duration: Duration) {
    heading(&format!(
        "fair: {modest} streams of {model} at real time, alone and beside {greedy} of another user at full speed, {} s each",
        duration.as_secs()
    ));
    let folder = std::env::temp_dir().join(format!("suzu-measure-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for temporary files");
    let file = folder.join("credentials.toml");
    std::fs::write(&file, [MODEST, GREEDY].map(entry).concat()).expect("room for a file");
    // Shares are measured here, not what the server does about overload.
    let file = file.to_str().expect("a path in UTF-8");
    let server = Server::start(&[
        "--credentials-file",
        file,
        "--queue-wait-target",
        "1min",
        "--capacity-percent",
        "0",
    ]);
    let audio = sample();
    let mut alone = speak_all(server.addr, model, &audio, modest, duration);
    let (busy, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let beside = std::thread::scope(|scope| {
        let pressing = scope.spawn(|| press(server.addr, model, &audio, greedy, &busy, &stop));
        while !busy.load(Ordering::SeqCst) && !pressing.is_finished() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let beside = speak_all(server.addr, model, &audio, modest, duration);
        stop.store(true, Ordering::SeqCst);
        let (processed_ms, batches) = pressing.join().expect("the greedy streams end well");
        line("audio of the greedy user", format!("{:.0} s", processed_ms / 1e3));
        (beside, batches)
    });
    let (mut beside, greedy_batches) = beside;
    let (alone, beside) = (alone.totals(), beside.totals());
    let before = report("chunk to result, alone", alone.0);
    let after = report("chunk to result, beside the greedy user", beside.0);
    report("a batch, alone", alone.1);
    report("a batch, beside the greedy user", beside.1);
    let batch = report("a batch of the greedy user", greedy_batches);
    let rise = after.saturating_sub(before).div_duration_f64(batch);
    line("rise of the p99, in batches of the greedy user (p99)", format!("{rise:.2}"));
    server.stop();
    // The folder is the system's to clean up if this fails.
    let _ = std::fs::remove_dir_all(&folder);
}

/// The key's entry in a file of credentials.
pub fn entry(key: &str) -> String {
    key_entry(key, Scopes::default().with(Scope::Stream))
}

/// Prints the times and gives their p99.
pub fn report(name: &str, mut times: Vec<Duration>) -> Duration {
    percentiles(name, &mut times);
    times[(times.len() * 99).div_ceil(100) - 1]
}

impl Outcome {
    /// Times from chunk to result, and of the batches in them.
    pub fn totals(&mut self) -> (Vec<Duration>, Vec<Duration>) {
        let infer = std::mem::take(&mut self.infer);
        let totals = self.added.iter().zip(&infer).map(|(added, infer)| *added + *infer);
        (totals.collect(), infer)
    }
}

/// The modest user's streams, side by side.
pub fn speak_all(addr: SocketAddr, model: &str, audio: &[u8], streams: usize, duration: Duration) -> Outcome {
    let clock = Clock::new();
    let began = clock.instant();
    std::thread::scope(|scope| {
        let speakers: Vec<_> = (0..streams)
            .map(|number| {
                let start = began + CHUNK * number as u32 / streams as u32;
                let speech = Speech { addr, model, audio, start, duration, key: Some(MODEST) };
                scope.spawn(move || speak(speech, &clock))
            })
            .collect();
        let mut all = Outcome::default();
        for speaker in speakers {
            let outcome = speaker.join().expect("every stream ends well");
            all.added.extend(outcome.added);
            all.infer.extend(outcome.infer);
        }
        all
    })
}

/// A greedy stream as its client knows it.
#[derive(Default)]
struct Progress {
    chunks: usize,
    heard_ms: f64,
    batches: Vec<Duration>,
    end: Option<Box<Termination>>,
}

/// The greedy user's streams: each sends as results come back, until `stop`. Gives the milliseconds that were processed, and how
/// long the batch of each result took.
fn press(
    addr: SocketAddr,
    model: &str,
    audio: &[u8],
    streams: usize,
    busy: &AtomicBool,
    stop: &AtomicBool,
) -> (f64, Vec<Duration>) {
    let target = format!("/v1/stream?model={model}&sample_rate=16000&timing=true");
    let head = format!("Authorization: Bearer {GREEDY}\r\n");
    let mut crowd = Crowd::new((0..streams).map(|_| peer::connect_with(addr, &target, &head)).collect());
    let mut progress: Vec<Progress> = (0..streams).map(|_| Progress::default()).collect();
    let frame = |chunk: &[u8]| {
        let mut frame = Vec::new();
        encode_binary(&mut frame, chunk, MASK);
        frame
    };
    let frames: Vec<_> = audio.chunks_exact(CHUNK_BYTES).map(frame).collect();
    let chunk_ms = CHUNK.as_secs_f64() * 1e3;
    while !stop.load(Ordering::SeqCst) {
        for (number, progress) in progress.iter_mut().enumerate() {
            while progress.chunks as f64 * chunk_ms < progress.heard_ms + AHEAD_MS {
                crowd.send(number, &frames[(progress.chunks + 7 * number) % frames.len()]);
                progress.chunks += 1;
            }
        }
        listen(&mut crowd, &mut progress);
        if progress.iter().all(|progress| progress.heard_ms > 0.0) {
            busy.store(true, Ordering::SeqCst);
        }
    }
    let mut close = Vec::new();
    encode_text(&mut close, r#"{"type":"CloseStream"}"#, MASK);
    (0..streams).for_each(|number| crowd.send(number, &close));
    let clock = Clock::new();
    let began = clock.instant();
    while progress.iter().any(|progress| progress.end.is_none()) {
        assert!(clock.instant() - began < DEADLINE, "a stream does not end within {}", ms(DEADLINE));
        listen(&mut crowd, &mut progress);
    }
    let ends = progress.iter().map(|progress| {
        let end = progress.end.as_ref().expect("it ended");
        let sent = (progress.chunks * CHUNK_BYTES / 2) as u64;
        assert_eq!(
            (end.ledger.received, end.ledger.processed),
            (sent, sent),
            "all audio went through the model"
        );
        end.processed_ms
    });
    let processed_ms = ends.sum();
    (processed_ms, progress.into_iter().flat_map(|progress| progress.batches).collect())
}

fn listen(crowd: &mut Crowd, progress: &mut [Progress]) {
    crowd.turn(Duration::from_millis(10), |number, event, _| {
        let text = match event {
            Event::Text(text) => text,
            // Processed audio.
            Event::Binary(_) => return,
            other => panic!("the server sent {other:?}"),
        };
        match ServerMessage::parse(text).expect("a message") {
            ServerMessage::Results(results) => {
                progress[number].heard_ms += results.duration_ms;
                let took = results.timing.map(|timing| Duration::from_secs_f64(timing.infer_ms / 1e3));
                progress[number].batches.extend(took);
            }
            ServerMessage::Termination(end) => progress[number].end = Some(end),
            ServerMessage::Begin(_)
            | ServerMessage::AudioAdded(_)
            | ServerMessage::SpeechStarted(_)
            | ServerMessage::SpeechEnded(_) => {}
            other => panic!("the server sent {other:?}"),
        }
    });
}
