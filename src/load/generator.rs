//! The loop of sockets and times that makes a load.
//!
//! One thread. Each turn it opens connections that are due, sends messages that are due, and takes what came; whatever is
//! decided of a message is decided by its `Talk`. A turn never waits for anything but the poll.

use super::alarm::Alarm;
use super::peer::{Peer, Stage};
use super::plan::{Length, Pace, Plan};
use super::report::{Connections, Latency, Progress, Report, Seconds, ServerUsage, in_ms, percentiles};
use super::tally::Tally;
use super::target::Ask;
use super::usage::{self, Usage};
use super::{Error, http};
use crate::client::Greeter;
use crate::driver::{Clock, raise_descriptor_limit};
use crate::time::Instant;
use mio::{Events, Poll, Token};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

/// Connections that are being opened at once: a crowd at the door would time out before it is let in.
const OPENING_MAX: usize = 256;
/// How often time-outs are looked for and progress is told.
const SWEEP_EVERY: Duration = Duration::from_millis(250);
/// Bytes read at a time.
const BUFFER_BYTES: usize = 64 * 1024;
/// The golden ratio's fraction spreads any number of clients evenly over an interval.
const SPREAD: f64 = 0.618_033_988_749_895;
/// Descriptors besides the connections: the poll, the timer, the terminal.
const DESCRIPTORS_BESIDE: u64 = 16;
const ALARM: Token = Token(usize::MAX - 1);

/// Makes the load and tells what it came to. `watch` is called four times a second.
///
/// # Errors
/// [`Error::Plan`] if the plan cannot be, [`Error::System`] if the machine does not give what is needed. A server that
/// refuses or breaks is no error here: it stands in the report.
pub fn run(plan: &Plan, watch: impl FnMut(&Progress)) -> Result<Report, Error> {
    plan.check()?;
    let wanted = plan.connections() as u64 + DESCRIPTORS_BESIDE;
    let allowed = raise_descriptor_limit().map_err(system("raising the limit of open files"))?;
    if allowed < wanted {
        return Err(Error::Plan(format!(
            "{} connections need {wanted} open files and this process may have {allowed}; raise it by `ulimit -n {wanted}`",
            plan.connections()
        )));
    }
    Generator::new(plan)?.run(watch)
}

fn system(doing: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::System { doing, source }
}

/// What the load as a whole is doing.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// Connections are being opened; messages already go.
    Opening,
    /// All are open; until then nothing counts.
    Warming(Instant),
    /// It counts, until then if there is a time.
    Counting(Option<Instant>),
    /// Nothing new is asked; since then.
    Ending,
}

/// Something to be done at a time: when, on which connection, for which of its clients.
type Due = Reverse<(Instant, usize, usize)>;

struct Generator<'p> {
    plan: &'p Plan,
    poll: Poll,
    alarm: Alarm,
    alarm_at: Option<Instant>,
    clock: Clock,
    buffer: Vec<u8>,
    request: Arc<[u8]>,
    /// Gone where connections are plain.
    greeter: Option<Greeter>,
    peers: Vec<Peer>,
    /// The client that each connection serves.
    client_of: Vec<usize>,
    dues: BinaryHeap<Due>,
    tally: Tally,
    phase: Phase,
    began: Instant,
    last_opened: Instant,
    sweep_at: Instant,
    /// Connections that are being opened, that are open or ending, and that failed before they were.
    opening: usize,
    open: usize,
    failed: u64,
    /// Clients that have a connection or had one, and those that are done.
    clients_begun: usize,
    clients_done: usize,
    /// Of the server: at the beginning, when it began to count, when that ended.
    usage: [Option<Usage>; 3],
}

