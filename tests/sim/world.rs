//! The driver, the network, the workers and the clock, all drawn from one seed.
//!
//! Drives the server through exactly the contract that the real driver keeps, one turn after the other, and jumps
//! from event to event. After every call the server's own invariants are checked.

use crate::faults::Tally;
use crate::peer::{Pace, Peer, Stage};
use crate::pipe::Micros;
use crate::plants::{Kind, Plant};
use crate::receiver::Receiver;
use crate::rng::Rng;
use crate::tensors::Folder;
use crate::workers::{News, Workers};
use crc32fast::Hasher;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use suzu::auth::Keyring;
use suzu::id::ConnId;
use suzu::server::{Input, Output, ProcessFigures, Server};
use suzu::time::{Instant, Now};

/// Virtual time after which whatever still goes on goes on for ever.
const HORIZON: Micros = 2 * 3600 * 1_000_000;
/// Turns in one instant after which nothing moves any more but the turns.
const TURNS_AT_ONCE_MAX: u32 = 200_000;
/// What a drain may take beyond its own time: the farewell and one sweep.
const DRAIN_SLACK: Micros = 1_000_000;

pub struct World {
    pub server: Server,
    pub rng: Rng,
    pub now: Micros,
    began: Micros,
    pub unix_offset: i64,
    pub peers: Vec<Peer>,
    pub workers: Workers,
    folder: Folder,
    pub receiver: Receiver,
    pub tally: Tally,
    pub drain_at: Option<Micros>,
    /// What the driver tells of the process, and when.
    pub strains: VecDeque<(Micros, ProcessFigures)>,
    /// When the operator asks for a reload.
    pub reloads: VecDeque<Micros>,
    /// What the file of credentials says, reading after reading.
    pub keyrings: VecDeque<Result<Keyring, String>>,
    /// When the readings that go on will have ended.
    readings: VecDeque<Micros>,
    pub jumps: Vec<(Micros, Micros)>,
    jumped: bool,
    /// Tells what happens, turn by turn.
    pub verbose: bool,
    pub late_events: bool,
    pub plant: Option<Plant>,
    pub trace: Hasher,
    slots: Vec<(ConnId, usize)>,
    dead: Vec<ConnId>,
    drain_began: Option<Micros>,
    drained: bool,
    turns: u64,
    turns_at_once: u32,
}

pub fn duration(micros: Micros) -> Duration {
    Duration::from_micros(micros)
}

pub fn micros(duration: Duration) -> Micros {
    duration.as_micros() as Micros
}

pub fn now_at(at: Micros, offset: i64) -> Now {
    let unix_ms = (1_700_000_000_000 + at as i64 / 1000 + offset) as u64;
    Now { instant: Instant::from_origin(duration(at)), unix_ms }
}

impl World {
    pub fn new(server: Server, workers: Workers, rng: Rng, began: Micros) -> Self {
        let mut rng = rng;
        Self {
            server,
            folder: Folder::new(rng.fork()),
            receiver: Receiver::new(Rng::new(!rng.clone().next())),
            rng,
            now: began,
            began,
            unix_offset: 0,
            peers: Vec::new(),
            workers,
            tally: Tally::default(),
            drain_at: None,
            strains: VecDeque::new(),
            reloads: VecDeque::new(),
            keyrings: VecDeque::new(),
            readings: VecDeque::new(),
            jumps: Vec::new(),
            jumped: false,
            verbose: false,
            late_events: false,
            plant: None,
            trace: Hasher::new(),
            slots: Vec::new(),
            dead: Vec::new(),
            drain_began: None,
            drained: false,
            turns: 0,
            turns_at_once: 0,
        }
    }

    /// Plays to the end. An error is a broken promise of the server's.
    pub fn run(&mut self) -> Result<(), String> {
        while self.turn()? {}
        self.check_quiet()?;
        for index in 0..self.peers.len() {
            self.judge(index)?;
        }
        self.tally_figures();
        Ok(())
    }

