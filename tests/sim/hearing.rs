//! What a stream's client heard, held against what it was promised.

use crate::faults::Tally;
use crate::frames::Said;
use std::collections::BTreeMap;
use suzu::model::TensorData;
use suzu::reason::Reason;
use suzu::wire::message::{
    Begin, DiscardReason, ErrorMessage, Framing, Results, ServerMessage, StreamParams, Termination,
};
use suzu::wire::pcm;

/// Results and events of a stream, put together.
#[derive(Default)]
pub struct Hearing {
    pub begin: Option<Box<Begin>>,
    pub outputs: BTreeMap<String, TensorData>,
    pub audio: Vec<u8>,
    /// (start_ms, duration_ms, why)
    pub discarded: Vec<(f64, f64, DiscardReason)>,
    pub finalizes: Vec<Option<String>>,
    pub speech: Vec<(bool, f64)>,
    pub errors: Vec<ErrorMessage>,
    pub pongs: Vec<serde_json::Number>,
    pub termination: Option<Box<Termination>>,
    pub close: Option<Option<u16>>,
    /// It gets no audio back, whatever the model gives.
    pub deaf: bool,
    /// How long each run waited for a worker, if the stream is told.
    pub waits_ms: Vec<f64>,
    suppressed: bool,
    message_seq: u64,
    results: u64,
    /// Where the last result ended on the stream's clock, if all results so far follow each other.
    last_start_ms: f64,
    promised_audio: Option<u64>,
}

impl Hearing {
    pub fn hear(&mut self, said: Said, params: &StreamParams, tally: &mut Tally) -> Result<(), String> {
        if self.close.is_some() {
            return Err(format!("something after the close: {said:?}"));
        }
        match said {
            Said::Close(code, _) => self.close = Some(code),
            Said::Ping(_) | Said::Pong(_) => {}
            _ if self.termination.is_some() => return Err(format!("something after Termination: {said:?}")),
            Said::Binary(bytes) => self.hear_audio(&bytes, params)?,
            Said::Text(text) => {
                let message = ServerMessage::parse(&text).map_err(|fault| format!("{fault}: {text}"))?;
                self.hear_message(message, tally).map_err(|what| format!("{what}: {text}"))?;
            }
        }
        Ok(())
    }

    fn hear_audio(&mut self, bytes: &[u8], params: &StreamParams) -> Result<(), String> {
        if self.promised_audio.is_some() {
            return Err("two messages of audio before a result".into());
        }
        let samples = match params.framing {
            Framing::Raw => bytes,
            Framing::Seq => {
                let (header, samples) = pcm::AudioHeader::parse(bytes).map_err(|fault| fault.to_string())?;
                if u64::from(header.seq) != self.message_seq + 1 {
                    return Err(format!("audio of message {} after {}", header.seq, self.message_seq));
                }
                samples
            }
        };
        self.promised_audio = Some(self.message_seq + 1);
        self.audio.extend_from_slice(samples);
        Ok(())
    }

    fn hear_message(&mut self, message: ServerMessage, tally: &mut Tally) -> Result<(), String> {
        if self.begin.is_none() && !matches!(message, ServerMessage::Begin(_)) {
            // A refusal after the upgrade is the one thing that may come instead.
            if let ServerMessage::Error(error) = message {
                self.errors.push(*error);
                return Ok(());
            }
            return Err("something before Begin".into());
        }
        match message {
            ServerMessage::Begin(begin) => {
                if self.begin.replace(begin).is_some() {
                    return Err("Begin came twice".into());
                }
            }
            ServerMessage::Results(results) => self.hear_results(results, tally)?,
            ServerMessage::SpeechStarted(at) => self.hear_speech(true, at.message_seq, at.at_ms)?,
            ServerMessage::SpeechEnded(at) => self.hear_speech(false, at.message_seq, at.at_ms)?,
            ServerMessage::Discarded(lost) => {
                let reason = serde_json::to_value(lost.reason).unwrap_or_default();
                tally.fire(&format!("discard {}", reason.as_str().unwrap_or_default()));
                self.discarded.push((lost.start_ms, lost.duration_ms, lost.reason));
            }
            ServerMessage::Error(error) => self.errors.push(*error),
            ServerMessage::Pong(pong) => self.pongs.push(pong.t),
            ServerMessage::Termination(termination) => self.termination = Some(termination),
            ServerMessage::AudioAdded(added) => {
                let sum = added.processed_ms + added.discarded_ms + added.lag_ms;
                if (sum - added.audio_ms).abs() > 0.01 {
                    return Err("AudioAdded does not balance".into());
                }
            }
            ServerMessage::Warning(warning) if warning.code == "interim_results_suppressed" => {
                tally.fire("told of no interim results");
                if std::mem::replace(&mut self.suppressed, true) {
                    return Err("told twice that there are no interim results".into());
                }
            }
            ServerMessage::Warning(_) | ServerMessage::Configured { .. } | ServerMessage::Reconnect(_) => {}
        }
        Ok(())
    }