impl<'p> Generator<'p> {
    fn new(plan: &'p Plan) -> Result<Self, Error> {
        let poll = Poll::new().map_err(system("making a poll"))?;
        let alarm = Alarm::new(poll.registry(), ALARM).map_err(system("making a timer"))?;
        let clock = Clock::new();
        let began = clock.instant();
        let request = match &plan.target.ask {
            Ask::Http(request) => http::encode(&plan.target, request),
            _ => Arc::from([]),
        };
        let (url, ca_file) = (&plan.target.url, plan.target.ca_file.as_deref());
        let greeter = url.tls.then(|| Greeter::new(url, ca_file)).transpose();
        let greeter = greeter.map_err(|error| Error::Plan(error.to_string()))?;
        let mut tally = Tally::new(began);
        let phase = match plan.length {
            Length::Messages { time_max, .. } => {
                tally.begin(began);
                Phase::Counting(time_max.map(|time| began + time))
            }
            Length::For(_) => Phase::Opening,
        };
        let before = plan.server_pid.and_then(usage::read);
        Ok(Self {
            plan,
            poll,
            alarm,
            alarm_at: None,
            clock,
            buffer: vec![0; BUFFER_BYTES],
            request,
            greeter,
            peers: Vec::with_capacity(plan.connections()),
            client_of: Vec::with_capacity(plan.connections()),
            dues: BinaryHeap::new(),
            tally,
            phase,
            began,
            last_opened: began,
            sweep_at: began + SWEEP_EVERY,
            opening: 0,
            open: 0,
            failed: 0,
            clients_begun: 0,
            clients_done: 0,
            usage: [before, before, before],
        })
    }

    fn run(mut self, mut watch: impl FnMut(&Progress)) -> Result<Report, Error> {
        let mut events = Events::with_capacity(1024);
        loop {
            let now = self.clock.instant();
            self.open_more(now)?;
            self.fire(now)?;
            self.go_on(now);
            if now >= self.sweep_at {
                self.sweep_at = now + SWEEP_EVERY;
                self.sweep(now)?;
                watch(&self.progress(now));
            }
            self.tally.tick(now);
            if self.phase == Phase::Ending && self.open == 0 {
                return Ok(self.report(now));
            }
            self.wait(&mut events, now)?;
            let now = self.clock.instant();
            for event in &events {
                if event.token() != ALARM {
                    self.on_event(event.token().0, now)?;
                }
            }
        }
    }