    fn judge(&mut self, index: usize) -> Result<(), String> {
        let peer = &mut self.peers[index];
        if peer.stage == Stage::Waiting {
            return Ok(());
        }
        // Slow links, slow readers and jumps of the clock make the server lose its patience, as it should.
        let slow = peer.pace != Pace::Eager || peer.slow || self.jumped;
        // Whoever holds most goes when all together hold too much, however fast it reads.
        let shed = self.server.figures()["connections"]["closed"]["slow_consumer"].as_u64() > Some(0);
        let cut = peer.cut || slow || shed || self.drain_began.is_some();
        let name = peer.actor.name();
        peer.actor.verdict(cut, &mut self.tally).map_err(|what| format!("peer {index}, {name}: {what}"))
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            eprintln!("{:>12} {}", self.now - self.began, what());
        }
    }

    fn now(&self) -> Now {
        now_at(self.now, self.unix_offset)
    }

    fn input(&mut self, input: Input<'_>) {
        let now = self.now();
        self.server.handle_input(input, now);
        self.server.check_invariants();
    }

    /// One turn of the loop; false when nothing will ever happen again.
    pub fn turn(&mut self) -> Result<bool, String> {
        self.turns += 1;
        self.harm_links();
        self.strain();
        self.reload();
        self.accept();
        self.receive();
        self.late_event();
        self.collect();
        self.drain_if_due();
        self.fire_timeout();
        self.settle()?;
        self.play()?;
        if self.turns.is_multiple_of(16) {
            self.check_figures()?;
            self.note_rung();
        }
        self.check_drain()?;
        self.advance()
    }

    fn advance(&mut self) -> Result<bool, String> {
        let Some(next) = self.next_at() else { return Ok(false) };
        let before = self.now;
        self.now = self.now.max(next);
        if let Some(&(at, by)) = self.jumps.first()
            && self.now >= at
        {
            self.jumps.remove(0);
            self.tally.fire("clock jump");
            self.now += by;
            self.jumped = true;
            self.began += by;
            self.drain_began = self.drain_began.map(|began| began + by);
            self.unix_offset += if self.rng.chance(50) { -7_200_000 } else { 86_400_000 };
        }
        self.turns_at_once = if self.now == before { self.turns_at_once + 1 } else { 0 };
        if self.turns_at_once > TURNS_AT_ONCE_MAX {
            let peers: Vec<_> = self.peers.iter().map(Peer::next_at).collect();
            let (due, workers) = (self.server.poll_timeout(), self.workers.next_at());
            return Err(format!(
                "livelock at {}: server {due:?}, workers {workers:?}, peers {peers:?}",
                self.now
            ));
        }
        if self.now > self.began + HORIZON {
            let open: Vec<_> = self
                .peers
                .iter()
                .filter(|peer| peer.stage == Stage::Open)
                .map(|peer| peer.actor.name())
                .collect();
            return Err(format!("it never ends: {}; still open: {}", self.brief(), open.join(", ")));
        }
        Ok(true)
    }

    fn next_at(&self) -> Option<Micros> {
        let origin = Instant::default();
        let timeout = self.server.poll_timeout().map(|at| {
            let nanos = at.since(origin).as_nanos();
            u64::try_from(nanos.div_ceil(1000)).unwrap_or(u64::MAX)
        });
        let peers = self.peers.iter().filter_map(Peer::next_at).min();
        let drain = self.drain_at.filter(|_| self.drain_began.is_none());
        let strain = self.strains.front().map(|(at, _)| *at);
        let answers = [self.workers.next_at(), self.folder.next_at(), self.receiver.next_at()];
        let files = [self.reloads.front().copied(), self.readings.front().copied()];
        let due = [timeout, peers, drain, strain].into_iter().chain(answers).chain(files);
        due.flatten().min()
    }

    /// The driver tells how the process fares.
    fn strain(&mut self) {
        while let Some((_, figures)) = self.strains.pop_front_if(|(at, _)| *at <= self.now) {
            if figures.resident_bytes > 0 {
                self.tally.fire("memory short");
            }
            if !figures.loop_turn_max.is_zero() {
                self.tally.fire("loop late");
            }
            self.input(Input::Process(figures));
        }
    }

    /// The operator changes the file of credentials, and it is read.
    fn reload(&mut self) {
        while self.reloads.pop_front_if(|at| *at <= self.now).is_some() {
            self.tally.fire("reload");
            self.input(Input::Reload);
        }
        while self.readings.pop_front_if(|at| *at <= self.now).is_some() {
            if let Some(keyring) = self.keyrings.pop_front() {
                self.input(Input::Credentials(keyring.map(Box::new)));
            }
        }
    }

    fn note_rung(&mut self) {
        let figures = self.server.figures();
        let rung = figures["pressure"]["rung"].as_str().unwrap_or_default();
        self.tally.fire(&format!("rung {rung}"));
        self.tally.add("credit cut", figures["pressure"]["credit_cut"].as_u64().unwrap_or(0));
    }

    fn harm_links(&mut self) {
        for index in 0..self.peers.len() {
            let peer = &mut self.peers[index];
            if peer.stage != Stage::Open {
                continue;
            }
            if let Some((_, until)) = peer.stall.take_if(|(at, _)| *at <= self.now) {
                self.tally.fire("link stall");
                peer.up.stalled_until = until;
                peer.down.stalled_until = until;
            }
            if peer.reset_at.take_if(|at| *at <= self.now).is_some() {
                self.tally.fire("abrupt reset");
                self.reset(index);
            }
        }
    }

    /// The connection breaks in both directions.
    fn reset(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        peer.cut = true;
        peer.stage = Stage::Gone;
        if let Some(conn) = peer.conn.take() {
            self.forget(conn);
            self.input(Input::HungUp { conn });
        }
    }

    fn forget(&mut self, conn: ConnId) {
        self.slots.retain(|(id, _)| *id != conn);
        self.dead.push(conn);
    }

    fn accept(&mut self) {
        for index in 0..self.peers.len() {
            let peer = &self.peers[index];
            if peer.stage != Stage::Waiting || peer.connect_at > self.now {
                continue;
            }
            let address = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 1000 + index as u16));
            let accepted = self.server.accept(address, self.now());
            self.tell(|| format!("peer {index} connects: {accepted:?}: {}", self.peers[index].actor.name()));
            self.server.check_invariants();
            let peer = &mut self.peers[index];
            match accepted {
                Ok(conn) => {
                    peer.conn = Some(conn);
                    peer.stage = Stage::Open;
                    self.slots.push((conn, index));
                }
                Err(_) => {
                    self.tally.fire("connection refused");
                    peer.stage = Stage::Gone;
                    peer.cut = true;
                }
            }
        }
    }

    /// Reads a part of what has come, from every connection that the server wants to hear, in any order.
    fn receive(&mut self) {
        let mut order: Vec<_> = self.slots.clone();
        for place in (1..order.len()).rev() {
            order.swap(place, self.rng.below(place as u64 + 1) as usize);
        }
        for (conn, index) in order {
            let peer = &mut self.peers[index];
            if peer.conn != Some(conn) || !peer.readable {
                continue;
            }
            let most = if peer.read_max > 1 && self.rng.chance(10) { 1 } else { peer.read_max };
            let mut bytes = peer.up.read(self.now, most);
            let ended = peer.up.read_end(self.now);
            if !bytes.is_empty() {
                self.trace.update(&bytes);
                self.tell(|| format!("{conn} (peer {index}) sends {} bytes", bytes.len()));
                self.input(Input::Received { conn, bytes: &mut bytes });
            }
            if ended {
                self.tell(|| format!("{conn} (peer {index}) sends no more"));
                self.tally.fire("half close");
                self.input(Input::HalfClosed { conn });
            }
        }
    }

    /// Something for a connection that is long gone; its place may have a new holder.
    fn late_event(&mut self) {
        if !self.late_events || self.dead.is_empty() || !self.rng.chance(10) {
            return;
        }
        self.tally.fire("late event for a dead connection");
        let mut conn = self.rng.pick(&self.dead);
        if let Some(plant) = &self.plant {
            conn = plant.rewrite_late(conn, &self.slots);
        }
        match self.rng.below(3) {
            0 => self.input(Input::HungUp { conn }),
            1 => self.input(Input::HalfClosed { conn }),
            _ => self.input(Input::Received { conn, bytes: &mut b"GET / HTTP/1.1\r\n\r\n".to_owned() }),
        }
        let now = self.now();
        self.server.sent(conn, 0, now);
    }

    fn collect(&mut self) {
        while let Some(news) = self.workers.poll(self.now, &mut self.tally) {
            match news {
                News::Home(mut batch) => {
                    self.tell(|| format!("{:?} is home", batch.id));
                    if let Some(plant) = &mut self.plant {
                        plant.on_home(&mut batch);
                    }
                    self.input(Input::Inferred(batch));
                }
                News::Replaced(id) => self.input(Input::Replaced(id)),
            }
        }
        while let Some((id, answer)) = self.folder.poll(self.now, &mut self.tally) {
            self.tell(|| format!("{id:?} is answered"));
            self.input(Input::Repository { id, answer });
        }
        while let Some((id, answer)) = self.receiver.poll(self.now) {
            self.tell(|| format!("{id:?} is answered: {answer:?}"));
            let delivered = |server: &Server| server.figures()["webhooks"]["delivered"].as_u64();
            let before = delivered(&self.server);
            self.input(Input::Posted { id, answer });
            if delivered(&self.server) > before {
                self.receiver.on_delivered(id);
            }
        }
    }

    fn drain_if_due(&mut self) {
        if self.drain_began.is_none() && self.drain_at.is_some_and(|at| at <= self.now) {
            self.tally.fire("drain");
            self.drain_began = Some(self.now);
            self.input(Input::Drain);
        }
    }

    fn fire_timeout(&mut self) {
        let now = self.now();
        let due = self.server.poll_timeout().is_some_and(|at| at <= now.instant);
        if due || self.rng.chance(5) {
            self.server.handle_timeout(now);
            self.server.check_invariants();
        }
    }

    /// Outputs and writes, until neither is left.
    fn settle(&mut self) -> Result<(), String> {
        loop {
            let mut moved = false;
            while let Some(output) = self.server.poll_output() {
                self.server.check_invariants();
                moved = true;
                self.on_output(output)?;
            }
            moved |= self.write();
            if !moved {
                break;
            }
        }
        for (conn, index) in &self.slots {
            let forgotten = !self.server.outgoing(*conn).is_empty() && !self.peers[*index].wants_write;
            if forgotten {
                let name = self.peers[*index].actor.name();
                return Err(format!("bytes wait for {conn}, {name}, and nobody was told to write them"));
            }
        }
        Ok(())
    }

    fn on_output(&mut self, output: Output) -> Result<(), String> {
        self.tell(|| match &output {
            Output::Flush(conn) => format!("flush {conn}"),
            Output::SetReadable { conn, readable } => format!("readable {conn} {readable}"),
            Output::Close(conn) => format!("close {conn}"),
            Output::Repository { id, ask } => format!("{id:?}: {ask:?}"),
            Output::Infer(batch) => format!("infer {:?}, {} runs", batch.id, batch.len()),
            Output::Abandon(id) => format!("abandon {id:?}"),
            Output::ReadFiles => "read the files".to_owned(),
            Output::Post(post) => format!("post {:?}, {}", post.id, post.event),
            Output::DeadLetter(letter) => format!("{} is dead: {}", letter.event, letter.why),
            Output::Drained => "drained".to_owned(),
        });
        match output {
            Output::Flush(conn) => {
                if let Some(peer) = self.peer_of(conn) {
                    peer.wants_write = true;
                }
            }
            Output::SetReadable { conn, readable } => {
                if let Some(peer) = self.peer_of(conn) {
                    peer.readable = readable;
                }
                if !readable {
                    self.tally.fire("backpressure");
                }
            }
            Output::Close(conn) => {
                if let Some(peer) = self.peer_of(conn) {
                    peer.conn = None;
                    peer.stage = Stage::Gone;
                    let mut rng = peer.rng.clone();
                    peer.down.finish(0, &mut rng);
                }
                self.forget(conn);
            }
            Output::Infer(mut batch) => {
                if let Some(plant) = &mut self.plant
                    && plant.swallows(&mut batch)
                {
                    return Ok(());
                }
                self.workers.push(batch, self.now, &mut self.tally)?;
            }
            Output::Repository { id, ask } => self.folder.ask(id, ask, self.now),
            Output::Abandon(id) => self.workers.abandon(id, self.now, &mut self.tally),
            Output::ReadFiles if self.keyrings.is_empty() => {}
            Output::ReadFiles => {
                // One thread reads, so answers come in the order of the questions.
                let last = self.readings.back().copied().unwrap_or_default();
                self.readings.push_back(last.max(self.now + self.rng.below(50_000)));
            }
            Output::Post(post) => {
                let forgets = self.strikes(Kind::ForgottenEvent);
                let (config, tally) = (self.server.config(), &mut self.tally);
                self.receiver.on_post(&post, config, self.now, forgets, tally)?;
            }
            Output::DeadLetter(_) if self.strikes(Kind::LostDeadLetter) => {}
            Output::DeadLetter(letter) => self.receiver.on_dead(&letter)?,
            Output::Drained => {
                if self.drained || self.drain_began.is_none() {
                    return Err("Drained came twice or unasked".into());
                }
                self.drained = true;
            }
        }
        Ok(())
    }

    fn strikes(&mut self, kind: Kind) -> bool {
        self.plant.as_mut().is_some_and(|plant| plant.strikes(kind))
    }

    fn peer_of(&mut self, conn: ConnId) -> Option<&mut Peer> {
        let index = self.slots.iter().find(|(id, _)| *id == conn)?.1;
        Some(&mut self.peers[index])
    }

    /// Writes what each socket takes. True if the server had to be told anything.
    fn write(&mut self) -> bool {
        let mut moved = false;
        let now = self.now();
        for (conn, index) in self.slots.clone() {
            let peer = &mut self.peers[index];
            let outgoing = self.server.outgoing(conn);
            if !peer.wants_write || outgoing.is_empty() {
                peer.wants_write &= !outgoing.is_empty();
                continue;
            }
            let count = peer.down.write(self.now, outgoing, &mut peer.rng);
            if count == 0 {
                // As a driver does: the socket is full, the rest goes when it is writable again.
                continue;
            }
            self.trace.update(&outgoing[..count]);
            if self.verbose {
                let text = String::from_utf8_lossy(&outgoing[..count.min(160)]).escape_debug().to_string();
                eprintln!("{:>12} {conn} gets {count} bytes: {text}", self.now - self.began);
            }
            peer.wants_write = count < outgoing.len();
            self.server.sent(conn, count, now);
            self.server.check_invariants();
            moved = true;
        }
        moved
    }

    fn play(&mut self) -> Result<(), String> {
        for index in 0..self.peers.len() {
            let peer = &mut self.peers[index];
            if peer.stage == Stage::Waiting || peer.cut {
                continue;
            }
            if peer.turn(self.now, &mut self.tally)? && self.peers[index].stage == Stage::Open {
                self.tally.fire("abrupt reset");
                self.reset(index);
            }
        }
        self.trace.update(&self.now.to_le_bytes());
        Ok(())
    }

    fn check_drain(&self) -> Result<(), String> {
        let Some(began) = self.drain_began else { return Ok(()) };
        let limit = began + micros(self.server.config().drain_timeout) + DRAIN_SLACK;
        if self.now > limit && !self.drained {
            return Err(format!("the drain takes for ever: {}", self.brief()));
        }
        Ok(())
    }
}

