//! The threads that infer: a fixed number, fed through a bounded channel, and replaced when they hang.
//!
//! A batch goes out and comes home by ownership, whatever becomes of it: finished, panicked, or given up while it
//! still queued. Only a thread that hangs keeps its batch; it is replaced, and its batch comes home late or never.
//!
//! Invariants:
//! - Handing over cannot block. The channel has a place for each batch that the core may have in flight, and a
//!   place counts as free only when the batch left the channel: see [`Flight`].
//! - For each batch given up the core hears first either `Inferred` or `Replaced`, which frees the place. An
//!   `Inferred` that follows a `Replaced` is late and frees nothing.
//! - At most `strength` threads are not hung, and at most twice `strength` exist.

use super::clock::{Clock, thread_cpu_time};
use super::doorbell::Doorbell;
use crate::batch::Batch;
use crate::id::BatchId;
use crate::model;
use crate::time::Instant;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, unbounded};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a worker does with a batch. [`Batch::execute`], except in tests.
pub(super) type Execute = fn(&mut Batch, &dyn Fn() -> Instant);

/// Does the work on this thread and measures the CPU time of it; where the system does not tell that, the time by the clock.
pub(super) fn execute(batch: &mut Batch, clock: &dyn Fn() -> Instant) {
    let before = thread_cpu_time();
    batch.execute(clock);
    let used = thread_cpu_time().zip(before).map(|(after, before)| after.saturating_sub(before));
    batch.cpu_time = used.unwrap_or(batch.infer_time);
}

/// The pool, as the loop sees it.
pub(super) struct WorkerPool {
    jobs: Sender<Job>,
    homes: Receiver<Batch>,
    /// The batches out there whose place is taken.
    flights: BTreeMap<BatchId, Arc<Flight>>,
    /// Given up, a thread hangs on each, not yet replaced.
    hung: VecDeque<BatchId>,
    threads: BTreeMap<usize, JoinHandle<()>>,
    threads_started: usize,
    /// Threads that ended.
    left: Receiver<Leaving>,
    /// What each new thread gets a copy of.
    worker: Worker,
}

struct Job {
    batch: Batch,
    flight: Arc<Flight>,
}

/// The last word of a thread.
struct Leaving {
    number: usize,
    /// Whether it was among the active ones until now, rather than a hung one that came back unneeded.
    active: bool,
}

/// Where a batch is, known to the loop and its worker: what decides a race between giving up and finishing.
#[derive(Debug)]
struct Flight(AtomicU8);

impl Flight {
    const QUEUED: u8 = 0;
    const RUNNING: u8 = 1;
    const DONE: u8 = 2;
    const ABANDONED: u8 = 3;

    fn new() -> Self {
        Self(AtomicU8::new(Self::QUEUED))
    }

