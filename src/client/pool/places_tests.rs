//! The pool's state under random sequences of what can happen to it, with a clock that the test turns.

use super::*;
use proptest::prelude::*;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

const MAX_IDLE_TIME: Duration = Duration::from_millis(100);

/// A connection that counts itself as long as it is there.
struct Counted(Rc<Cell<usize>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What happens. A number says to which of those to whom it can happen.
#[derive(Clone, Debug)]
enum Step {
    Get,
    Put(usize),
    Break(usize),
    Take(usize),
    Replace(usize),
    Open,
    FailToOpen,
    LeaveLine(usize),
    Pass { ms: u64 },
    Expire,
    Closed,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Get),
        4 => any::<usize>().prop_map(Step::Put),
        1 => any::<usize>().prop_map(Step::Break),
        1 => any::<usize>().prop_map(Step::Take),
        1 => any::<usize>().prop_map(Step::Replace),
        5 => Just(Step::Open),
        1 => Just(Step::FailToOpen),
        1 => any::<usize>().prop_map(Step::LeaveLine),
        2 => (0u64..60).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Expire),
        2 => Just(Step::Closed),
    ]
}

/// The pool's state and everybody who uses it.
struct World {
    places: Places<Counted>,
    max_connections: usize,
    live: Rc<Cell<usize>>,
    now: Instant,
    active: Vec<Counted>,
    opening: usize,
    closing: Vec<Counted>,
    line: VecDeque<Ticket>,
}

impl World {
    fn new(max_connections: usize) -> Self {
        let max_wait_time = Duration::MAX;
        let settings = PoolSettings { max_connections, max_idle_time: MAX_IDLE_TIME, max_wait_time };
        Self {
            places: Places::new(settings),
            max_connections,
            live: Rc::default(),
            now: Instant::default(),
            active: Vec::new(),
            opening: 0,
            closing: Vec::new(),
            line: VecDeque::new(),
        }
    }

    fn some_active(&mut self, number: usize) -> Option<Counted> {
        let count = self.active.len();
        (count > 0).then(|| self.active.swap_remove(number % count))
    }

