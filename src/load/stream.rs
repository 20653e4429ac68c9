//! A stream as its client knows it: what was sent, which results must come, and the balance at the end.

use super::audio::Audio;
use super::checksums::Checksums;
use super::tally::{Order, Sequence, Tally};
use crate::model::TensorData;
use crate::time::Instant;
use crate::wire::message::{ClientMessage, Ledger, ServerMessage};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

/// Times on the wire have three decimals.
const ROUNDING_MS: f64 = 0.002;
/// The model whose results can be computed here.
const CHECKED_MODEL: &str = "echo";

/// One stream.
pub(super) struct Stream {
    number: usize,
    audio: Arc<Audio>,
    chunk_bytes: usize,
    heartbeat: bool,
    stage: Stage,
    /// Chunks sent, or pings.
    sent: u64,
    /// When each chunk was due, from the first on that is not answered.
    dues: VecDeque<Instant>,
    answered: u64,
    sequence: Option<Sequence>,
    results: u64,
    /// Where the next result begins.
    position_ms: f64,
    /// Checksums that must come, if the model is `echo`.
    checksums: Option<Checksums>,
    ended_well: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Opening,
    Open,
    Closing,
    Terminated,
}

/// What this client reads of a message: parsing it whole would cost the generator more than the server.
#[derive(Deserialize)]
struct Heard<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    message_seq: Option<u64>,
    #[serde(default)]
    start_ms: f64,
    #[serde(default)]
    duration_ms: f64,
    #[serde(default)]
    outputs: Vec<Rows>,
    t: Option<u64>,
    #[serde(borrow)]
    code: Option<Cow<'a, str>>,
    #[serde(default)]
    fatal: bool,
    ledger: Option<Ledger>,
    #[serde(default)]
    results: u64,
}

/// A tensor, as far as it matters here.
#[derive(Deserialize)]
struct Rows {
    #[serde(default)]
    shape: Vec<u64>,
    #[serde(default, rename = "data")]
    _data: IgnoredAny,
}

impl Stream {
    pub(super) fn new(number: usize, audio: Arc<Audio>, chunk_bytes: usize, heartbeat: bool) -> Self {
        let checked = audio.params.model == CHECKED_MODEL && !heartbeat;
        let checksums = checked.then(|| Checksums::new(audio.encoding(), audio.params.channels));
        Self {
            number,
            audio,
            chunk_bytes,
            heartbeat,
            stage: Stage::Opening,
            sent: 0,
            dues: VecDeque::new(),
            answered: 0,
            sequence: None,
            results: 0,
            position_ms: 0.0,
            checksums,
            ended_well: false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.stage != Stage::Opening
    }

    pub(super) fn is_terminated(&self) -> bool {
        self.stage == Stage::Terminated
    }

    pub(super) fn dues(&self) -> &VecDeque<Instant> {
        &self.dues
    }

    /// The next chunk, or the next ping.
    pub(super) fn ask(&mut self, due: Instant, tally: &mut Tally) -> Said<'_> {
        self.dues.push_back(due);
        self.sent += 1;
        if self.heartbeat {
            return Said::Text(ClientMessage::Ping { t: (self.sent - 1).into() });
        }
        tally.audio_ms[0] += self.audio.millis(self.chunk_bytes);
        let chunk = self.audio.chunk(self.number, self.sent - 1, self.chunk_bytes);
        if let Some(checksums) = &mut self.checksums {
            checksums.push(chunk);
        }
        Said::Binary(chunk)
    }

    /// The proper end.
    pub(super) fn end(&mut self) -> ClientMessage {
        if self.stage == Stage::Open {
            self.stage = Stage::Closing;
            if let Some(checksums) = &mut self.checksums {
                checksums.end();
            }
        }
        ClientMessage::CloseStream
    }

    /// A text message came. The error is the kind of failure; the stream is then of no use.
    pub(super) fn hear(&mut self, text: &str, now: Instant, tally: &mut Tally) -> Result<(), String> {
        let heard: Heard =
            serde_json::from_str(text).map_err(|_| "a message that cannot be read".to_owned())?;
        if let Some(number) = heard.message_seq {
            // Whether a stream's first message is 0 or 1 is the server's business, holes and repetitions are not.
            let order = self.sequence.get_or_insert_with(|| Sequence::from(number)).see(number);
            tally.order(order);
            if order == Order::Again {
                return Ok(());
            }
        }
        match heard.kind.as_ref() {
            "Begin" if self.stage == Stage::Opening => self.stage = Stage::Open,
            "Results" => {
                self.results += 1;
                self.check(text, &heard, tally);
                self.on_results(&heard, now, tally);
            }
            "Discarded" => self.on_discarded(heard.start_ms + heard.duration_ms),
            "Pong" => self.on_pong(heard.t, now, tally),
            "Warning" => tally.warning(&heard.code.unwrap_or_default()),
            "Error" if heard.fatal => return Err(format!("error {}", heard.code.unwrap_or_default())),
            "Error" => tally.failure(&format!("error {}", heard.code.unwrap_or_default())),
            "Reconnect" => tally.warning("reconnect"),
            "Termination" => self.on_termination(&heard, tally),
            _ => {}
        }
        Ok(())
    }

