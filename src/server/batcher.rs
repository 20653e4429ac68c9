//! Which runs and requests go to the workers together, and when.
//!
//! Owns the queues of those who are ready (each at most once) and the batches in flight with their time limits. Never touches a
//! session, a request or its data.
//!
//! Fair between tenants: within a queue by what they are given (`fair.rs`), and between queues goes the one with the tenant that
//! has not been served for longest. A tenant alone is served in the order in which its members were ready.
//!
//! While a worker is free, whoever is due goes. While none is, a batch goes and waits for the next one only if some queue has a full
//! one: who would go in a smaller batch loses nothing by staying, and meets company. But if a full one takes the place, it is given
//! to whoever has the better right, full or not: or a queue that is always full would keep the others out for ever.
//!
//! Invariants: a member is queued at most once; batches in flight never exceed `in_flight_max`.

use crate::id::{BatchId, CallId, ModelId, SessionId};
use crate::server::fair::{FairQueue, Tenant};
use crate::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What waits together may go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Queue {
    /// Runs of streams through a model.
    Streams(ModelId),
    /// Requests to a model.
    Calls(ModelId),
    /// Requests to a model that have to be read before it is known what they want.
    Unread(ModelId),
}

impl Queue {
    /// The model.
    pub fn model(self) -> ModelId {
        match self {
            Queue::Streams(model) | Queue::Calls(model) | Queue::Unread(model) => model,
        }
    }
}

/// Who waits for a batch, or is in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Member {
    /// A stream with a run to make.
    Session(SessionId),
    /// A request.
    Call(CallId),
}

/// How the batches of one queue are composed.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchPolicy {
    /// Members of a batch at most.
    pub batch_max: usize,
    /// How long the first that is ready waits for company; zero hands over at once.
    pub queue_delay_max: Duration,
    /// Sizes that the model is fastest at, ascending; empty: any.
    pub preferred: Vec<usize>,
    /// How long the work may take.
    pub infer_timeout: Duration,
    /// Batches of this queue with the workers at most.
    pub concurrency_max: usize,
}

/// Tenants of whom it is remembered when they were last served. Beyond that all of them count as never served.
const SERVED_MAX: usize = 4096;

#[derive(Debug)]
struct Line {
    policy: BatchPolicy,
    ready: FairQueue<Member>,
    in_flight: usize,
}

#[derive(Debug)]
struct InFlight {
    queue: Queue,
    deadline: Instant,
    members: Vec<Member>,
}

/// A batch that is formed and not yet on its way.
#[derive(Debug)]
pub struct Formed {
    /// Its name.
    pub id: BatchId,
    /// Where its members waited.
    pub queue: Queue,
    /// Who takes part, in the order of their turns.
    pub members: Vec<Member>,
}

/// A batch that went over its time limit.
#[derive(Debug)]
pub struct Overdue {
    /// Which.
    pub id: BatchId,
    /// Where its members waited.
    pub queue: Queue,
    /// Whose work is lost.
    pub members: Vec<Member>,
}

/// The queues towards the workers.
pub struct Batcher {
    workers: usize,
    in_flight_max: usize,
    lines: BTreeMap<Queue, Line>,
    in_flight: BTreeMap<BatchId, InFlight>,
    /// Given up, not home and their worker not replaced: each still takes a place.
    abandoned: BTreeSet<BatchId>,
    next_id: u64,
    /// The batch that each tenant last took part in.
    served: BTreeMap<Tenant, BatchId>,
}

impl Batcher {
    /// Without queues, for so many workers. `in_flight_max` batches may be with them: those that run and those that wait.
    pub fn new(workers: usize, in_flight_max: usize) -> Self {
        Self {
            workers,
            in_flight_max,
            lines: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            next_id: 0,
            served: BTreeMap::new(),
        }
    }

    /// Opens a queue.
    pub fn open(&mut self, queue: Queue, policy: BatchPolicy) {
        self.lines.insert(queue, Line { policy, ready: FairQueue::new(), in_flight: 0 });
    }

    /// Closes a queue in which nobody waits any more.
    pub fn close(&mut self, queue: Queue) {
        let line = self.lines.remove(&queue);
        assert!(line.is_none_or(|line| line.ready.is_empty()), "nobody waits in a queue that closes");
    }