    /// A worker took it off the channel. False if it was given up before.
    fn begin(&self) -> bool {
        self.0.compare_exchange(Self::QUEUED, Self::RUNNING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Its worker finished it. False if it was given up meanwhile, and the worker with it.
    fn finish(&self) -> bool {
        self.0.swap(Self::DONE, Ordering::AcqRel) == Self::RUNNING
    }

    /// The loop gives it up. True if a worker hangs on it.
    fn abandon(&self) -> bool {
        self.0.swap(Self::ABANDONED, Ordering::AcqRel) == Self::RUNNING
    }
}

impl WorkerPool {
    /// Starts `strength` threads with places for `capacity` batches in flight.
    pub(super) fn start(
        strength: usize,
        capacity: usize,
        bell: Arc<Doorbell>,
        clock: Clock,
        execute: Execute,
    ) -> io::Result<Self> {
        let (jobs, job_queue) = bounded(capacity);
        // Besides those in flight, a batch from each thread that was taken for hung.
        let (home_queue, homes) = bounded(capacity + 2 * strength);
        let (leaving, left) = unbounded();
        let active = Arc::new(AtomicUsize::new(0));
        let worker =
            Worker { jobs: job_queue, homes: home_queue, leaving, bell, clock, execute, active, strength };
        let mut pool = Self {
            jobs,
            homes,
            flights: BTreeMap::new(),
            hung: VecDeque::new(),
            threads: BTreeMap::new(),
            threads_started: 0,
            left,
            worker,
        };
        for _ in 0..strength {
            pool.start_thread()?;
        }
        Ok(pool)
    }

    /// Gives a batch to the workers. It comes back at once only if the core holds more in flight than it said.
    pub(super) fn hand_over(&mut self, batch: Batch) -> Result<(), Box<Batch>> {
        let id = batch.id;
        let flight = Arc::new(Flight::new());
        match self.jobs.try_send(Job { batch, flight: Arc::clone(&flight) }) {
            Ok(()) => {
                self.flights.insert(id, flight);
                Ok(())
            }
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                log::error!("no place for batch {} in a channel of {:?}", id.0, self.jobs.capacity());
                let mut batch = Box::new(job.batch);
                batch.fail("there was no place for the batch in the workers' channel");
                Err(batch)
            }
        }
    }

    /// The core gives a batch up. If a worker hangs on it, [`WorkerPool::poll_replaced`] tells when it is replaced;
    /// if it still queues, it comes home without being inferred.
    pub(super) fn abandon(&mut self, id: BatchId) {
        let Some(flight) = self.flights.get(&id) else { return };
        if flight.abandon() {
            self.flights.remove(&id);
            self.worker.active.fetch_sub(1, Ordering::AcqRel);
            self.hung.push_back(id);
            log::warn!("batch {} exceeded its time limit: its worker is taken for hung", id.0);
        }
    }

    /// Takes a batch that came home.
    pub(super) fn poll_home(&mut self) -> Option<Batch> {
        let batch = self.homes.try_recv().ok()?;
        self.flights.remove(&batch.id);
        self.hung.retain(|id| *id != batch.id);
        Some(batch)
    }

    /// Whether somebody came home.
    pub(super) fn has_home(&self) -> bool {
        !self.homes.is_empty()
    }

    /// Replaces a hung worker if one waits for it, and tells whose batch it was.
    ///
    /// It must be asked again from time to time: with as many replacements as workers, or without a thread to be
    /// had from the system, it has to wait.
    pub(super) fn poll_replaced(&mut self) -> Option<BatchId> {
        if self.hung.is_empty() {
            return None;
        }
        self.reap();
        // A worker that was replaced may have come back and stand in for this one.
        let short = self.worker.active.load(Ordering::Acquire) < self.worker.strength;
        if short {
            if self.threads.len() >= 2 * self.worker.strength {
                return None;
            }
            if let Err(error) = self.start_thread() {
                log::error!("cannot replace a hung worker yet: {error}");
                return None;
            }
        }
        self.hung.pop_front()
    }

    /// Ends the threads and waits for them, at most `patience` altogether and not at all for those that hang.
    pub(super) fn join(self, patience: Duration) {
        // Those that queue are nobody's any more.
        while self.worker.jobs.try_recv().is_ok() {}
        let mut waited_for = self.worker.active.load(Ordering::Acquire);
        let Self { jobs, homes, left, mut threads, worker, .. } = self;
        drop((jobs, homes));
        let deadline = worker.clock.instant() + patience;
        while waited_for > 0 {
            match left.recv_timeout(deadline - worker.clock.instant()) {
                Ok(Leaving { number, active }) => {
                    waited_for -= usize::from(active);
                    end(threads.remove(&number));
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        if !threads.is_empty() {
            log::warn!("{} workers hang and are left behind", threads.len());
        }
    }

    fn start_thread(&mut self) -> io::Result<()> {
        let number = self.threads_started;
        let worker = self.worker.clone();
        let thread = std::thread::Builder::new()
            .name(format!("suzu-worker-{number}"))
            .spawn(move || model::onnx::on_worker_thread(move || worker.work(number)))
            .map_err(|error| {
                io::Error::new(error.kind(), format!("cannot start worker thread {number}: {error}"))
            })?;
        self.worker.active.fetch_add(1, Ordering::AcqRel);
        self.threads.insert(number, thread);
        self.threads_started += 1;
        Ok(())
    }

    /// Forgets threads that ended because they came back and were not needed.
    fn reap(&mut self) {
        while let Ok(leaving) = self.left.try_recv() {
            end(self.threads.remove(&leaving.number));
        }
    }
}

/// Waits for a thread that said that it is leaving, so this takes microseconds.
fn end(thread: Option<JoinHandle<()>>) {
    if thread.is_some_and(|thread| thread.join().is_err()) {
        log::error!("a worker thread panicked outside of inference");
    }
}

/// What a worker thread holds.
#[derive(Clone)]
struct Worker {
    jobs: Receiver<Job>,
    homes: Sender<Batch>,
    leaving: Sender<Leaving>,
    bell: Arc<Doorbell>,
    clock: Clock,
    execute: Execute,
    /// Threads that are not taken for hung.
    active: Arc<AtomicUsize>,
    /// How many there should be.
    strength: usize,
}

impl Worker {
    fn work(self, number: usize) {
        let mut needed = true;
        while needed && let Ok(Job { mut batch, flight }) = self.jobs.recv() {
            if flight.begin() {
                self.infer(&mut batch);
                needed = flight.finish() || self.rejoin();
            } else {
                batch.fail("given up before a worker was free");
            }
            if self.homes.send(batch).is_err() {
                break;
            }
            self.bell.ring_if_asleep();
        }
        // The pool may be gone already.
        let _ = self.leaving.send(Leaving { number, active: needed });
    }

    fn infer(&self, batch: &mut Batch) {
        let execute = || (self.execute)(batch, &|| self.clock.instant());
        // Models are caught where they run; this is for our own mistakes around them, so that the pool survives.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(execute)) {
            batch.fail(&model::panic_message(&*panic));
        }
    }

    /// Back from what was taken for a hang: true if the pool is short of a worker. The loop may not have counted
    /// this thread out yet; then it counts after this one said no, and starts another.
    fn rejoin(&self) -> bool {
        let count_in = |active| (active < self.strength).then_some(active + 1);
        self.active.fetch_update(Ordering::AcqRel, Ordering::Acquire, count_in).is_ok()
    }
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
