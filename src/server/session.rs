//! One stream: its audio, its place in the conversation and what it still owes its client.
//!
//! Owns everything that must outlive the connection. Never writes bytes and knows no other part: the server asks it
//! what to do and tells it what happened.
//!
//! Invariants: at most one run is in flight (then `state` is out with it); `message_seq` has no holes.

use crate::auth::Principal;
use crate::id::{ConnId, ModelId};
use crate::model::{Model, StreamState};
use crate::reason::{Fault, Reason};
use crate::server::buffer::{Ledger, StreamBuffer};
use crate::server::fair::Tenant;
use crate::time::Instant;
use crate::wire::message::StreamParams;
use crate::wire::wav::Decoder;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How far the conversation has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Audio comes in.
    Open,
    /// The client (or a drain) asked for the end: what waits is still inferred. The fault, if any, is told at last.
    Finishing(Option<Fault>),
    /// The end was forced: what waits has been discarded; only the run in flight is awaited.
    Ending(Fault),
}

impl Stage {
    /// The last run is home: all that is left is to say so.
    pub fn end_after_last_run(&mut self) {
        if let Stage::Finishing(fault) = self {
            let fault = fault.take().unwrap_or_else(|| Fault::new(Reason::Finished, ""));
            *self = Stage::Ending(fault);
        }
    }
}

/// A `Finalize` that has not been answered yet.
#[derive(Clone, Debug)]
pub struct Finalize {
    /// The client's name for it.
    pub id: Option<String>,
    /// Samples that had been received when it came.
    pub position: u64,
}

/// `Finalize` messages that may wait at a time; more are refused, so the queue has a bound.
pub const FINALIZES_MAX: usize = 16;

/// Messages at fault that a client may send before its stream is ended.
pub const FAULTS_MAX: u32 = 16;

/// One stream and its results.
pub struct Session {
    /// The name the client knows.
    pub name: String,
    /// The request that opened it, for the logs.
    pub request_id: String,
    /// Whose it is.
    pub principal: Arc<Principal>,
    /// Its connection; None once that is gone.
    pub conn: Option<ConnId>,
    /// Which version of the model it began with, and so ends with.
    pub model_id: ModelId,
    /// That model.
    pub model: Arc<dyn Model>,
    /// What the client asked for.
    pub params: StreamParams,
    /// Chunks that make a run due.
    pub chunks_per_run: usize,
    /// Time after the last chunk that makes a run due.
    pub flush_timeout: Duration,
    /// How far the conversation has come.
    pub stage: Stage,
    /// Waiting audio and the ledger.
    pub buffer: StreamBuffer,
    /// Turns bytes into samples; keeps half a sample over chunk borders.
    pub decoder: Decoder,
    /// What the model remembers; None while a run is in flight.
    pub state: Option<Box<StreamState>>,
    /// Facts about the run in flight.
    pub run: Option<RunInFlight>,
    /// Whether it stands in the batcher's queue.
    pub queued: bool,
    /// A run is wanted although chunks are missing (time-out, finalize).
    pub flush: bool,
    /// Answers owed.
    pub finalizes: VecDeque<Finalize>,
    /// Number of the last message sent; 0 before the first.
    pub message_seq: u64,
    /// Number of the last chunk received; 0 before the first.
    pub audio_seq: u64,
    /// `Results` sent.
    pub results: u64,
    /// Runs that failed since the last good one.
    pub failures: u32,
    /// Messages at fault so far.
    pub faults: u32,
    /// When it began.
    pub began: Instant,
    /// Last audio or `KeepAlive`.
    pub last_heard: Instant,
    /// When the next `AudioAdded` is due.
    pub ack_due: Instant,
    /// The ledger at the last `AudioAdded`.
    pub acked: Ledger,
    /// Whether the client has been told that its credit is below half.
    pub credit_low: bool,
    /// Since when its socket has not been read because the buffer is full.
    pub blocked_since: Option<Instant>,
    /// When this session's timer is set to, if it is.
    pub timer: Option<Instant>,
    /// Bytes charged to the audio budget.
    pub charged: usize,
    /// Samples processed when the server's capacity was last measured.
    pub measured: u64,
    /// Samples that it may hold while the server is overloaded and it holds more than its fair share; None: as all may.
    pub credit_max: Option<u64>,
    /// Told that there are no interim results for the time being.
    pub warned_final_only: bool,
    /// Warned about samples that are not numbers.
    pub warned_not_finite: bool,
    /// Its client is to get back audio as long as it sends: a stretch without any ends it.
    pub whole_audio: bool,
}

