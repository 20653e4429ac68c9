//! The core: a deterministic state machine that decides everything and does no I/O.
//!
//! ```text
//! impl Server {
//!     fn new(config, models, seed, now) -> Result<Server, ConfigError>
//!     fn accept(&mut self, peer, now) -> Result<ConnId, Reason>
//!     fn handle_input(&mut self, input: Input<'_>, now)      // cannot fail, never panics on peer bytes
//!     fn handle_timeout(&mut self, now)
//!     fn poll_output(&mut self) -> Option<Output>            // drained to None once a turn
//!     fn poll_timeout(&self) -> Option<Instant>
//!     fn outgoing(&self, conn) -> &[u8]                      // bytes waiting to be written
//!     fn sent(&mut self, conn, count, now)
//! }
//! ```
//!
//! The driver's loop is: (1) wait until a socket is ready, a batch is home or `poll_timeout` is reached; (2) read the
//! clock; (3) `accept` newcomers; (4) `handle_input` for bytes and batches; (5) `handle_timeout`; (6) `poll_output`
//! until None; (7) write `outgoing` of the connections named by `Output::Flush` and tell `sent`.
//!
//! Audio goes one way: `on_message` (a WebSocket message) → `on_chunk` (samples into a stream's buffer) →
//! `form_batch` (runs to the workers) → `on_outcome` (results back to the client). Parts of this folder do not know
//! each other; only [`Server`] knows two of them at once. Batches are formed when outputs are polled, so everything
//! that became ready in one turn travels together.

mod access;
mod batcher;
mod buffer;
mod calls;
mod capacity;
mod catalog;
mod connection;
mod contract;
mod fair;
mod limiter;
mod limits;
mod metrics;
mod on_access;
mod on_batch;
mod on_calls;
mod on_capacity;
mod on_http;
mod on_models;
mod on_pressure;
mod on_stream;
mod on_time;
mod on_upload;
mod on_v2;
mod on_webhook;
mod on_websocket;
mod pressure;
mod random;
mod routes;
mod session;
mod spares;
mod stats;
mod table;
mod upload;
mod webhooks;

pub use contract::{
    AskId, DeadLetter, Found, Input, Output, Post, PostAnswer, PostId, ProcessFigures, RepositoryAnswer,
    RepositoryAsk,
};
pub use limits::{MemoryBound, cores, memory_bound, settle_workers, worker_count};

use crate::config::{Config, ConfigError};
use crate::id::{CallId, ConnId, SessionId};
use crate::model::Registry;
use crate::reason::Reason;
use crate::time::{Instant, Now};
use access::Access;
use batcher::Batcher;
use calls::{PendingCall, Sequences};
use capacity::Capacity;
use catalog::Catalog;
use connection::{Connection, Phase, WebSocket};
use limits::Budgets;
use metrics::{Gauges, Metrics};
use on_models::OpenAsk;
use pressure::{Pressure, Rung};
use random::Random;
use session::Session;
use spares::Spares;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use table::Table;
use webhooks::Webhooks;

/// Connections taken in beyond `connections_max`, only to be told so (and to be served health and metrics).
pub const SURPLUS_MAX: usize = 64;

/// How often the deadlines of all connections and sessions are looked at. Looking at 20,000 costs some 20 us.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// The server without sockets, threads or clock. See the module's page for the contract.
pub struct Server {
    config: Config,
    access: Access,
    catalog: Catalog,
    connections: Table<ConnId, Connection>,
    sessions: Table<SessionId, Session>,
    calls: Table<CallId, PendingCall>,
    sequences: Sequences,
    asks: BTreeMap<AskId, OpenAsk>,
    next_ask: u64,
    /// Models of the folder that could not be loaded of late, and why.
    load_errors: Vec<(String, String)>,
    /// Sessions of connections taken in beyond the limit never exist, so this is all there is.
    surplus: usize,
    batcher: Batcher,
    budgets: Budgets,
    metrics: Metrics,
    random: Random,
    /// Gone without a receiver.
    webhooks: Option<Webhooks>,
    outputs: VecDeque<Output>,
    /// Connections whose parked bytes may be looked at again.
    awake: VecDeque<ConnId>,
    spares: Spares,
    /// When sessions want to be looked at: at most one entry for each.
    timers: BTreeSet<(Instant, SessionId)>,
    sweep_due: Option<Instant>,
    drain: Option<Drain>,
    began: Instant,
    now: Now,
    process: ProcessFigures,
    /// The longest turn of the loop of late, as far as it counts as load.
    loop_lag: Duration,
    pressure: Pressure,
    /// When the pressure was last looked at.
    pressure_at: Option<Instant>,
    cut_due: Instant,
    close_due: Instant,
    capacity: Capacity,
    /// When `process` was taken.
    process_at: Instant,
    bound: MemoryBound,
    scratch: Vec<u8>,
}

