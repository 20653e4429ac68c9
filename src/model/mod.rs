//! The vocabulary of inference: what a model is, what goes to a worker and what comes home.
//!
//! A [`Run`] carries the state of its stream with it, so whoever executes it needs no locks. Nothing here knows of
//! sockets, sessions, clients or the clock.

pub mod onnx;

mod denoise;
mod echo;
mod guard;
mod pipeline;
mod registry;
mod repository;
mod resample;
mod segment;
mod tensor;
mod tensors;
mod vad;
mod warm_up;

#[cfg(test)]
mod cost;
#[cfg(test)]
mod footprint;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod quality;
#[cfg(test)]
mod rehearsal;

pub use echo::{WINDOW as ECHO_WINDOW, checksum as echo_checksum};
pub use guard::Trial;
pub use pipeline::{
    SAMPLE_RATE_HZ_MAX, SAMPLE_RATE_HZ_MIN, StreamState, WORKER_BYTES_MAX, panic_message, state_bytes_max,
    unit,
};
pub use registry::{Registry, Served, not_found};
pub use repository::{
    Clock, IndexEntry, Loaded, MODEL_FILE, Repository, RepositoryOptions, Survey, is_name, read_manifest,
    version_of,
};
pub use tensor::{Datatype, Tensor, TensorData, elements};
pub use tensors::{Dim, TensorLane, TensorModel, TensorModelSpec, TensorSpec};

use serde_json::{Value, json};
use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A model's own memory of one stream. Opaque to everyone but the model that made it.
pub type State = Box<dyn Any + Send>;

/// What a model takes and gives.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// The name in `?model=` and in paths.
    pub name: Arc<str>,
    /// Counts up with every change of behaviour.
    pub version: u32,
    /// One sentence for `suzu models` and `/v1/models`.
    pub description: Arc<str>,
    /// The rate the model works at, hertz; `None` takes every stream at its own rate.
    pub sample_rate_hz: Option<u32>,
    /// Samples that one inference looks at, at the model's rate.
    pub window: usize,
    /// Distance between the starts of two windows, at most `window`.
    pub hop: usize,
    /// Samples (model's rate) by which audio given back lags audio taken; the pipeline trims them.
    pub latency: usize,
    /// Whether processed audio comes back.
    pub audio_out: bool,
    /// The tensors of a result, one row for each window.
    pub outputs: Vec<OutputSpec>,
    /// Upper bound of one stream's own model state, bytes on the heap, without resamplers.
    pub state_bytes: usize,
    /// Whether one call for many streams is cheaper than one call each. If not, each run gets a call of its
    /// own, so that a panic hurts one stream only.
    pub batched: bool,
    /// Upper bound of its weights and of what a worker needs to run it, bytes; 0 for a model inside the binary.
    pub weights_bytes: usize,
    /// What it asks of those who batch and run it.
    pub limits: ModelLimits,
}

/// One output tensor of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputSpec {
    /// Its name in `Results.outputs`.
    pub name: Arc<str>,
    /// Its element type.
    pub datatype: Datatype,
    /// The dimensions of one row, which belongs to one window; empty: a row is one element.
    pub shape: Vec<usize>,
    /// What the last dimension's elements stand for, if they stand for something.
    pub labels: Vec<Arc<str>>,
}

/// What a model asks of those who batch and run it. `None` leaves it to the configuration of the server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelLimits {
    /// Runs, or rows of requests, in one batch at most.
    pub batch_max: Option<usize>,
    /// How long the first of a batch waits for others.
    pub queue_delay_max: Option<Duration>,
    /// Sizes of batches that the model is fastest at, ascending; empty: any.
    pub preferred: Vec<usize>,
    /// How long one batch may take.
    pub infer_timeout: Option<Duration>,
    /// Batches with the workers at a time.
    pub concurrency_max: Option<usize>,
    /// An inference never blocks and never hangs, and its time depends on the length of the audio alone: a short one may
    /// be done by the loop itself, which costs less than handing it over. Only for models inside the binary.
    pub prompt: bool,
}

