//! The workers' side of the contract: a channel of known capacity, a fixed number of workers, virtual time.

use crate::faults::Tally;
use crate::pipe::Micros;
use crate::rng::Rng;
use std::collections::VecDeque;
use std::time::Duration;
use suzu::batch::Batch;
use suzu::id::BatchId;

#[derive(Clone, Copy, Default)]
pub struct Troubles {
    /// Percent of batches that take long, and how long at most.
    pub slow: u64,
    pub slow_max: Micros,
    /// Percent of batches that their worker never finishes by itself.
    pub lost: u64,
}

struct Busy {
    batch: Batch,
    /// None: it hangs.
    done: Option<Micros>,
    began: Micros,
}

pub struct Workers {
    rng: Rng,
    pub troubles: Troubles,
    capacity: usize,
    waiting: VecDeque<Batch>,
    busy: Vec<Option<Busy>>,
    /// Batches of workers that were given up: their places are free, and they may still come home.
    stray: Vec<(Micros, Batch)>,
    replacements: Vec<(Micros, BatchId)>,
    /// Given up while they still waited: whoever takes one sends it home as it is, for nobody would replace him.
    stale: Vec<BatchId>,
}

pub enum News {
    Home(Batch),
    Replaced(BatchId),
}

impl Workers {
    pub fn new(count: usize, capacity: usize, troubles: Troubles, rng: Rng) -> Self {
        let busy = (0..count).map(|_| None).collect();
        Self {
            rng,
            troubles,
            capacity,
            waiting: VecDeque::new(),
            busy,
            stray: Vec::new(),
            replacements: Vec::new(),
            stale: Vec::new(),
        }
    }

    /// Batches that hold a place.
    pub fn in_flight(&self) -> usize {
        self.waiting.len() + self.busy.iter().flatten().count()
    }

    pub fn push(&mut self, batch: Batch, now: Micros, tally: &mut Tally) -> Result<(), String> {
        if self.in_flight() >= self.capacity {
            return Err(format!("batch {:?} is one more than the {} allowed", batch.id, self.capacity));
        }
        let mut sessions = batch.sessions().to_vec();
        sessions.sort_unstable();
        sessions.dedup();
        if sessions.len() != batch.runs().len() || batch.is_empty() {
            return Err("a batch has no run, or two of one session".into());
        }
        if batch.len() > 1 {
            tally.fire("batch of several");
        }
        self.waiting.push_back(batch);
        self.start(now, tally);
        Ok(())
    }

    fn start(&mut self, now: Micros, tally: &mut Tally) {
        while let Some(place) = self.busy.iter().position(Option::is_none) {
            let Some(batch) = self.waiting.pop_front() else { return };
            let done = if self.stale.contains(&batch.id) {
                Some(now)
            } else if self.rng.chance(self.troubles.lost) {
                tally.fire("worker lost");
                None
            } else if self.rng.chance(self.troubles.slow) {
                tally.fire("slow inference");
                Some(now + self.rng.range(1, self.troubles.slow_max.max(1)))
            } else {
                Some(now + self.rng.range(20, 2_000))
            };
            self.busy[place] = Some(Busy { batch, done, began: now });
        }
    }

    /// The server gave the batch up.
    pub fn abandon(&mut self, id: BatchId, now: Micros, tally: &mut Tally) {
        let held = |busy: &Option<Busy>| busy.as_ref().is_some_and(|busy| busy.batch.id == id);
        let Some(place) = self.busy.iter().position(held) else { return self.stale.push(id) };
        let hangs = self.busy[place].as_ref().is_some_and(|busy| busy.done.is_none());
        if hangs || self.rng.chance(50) {
            tally.fire("worker replaced");
            self.replacements.push((now + self.rng.range(0, 3_000), id));
        }
    }

    /// Puts another worker in the place of the one that has this batch. False if it came home meanwhile.
    fn replace(&mut self, id: BatchId, now: Micros, tally: &mut Tally) -> bool {
        let held = |busy: &Option<Busy>| busy.as_ref().is_some_and(|busy| busy.batch.id == id);
        let Some(place) = self.busy.iter().position(held) else { return false };
        if let Some(busy) = self.busy[place].take()
            && self.rng.chance(50)
        {
            let home = busy.done.unwrap_or(now).max(now) + self.rng.range(0, 50_000);
            self.stray.push((home, busy.batch));
        }
        self.start(now, tally);
        true
    }

    /// What happened until `now`.
    pub fn poll(&mut self, now: Micros, tally: &mut Tally) -> Option<News> {
        if let Some(index) = self.replacements.iter().position(|(at, _)| *at <= now) {
            let (_, id) = self.replacements.remove(index);
            if self.replace(id, now, tally) {
                return Some(News::Replaced(id));
            }
            return self.poll(now, tally);
        }
        let ready =
            |busy: &Option<Busy>| busy.as_ref().is_some_and(|busy| busy.done.is_some_and(|at| at <= now));
        if let Some(busy) = self.busy.iter().position(ready).and_then(|place| self.busy[place].take()) {
            self.start(now, tally);
            let mut batch = busy.batch;
            batch.execute(&Default::default);
            batch.infer_time = Duration::from_micros(now - busy.began);
            batch.cpu_time = batch.infer_time;
            return Some(News::Home(batch));
        }
        let index = self.stray.iter().position(|(at, _)| *at <= now)?;
        tally.fire("batch came home late");
        let (_, mut batch) = self.stray.remove(index);
        batch.execute(&Default::default);
        Some(News::Home(batch))
    }

    pub fn next_at(&self) -> Option<Micros> {
        let busy = self.busy.iter().flatten().filter_map(|busy| busy.done);
        let stray = self.stray.iter().map(|(at, _)| *at);
        let replacements = self.replacements.iter().map(|(at, _)| *at);
        busy.chain(stray).chain(replacements).min()
    }
}