/// Promises about the whole server.
impl World {
    fn check_figures(&self) -> Result<(), String> {
        let figures = self.server.figures();
        let config = self.server.config();
        let number =
            |pointer: &str| figures.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or(u64::MAX);
        let one_message =
            config.message_bytes_max.max(config.echo_message_bytes_max).max(config.body_bytes_max) as u64;
        let slack = 4 * one_message + 64 * 1024;
        if number("/memory/outgoing_bytes") > config.outgoing_bytes_total_max as u64 {
            return Err(format!("outgoing bytes are over their limit: {}", self.brief()));
        }
        let audio_slack = number("/sessions/open") * 2 * micros(config.audio_held_max) * 192_000 / 1_000_000;
        let limits = [
            ("/sessions/open", config.sessions_max as u64),
            ("/connections/open", (config.connections_max + suzu::server::SURPLUS_MAX) as u64),
            ("/inference/batches_in_flight", self.server.batches_in_flight_max() as u64),
            ("/memory/incoming_bytes", config.incoming_bytes_total_max as u64 + slack),
            ("/memory/audio_bytes", config.audio_bytes_total_max as u64 + audio_slack),
        ];
        for (pointer, limit) in limits {
            if number(pointer) > limit {
                return Err(format!("{pointer} is {} and may be {limit}", number(pointer)));
            }
        }
        Ok(())
    }