/// A shutdown in progress.
struct Drain {
    deadline: Instant,
    /// The deadline has passed and what waited has been given up.
    forced: bool,
    /// `Output::Drained` has been given.
    told: bool,
}

impl Server {
    /// A server that has nobody yet. `seed` names sessions and requests; `now` is the beginning of its uptime.
    ///
    /// # Errors
    /// A configuration that contradicts itself, or whose limits add up to more than `memory_max`.
    pub fn new(config: Config, models: Registry, seed: u64, now: Now) -> Result<Server, ConfigError> {
        config.validate()?;
        let wanted = worker_count(&config);
        let config = settle_workers(config, cores(), &models);
        if config.workers < wanted {
            let (workers, memory) = (config.workers, config.memory_max >> 20);
            log::warn!(
                "{workers} workers of {wanted}: memory_max = {memory} MiB has room for no more; raise it"
            );
        }
        let bound = memory_bound(&config, models.iter());
        bound.check(&config)?;
        limits::check_models(&config, &models)?;
        let capacity = Capacity::new(config.capacity_percent, worker_count(&config));
        let mut server = Server {
            batcher: Batcher::new(worker_count(&config), limits::batches_in_flight_max(&config)),
            metrics: Metrics::new(config.slow_request),
            budgets: Budgets::default(),
            random: Random::new(seed),
            // Apart, so that the names of streams are the same with a receiver and without.
            webhooks: Webhooks::of(&config, !seed),
            catalog: Catalog::new(),
            access: Access::new(&config),
            config,
            connections: Table::new(),
            sessions: Table::new(),
            calls: Table::new(),
            sequences: Sequences::default(),
            asks: BTreeMap::new(),
            next_ask: 0,
            load_errors: Vec::new(),
            surplus: 0,
            outputs: VecDeque::new(),
            awake: VecDeque::new(),
            spares: Spares::default(),
            timers: BTreeSet::new(),
            sweep_due: None,
            drain: None,
            began: now.instant,
            now,
            process: ProcessFigures::default(),
            loop_lag: Duration::ZERO,
            pressure: Pressure::default(),
            pressure_at: None,
            cut_due: Instant::default(),
            close_due: Instant::default(),
            capacity,
            process_at: now.instant,
            bound,
            scratch: Vec::new(),
        };
        for served in models.iter() {
            let name = served.name();
            server.serve_model(served.clone(), models.is_loaded(name), models.trial_cost(name));
        }
        Ok(server)
    }

    /// Takes a connection in. Beyond `connections_max`, or under overload, a few more are taken in to be refused politely, and to be
    /// served health and metrics.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] or [`Reason::Draining`]: there is no room even for that; [`Reason::QuotaReached`]: the address has
    /// all connections that it may have. Close the socket.
    pub fn accept(&mut self, peer: SocketAddr, now: Now) -> Result<ConnId, Reason> {
        self.now = now;
        self.on_pressure();
        self.settle();
        if self.drain.is_some() {
            return Err(Reason::Draining);
        }
        if !self.can_accept() {
            return Err(Reason::Overloaded);
        }
        self.access.enter(&self.config, peer.ip())?;
        let full = self.connections.len() - self.surplus >= self.config.connections_max;
        let surplus = full || self.pressure.rung() == Rung::Closing;
        self.surplus += usize::from(surplus);
        self.metrics.counters.connections_opened += 1;
        let conn = self.connections.insert(Connection::new(peer, surplus, now.instant));
        self.sweep_due.get_or_insert(now.instant + SWEEP_INTERVAL);
        Ok(conn)
    }

