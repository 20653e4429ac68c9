//! The client of a stream: plays its script, hears what comes, and knows what it is owed.

use crate::faults::Tally;
use crate::frames::{Receiver, Said, frame};
use crate::hearing::Hearing;
use crate::peer::{Actor, Io};
use crate::pipe::Micros;
use crate::plants::{Kind, Plant};
use crate::reference::{self, Sent};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use suzu::wire::message::{ClientMessage, StreamParams};

/// What a client does next.
#[derive(Clone, Debug)]
pub enum Step {
    /// A chunk: the message as it goes out, and the audio in it that counts.
    Audio {
        message: Vec<u8>,
        counts: Vec<u8>,
        fragments: bool,
    },
    /// A message in its place.
    Message(ClientMessage),
    /// Text that is no message.
    Text(Vec<u8>),
    /// Bytes that are no frame, or not a right one.
    Raw(Vec<u8>),
    Wait(Micros),
    /// The end of the script.
    CloseStream,
    CloseFrame,
    HalfClose,
    Reset,
    /// Nothing more, until the server has had enough.
    Silence,
}

/// What became of a stream.
#[derive(Clone, Debug)]
pub struct Ending {
    pub name: String,
    pub status: Option<u16>,
    pub reason: Option<String>,
    pub close: Option<u16>,
}

pub struct StreamClient {
    pub name: String,
    pub request: Vec<u8>,
    pub params: StreamParams,
    pub script: VecDeque<Step>,
    /// Sends before the upgrade is answered.
    pub eager: bool,
    /// Neither delays nor stalls: what is due at once must come at once.
    pub quick: bool,
    pub plant: Option<Plant>,
    /// Where to leave how long each run waited for a worker, milliseconds.
    pub waits: Option<Rc<RefCell<Vec<f64>>>>,
    /// Where to leave its name, the status of its upgrade, and why it ended if it began.
    pub endings: Option<Rc<RefCell<Vec<Ending>>>>,
    receiver: Receiver,
    hearing: Hearing,
    sent: Sent,
    finalizes: Vec<Option<String>>,
    pings: Vec<serde_json::Number>,
    due: Option<Micros>,
    requested: bool,
    close_sent: Option<Micros>,
    /// Both sides have said so.
    closed_at: Option<Micros>,
    /// It left before the end, or did what ends a stream otherwise.
    left: bool,
    asked_for_end: bool,
    over: bool,
    held_back: Option<Said>,
}

impl StreamClient {
    pub fn new(name: String, request: Vec<u8>, params: StreamParams, script: Vec<Step>, at: Micros) -> Self {
        Self {
            name,
            request,
            params,
            script: script.into(),
            eager: false,
            quick: false,
            plant: None,
            waits: None,
            endings: None,
            receiver: Receiver::new(),
            hearing: Hearing::default(),
            sent: Sent { bytes: Vec::new(), gaps: Vec::new() },
            finalizes: Vec::new(),
            pings: Vec::new(),
            due: Some(at),
            requested: false,
            close_sent: None,
            closed_at: None,
            left: false,
            asked_for_end: false,
            over: false,
            held_back: None,
        }
    }

    fn samples_sent(&self) -> u64 {
        let frame_bytes = self.params.encoding.sample_bytes() * usize::from(self.params.channels);
        (self.sent.bytes.len() / frame_bytes) as u64
    }

    fn hear(&mut self, said: Said, io: &mut Io<'_>) -> Result<(), String> {
        let is_result = matches!(&said, Said::Text(text) if text.contains("\"Results\""));
        if is_result && let Some(plant) = &mut self.plant {
            if plant.strikes(Kind::LostResult) {
                return Ok(());
            }
            if plant.strikes(Kind::RepeatedResult) {
                self.hearing.hear(said.clone(), &self.params, io.tally)?;
            }
            if plant.strikes(Kind::SwappedResults) && self.held_back.is_none() {
                self.held_back = Some(said);
                return Ok(());
            }
        }
        let close = matches!(said, Said::Close(..));
        if let Said::Ping(payload) = &said {
            frame(io.out, 0x8a, payload, io.rng.mask());
        }
        self.hearing.hear(said, &self.params, io.tally)?;
        if let Some(held) = self.held_back.take() {
            self.hearing.hear(held, &self.params, io.tally)?;
        }
        if close {
            self.answer_close(io);
        }
        Ok(())
    }