impl OutputSpec {
    /// An output whose rows are single elements.
    pub fn scalar(name: &str, datatype: Datatype) -> Self {
        Self { name: name.into(), datatype, shape: Vec::new(), labels: Vec::new() }
    }

    /// Elements in a row.
    pub fn row_len(&self) -> usize {
        self.shape.iter().product()
    }
}

impl ModelSpec {
    /// The rate at which the model sees a stream of `stream_rate_hz`.
    pub fn rate_for(&self, stream_rate_hz: u32) -> u32 {
        self.sample_rate_hz.unwrap_or(stream_rate_hz)
    }

    /// The same as JSON, for `/v1/models` and `suzu models --json`.
    pub fn to_json(&self) -> Value {
        let outputs = self.outputs.iter();
        let outputs =
            outputs.map(|output| json!({ "name": &*output.name, "datatype": output.datatype.name(), "shape": output.shape }));
        json!({
            "name": &*self.name,
            "version": self.version,
            "description": &*self.description,
            "sample_rate_hz": self.sample_rate_hz,
            "window": self.window,
            "hop": self.hop,
            "latency": self.latency,
            "audio_out": self.audio_out,
            "outputs": outputs.collect::<Vec<_>>(),
        })
    }
}

/// A model: shared by all workers, so it holds no stream's state.
pub trait Model: Send + Sync + 'static {
    /// What it takes and gives.
    fn spec(&self) -> &ModelSpec;

    /// The state of a stream that has heard nothing yet.
    fn start(&self) -> State;

    /// Infers every lane's windows in order, updates its state and appends to its outcome: exactly `count` rows
    /// to each output, and `count * hop` samples to `audio` if the model gives audio back. What fails for one lane
    /// is told in [`Lane::failure`]; a panic fails all lanes of the call.
    fn infer(&self, lanes: &mut [Lane<'_>]);
}

/// One stream's share of a call to [`Model::infer`].
pub struct Lane<'a> {
    /// The stream's state, made by this model's `start`.
    pub state: &'a mut State,
    /// `(count - 1) * hop + window` samples at the model's rate, mono, finite, within -1..=1.
    pub samples: &'a [f32],
    /// How many windows; may be 0 at the end of the stream.
    pub count: usize,
    /// Index of the first window since the stream began.
    pub first_window: u64,
    /// `Some` in the last call for a stream: its true length in samples at the model's rate. Whatever is open has
    /// to be closed, and no event may lie later. Windows that begin at or after it are silence that flushes
    /// `ModelSpec::latency`: they get rows like any other (the pipeline drops them) but no say in
    /// `Findings::speech_probability` and `is_speech`.
    pub ends_at: Option<u64>,
    /// Where the results go.
    pub findings: &'a mut Findings,
    /// `None` when the model gets it. A model that cannot go on with this stream says here why, and leaves the other
    /// lanes as they would be without this one: its findings and its state are then thrown away, and theirs are not.
    pub failure: &'a mut Option<Failure>,
}

/// What a model appends for each window.
#[derive(Debug, Default)]
pub struct Findings {
    /// One per `ModelSpec::outputs`, same order; rows appended window by window.
    pub outputs: Vec<TensorData>,
    /// Processed audio at the model's rate.
    pub audio: Vec<f32>,
    /// What was detected, in order of time.
    pub events: Vec<Event>,
    /// Probability of speech in the last window, if the model tells one.
    pub speech_probability: Option<f32>,
    /// Whether speech is going on after the last window (hysteresis applied), if the model tells.
    pub is_speech: Option<bool>,
    /// What was recognised at a point in time, in order of time.
    pub detections: Vec<Detection>,
    /// What the last window most probably is, best first, if the model classifies.
    pub classes: Vec<Class>,
}

/// Something recognised at a point in time, such as a word.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// What.
    pub label: Arc<str>,
    /// How sure the model is, as it scores.
    pub score: f32,
    /// When it was complete: samples at the model's rate since the stream began.
    pub at_sample: u64,
}

