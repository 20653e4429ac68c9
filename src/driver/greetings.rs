//! Until when each connection must be through the handshake of TLS.
//!
//! The time allowed is the same for everybody, so whoever came first is due first and a queue is enough. Most are long
//! through when their time comes; they are forgotten then, or when they are more than those who are not.

use crate::id::ConnId;
use crate::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// So many stand here before anybody looks who is through.
const SWEEP_MIN: usize = 64;

#[derive(Debug)]
pub(super) struct Greetings {
    time_max: Duration,
    queue: VecDeque<(Instant, ConnId)>,
    sweep_at: usize,
}

impl Greetings {
    pub(super) fn new(time_max: Duration) -> Self {
        Self { time_max, queue: VecDeque::new(), sweep_at: SWEEP_MIN }
    }

    /// A connection came that has to greet. `is_greeting` tells who of the others still has to.
    pub(super) fn push(&mut self, conn: ConnId, now: Instant, is_greeting: impl Fn(ConnId) -> bool) {
        if self.queue.len() >= self.sweep_at {
            self.queue.retain(|(_, conn)| is_greeting(*conn));
            self.sweep_at = SWEEP_MIN.max(self.queue.len() * 2);
        }
        self.queue.push_back((now + self.time_max, conn));
    }

    /// When to look next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.queue.front().map(|(due, _)| *due)
    }

    /// The next whose time is over, through or not.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<ConnId> {
        self.queue.pop_front_if(|(due, _)| *due <= now).map(|(_, conn)| conn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 1 }
    }

    #[test]
    fn whoever_came_first_is_due_first() {
        let mut greetings = Greetings::new(Duration::from_millis(100));
        assert_eq!(greetings.due(), None);
        greetings.push(conn(1), at(5), |_| true);
        greetings.push(conn(2), at(7), |_| true);
        assert_eq!(greetings.due(), Some(at(105)));
        assert_eq!(greetings.pop_due(at(104)), None);
        assert_eq!(greetings.pop_due(at(105)), Some(conn(1)));
        assert_eq!(greetings.pop_due(at(105)), None);
        assert_eq!(greetings.pop_due(at(200)), Some(conn(2)));
    }

    #[test]
    fn many_that_are_through_are_not_remembered() {
        let mut greetings = Greetings::new(Duration::from_secs(100));
        for slot in 0..10_000 {
            greetings.push(conn(slot), at(1), |conn| conn.slot < 3);
        }
        assert!(greetings.queue.len() <= 2 * SWEEP_MIN, "{}", greetings.queue.len());
        assert_eq!(greetings.pop_due(at(200_000)), Some(conn(0)));
    }
}