    fn answer_close(&mut self, io: &mut Io<'_>) {
        self.due = None;
        if self.hearing.close.is_some() {
            self.closed_at = Some(io.now);
        }
        if self.close_sent.is_none() {
            self.close_sent = Some(io.now);
            frame(io.out, 0x88, &1000u16.to_be_bytes(), io.rng.mask());
        }
    }

    fn play(&mut self, io: &mut Io<'_>) {
        loop {
            // A client does not pile up more than it can send.
            if io.out.len() > 256 * 1024 {
                self.due = Some(io.now + 5_000);
                return;
            }
            match self.script.pop_front() {
                Some(Step::Wait(time)) => {
                    self.due = Some(io.now + time);
                    return;
                }
                Some(step) => {
                    if !self.on_step(step, io) {
                        self.due = None;
                        return;
                    }
                }
                None => {
                    self.due = None;
                    return;
                }
            }
        }
    }

    /// Does a step; false if it was the last.
    fn on_step(&mut self, step: Step, io: &mut Io<'_>) -> bool {
        match step {
            Step::Audio { message, counts, fragments } => {
                self.sent.bytes.extend_from_slice(&counts);
                if fragments {
                    io.tally.fire("fragments");
                    crate::frames::fragmented(io.out, 2, &message, io.rng);
                } else {
                    frame(io.out, 0x82, &message, io.rng.mask());
                }
            }
            Step::Message(message) => self.say(&message, io),
            Step::Text(text) => frame(io.out, 0x81, &text, io.rng.mask()),
            Step::Raw(bytes) => {
                // Its own Close may now lie inside what the server takes for a frame.
                self.quick = false;
                io.out.extend_from_slice(&bytes);
            }
            Step::Wait(_) => {}
            Step::CloseStream => {
                self.asked_for_end = true;
                self.say(&ClientMessage::CloseStream, io);
                return false;
            }
            Step::CloseFrame => {
                io.tally.fire("close frame without CloseStream");
                self.left = true;
                self.answer_close(io);
                return false;
            }
            Step::HalfClose => {
                self.asked_for_end = true;
                io.fin = true;
                return false;
            }
            Step::Reset => {
                self.left = true;
                self.over = true;
                io.reset = true;
                return false;
            }
            Step::Silence => {
                io.tally.fire("silent client");
                return false;
            }
        }
        true
    }

    fn say(&mut self, message: &ClientMessage, io: &mut Io<'_>) {
        let mut text = Vec::new();
        message.encode(&mut text);
        frame(io.out, 0x81, &text, io.rng.mask());
        match message {
            ClientMessage::Finalize { id } => self.finalizes.push(id.clone()),
            ClientMessage::Ping { t } => self.pings.push(t.clone()),
            ClientMessage::Discarded { duration_ms, .. } => {
                io.tally.fire("client discarded");
                let rate_hz = self.params.sample_rate_hz;
                self.sent.gaps.push((self.samples_sent(), crate::hearing::samples(*duration_ms, rate_hz)));
            }
            _ => {}
        }
    }

    fn check_refusal(&self) -> Result<(), String> {
        let Some(head) = &self.receiver.head else { return Ok(()) };
        let length: usize = head.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        if self.receiver.body.len() != length {
            return Ok(());
        }
        let body: serde_json::Value =
            serde_json::from_slice(&self.receiver.body).map_err(|error| format!("refused with {error}"))?;
        if body.pointer("/error/code").is_none() || !(400..=599).contains(&head.status) {
            return Err(format!("a strange refusal: {} {body}", head.status));
        }
        if head.status == 503 && head.header("retry-after").is_none() {
            return Err("503 without Retry-After".into());
        }
        Ok(())
    }

    fn refusal_is_whole(&self) -> bool {
        let Some(head) = &self.receiver.head else { return false };
        let length = head.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        head.status != 101 && self.receiver.body.len() >= length
    }