    /// The member has something to do. The caller sees to it that it is not queued already.
    pub fn admit(&mut self, queue: Queue, tenant: &Tenant, member: Member, now: Instant) {
        let line = self.lines.get_mut(&queue).expect("the queue of a model that is in use is open");
        line.ready.push(tenant, member, now);
    }

    /// The next batch to form. None if there is none or it should wait. `cost` is what a member takes of its tenant's share, in
    /// a unit that all members of a queue have in common.
    pub fn form(&mut self, now: Instant, cost: impl Fn(Member) -> u64) -> Option<Formed> {
        if !self.has_place() {
            return None;
        }
        let queue = self.next_queue(now)?;
        let line = self.lines.get_mut(&queue)?;
        let id = BatchId(self.next_id);
        self.next_id += 1;
        if self.served.len() > SERVED_MAX {
            self.served.clear();
        }
        let served = &mut self.served;
        let members = line.ready.take(line.count(), cost, |tenant| match served.get_mut(tenant) {
            Some(last) => *last = id,
            None => drop(served.insert(tenant.clone(), id)),
        });
        Some(Formed { id, queue, members })
    }

    /// The batch is on its way with these members.
    pub fn depart(&mut self, id: BatchId, queue: Queue, members: Vec<Member>, now: Instant) {
        let Some(line) = self.lines.get_mut(&queue) else { return };
        line.in_flight += 1;
        let deadline = now + line.policy.infer_timeout;
        self.in_flight.insert(id, InFlight { queue, deadline, members });
    }

    fn has_place(&self) -> bool {
        self.in_flight.len() + self.abandoned.len() < self.in_flight_max
    }

    fn has_free_worker(&self) -> bool {
        self.in_flight.len() + self.abandoned.len() < self.workers
    }

    /// Of the queues that are full, or for which a worker is free and that have waited long enough, the one with the tenant
    /// that has not been served for longest; of those, the one whose first has waited longest.
    fn next_queue(&self, now: Instant) -> Option<Queue> {
        // If a full batch takes the place, those who stayed for company lose it: then they are asked as well.
        let taken = self.lines.values().any(|line| line.is_full() && line.may_depart());
        let free = taken || self.has_free_worker();
        let is_due = |line: &Line| {
            let oldest = line.ready.oldest()?;
            let due = line.is_full() || free && now >= oldest + line.policy.queue_delay_max;
            (due && line.may_depart()).then_some(oldest)
        };
        let due = || self.lines.iter().filter_map(|(queue, line)| Some((is_due(line)?, *queue, line)));
        let mut first = due();
        let (_, only, _) = first.next()?;
        if first.next().is_none() {
            return Some(only);
        }
        let last_served =
            |line: &Line| line.ready.tenants().map(|tenant| self.served.get(tenant)).min().flatten();
        due()
            .min_by_key(|(oldest, queue, line)| (last_served(line), *oldest, *queue))
            .map(|(_, queue, _)| queue)
    }

    /// The batch is home. False if it had been given up: nobody waits for it any more.
    pub fn complete(&mut self, id: BatchId) -> bool {
        match self.in_flight.remove(&id) {
            Some(batch) => {
                self.leave(batch.queue);
                true
            }
            None => {
                self.abandoned.remove(&id);
                false
            }
        }
    }

    fn leave(&mut self, queue: Queue) {
        if let Some(line) = self.lines.get_mut(&queue) {
            line.in_flight -= 1;
            if line.in_flight == 0 {
                line.ready.rest();
            }
        }
    }

    /// Another worker stands in for the one that hangs on this batch; its place is free, and it will not come home.
    pub fn replaced(&mut self, id: BatchId) {
        self.abandoned.remove(&id);
    }

    /// The member is gone: it no longer waits for a batch.
    pub fn forget(&mut self, queue: Queue, tenant: &Tenant, member: Member) {
        if let Some(line) = self.lines.get_mut(&queue) {
            line.ready.remove(tenant, member);
        }
    }

    /// Takes out one batch that has exceeded its time limit.
    pub fn pop_overdue(&mut self, now: Instant) -> Option<Overdue> {
        let (&id, _) = self.in_flight.iter().find(|(_, batch)| batch.deadline <= now)?;
        Some(self.give_up(id))
    }

