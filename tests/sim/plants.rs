//! Bugs planted between the server and its world. The sweep must find each of them.

use suzu::batch::Batch;
use suzu::id::ConnId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Two runs of a batch get each other's results.
    SwappedOutcomes,
    /// Two runs of a batch get each other's state.
    SwappedStates,
    /// The end of a stream is cut off before it is inferred.
    LostTail,
    /// A batch is never inferred, and nobody notices.
    LeakedBatch,
    /// A late event hits the connection that has the place now.
    ReusedId,
    /// A client gets two results in the wrong order.
    SwappedResults,
    /// A client never gets one of its results.
    LostResult,
    /// One bit of the audio changes on its way to the model.
    ChangedAudio,
    /// A client gets one of its results twice.
    RepeatedResult,
    /// Two requests of a batch get each other's answer.
    SwappedReplies,
    /// A sequence forgets what it remembered.
    LostMemory,
    /// The receiver of webhooks says that it has an event, and does not.
    ForgottenEvent,
    /// An event that was given up is kept nowhere.
    LostDeadLetter,
}

pub const ALL: &[Kind] = &[
    Kind::SwappedOutcomes,
    Kind::SwappedStates,
    Kind::LostTail,
    Kind::LeakedBatch,
    Kind::ReusedId,
    Kind::SwappedResults,
    Kind::LostResult,
    Kind::ChangedAudio,
    Kind::RepeatedResult,
    Kind::SwappedReplies,
    Kind::LostMemory,
    Kind::ForgottenEvent,
    Kind::LostDeadLetter,
];

/// A planted bug; strikes every third time that it could.
#[derive(Clone)]
pub struct Plant {
    pub kind: Kind,
    chances: u32,
}

impl Plant {
    pub fn new(kind: Kind) -> Self {
        Self { kind, chances: 0 }
    }

    pub fn strikes(&mut self, kind: Kind) -> bool {
        if self.kind != kind {
            return false;
        }
        self.chances += 1;
        self.chances.is_multiple_of(3)
    }

    pub fn on_home(&mut self, batch: &mut Batch) {
        let runs = batch.runs_mut();
        if runs.len() > 1 && self.strikes(Kind::SwappedOutcomes) {
            let (first, second) = runs.split_at_mut(1);
            std::mem::swap(&mut first[0].outcome, &mut second[0].outcome);
        }
        if runs.len() > 1 && self.strikes(Kind::SwappedStates) {
            let (first, second) = runs.split_at_mut(1);
            std::mem::swap(&mut first[0].state, &mut second[0].state);
        }
        let calls = batch.calls_mut();
        if calls.len() > 1 && self.strikes(Kind::SwappedReplies) {
            let (first, second) = calls.split_at_mut(1);
            std::mem::swap(&mut first[0].reply, &mut second[0].reply);
        }
        for call in calls {
            if call.keeps && call.memory.is_some() && self.strikes(Kind::LostMemory) {
                call.memory = None;
            }
        }
    }

    /// Changes a batch on its way to the workers; true if it is to vanish.
    pub fn swallows(&mut self, batch: &mut Batch) -> bool {
        for run in batch.runs_mut() {
            if run.last && !run.samples.is_empty() && self.strikes(Kind::LostTail) {
                run.samples.pop();
            }
            if !run.samples.is_empty() && self.strikes(Kind::ChangedAudio) {
                run.samples[0] = f32::from_bits(run.samples[0].to_bits() ^ 1);
            }
        }
        self.strikes(Kind::LeakedBatch)
    }

    pub fn rewrite_late(&self, conn: ConnId, slots: &[(ConnId, usize)]) -> ConnId {
        let holder = slots.iter().find(|(id, _)| id.slot == conn.slot && self.kind == Kind::ReusedId);
        holder.map_or(conn, |(id, _)| *id)
    }
}
