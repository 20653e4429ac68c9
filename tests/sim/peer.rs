//! One client machine: an actor that knows its protocol, and a socket with two pipes that does not.

use crate::faults::Tally;
use crate::pipe::{Micros, Pipe};
use crate::rng::Rng;
use suzu::id::ConnId;

/// What an actor sees and does in its turn.
pub struct Io<'a> {
    pub now: Micros,
    pub rng: &'a mut Rng,
    pub tally: &'a mut Tally,
    /// Bytes that came since the last turn.
    pub input: &'a [u8],
    /// The server will send nothing more.
    pub ended: bool,
    /// What is sent; leaves as fast as the socket takes it.
    pub out: &'a mut Vec<u8>,
    /// To be set: nothing more will be sent.
    pub fin: bool,
    /// To be set: the socket is torn down.
    pub reset: bool,
}

/// A client's conduct.
pub trait Actor {
    /// Takes what came, sends what it wants.
    fn act(&mut self, io: &mut Io<'_>) -> Result<(), String>;
    /// When it wants to act by itself.
    fn due(&self) -> Option<Micros>;
    /// Whether its part is played.
    fn done(&self) -> bool;
    /// Whether all that it was owed has come. `cut`: the connection was harmed on the way, or served too slowly.
    fn verdict(&mut self, cut: bool, tally: &mut Tally) -> Result<(), String>;
    fn name(&self) -> String;
}

/// How fast a client reads.
#[derive(Clone, Copy, PartialEq)]
pub enum Pace {
    Eager,
    Slow { bytes: usize, every: Micros },
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stage {
    Waiting,
    Open,
    Gone,
}

pub struct Peer {
    pub actor: Box<dyn Actor>,
    pub rng: Rng,
    pub connect_at: Micros,
    pub reset_at: Option<Micros>,
    pub stall: Option<(Micros, Micros)>,
    pub up: Pipe,
    pub down: Pipe,
    pub pace: Pace,
    pub next_read: Micros,
    /// Bytes that one read of the server's takes at most.
    pub read_max: usize,
    pub conn: Option<ConnId>,
    pub stage: Stage,
    pub outbox: Vec<u8>,
    pub fin: bool,
    pub cut: bool,
    /// Its link is worse than the server's patience.
    pub slow: bool,
    pub ended: bool,
    /// What the driver knows of the socket.
    pub readable: bool,
    pub wants_write: bool,
}

impl Peer {
    pub fn new(actor: Box<dyn Actor>, rng: Rng, connect_at: Micros) -> Self {
        let pipe = || Pipe::new(64 * 1024, (0, 0));
        Self {
            actor,
            rng,
            connect_at,
            reset_at: None,
            stall: None,
            up: pipe(),
            down: pipe(),
            pace: Pace::Eager,
            next_read: 0,
            read_max: 16 * 1024,
            conn: None,
            stage: Stage::Waiting,
            outbox: Vec::new(),
            fin: false,
            cut: false,
            slow: false,
            ended: false,
            readable: true,
            wants_write: false,
        }
    }

    /// The client's turn. True if the socket is to be torn down.
    pub fn turn(&mut self, now: Micros, tally: &mut Tally) -> Result<bool, String> {
        let input = self.read(now);
        let ended_now = self.pace != Pace::Never && self.down.read_end(now);
        self.ended |= ended_now;
        let due = self.actor.due().is_some_and(|due| due <= now);
        let mut reset = false;
        if !input.is_empty() || ended_now || due {
            let mut io = Io {
                now,
                rng: &mut self.rng,
                tally,
                input: &input,
                ended: self.ended,
                out: &mut self.outbox,
                fin: false,
                reset: false,
            };
            self.actor.act(&mut io).map_err(|what| format!("{}: {what}", self.actor.name()))?;
            self.fin |= io.fin;
            reset = io.reset;
            self.fin |= self.actor.done();
        }
        self.push_out(now);
        Ok(reset)
    }

    fn read(&mut self, now: Micros) -> Vec<u8> {
        match self.pace {
            Pace::Eager => self.down.read(now, usize::MAX),
            Pace::Never => Vec::new(),
            Pace::Slow { .. } if now < self.next_read => Vec::new(),
            Pace::Slow { bytes, every } => {
                let input = self.down.read(now, bytes);
                if !input.is_empty() {
                    self.next_read = now + every;
                }
                input
            }
        }
    }

    fn push_out(&mut self, now: Micros) {
        if self.ended {
            self.outbox.clear();
        }
        let count = self.up.write(now, &self.outbox, &mut self.rng);
        self.outbox.drain(..count);
        if self.fin && self.outbox.is_empty() {
            self.up.finish(now, &mut self.rng);
        }
    }

    /// When something happens here next by itself.
    pub fn next_at(&self) -> Option<Micros> {
        match self.stage {
            Stage::Waiting => return Some(self.connect_at),
            Stage::Gone if self.ended || self.cut => return None,
            Stage::Gone | Stage::Open => {}
        }
        let read = match self.pace {
            Pace::Eager => self.down.next_at(),
            Pace::Never => None,
            Pace::Slow { .. } => self.down.next_at().map(|at| at.max(self.next_read)),
        };
        let open = self.stage == Stage::Open;
        let received = self.up.next_at().filter(|_| open && self.readable);
        let due = self.actor.due().filter(|_| open);
        let writable = (open && self.wants_write && self.down.space() > 0).then_some(0);
        let faults = [self.reset_at, self.stall.map(|(at, _)| at)].map(|at| at.filter(|_| open));
        [read, received, due, writable, faults[0], faults[1]].into_iter().flatten().min()
    }
}
