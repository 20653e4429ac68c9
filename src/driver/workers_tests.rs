//! Tests of the pool of workers.

use super::*;
use crate::batch::{Streams, Work};
use crate::id::SessionId;
use crate::model::{Failure, Lane, Model, ModelSpec, Registry, Run, State, StreamState};
use mio::{Events, Poll, Token, Waker};

const DEADLINE: Duration = Duration::from_secs(20);

/// A model that does what the test tells it to.
struct Scripted {
    spec: ModelSpec,
    begun: Sender<()>,
    script: Script,
}

enum Script {
    Finish,
    Panic,
    /// Until the other end of the channel is dropped or says so.
    HangUntil(Receiver<()>),
}

impl Model for Scripted {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn start(&self) -> State {
        Box::new(())
    }

    fn infer(&self, _: &mut [Lane<'_>]) {
        let _ = self.begun.send(());
        match &self.script {
            Script::Finish => {}
            Script::Panic => panic!("out of tune"),
            Script::HangUntil(released) => {
                let _ = released.recv();
            }
        }
    }
}

struct World {
    pool: WorkerPool,
    poll: Poll,
    bell: Arc<Doorbell>,
    events: Events,
    begun: (Sender<()>, Receiver<()>),
    next: u64,
}

impl World {
    fn new(strength: usize, capacity: usize) -> Self {
        let poll = Poll::new().unwrap();
        let bell = Arc::new(Doorbell::new(Waker::new(poll.registry(), Token(0)).unwrap()));
        // Without the care that is taken around models.
        let execute: Execute = |batch, _| {
            if let Work::Streams(streams) = &batch.work {
                streams.model.infer(&mut []);
            }
        };
        let pool = WorkerPool::start(strength, capacity, Arc::clone(&bell), Clock::new(), execute).unwrap();
        Self { pool, poll, bell, events: Events::with_capacity(4), begun: unbounded(), next: 0 }
    }

    fn batch(&mut self, script: Script) -> Batch {
        let spec = Registry::builtin().find("echo").unwrap().spec().clone();
        let model = Arc::new(Scripted { spec, begun: self.begun.0.clone(), script });
        let state = Box::new(StreamState::new(&*model, 16_000).unwrap());
        let sessions = vec![SessionId { slot: 0, generation: 0 }];
        let runs = vec![Run::new(state, vec![0.0; 160], false)];
        self.next += 1;
        Batch::new(BatchId(self.next), Work::Streams(Streams { model, sessions, runs }))
    }

    fn hand_over(&mut self, script: Script) -> BatchId {
        let batch = self.batch(script);
        let id = batch.id;
        assert!(self.pool.hand_over(batch).is_ok());
        id
    }

    /// Hands a batch over that hangs until the sender is dropped, and waits until a worker began it.
    fn hang(&mut self) -> (BatchId, Sender<()>) {
        let (release, released) = bounded(0);
        let id = self.hand_over(Script::HangUntil(released));
        self.await_begun();
        (id, release)
    }

    fn await_begun(&self) {
        self.begun.1.recv_timeout(DEADLINE).expect("a worker begins");
    }

    /// Sleeps as the loop does until a batch is home.
    fn await_home(&mut self) -> Batch {
        loop {
            if let Some(batch) = self.pool.poll_home() {
                return batch;
            }
            self.bell.fall_asleep();
            if !self.pool.has_home() {
                self.poll.poll(&mut self.events, Some(DEADLINE)).unwrap();
                assert!(!self.events.is_empty(), "nobody came home, or nobody rang");
            }
            self.bell.get_up();
        }
    }

    fn active(&self) -> usize {
        self.pool.worker.active.load(Ordering::Acquire)
    }