/// One of the things that a model tells apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    /// Its name.
    pub label: Arc<str>,
    /// How sure the model is, as it scores.
    pub score: f32,
}

impl Findings {
    /// Findings as a model gets them: every output there, nothing in them.
    pub fn empty(spec: &ModelSpec) -> Self {
        let outputs = spec.outputs.iter().map(|output| TensorData::new(output.datatype)).collect();
        Self { outputs, ..Self::default() }
    }

    /// Makes them empty again; what is allocated is kept if it fits the outputs.
    fn reset(&mut self, spec: &ModelSpec) {
        let fits = self.outputs.len() == spec.outputs.len()
            && self
                .outputs
                .iter()
                .zip(&spec.outputs)
                .all(|(data, output)| data.datatype() == output.datatype);
        if !fits {
            *self = Self::empty(spec);
        }
        self.outputs.iter_mut().for_each(|data| data.truncate(0));
        self.audio.clear();
        self.events.clear();
        self.speech_probability = None;
        self.is_speech = None;
        self.detections.clear();
        self.classes.clear();
    }
}

/// Something that a model detected at a point in time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// When: samples at the model's rate since the stream began.
    pub at_sample: u64,
}

/// Kinds of detection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Speech began (padding already subtracted).
    SpeechStarted,
    /// Speech ended (padding already added).
    SpeechEnded,
}

/// Consecutive audio of one stream on its way through a worker.
pub struct Run {
    /// All that is remembered of the stream: resamplers, left-over samples, the model's state.
    pub state: Box<StreamState>,
    /// Mono samples at the stream's rate, finite, within -1..=1. Whole units unless `last`.
    pub samples: Vec<f32>,
    /// The stream ends here: the tail is padded with silence and every delay is flushed.
    pub last: bool,
    /// Filled in by [`execute`].
    pub outcome: Outcome,
}

/// What became of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many windows were inferred; may be 0.
    pub windows: usize,
    /// Where in the stream the first window begins, milliseconds.
    pub start_ms: f64,
    /// How much audio the windows advance, milliseconds (not counting padding at the end of the stream).
    pub duration_ms: f64,
    /// What the model found. `findings.audio` is at the *stream's* rate here, all delays taken out: over the whole
    /// stream exactly as many samples come back as went in, so the last run may give audio without any window.
    /// `Event::at_sample` stays at the model's rate.
    pub findings: Findings,
    /// Why there are no findings, if the model failed. The model's state has then been started afresh, and
    /// `start_ms` and `duration_ms` tell the audio that was lost. A model that gives audio back gives silence in
    /// its place, so that what follows stays aligned.
    pub failure: Option<Failure>,
}

/// How inference failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The model panicked; its message.
    Panicked(String),
    /// The model gave NaN or infinity.
    NotFinite,
    /// The model gave another number of rows or samples than it must.
    WrongShape,
    /// The engine beneath the model failed; what it said.
    Engine(String),
    /// The request does not fit the model; what is wrong with it. The model is not to blame.
    Refused(String),
}

impl fmt::Display for Failure {
    /// Goes on after "the model".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Panicked(message) => write!(f, "panicked: {message}"),
            Failure::NotFinite => f.write_str("gave a result that is not a number"),
            Failure::WrongShape => f.write_str("gave a result of the wrong shape"),
            Failure::Engine(message) => write!(f, "failed in its engine: {message}"),
            Failure::Refused(message) => write!(f, "refused its input: {message}"),
        }
    }
}

impl Run {
    /// A run that has yet to be executed.
    pub fn new(state: Box<StreamState>, samples: Vec<f32>, last: bool) -> Self {
        Self { state, samples, last, outcome: Outcome::default() }
    }
}

/// Infers every run and fills in its outcome. Takes as long as the model takes. A panic of the model is caught and told
/// in [`Outcome::failure`].
pub fn execute(model: &dyn Model, runs: &mut [Run]) {
    pipeline::execute(model, runs);
}
