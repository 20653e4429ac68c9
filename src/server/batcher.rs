//! Which sessions' runs go to the workers together, and when.
//!
//! Owns the queue of sessions that are ready (each at most once) and the batches in flight with their time limits.
//! Fair between streams: first ready, first served, one run a turn. Never touches a session or its audio.
//!
//! Invariants: a session is queued at most once; batches in flight never exceed `in_flight_max`.

use crate::id::{BatchId, SessionId};
use crate::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How batches are composed.
#[derive(Clone, Copy, Debug)]
pub struct BatchPolicy {
    /// Runs in a batch at most.
    pub batch_max: usize,
    /// How long the first ready run waits for company; zero hands over at once.
    pub queue_delay_max: Duration,
    /// Batches with the workers at most: one that runs and one that waits for each.
    pub in_flight_max: usize,
    /// How long an inference may take.
    pub infer_timeout: Duration,
}

#[derive(Debug)]
struct Ready {
    session: SessionId,
    since: Instant,
}

#[derive(Debug)]
struct InFlight {
    deadline: Instant,
    sessions: Vec<SessionId>,
}

/// A batch that went over its time limit.
#[derive(Debug)]
pub struct Overdue {
    /// Which.
    pub id: BatchId,
    /// Whose runs are lost.
    pub sessions: Vec<SessionId>,
}

/// The queue towards the workers.
pub struct Batcher {
    policy: BatchPolicy,
    /// One queue for each model, by its place in the registry.
    queues: Vec<VecDeque<Ready>>,
    in_flight: BTreeMap<BatchId, InFlight>,
    /// Given up, not home and their worker not replaced: each still takes a place.
    abandoned: BTreeSet<BatchId>,
    next_id: u64,
}

impl Batcher {
    /// An empty queue for `models` models.
    pub fn new(policy: BatchPolicy, models: usize) -> Self {
        let queues = (0..models).map(|_| VecDeque::new()).collect();
        Self { policy, queues, in_flight: BTreeMap::new(), abandoned: BTreeSet::new(), next_id: 0 }
    }

    /// The session has a run to make. The caller sees to it that it is not queued already.
    pub fn admit(&mut self, model: usize, session: SessionId, now: Instant) {
        self.queues[model].push_back(Ready { session, since: now });
    }

    /// The next batch to form: its id, its model and who takes part, oldest first. None if it should wait.
    pub fn form(&mut self, now: Instant) -> Option<(BatchId, usize, Vec<SessionId>)> {
        if self.in_flight.len() + self.abandoned.len() >= self.policy.in_flight_max {
            return None;
        }
        let model = self.next_model(now)?;
        let count = self.queues[model].len().min(self.policy.batch_max);
        let sessions: Vec<_> = self.queues[model].drain(..count).map(|ready| ready.session).collect();
        let id = BatchId(self.next_id);
        self.next_id += 1;
        Some((id, model, sessions))
    }

    /// The batch is on its way with these sessions' runs in it.
    pub fn depart(&mut self, id: BatchId, sessions: Vec<SessionId>, now: Instant) {
        let deadline = now + self.policy.infer_timeout;
        self.in_flight.insert(id, InFlight { deadline, sessions });
    }

    /// Of the queues that are full or have waited long enough, the one whose first has waited longest.
    fn next_model(&self, now: Instant) -> Option<usize> {
        let due = |queue: &VecDeque<Ready>| {
            let first = queue.front()?;
            let full = queue.len() >= self.policy.batch_max;
            (full || now >= first.since + self.policy.queue_delay_max).then_some(first.since)
        };
        let oldest = self.queues.iter().enumerate().filter_map(|(model, queue)| Some((due(queue)?, model)));
        oldest.min().map(|(_, model)| model)
    }

    /// The batch is home. False if it had been given up: nobody waits for it any more.
    pub fn complete(&mut self, id: BatchId) -> bool {
        let expected = self.in_flight.remove(&id).is_some();
        if !expected {
            self.abandoned.remove(&id);
        }
        expected
    }

    /// Another worker stands in for the one that hangs on this batch; its place is free, and it will not come home.
    pub fn replaced(&mut self, id: BatchId) {
        self.abandoned.remove(&id);
    }

    /// The session has ended: it no longer waits for a batch.
    pub fn forget(&mut self, model: usize, session: SessionId) {
        self.queues[model].retain(|ready| ready.session != session);
    }

    /// Takes out one batch that has exceeded its time limit.
    pub fn pop_overdue(&mut self, now: Instant) -> Option<Overdue> {
        let (&id, _) = self.in_flight.iter().find(|(_, batch)| batch.deadline <= now)?;
        let sessions = self.in_flight.remove(&id)?.sessions;
        self.abandoned.insert(id);
        Some(Overdue { id, sessions })
    }