    /// Whether [`Server::accept`] would take another connection in. If not, leave it in the listen backlog until a
    /// connection closes.
    pub fn can_accept(&self) -> bool {
        let room = self.connections.len() < self.config.connections_max + SURPLUS_MAX;
        let closing = self.pressure.rung() == Rung::Closing && self.surplus >= SURPLUS_MAX;
        self.drain.is_none() && room && !closing
    }

    /// An event of the outside world. Cannot fail: it makes the server answer.
    pub fn handle_input(&mut self, input: Input<'_>, now: Now) {
        self.now = now;
        self.on_pressure();
        match input {
            Input::Received { conn, bytes } => self.on_received(conn, bytes),
            Input::HalfClosed { conn } => self.on_half_closed(conn),
            Input::HungUp { conn } => self.close(conn, Reason::HungUp),
            Input::Inferred(batch) => self.on_inferred(batch),
            Input::Replaced(id) => self.batcher.replaced(id),
            Input::Repository { id, answer } => self.on_repository(id, answer),
            Input::Reload => self.on_reload(),
            Input::Credentials(keyring) => self.on_credentials(keyring),
            Input::Posted { id, answer } => self.on_posted(id, &answer),
            Input::Process(figures) => self.on_process(figures),
            Input::Drain => self.on_drain(),
        }
        self.settle();
    }