/// What the server remembers of a run while a worker has it.
#[derive(Clone, Copy, Debug)]
pub struct RunInFlight {
    /// When its newest chunk came.
    pub newest: Instant,
    /// When it left.
    pub departed: Instant,
    /// Samples missing from the stream's clock before it.
    pub skipped: u64,
    /// Whether the stream ends with it.
    pub last: bool,
}

impl Session {
    /// Samples that it may hold, where all may hold audio of that duration.
    pub fn held_max(&self, held_max: Duration) -> u64 {
        self.samples_in(held_max).min(self.credit_max.unwrap_or(u64::MAX))
    }

    /// Whose share of the workers it takes.
    pub fn tenant(&self) -> Tenant {
        Tenant(Arc::clone(&self.principal.user))
    }

    /// Whether a run should be made now.
    pub fn wants_run(&self) -> bool {
        if self.run.is_some() {
            return false;
        }
        match self.stage {
            Stage::Open => {
                self.buffer.has_unit() && (self.flush || self.buffer.chunks() >= self.chunks_per_run)
            }
            Stage::Finishing(_) => true,
            Stage::Ending(_) => false,
        }
    }

    /// What its next run takes of its tenant's share: microseconds of audio.
    pub fn run_cost(&self, run_max: Duration) -> u64 {
        let samples = self.buffer.held().min(self.samples_in(run_max));
        samples.saturating_mul(1_000_000) / u64::from(self.params.sample_rate_hz)
    }

    /// When the audio that waits must be inferred even if chunks are missing.
    pub fn flush_due(&self) -> Option<Instant> {
        let waits = self.stage == Stage::Open && self.run.is_none() && self.buffer.has_unit() && !self.flush;
        waits.then(|| self.buffer.last_chunk() + self.flush_timeout)
    }

    /// Milliseconds that `samples` last, rounded to the microsecond.
    pub fn ms(&self, samples: u64) -> f64 {
        samples_to_ms(samples, self.params.sample_rate_hz)
    }

    /// Samples that last `ms` milliseconds.
    pub fn samples(&self, ms: f64) -> u64 {
        (ms.max(0.0) * f64::from(self.params.sample_rate_hz) / 1000.0).round() as u64
    }

    /// Samples that `duration` holds.
    pub fn samples_in(&self, duration: Duration) -> u64 {
        let nanos = duration.as_nanos() * u128::from(self.params.sample_rate_hz);
        u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX)
    }

    /// The number of the next message.
    pub fn next_message_seq(&mut self) -> u64 {
        self.message_seq += 1;
        self.message_seq
    }

    /// Takes the next `Finalize` whose audio has all been dealt with.
    pub fn pop_finalize(&mut self) -> Option<Finalize> {
        let first = self.finalizes.front()?;
        let met = self.run.is_none() && self.buffer.is_past(first.position);
        met.then(|| self.finalizes.pop_front()).flatten()
    }

    /// Asserts the invariants of this module.
    pub fn check_invariants(&self) {
        self.buffer.check_invariants();
        assert_eq!(self.state.is_none(), self.run.is_some(), "the state is out with the run, or here");
        assert!(self.finalizes.len() <= FINALIZES_MAX);
        let owed =
            self.run.is_none() && self.finalizes.front().is_some_and(|f| self.buffer.is_past(f.position));
        assert!(!owed, "a Finalize whose audio has been dealt with is answered at once");
    }
}

/// Milliseconds that `samples` last at `rate_hz`, rounded to the microsecond.
pub fn samples_to_ms(samples: u64, rate_hz: u32) -> f64 {
    round_ms(samples as f64 * 1000.0 / f64::from(rate_hz))
}

/// Rounds milliseconds to the microsecond, as the wire shows them.
pub fn round_ms(ms: f64) -> f64 {
    (ms * 1000.0).round() / 1000.0
}
