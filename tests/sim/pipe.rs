//! One direction of a connection: finite buffer, delay, stalls, an end.

use crate::rng::Rng;
use std::collections::VecDeque;

/// Microseconds of virtual time.
pub type Micros = u64;

pub struct Pipe {
    queue: VecDeque<(Micros, Vec<u8>)>,
    held: usize,
    pub capacity: usize,
    /// Least and greatest delay.
    pub delay: (Micros, Micros),
    last_arrival: Micros,
    pub stalled_until: Micros,
    fin: Option<Micros>,
    fin_read: bool,
}

impl Pipe {
    pub fn new(capacity: usize, delay: (Micros, Micros)) -> Self {
        let queue = VecDeque::new();
        Self {
            queue,
            held: 0,
            capacity,
            delay,
            last_arrival: 0,
            stalled_until: 0,
            fin: None,
            fin_read: false,
        }
    }

    pub fn space(&self) -> usize {
        self.capacity - self.held
    }

    /// Takes as much as fits; tells how much.
    pub fn write(&mut self, now: Micros, bytes: &[u8], rng: &mut Rng) -> usize {
        let count = bytes.len().min(self.space());
        if count > 0 {
            let arrival = self.arrival(now, rng);
            self.queue.push_back((arrival, bytes[..count].to_vec()));
            self.held += count;
        }
        count
    }

    pub fn finish(&mut self, now: Micros, rng: &mut Rng) {
        if self.fin.is_none() {
            self.fin = Some(self.arrival(now, rng));
        }
    }

    fn arrival(&mut self, now: Micros, rng: &mut Rng) -> Micros {
        self.last_arrival = self.last_arrival.max(now + rng.range(self.delay.0, self.delay.1));
        self.last_arrival
    }

    /// At most `most` of the bytes that have arrived.
    pub fn read(&mut self, now: Micros, most: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while now >= self.stalled_until && out.len() < most {
            let Some((at, bytes)) = self.queue.front_mut() else { break };
            if *at > now {
                break;
            }
            let count = bytes.len().min(most - out.len());
            out.extend(bytes.drain(..count));
            if bytes.is_empty() {
                self.queue.pop_front();
            }
        }
        self.held -= out.len();
        out
    }

    /// True once: the end has been read.
    pub fn read_end(&mut self, now: Micros) -> bool {
        let ended =
            self.queue.is_empty() && now >= self.stalled_until && self.fin.is_some_and(|at| at <= now);
        ended && !std::mem::replace(&mut self.fin_read, true)
    }

    /// When there is something to read.
    pub fn next_at(&self) -> Option<Micros> {
        let first = self.queue.front().map(|(at, _)| *at);
        let end = self.fin.filter(|_| !self.fin_read);
        first.or(end).map(|at| at.max(self.stalled_until))
    }
}
