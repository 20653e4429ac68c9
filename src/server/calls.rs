//! Requests for inference between their body and their answer, and the sequences that some of them belong to.
//!
//! Owns what is remembered of a sequence between its requests. Requests of one sequence are answered one after the
//! other, in the order in which they came. Never touches a connection, a queue or a model.
//!
//! Invariants: of each sequence at most one request is with the workers, and then its memory is there too; a sequence
//! that is neither remembered nor asked is gone.

use crate::batch::{Call, Memory};
use crate::id::{CallId, ConnId, ModelId};
use crate::server::batcher::Queue;
use crate::server::fair::Tenant;
use crate::time::Instant;
use crate::wire::oip;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// A request for inference whose body is here.
pub struct PendingCall {
    /// Whose share of the workers it takes.
    pub tenant: Tenant,
    /// Who waits for the answer; None once that connection is gone.
    pub conn: Option<ConnId>,
    /// Which version of the model answers it.
    pub model: ModelId,
    /// What goes to the worker; None while it is there.
    pub call: Option<Box<Call>>,
    /// Where it waits.
    pub queue: Option<Queue>,
    /// The sequence that it belongs to.
    pub sequence: Option<SequenceKey>,
    /// Bytes that it is charged for.
    pub charged: usize,
    /// When it came.
    pub since: Instant,
    /// When it last went to a worker.
    pub departed: Instant,
}

/// Which sequence: of one model's name, across its versions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SequenceKey {
    /// The model.
    pub model: Arc<str>,
    /// The client's own name for it.
    pub id: oip::SequenceKey,
}

/// Requests that follow each other through a model that remembers.
pub struct Sequence {
    /// Which version of the model it began with, and so ends with.
    pub model: ModelId,
    /// What is remembered; None before the first answer, and while a request is with the workers.
    pub memory: Option<Memory>,
    /// Whether a request is being answered.
    pub busy: bool,
    /// Those that wait for it, each with whether it begins the sequence anew.
    pub waiting: VecDeque<(CallId, bool)>,
    /// When it was last asked.
    pub last_asked: Instant,
}

/// Every sequence that is remembered or asked.
#[derive(Default)]
pub struct Sequences {
    table: BTreeMap<SequenceKey, Sequence>,
}

impl Sequences {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// That sequence.
    pub fn get_mut(&mut self, key: &SequenceKey) -> Option<&mut Sequence> {
        self.table.get_mut(key)
    }

    /// A sequence begins.
    pub fn insert(&mut self, key: SequenceKey, sequence: Sequence) {
        self.table.insert(key, sequence);
    }

    /// A sequence is over.
    pub fn remove(&mut self, key: &SequenceKey) -> Option<Sequence> {
        self.table.remove(key)
    }

    /// Those that nobody has asked for `idle` and nobody asks now.
    pub fn stale(&self, now: Instant, idle: Duration) -> Vec<SequenceKey> {
        let stale = |sequence: &Sequence| {
            !sequence.busy && sequence.waiting.is_empty() && now >= sequence.last_asked + idle
        };
        self.table.iter().filter(|(_, sequence)| stale(sequence)).map(|(key, _)| key.clone()).collect()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&SequenceKey, &Sequence)> {
        self.table.iter()
    }
}
