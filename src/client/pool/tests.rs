//! The pool with threads: connections are numbers here, and opening them does what the test wants.

use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;

/// Far longer than anything here takes: only a test that hangs meets it.
const PATIENCE: Duration = Duration::from_secs(20);

fn settings(max_connections: usize) -> PoolSettings {
    PoolSettings { max_connections, max_idle_time: PATIENCE, max_wait_time: PATIENCE }
}

/// A pool of numbered connections, counted from 1.
fn numbers(settings: PoolSettings) -> Pool<usize> {
    let last = AtomicUsize::new(0);
    Pool::new(settings, move || Ok(last.fetch_add(1, Ordering::Relaxed) + 1), |_| true)
}

fn await_waiting<C>(pool: &Pool<C>, count: usize) {
    let clock = Clock::new();
    while pool.stats().waiting != count {
        assert!(clock.instant() < crate::time::Instant::from_origin(PATIENCE), "{:?}", pool.stats());
        thread::yield_now();
    }
}

#[test]
fn a_connection_that_comes_back_is_lent_again_and_a_broken_or_kept_one_is_not() {
    let pool = numbers(settings(1));
    assert_eq!(*pool.get().expect("opened"), 1);
    let mut again = pool.get().expect("the same");
    assert_eq!(*again, 1);
    again.mark_broken();
    drop(again);
    assert_eq!(pool.get().expect("another").take(), 2);
    assert_eq!(*pool.get().expect("a third"), 3);
    let stats = pool.stats();
    assert_eq!((stats.created, stats.broken, stats.taken, stats.idle), (3, 1, 1, 1));
    stats.assert_adds_up();
}

#[test]
fn a_connection_that_is_not_usable_any_more_is_replaced_before_anybody_gets_it() {
    let broken_up_to = Arc::new(AtomicUsize::new(0));
    let (last, limit) = (AtomicUsize::new(0), Arc::clone(&broken_up_to));
    let open = move || Ok(last.fetch_add(1, Ordering::Relaxed) + 1);
    let pool = Pool::new(settings(3), open, move |number| *number > limit.load(Ordering::Relaxed));
    let three: Vec<_> = (0..3).map(|_| pool.get().expect("opened")).collect();
    drop(three);
    broken_up_to.store(2, Ordering::Relaxed);
    assert_eq!(*pool.get().expect("the one that is left"), 3);
    broken_up_to.store(3, Ordering::Relaxed);
    assert_eq!(*pool.get().expect("a new one"), 4);
    let stats = pool.stats();
    assert_eq!((stats.broken, stats.created, stats.idle), (3, 4, 1));
    stats.assert_adds_up();
}

#[test]
fn those_who_wait_are_served_in_the_order_in_which_they_came() {
    const WAITERS: usize = 6;
    let pool = numbers(settings(1));
    let held = pool.get().expect("the only one");
    let served = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..WAITERS {
            let (pool, served) = (&pool, &served);
            scope.spawn(move || {
                let _connection = pool.get().expect("in turn");
                served.lock().expect("no panic").push(number);
            });
            await_waiting(pool, number + 1);
        }
        drop(held);
        // Whoever has just given it back is at the end of the line too.
        let _connection = pool.get().expect("after the others");
        assert_eq!(*served.lock().expect("no panic"), (0..WAITERS).collect::<Vec<_>>());
    });
    let stats = pool.stats();
    assert_eq!((stats.created, stats.waiting, stats.timed_out), (1, 0, 0));
}

#[test]
fn who_waits_in_vain_is_told_and_leaves_the_line() {
    let max_wait_time = Duration::from_millis(20);
    let pool = numbers(PoolSettings { max_wait_time, ..settings(1) });
    let held = pool.get().expect("the only one");
    let error = pool.get().err().expect("it is taken");
    assert!(matches!(error, Error::PoolExhausted { max_connections: 1, waited } if waited >= max_wait_time));
    assert!(error.to_string().starts_with("all 1 connections of the pool were taken for 0.0"), "{error}");
    let stats = pool.stats();
    assert_eq!((stats.timed_out, stats.waited, stats.waiting, stats.active), (1, 1, 0, 1));
    drop(held);
    assert_eq!(*pool.get().expect("it is back"), 1);
}

#[test]
fn a_place_on_which_nothing_could_be_opened_goes_to_the_next_in_line() {
    let (answer, answers) = channel::<Result<usize, Error>>();
    let answers = Mutex::new(answers);
    let open = move || answers.lock().expect("no panic").recv_timeout(PATIENCE).expect("an answer");
    let pool = Pool::new(settings(1), open, |_| true);
    thread::scope(|scope| {
        let first = scope.spawn(|| pool.get());
        // It opens outside the lock: the pool can be asked meanwhile.
        let clock = Clock::new();
        while pool.stats().opening == 0 {
            assert!(clock.instant() < crate::time::Instant::from_origin(PATIENCE));
        }
        let second = scope.spawn(|| pool.get().map(|connection| *connection));
        await_waiting(&pool, 1);
        answer.send(Err(Error::Disconnected)).expect("somebody opens");
        assert!(matches!(first.join().expect("no panic"), Err(Error::Disconnected)));
        answer.send(Ok(7)).expect("the other one opens");
        assert_eq!(second.join().expect("no panic").expect("opened"), 7);
    });
    let stats = pool.stats();
    assert_eq!((stats.open_failed, stats.created, stats.idle), (1, 1, 1));
}

