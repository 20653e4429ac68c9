//! One stream from its first sample to its balance: three threads and what they share.
//!
//! One reads the source (it may be a pipe that says nothing for minutes), one sends at the right pace, one receives.
//! The receiver waits for nobody, so whatever the server holds up, its messages arrive.

use super::pace::{Latency, Speed, due};
use super::report::Report;
use super::wav::{WavReader, WavWriter, energy};
use crate::client::{self, Received, Receiver, Sender};
use crate::driver::Clock;
use crate::time::Instant;
use crate::wire::message::{AudioAdded, ClientMessage, Encoding, ErrorMessage, ServerMessage, Termination};
use crate::wire::pcm;
use crossbeam_channel::RecvTimeoutError;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Chunks read ahead of sending.
const CHUNKS_AHEAD: usize = 4;
/// Silence of the source after which `KeepAlive` is sent; the server's patience is 30 s.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(10);
/// How often a sender that waits looks whether it was interrupted.
const GLANCE: Duration = Duration::from_millis(100);

/// What to send and how.
pub(super) struct Plan {
    pub(super) encoding: Encoding,
    pub(super) sample_rate_hz: u32,
    /// Samples of each channel in a chunk.
    pub(super) chunk_frames: usize,
    pub(super) speed: Speed,
    /// Audio that the server takes at once, milliseconds, if sending more has consequences other than waiting.
    pub(super) credit_ms: Option<f64>,
}

/// A chunk of the source, ready to be sent.
struct Chunk {
    frames: usize,
    bytes: Vec<u8>,
    energy: f64,
}

/// What the sender and the receiver tell each other.
struct Shared {
    state: Mutex<State>,
    /// Rung when the receiver ended or there is new credit.
    changed: Condvar,
}

struct State {
    /// The stream's position up to which audio may be sent, milliseconds.
    allowed_ms: Option<f64>,
    latency: Latency,
    /// The receiver has ended.
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here can be left half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the sending went.
pub(super) struct Sent {
    /// Samples of each channel that were handed to the connection.
    pub(super) frames: u64,
    /// Sum of the squares of all channels' samples.
    pub(super) energy: f64,
    /// The source could not be read to its end.
    pub(super) source: Option<io::Error>,
    /// The connection failed. What the receiver heard says more.
    pub(super) failure: Option<client::Error>,
}

/// What was heard from the server.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) termination: Option<Termination>,
    pub(super) fatal: Option<ErrorMessage>,
    pub(super) close: Option<(Option<u16>, String)>,
    pub(super) failure: Option<client::Error>,
    /// The file could not be written.
    pub(super) output: Option<hound::Error>,
}

/// Everything about a stream that has ended.
pub(super) struct Outcome {
    pub(super) sent: Sent,
    pub(super) heard: Heard,
    pub(super) latency: Latency,
}

/// Streams the whole source. `interrupted` ends it early, but properly.
pub(super) fn run<R, W>(
    plan: &Plan,
    halves: (Sender, Receiver),
    source: WavReader<R>,
    output: Option<&mut WavWriter>,
    report: &mut Report<W>,
    interrupted: &AtomicBool,
) -> Outcome
where
    R: Read + Send + 'static,
    W: Write + Send,
{
    let clock = Clock::new();
    let state = State { allowed_ms: plan.credit_ms, latency: Latency::new(), ended: false };
    let shared = Shared { state: Mutex::new(state), changed: Condvar::new() };
    let (sender, receiver) = halves;
    let (sent, heard) = thread::scope(|scope| {
        let hearing = scope.spawn(|| {
            let heard = hear(receiver, output, report, &shared, clock);
            shared.lock().ended = true;
            shared.changed.notify_all();
            heard
        });
        let sent = send(plan, &sender, source, &shared, clock, interrupted);
        // Should our own code panic there, what was sent is still told.
        (sent, hearing.join().unwrap_or_default())
    });
    let state = shared.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    Outcome { sent, heard, latency: state.latency }
}

/// Reads the source on a thread of its own. It is not waited for: nothing can wake a thread that reads a silent pipe.
fn read_ahead<R: Read + Send + 'static>(
    mut source: WavReader<R>,
    encoding: Encoding,
    chunk_frames: usize,
) -> crossbeam_channel::Receiver<io::Result<Chunk>> {
    let (chunks, receiver) = crossbeam_channel::bounded(CHUNKS_AHEAD);
    thread::spawn(move || {
        let mut samples = Vec::new();
        loop {
            samples.clear();
            let chunk = source.read(chunk_frames, &mut samples).map(|frames| {
                let mut bytes = Vec::with_capacity(samples.len() * encoding.sample_bytes());
                pcm::encode(encoding, &samples, &mut bytes);
                Chunk { frames, bytes, energy: energy(&samples) }
            });
            let last = chunk.as_ref().map_or(true, |chunk| chunk.frames == 0);
            if matches!(&chunk, Ok(chunk) if chunk.frames == 0) || chunks.send(chunk).is_err() || last {
                return;
            }
        }
    });
    receiver
}