    /// Time has passed: does whatever became due. Harmless to call too often.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        self.on_pressure();
        self.on_overdue();
        self.on_late_asks();
        self.on_late_posts();
        self.on_session_timers();
        self.check_drain();
        if self.sweep_due.is_some_and(|due| due <= now.instant) {
            self.sweep();
            let busy = self.connections.len() + self.sessions.len() + self.sequences.len() > 0;
            self.sweep_due = busy.then(|| now.instant + SWEEP_INTERVAL);
        }
        self.settle();
    }

    /// What the server wants done next. Poll until None, once a turn.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        // Forming a batch may discard audio, and so write to clients and make room, even if no batch comes of it.
        let batch = self.form_batch();
        self.settle();
        match batch {
            Some(batch) => Some(Output::Infer(batch)),
            None => self.outputs.pop_front().or_else(|| self.poll_drained()),
        }
    }

    /// When [`Server::handle_timeout`] wants to be called, if ever.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(due, _)| *due);
        let (batcher, pressure) = (self.batcher.poll_timeout(), self.pressure_due());
        let (asks, webhooks) = (self.asks_due(), self.webhooks_due());
        let due = [timer, self.drain_due(), self.sweep_due, batcher, asks, webhooks, pressure];
        due.into_iter().flatten().min()
    }

    /// Bytes that wait to be written to this connection; empty if there are none or it is gone.
    pub fn outgoing(&self, conn: ConnId) -> &[u8] {
        self.connections.get(conn).map_or(&[], Connection::outgoing)
    }

    /// The driver wrote the first `count` bytes of [`Server::outgoing`] (zero: the socket is full).
    pub fn sent(&mut self, conn: ConnId, count: usize, now: Now) {
        self.now = now;
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.flush_queued = false;
        if count > 0 {
            connection.sent(count, now.instant, &mut self.spares);
            self.metrics.counters.bytes_out += count as u64;
            self.charge(conn);
            self.on_sent(conn);
        }
        self.settle();
    }

    /// How many batches can be out at a time: the capacity that the channel to the workers needs.
    pub fn batches_in_flight_max(&self) -> usize {
        limits::batches_in_flight_max(&self.config)
    }

    /// How many workers the configuration asks for.
    pub fn workers(&self) -> usize {
        worker_count(&self.config)
    }

    /// What the limits add up to.
    pub fn memory_bound(&self) -> &MemoryBound {
        &self.bound
    }

    /// The configuration that the server runs by.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether nothing is open, waiting or in flight.
    pub fn is_idle(&self) -> bool {
        let people = self.connections.len() + self.sessions.len() + self.calls.len();
        let told = self.webhooks.as_ref().is_none_or(Webhooks::is_empty);
        people == 0 && self.batcher.in_flight() == 0 && told
    }

    /// What `/api/metrics` would answer now.
    pub fn figures(&self) -> serde_json::Value {
        self.metrics.json(&self.gauges())
    }

    /// Lets connections whose way is free again go on, until nothing moves.
    fn settle(&mut self) {
        while let Some(conn) = self.awake.pop_front() {
            self.on_awake(conn);
            self.shed_outgoing();
        }
        self.shed_outgoing();
        self.post_webhooks();
        #[cfg(debug_assertions)]
        self.check_quick_invariants();
    }

    /// Appends bytes to what goes out to `conn` and sees to it that the driver hears of it.
    fn write(&mut self, conn: ConnId, encode: impl FnOnce(&mut Vec<u8>)) {
        let now = self.now.instant;
        let Some(connection) = self.connections.get_mut(conn) else { return };
        connection.write(now, &mut self.spares, encode);
        if !connection.flush_queued {
            connection.flush_queued = true;
            self.outputs.push_back(Output::Flush(conn));
        }
        self.charge(conn);
    }

    /// Brings the budgets up to date with what the connection holds.
    fn charge(&mut self, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let held = connection.held_bytes();
        let before = std::mem::replace(&mut connection.charged, held);
        self.budgets.charge_connection(before, held);
    }

    /// Tells the driver whether to read from the connection, if that has changed.
    fn set_readable(&mut self, conn: ConnId, readable: bool) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if connection.readable != readable {
            connection.readable = readable;
            if readable {
                // Its silence so far was our doing.
                connection.last_received = self.now.instant;
                if let Phase::WebSocket(WebSocket { message_since: Some(since), .. }) = &mut connection.phase
                {
                    *since = self.now.instant;
                }
            }
            self.outputs.push_back(Output::SetReadable { conn, readable });
        }
    }

    /// Closes a connection now, whatever its phase. Its session goes on without it until its batch is home.
    fn close(&mut self, conn: ConnId, reason: Reason) {
        let Some(connection) = self.connections.remove(conn) else { return };
        self.budgets.charge_connection(connection.charged, (0, 0));
        self.surplus -= usize::from(connection.surplus);
        self.access.leave(&self.config, connection.peer.ip());
        if let Some(owner) = &connection.owner {
            self.access.release(owner, 1, 0);
        }
        self.metrics.counters.connections_closed[reason as usize] += 1;
        log::debug!("connection {conn} from {} closed: {}", connection.peer, reason.label());
        self.outputs.push_back(Output::Close(conn));
        self.abandon_waiting(&connection.phase);
        if let Some(session) = connection.session() {
            self.on_detached(session, reason);
        }
    }

    /// Closes the connection if its conversation is over and everything has been written.
    fn close_if_done(&mut self, conn: ConnId) {
        if self.connections.get(conn).is_some_and(Connection::is_done) {
            self.close(conn, Reason::Finished);
        }
    }

    fn is_ready(&self) -> bool {
        let places = self.sessions.len() < self.config.sessions_max;
        let calm = self.pressure.rung() < Rung::Refusing && self.fits(self.usual_cost());
        self.drain.is_none() && !self.batcher.is_stuck() && places && calm
    }

    fn gauges(&self) -> Gauges {
        let pending = self.sessions.iter().map(|(_, session)| session.buffer.ledger().pending());
        Gauges {
            connections: self.connections.len(),
            connections_max: self.config.connections_max,
            sessions: self.sessions.len(),
            sessions_max: self.config.sessions_max,
            samples_pending: pending.sum(),
            queued: self.batcher.queued(),
            queue_wait: self.batcher.oldest_wait(self.now.instant),
            batches_in_flight: self.batcher.in_flight(),
            incoming_bytes: self.budgets.incoming,
            outgoing_bytes: self.budgets.outgoing,
            audio_bytes: self.budgets.audio,
            memory_bound_bytes: self.bound.total(),
            limiters: self.access.remembered(),
            webhooks: self.webhooks.as_ref().map(Webhooks::figures),
            load: self.pressure.load(),
            rung: self.pressure.rung(),
            credit_cut: self.sessions.iter().filter(|(_, session)| session.credit_max.is_some()).count(),
            streams_remaining: self.streams_remaining(),
            capacity_taken: self.capacity.taken(),
            memory_held: self.memory_held(),
            memory_max: self.config.memory_max as u64,
            ready: self.is_ready(),
            uptime: self.now.instant - self.began,
            process: self.process,
        }
    }

    #[cfg(debug_assertions)]
    fn check_quick_invariants(&self) {
        assert!(self.connections.len() <= self.config.connections_max + SURPLUS_MAX);
        assert!(self.sessions.len() <= self.config.sessions_max);
        assert!(self.batcher.queued() <= self.sessions.len() + self.calls.len());
    }

    /// Asserts everything that must hold between calls. Costs time in proportion to what is open: for tests.
    ///
    /// # Panics
    /// If an invariant does not hold: a fault of the server itself.
    pub fn check_invariants(&self) {
        self.batcher.check_invariants();
        let (mut incoming, mut outgoing, mut audio) = (0, 0, 0);
        for (id, connection) in self.connections.iter() {
            let held = connection.held_bytes();
            assert_eq!(held, connection.charged, "{id} is charged for what it holds");
            incoming += held.0;
            outgoing += held.1;
            if let Some(session) = connection.session() {
                let session = self.sessions.get(session).expect("a stream's connection has its session");
                assert_eq!(session.conn, Some(id));
            }
            assert!(!connection.blocked || self.is_blocked(id), "{id} waits though its way is free");
        }
        let mut pending = 0;
        for (id, session) in self.sessions.iter() {
            session.check_invariants();
            audio += session.charged;
            pending += session.buffer.ledger().pending();
            assert!(session.conn.is_some() || session.run.is_some(), "{id} would wait for ever");
            let room = session.conn.and_then(|conn| self.connections.get(conn));
            let room = room.is_some_and(|connection| self.has_room(connection));
            assert!(
                session.queued || !room || !session.wants_run(),
                "{id} has a run to make and is not queued"
            );
        }
        assert_eq!(
            (incoming, outgoing, audio),
            (self.budgets.incoming, self.budgets.outgoing, self.budgets.audio)
        );
        let counters = &self.metrics.counters;
        let discarded: u64 = counters.samples_discarded.iter().sum();
        assert_eq!(
            counters.samples_received,
            counters.samples_processed + discarded + pending,
            "the ledger balances"
        );
        assert!(self.timers.len() <= self.sessions.len());
        let owned = self.connections.iter().filter(|(_, connection)| connection.owner.is_some()).count();
        assert_eq!(
            self.access.held(),
            (owned as u32, self.sessions.len() as u32),
            "who is gone holds nothing"
        );
        self.webhooks.iter().for_each(Webhooks::check_invariants);
        self.check_calls();
    }

    fn check_calls(&self) {
        let counters = &self.metrics.counters;
        let charged: usize = self.calls.iter().map(|(_, pending)| pending.charged).sum();
        assert_eq!(charged, self.budgets.calls, "every request is charged for what it holds");
        assert!(
            self.calls.len() <= self.config.calls_max && self.sequences.len() <= self.config.sequences_max
        );
        assert_eq!(
            counters.calls_received,
            counters.calls_answered + counters.calls_failed + self.calls.len() as u64,
            "every request is answered once"
        );
        for (key, sequence) in self.sequences.iter() {
            let asked = sequence.busy || !sequence.waiting.is_empty();
            assert!(asked || sequence.memory.is_some(), "a sequence that is over is gone: {}", key.id);
            assert!(!sequence.busy || sequence.memory.is_none(), "its memory is out with its request");
        }
        self.catalog.check_invariants(self.sessions.len() + self.calls.len() + self.sequences.len());
    }
}
