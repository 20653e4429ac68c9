//! The whole server under a script: peers that send anything in any pieces, that read late or never, that stop and
//! vanish; workers that are slow, fail and lose batches; leaps of time; a shutdown in the middle.
//!
//! After every step the server's invariants hold, its outputs keep the contract, and it asks for no time-out that has
//! passed. At the end, when nobody does anything any more, it becomes empty by itself.

use super::input::{Cuts, Input};
use super::peer::Peer;
use super::script;
use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;
use suzu::batch::Batch;
use suzu::config::Config;
use suzu::id::{BatchId, ConnId, SessionId};
use suzu::model::{Failure, Registry};
use suzu::server::{self, Output, ProcessFigures, Server};
use suzu::time::{Instant, Now};

/// Steps of a script, so that no input takes long.
const STEPS_MAX: usize = 150;
/// Bytes that all peers of a script send.
const SENT_MAX: usize = 300_000;

/// A script: the limits of the server, then step after step.
pub fn server(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(server) = new_server(script::config(&mut input)) else { return };
    let mut world = World::new(server);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
    }
    world.wind_down();
}

/// A server with these limits, unless they contradict each other.
pub fn new_server(config: Config) -> Option<Server> {
    // Models have no state of their own, so all servers may share them.
    static MODELS: OnceLock<Registry> = OnceLock::new();
    let models = MODELS.get_or_init(Registry::builtin).clone();
    Server::new(config, models, 7, START).ok()
}

/// When every script begins: late enough for audio to have a past.
pub const START: Now =
    Now { instant: Instant::from_origin(Duration::from_secs(1000)), unix_ms: 1_700_000_000_000 };

/// A connection as its client and the driver see it.
struct Link {
    id: ConnId,
    is_open: bool,
    /// The driver reads it.
    is_readable: bool,
    /// The driver was asked to write, or the socket was full.
    is_flushing: bool,
    /// Sent by the client and not read yet.
    on_the_way: Vec<u8>,
    /// The client has sent its last byte; and the server knows.
    finished: (bool, bool),
    peer: Peer,
}

struct World {
    server: Server,
    now: Now,
    links: Vec<Link>,
    flights: Vec<Batch>,
    /// Batches that take a worker's place.
    out: BTreeSet<BatchId>,
    abandoned: BTreeSet<BatchId>,
    cuts: Option<Cuts>,
    sent: usize,
    is_draining: bool,
    is_drained: bool,
}

