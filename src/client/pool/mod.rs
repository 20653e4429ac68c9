//! Connections that are opened once and used by many, one after the other.
//!
//! Owns idle connections and the line of those who wait. It has no thread: what has been idle for too long is dropped
//! when somebody next takes or returns a connection, or by [`Pool::sweep`].
//!
//! **Those who wait are served in the order in which they came**, also by those who return a connection while another
//! asks for one. A connection that broke is replaced by whoever finds it. If it cannot be opened they get the error, and
//! their place goes to the next in line, so nobody waits for what does not come. Opening, looking after and closing
//! connections happens outside the lock; with an idle connection at hand, taking and returning it costs two short locks
//! and no memory.

mod places;
mod pooled;
#[cfg(test)]
mod tests;

pub use pooled::Pooled;

use super::Error;
use crate::driver::Clock;
use places::{Grant, Places};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The limits of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Greatest number of connections, in use and idle. 8; 0 is taken for 1.
    pub max_connections: usize,
    /// How long a connection may lie idle before it is closed. 30 s: the server pings after 25 s of silence and waits 10 s
    /// for the answer, which nobody gives while a connection lies idle.
    pub max_idle_time: Duration,
    /// How long [`Pool::get`] waits for its turn. Opening a connection comes on top and has its own time-outs. 30 s.
    pub max_wait_time: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            max_connections: 8,
            max_idle_time: Duration::from_secs(30),
            max_wait_time: Duration::from_secs(30),
        }
    }
}

/// What is, and what has been, at one moment.
///
/// `created = idle + active + broken + expired + taken + closed`, and
/// `idle + active + opening + closing <= max_connections`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Connections in use.
    pub active: usize,
    /// Connections that wait for somebody.
    pub idle: usize,
    /// Connections that are being opened.
    pub opening: usize,
    /// Connections that are being closed.
    pub closing: usize,
    /// Callers that stand in line.
    pub waiting: usize,
    /// Connections opened so far.
    pub created: u64,
    /// Attempts to open one that failed.
    pub open_failed: u64,
    /// Connections that were given up as broken.
    pub broken: u64,
    /// Connections that were idle for too long.
    pub expired: u64,
    /// Connections that somebody kept: [`Pooled::take`].
    pub taken: u64,
    /// Connections that ended because the pool was closed.
    pub closed: u64,
    /// Callers that had to stand in line.
    pub waited: u64,
    /// Callers that waited in vain.
    pub timed_out: u64,
}

#[cfg(test)]
impl PoolStats {
    /// Every connection that was opened is somewhere.
    fn assert_adds_up(&self) {
        let Self { idle, active, created, broken, expired, taken, closed, .. } = self;
        assert_eq!(*created, (idle + active) as u64 + broken + expired + taken + closed, "{self:?}");
    }
}

type Open<C> = dyn Fn() -> Result<C, Error> + Send + Sync;
type IsUsable<C> = dyn Fn(&mut C) -> bool + Send + Sync;

/// A pool of connections of one kind to one place. Shared by reference or in an [`Arc`]; dropping it closes it.
///
/// Those who wait are served in the order in which they came. A connection that broke is replaced by whoever finds it; if
/// none can be opened they get the error, and the next in line may try. It has no thread of its own.
///
/// ```
/// use suzu::client::{Connection, Message, Options, Pool, PoolSettings};
/// # use suzu::{config::Config, driver::EventLoop, model::Registry};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let event_loop = EventLoop::bind(Config { port: 0, ..Config::default() }, Registry::builtin())?;
/// # let (address, handle) = (event_loop.local_addr(), event_loop.handle());
/// # let server = std::thread::spawn(move || event_loop.run());
/// let url = format!("ws://{address}/v1/echo");
/// let open = move || Connection::open(&url, &Options::default());
/// let pool = Pool::new(PoolSettings { max_connections: 2, ..PoolSettings::default() }, open, Connection::is_usable);
///
/// let mut connection = pool.get()?; // opens the first
/// connection.send(b"hello")?;
/// assert_eq!(connection.recv()?, Some(Message::Binary(b"hello".to_vec())));
/// drop(connection); // goes back
/// assert_eq!((pool.stats().idle, pool.stats().created), (1, 1));
/// # drop(pool);
/// # handle.stop();
/// # server.join().expect("the loop does not panic")?;
/// # Ok(())
/// # }
/// ```
pub struct Pool<C> {
    shared: Arc<Shared<C>>,
    open: Box<Open<C>>,
    is_usable: Box<IsUsable<C>>,
}

/// What a connection on loan needs to find its way back.
struct Shared<C> {
    places: Mutex<Places<C>>,
    clock: Clock,
    settings: PoolSettings,
}