    /// Sleeps until something comes or is due.
    fn wait(&mut self, events: &mut Events, now: Instant) -> Result<(), Error> {
        let mut next = self.sweep_at;
        if let Some(Reverse((due, ..))) = self.dues.peek() {
            next = next.min(*due);
        }
        if let Some(due) = self.connect_due() {
            next = next.min(due);
        }
        if let Phase::Warming(until) | Phase::Counting(Some(until)) = self.phase {
            next = next.min(until);
        }
        if self.alarm_at != Some(next) {
            self.alarm_at = Some(next);
            self.alarm.set(next - now).map_err(system("setting a timer"))?;
        }
        // The alarm is exact; the poll's own time-out is for where there is none.
        let timeout = (next - now).saturating_add(Duration::from_micros(999));
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => Err(system("polling")(error)),
            _ => Ok(()),
        }
    }

    /// When the next connection is to be opened, if any.
    fn connect_due(&self) -> Option<Instant> {
        let number = self.peers.len();
        let more = number < self.plan.connections() && self.opening < OPENING_MAX;
        (more && self.phase != Phase::Ending).then(|| match self.plan.connect_rate {
            Some(rate) => self.began + Duration::from_secs_f64(number as f64 / rate),
            None => self.began,
        })
    }

    fn open_more(&mut self, now: Instant) -> Result<(), Error> {
        while self.connect_due().is_some_and(|due| due <= now) {
            let peer = self.connect(self.peers.len(), now)?;
            self.peers.push(peer);
            self.client_of.push(self.clients_begun);
            self.clients_begun += 1;
        }
        Ok(())
    }

    fn connect(&mut self, number: usize, now: Instant) -> Result<Peer, Error> {
        self.opening += 1;
        self.open += 1;
        Peer::connect(self.plan, number, &self.request, self.greeter.as_ref(), self.poll.registry(), now)
            .map_err(system("opening a socket"))
    }

    /// Sends what is due.
    fn fire(&mut self, now: Instant) -> Result<(), Error> {
        while let Some(&Reverse((due, number, client))) = self.dues.peek() {
            if due > now {
                break;
            }
            self.dues.pop();
            if self.peers[number].stage == Stage::Gone && self.peers[number].talk.is_refused() {
                self.try_again(number, now)?;
                continue;
            }
            if self.client_of[number] != client || self.peers[number].stage != Stage::Open {
                continue;
            }
            match self.plan.pace {
                Pace::Every(interval) => {
                    self.ask(number, due);
                    self.dues.push(Reverse((due + interval, number, client)));
                }
                _ => {
                    self.peers[number].thinking -= 1;
                    self.ask(number, now);
                }
            }
            self.settle_turn(number, now);
        }
        Ok(())
    }

    /// Asks unless the client has asked enough.
    fn ask(&mut self, number: usize, due: Instant) {
        let peer = &mut self.peers[number];
        let enough = matches!(self.plan.length, Length::Messages { count, .. } if peer.asked >= count);
        if self.phase != Phase::Ending && !enough {
            peer.ask(due, &mut self.tally);
        }
    }

    fn on_event(&mut self, number: usize, now: Instant) -> Result<(), Error> {
        let peer = &mut self.peers[number];
        let result = match peer.stage {
            Stage::Gone => return Ok(()),
            Stage::Connecting => peer.connected(self.plan),
            _ => peer.read(&mut self.buffer, now, &mut self.tally),
        };
        match result {
            Ok(()) => self.settle_turn(number, now),
            Err(kind) => self.fail(number, &kind, now),
        }
        self.replace(number, now)
    }

    /// After anything has happened on a connection: goes on with what follows of it, and writes.
    fn settle_turn(&mut self, number: usize, now: Instant) {
        if self.peers[number].stage == Stage::Greeting && self.peers[number].talk.is_open() {
            self.on_open(number, now);
        }
        if self.peers[number].stage == Stage::Open && self.peers[number].talk.is_closed() {
            return self.fail(number, "ended by the server", now);
        }
        if self.peers[number].stage == Stage::Open {
            self.keep_in_flight(number, now);
            if self.is_done(number) {
                self.on_done(number, now);
            }
        }
        let peer = &mut self.peers[number];
        if let Err(kind) = peer.write() {
            return self.fail(number, &kind, now);
        }
        if peer.stage == Stage::Ending && peer.talk.is_over() {
            self.close(number);
        }
    }

    fn on_open(&mut self, number: usize, now: Instant) {
        let peer = &mut self.peers[number];
        peer.stage = Stage::Open;
        let took = now - peer.since;
        self.tally.opening.saturating_record((took.as_micros() as u64).max(1));
        self.opening -= 1;
        self.last_opened = now;
        self.begin_client(number, now);
    }

    /// The client that has the connection now sends its first message, or will.
    fn begin_client(&mut self, number: usize, now: Instant) {
        let client = self.client_of[number];
        let peer = &mut self.peers[number];
        (peer.asked, peer.thinking, peer.busy_at) = (0, 0, now);
        match self.plan.pace {
            Pace::Every(interval) => {
                let offset = interval.mul_f64((client as f64 * SPREAD).fract());
                self.dues.push(Reverse((now + offset, number, client)));
            }
            Pace::InFlight { .. } => {}
            Pace::Idle => self.ask(number, now),
        }
    }

    fn keep_in_flight(&mut self, number: usize, now: Instant) {
        let Pace::InFlight { count, think } = self.plan.pace else { return };
        if self.phase == Phase::Ending {
            return;
        }
        let room = match self.plan.length {
            Length::Messages { count, .. } => count - self.peers[number].asked,
            Length::For(_) => u64::MAX,
        };
        let peer = &mut self.peers[number];
        // The first messages need no thought.
        let first = peer.asked == 0;
        let missing = count.saturating_sub(peer.talk.dues().len() + peer.thinking);
        for _ in 0..(missing as u64).min(room.saturating_sub(peer.thinking as u64)) {
            if think.is_zero() || first {
                peer.ask(now, &mut self.tally);
            } else {
                peer.thinking += 1;
                self.dues.push(Reverse((now + think, number, self.client_of[number])));
            }
        }
    }

    /// Whether the connection's client has nothing more to ask nor to await.
    fn is_done(&self, number: usize) -> bool {
        let peer = &self.peers[number];
        let asked_all = match self.plan.length {
            _ if self.phase == Phase::Ending => true,
            Length::Messages { count, .. } => peer.asked >= count,
            Length::For(_) => false,
        };
        // The end of a stream brings the rest of its results.
        let awaits_end = matches!(self.plan.target.ask, Ask::Stream { heartbeat: false });
        asked_all && (awaits_end || peer.talk.dues().is_empty())
    }

    /// The client gives its connection to the next one that waits, or ends it.
    fn on_done(&mut self, number: usize, now: Instant) {
        if self.phase == Phase::Ending {
            return self.peers[number].end(now);
        }
        let Some(pool) = self.plan.pool else { return self.peers[number].end(now) };
        let waiting = self.clients_begun < self.plan.clients;
        let reusable = !matches!(self.plan.target.ask, Ask::Stream { .. });
        if waiting && reusable {
            self.clients_done += 1;
            self.next_client(number);
            self.begin_client(number, now);
            self.keep_in_flight(number, now);
        } else if !reusable || now - self.peers[number].busy_at > pool.idle_max {
            self.peers[number].end(now);
        }
    }

    fn next_client(&mut self, number: usize) {
        self.client_of[number] = self.clients_begun;
        self.clients_begun += 1;
    }

    fn fail(&mut self, number: usize, kind: &str, now: Instant) {
        let peer = &self.peers[number];
        if matches!(peer.stage, Stage::Connecting | Stage::Greeting) {
            self.failed += 1;
            self.opening -= 1;
        }
        log::debug!("connection {number}: {kind} after {:?}", now - peer.since);
        let refused = peer.talk.is_refused();
        if refused {
            self.tally.refusals.saturating_record(((now - peer.since).as_micros() as u64).max(1));
        }
        match self.plan.try_again {
            Some(pause) if refused => {
                // Each at another time, or they would come back as one crowd.
                let spread = 0.5 + (number as f64 * SPREAD).fract();
                self.dues.push(Reverse((now + pause.mul_f64(spread), number, self.client_of[number])));
            }
            _ => self.tally.failure(kind),
        }
        self.close(number);
    }

    /// A client that was refused comes again, unless it is over by now.
    fn try_again(&mut self, number: usize, now: Instant) -> Result<(), Error> {
        if self.phase != Phase::Ending {
            self.failed -= 1;
            self.clients_done -= 1;
            self.peers[number] = self.connect(number, now)?;
        }
        Ok(())
    }

    fn close(&mut self, number: usize) {
        let peer = &mut self.peers[number];
        peer.talk.settle(&mut self.tally);
        peer.close(self.poll.registry());
        self.open -= 1;
        self.clients_done += 1;
    }

    /// Opens a pooled connection anew that is gone while clients wait for it.
    fn replace(&mut self, number: usize, now: Instant) -> Result<(), Error> {
        let waiting = self.plan.pool.is_some() && self.clients_begun < self.plan.clients;
        if waiting && self.phase != Phase::Ending && self.peers[number].stage == Stage::Gone {
            self.next_client(number);
            self.peers[number] = self.connect(number, now)?;
        }
        Ok(())
    }

    /// Moves from phase to phase.
    fn go_on(&mut self, now: Instant) {
        let all_tried = self.peers.len() == self.plan.connections() && self.opening == 0;
        match self.phase {
            Phase::Opening if all_tried && self.open == 0 && self.plan.try_again.is_none() => self.stop(now),
            Phase::Opening if all_tried => self.phase = Phase::Warming(now + self.plan.warm_up),
            Phase::Warming(until) if now >= until => {
                let Length::For(duration) = self.plan.length else { return };
                self.phase = Phase::Counting(Some(now + duration));
                self.usage[1] = self.plan.server_pid.and_then(usage::read);
                self.tally.begin(now);
            }
            Phase::Counting(Some(until)) if now >= until => self.stop(now),
            Phase::Counting(_) if self.plan.length.counts_messages() => {
                let idle = || {
                    let mut open = self.peers.iter().enumerate();
                    open.all(|(number, peer)| peer.stage == Stage::Gone || self.is_done(number))
                };
                let all_begun = self.clients_begun == self.plan.clients && all_tried;
                if all_begun && self.clients_done + self.open >= self.plan.clients && idle() {
                    self.stop(now);
                }
            }
            _ => {}
        }
    }

    /// Nothing new is asked from now on, but the last of those who rested.
    fn stop(&mut self, now: Instant) {
        self.tally.end(now);
        self.usage[2] = self.plan.server_pid.and_then(usage::read);
        for number in 0..self.peers.len() {
            if self.plan.pace == Pace::Idle && self.peers[number].stage == Stage::Open {
                self.ask(number, now);
            }
        }
        self.phase = Phase::Ending;
        for number in 0..self.peers.len() {
            if self.peers[number].stage != Stage::Gone {
                self.settle_turn(number, now);
            }
        }
    }

    /// Gives up what takes too long.
    fn sweep(&mut self, now: Instant) -> Result<(), Error> {
        let resting = self.plan.pace == Pace::Idle && self.phase != Phase::Ending;
        for number in 0..self.peers.len() {
            let peer = &self.peers[number];
            let late = |since: Instant, limit: Duration| now - since > limit;
            let kind = match peer.stage {
                Stage::Gone => continue,
                Stage::Connecting | Stage::Greeting if late(peer.since, self.plan.connect_timeout) => {
                    "no connection in time"
                }
                Stage::Ending if late(peer.since, self.plan.answer_timeout) => "no end in time",
                Stage::Open => match peer.talk.dues().front() {
                    Some(&due) if late(due, self.plan.answer_timeout) && !resting => "no answer in time",
                    // A pooled connection that nobody wants.
                    None if self.is_done(number) => {
                        self.on_done(number, now);
                        self.settle_turn(number, now);
                        continue;
                    }
                    _ => continue,
                },
                _ => continue,
            };
            self.fail(number, kind, now);
            self.replace(number, now)?;
        }
        Ok(())
    }

    fn progress(&self, now: Instant) -> Progress {
        let done = match (self.phase, self.plan.length) {
            (Phase::Ending, _) => 1.0,
            (Phase::Counting(_), Length::For(length)) => {
                self.tally.counted(now).as_secs_f64() / length.as_secs_f64().max(1e-9)
            }
            (_, Length::For(_)) => 0.0,
            (_, Length::Messages { count, .. }) => {
                self.tally.messages.sent as f64 / (count as f64 * self.plan.clients as f64).max(1.0)
            }
        };
        Progress {
            open: (self.open - self.opening) as u64,
            wanted: self.plan.connections() as u64,
            sent: self.tally.messages.sent,
            answered: self.tally.messages.answered,
            errors: self.tally.errors(),
            p99_ms: in_ms(self.tally.all.value_at_quantile(0.99)),
            done: done.min(1.0),
        }
    }

    fn report(self, now: Instant) -> Report {
        let tally = self.tally;
        let seconds = tally.counted(now).as_secs_f64();
        let opened = tally.opening.len();
        let opening_took = (self.last_opened - self.began).as_secs_f64().max(1e-6);
        let connections = Connections {
            wanted: opened + self.failed,
            opened,
            failed: self.failed,
            refused: tally.refusals.len(),
            refusal_ms: Latency::of(&tally.refusals),
            per_second: opened as f64 / opening_took,
            latency_ms: Latency::of(&tally.opening),
        };
        let errors = tally.errors();
        let [sent_s, processed_s, discarded_s] = tally.audio_ms.map(|ms| ms / 1e3);
        let tried = (tally.messages.sent + connections.wanted).max(1);
        Report {
            url: format!("{}{}", self.plan.target.url.authority(), self.plan.target.url.path),
            clients: self.plan.clients,
            seconds,
            messages: tally.messages,
            throughput_per_second: tally.arrived as f64 / seconds.max(1e-9),
            latency_ms: Latency::of(&tally.all),
            percentiles: percentiles(&tally.all),
            audio: Seconds { sent_s, processed_s, discarded_s },
            ledgers_off: tally.ledgers_off,
            errors,
            error_rate: (errors as f64 / tried as f64).min(1.0),
            failures: tally.failures.clone(),
            warnings: tally.warnings.clone(),
            server: used(&self.usage, seconds, tally.arrived, opened),
            connections,
            moments: tally.into_moments(now),
        }
    }
}

fn used(usage: &[Option<Usage>; 3], seconds: f64, answers: u64, opened: u64) -> Option<ServerUsage> {
    let [Some(before), Some(begun), Some(ended)] = usage else { return None };
    let cpu_s = ended.cpu.saturating_sub(begun.cpu).as_secs_f64();
    let opening_s = begun.cpu.saturating_sub(before.cpu).as_secs_f64();
    Some(ServerUsage {
        cpu_seconds: cpu_s,
        cpu_us_per_message: cpu_s * 1e6 / answers.max(1) as f64,
        cpu_share: cpu_s / seconds.max(1e-9),
        cpu_us_per_connection: opening_s * 1e6 / opened.max(1) as f64,
        resident_bytes_before: before.resident_bytes,
        resident_bytes_loaded: ended.resident_bytes,
        resident_bytes_max: ended.resident_bytes_max,
    })
}