    /// Takes out any batch in flight, to give it up.
    pub fn pop_any(&mut self) -> Option<Overdue> {
        let (&id, _) = self.in_flight.first_key_value()?;
        Some(self.give_up(id))
    }

    fn give_up(&mut self, id: BatchId) -> Overdue {
        let InFlight { queue, members, .. } = self.in_flight.remove(&id).expect("it is in flight");
        self.leave(queue);
        self.abandoned.insert(id);
        Overdue { id, queue, members }
    }

    /// When something here becomes due: a queue's delay or a batch's time limit.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let overdue = self.in_flight.values().map(|batch| batch.deadline).min();
        let (room, free) = (self.has_place(), self.has_free_worker());
        let lines = self.lines.values().filter(|line| room && line.may_depart() && (free || line.is_full()));
        let due = |line: &Line| Some(line.ready.oldest()? + line.policy.queue_delay_max);
        [overdue, lines.filter_map(due).min()].into_iter().flatten().min()
    }

    /// Members that wait for a batch.
    pub fn queued(&self) -> usize {
        self.lines.values().map(|line| line.ready.len()).sum()
    }

    /// How long the first in the queues has waited.
    pub fn oldest_wait(&self, now: Instant) -> Duration {
        let oldest = self.lines.values().filter_map(|line| line.ready.oldest());
        oldest.map(|since| now - since).max().unwrap_or_default()
    }

    /// How long the first in the queues has waited beyond the delay that is meant.
    pub fn overdue_wait(&self, now: Instant) -> Duration {
        let due = |line: &Line| Some(now - (line.ready.oldest()? + line.policy.queue_delay_max));
        self.lines.values().filter_map(due).max().unwrap_or_default()
    }

    /// Batches with the workers.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether every place is taken by hung work, so that nothing moves.
    pub fn is_stuck(&self) -> bool {
        self.abandoned.len() >= self.in_flight_max
    }

    /// Asserts the invariants of this module.
    pub fn check_invariants(&self) {
        assert!(self.in_flight.len() + self.abandoned.len() <= self.in_flight_max);
        let mut queued: Vec<_> = self.lines.values().flat_map(|line| line.ready.members()).collect();
        queued.sort_unstable();
        assert!(queued.windows(2).all(|pair| pair[0] != pair[1]), "a member is queued at most once");
        for (queue, line) in &self.lines {
            line.ready.check_invariants();
            let flying = self.in_flight.values().filter(|batch| batch.queue == *queue).count();
            assert_eq!(line.in_flight, flying, "each queue knows how many of its batches are out");
        }
    }
}

impl Line {
    fn is_full(&self) -> bool {
        self.ready.len() >= self.policy.batch_max
    }

    fn may_depart(&self) -> bool {
        self.in_flight < self.policy.concurrency_max
    }

