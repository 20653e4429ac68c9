//! What goes to a worker and what comes home: one kind of work, for many clients, in one piece.
//!
//! A [`Batch`] leaves the server by ownership, is executed on a worker thread and returns by ownership, filled in.
//! What is remembered of every stream and sequence travels inside it, so there are no locks and results are in order
//! by construction. Nothing here knows of sockets, connections or who waits for the work.

mod audio;
mod call;

pub use call::{Call, CallStage, CallTimes, Calls, Memory, Question, Reply};

use crate::id::{BatchId, SessionId};
use crate::model::{self, Failure, Model, Outcome, Run};
use crate::time::Instant;
use std::sync::Arc;
use std::time::Duration;

/// Work for one worker.
pub struct Batch {
    /// Which batch.
    pub id: BatchId,
    /// What is to be done, and by [`Batch::execute`] what was done.
    pub work: Work,
    /// How long it took; measured by [`Batch::execute`].
    pub infer_time: Duration,
    /// CPU time that it took, which is less if other threads took the core; measured by whoever executes it.
    pub cpu_time: Duration,
}

/// What a worker can be asked to do.
pub enum Work {
    /// Runs of streams, through one model together.
    Streams(Streams),
    /// Requests: to be read only, or to be answered by one model together.
    Calls(Calls),
}

/// Runs of streams that go through one model together.
pub struct Streams {
    /// The model, shared with every worker.
    pub model: Arc<dyn Model>,
    /// Whose the runs are, each at most once; as many as there are runs.
    pub sessions: Vec<SessionId>,
    /// Their runs.
    pub runs: Vec<Run>,
}

impl Batch {
    /// A batch that has yet to be executed.
    pub fn new(id: BatchId, work: Work) -> Self {
        Self { id, work, infer_time: Duration::ZERO, cpu_time: Duration::ZERO }
    }

    /// How many runs or requests there are in it.
    pub fn len(&self) -> usize {
        match &self.work {
            Work::Streams(streams) => streams.runs.len(),
            Work::Calls(calls) => calls.calls.len(),
        }
    }

    /// The runs of streams in it; empty if it has other work.
    pub fn runs(&self) -> &[Run] {
        match &self.work {
            Work::Streams(streams) => &streams.runs,
            Work::Calls(_) => &[],
        }
    }

    /// The same for change.
    pub fn runs_mut(&mut self) -> &mut [Run] {
        match &mut self.work {
            Work::Streams(streams) => &mut streams.runs,
            Work::Calls(_) => &mut [],
        }
    }

    /// Whose the runs are.
    pub fn sessions(&self) -> &[SessionId] {
        match &self.work {
            Work::Streams(streams) => &streams.sessions,
            Work::Calls(_) => &[],
        }
    }

    /// The requests in it; empty if it has other work.
    pub fn calls_mut(&mut self) -> &mut [Call] {
        match &mut self.work {
            Work::Streams(_) => &mut [],
            Work::Calls(calls) => &mut calls.calls,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Does the work. Takes as long as the model takes; the server never calls it, a worker does. A panic of the model
    /// is caught and told in the outcomes. `clock` tells the present, for the figures only.
    pub fn execute(&mut self, clock: &dyn Fn() -> Instant) {
        let began = clock();
        match &mut self.work {
            Work::Streams(Streams { model, runs, .. }) => model::execute(&**model, runs),
            Work::Calls(calls) => calls.execute(clock),
        }
        self.infer_time = clock() - began;
    }

    /// Marks everything in it as failed, so that nobody takes an untouched outcome for a result.
    pub fn fail(&mut self, why: &str) {
        match &mut self.work {
            Work::Streams(Streams { runs, .. }) => {
                for run in runs {
                    let failure = Some(Failure::Panicked(why.to_owned()));
                    run.outcome = Outcome { failure, ..Outcome::default() };
                }
            }
            Work::Calls(calls) => calls.fail(why),
        }
    }
}