impl<C> Pool<C> {
    /// An empty pool. `open` makes a connection; `is_usable` is asked before each one that was used already is handed out,
    /// and should not wait. Both are called outside the lock, by several threads at once.
    pub fn new(
        mut settings: PoolSettings,
        open: impl Fn() -> Result<C, Error> + Send + Sync + 'static,
        is_usable: impl Fn(&mut C) -> bool + Send + Sync + 'static,
    ) -> Self {
        settings.max_connections = settings.max_connections.max(1);
        let places = Mutex::new(Places::new(settings.clone()));
        let shared = Arc::new(Shared { places, clock: Clock::new(), settings });
        Self { shared, open: Box::new(open), is_usable: Box::new(is_usable) }
    }

    /// A connection that is usable as far as can be known: an idle one (that which came back last), a new one, or, if all
    /// places are taken, the next that comes back after everybody who came earlier has got theirs.
    ///
    /// # Errors
    /// [`Error::PoolExhausted`] after [`PoolSettings::max_wait_time`], [`Error::PoolClosed`], or why none could be opened.
    pub fn get(&self) -> Result<Pooled<C>, Error> {
        let mut grant = self.admit()?;
        loop {
            let mut pooled = match grant {
                Grant::Place => return self.open(),
                Grant::Connection(connection) => Pooled::new(&self.shared, connection),
            };
            if (self.is_usable)(&mut pooled) {
                return Ok(pooled);
            }
            grant = pooled.replace().ok_or(Error::PoolClosed)?;
        }
    }

    /// Closes connections that have been idle for too long. Gives how many. Only a pool that nobody uses needs it.
    pub fn sweep(&self) -> usize {
        self.shared.sweep()
    }

    /// What is, and what has been.
    pub fn stats(&self) -> PoolStats {
        self.shared.lock().stats()
    }

    /// Closes the pool for good: idle connections end, whoever waits gets [`Error::PoolClosed`], and so does whoever
    /// comes later. Connections in use stay so, and end when they are returned.
    pub fn close(&self) {
        let idle = self.shared.lock().close();
        self.shared.end(idle);
    }

    /// Waits for a connection or a place.
    fn admit(&self) -> Result<Grant<C>, Error> {
        let Shared { clock, settings, .. } = &*self.shared;
        let began = clock.instant();
        let mut places = self.shared.lock();
        if places.has_expired(began) {
            drop(places);
            self.shared.sweep();
            places = self.shared.lock();
        }
        if places.is_closed() {
            return Err(Error::PoolClosed);
        }
        if let Some(grant) = places.try_get() {
            return Ok(grant);
        }
        let wake = Arc::new(Condvar::new());
        let ticket = places.stand_in_line(Arc::clone(&wake));
        loop {
            let waited = clock.instant() - began;
            let left = settings.max_wait_time.saturating_sub(waited);
            if let Some(grant) = places.claim(ticket) {
                return Ok(grant);
            }
            if places.is_closed() {
                return Err(Error::PoolClosed);
            }
            if left.is_zero() {
                places.leave_line(ticket);
                return Err(Error::PoolExhausted { max_connections: settings.max_connections, waited });
            }
            let woken = wake.wait_timeout(places, left);
            places = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Opens a connection on a place that was granted.
    fn open(&self) -> Result<Pooled<C>, Error> {
        if self.shared.lock().is_closed() {
            self.shared.lock().open_abandoned();
            return Err(Error::PoolClosed);
        }
        // Whatever ends `open`, be it a panic, gives the place to the next.
        let place = Place(&self.shared);
        let connection = (self.open)()?;
        std::mem::forget(place);
        let usable = self.shared.lock().opened();
        if !usable {
            self.shared.end([connection]);
            return Err(Error::PoolClosed);
        }
        Ok(Pooled::new(&self.shared, connection))
    }
}

impl<C> Drop for Pool<C> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<C> std::fmt::Debug for Pool<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("settings", &self.shared.settings).field("stats", &self.stats()).finish()
    }
}

/// The right to open a connection, given back unless one is opened.
struct Place<'p, C>(&'p Shared<C>);

impl<C> Drop for Place<'_, C> {
    fn drop(&mut self) {
        self.0.lock().open_failed();
    }
}

impl<C> Shared<C> {
    fn lock(&self) -> MutexGuard<'_, Places<C>> {
        // No foreign code runs under the lock, so a panic elsewhere leaves it whole.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, connection: C) {
        let now = self.clock.instant();
        let mut places = self.lock();
        let ended = places.put(connection, now);
        let sweep = places.has_expired(now);
        drop(places);
        if ended.is_some() {
            self.end(ended);
        }
        if sweep {
            self.sweep();
        }
    }

    fn sweep(&self) -> usize {
        let now = self.clock.instant();
        let expired = self.lock().expire(now);
        self.end(expired)
    }

    /// Closes connections, and frees their places after that: the server must never see more of them than there are.
    fn end(&self, connections: impl IntoIterator<Item = C>) -> usize {
        let count = connections.into_iter().map(drop).count();
        self.lock().closed(count);
        count
    }
}