    fn got(&mut self, grant: Grant<Counted>) {
        match grant {
            Grant::Connection(connection) => self.active.push(connection),
            Grant::Place => self.opening += 1,
        }
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Get if self.places.is_closed() => {}
            Step::Get => match self.places.try_get() {
                Some(grant) => {
                    assert!(self.line.is_empty(), "served before those who stand in line");
                    self.got(grant);
                }
                None => self.line.push_back(self.places.stand_in_line(Arc::default())),
            },
            Step::Put(number) => {
                if let Some(connection) = self.some_active(number) {
                    self.closing.extend(self.places.put(connection, self.now));
                }
            }
            Step::Break(number) | Step::Take(number) => {
                let loss = if matches!(step, Step::Take(_)) { Loss::Taken } else { Loss::Broken };
                if let Some(connection) = self.some_active(number) {
                    drop(connection);
                    self.places.lose(loss);
                }
            }
            Step::Replace(number) => {
                if let Some(connection) = self.some_active(number) {
                    drop(connection);
                    match self.places.replace() {
                        Some(grant) => self.got(grant),
                        None => assert!(self.places.is_closed()),
                    }
                }
            }
            Step::Open if self.opening > 0 => {
                self.opening -= 1;
                self.live.set(self.live.get() + 1);
                let connection = Counted(Rc::clone(&self.live));
                let kept = if self.places.opened() { &mut self.active } else { &mut self.closing };
                kept.push(connection);
            }
            Step::FailToOpen if self.opening > 0 => {
                self.opening -= 1;
                self.places.open_failed();
            }
            Step::LeaveLine(number) if !self.line.is_empty() => {
                let ticket = self.line.remove(number % self.line.len()).expect("it is within");
                self.places.leave_line(ticket);
            }
            Step::Pass { ms } => self.now = self.now + Duration::from_millis(ms),
            Step::Expire => {
                self.closing.extend(self.places.expire(self.now));
                assert!(!self.places.has_expired(self.now));
            }
            Step::Closed => {
                let count = self.closing.len();
                self.closing.clear();
                self.places.closed(count);
            }
            Step::Close => {
                self.closing.extend(self.places.close());
                self.line.clear();
            }
            Step::Open | Step::FailToOpen | Step::LeaveLine(_) => {}
        }
        self.claim();
        self.check();
    }

    /// Everybody in line asks for what was granted to them.
    fn claim(&mut self) {
        let mut unserved = 0;
        for ticket in std::mem::take(&mut self.line) {
            match self.places.claim(ticket) {
                Some(grant) => {
                    assert_eq!(unserved, 0, "{ticket} was served before somebody who came earlier");
                    self.got(grant);
                }
                None => {
                    unserved += 1;
                    self.line.push_back(ticket);
                }
            }
        }
    }

    fn check(&self) {
        let stats = self.places.stats();
        let live = stats.idle + stats.active + self.closing.len();
        assert_eq!(live, self.live.get(), "no connection is lost: {stats:?}");
        assert_eq!(
            (stats.active, stats.opening, stats.closing, stats.waiting),
            (self.active.len(), self.opening, self.closing.len(), self.line.len()),
        );
        let taken = stats.idle + stats.active + stats.opening + stats.closing;
        assert!(taken <= self.max_connections, "{stats:?}");
        assert!(stats.waiting == 0 || (stats.idle == 0 && taken == self.max_connections), "{stats:?}");
        stats.assert_adds_up();
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_line_keeps_its_order_and_no_place_is_lost(
        max_connections in 1usize..5,
        steps in prop::collection::vec(step(), 0..120),
        close in prop::option::of(0usize..120),
    ) {
        let mut world = World::new(max_connections);
        for (index, step) in steps.into_iter().enumerate() {
            if close == Some(index) {
                world.play(Step::Close);
            }
            world.play(step);
        }
        // Once everybody gives back what they have, nobody stands in line.
        while world.opening + world.active.len() + world.closing.len() > 0 {
            world.play(Step::Open);
            world.play(Step::Closed);
            world.play(Step::Put(0));
        }
        assert!(world.line.is_empty());
        world.play(Step::Pass { ms: 100 });
        world.play(Step::Expire);
        world.play(Step::Closed);
        prop_assert_eq!(world.live.get(), 0);
        let stats = world.places.stats();
        prop_assert_eq!(stats.idle + stats.active + stats.opening + stats.closing + stats.waiting, 0);
    }
}

#[test]
fn an_idle_connection_expires_when_its_time_is_over_and_not_before() {
    let mut world = World::new(2);
    for step in [Step::Get, Step::Open, Step::Get, Step::Open, Step::Put(0), Step::Pass { ms: 60 }] {
        world.play(step);
    }
    for step in [Step::Put(0), Step::Pass { ms: 39 }, Step::Expire] {
        world.play(step);
    }
    assert_eq!(world.places.stats().idle, 2, "the first has been idle for 99 ms");
    world.play(Step::Pass { ms: 1 });
    world.play(Step::Expire);
    let stats = world.places.stats();
    assert_eq!((stats.idle, stats.closing, stats.expired), (1, 1, 1));
}

#[test]
fn the_connection_that_came_back_last_is_lent_first() {
    let mut world = World::new(3);
    for step in [Step::Get, Step::Open, Step::Get, Step::Open, Step::Put(0), Step::Pass { ms: 60 }] {
        world.play(step);
    }
    for step in [Step::Put(0), Step::Get, Step::Pass { ms: 50 }, Step::Expire] {
        world.play(step);
    }
    let stats = world.places.stats();
    assert_eq!((stats.idle, stats.active, stats.expired), (0, 1, 1), "the older one was left idle");
}