    /// Takes out every batch in flight, to give it up.
    pub fn pop_all(&mut self) -> Vec<Overdue> {
        let all = std::mem::take(&mut self.in_flight);
        self.abandoned.extend(all.keys().copied());
        all.into_iter().map(|(id, batch)| Overdue { id, sessions: batch.sessions }).collect()
    }

    /// When something here becomes due: a queue's delay or a batch's time limit.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let overdue = self.in_flight.values().map(|batch| batch.deadline).min();
        let room = self.in_flight.len() + self.abandoned.len() < self.policy.in_flight_max;
        let delay = self.queues.iter().filter(|_| room).filter_map(|queue| queue.front());
        let delay = delay.map(|ready| ready.since + self.policy.queue_delay_max).min();
        [overdue, delay].into_iter().flatten().min()
    }

    /// Sessions that wait for a batch.
    pub fn queued(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    /// How long the first in the queue has waited.
    pub fn oldest_wait(&self, now: Instant) -> Duration {
        let fronts = self.queues.iter().filter_map(|queue| queue.front());
        fronts.map(|ready| now - ready.since).max().unwrap_or_default()
    }

    /// Batches with the workers.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether every place is taken by a hung inference, so that nothing moves.
    pub fn is_stuck(&self) -> bool {
        self.abandoned.len() >= self.policy.in_flight_max
    }

    /// Asserts the invariants of this module.
    pub fn check_invariants(&self) {
        assert!(self.in_flight.len() + self.abandoned.len() <= self.policy.in_flight_max);
        let mut queued: Vec<_> = self.queues.iter().flatten().map(|ready| ready.session).collect();
        queued.sort_unstable();
        assert!(queued.windows(2).all(|pair| pair[0] != pair[1]), "a session is queued at most once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batcher(batch_max: usize, delay_ms: u64, in_flight_max: usize) -> Batcher {
        let policy = BatchPolicy {
            batch_max,
            queue_delay_max: Duration::from_millis(delay_ms),
            in_flight_max,
            infer_timeout: Duration::from_secs(1),
        };
        Batcher::new(policy, 2)
    }

    fn session(slot: u32) -> SessionId {
        SessionId { slot, generation: 1 }
    }

    fn at(ms: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(ms))
    }

    #[test]
    fn those_who_were_ready_first_go_first() {
        let mut batcher = batcher(2, 0, 8);
        for slot in 0..3 {
            batcher.admit(0, session(slot), at(slot.into()));
        }
        assert_eq!(batcher.form(at(5)).unwrap().2, [session(0), session(1)]);
        assert_eq!(batcher.form(at(5)).unwrap().2, [session(2)]);
        assert!(batcher.form(at(5)).is_none());
    }

    #[test]
    fn a_batch_waits_for_company_until_the_delay_or_until_it_is_full() {
        let mut batcher = batcher(2, 10, 8);
        batcher.admit(0, session(0), at(0));
        assert!(batcher.form(at(9)).is_none());
        assert_eq!(batcher.poll_timeout(), Some(at(10)));
        assert!(batcher.form(at(10)).is_some());
        batcher.admit(0, session(1), at(11));
        batcher.admit(0, session(2), at(11));
        assert!(batcher.form(at(11)).is_some());
    }

    #[test]
    fn a_busy_model_does_not_starve_another() {
        let mut batcher = batcher(1, 0, 8);
        batcher.admit(0, session(0), at(0));
        batcher.admit(0, session(1), at(2));
        batcher.admit(1, session(2), at(1));
        let order: Vec<_> = std::iter::from_fn(|| batcher.form(at(3))).map(|(_, model, _)| model).collect();
        assert_eq!(order, [0, 1, 0]);
    }

    #[test]
    fn an_overdue_batch_keeps_its_place_until_it_is_home_or_replaced() {
        let mut batcher = batcher(1, 0, 1);
        batcher.admit(0, session(0), at(0));
        let (id, _, sessions) = batcher.form(at(0)).unwrap();
        batcher.depart(id, sessions, at(0));
        assert!(batcher.pop_overdue(at(999)).is_none());
        assert_eq!(batcher.pop_overdue(at(1000)).unwrap().sessions, [session(0)]);
        batcher.admit(0, session(1), at(1000));
        assert!(batcher.form(at(1000)).is_none() && batcher.is_stuck());
        batcher.replaced(id);
        assert!(batcher.form(at(1000)).is_some());
        assert!(!batcher.complete(id), "nobody waits for it");
    }
}
