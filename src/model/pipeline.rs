//! From a stream's samples to a model's windows, and from what the model found back to the stream.
//!
//! Owns what is remembered of a stream between runs ([`StreamState`]) and the only call to [`Model::infer`]. It takes
//! out every delay, fills the end of a stream up with silence, and keeps a failing model from harming more than the
//! runs that it says it failed, or, if it panics, the runs of that call. It never waits, logs or looks at a clock.
//!
//! Invariants: what comes out over a whole stream does not depend on how it was cut into runs, nor on what else was
//! in the batch; the durations of a stream's outcomes add up to the audio received; positions never go backwards,
//! not even when the model fails.

use super::resample::{self, RESAMPLER_BYTES_MAX, Resampler, WORKSHOP_BYTES_MAX, Workshop};
use super::tensor::all_finite;
use super::{Failure, Findings, Lane, Model, ModelSpec, Outcome, Run, State};
use crate::reason::{Fault, Reason};
use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The lowest sample rate of a stream, hertz: telephone speech.
pub const SAMPLE_RATE_HZ_MIN: u32 = 8_000;

/// The highest sample rate of a stream, hertz: what sound cards and browsers record at.
pub const SAMPLE_RATE_HZ_MAX: u32 = 48_000;

/// Upper bound of what a worker thread keeps for resampling, bytes, not counting the runs that it works on.
pub const WORKER_BYTES_MAX: usize = WORKSHOP_BYTES_MAX;

/// How many samples at the stream's rate are handed out at a time; a run is a whole number of these unless it is the
/// stream's last.
///
/// # Errors
/// `invalid_audio_format` at `sample_rate` if the rate is not within [`SAMPLE_RATE_HZ_MIN`]..=[`SAMPLE_RATE_HZ_MAX`].
pub fn unit(spec: &ModelSpec, stream_rate_hz: u32) -> Result<usize, Fault> {
    if !(SAMPLE_RATE_HZ_MIN..=SAMPLE_RATE_HZ_MAX).contains(&stream_rate_hz) {
        let message = format!(
            "a sample rate of {stream_rate_hz} Hz is not served; \
             use one from {SAMPLE_RATE_HZ_MIN} to {SAMPLE_RATE_HZ_MAX} Hz"
        );
        return Err(Fault::new(Reason::InvalidAudioFormat, message).at("sample_rate"));
    }
    match spec.sample_rate_hz {
        Some(model_rate_hz) if model_rate_hz != stream_rate_hz => {
            Ok(resample::block(stream_rate_hz, model_rate_hz))
        }
        _ => Ok(spec.hop),
    }
}

/// Upper bound, over all sample rates, of a [`StreamState`] with everything that it holds on the heap, bytes. The
/// samples and outcomes of runs come on top.
pub fn state_bytes_max(spec: &ModelSpec) -> usize {
    let resamplers = match (spec.sample_rate_hz, spec.audio_out) {
        (None, _) => 0,
        (Some(_), false) => 1,
        (Some(_), true) => 2,
    };
    let carry = spec.window * size_of::<f32>();
    size_of::<StreamState>() + spec.state_bytes + carry + resamplers * RESAMPLER_BYTES_MAX
}

/// All that is remembered of one stream on the workers' side. Cheap to make: what is large is made by the worker at
/// the first run.
pub struct StreamState {
    stream_rate_hz: u32,
    /// Only if the model works at another rate.
    input: Option<Resampler>,
    /// Only if the model works at another rate and gives audio back.
    output: Option<Resampler>,
    /// `None` until the first window, and again after the model failed.
    model: Option<State>,
    /// Samples at the model's rate from the start of the next window on; less than a window.
    carry: Vec<f32>,
    /// Samples received so far, at the stream's rate.
    received: u64,
    /// Windows inferred so far.
    windows: u64,
    /// Samples of the model's latency that have yet to be dropped from what it gives back.
    trim: usize,
    /// Samples given back so far, at the stream's rate.
    returned: u64,
}

impl StreamState {
    /// The state of a stream that has not begun.
    ///
    /// # Errors
    /// As [`unit()`].
    pub fn new(model: &dyn Model, stream_rate_hz: u32) -> Result<Self, Fault> {
        let spec = model.spec();
        unit(spec, stream_rate_hz)?;
        let model_rate_hz = spec.rate_for(stream_rate_hz);
        let resampled = model_rate_hz != stream_rate_hz;
        Ok(Self {
            stream_rate_hz,
            input: resampled.then(|| Resampler::new(stream_rate_hz, model_rate_hz)),
            output: (resampled && spec.audio_out).then(|| Resampler::new(model_rate_hz, stream_rate_hz)),
            model: None,
            carry: Vec::new(),
            received: 0,
            windows: 0,
            trim: spec.latency,
            returned: 0,
        })
    }

    /// The sample rate of the stream, hertz.
    pub fn stream_rate_hz(&self) -> u32 {
        self.stream_rate_hz
    }

