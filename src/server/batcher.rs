//! Which runs and requests go to the workers together, and when.
//!
//! Owns the queues of those who are ready (each at most once) and the batches in flight with their time limits. Never touches a
//! session, a request or its data.
//!
//! Fair between tenants: within a queue by what they are given (`fair.rs`), and between queues goes the one with the tenant that
//! has not been served for longest. A tenant alone is served in the order in which its members were ready.
//!
//! While a worker is free, whoever is due goes. While none is, a batch goes and waits for the next one only if some queue has a full
//! one, and batches of that queue are short: who would go in a smaller batch loses nothing by staying, and meets company; and whoever
//! comes next must not find two long batches before it. But if a full one takes the place, it is given to whoever has the better
//! right, full or not: or a queue that is always full would keep the others out for ever.
//!
//! Where tenants share a queue, batches are kept short: a newcomer waits for the one that runs, which takes about [`ALONE_MAX`], and
//! its own has no more of others in it than [`TOGETHER_MAX`]. How long they take is learnt from those that come home.
//!
//! Invariants: a member is queued at most once; batches in flight never exceed `in_flight_max`.

use crate::id::{BatchId, CallId, ModelId, SessionId};
use crate::server::fair::{Allowance, FairQueue, Taken, Tenant};
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
    /// No member is cut to less than that, in the unit of the costs.
    pub member_min: u64,
}

/// Tenants of whom it is remembered when they were last served. Beyond that all of them count as never served.
const SERVED_MAX: usize = 4096;

/// How long a batch of one tenant is meant to take where several share a queue, unless a single run takes longer. The hand-over
/// takes a hundredth of that.
const ALONE_MAX: Duration = Duration::from_millis(10);
/// How long one of several tenants is.
const TOGETHER_MAX: Duration = Duration::from_millis(1);
/// A queue is shared as long as its last two tenants were served within that time.
const SHARED_FOR: Duration = Duration::from_secs(2);
/// Full batches wait behind a busy worker if those of the queue take no longer. It saves the worker some tens of microseconds between
/// two batches.
const SHORT: Duration = Duration::from_millis(5);
/// The part that a batch has in what is known of their times.
const FRESH: f64 = 0.2;

#[derive(Debug)]
struct Line {
    policy: BatchPolicy,
    ready: FairQueue<Member>,
    in_flight: usize,
    /// Who was served last, and when that last changed.
    tenant: Option<Tenant>,
    changed: Option<Instant>,
    /// How long batches take of late, seconds.
    batch_s: f64,
    /// The same for each unit of their costs.
    unit_s: f64,
}

