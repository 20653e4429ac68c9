//! Requests to models that hear streams: a request brings the next stretch of its sequence, or a stream of its own.

use super::call::{Call, Inferred, Memory, Question};
use crate::model::{
    Datatype, Failure, Model, ModelSpec, Run, StreamState, Tensor, TensorData, execute, panic_message,
};
use crate::reason::{Fault, Reason};
use crate::time::Instant;
use crate::wire::oip::{AUDIO, check_audio, check_outputs};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The rate of a request to a model that takes every rate, hertz.
const RATE_HZ: u32 = 16_000;

/// A request's part in the work.
struct Part {
    /// Its place among the calls.
    call: usize,
    /// How many of the runs are its own.
    rows: usize,
    /// Whether its audio came without a dimension of rows.
    flat: bool,
}

/// Lets the model answer those that have no reply yet.
pub(super) fn infer(model: &dyn Model, calls: &mut [Call], clock: &dyn Fn() -> Instant) -> Inferred {
    let (mut parts, mut runs) = (Vec::new(), Vec::new());
    for (index, call) in calls.iter_mut().enumerate() {
        if call.reply.is_some() {
            continue;
        }
        match take_runs(model, call, &mut runs) {
            Ok((rows, flat)) => parts.push(Part { call: index, rows, flat }),
            Err(fault) => call.refuse(fault),
        }
    }
    let began = clock();
    // Models are caught where they run; this is for our own mistakes around them.
    let panicked = catch_unwind(AssertUnwindSafe(|| execute(model, &mut runs))).err();
    let took = clock() - began;
    let mut inferred: Inferred = calls.iter().map(|_| None).collect();
    let mut runs = runs.into_iter();
    for Part { call: index, rows, flat } in parts {
        let mine: Vec<Run> = runs.by_ref().take(rows).collect();
        let call = &mut calls[index];
        call.times.infer += took;
        let failure = match &panicked {
            Some(payload) => Some(Failure::Panicked(panic_message(&**payload))),
            None => mine.iter().find_map(|run| run.outcome.failure.clone()),
        };
        match failure {
            Some(failure) => call.fail(&failure),
            None => inferred[index] = Some(outputs(model.spec(), &mine, flat)),
        }
        call.memory = mine.into_iter().next().filter(|_| call.keeps).map(|run| Memory::Audio(run.state));
    }
    inferred
}

/// Makes a run of each row of a request's audio.
fn take_runs(model: &dyn Model, call: &mut Call, runs: &mut Vec<Run>) -> Result<(usize, bool), Fault> {
    let Question::Read { request, .. } = &mut call.question else {
        return Err(Fault::new(Reason::InternalError, "the request was not read"));
    };
    let in_sequence = request.sequence.is_some();
    let spec = model.spec();
    let names = spec.outputs.iter().map(|output| &*output.name);
    check_outputs(request, &spec.name, names.chain(spec.audio_out.then_some(AUDIO)))?;
    let Tensor { shape, data } = check_audio(request, &spec.name, usize::MAX)?;
    let TensorData::Fp32(samples) = data else {
        return Err(Fault::new(Reason::InternalError, "the audio was checked to be FP32"));
    };
    let (rows, len) = match *shape.as_slice() {
        [len] => (1, len),
        [rows, len] => (rows, len),
        _ => {
            return Err(Fault::new(
                Reason::InternalError,
                "the audio was checked to have one or two dimensions",
            ));
        }
    };
    if in_sequence && rows != 1 {
        let message = format!("a request of a sequence brings one row of `{AUDIO}`, not {rows}");
        return Err(Fault::new(Reason::InvalidValue, message).at(AUDIO));
    }
    let rate_hz = model.spec().rate_for(RATE_HZ);
    let mut memory = match call.memory.take() {
        Some(Memory::Audio(state)) => Some(state),
        _ => None,
    };
    let first = runs.len();
    for row in 0..rows {
        let state = match memory.take() {
            Some(state) => state,
            None => Box::new(StreamState::new(model, rate_hz)?),
        };
        let audio = samples[row * len..][..len].iter().map(|sample| sample.clamp(-1.0, 1.0)).collect();
        runs.push(Run::new(state, audio, !call.keeps));
    }
    Ok((runs.len() - first, shape.len() == 1))
}

/// The findings of a request's rows as tensors `[rows, windows, ...]`, without the rows if there was no such dimension.
fn outputs(spec: &ModelSpec, runs: &[Run], flat: bool) -> (Vec<Tensor>, u64) {
    let windows = runs.first().map_or(0, |run| run.outcome.windows);
    let rows = if flat { None } else { Some(runs.len()) };
    let mut tensors = Vec::with_capacity(spec.outputs.len() + 1);
    for (index, output) in spec.outputs.iter().enumerate() {
        let mut data = TensorData::new(output.datatype);
        for run in runs {
            let found = &run.outcome.findings.outputs[index];
            data.extend_from(found, 0..found.len());
        }
        let shape = rows.into_iter().chain([windows]).chain(output.shape.iter().copied()).collect();
        tensors.push(Tensor { shape, data });
    }
    if spec.audio_out {
        let mut data = TensorData::new(Datatype::Fp32);
        let mut len = 0;
        for run in runs {
            let audio = &run.outcome.findings.audio;
            len = audio.len();
            data.extend_from(&TensorData::Fp32(audio.clone()), 0..len);
        }
        tensors.push(Tensor { shape: rows.into_iter().chain([len]).collect(), data });
    }
    (tensors, (windows * runs.len()) as u64)
}