    /// Takes a run's samples and puts everything from the start of the next window on into `lane`.
    fn take(
        &mut self,
        spec: &ModelSpec,
        samples: &[f32],
        last: bool,
        bench: &mut Bench,
        lane: &mut Vec<f32>,
    ) -> Work {
        self.received += samples.len() as u64;
        lane.clear();
        lane.append(&mut self.carry);
        let fresh = lane.len();
        match &mut self.input {
            Some(resampler) => resampler.push(&mut bench.workshop, samples, lane),
            None => lane.extend_from_slice(samples),
        }
        let work = if last { self.last_work(spec, bench, lane) } else { whole_windows(spec, lane.len()) };
        // A resampler may overshoot the range that models are promised.
        if self.input.is_some() {
            let fresh = fresh.min(lane.len());
            clamp(&mut lane[fresh..]);
        }
        work
    }

    /// At the end every window that begins within the stream is inferred, and then as many as the latency takes.
    fn last_work(&mut self, spec: &ModelSpec, bench: &mut Bench, lane: &mut Vec<f32>) -> Work {
        if self.received == 0 {
            return Work::default();
        }
        let model_rate_hz = u64::from(spec.rate_for(self.stream_rate_hz));
        let length = (self.received * model_rate_hz).div_ceil(u64::from(self.stream_rate_hz));
        let hop = spec.hop as u64;
        let rows = length.div_ceil(hop).saturating_sub(self.windows) as usize;
        let count = (length + spec.latency as u64).div_ceil(hop).saturating_sub(self.windows) as usize;

        let here = length.saturating_sub(self.windows * hop) as usize;
        if let Some(resampler) = &mut self.input {
            resampler.flush(&mut bench.workshop, here, lane);
        }
        lane.truncate(here);
        if count > 0 {
            lane.resize((count - 1) * spec.hop + spec.window, 0.0);
        }
        Work { count, rows, ends_at: Some(length) }
    }

    /// Moves on past the windows, keeping what the next one needs.
    fn advance(&mut self, spec: &ModelSpec, work: Work, lane: &[f32], outcome: &mut Outcome) {
        let window_ms = |windows: u64| {
            windows as f64 * spec.hop as f64 * 1000.0 / f64::from(spec.rate_for(self.stream_rate_hz))
        };
        let received_ms = self.received as f64 * 1000.0 / f64::from(self.stream_rate_hz);
        outcome.windows = work.rows;
        outcome.start_ms = window_ms(self.windows).min(received_ms);
        outcome.duration_ms = window_ms(self.windows + work.rows as u64).min(received_ms) - outcome.start_ms;
        self.windows += work.count as u64;
        if work.ends_at.is_none() {
            let rest = &lane[work.count * spec.hop..];
            if self.carry.capacity() < rest.len() {
                self.carry.reserve_exact(spec.window);
            }
            self.carry.extend_from_slice(rest);
        }
    }

    /// Turns what the model gave back into what the stream gets back: its rate, its delays taken out, its length.
    fn give_back(&mut self, last: bool, bench: &mut Bench, audio: &mut Vec<f32>) {
        let dropped = self.trim.min(audio.len());
        audio.drain(..dropped);
        self.trim -= dropped;
        let wanted = (self.received - self.returned) as usize;
        if let Some(resampler) = &mut self.output {
            std::mem::swap(audio, &mut bench.audio);
            audio.clear();
            resampler.push(&mut bench.workshop, &bench.audio, audio);
            if last {
                resampler.flush(&mut bench.workshop, wanted, audio);
            }
        }
        debug_assert!(last || audio.len() <= wanted, "audio from the future");
        audio.truncate(wanted);
        clamp(audio);
        self.returned += audio.len() as u64;
    }
}

/// What one run asks of the model.
#[derive(Clone, Copy, Default)]
struct Work {
    /// Windows to infer.
    count: usize,
    /// Those of them that begin within the stream; the others only flush the model's latency.
    rows: usize,
    /// The stream's length at the model's rate, if this is its end.
    ends_at: Option<u64>,
}

impl Work {
    fn is_nothing(&self) -> bool {
        self.count == 0 && self.ends_at.is_none()
    }
}

fn whole_windows(spec: &ModelSpec, samples: usize) -> Work {
    let count = if samples < spec.window { 0 } else { (samples - spec.window) / spec.hop + 1 };
    Work { count, rows: count, ends_at: None }
}

/// What a worker thread needs for any run and keeps for the next, so that steady work allocates nothing.
#[derive(Default)]
struct Bench {
    workshop: Workshop,
    /// Audio on its way through a resampler.
    audio: Vec<f32>,
}

thread_local! {
    static BENCH: RefCell<(Bench, Vec<Desk>)> = RefCell::default();
}

/// The share of one run in a call.
#[derive(Default)]
struct Desk {
    samples: Vec<f32>,
    work: Work,
}