impl World {
    fn new(server: Server) -> Self {
        Self {
            server,
            now: START,
            links: Vec::new(),
            flights: Vec::new(),
            out: BTreeSet::new(),
            abandoned: BTreeSet::new(),
            cuts: None,
            sent: 0,
            is_draining: false,
            is_drained: false,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 32 {
            0..=1 => drop(self.accept()),
            2..=4 => self.open_websocket(input),
            5..=13 => self.send(input),
            14 => self.finish_sending(input),
            15 => self.hang_up(input),
            16..=17 => self.write_some(input),
            18..=19 => self.write_all(),
            20..=22 => self.advance(input),
            23 => self.advance_to_timeout(),
            24..=26 => self.bring_home(input, None),
            27 => self.bring_home(input, Some(Failure::Panicked("by order".into()))),
            28 => self.lose_batch(input),
            29 => self.replace_worker(),
            30 => self.cuts = input.byte().is_multiple_of(2).then(|| Cuts::draw(input)),
            _ => self.rare(input),
        }
        self.turn();
        self.deliver_all();
    }

    fn accept(&mut self) -> Option<usize> {
        if self.links.len() >= 120 {
            return None;
        }
        let may = self.server.can_accept();
        let accepted = self.server.accept(([192, 0, 2, 1], 9).into(), self.now);
        assert_eq!(may, accepted.is_ok());
        let id = accepted.ok()?;
        assert!(!self.is_draining && self.links.iter().all(|link| link.id != id), "{id} is issued once");
        self.links.push(Link {
            id,
            is_open: true,
            is_readable: true,
            is_flushing: false,
            on_the_way: Vec::new(),
            finished: (false, false),
            peer: Peer::Fresh,
        });
        Some(self.links.len() - 1)
    }

    /// One of the links, an open one if there is any.
    fn link(&self, input: &mut Input<'_>) -> Option<usize> {
        let open: Vec<_> = (0..self.links.len()).filter(|&at| self.links[at].is_open).collect();
        let byte = usize::from(input.byte());
        match open.len() {
            0 => (!self.links.is_empty()).then(|| byte % self.links.len()),
            count => Some(open[byte % count]),
        }
    }

    fn open_websocket(&mut self, input: &mut Input<'_>) {
        let Some(at) = self.accept() else { return };
        let mut wire = Vec::new();
        let is_stream = script::handshake(input, &mut wire);
        self.links[at].peer.sends(Some(is_stream));
        self.put_on_the_way(at, &wire);
    }

    fn send(&mut self, input: &mut Input<'_>) {
        let Some(at) = self.link(input) else { return };
        let mut wire = Vec::new();
        script::element(input, &mut wire);
        self.links[at].peer.sends(None);
        self.put_on_the_way(at, &wire);
    }

    fn put_on_the_way(&mut self, at: usize, wire: &[u8]) {
        self.sent += wire.len();
        let link = &mut self.links[at];
        if link.is_open && !link.finished.0 && self.sent <= SENT_MAX {
            link.on_the_way.extend_from_slice(wire);
        }
    }

    fn finish_sending(&mut self, input: &mut Input<'_>) {
        if let Some(at) = self.link(input) {
            self.links[at].finished.0 = true;
        }
    }

    fn deliver_all(&mut self) {
        for at in 0..self.links.len() {
            self.deliver(at);
        }
    }

    /// The server reads as long as it wants to. Its wishes are heard once a turn: pieces of a turn come all.
    fn deliver(&mut self, at: usize) {
        while self.links[at].is_open && self.links[at].is_readable && !self.links[at].on_the_way.is_empty() {
            let bytes = &mut self.links[at].on_the_way;
            let mut burst: Vec<_> = bytes.drain(..bytes.len().min(16_384)).collect();
            let mut rest = &mut burst[..];
            while !rest.is_empty() {
                let length = self.cuts.as_mut().map_or(rest.len(), |cuts| cuts.next(rest.len()));
                let bytes = rest.split_off_mut(..length).unwrap_or_default();
                let conn = self.links[at].id;
                self.server.handle_input(server::Input::Received { conn, bytes }, self.now);
            }
            self.tell_end(at);
            self.turn();
        }
        if self.links[at].is_readable {
            self.tell_end(at);
            self.turn();
        }
    }

    fn tell_end(&mut self, at: usize) {
        let link = &mut self.links[at];
        if link.is_open && link.on_the_way.is_empty() && link.finished == (true, false) {
            link.finished.1 = true;
            self.server.handle_input(server::Input::HalfClosed { conn: link.id }, self.now);
        }
    }

    fn hang_up(&mut self, input: &mut Input<'_>) {
        if let Some(at) = self.link(input) {
            let conn = self.links[at].id;
            self.server.handle_input(server::Input::HungUp { conn }, self.now);
        }
    }

    fn write_some(&mut self, input: &mut Input<'_>) {
        let Some(at) = self.link(input) else { return };
        let count = usize::from(input.short());
        self.write(at, count);
    }

    fn write_all(&mut self) {
        for at in 0..self.links.len() {
            self.write(at, usize::MAX);
        }
    }

    /// The socket takes up to `count` bytes.
    fn write(&mut self, at: usize, count: usize) {
        let link = &mut self.links[at];
        let bytes = self.server.outgoing(link.id);
        let count = count.min(bytes.len());
        link.peer.receive(&bytes[..count]);
        self.server.sent(link.id, count, self.now);
        link.is_flushing = !self.server.outgoing(link.id).is_empty();
    }

    fn advance(&mut self, input: &mut Input<'_>) {
        let ms = input.pick(&[1, 20, 100, 250, 1000, 5000, 30_000, 3_600_000]);
        self.leap(Duration::from_millis(ms));
    }

    fn leap(&mut self, time: Duration) {
        self.now = Now {
            instant: self.now.instant + time,
            unix_ms: self.now.unix_ms + u64::try_from(time.as_millis()).expect("a script is short"),
        };
    }

    fn advance_to_timeout(&mut self) {
        if let Some(due) = self.server.poll_timeout() {
            self.leap(due - self.now.instant);
        }
    }

    fn bring_home(&mut self, input: &mut Input<'_>, failure: Option<Failure>) {
        if self.flights.is_empty() {
            return;
        }
        let at = usize::from(input.byte()) % self.flights.len();
        self.come_home(at, failure);
    }

    fn come_home(&mut self, at: usize, failure: Option<Failure>) {
        let mut batch = self.flights.remove(at);
        batch.execute(&|| self.now.instant);
        if let (Some(run), Some(_)) = (batch.runs_mut().first_mut(), &failure) {
            run.outcome.failure = failure;
        }
        assert!(self.out.remove(&batch.id) || self.abandoned.contains(&batch.id));
        self.server.handle_input(server::Input::Inferred(batch), self.now);
    }

    fn lose_batch(&mut self, input: &mut Input<'_>) {
        if !self.flights.is_empty() {
            let at = usize::from(input.byte()) % self.flights.len();
            self.flights.remove(at);
        }
    }

    /// The driver replaces the workers that hang on what was abandoned.
    fn replace_worker(&mut self) {
        if let Some(id) = self.abandoned.pop_first() {
            self.out.remove(&id);
            self.flights.retain(|batch| batch.id != id);
            self.server.handle_input(server::Input::Replaced(id), self.now);
        }
    }

    fn rare(&mut self, input: &mut Input<'_>) {
        match input.byte() % 4 {
            0 => {
                self.is_draining = true;
                self.server.handle_input(server::Input::Drain, self.now);
            }
            1 => {
                let figures = ProcessFigures { loop_turns: u64::MAX, ..ProcessFigures::default() };
                self.server.handle_input(server::Input::Process(figures), self.now);
            }
            2 => {
                let conn = ConnId { slot: input.byte().into(), generation: 0 };
                self.server.handle_input(server::Input::Received { conn, bytes: &mut [1] }, self.now);
                self.server.handle_input(server::Input::HalfClosed { conn }, self.now);
                self.server.sent(conn, 5, self.now);
            }
            _ => assert!(self.server.figures().is_object()),
        }
    }

    /// The rest of the driver's turn, and everything that must hold after it.
    fn turn(&mut self) {
        // What forming a batch discards may be due to be told at once: one turn more, but not for ever.
        for turns in 0.. {
            self.server.handle_timeout(self.now);
            while let Some(output) = self.server.poll_output() {
                self.obey(output);
            }
            self.server.check_invariants();
            let due = self.server.poll_timeout();
            let now = self.now.instant;
            if due.is_none_or(|due| due > now) {
                break;
            }
            assert!(turns < 2, "a time-out at {due:?} that passed: now is {now}");
        }
        for link in self.links.iter().filter(|link| !link.is_flushing) {
            assert!(self.server.outgoing(link.id).is_empty(), "{} waits unheard of", link.id);
        }
        assert!(!self.is_drained || self.server.is_idle());
    }

    fn obey(&mut self, output: Output) {
        match output {
            Output::Flush(conn) => self.known(conn).is_flushing = true,
            Output::SetReadable { conn, readable } => {
                let link = self.known(conn);
                assert_ne!(link.is_readable, readable, "{conn} is told what it knows");
                link.is_readable = readable;
            }
            Output::Close(conn) => {
                let link = self.known(conn);
                link.is_open = false;
                link.is_flushing = false;
            }
            Output::Infer(batch) => self.depart(batch),
            Output::Abandon(id) => {
                assert!(self.out.contains(&id) && self.abandoned.insert(id));
            }
            // There is no folder of models, so nothing is asked of it.
            Output::Repository { ask, .. } => panic!("{ask:?}"),
            Output::ReadFiles => panic!("nobody asked for a reload"),
            Output::Post(_) | Output::DeadLetter(_) => {
                panic!("webhooks are posted, and there is no receiver")
            }
            Output::Drained => {
                assert!(self.is_draining && !std::mem::replace(&mut self.is_drained, true));
            }
        }
    }

    fn known(&mut self, conn: ConnId) -> &mut Link {
        let link = self.links.iter_mut().find(|link| link.id == conn).expect("an id that was issued");
        assert!(link.is_open, "{conn} is closed");
        link
    }

    fn depart(&mut self, batch: Batch) {
        assert!(self.out.insert(batch.id), "an id is used once");
        assert!(self.out.len() <= self.server.batches_in_flight_max());
        assert!((1..=self.server.config().batch_max).contains(&batch.len()));
        let live = self.flights.iter().filter(|flight| !self.abandoned.contains(&flight.id));
        let flying: BTreeSet<SessionId> = live.flat_map(|flight| flight.sessions().iter().copied()).collect();
        let mut own = BTreeSet::new();
        for session in batch.sessions() {
            assert!(own.insert(*session) && !flying.contains(session), "one run of a stream at a time");
        }
        for run in batch.runs() {
            assert!(run.samples.iter().all(|sample| (-1.0..=1.0).contains(sample)));
        }
        self.flights.push(batch);
    }

    /// Everybody reads, the workers work, and nobody says anything more: the server becomes empty by itself.
    fn wind_down(mut self) {
        let mut idle_rounds = 0;
        while idle_rounds < 40 && !(self.server.is_idle() && self.flights.is_empty()) {
            let is_working = !self.flights.is_empty();
            while !self.flights.is_empty() {
                self.come_home(0, None);
                self.turn();
            }
            self.replace_worker();
            self.turn();
            self.deliver_all();
            self.write_all();
            self.turn();
            // As long as runs follow each other time goes on by the queue's delay only.
            idle_rounds += usize::from(!is_working);
            self.leap(if is_working { Duration::from_millis(6) } else { Duration::from_secs(20) });
            self.turn();
        }
        assert!(self.server.is_idle(), "{}", self.server.figures());
        assert!(self.links.iter().all(|link| !link.is_open));
        assert_eq!(self.is_drained, self.is_draining);
    }
}