    /// Nothing will ever happen again: then nothing may be left.
    fn check_quiet(&mut self) -> Result<(), String> {
        let figures = self.server.figures();
        let left: Vec<&str> = [
            "/connections/open",
            "/sessions/open",
            "/audio/samples_pending",
            "/inference/queued",
            "/inference/batches_in_flight",
            "/memory/incoming_bytes",
            "/memory/outgoing_bytes",
            "/memory/audio_bytes",
        ]
        .into_iter()
        .filter(|pointer| figures.pointer(pointer).and_then(serde_json::Value::as_u64) != Some(0))
        .collect();
        if !left.is_empty() || !self.server.is_idle() || self.server.poll_timeout().is_some() {
            return Err(format!("all is over and something is left: {left:?}: {}", self.brief()));
        }
        if figures["pressure"]["rung"] != "normal" {
            return Err(format!("nobody is there, and the server stands at {}", figures["pressure"]));
        }
        self.receiver.check_quiet(&figures, self.server.config())?;
        if self.drain_began.is_some() && !self.drained {
            return Err("the server is empty and never said Drained".into());
        }
        let sum = |pointer: &str| -> u64 {
            let object = figures.pointer(pointer).and_then(serde_json::Value::as_object);
            object.map_or(0, |object| object.values().filter_map(serde_json::Value::as_u64).sum())
        };
        let number =
            |pointer: &str| figures.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or(0);
        let accounts = [
            (
                number("/audio/samples_received"),
                number("/audio/samples_processed") + sum("/audio/samples_discarded"),
            ),
            (number("/sessions/began"), sum("/sessions/ended")),
            (number("/connections/opened"), sum("/connections/closed")),
        ];
        for (entered, left) in accounts {
            if entered != left {
                return Err(format!("the books do not balance, {entered} and {left}: {}", self.brief()));
            }
        }
        Ok(())
    }

    fn brief(&self) -> String {
        let figures = self.server.figures();
        ["connections", "sessions", "audio", "inference", "memory"]
            .map(|name| figures[name].to_string())
            .join(" ")
    }

    fn tally_figures(&mut self) {
        let figures = self.server.figures();
        for (word, name) in [("delivered", "delivered"), ("given up", "dead"), ("crowded out", "crowded_out")]
        {
            let count = figures["webhooks"][name].as_u64().unwrap_or(0);
            self.tally.add(&format!("webhook {word}"), count);
        }
        let tables = [
            ("ended", "/sessions/ended"),
            ("closed", "/connections/closed"),
            ("refused", "/refusals"),
            ("samples lost by", "/audio/samples_discarded"),
        ];
        for (word, pointer) in tables {
            let Some(table) = figures.pointer(pointer).and_then(serde_json::Value::as_object) else {
                continue;
            };
            for (reason, count) in table {
                self.tally.add(&format!("{word} {reason}"), count.as_u64().unwrap_or(0));
            }
        }
    }
}