#[test]
fn a_panic_loses_neither_a_place_nor_hands_on_half_a_conversation() {
    let calls = AtomicUsize::new(0);
    let open = move || match calls.fetch_add(1, Ordering::Relaxed) {
        0 => panic!("meant by the test: while opening"),
        call => Ok(call),
    };
    let pool = Pool::new(settings(1), open, |_| true);
    assert!(catch_unwind(AssertUnwindSafe(|| pool.get())).is_err());
    let used = catch_unwind(AssertUnwindSafe(|| {
        let _connection = pool.get().expect("the place is free");
        panic!("meant by the test: while using it");
    }));
    assert!(used.is_err());
    assert_eq!(*pool.get().expect("another"), 2);
    let stats = pool.stats();
    assert_eq!((stats.open_failed, stats.broken, stats.created), (1, 1, 2));
}

#[test]
fn closing_wakes_everybody_who_waits_and_ends_what_comes_back() {
    // Nobody would come out of the line by their own time.
    let settings = PoolSettings { max_wait_time: Duration::MAX, ..settings(2) };
    let pool = Arc::new(numbers(settings));
    let (one, other) = (pool.get().expect("opened"), pool.get().expect("opened"));
    let (tell, told) = channel();
    for _ in 0..3 {
        let (pool, tell) = (Arc::clone(&pool), tell.clone());
        thread::spawn(move || {
            let error = pool.get().err();
            drop(pool);
            tell.send(error)
        });
    }
    await_waiting(&pool, 3);
    pool.close();
    for _ in 0..3 {
        assert!(matches!(told.recv_timeout(PATIENCE), Ok(Some(Error::PoolClosed))));
    }
    assert!(matches!(pool.get(), Err(Error::PoolClosed)));
    drop(one);
    let stats = pool.stats();
    assert_eq!((stats.active, stats.idle, stats.waiting, stats.closed), (1, 0, 0, 1));
    stats.assert_adds_up();
    drop(pool);
    assert_eq!(*other, 2, "a loan outlives the pool");
}

#[test]
fn what_was_idle_for_too_long_is_closed_by_a_sweep_and_by_use() {
    // With no time at all, every connection has been idle for too long as soon as it is back.
    let pool = numbers(PoolSettings { max_idle_time: Duration::ZERO, ..settings(2) });
    drop(pool.get().expect("opened"));
    assert_eq!(*pool.get().expect("another"), 2);
    let stats = pool.stats();
    assert_eq!((stats.expired, stats.idle, stats.created), (2, 0, 2));
    stats.assert_adds_up();
    assert_eq!(pool.sweep(), 0, "nothing is left to do");
    assert_eq!(numbers(settings(1)).sweep(), 0);
}

/// A connection that knows whether somebody uses it, and counts itself.
struct Watched {
    used: AtomicBool,
    live: Arc<AtomicUsize>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn under_many_threads_no_connection_is_used_twice_none_is_too_many_and_everybody_is_served() {
    const MAX_CONNECTIONS: usize = 3;
    const THREADS: u64 = 6;
    const GETS: u64 = 2_000;
    let (live, counter) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let counted = Arc::clone(&live);
    let open = move || {
        if counter.fetch_add(1, Ordering::Relaxed) % 5 == 4 {
            return Err(Error::Disconnected);
        }
        let before = counted.fetch_add(1, Ordering::SeqCst);
        assert!(before < MAX_CONNECTIONS, "{before} are open already");
        Ok(Watched { used: AtomicBool::new(false), live: Arc::clone(&counted) })
    };
    let checks = AtomicUsize::new(0);
    let is_usable = move |_: &mut Watched| !checks.fetch_add(1, Ordering::Relaxed).is_multiple_of(17);
    let pool = Pool::new(settings(MAX_CONNECTIONS), open, is_usable);
    let use_it = |seed: u64| {
        let mut refused = 0;
        let mut random = seed;
        for _ in 0..GETS {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut connection = match pool.get() {
                Ok(connection) => connection,
                Err(Error::Disconnected) => {
                    refused += 1;
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            assert!(!connection.used.swap(true, Ordering::SeqCst), "somebody else uses it");
            if random >> 62 == 0 {
                thread::yield_now();
            }
            connection.used.store(false, Ordering::SeqCst);
            if random >> 60 == 1 {
                connection.mark_broken();
            }
        }
        refused
    };
    let refused: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|seed| scope.spawn(move || use_it(seed))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    let stats = pool.stats();
    stats.assert_adds_up();
    assert_eq!((stats.active, stats.opening, stats.closing, stats.waiting), (0, 0, 0, 0));
    assert_eq!((stats.open_failed, stats.timed_out), (refused, 0));
    assert_eq!(live.load(Ordering::SeqCst), stats.idle);
    drop(pool);
    assert_eq!(live.load(Ordering::SeqCst), 0);
}