    fn check_answers(&self, complete: bool) -> Result<(), String> {
        let (answered, asked) = (&self.hearing.finalizes, &self.finalizes);
        if answered.len() > asked.len() || answered[..] != asked[..answered.len()] {
            return Err(format!("finalized {answered:?}, asked for {asked:?}"));
        }
        let (pongs, pings) = (&self.hearing.pongs, &self.pings);
        if pongs.len() > pings.len() || pongs[..] != pings[..pongs.len()] {
            return Err(format!("pongs {pongs:?} for pings {pings:?}"));
        }
        if complete && (answered.len() < asked.len() || pongs.len() < pings.len()) {
            return Err(format!("answered {answered:?} {pongs:?}, owed {asked:?} {pings:?}"));
        }
        Ok(())
    }
}

impl Actor for StreamClient {
    fn act(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        if !self.requested {
            self.requested = true;
            io.out.extend_from_slice(&self.request);
            self.due = None;
        }
        let opened_before = self.receiver.status().is_some();
        for said in self.receiver.take(io.input)? {
            self.hear(said, io)?;
        }
        if io.ended {
            self.over = true;
            if let (Some(at), true) = (self.closed_at, self.quick)
                && io.now > at
            {
                return Err(format!(
                    "closed on both sides, and the socket stays open for {} us",
                    io.now - at
                ));
            }
            return Ok(());
        }
        if self.refusal_is_whole() {
            self.over = true;
            return Ok(());
        }
        let opened = self.receiver.status() == Some(101) && !opened_before;
        let may_play = self.close_sent.is_none() && (self.eager || self.receiver.status() == Some(101));
        if may_play
            && (opened || self.due.is_some_and(|due| due <= io.now) || (self.eager && self.due.is_none()))
        {
            self.play(io);
        }
        Ok(())
    }

    fn due(&self) -> Option<Micros> {
        self.due.filter(|_| !self.over)
    }

    fn done(&self) -> bool {
        self.over
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn verdict(&mut self, cut: bool, tally: &mut Tally) -> Result<(), String> {
        if let Some(waits) = &self.waits {
            // The last run began to wait long before the stream's end called for it.
            self.hearing.waits_ms.pop();
            waits.borrow_mut().append(&mut self.hearing.waits_ms);
        }
        if let Some(endings) = &self.endings {
            let reason = self.hearing.termination.as_ref().map(|end| end.reason.to_string());
            let (name, status) = (self.name.clone(), self.receiver.status());
            endings.borrow_mut().push(Ending { name, status, reason, close: self.hearing.close.flatten() });
        }
        if self.receiver.status() != Some(101) {
            if self.receiver.status().is_none() && !cut && !self.left {
                return Err("no answer to the upgrade".into());
            }
            return self.check_refusal();
        }
        let Some(end) = &self.hearing.termination else {
            let refused = self.hearing.begin.is_none() && !self.hearing.errors.is_empty();
            return if cut || self.left || refused { Ok(()) } else { Err("no Termination".into()) };
        };
        tally.fire("stream ended by Termination");
        let rate_hz = self.params.sample_rate_hz;
        if let Some(begin) = &self.hearing.begin {
            // A gap longer than the longest stream is cut to that.
            let most = crate::hearing::samples(begin.limits.max_session_s * 1000.0, rate_hz);
            self.sent.gaps.iter_mut().for_each(|gap| gap.1 = gap.1.min(most));
        }
        self.hearing.check_end(rate_hz)?;
        let finished = end.reason == "finished";
        if finished && !self.asked_for_end {
            return Err("the stream finished and nobody asked for it".into());
        }
        let all = self.sent.samples(&self.params).len() as u64;
        if finished && end.ledger.received != all {
            return Err(format!("{all} samples sent, {} received", end.ledger.received));
        }
        self.check_answers(finished)?;
        let forced = ["buffer_overflow", "blocked_too_long", "inference_failed"]
            .contains(&end.reason.as_ref())
            || self
                .hearing
                .discarded
                .iter()
                .any(|(.., why)| *why == suzu::wire::message::DiscardReason::Drain);
        let heard = reference::check(&self.hearing, &self.sent, &self.params, !forced);
        // A drain whose time is up ends a stream between its last sample and its last window; so does overload, if the stream is
        // the one that is closed for the others.
        let cut_short = ["draining", "overloaded"].contains(&end.reason.as_ref()) && heard.is_err();
        if cut_short {
            reference::check(&self.hearing, &self.sent, &self.params, false)?
        } else {
            heard?
        }
        if !cut && self.hearing.close.is_none() {
            return Err("Termination and no close".into());
        }
        Ok(())
    }
}
