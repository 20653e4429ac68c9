//! The turn: the only place of the server that waits, and one instant each time it does not.
//!
//! Within a turn the order is fixed. Peers are accepted before anything else is told to the core, so that a slot
//! freed by an event is given away in the next turn at the earliest, when its old socket is gone. Outputs are
//! taken when everything that happened has been told: a batch may gather what many peers sent, and each socket is
//! written once with all that is for it.

use super::clock::Clock;
use super::dead_letters::DeadLetters;
use super::doorbell::Doorbell;
use super::greetings::Greetings;
use super::in_place::InPlace;
use super::introductions::Introductions;
use super::listener::{Accepted, Listener};
use super::loader::Loader;
use super::process::{self, ProcessMeter};
use super::reader::{News, Reader};
use super::socket::{Arrival, Departure, Socket};
use super::sockets::Sockets;
use super::tls;
use super::webhooks::Poster;
use super::workers::{self, WorkerPool};
use crate::batch::Batch;
use crate::config::Config;
use crate::id::ConnId;
use crate::model::{Registry, Repository};
use crate::server::{AskId, Input, Output, Post, RepositoryAnswer, RepositoryAsk, Server, cores};
use crate::time::{Instant, Now};
use mio::net::TcpStream;
use mio::{Events, Poll, Token, Waker};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

// Connections have their slot for token: far below these, also where `usize` has 32 bits. `usize::MAX` is mio's.
const LISTENER: Token = Token(usize::MAX - 1);
const BELL: Token = Token(usize::MAX - 2);

/// Events taken from the poll at once. More stay there for the next turn.
const EVENTS_MAX: usize = 1024;
/// Connections accepted in a turn, hence new requests read in the next: a flood of them must not keep the others waiting. To take in
/// and refuse so many takes about a millisecond.
const ACCEPTS_MAX: usize = 16;
/// Bytes and reads that one connection may have in a turn.
const READ_BYTES_MAX: usize = 64 * 1024;
const READS_MAX: usize = 64;
/// Connections in the handshake of TLS that are read in a turn: a step costs up to a millisecond of arithmetic, and a
/// flood of them must not keep the others waiting.
const GREETINGS_MAX: usize = 8;
/// How long the end waits for workers that do not hang, for instance in the middle of a long inference.
const JOIN_PATIENCE: Duration = Duration::from_secs(2);

/// The server on its sockets: one thread that polls, and the workers.
pub struct EventLoop {
    poll: Poll,
    events: Events,
    clock: Clock,
    server: Server,
    /// Gone once the loop drains and the core takes nobody any more.
    listener: Option<Listener>,
    local_addr: SocketAddr,
    sockets: Sockets,
    sockets_max: usize,
    /// Gone where connections are plain.
    tls: Option<tls::Acceptor>,
    greetings: Greetings,
    introductions: Introductions,
    workers: WorkerPool,
    in_place: InPlace,
    /// Gone without a folder of models.
    loader: Option<Loader>,
    /// Gone without files that may change.
    reader: Option<Reader>,
    /// Gone without a receiver of webhooks.
    poster: Option<Poster>,
    /// Gone without a file for them.
    dead_letters: Option<DeadLetters>,
    meter: ProcessMeter,
    area: ReceiveArea,
    orders: Arc<Orders>,
    /// When the last turn ended.
    ended: Instant,
    draining: bool,
    drained: bool,
}

/// Ends a running loop from another thread.
#[derive(Clone, Debug)]
pub struct Handle {
    orders: Arc<Orders>,
}

#[derive(Debug)]
struct Orders {
    drain: AtomicBool,
    reload: AtomicBool,
    stop: AtomicBool,
    bell: Arc<Doorbell>,
}

impl Handle {
    /// Begins to shut down: what is in flight is finished, then [`EventLoop::run`] returns.
    pub fn drain(&self) {
        self.orders.drain.store(true, Ordering::SeqCst);
        self.orders.bell.ring();
    }

    /// Loads the models of the folder again, and reads credentials, certificate and key, as `POST /v1/admin/reload` does. Streams in
    /// progress finish on their models, open connections keep the certificate they began with. What cannot be used is logged,
    /// and what was in use stays.
    pub fn reload(&self) {
        self.orders.reload.store(true, Ordering::SeqCst);
        self.orders.bell.ring();
    }

