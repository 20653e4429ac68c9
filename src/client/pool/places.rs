//! Who has which place: the pool's state without its lock, clock and threads.
//!
//! A place is what `max_connections` counts. Each is idle, active, opening, closing, or free.
//!
//! Invariants: never more places are taken than there are; whoever stands in line is served before whoever comes later,
//! and nobody stands in line while a connection is idle or a place is free; every connection that was opened is idle,
//! active, or counted under what became of it. Connections are never closed in here, for that may take long.

use super::{PoolSettings, PoolStats};
use crate::time::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar};

/// A number in the line; smaller ones came earlier.
pub(super) type Ticket = u64;

/// What somebody gets who asked for a connection.
pub(super) enum Grant<C> {
    /// One that was idle or has just come back.
    Connection(C),
    /// The right to open one.
    Place,
}

/// What became of an active connection that does not come back.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    Broken,
    Taken,
}

pub(super) struct Places<C> {
    settings: PoolSettings,
    /// The one that came back last stands last.
    idle: VecDeque<(C, Instant)>,
    line: VecDeque<(Ticket, Arc<Condvar>)>,
    /// Granted, and not yet claimed by those who stood in line.
    granted: BTreeMap<Ticket, Grant<C>>,
    tickets: Ticket,
    closed: bool,
    /// `idle` and `waiting` are left at 0 here: the queues tell.
    stats: PoolStats,
}

impl<C> Places<C> {
    pub(super) fn new(settings: PoolSettings) -> Self {
        Self {
            settings,
            idle: VecDeque::new(),
            line: VecDeque::new(),
            granted: BTreeMap::new(),
            tickets: 0,
            closed: false,
            stats: PoolStats::default(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn stats(&self) -> PoolStats {
        PoolStats { idle: self.idle.len(), waiting: self.line.len(), ..self.stats.clone() }
    }

    /// What can be had at once. `None` means to stand in line.
    pub(super) fn try_get(&mut self) -> Option<Grant<C>> {
        if let Some((connection, _)) = self.idle.pop_back() {
            self.stats.active += 1;
            return Some(Grant::Connection(connection));
        }
        let PoolStats { active, opening, closing, .. } = self.stats;
        if active + opening + closing < self.settings.max_connections {
            self.stats.opening += 1;
            return Some(Grant::Place);
        }
        None
    }

    /// Puts somebody at the end of the line. `wake` is notified when something is granted or the pool closes.
    pub(super) fn stand_in_line(&mut self, wake: Arc<Condvar>) -> Ticket {
        self.tickets += 1;
        self.stats.waited += 1;
        self.line.push_back((self.tickets, wake));
        self.tickets
    }

    /// What has been granted to this ticket.
    pub(super) fn claim(&mut self, ticket: Ticket) -> Option<Grant<C>> {
        self.granted.remove(&ticket)
    }

    /// Somebody to whom nothing was granted waits no longer.
    pub(super) fn leave_line(&mut self, ticket: Ticket) {
        if let Ok(index) = self.line.binary_search_by_key(&ticket, |(ticket, _)| *ticket) {
            self.line.remove(index);
            self.stats.timed_out += 1;
        }
    }

    /// Takes an active connection back. What is returned is to be closed, and then given to [`Places::closed`].
    pub(super) fn put(&mut self, connection: C, now: Instant) -> Option<C> {
        if self.closed {
            self.stats.active -= 1;
            self.stats.closing += 1;
            self.stats.closed += 1;
            return Some(connection);
        }
        match self.line.pop_front() {
            Some((ticket, wake)) => self.grant(ticket, &wake, Grant::Connection(connection)),
            None => {
                self.stats.active -= 1;
                self.idle.push_back((connection, now));
            }
        }
        None
    }

    /// An active connection is no more, and its place is free.
    pub(super) fn lose(&mut self, loss: Loss) {
        self.stats.active -= 1;
        match loss {
            Loss::Broken => self.stats.broken += 1,
            Loss::Taken => self.stats.taken += 1,
        }
        self.free_place();
    }

    /// An active connection turned out to be broken, and whoever has it wants another. `None` when the pool is closed.
    pub(super) fn replace(&mut self) -> Option<Grant<C>> {
        self.stats.active -= 1;
        self.stats.broken += 1;
        if self.closed {
            return None;
        }
        // They keep their place, or leave it for an idle connection. Nobody stands in line while there is one.
        self.try_get()
    }

    /// A place has got its connection. Gives whether it may be used; if not it is to be closed, and then given to
    /// [`Places::closed`].
    pub(super) fn opened(&mut self) -> bool {
        self.stats.opening -= 1;
        self.stats.created += 1;
        match self.closed {
            true => {
                self.stats.closing += 1;
                self.stats.closed += 1;
            }
            false => self.stats.active += 1,
        }
        !self.closed
    }

    /// A place did not get its connection, and is free.
    pub(super) fn open_failed(&mut self) {
        self.stats.opening -= 1;
        self.stats.open_failed += 1;
        self.free_place();
    }

    /// Nothing was opened because the pool has been closed meanwhile.
    pub(super) fn open_abandoned(&mut self) {
        self.stats.opening -= 1;
    }

    /// Whether a connection has been idle for too long.
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.idle.front().is_some_and(|(_, since)| now.since(*since) >= self.settings.max_idle_time)
    }

    /// Connections that have been idle for too long, to be closed, and then given to [`Places::closed`].
    pub(super) fn expire(&mut self, now: Instant) -> Vec<C> {
        let mut expired = Vec::new();
        while self.has_expired(now)
            && let Some((connection, _)) = self.idle.pop_front()
        {
            expired.push(connection);
        }
        self.stats.closing += expired.len();
        self.stats.expired += expired.len() as u64;
        expired
    }

    /// So many connections have been closed: their places are free.
    pub(super) fn closed(&mut self, count: usize) {
        self.stats.closing -= count;
        (0..count).for_each(|_| self.free_place());
    }

    /// Wakes everybody, and gives what is idle, to be closed, and then given to [`Places::closed`].
    pub(super) fn close(&mut self) -> Vec<C> {
        self.closed = true;
        for (_, wake) in self.line.drain(..) {
            wake.notify_one();
        }
        let idle: Vec<C> = self.idle.drain(..).map(|(connection, _)| connection).collect();
        self.stats.closing += idle.len();
        self.stats.closed += idle.len() as u64;
        idle
    }

    fn free_place(&mut self) {
        if let Some((ticket, wake)) = self.line.pop_front() {
            self.stats.opening += 1;
            self.grant(ticket, &wake, Grant::Place);
        }
    }

    fn grant(&mut self, ticket: Ticket, wake: &Condvar, grant: Grant<C>) {
        self.granted.insert(ticket, grant);
        wake.notify_one();
    }
}

#[cfg(test)]
#[path = "places_tests.rs"]
mod tests;