    fn count(&mut self, message_seq: u64) -> Result<(), String> {
        self.message_seq += 1;
        if message_seq != self.message_seq {
            return Err(format!("message_seq {message_seq} where {} belongs", self.message_seq));
        }
        Ok(())
    }

    fn hear_speech(&mut self, started: bool, message_seq: u64, at_ms: f64) -> Result<(), String> {
        self.count(message_seq)?;
        self.speech.push((started, at_ms));
        Ok(())
    }

    fn hear_results(&mut self, results: Results, tally: &mut Tally) -> Result<(), String> {
        self.count(results.message_seq)?;
        if self.promised_audio.take().is_some_and(|seq| seq != results.message_seq) {
            return Err("audio belongs to another result".into());
        }
        self.results += 1;
        if results.from_finalize {
            tally.fire("finalize answered");
            self.finalizes.push(results.finalize_id);
        }
        // A result begins with the first window that is new, and windows overlap: compare with a margin.
        if results.start_ms + 60.0 < self.last_start_ms {
            return Err(format!("results go back to {} ms", results.start_ms));
        }
        self.last_start_ms = results.start_ms;
        self.waits_ms.extend(results.timing.as_ref().map(|timing| timing.queue_ms));
        for tensor in results.outputs {
            let name = tensor.name.into_owned();
            match (self.outputs.get_mut(&name), tensor.data) {
                (None, data) => drop(self.outputs.insert(name, data)),
                (Some(TensorData::Fp32(all)), TensorData::Fp32(new)) => all.extend(new),
                (Some(TensorData::Uint32(all)), TensorData::Uint32(new)) => all.extend(new),
                _ => return Err("an output changed its type".into()),
            }
        }
        Ok(())
    }

    /// Termination, its balance, and the close code that goes with it.
    pub fn check_end(&self, rate_hz: u32) -> Result<(), String> {
        let Some(end) = &self.termination else { return Ok(()) };
        let ledger = end.ledger;
        if !ledger.balances() || ledger.pending != 0 {
            return Err(format!("the ledger does not balance: {ledger:?}"));
        }
        if end.results != self.results {
            return Err(format!("{} results were sent and {} came", end.results, self.results));
        }
        let lost: u64 = self.discarded.iter().map(|(_, ms, _)| samples(*ms, rate_hz)).sum();
        if lost != ledger.discarded {
            return Err(format!(
                "{lost} samples were reported discarded, {} were: {ledger:?}",
                ledger.discarded
            ));
        }
        let total_ms = end.processed_ms + end.discarded_ms;
        if (total_ms - end.audio_received_ms).abs() > 0.001 {
            return Err(format!("the milliseconds do not balance: {end:?}"));
        }
        let reason = Reason::all().find(|reason| reason.label() == end.reason);
        let code = reason.ok_or_else(|| format!("the reason {} is unknown", end.reason))?.close_code();
        match self.close {
            Some(Some(given)) if given != code => {
                Err(format!("closed with {given}, {} is {code}", end.reason))
            }
            _ => Ok(()),
        }
    }
}

/// Whole samples that last so long.
pub fn samples(ms: f64, rate_hz: u32) -> u64 {
    (ms * f64::from(rate_hz) / 1000.0).round() as u64
}
