//! What a stream should have heard: its own samples through the model, alone and in one piece.

use crate::hearing::{Hearing, samples};
use crate::models;
use suzu::model::{EventKind, Outcome, Run, StreamState, TensorData, execute, unit};
use suzu::wire::message::{DiscardReason, StreamParams};
use suzu::wire::pcm;

/// Everything that a client knows of its own stream.
pub struct Sent {
    /// The payload of every chunk, in order.
    pub bytes: Vec<u8>,
    /// Pauses that the client told: position in samples, length in samples.
    pub gaps: Vec<(u64, u64)>,
}

impl Sent {
    pub fn samples(&self, params: &StreamParams) -> Vec<f32> {
        let mut out = Vec::new();
        pcm::Decoder::new(params.encoding, params.channels).decode(&self.bytes, &mut out);
        out
    }
}

/// The parts of `0..received` that were not discarded.
pub fn kept(hearing: &Hearing, sent: &Sent, rate_hz: u32, received: u64) -> Result<Vec<(u64, u64)>, String> {
    let mut lost = Vec::new();
    for (start_ms, duration_ms, _) in &hearing.discarded {
        let start = position(samples(*start_ms, rate_hz), &sent.gaps)?;
        lost.push((start, start + samples(*duration_ms, rate_hz)));
    }
    lost.sort_unstable();
    let (mut kept, mut at) = (Vec::new(), 0);
    for (start, end) in lost {
        if start < at || end > received {
            return Err(format!(
                "{start}..{end} is reported discarded, after {at} and within {received}: {:?}, gaps {:?}",
                hearing.discarded, sent.gaps
            ));
        }
        kept.push((at, start));
        at = end;
    }
    kept.push((at, received));
    Ok(kept)
}

/// From the stream's clock to a position in the samples received.
fn position(clock: u64, gaps: &[(u64, u64)]) -> Result<u64, String> {
    let mut skipped = 0;
    for (at, len) in gaps {
        if at + skipped + len > clock {
            break;
        }
        skipped += len;
    }
    Ok(clock - skipped)
}

/// Holds what came back against the reference. `whole`: the stream was inferred to its last sample.
pub fn check(hearing: &Hearing, sent: &Sent, params: &StreamParams, whole: bool) -> Result<(), String> {
    let Some(end) = &hearing.termination else { return Ok(()) };
    let all = sent.samples(params);
    let received = end.ledger.received as usize;
    if received > all.len() {
        return Err(format!("{received} samples received of {} sent", all.len()));
    }
    let kept = kept(hearing, sent, params.sample_rate_hz, received as u64)?;
    if hearing.discarded.iter().any(|(.., reason)| *reason == DiscardReason::InferenceFailed) {
        return Ok(());
    }
    let remaining: Vec<f32> =
        kept.iter().flat_map(|(from, to)| &all[*from as usize..*to as usize]).copied().collect();
    let outcome = infer(params, remaining, whole)?;
    let windows = compare_outputs(hearing, &outcome, &params.model)?;
    let mut audio = Vec::new();
    pcm::encode(params.encoding, &outcome.findings.audio, &mut audio);
    if audio != hearing.audio && !hearing.deaf {
        let same = audio.iter().zip(&hearing.audio).take_while(|(a, b)| a == b).count();
        let (got, wanted) = (hearing.audio.len(), audio.len());
        return Err(format!(
            "the audio differs after {same} bytes: {got} came, {wanted} belong ({windows} windows)"
        ));
    }
    if sent.gaps.is_empty() && hearing.discarded.is_empty() {
        compare_speech(hearing, &outcome)?;
    }
    Ok(())
}

/// The audio that the model gives back for all of it.
pub fn audio(sent: &Sent, params: &StreamParams) -> Result<Vec<f32>, String> {
    Ok(infer(params, sent.samples(params), true)?.findings.audio)
}

fn infer(params: &StreamParams, mut remaining: Vec<f32>, whole: bool) -> Result<Outcome, String> {
    let registry = models::registry();
    let model = registry.find(&params.model).map_err(|fault| fault.to_string())?;
    let unit = unit(model.spec(), params.sample_rate_hz).map_err(|fault| fault.to_string())?;
    if !whole {
        remaining.truncate(remaining.len() / unit * unit);
    }
    let state = StreamState::new(&*model, params.sample_rate_hz).map_err(|fault| fault.to_string())?;
    let mut runs = [Run::new(Box::new(state), remaining, whole)];
    execute(&*model, &mut runs);
    let [run] = runs;
    Ok(run.outcome)
}

fn compare_outputs(hearing: &Hearing, outcome: &Outcome, model: &str) -> Result<usize, String> {
    let registry = models::registry();
    let model = registry.get(model).ok_or("no such model")?;
    for (spec, wanted) in model.spec().outputs.iter().zip(&outcome.findings.outputs) {
        let empty = TensorData::new(spec.datatype);
        let got = hearing.outputs.get(&*spec.name).unwrap_or(&empty);
        if got != wanted {
            let same = match (got, wanted) {
                (TensorData::Fp32(a), TensorData::Fp32(b)) => {
                    a.iter().zip(b).take_while(|(a, b)| a == b).count()
                }
                (TensorData::Uint32(a), TensorData::Uint32(b)) => {
                    a.iter().zip(b).take_while(|(a, b)| a == b).count()
                }
                _ => 0,
            };
            let (got, wanted) = (got.len(), wanted.len());
            return Err(format!("{} differs from window {same} on: {got} came, {wanted} belong", spec.name));
        }
    }
    Ok(outcome.windows)
}

fn compare_speech(hearing: &Hearing, outcome: &Outcome) -> Result<(), String> {
    let wanted: Vec<(bool, f64)> = outcome
        .findings
        .events
        .iter()
        .map(|event| {
            // The one model that tells events works at 16 kHz.
            (event.kind == EventKind::SpeechStarted, event.at_sample as f64 / 16.0)
        })
        .collect();
    let same = wanted.len() == hearing.speech.len()
        && wanted.iter().zip(&hearing.speech).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 0.002);
    if same { Ok(()) } else { Err(format!("speech is {wanted:?}, heard was {:?}", hearing.speech)) }
}