    /// Makes [`EventLoop::run`] return as soon as possible. Connections are cut.
    pub fn stop(&self) {
        self.orders.stop.store(true, Ordering::SeqCst);
        self.orders.bell.ring();
    }
}

impl EventLoop {
    /// Listens and starts the workers. Peers may connect from here on; they are served once it runs.
    ///
    /// # Errors
    /// If the address cannot be had, the configuration contradicts itself or the machine's limits are too low. The
    /// message names what to change.
    pub fn bind(config: Config, models: Registry) -> io::Result<EventLoop> {
        Self::bind_with(config, models, None)
    }

    /// The same with a folder from which models are loaded, replaced and unloaded at run time. Those that `models`
    /// has already are not loaded again.
    ///
    /// # Errors
    /// As [`EventLoop::bind`].
    pub fn bind_with(
        config: Config,
        mut models: Registry,
        repository: Option<Repository>,
    ) -> io::Result<EventLoop> {
        let sockets_max = sockets_max(&config)?;
        let tls = tls::Acceptor::open(&config)?;
        let greetings = Greetings::new(config.tls_handshake_timeout);
        let introductions = Introductions::new(&config);
        let mut listener = Listener::bind(&config.host, config.port, config.listen_backlog)?;
        let local_addr = listener.local_addr()?;
        let poll = Poll::new()?;
        listener.register(poll.registry(), LISTENER)?;
        let bell = Arc::new(Doorbell::new(Waker::new(poll.registry(), BELL)?));
        let clock = Clock::new();
        let identity = tls.as_ref().map(tls::Acceptor::identity);
        let reader = Reader::start(&config, local_addr, identity, &bell)?;
        let poster = Poster::start(&config, &bell)?;
        let dead_letters = poster.as_ref().map_or(Ok(None), |_| DeadLetters::start(&config))?;
        let seed = RandomState::new().hash_one(local_addr);
        models.try_out(&|| clock.instant() - Instant::default());
        let in_place = InPlace::new(config.loop_infer_max, cores());
        let server = Server::new(config, models, seed, clock.now())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
        let (strength, capacity) = (server.workers(), server.batches_in_flight_max());
        let loader = repository.map(|repository| Loader::start(repository, Arc::clone(&bell))).transpose()?;
        let workers = WorkerPool::start(strength, capacity, Arc::clone(&bell), clock, workers::execute)?;
        Ok(EventLoop {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            clock,
            server,
            listener: Some(listener),
            local_addr,
            sockets: Sockets::default(),
            sockets_max,
            greetings,
            introductions,
            workers,
            in_place,
            loader,
            reader,
            poster,
            dead_letters,
            meter: ProcessMeter::new(),
            area: ReceiveArea::new(),
            orders: Arc::new(Orders {
                drain: AtomicBool::new(false),
                reload: AtomicBool::new(false),
                stop: AtomicBool::new(false),
                bell,
            }),
            tls,
            ended: clock.instant(),
            draining: false,
            drained: false,
        })
    }

    /// Where it listens; names the port if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What ends it from another thread.
    pub fn handle(&self) -> Handle {
        Handle { orders: Arc::clone(&self.orders) }
    }

    /// Serves until [`Handle::drain`] is done or [`Handle::stop`] is asked for. The workers have ended then, but
    /// for those that hang in an inference.
    ///
    /// # Errors
    /// If the poll itself fails, which it does not on a sound system.
    pub fn run(mut self) -> io::Result<()> {
        self.ended = self.clock.instant();
        let mut result = Ok(());
        while result.is_ok() && !self.is_over() {
            result = self.turn();
        }
        self.workers.join(JOIN_PATIENCE);
        self.dead_letters.into_iter().for_each(|letters| letters.finish(JOIN_PATIENCE));
        result
    }

    fn turn(&mut self) -> io::Result<()> {
        self.wait()?;
        let now = self.clock.now();
        self.in_place.begin_turn();
        self.note_events();
        self.accept(now);
        self.introduce(now);
        self.take_orders(now);
        self.read(now);
        self.collect(now);
        self.tell_time(now);
        self.apply_outputs(now);
        self.write(now);
        self.apply_outputs(now);
        self.free_closed();
        self.ended = self.clock.instant();
        self.meter.on_turn(self.ended - now.instant);
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.drained || self.orders.stop.load(Ordering::SeqCst)
    }