fn send<R: Read + Send + 'static>(
    plan: &Plan,
    sender: &Sender,
    source: WavReader<R>,
    shared: &Shared,
    clock: Clock,
    interrupted: &AtomicBool,
) -> Sent {
    let chunks = read_ahead(source, plan.encoding, plan.chunk_frames);
    let mut sent = Sent { frames: 0, energy: 0.0, source: None, failure: None };
    let stopped = || interrupted.load(Ordering::Relaxed) || shared.lock().ended;
    let mut began = None;
    let mut last_sent = clock.instant();
    let result = loop {
        if stopped() {
            break Ok(());
        }
        let chunk = match chunks.recv_timeout(GLANCE) {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(error)) => {
                sent.source = Some(error);
                break Ok(());
            }
            Err(RecvTimeoutError::Disconnected) => break Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                if clock.instant().since(last_sent) >= KEEP_ALIVE_AFTER {
                    last_sent = clock.instant();
                    if let Err(error) = sender.send(&ClientMessage::KeepAlive) {
                        break Err(error);
                    }
                }
                continue;
            }
        };
        // Real time begins with the first chunk, not with the wait for it.
        let began: Instant = *began.get_or_insert_with(|| clock.instant());
        let end_ms = (sent.frames + chunk.frames as u64) as f64 * 1e3 / f64::from(plan.sample_rate_hz);
        let deadline = began + due(plan.speed, sent.frames, plan.sample_rate_hz);
        if !wait(shared, clock, deadline, end_ms, interrupted) {
            break Ok(());
        }
        last_sent = clock.instant();
        shared.lock().latency.on_sent(end_ms, last_sent);
        if let Err(error) = sender.send_audio(&chunk.bytes) {
            break Err(error);
        }
        sent.frames += chunk.frames as u64;
        sent.energy += chunk.energy;
    };
    sent.failure = result.and_then(|()| sender.close_stream()).err();
    sent
}

/// Waits until the deadline has come and the credit reaches. False if the stream ended or was interrupted meanwhile.
fn wait(shared: &Shared, clock: Clock, deadline: Instant, end_ms: f64, interrupted: &AtomicBool) -> bool {
    let mut state = shared.lock();
    loop {
        if state.ended || interrupted.load(Ordering::Relaxed) {
            return false;
        }
        let left = deadline.since(clock.instant());
        let credit = state.allowed_ms.is_none_or(|allowed_ms| end_ms <= allowed_ms);
        if left.is_zero() && credit {
            return true;
        }
        let pause = if left.is_zero() { GLANCE } else { left.min(GLANCE) };
        state = shared.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn hear<W: Write>(
    mut receiver: Receiver,
    mut output: Option<&mut WavWriter>,
    report: &mut Report<W>,
    shared: &Shared,
    clock: Clock,
) -> Heard {
    let mut heard = Heard::default();
    loop {
        match receiver.recv() {
            Ok(Some(Received::Message(message))) => {
                on_message(&message, shared, clock);
                report.on_message(&message, receiver.text());
                match message {
                    ServerMessage::Termination(end) => heard.termination = Some(*end),
                    ServerMessage::Error(error) if error.fatal => heard.fatal = Some(*error),
                    _ => {}
                }
            }
            Ok(Some(Received::Unknown)) => report.on_unknown(receiver.text()),
            Ok(Some(Received::Audio { samples, .. })) => {
                let written = output.as_mut().map_or(Ok(()), |output| output.write(&samples));
                if let Err(error) = written {
                    // What came so far stays; the stream goes on for its results.
                    heard.output = Some(error);
                    output = None;
                }
            }
            Ok(Some(Received::Closed { code, reason })) => heard.close = Some((code, reason)),
            Ok(None) => return heard,
            Err(error) => {
                heard.failure = Some(error);
                return heard;
            }
        }
    }
}

fn on_message(message: &ServerMessage, shared: &Shared, clock: Clock) {
    match message {
        ServerMessage::Results(results) => {
            let end_ms = results.start_ms + results.duration_ms;
            shared.lock().latency.on_result(end_ms, clock.instant());
        }
        ServerMessage::AudioAdded(AudioAdded { audio_ms, credit_ms, .. }) => {
            let mut state = shared.lock();
            if let Some(allowed_ms) = &mut state.allowed_ms {
                *allowed_ms = audio_ms + credit_ms;
                shared.changed.notify_all();
            }
        }
        _ => {}
    }
}