    /// How many go in the next batch: the largest preferred size that can be filled, or all there are.
    fn count(&self) -> usize {
        let count = self.ready.len().min(self.policy.batch_max);
        let preferred = self.policy.preferred.iter().copied().filter(|size| (1..=count).contains(size));
        preferred.max().unwrap_or(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(slot: u32) -> ModelId {
        ModelId { slot, generation: 1 }
    }

    fn queue(slot: u32) -> Queue {
        Queue::Streams(model(slot))
    }

    fn policy(batch_max: usize, delay_ms: u64) -> BatchPolicy {
        BatchPolicy {
            batch_max,
            queue_delay_max: Duration::from_millis(delay_ms),
            preferred: Vec::new(),
            infer_timeout: Duration::from_secs(1),
            concurrency_max: usize::MAX,
        }
    }

    fn batcher(policy: BatchPolicy, in_flight_max: usize) -> Batcher {
        let mut batcher = Batcher::new(in_flight_max, in_flight_max);
        batcher.open(queue(0), policy.clone());
        batcher.open(queue(1), policy);
        batcher
    }

    fn session(slot: u32) -> Member {
        Member::Session(SessionId { slot, generation: 1 })
    }

    fn tenant(name: u8) -> Tenant {
        Tenant(name.to_string().into())
    }

    fn one(_: Member) -> u64 {
        1
    }

    fn at(ms: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(ms))
    }

    #[test]
    fn those_who_were_ready_first_go_first() {
        let mut batcher = batcher(policy(2, 0), 8);
        for slot in 0..3 {
            batcher.admit(queue(0), &tenant(0), session(slot), at(slot.into()));
        }
        assert_eq!(batcher.form(at(5), one).unwrap().members, [session(0), session(1)]);
        assert_eq!(batcher.form(at(5), one).unwrap().members, [session(2)]);
        assert!(batcher.form(at(5), one).is_none());
    }

    #[test]
    fn a_batch_waits_for_company_until_the_delay_or_until_it_is_full() {
        let mut batcher = batcher(policy(2, 10), 8);
        batcher.admit(queue(0), &tenant(0), session(0), at(0));
        assert!(batcher.form(at(9), one).is_none());
        assert_eq!(batcher.poll_timeout(), Some(at(10)));
        assert!(batcher.form(at(10), one).is_some());
        batcher.admit(queue(0), &tenant(0), session(1), at(11));
        batcher.admit(queue(0), &tenant(0), session(2), at(11));
        assert!(batcher.form(at(11), one).is_some());
    }

    #[test]
    fn a_busy_model_does_not_starve_another() {
        let mut batcher = batcher(policy(1, 0), 8);
        batcher.admit(queue(0), &tenant(0), session(0), at(0));
        batcher.admit(queue(0), &tenant(0), session(1), at(2));
        batcher.admit(queue(1), &tenant(0), session(2), at(1));
        let order: Vec<_> =
            std::iter::from_fn(|| batcher.form(at(3), one)).map(|formed| formed.queue).collect();
        assert_eq!(order, [queue(0), queue(1), queue(0)]);
    }

    #[test]
    fn the_largest_preferred_size_that_can_be_filled_is_taken() {
        let mut batcher = batcher(BatchPolicy { preferred: vec![2, 4], ..policy(8, 0) }, 8);
        for slot in 0..7 {
            batcher.admit(queue(0), &tenant(0), session(slot), at(0));
        }
        let sizes: Vec<_> =
            std::iter::from_fn(|| batcher.form(at(0), one)).map(|formed| formed.members.len()).collect();
        assert_eq!(sizes, [4, 2, 1]);
    }

    #[test]
    fn a_model_keeps_to_its_own_concurrency_and_leaves_the_places_to_others() {
        let mut batcher = batcher(BatchPolicy { concurrency_max: 1, ..policy(1, 0) }, 8);
        for slot in 0..2 {
            batcher.admit(queue(0), &tenant(0), session(slot), at(0));
        }
        batcher.admit(queue(1), &tenant(0), session(2), at(1));
        let first = batcher.form(at(1), one).unwrap();
        batcher.depart(first.id, first.queue, first.members, at(1));
        assert_eq!(batcher.form(at(1), one).unwrap().queue, queue(1));
        assert!(batcher.form(at(1), one).is_none());
        assert!(batcher.complete(first.id));
        assert_eq!(batcher.form(at(1), one).unwrap().queue, queue(0));
    }

    #[test]
    fn while_no_worker_is_free_only_full_batches_go() {
        let mut batcher = Batcher::new(1, 2);
        batcher.open(queue(0), policy(2, 0));
        let go = |batcher: &mut Batcher, ms| {
            let Formed { id, queue, members } = batcher.form(at(ms), one)?;
            batcher.depart(id, queue, members.clone(), at(ms));
            Some((id, members))
        };
        batcher.admit(queue(0), &tenant(0), session(0), at(0));
        let (first, _) = go(&mut batcher, 0).expect("a worker is free");
        batcher.admit(queue(0), &tenant(0), session(1), at(1));
        assert!(go(&mut batcher, 1).is_none());
        assert_eq!(batcher.poll_timeout(), Some(at(1000)), "nothing is due but the time limit");
        batcher.admit(queue(0), &tenant(0), session(2), at(2));
        assert_eq!(go(&mut batcher, 2).expect("it is full").1, [session(1), session(2)]);
        batcher.admit(queue(0), &tenant(0), session(3), at(3));
        assert!(batcher.complete(first));
        assert!(go(&mut batcher, 3).is_none(), "the worker has the full one");
    }

    #[test]
    fn an_overdue_batch_keeps_its_place_until_it_is_home_or_replaced() {
        let mut batcher = batcher(policy(1, 0), 1);
        batcher.admit(queue(0), &tenant(0), session(0), at(0));
        let Formed { id, queue: from, members } = batcher.form(at(0), one).unwrap();
        batcher.depart(id, from, members, at(0));
        assert!(batcher.pop_overdue(at(999)).is_none());
        assert_eq!(batcher.pop_overdue(at(1000)).unwrap().members, [session(0)]);
        batcher.admit(queue(0), &tenant(0), session(1), at(1000));
        assert!(batcher.form(at(1000), one).is_none() && batcher.is_stuck());
        batcher.replaced(id);
        assert!(batcher.form(at(1000), one).is_some());
        assert!(!batcher.complete(id), "nobody waits for it");
    }

    #[test]
    fn a_greedy_tenant_delays_a_modest_one_by_no_batch() {
        let mut batcher = batcher(policy(8, 0), 8);
        for slot in 0..100 {
            batcher.admit(queue(0), &tenant(0), session(slot), at(0));
        }
        batcher.form(at(1), one).unwrap();
        batcher.admit(queue(0), &tenant(1), session(100), at(1));
        let next = batcher.form(at(1), one).unwrap().members;
        assert!(next.contains(&session(100)), "{next:?}");
        batcher.check_invariants();
    }

    #[test]
    fn a_modest_tenant_of_another_model_is_not_kept_waiting_by_older_runs_of_a_greedy_one() {
        let mut batcher = batcher(policy(2, 0), 8);
        for slot in 0..10 {
            batcher.admit(queue(0), &tenant(0), session(slot), at(0));
        }
        batcher.admit(queue(1), &tenant(1), session(10), at(5));
        batcher.admit(queue(1), &tenant(0), session(11), at(5));
        let order: Vec<_> = (0..3).map(|_| batcher.form(at(6), one).unwrap().queue).collect();
        assert_eq!(order, [queue(0), queue(1), queue(0)]);
    }

    #[test]
    fn a_queue_that_is_always_full_does_not_keep_a_small_one_out() {
        let mut batcher = Batcher::new(1, 2);
        batcher.open(queue(0), policy(2, 0));
        batcher.open(queue(1), policy(2, 0));
        let go = |batcher: &mut Batcher, ms| {
            let formed = batcher.form(at(ms), one)?;
            let Formed { id, queue, members } = formed;
            batcher.depart(id, queue, members, at(ms));
            Some((id, queue))
        };
        (0..20).for_each(|slot| batcher.admit(queue(0), &tenant(0), session(slot), at(0)));
        let mut running = go(&mut batcher, 0).unwrap().0;
        let mut waiting = go(&mut batcher, 0).unwrap().0;
        batcher.admit(queue(1), &tenant(0), session(100), at(1));
        batcher.admit(queue(1), &tenant(1), session(101), at(1));
        batcher.forget(queue(1), &tenant(0), session(100));
        let mut order = Vec::new();
        for ms in 2..5 {
            assert!(batcher.complete(running));
            let (id, queue) = go(&mut batcher, ms).unwrap();
            order.push(queue);
            (running, waiting) = (waiting, id);
        }
        assert!(batcher.complete(waiting));
        assert_eq!(order, [queue(1), queue(0), queue(0)]);
    }

    #[test]
    fn the_delay_counts_from_the_oldest_of_all_tenants() {
        let mut batcher = batcher(policy(8, 10), 8);
        batcher.admit(queue(0), &tenant(1), session(0), at(3));
        batcher.admit(queue(0), &tenant(0), session(1), at(4));
        assert_eq!(batcher.poll_timeout(), Some(at(13)));
        assert_eq!(batcher.oldest_wait(at(5)), Duration::from_millis(2));
        assert_eq!(
            (batcher.overdue_wait(at(13)), batcher.overdue_wait(at(17)).as_millis()),
            (Duration::ZERO, 4)
        );
        batcher.forget(queue(0), &tenant(1), session(0));
        assert_eq!((batcher.poll_timeout(), batcher.queued()), (Some(at(14)), 1));
        assert_eq!(batcher.form(at(14), one).unwrap().members, [session(1)]);
    }
}