    /// The only place that sleeps.
    fn wait(&mut self) -> io::Result<()> {
        let mut patience = self.patience(self.ended);
        if !patience.is_zero() {
            self.orders.bell.fall_asleep();
            if self.workers.has_home() {
                patience = Duration::ZERO;
            }
        }
        let result = self.poll.poll(&mut self.events, Some(patience));
        self.orders.bell.get_up();
        match result {
            // A signal came: an empty turn.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            Err(error) => Err(io::Error::new(error.kind(), format!("cannot poll the sockets: {error}"))),
            Ok(()) => Ok(()),
        }
    }

    /// How long there is nothing to do unless something happens.
    fn patience(&self, now: Instant) -> Duration {
        let introduced = self.introductions.ready() > 0 && self.server.can_accept();
        if self.sockets.queued() != (0, 0) || introduced {
            return Duration::ZERO;
        }
        let accept = self.listener.as_ref().filter(|_| self.has_room()).and_then(Listener::due);
        let late = [self.greetings.due(), self.introductions.due()];
        let due = [self.server.poll_timeout(), accept].into_iter().chain(late).flatten().min();
        due.map_or(self.meter.due(), |due| due.min(self.meter.due())) - now
    }

    fn note_events(&mut self) {
        for event in &self.events {
            match event.token() {
                LISTENER => self.listener.iter_mut().for_each(Listener::on_edge),
                BELL => {}
                token if self.introductions.owns(token) => self.introductions.on_event(event),
                _ => self.sockets.on_event(event),
            }
        }
    }

    fn accept(&mut self, now: Now) {
        for _ in 0..ACCEPTS_MAX {
            let has_room = self.has_room();
            let Some(listener) = &mut self.listener else { return };
            if !has_room || listener.due().is_none_or(|due| due > now.instant) {
                return;
            }
            match listener.accept(now.instant) {
                Accepted::Peer(stream, peer) if self.introductions.expects(peer.ip()) => {
                    self.introductions.push(stream, peer, now.instant, self.poll.registry());
                }
                Accepted::Peer(stream, peer) => self.admit(stream, peer, now),
                Accepted::Failed => {}
                Accepted::Nobody => return self.meter.set_accept_failures(listener.failures()),
            }
        }
    }