    /// Waits for a thread to end of its own accord.
    fn await_threads(&mut self, count: usize) {
        while self.pool.threads.len() > count {
            let leaving = self.pool.left.recv_timeout(DEADLINE).expect("a thread ends");
            end(self.pool.threads.remove(&leaving.number));
        }
        assert_eq!(self.pool.threads.len(), count);
    }
}

fn failure(batch: &Batch) -> Option<&Failure> {
    batch.runs()[0].outcome.failure.as_ref()
}

#[test]
fn every_batch_comes_home_and_wakes_the_loop() {
    let mut world = World::new(2, 4);
    let mut home = Vec::new();
    for _ in 0..50 {
        for _ in 0..4 {
            world.hand_over(Script::Finish);
        }
        for _ in 0..4 {
            let batch = world.await_home();
            assert_eq!(failure(&batch), None);
            home.push(batch.id.0);
        }
    }
    home.sort_unstable();
    assert_eq!(home, (1..=200).collect::<Vec<_>>());
    assert!(world.pool.flights.is_empty());
    world.pool.join(DEADLINE);
}

#[test]
fn a_panic_fails_its_batch_and_the_worker_goes_on() {
    let mut world = World::new(1, 2);
    world.hand_over(Script::Panic);
    let batch = world.await_home();
    assert_eq!(failure(&batch), Some(&Failure::Panicked("out of tune".into())));
    world.hand_over(Script::Finish);
    assert_eq!(failure(&world.await_home()), None);
    assert_eq!(world.pool.threads.len(), 1);
}

#[test]
fn a_hung_worker_is_replaced_and_its_batch_comes_home_late() {
    let mut world = World::new(1, 2);
    let (hung, release) = world.hang();
    let next = world.hand_over(Script::Finish);
    assert_eq!(world.pool.poll_replaced(), None, "nobody is taken for hung yet");
    world.pool.abandon(hung);
    assert_eq!(world.pool.poll_replaced(), Some(hung));
    assert_eq!(world.pool.poll_replaced(), None, "told once");
    assert_eq!(world.await_home().id, next, "the replacement goes on with what waited");
    drop(release);
    assert_eq!(world.await_home().id, hung);
    world.await_threads(1);
    assert_eq!(world.active(), 1);
    world.hand_over(Script::Finish);
    world.await_home();
}

#[test]
fn a_batch_given_up_in_the_queue_comes_home_without_being_inferred() {
    let mut world = World::new(1, 2);
    let (first, release) = world.hang();
    let queued = world.hand_over(Script::Finish);
    world.pool.abandon(queued);
    world.pool.abandon(queued);
    assert_eq!(world.pool.poll_replaced(), None, "no worker hangs on it");
    drop(release);
    assert_eq!(world.await_home().id, first);
    let batch = world.await_home();
    assert_eq!(batch.id, queued);
    assert!(matches!(failure(&batch), Some(Failure::Panicked(why)) if why.contains("given up")));
    assert!(world.begun.1.is_empty(), "it was inferred");
    assert_eq!(world.active(), 1);
}

#[test]
fn a_batch_given_up_when_it_is_home_already_changes_nothing() {
    let mut world = World::new(1, 2);
    let id = world.hand_over(Script::Finish);
    assert_eq!(world.await_home().id, id);
    world.pool.abandon(id);
    assert_eq!(world.pool.poll_replaced(), None);
    assert_eq!(world.active(), 1);
}

#[test]
fn a_batch_given_up_on_its_way_home_comes_home_once() {
    let mut world = World::new(1, 2);
    let id = world.hand_over(Script::Finish);
    while !world.pool.has_home() {
        world.bell.fall_asleep();
        if !world.pool.has_home() {
            world.poll.poll(&mut world.events, Some(DEADLINE)).unwrap();
        }
    }
    world.pool.abandon(id);
    assert_eq!(world.pool.poll_replaced(), None);
    assert_eq!(world.await_home().id, id);
    assert_eq!(world.active(), 1);
    assert!(world.pool.flights.is_empty());
}

#[test]
fn replacements_are_limited_to_the_number_of_workers() {
    let mut world = World::new(1, 2);
    let (first, release_first) = world.hang();
    world.pool.abandon(first);
    assert_eq!(world.pool.poll_replaced(), Some(first));
    let (second, release_second) = world.hang();
    world.pool.abandon(second);
    assert_eq!(world.pool.poll_replaced(), None, "two threads hang for a pool of one");
    assert_eq!(world.pool.threads.len(), 2);

    // The first comes back and stands in for the second.
    drop(release_first);
    assert_eq!(world.await_home().id, first);
    assert_eq!(world.pool.poll_replaced(), Some(second));
    let next = world.hand_over(Script::Finish);
    assert_eq!(world.await_home().id, next);

    drop(release_second);
    assert_eq!(world.await_home().id, second);
    world.await_threads(1);
    assert_eq!(world.active(), 1);
}

#[test]
fn a_hung_worker_that_comes_back_before_it_is_replaced_stays() {
    let mut world = World::new(1, 2);
    let (hung, release) = world.hang();
    world.pool.abandon(hung);
    drop(release);
    assert_eq!(world.await_home().id, hung);
    assert_eq!(world.pool.poll_replaced(), None, "its batch is home: the place is free by that");
    assert_eq!((world.active(), world.pool.threads.len()), (1, 1));
    world.hand_over(Script::Finish);
    world.await_home();
}

#[test]
fn more_batches_than_agreed_fail_instead_of_blocking() {
    let mut world = World::new(1, 1);
    let (_, release) = world.hang();
    world.hand_over(Script::Finish);
    let surplus = world.batch(Script::Finish);
    let back = world.pool.hand_over(surplus).expect_err("there is no place");
    assert!(failure(&back).is_some());
    drop(release);
    world.await_home();
    world.await_home();
}

#[test]
fn places_stay_taken_until_a_queued_batch_left_the_channel() {
    let mut world = World::new(1, 2);
    for _ in 0..20 {
        let (hung, release) = world.hang();
        let queued = world.hand_over(Script::Finish);
        world.pool.abandon(queued);
        world.pool.abandon(hung);
        assert_eq!(world.pool.poll_replaced(), Some(hung));
        // The place of the hung one is free, that of the queued one is not; so one more fits, whatever happens.
        let next = world.hand_over(Script::Finish);
        drop(release);
        let mut home: Vec<_> = (0..3).map(|_| world.await_home().id).collect();
        home.sort();
        assert_eq!(home, [hung, queued, next]);
        while world.begun.1.try_recv().is_ok() {}
        world.await_threads(1);
    }
}

#[test]
fn joining_does_not_wait_for_those_that_hang() {
    let mut world = World::new(2, 4);
    let (hung, release) = world.hang();
    world.pool.abandon(hung);
    assert_eq!(world.pool.poll_replaced(), Some(hung));
    let clock = world.pool.worker.clock;
    let before = clock.instant();
    world.pool.join(Duration::from_secs(600));
    assert!(clock.instant() - before < Duration::from_secs(600), "it waited for the hung one");
    drop(release);
}

#[test]
fn joining_drops_what_still_queues() {
    let mut world = World::new(1, 4);
    let (_, release) = world.hang();
    world.hand_over(Script::Finish);
    world.hand_over(Script::Finish);
    let begun = world.begun.1.clone();
    let joiner = std::thread::spawn(move || world.pool.join(DEADLINE));
    // The queue is emptied before anybody is waited for; whether before or after the release does not matter to
    // the end: it comes.
    drop(release);
    joiner.join().unwrap();
    assert!(begun.len() <= 2);
}

#[test]
fn threads_have_names() {
    let mut world = World::new(1, 1);
    let batch = world.batch(Script::Finish);
    let named: Execute = |batch, _| {
        let name = std::thread::current().name().unwrap_or("").to_owned();
        batch.runs_mut()[0].outcome.failure = Some(Failure::Panicked(name));
    };
    let mut other = WorkerPool::start(1, 1, Arc::clone(&world.bell), Clock::new(), named).unwrap();
    assert!(other.hand_over(batch).is_ok());
    let batch = other.homes.recv_timeout(DEADLINE).unwrap();
    assert_eq!(failure(&batch), Some(&Failure::Panicked("suzu-worker-0".into())));
}
