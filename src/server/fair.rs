//! A queue that serves tenants in equal shares: whoever has been given least goes next.
//!
//! Owns the order of one queue of the batcher. A tenant's own members go first ready, first served; between tenants goes the one
//! whose account is lowest, and what it is given is added to its account. This is deficit round robin carried to its limit: with
//! an account instead of rounds there is no quantum to choose, and a tenant of small runs does not hold up the others by a whole
//! quantum of them. Knows neither credentials nor what a member is.
//!
//! Who has been away comes back to where the others are: it has saved nothing up (a tenant that was silent for an hour must not
//! keep the others waiting now), and it still owes what it was given beyond that. All is forgiven when nobody waits and nothing
//! is on its way.
//!
//! Invariants: of two tenants that wait all the time, neither is given more than the other by more than one run each, and what may
//! be taken together; an empty queue of one tenant allocates nothing for the next member.

use crate::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Tenants that do not wait and whose accounts are remembered all the same. Beyond that they are forgiven.
const AWAY_MAX: usize = 1024;
/// Tenants that may keep the room for their members while they are away.
const ROOMY_MAX: usize = 16;

/// Who shares. The name is opaque here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tenant(pub Arc<str>);

#[derive(Debug)]
struct Ready<M> {
    member: M,
    since: Instant,
    ticket: u64,
}

#[derive(Debug)]
struct Share<M> {
    ready: VecDeque<Ready<M>>,
    /// What it has been given, on the common scale of all tenants.
    account: u64,
}

/// A tenant that waits, with its oldest member.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    account: u64,
    ticket: u64,
    since: Instant,
    tenant: Tenant,
}

/// What may be taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Of one tenant's members, in the unit of their costs. The first is taken even if it costs more, and is then given that much.
    pub alone: u64,
    /// Of several tenants' members together. Whoever goes first is not kept waiting by others for longer than that.
    pub together: u64,
}

impl Allowance {
    /// Whatever there is.
    pub const ALL: Allowance = Allowance { alone: u64::MAX, together: u64::MAX };
}

/// What was taken.
#[derive(Debug)]
pub struct Taken<M> {
    /// Who goes, in the order of their turns.
    pub members: Vec<M>,
    /// What they were given, all together.
    pub cost: u64,
}

/// The queue.
#[derive(Debug)]
pub struct FairQueue<M> {
    /// Those that wait, and those that are away and owe something.
    shares: BTreeMap<Tenant, Share<M>>,
    /// Those that wait, next first.
    turns: BTreeSet<Turn>,
    len: usize,
    /// The account of whoever was served last, when it was.
    level: u64,
    /// The greatest account since all was forgiven.
    account_max: u64,
    next_ticket: u64,
}