/// Infers all runs: in one call if the model prefers that, otherwise in one call each.
pub(super) fn execute(model: &dyn Model, runs: &mut [Run]) {
    let group = if model.spec().batched { runs.len().max(1) } else { 1 };
    BENCH.with_borrow_mut(|(bench, desks)| {
        for runs in runs.chunks_mut(group) {
            if desks.len() < runs.len() {
                desks.resize_with(runs.len(), Desk::default);
            }
            execute_together(model, runs, bench, desks);
        }
    });
}

fn execute_together(model: &dyn Model, runs: &mut [Run], bench: &mut Bench, desks: &mut [Desk]) {
    let spec = model.spec();
    for (run, desk) in runs.iter_mut().zip(&mut *desks) {
        run.outcome.failure = None;
        run.outcome.findings.reset(spec);
        desk.work = run.state.take(spec, &run.samples, run.last, bench, &mut desk.samples);
    }
    let panicked = call(model, runs, desks).err();
    for (run, desk) in runs.iter_mut().zip(&*desks) {
        finish(spec, run, desk, panicked.as_ref(), bench);
    }
}

/// Calls the model for every run that has something to do.
fn call(model: &dyn Model, runs: &mut [Run], desks: &[Desk]) -> Result<(), Failure> {
    let infer = || {
        let mut busy = runs.iter_mut().zip(desks).filter(|(_, desk)| !desk.work.is_nothing());
        let Some((run, desk)) = busy.next() else { return };
        let first = lane(model, run, desk);
        let mut others = busy.map(|(run, desk)| lane(model, run, desk)).peekable();
        // The usual case is one lane, and needs no list.
        if others.peek().is_none() {
            model.infer(&mut [first]);
        } else {
            model.infer(&mut std::iter::once(first).chain(others).collect::<Vec<_>>());
        }
    };
    // Whatever the model leaves half done is thrown away: the findings and the model's state.
    catch_unwind(AssertUnwindSafe(infer)).map_err(|payload| Failure::Panicked(panic_message(&*payload)))
}

fn lane<'a>(model: &dyn Model, run: &'a mut Run, desk: &'a Desk) -> Lane<'a> {
    let ModelSpec { window, hop, .. } = *model.spec();
    let StreamState { model: state, windows, .. } = &mut *run.state;
    let Work { count, ends_at, .. } = desk.work;
    let len = if count == 0 { 0 } else { (count - 1) * hop + window };
    Lane {
        state: state.get_or_insert_with(|| model.start()),
        samples: &desk.samples[..len],
        count,
        first_window: *windows,
        ends_at,
        findings: &mut run.outcome.findings,
        failure: &mut run.outcome.failure,
    }
}

fn finish(spec: &ModelSpec, run: &mut Run, desk: &Desk, panicked: Option<&Failure>, bench: &mut Bench) {
    let Run { state, outcome, last, .. } = run;
    let work = desk.work;
    if !work.is_nothing() {
        // What the model told of this run goes before the panic that another may have caused.
        let told = outcome.failure.take().or_else(|| panicked.cloned());
        let checked = told.map_or_else(|| check(spec, work.count, &outcome.findings), Err);
        if let Err(failure) = checked {
            state.model = None;
            outcome.findings = Findings::empty(spec);
            if spec.audio_out {
                outcome.findings.audio.resize(work.count * spec.hop, 0.0);
            }
            outcome.failure = Some(failure);
        }
    }
    for (data, output) in outcome.findings.outputs.iter_mut().zip(&spec.outputs) {
        data.truncate(work.rows * output.row_len());
    }
    state.advance(spec, work, &desk.samples, outcome);
    if spec.audio_out {
        state.give_back(*last, bench, &mut outcome.findings.audio);
    }
}

/// Whether the model kept its word.
fn check(spec: &ModelSpec, count: usize, findings: &Findings) -> Result<(), Failure> {
    let samples = if spec.audio_out { count * spec.hop } else { 0 };
    let shaped = findings.audio.len() == samples
        && findings.outputs.len() == spec.outputs.len()
        && findings.outputs.iter().zip(&spec.outputs).all(|(data, output)| {
            data.len() == count * output.row_len() && data.datatype() == output.datatype
        });
    if !shaped {
        return Err(Failure::WrongShape);
    }
    let finite = all_finite(&findings.audio, f32::is_finite)
        && findings.outputs.iter().all(|data| data.is_finite())
        && findings.speech_probability.is_none_or(f32::is_finite)
        && findings.detections.iter().all(|found| found.score.is_finite())
        && findings.classes.iter().all(|class| class.score.is_finite());
    if finite { Ok(()) } else { Err(Failure::NotFinite) }
}

fn clamp(samples: &mut [f32]) {
    samples.iter_mut().for_each(|sample| *sample = sample.clamp(-1.0, 1.0));
}

/// What a panic said.
pub fn panic_message(payload: &(dyn Any + Send)) -> String {
    let told = payload.downcast_ref::<&str>().map(|text| text.to_string());
    told.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