#[derive(Debug)]
struct InFlight {
    queue: Queue,
    deadline: Instant,
    members: Vec<Member>,
    cost: u64,
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
    /// What each may be given at most, in the unit of the costs.
    pub each_max: u64,
    /// What they were given, all together.
    pub cost: u64,
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
        self.lines.insert(queue, Line::new(policy));
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
        let (count, allowance) = (line.count(), line.allowance(now));
        let (tenant, changed) = (&mut line.tenant, &mut line.changed);
        let serve = |who: &Tenant| {
            match served.get_mut(who) {
                Some(last) => *last = id,
                None => drop(served.insert(who.clone(), id)),
            }
            if tenant.as_ref() != Some(who) {
                *changed = tenant.replace(who.clone()).map(|_| now);
            }
        };
        let Taken { members, cost } = line.ready.take(count, allowance, cost, serve);
        Some(Formed { id, queue, members, each_max: allowance.alone, cost })
    }

    /// The batch is on its way, with those of its members that are left.
    pub fn depart(&mut self, formed: Formed, now: Instant) {
        let Formed { id, queue, members, cost, .. } = formed;
        let Some(line) = self.lines.get_mut(&queue) else { return };
        line.in_flight += 1;
        let deadline = now + line.policy.infer_timeout;
        self.in_flight.insert(id, InFlight { queue, deadline, members, cost });
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
        let idle = self.has_free_worker();
        let free = idle || self.lines.values().any(Line::may_wait);
        let is_due = |line: &Line| {
            let oldest = line.ready.oldest()?;
            let due = line.is_full() && idle
                || line.may_wait()
                || free && now >= oldest + line.policy.queue_delay_max;
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

    /// The batch is home and took so long. False if it had been given up: nobody waits for it any more.
    pub fn complete(&mut self, id: BatchId, took: Duration) -> bool {
        match self.in_flight.remove(&id) {
            Some(batch) => {
                if let Some(line) = self.lines.get_mut(&batch.queue) {
                    line.learn(took.as_secs_f64(), batch.cost);
                }
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
        let may = |line: &&Line| room && line.may_depart() && (free || line.may_wait());
        let lines = self.lines.values().filter(may);
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
    fn new(policy: BatchPolicy) -> Self {
        Line {
            policy,
            ready: FairQueue::new(),
            in_flight: 0,
            tenant: None,
            changed: None,
            batch_s: 0.0,
            unit_s: 0.0,
        }
    }

    /// Whether a full batch of it may wait behind a busy worker.
    fn may_wait(&self) -> bool {
        self.is_full() && self.may_depart() && self.batch_s <= SHORT.as_secs_f64()
    }

    /// What a batch may hold: anything, as long as one tenant has the queue for itself.
    fn allowance(&self, now: Instant) -> Allowance {
        let several = self.ready.tenants().nth(1).is_some();
        let shared = several || self.changed.is_some_and(|changed| now - changed < SHARED_FOR);
        if !shared || self.unit_s <= 0.0 {
            return Allowance::ALL;
        }
        let units = |time: Duration| (time.as_secs_f64() / self.unit_s) as u64;
        Allowance { alone: units(ALONE_MAX).max(self.policy.member_min), together: units(TOGETHER_MAX) }
    }

    /// A batch of that cost took so many seconds.
    fn learn(&mut self, took_s: f64, cost: u64) {
        let follow =
            |known: &mut f64, took: f64| *known += (took - *known) * if *known > 0.0 { FRESH } else { 1.0 };
        follow(&mut self.batch_s, took_s);
        follow(&mut self.unit_s, took_s / cost.max(1) as f64);
    }

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
            member_min: 1,
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
        let first_id = first.id;
        batcher.depart(first, at(1));
        assert_eq!(batcher.form(at(1), one).unwrap().queue, queue(1));
        assert!(batcher.form(at(1), one).is_none());
        assert!(batcher.complete(first_id, Duration::ZERO));
        assert_eq!(batcher.form(at(1), one).unwrap().queue, queue(0));
    }

    #[test]
    fn while_no_worker_is_free_only_full_batches_go() {
        let mut batcher = Batcher::new(1, 2);
        batcher.open(queue(0), policy(2, 0));
        let go = |batcher: &mut Batcher, ms| {
            let formed = batcher.form(at(ms), one)?;
            let (id, members) = (formed.id, formed.members.clone());
            batcher.depart(formed, at(ms));
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
        assert!(batcher.complete(first, Duration::ZERO));
        assert!(go(&mut batcher, 3).is_none(), "the worker has the full one");
    }

    #[test]
    fn an_overdue_batch_keeps_its_place_until_it_is_home_or_replaced() {
        let mut batcher = batcher(policy(1, 0), 1);
        batcher.admit(queue(0), &tenant(0), session(0), at(0));
        let formed = batcher.form(at(0), one).unwrap();
        let id = formed.id;
        batcher.depart(formed, at(0));
        assert!(batcher.pop_overdue(at(999)).is_none());
        assert_eq!(batcher.pop_overdue(at(1000)).unwrap().members, [session(0)]);
        batcher.admit(queue(0), &tenant(0), session(1), at(1000));
        assert!(batcher.form(at(1000), one).is_none() && batcher.is_stuck());
        batcher.replaced(id);
        assert!(batcher.form(at(1000), one).is_some());
        assert!(!batcher.complete(id, Duration::ZERO), "nobody waits for it");
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
            let (id, queue) = (formed.id, formed.queue);
            batcher.depart(formed, at(ms));
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
            assert!(batcher.complete(running, Duration::ZERO));
            let (id, queue) = go(&mut batcher, ms).unwrap();
            order.push(queue);
            (running, waiting) = (waiting, id);
        }
        assert!(batcher.complete(waiting, Duration::ZERO));
        assert_eq!(order, [queue(1), queue(0), queue(0)]);
    }

    #[test]
    fn a_full_batch_waits_behind_a_busy_worker_only_if_batches_are_short() {
        for (took_ms, waits) in [(1, true), (50, false)] {
            let mut batcher = Batcher::new(1, 2);
            batcher.open(queue(0), policy(2, 0));
            (0..6).for_each(|slot| batcher.admit(queue(0), &tenant(0), session(slot), at(0)));
            let go = |batcher: &mut Batcher, ms| {
                let formed = batcher.form(at(ms), one)?;
                let id = formed.id;
                batcher.depart(formed, at(ms));
                Some(id)
            };
            let first = go(&mut batcher, 0).unwrap();
            assert!(batcher.complete(first, Duration::from_millis(took_ms)));
            assert!(go(&mut batcher, 1).is_some(), "a worker is free");
            assert_eq!(go(&mut batcher, 2).is_some(), waits, "{took_ms} ms");
        }
    }

    #[test]
    fn batches_are_kept_short_while_tenants_share_the_queue() {
        let mut batcher = Batcher::new(1, 1);
        batcher.open(queue(0), policy(64, 0));
        let mut next_slot = 0;
        let mut admit = |batcher: &mut Batcher, who: u8, count: u32, ms: u64| {
            for _ in 0..count {
                batcher.admit(queue(0), &tenant(who), session(next_slot), at(ms));
                next_slot += 1;
            }
        };
        let go = |batcher: &mut Batcher, ms: u64| {
            let formed = batcher.form(at(ms), one).unwrap();
            let (id, count, each_max) = (formed.id, formed.members.len(), formed.each_max);
            batcher.depart(formed, at(ms));
            // Each takes half a millisecond.
            batcher.complete(id, Duration::from_micros(500) * count as u32);
            (count, each_max)
        };
        admit(&mut batcher, 0, 300, 0);
        assert_eq!(go(&mut batcher, 0).0, 64, "it has the queue for itself");
        admit(&mut batcher, 1, 1, 1);
        let (count, each_max) = go(&mut batcher, 1);
        assert_eq!((count, each_max), (2, 20), "the newcomer, and 1 ms altogether");
        assert_eq!(go(&mut batcher, 2).0, 20, "10 ms, for the other may come back");
        assert_eq!(go(&mut batcher, 1500).0, 20);
        assert_eq!(go(&mut batcher, 3000).0, 64, "it has not come back");
    }

    #[test]
    fn no_member_is_cut_to_less_than_the_policy_says() {
        let mut batcher = Batcher::new(1, 1);
        batcher.open(queue(0), BatchPolicy { member_min: 100, ..policy(64, 0) });
        for round in 0..2 {
            batcher.admit(queue(0), &tenant(0), session(2 * round), at(0));
            batcher.admit(queue(0), &tenant(1), session(2 * round + 1), at(0));
            let formed = batcher.form(at(0), |_| 1000).unwrap();
            let id = formed.id;
            if round == 1 {
                assert_eq!((formed.members.len(), formed.each_max, formed.cost), (1, 100, 100));
            }
            batcher.depart(formed, at(0));
            batcher.complete(id, Duration::from_secs(1));
        }
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