    /// Takes in those whose proxies have said whose they are.
    fn introduce(&mut self, now: Now) {
        for _ in 0..self.introductions.ready().min(ACCEPTS_MAX) {
            if !self.server.can_accept() {
                return;
            }
            let introduced = self.introductions.next(self.area.bytes(), now.instant, self.poll.registry());
            if let Some((stream, peer)) = introduced {
                self.admit(stream, peer, now);
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr, now: Now) {
        let conn = match self.server.accept(peer, now) {
            Ok(conn) => conn,
            Err(reason) => return log::debug!("closed {peer} at once: {}", reason.label()),
        };
        let tls = self.tls.as_ref().map(tls::Acceptor::accept).transpose();
        match tls.and_then(|tls| Socket::open(conn, stream, tls, self.poll.registry())) {
            Ok(socket) => self.insert(socket, now.instant),
            Err(error) => {
                log::debug!("{peer} was gone before it could be served: {error}");
                self.server.handle_input(Input::HungUp { conn }, now);
            }
        }
    }

    fn insert(&mut self, socket: Socket, now: Instant) {
        if socket.is_greeting() {
            self.greetings.push(socket.id(), now, |conn| self.sockets.is_greeting(conn));
        }
        self.sockets.insert(socket);
    }

    fn take_orders(&mut self, now: Now) {
        if self.orders.drain.swap(false, Ordering::SeqCst) && !self.draining {
            self.draining = true;
            self.server.handle_input(Input::Drain, now);
        }
        if self.orders.reload.swap(false, Ordering::SeqCst) {
            self.server.handle_input(Input::Reload, now);
        }
        if self.draining && self.listener.is_some() && !self.server.can_accept() {
            // For good: whoever connects now is refused at once instead of waiting for nothing.
            self.listener = None;
            self.introductions.clear();
        }
    }

    /// Reads those who stand in the queue now, each for its share. Who has more stands at its end again.
    fn read(&mut self, now: Now) {
        let mut greeted = 0;
        for _ in 0..self.sockets.queued().0 {
            if let Some(conn) = self.sockets.pop_to_read() {
                greeted += usize::from(self.sockets.is_greeting(conn));
                if greeted <= GREETINGS_MAX || !self.sockets.is_greeting(conn) {
                    self.receive(conn, now);
                }
                self.sockets.queue(conn);
            }
        }
    }

    fn receive(&mut self, conn: ConnId, now: Now) {
        let Some(socket) = self.sockets.get_mut(conn) else { return };
        let area = self.area.bytes();
        let mut share = READ_BYTES_MAX;
        for _ in 0..READS_MAX {
            if share == 0 || !socket.can_read() {
                return;
            }
            let input = match socket.read(&mut area[..share]) {
                Arrival::Bytes(count) => {
                    share -= count;
                    Input::Received { conn, bytes: &mut area[..count] }
                }
                Arrival::End => Input::HalfClosed { conn },
                Arrival::Broken => Input::HungUp { conn },
                Arrival::Nothing => return,
            };
            self.server.handle_input(input, now);
        }
    }

    fn collect(&mut self, now: Now) {
        while let Some(batch) = self.workers.poll_home() {
            self.bring_home(batch, now);
        }
        while let Some((id, answer)) = self.loader.as_ref().and_then(Loader::poll) {
            self.server.handle_input(Input::Repository { id, answer }, now);
        }
        while let Some(news) = self.reader.as_ref().and_then(Reader::poll) {
            match (news, &mut self.tls) {
                (News::Credentials(keyring), _) => self.server.handle_input(Input::Credentials(keyring), now),
                (News::Certificate(sessions), Some(tls)) => tls.renew(sessions),
                (News::Certificate(_), None) => {}
            }
        }
        while let Some((id, answer)) = self.poster.as_ref().and_then(Poster::poll) {
            self.server.handle_input(Input::Posted { id, answer }, now);
        }
        self.replace_hung(now);
    }

    fn replace_hung(&mut self, now: Now) {
        while let Some(id) = self.workers.poll_replaced() {
            self.server.handle_input(Input::Replaced(id), now);
        }
    }

    fn tell_time(&mut self, now: Now) {
        if self.server.poll_timeout().is_some_and(|due| due <= now.instant) {
            self.server.handle_timeout(now);
        }
        while let Some(conn) = self.greetings.pop_due(now.instant) {
            if self.sockets.is_greeting(conn) {
                log::debug!("connection {conn} was not through the handshake of TLS in time");
                self.server.handle_input(Input::HungUp { conn }, now);
            }
        }
        self.introductions.close_late(now.instant);
        self.meter.set_headers_refused(self.introductions.refused());
        if let Some(tls) = &self.tls {
            self.meter.set_handshakes(tls.handshakes());
        }
        if let Some(letters) = &self.dead_letters {
            self.meter.set_dead_letters(letters.counts());
        }
        if let Some(figures) = self.meter.poll(now.instant, self.sockets.len() + self.introductions.len()) {
            self.server.handle_input(Input::Process(figures), now);
        }
    }

    fn apply_outputs(&mut self, now: Now) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Flush(conn) => self.sockets.set_output_waits(conn),
                Output::SetReadable { conn, readable } => self.sockets.set_readable(conn, readable),
                Output::Close(conn) => self.sockets.close(conn),
                Output::Infer(batch) => self.infer(batch, now),
                Output::Abandon(id) => {
                    self.workers.abandon(id);
                    self.replace_hung(now);
                }
                Output::Repository { id, ask } => self.ask_repository(id, ask, now),
                Output::ReadFiles => self.reader.iter().for_each(Reader::ask),
                Output::Post(post) => self.post(post, now),
                Output::DeadLetter(letter) => {
                    if let Some(letters) = &self.dead_letters {
                        letters.push(letter);
                    }
                }
                Output::Drained => self.drained = true,
            }
        }
    }

    /// A short inference is done here and now, any other by the workers.
    fn infer(&mut self, mut batch: Batch, now: Now) {
        if self.in_place.takes(&batch) {
            let clock = self.clock;
            workers::execute(&mut batch, &|| clock.instant());
            self.in_place.spend(batch.infer_time);
            return self.bring_home(batch, now);
        }
        if let Err(failed) = self.workers.hand_over(batch) {
            self.server.handle_input(Input::Inferred(*failed), now);
        }
    }

    fn bring_home(&mut self, batch: Batch, now: Now) {
        self.in_place.learn(&batch);
        self.server.handle_input(Input::Inferred(batch), now);
    }

    fn post(&mut self, post: Post, now: Now) {
        if let Some(Err((id, answer))) = self.poster.as_ref().map(|poster| poster.post(post)) {
            self.server.handle_input(Input::Posted { id, answer }, now);
        }
    }

    fn ask_repository(&mut self, id: AskId, ask: RepositoryAsk, now: Now) {
        if let Some(loader) = &self.loader {
            return loader.ask(id, ask);
        }
        let none = "this server was started without a folder of models".to_owned();
        let answer = match ask {
            RepositoryAsk::Load(_) => RepositoryAnswer::Loaded(Err(none)),
            RepositoryAsk::Index => RepositoryAnswer::Index(Ok(Vec::new())),
        };
        self.server.handle_input(Input::Repository { id, answer }, now);
    }

    /// Writes each socket once. What the core adds meanwhile goes in the next turn.
    fn write(&mut self, now: Now) {
        for _ in 0..self.sockets.queued().1 {
            let Some(conn) = self.sockets.pop_to_write() else { return };
            let Some(socket) = self.sockets.get_mut(conn) else { continue };
            match socket.write(self.server.outgoing(conn)) {
                Departure::Sent(0) => {}
                Departure::Sent(count) => self.server.sent(conn, count, now),
                Departure::Broken => self.server.handle_input(Input::HungUp { conn }, now),
            }
        }
    }

    fn free_closed(&mut self) {
        if self.sockets.free_closed(self.area.bytes()) {
            self.listener.iter_mut().for_each(Listener::on_freed);
        }
    }

    fn has_room(&self) -> bool {
        let held = self.sockets.len() + self.introductions.len();
        held < self.sockets_max && self.server.can_accept()
    }
}

