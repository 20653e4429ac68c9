//! The client of `/v1/echo`: what it sends comes back, whole and in order.

use crate::faults::Tally;
use crate::frames::{Receiver, Said, fragmented, frame, upgrade};
use crate::peer::{Actor, Io};
use crate::pipe::Micros;
use crate::rng::Rng;
use std::collections::VecDeque;

pub struct EchoClient {
    messages: VecDeque<Said>,
    expected: VecDeque<Said>,
    receiver: Receiver,
    due: Option<Micros>,
    pause: Micros,
    /// Ends by closing its half rather than by a Close.
    hasty: bool,
    requested: bool,
    close_sent: bool,
    closed: bool,
    over: bool,
}

impl EchoClient {
    pub fn new(rng: &mut Rng, at: Micros, message_bytes_max: usize) -> Self {
        let count = rng.range(1, 12);
        let largest = message_bytes_max.min(40_000) as u64;
        let messages = (0..count).map(|_| {
            let size = if rng.chance(20) { rng.below(largest + 1) } else { rng.below(300) } as usize;
            match rng.below(5) {
                0 | 1 => Said::Text(rng.bytes(size).iter().map(|byte| char::from(byte % 94 + 32)).collect()),
                2 => Said::Ping(rng.bytes(size.min(125))),
                _ => Said::Binary(rng.bytes(size)),
            }
        });
        Self {
            messages: messages.collect(),
            expected: VecDeque::new(),
            receiver: Receiver::new(),
            due: Some(at),
            pause: rng.pick(&[0, 0, 1_000, 50_000]),
            hasty: rng.chance(25),
            requested: false,
            close_sent: false,
            closed: false,
            over: false,
        }
    }

    fn send(&mut self, io: &mut Io<'_>) {
        let Some(message) = self.messages.pop_front() else {
            self.due = None;
            self.close_sent = true;
            if self.hasty {
                io.fin = true;
                return;
            }
            return frame(io.out, 0x88, &1000u16.to_be_bytes(), io.rng.mask());
        };
        let (opcode, payload) = match &message {
            Said::Text(text) => (1, text.as_bytes()),
            Said::Ping(payload) => (9, &payload[..]),
            Said::Binary(payload) => (2, &payload[..]),
            _ => (2, &[][..]),
        };
        if opcode != 9 && io.rng.chance(30) {
            io.tally.fire("fragments");
            fragmented(io.out, opcode, payload, io.rng);
        } else {
            frame(io.out, 0x80 | opcode, payload, io.rng.mask());
        }
        self.expected.push_back(match message {
            Said::Ping(payload) => Said::Pong(payload),
            other => other,
        });
        self.due = Some(io.now + self.pause);
    }

    fn hear(&mut self, said: Said, io: &mut Io<'_>) -> Result<(), String> {
        match said {
            Said::Close(..) => {
                self.closed = true;
                self.due = None;
                if !self.close_sent {
                    self.close_sent = true;
                    frame(io.out, 0x88, &1000u16.to_be_bytes(), io.rng.mask());
                }
                Ok(())
            }
            Said::Ping(payload) => {
                frame(io.out, 0x8a, &payload, io.rng.mask());
                Ok(())
            }
            other => match self.expected.pop_front() {
                Some(wanted) if wanted == other => {
                    io.tally.fire("echo returned");
                    Ok(())
                }
                wanted => Err(format!("{other:?} came back where {wanted:?} belongs")),
            },
        }
    }
}

impl Actor for EchoClient {
    fn act(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        if !self.requested {
            self.requested = true;
            self.due = None;
            let request = upgrade("/v1/echo", io.rng, "");
            io.out.extend_from_slice(&request);
        }
        let opened = self.receiver.status().is_some();
        for said in self.receiver.take(io.input)? {
            self.hear(said, io)?;
        }
        match self.receiver.status() {
            _ if io.ended => self.over = true,
            Some(101) if !opened && !self.close_sent => self.due = Some(io.now),
            Some(101) | None => {}
            Some(_) => self.over = true,
        }
        while !self.over && !self.close_sent && self.due.is_some_and(|due| due <= io.now) {
            if io.out.len() > 100_000 {
                self.due = Some(io.now + 5_000);
                break;
            }
            self.send(io);
        }
        Ok(())
    }

    fn due(&self) -> Option<Micros> {
        self.due.filter(|_| !self.over)
    }

    fn done(&self) -> bool {
        self.over
    }

    fn verdict(&mut self, cut: bool, _: &mut Tally) -> Result<(), String> {
        if cut || self.receiver.status() != Some(101) {
            return Ok(());
        }
        if !self.closed || !self.expected.is_empty() {
            return Err(format!("closed: {}, {} messages missing", self.closed, self.expected.len()));
        }
        Ok(())
    }

    fn name(&self) -> String {
        "echo client".into()
    }
}

/// Sends bytes that mean nothing, and leaves when it likes.
pub struct Vandal {
    pub bytes: VecDeque<Vec<u8>>,
    pub due: Option<Micros>,
    pub pause: Micros,
    pub stays: Micros,
    pub over: bool,
}

impl Actor for Vandal {
    fn act(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        if io.ended {
            self.over = true;
        } else if self.due.is_some_and(|due| due <= io.now) {
            match self.bytes.pop_front() {
                Some(bytes) => {
                    io.out.extend_from_slice(&bytes);
                    let pause = if self.bytes.is_empty() { self.stays } else { self.pause };
                    self.due = Some(io.now + pause);
                }
                None => {
                    self.over = true;
                    io.reset = io.rng.chance(50);
                }
            }
        }
        Ok(())
    }

    fn due(&self) -> Option<Micros> {
        self.due.filter(|_| !self.over)
    }

    fn done(&self) -> bool {
        self.over
    }

    fn verdict(&mut self, _: bool, _: &mut Tally) -> Result<(), String> {
        Ok(())
    }

    fn name(&self) -> String {
        "vandal".into()
    }
}