    /// Every chunk is answered by the first result of a window that it completed.
    fn on_results(&mut self, heard: &Heard, now: Instant, tally: &mut Tally) {
        let rows = heard.outputs.first().and_then(|rows| rows.shape.first()).map_or(1, |&rows| rows.max(1));
        let chunk_ms = self.audio.millis(self.chunk_bytes);
        for row in 1..=rows {
            let end_ms = heard.start_ms + heard.duration_ms * row as f64 / rows as f64;
            // The number of the chunk that holds the last sample, from 1.
            let chunk = ((end_ms - ROUNDING_MS) / chunk_ms).ceil().max(0.0) as u64;
            self.skip_to(chunk.min(self.sent).saturating_sub(1), tally);
            if chunk > self.answered
                && let Some(due) = self.dues.pop_front()
            {
                self.answered += 1;
                tally.answer(due, now);
            }
        }
    }

    /// Chunks before that number end no window, so nothing tells when they were dealt with.
    fn skip_to(&mut self, number: u64, tally: &mut Tally) {
        while self.answered < number && self.dues.pop_front().is_some() {
            self.answered += 1;
            tally.messages.answered += 1;
        }
    }

    /// A result must begin where the last one ended, and for `echo` have the checksums of what was sent.
    fn check(&mut self, text: &str, heard: &Heard, tally: &mut Tally) {
        if (heard.start_ms - self.position_ms).abs() > ROUNDING_MS {
            tally.wrong();
        }
        self.position_ms = heard.start_ms + heard.duration_ms;
        let Some(checksums) = &mut self.checksums else { return };
        let Ok(ServerMessage::Results(results)) = ServerMessage::parse(text) else { return tally.wrong() };
        match results.outputs.iter().find(|output| output.name == "checksum").map(|output| &output.data) {
            Some(TensorData::Uint32(given)) if given.iter().all(|&sum| checksums.pop() == Some(sum)) => {}
            _ => tally.wrong(),
        }
    }

    /// Audio up to `end_ms` was discarded, and told so: its chunks are accounted for, not answered.
    fn on_discarded(&mut self, end_ms: f64) {
        self.position_ms = self.position_ms.max(end_ms);
        let chunk_ms = self.audio.millis(self.chunk_bytes);
        let whole = ((end_ms + ROUNDING_MS) / chunk_ms) as u64;
        while self.answered < whole && self.dues.pop_front().is_some() {
            self.answered += 1;
        }
        // Which windows are left out depends on the model's; from here on it is the balance that counts.
        self.checksums = None;
    }

    fn on_pong(&mut self, t: Option<u64>, now: Instant, tally: &mut Tally) {
        if t != Some(self.answered) {
            return tally.wrong();
        }
        if let Some(due) = self.dues.pop_front() {
            self.answered += 1;
            tally.answer(due, now);
        }
    }

    fn on_termination(&mut self, heard: &Heard, tally: &mut Tally) {
        self.stage = Stage::Terminated;
        let Some(ledger) = heard.ledger else {
            tally.ledgers_off += 1;
            return;
        };
        let frames = (self.chunk_bytes / self.audio.frame_bytes()) as u64;
        let sent = if self.heartbeat { 0 } else { self.sent * frames };
        let rate_khz = f64::from(self.audio.params.sample_rate_hz) / 1e3;
        tally.audio_ms[1] += ledger.processed as f64 / rate_khz;
        tally.audio_ms[2] += ledger.discarded as f64 / rate_khz;
        let whole = ledger.received == sent && ledger.balances() && ledger.pending == 0;
        if !whole || heard.results != self.results {
            tally.ledgers_off += 1;
            return;
        }
        self.ended_well = true;
        if !self.heartbeat {
            // What ends no window is in the balance alone.
            tally.messages.answered += self.dues.len() as u64;
            self.dues.clear();
        }
    }

    /// Nothing more will come.
    pub(super) fn settle(&mut self, tally: &mut Tally) {
        tally.messages.lost += self.dues.len() as u64;
        tally.messages.lost += self.sequence.as_ref().map_or(0, Sequence::missing);
        // A stream that broke before its balance is a failure already; one that ended without one is not.
        if self.stage == Stage::Closing && !self.ended_well {
            tally.ledgers_off += 1;
        }
        self.dues.clear();
        self.sequence = None;
        self.stage = Stage::Terminated;
    }
}

/// A message of a client.
pub(super) enum Said<'a> {
    Text(ClientMessage),
    Binary(&'a [u8]),
}