impl<M: Copy + PartialEq> FairQueue<M> {
    /// Nobody waits.
    pub fn new() -> Self {
        Self {
            shares: BTreeMap::new(),
            turns: BTreeSet::new(),
            len: 0,
            level: 0,
            account_max: 0,
            next_ticket: 0,
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Since when the one that waits longest has waited.
    pub fn oldest(&self) -> Option<Instant> {
        self.turns.iter().map(|turn| turn.since).min()
    }

    /// The tenants that wait.
    pub fn tenants(&self) -> impl Iterator<Item = &Tenant> {
        self.turns.iter().map(|turn| &turn.tenant)
    }

    /// Everybody who waits, in no order that means anything.
    pub fn members(&self) -> impl Iterator<Item = M> {
        self.shares.values().flat_map(|share| share.ready.iter().map(|ready| ready.member))
    }

    /// One more waits.
    pub fn push(&mut self, tenant: &Tenant, member: M, now: Instant) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.len += 1;
        if !self.shares.contains_key(tenant) {
            self.shares.insert(tenant.clone(), Share { ready: VecDeque::new(), account: 0 });
        }
        let share = self.shares.get_mut(tenant).expect("it has just been seen to");
        if share.ready.is_empty() {
            share.account = share.account.max(self.level);
            let turn = Turn { account: share.account, ticket, since: now, tenant: tenant.clone() };
            self.turns.insert(turn);
        }
        share.ready.push_back(Ready { member, since: now, ticket });
    }

    /// Takes out the next `count`, or all there are within the allowance, and tells of each whose it was. `cost` is what a member
    /// is given, as it stands now.
    pub fn take(
        &mut self,
        count: usize,
        allowance: Allowance,
        cost: impl Fn(M) -> u64,
        mut served: impl FnMut(&Tenant),
    ) -> Taken<M> {
        let members = Vec::with_capacity(count.min(self.len));
        let mut taken = Taken { members, cost: 0 };
        let (mut first, mut turns) = (None, 0);
        while taken.members.len() < count {
            let Some(turn) = self.turns.pop_first() else { break };
            let rival = self.turns.first().map(|turn| (turn.account, turn.ticket));
            let max = if turns == 0 { allowance.alone } else { allowance.together };
            let given = self.give(&turn.tenant, rival, (count, max, allowance.alone), &cost, &mut taken);
            if given {
                served(&turn.tenant);
                turns += 1;
            }
            first.get_or_insert_with(|| turn.tenant.clone());
            self.stand_again(turn.tenant);
            if !given {
                break;
            }
        }
        // Where others have no room besides, whoever went first may go on: what it has left would wait for a whole batch of theirs.
        if taken.members.len() < count
            && let Some(tenant) = first
            && let Some(turn) = self.turn_of(&tenant)
        {
            let max = if turns == 1 { allowance.alone } else { allowance.together };
            self.turns.remove(&turn);
            self.give(&tenant, None, (count, max, allowance.alone), &cost, &mut taken);
            self.stand_again(tenant);
        }
        self.len -= taken.members.len();
        taken
    }

    /// Takes out members of a tenant until a rival has the better right (but at least one), or there are enough: so many, of
    /// such a cost together; and each is given so much at most. Gives whether any was taken.
    fn give(
        &mut self,
        tenant: &Tenant,
        rival: Option<(u64, u64)>,
        (count, max, each_max): (usize, u64, u64),
        cost: impl Fn(M) -> u64,
        taken: &mut Taken<M>,
    ) -> bool {
        let share = self.shares.get_mut(tenant).expect("who waits has a share");
        let before = taken.members.len();
        while let Some(ready) = share.ready.front() {
            let next = cost(ready.member).clamp(1, each_max.max(1));
            let fits = taken.members.is_empty() || taken.cost + next <= max;
            let is_over = rival.is_some_and(|rival| rival < (share.account, ready.ticket));
            if taken.members.len() == count || !fits || is_over && taken.members.len() > before {
                break;
            }
            self.level = share.account;
            share.account += next;
            taken.cost += next;
            taken.members.push(ready.member);
            share.ready.pop_front();
        }
        self.account_max = self.account_max.max(share.account);
        taken.members.len() > before
    }

    /// The place of a tenant in the order, if it waits.
    fn turn_of(&self, tenant: &Tenant) -> Option<Turn> {
        let share = self.shares.get(tenant)?;
        let first = share.ready.front()?;
        Some(Turn {
            account: share.account,
            ticket: first.ticket,
            since: first.since,
            tenant: tenant.clone(),
        })
    }

    /// The tenant has been served or lost a member: if it still waits, it gets its place in the order.
    fn stand_again(&mut self, tenant: Tenant) {
        let (tenants, away) = (self.shares.len(), self.shares.len() - self.turns.len());
        if let Some(turn) = self.turn_of(&tenant) {
            self.turns.insert(turn);
        } else if away > AWAY_MAX {
            self.shares.retain(|_, share| !share.ready.is_empty());
        } else if tenants > ROOMY_MAX
            && let Some(share) = self.shares.get_mut(&tenant)
        {
            share.ready = VecDeque::new();
        }
    }

    /// The member waits no longer, if it did.
    pub fn remove(&mut self, tenant: &Tenant, member: M) {
        let Some(share) = self.shares.get(tenant) else { return };
        let Some(place) = share.ready.iter().position(|ready| ready.member == member) else { return };
        let turn = self.turn_of(tenant).expect("the one that was found waits, or one before it");
        self.turns.remove(&turn);
        self.shares.get_mut(tenant).expect("it has just been found").ready.remove(place);
        self.len -= 1;
        self.stand_again(turn.tenant);
    }

    /// Nothing of this queue is on its way: if nobody waits either, nobody owes anything any more.
    pub fn rest(&mut self) {
        if self.is_empty() {
            self.level = self.account_max;
        }
    }

    /// Asserts the invariants of this module.
    pub fn check_invariants(&self) {
        let waiting = self.shares.values().filter(|share| !share.ready.is_empty());
        assert_eq!(waiting.count(), self.turns.len(), "who waits has a turn");
        assert_eq!(self.shares.values().map(|share| share.ready.len()).sum::<usize>(), self.len);
        assert!(self.shares.len() <= self.turns.len() + AWAY_MAX);
        for turn in &self.turns {
            let share = &self.shares[&turn.tenant];
            let first = share.ready.front().map(|ready| (ready.ticket, ready.since));
            assert_eq!((share.account, first), (turn.account, Some((turn.ticket, turn.since))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    /// Whose it is, its number, and its cost.
    type Job = (u8, u32, u64);

    fn tenant(name: u8) -> Tenant {
        Tenant(name.to_string().into())
    }

    fn at(ms: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(ms))
    }

    fn take(queue: &mut FairQueue<Job>, count: usize) -> Vec<Job> {
        take_within(queue, count, Allowance::ALL)
    }

    fn take_within(queue: &mut FairQueue<Job>, count: usize, allowance: Allowance) -> Vec<Job> {
        let taken = queue.take(count, allowance, |(_, _, cost)| cost, |_| {});
        queue.check_invariants();
        let costs = taken.members.iter().map(|(_, _, cost)| *cost.max(&1).min(&allowance.alone));
        assert_eq!(taken.cost, costs.sum::<u64>());
        taken.members
    }

    fn push(queue: &mut FairQueue<Job>, job: Job, ms: u64) {
        queue.push(&tenant(job.0), job, at(ms));
        queue.check_invariants();
    }

    #[test]
    fn a_tenant_alone_is_served_in_order_whatever_it_costs() {
        let mut queue = FairQueue::new();
        (0..6).for_each(|n| push(&mut queue, (1, n, u64::from(n % 3) * 100), n.into()));
        assert_eq!(queue.oldest(), Some(at(0)));
        let order: Vec<_> =
            [4, 1, 9].iter().flat_map(|&count| take(&mut queue, count)).map(|job| job.1).collect();
        assert_eq!(order, [0, 1, 2, 3, 4, 5]);
        assert!(queue.is_empty() && queue.oldest().is_none());
    }

    #[test]
    fn a_modest_tenant_goes_in_the_next_batch_however_many_wait() {
        let mut queue = FairQueue::new();
        (0..100).for_each(|n| push(&mut queue, (1, n, 10), 0));
        take(&mut queue, 32);
        (0..5).for_each(|n| push(&mut queue, (2, n, 10), 1));
        let batch = take(&mut queue, 32);
        assert_eq!(batch.iter().filter(|job| job.0 == 2).count(), 5, "{batch:?}");
        assert_eq!(queue.oldest(), Some(at(0)));
    }

    #[test]
    fn large_and_small_runs_share_by_what_they_cost() {
        let mut queue = FairQueue::new();
        (0..10).for_each(|n| push(&mut queue, (1, n, 100), 0));
        (0..100).for_each(|n| push(&mut queue, (2, n, 10), 0));
        let first = take(&mut queue, 55);
        assert_eq!(first.iter().filter(|job| job.0 == 1).count(), 5, "{first:?}");
    }

    #[test]
    fn who_was_away_has_saved_nothing_up_and_still_owes() {
        let mut queue = FairQueue::new();
        push(&mut queue, (3, 0, 1000), 0);
        (0..20).for_each(|n| push(&mut queue, (1, n, 10), 0));
        take(&mut queue, 11);
        (0..3).for_each(|n| push(&mut queue, (2, n, 10), 1));
        push(&mut queue, (3, 1, 10), 1);
        let order: Vec<_> = take(&mut queue, 6).iter().map(|job| job.0).collect();
        assert_eq!(order, [2, 1, 2, 1, 2, 1], "2 shares from now on; 3 was given 1000 already");
        let rest = take(&mut queue, 100);
        assert_eq!(rest.last().unwrap().0, 3);
        queue.rest();
        push(&mut queue, (1, 0, 10), 2);
        push(&mut queue, (3, 2, 10), 3);
        assert_eq!(take(&mut queue, 1)[0].0, 1, "all is forgiven, and the first comes first");
    }

    #[test]
    fn a_tenant_takes_no_more_at_once_than_it_is_allowed_and_others_join_while_it_is_little() {
        let mut queue = FairQueue::new();
        (0..9).for_each(|n| push(&mut queue, (1, n, 10), 0));
        (0..30).for_each(|n| push(&mut queue, (2, n, 3), 1));
        let allowance = Allowance { alone: 35, together: 14 };
        let whose = |jobs: Vec<Job>| jobs.iter().map(|job| job.0).collect::<Vec<_>>();
        assert_eq!(whose(take_within(&mut queue, 99, allowance)), [1, 2]);
        let second = whose(take_within(&mut queue, 99, allowance));
        assert_eq!(second, [2; 11], "a ten has no room besides, so it goes on");
        (12..30).for_each(|n| queue.remove(&tenant(2), (2, n, 3)));
        assert_eq!(whose(take_within(&mut queue, 99, allowance)), [1, 1, 1], "three tens are within 35");
        push(&mut queue, (2, 100, 1000), 2);
        assert_eq!(whose(take_within(&mut queue, 99, allowance)), [2], "the first goes whatever it costs");
    }

    #[test]
    fn accounts_of_those_who_are_away_are_bounded() {
        let mut queue: FairQueue<u32> = FairQueue::new();
        for n in 0..3 * AWAY_MAX as u32 {
            queue.push(&Tenant(n.to_string().into()), n, at(0));
            assert_eq!(queue.take(1, Allowance::ALL, |_| 5, |_| {}).members, [n]);
        }
        queue.check_invariants();
    }

    proptest! {
        /// Members come and go at random; two tenants have enough to do all the time.
        #[test]
        fn who_waits_all_the_time_gets_as_much_as_any_other(
            steps in proptest::collection::vec((0u8..4, 1u64..200, 1usize..9), 1..300)
        ) {
            let mut queue = FairQueue::new();
            let (mut given, mut number) = ([0u64; 4], 0);
            for (who, cost, count) in steps {
                number += 1;
                push(&mut queue, (who, number, cost), number.into());
                for busy in 0..2 {
                    while queue.members().filter(|job| job.0 == busy).count() < 9 {
                        number += 1;
                        push(&mut queue, (busy, number, 1 + u64::from(number) * 37 % 199), number.into());
                    }
                }
                for (who, _, cost) in take(&mut queue, count) {
                    given[usize::from(who)] += cost;
                }
                prop_assert!(given[0].abs_diff(given[1]) <= 2 * 200, "{given:?}");
                // The others wait only now and then: they get less, never more by more than a run.
                prop_assert!(given[2].max(given[3]) <= given[0] + 2 * 200, "{given:?}");
            }
        }

        /// Nobody starves: whoever waits goes before every other tenant has been given a run and its fair share more.
        #[test]
        fn nobody_starves(rivals in 1u8..20, cost in 1u64..200, rival_cost in 1u64..200) {
            let mut queue = FairQueue::new();
            push(&mut queue, (200, 0, cost), 0);
            let mut turns = 0;
            let mut waits = true;
            // Every rival comes back at once: the queue is never empty and never rests.
            (0..rivals).for_each(|who| push(&mut queue, (who, 0, rival_cost), 0));
            take(&mut queue, 1);
            push(&mut queue, (200, 1, cost), 1);
            while waits {
                for job in take(&mut queue, 2) {
                    waits &= job.0 != 200;
                    push(&mut queue, job, 2);
                }
                turns += 1;
                prop_assert!(turns <= u64::from(rivals) * (cost / rival_cost + 2));
            }
        }

        /// The order within a tenant, and nothing lost or doubled, with removals in between.
        #[test]
        fn what_is_pushed_is_taken_once_or_removed(
            steps in proptest::collection::vec((0u8..3, 0u8..4, 1u64..50), 1..200)
        ) {
            let mut queue = FairQueue::new();
            let mut expected: BTreeMap<u8, VecDeque<Job>> = BTreeMap::new();
            for (number, (who, what, cost)) in steps.into_iter().enumerate() {
                let line = expected.entry(who).or_default();
                match what {
                    0 | 1 => {
                        line.push_back((who, number as u32, cost));
                        push(&mut queue, (who, number as u32, cost), number as u64);
                    }
                    2 if !line.is_empty() => {
                        let job = line.remove(line.len() / 2).expect("it is not empty");
                        queue.remove(&tenant(who), job);
                        queue.check_invariants();
                    }
                    _ => {
                        for job in take(&mut queue, 2) {
                            prop_assert_eq!(expected.get_mut(&job.0).and_then(VecDeque::pop_front), Some(job));
                        }
                        queue.rest();
                    }
                }
                prop_assert_eq!(queue.len(), expected.values().map(VecDeque::len).sum::<usize>());
            }
        }
    }
}