/// How many connections the descriptors allow, less those already open and a reserve for files and logs.
fn sockets_max(config: &Config) -> io::Result<usize> {
    let limit = process::raise_descriptor_limit()?;
    let taken = process::open_descriptors().unwrap_or(0) + config.descriptors_reserve as u64;
    let room = usize::try_from(limit.saturating_sub(taken)).unwrap_or(usize::MAX);
    if room == 0 {
        let text = format!(
            "the limit of {limit} open descriptors leaves none for connections: {taken} are open or in reserve; \
             raise it with `ulimit -n`"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    if room < config.connections_max {
        log::warn!(
            "the limit of {limit} open descriptors allows {room} connections, not {}: more wait until others \
             close; raise it with `ulimit -n`",
            config.connections_max
        );
    }
    Ok(room)
}

/// The one buffer that all connections are read into.
///
/// It lies in the middle of a page: copying more than 2 KiB is up to 25 times slower on some x86 cores when source
/// and target are nearly equal modulo 4,096, and large heap buffers begin near the beginning of a page.
struct ReceiveArea {
    memory: Vec<u8>,
    start: usize,
}

impl ReceiveArea {
    const PAGE: usize = 4096;

    fn new() -> Self {
        let memory = vec![0; READ_BYTES_MAX + 2 * Self::PAGE];
        let start = memory.as_ptr().align_offset(Self::PAGE).min(Self::PAGE) + Self::PAGE / 2;
        Self { memory, start }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..READ_BYTES_MAX]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receive_area_lies_in_the_middle_of_a_page() {
        let mut area = ReceiveArea::new();
        assert_eq!(area.bytes().len(), READ_BYTES_MAX);
        assert_eq!(area.bytes().as_ptr().align_offset(ReceiveArea::PAGE), ReceiveArea::PAGE / 2);
    }

    #[test]
    fn a_handle_goes_to_any_thread() {
        fn check<T: Clone + Send + Sync + 'static>() {}
        check::<Handle>();
    }

    #[test]
    fn no_slot_has_a_reserved_token() {
        // A slot is below the number of descriptors, which is an `i32` on every system.
        assert!([LISTENER, BELL].iter().all(|token| token.0 > i32::MAX as usize && token.0 < usize::MAX));
        assert_ne!(LISTENER, BELL);
    }
}
