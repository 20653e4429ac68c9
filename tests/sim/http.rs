//! The HTTP client: requests one by one or pipelined, each answer held against its request.

use crate::faults::Tally;
use crate::peer::{Actor, Io};
use crate::pipe::Micros;
use std::collections::VecDeque;
use suzu::wire::http::parse_response_head;

/// A request and the answers that are right.
#[derive(Clone, Debug)]
pub struct Ask {
    pub bytes: Vec<u8>,
    pub statuses: Vec<u16>,
    pub head_only: bool,
    /// The body that a 200 must bring back.
    pub body: Option<Vec<u8>>,
    /// The body is as it is only if all asked before by this client was answered by 200.
    pub chained: bool,
}

impl Ask {
    pub fn get(path: &str, statuses: &[u16]) -> Ask {
        let bytes = format!("GET {path} HTTP/1.1\r\nHost: sim\r\n\r\n").into_bytes();
        Ask { bytes, statuses: statuses.to_vec(), head_only: false, body: None, chained: false }
    }
}

pub struct HttpClient {
    pub name: String,
    pub asks: VecDeque<Ask>,
    pub pipelined: bool,
    /// On a perfect link: answers must come in the same instant.
    pub probe: bool,
    /// Asks no more once the last answer is there, and waits to be forgotten.
    pub lingers: bool,
    /// Closes its half behind the last request; all must be answered still.
    pub hasty: bool,
    /// Between two requests.
    pub pause: Micros,
    pub due: Option<Micros>,
    waiting: VecDeque<(Ask, Micros)>,
    held: Vec<u8>,
    closing: bool,
    over: bool,
    /// Something was answered by other than 200.
    broken: bool,
}

impl HttpClient {
    pub fn new(name: &str, asks: Vec<Ask>, at: Micros) -> Self {
        Self {
            name: name.to_owned(),
            asks: asks.into(),
            pipelined: false,
            probe: false,
            lingers: false,
            hasty: false,
            pause: 0,
            due: Some(at),
            waiting: VecDeque::new(),
            held: Vec::new(),
            closing: false,
            over: false,
            broken: false,
        }
    }

    fn ask(&mut self, io: &mut Io<'_>) {
        self.due = None;
        while let Some(ask) = self.asks.pop_front() {
            io.out.extend_from_slice(&ask.bytes);
            self.waiting.push_back((ask, io.now));
            if !self.pipelined {
                return;
            }
            io.tally.fire("pipelining");
        }
        io.fin = self.hasty && !self.waiting.is_empty();
    }

    /// Takes one answer off what came; false if it is not whole.
    fn take_answer(&mut self, io: &mut Io<'_>) -> Result<bool, String> {
        let parsed = parse_response_head(&self.held).map_err(|fault| fault.to_string())?;
        let Some((head, taken)) = parsed else { return Ok(false) };
        if head.status == 100 {
            self.held.drain(..taken);
            return Ok(true);
        }
        let length: usize = head
            .header("content-length")
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("an answer without a length: {head:?}"))?;
        // A request that came too late was not seen to be a HEAD.
        let bodiless = head.status != 408 && self.waiting.front().is_some_and(|(ask, _)| ask.head_only);
        let length = if bodiless { 0 } else { length };
        if self.held.len() < taken + length {
            return Ok(false);
        }
        let body: Vec<u8> = self.held.drain(..taken + length).skip(taken).collect();
        self.closing |= head.header("connection").is_some_and(|value| value.contains("close"));
        let (ask, asked) = match self.waiting.pop_front() {
            Some(ask) => ask,
            // Whoever stays silent for too long is told so.
            None if head.status == 408 => return Ok(true),
            None => return Err(format!("an answer to nothing: {head:?}")),
        };
        io.tally.fire("request answered");
        let wanted = &ask.statuses;
        // What was lost before ends the chain.
        let lost = ask.chained && self.broken && head.status == 400;
        if !wanted.contains(&head.status) && ![408, 503].contains(&head.status) && !lost {
            let text = String::from_utf8_lossy(&ask.bytes);
            return Err(format!("{} answers {:?}, {wanted:?} was right", head.status, text.lines().next()));
        }
        self.broken |= head.status != 200;
        let comparable = head.status == 200 && !(ask.chained && self.broken);
        if comparable && let Some(wanted) = ask.body.filter(|wanted| *wanted != body) {
            let [wanted, body] = [&wanted, &body].map(|body| String::from_utf8_lossy(body).into_owned());
            return Err(format!("the body came back changed: {body:.300} instead of {wanted:.300}"));
        }
        if self.probe && io.now != asked {
            return Err(format!("a question of health waited for {} us", io.now - asked));
        }
        Ok(true)
    }
}

impl Actor for HttpClient {
    fn act(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        self.held.extend_from_slice(io.input);
        while !self.held.is_empty() && self.take_answer(io)? {
            if self.waiting.is_empty() && !self.asks.is_empty() && !self.closing {
                self.due = Some(io.now + self.pause);
            }
        }
        if io.ended {
            self.over = true;
        } else if self.due.is_some_and(|due| due <= io.now) {
            self.ask(io);
        } else if self.waiting.is_empty() && self.asks.is_empty() && !self.lingers {
            self.over = true;
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
        if !self.held.is_empty() && !cut {
            return Err("half an answer".into());
        }
        if cut || self.closing || self.waiting.is_empty() {
            return Ok(());
        }
        Err(format!("{} requests were never answered", self.waiting.len()))
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}
