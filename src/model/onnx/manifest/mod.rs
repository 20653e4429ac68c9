//! `model.toml`: what the owner of a model says about it that the ONNX file does not.
//!
//! Owns the keys, their defaults and what can be wrong with them on their own. What contradicts the ONNX file is found
//! where the two meet, as in [`super::Graph::new`]. Reads no file:
//! text is handed in.
//!
//! Invariant: a [`Manifest`] that was parsed keeps every rule that can be checked without the ONNX file.

mod check;
mod locate;
mod values;

pub use values::{AxisOf, Flat, Number, Numbers, Side};

use super::EngineKind;
use super::plan::{Axis, Constant, Initial, Plan, StatePlan, States};
use crate::model::{Datatype, ModelLimits};
use serde::Deserialize;
use std::fmt;
use std::time::Duration;

/// The name of the file within a version's folder.
pub const MANIFEST_FILE: &str = "model.toml";

/// What a `model.toml` says. [`Manifest::default`] is that of a folder without one.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Manifest {
    /// One sentence for people.
    pub description: String,
    /// The engine to run it with; left out: the one that the server is configured for.
    #[serde(deserialize_with = "values::platform")]
    pub platform: Option<EngineKind>,
    /// There if the model hears streams.
    pub audio: Option<Audio>,
    /// There if the model is to be given a spectrum instead of samples.
    pub features: Option<Features>,
    /// Inputs that are the same in every call.
    #[serde(rename = "const")]
    pub constants: Vec<Const>,
    /// Outputs that are inputs of the next call; left out: they are found by their names. `state = []`: there are none.
    #[serde(rename = "state")]
    pub states: Option<Vec<StatePair>>,
    /// Inputs and outputs whose rows are not along the dimension that one would guess.
    #[serde(rename = "axis")]
    pub axes: Vec<AxisSection>,
    /// Dimensions to try the model with, where the file leaves them open.
    #[serde(rename = "sample")]
    pub samples: Vec<Sample>,
    /// What the outputs mean.
    #[serde(rename = "output")]
    pub outputs: Vec<Output>,
    /// How runs share a call.
    pub batch: BatchSection,
    /// What is made of the outputs.
    pub postprocess: Option<Postprocess>,
    /// Bounds.
    pub limits: Limits,
}

/// `[audio]`: how a stream is put before the model.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audio {
    /// The input that takes the audio; left out: the only one that is neither state nor constant.
    pub input: Option<String>,
    /// Hertz.
    pub sample_rate: u32,
    /// Channels; only 1 is served.
    #[serde(default = "one")]
    pub channels: u32,
    /// Samples that a call looks at; left out: `hop`. More than `hop` means that windows overlap.
    #[serde(default)]
    pub window: Option<usize>,
    /// Samples from one window to the next.
    pub hop: usize,
    /// Samples by which audio given back lags audio taken.
    #[serde(default)]
    pub latency: usize,
    /// What the dimensions of the input are: `batch`, `1`, and `samples`, or `frames` and `features`.
    #[serde(default)]
    pub layout: Option<Vec<Side>>,
    /// What samples within -1..=1 are multiplied by.
    #[serde(default = "unit")]
    pub scale: f32,
}

impl Features {
    /// The length of the transform: as declared, or the least power of two from `win`; beyond all powers of two the
    /// greatest number, which no rule lets pass.
    pub fn n_fft(&self) -> usize {
        self.n_fft.unwrap_or_else(|| self.win.checked_next_power_of_two().unwrap_or(usize::MAX))
    }
}

impl Audio {
    /// Samples that a call looks at.
    pub fn window(&self) -> usize {
        self.window.unwrap_or(self.hop)
    }
}

/// `[features]`: a log-mel spectrum instead of samples; see [`super::FilterBank`] for what is computed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Features {
    /// Bands.
    pub n_mels: usize,
    /// Samples that a frame looks at.
    pub win: usize,
    /// Samples from one frame to the next.
    pub hop: usize,
    /// Length of the transform; left out: the least power of two that is no less than `win`.
    #[serde(default)]
    pub n_fft: Option<usize>,
    /// The lower end of the lowest band, hertz.
    #[serde(default)]
    pub f_min: f32,
    /// The upper end of the highest band, hertz; left out: half the sample rate.
    #[serde(default)]
    pub f_max: Option<f32>,
    /// The window function.
    #[serde(default)]
    pub window: WindowKind,
    /// The scale on which bands are evenly spread.
    #[serde(default)]
    pub mel: MelScale,
    /// What each band's triangle is scaled to.
    #[serde(default)]
    pub norm: MelNorm,
    /// The exponent of magnitudes: 2 is power, 1 magnitude.
    #[serde(default = "two")]
    pub power: u32,
    /// The logarithm.
    #[serde(default)]
    pub log: LogKind,
    /// What is taken instead of anything less, before the logarithm.
    #[serde(default = "floor")]
    pub floor: f32,
    /// What is added before the floor.
    #[serde(default)]
    pub offset: f32,
    /// Subtracted after the logarithm: one number, or one for each band.
    #[serde(default)]
    pub mean: Option<Numbers>,
    /// Divided by after that: one number, or one for each band.
    #[serde(default)]
    pub std: Option<Numbers>,
}

/// Window functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowKind {
    /// Hann, periodic: `0.5 - 0.5 cos(2 pi n / win)`, as librosa and torchaudio have it.
    #[default]
    Hann,
}

/// Mel scales.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MelScale {
    /// `2595 log10(1 + f / 700)`: HTK, and torchaudio unless told otherwise.
    #[default]
    Htk,
    /// Linear below 1 kHz, logarithmic above: Slaney, and librosa unless told otherwise.
    Slaney,
}

/// How triangles are scaled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MelNorm {
    /// To a height of 1.
    #[default]
    None,
    /// To the same area: 2 / (upper end - lower end).
    Slaney,
}

/// Logarithms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogKind {
    /// Natural.
    #[default]
    Ln,
    /// To base 10.
    Log10,
    /// Ten times that.
    Db,
    /// None: the energies themselves.
    None,
}

/// `[[const]]`: an input that is the same in every call.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Const {
    /// The input.
    pub name: String,
    /// Its type; left out: as the file says.
    #[serde(default, deserialize_with = "values::datatype")]
    pub dtype: Option<Datatype>,
    /// Its dimensions; left out: as the file says.
    #[serde(default)]
    pub shape: Option<Vec<usize>>,
    /// Its elements; one number is repeated.
    pub value: Flat,
}

/// `[[state]]`: an output that is an input of the next call.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatePair {
    /// The input.
    pub input: String,
    /// The output.
    pub output: String,
    /// Its type; left out: as the file says.
    #[serde(default, deserialize_with = "values::datatype")]
    pub dtype: Option<Datatype>,
    /// Its dimensions with `"batch"` among them; left out: as the file says.
    #[serde(default)]
    pub shape: Option<Vec<Side>>,
    /// What it is when a stream begins: one number, or all elements of a row.
    #[serde(default)]
    pub init: Option<Flat>,
}

/// `[[axis]]`: where the rows of an input or output are.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AxisSection {
    /// The input or output.
    pub name: String,
    /// The dimension, counted from 0, or `"none"`.
    pub axis: AxisOf,
}

/// `[[sample]]`: dimensions to try an input with.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The input.
    pub input: String,
    /// All its dimensions, that of the batch as 1.
    pub shape: Vec<usize>,
}

/// `[[output]]`: what an output means.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// The output.
    pub name: String,
    /// What its numbers are.
    #[serde(default)]
    pub kind: OutputKind,
    /// What the elements of its last dimension stand for.
    #[serde(default)]
    pub labels: Vec<String>,
    /// What makes probabilities of logits; left out: softmax over several elements, sigmoid of one.
    #[serde(default)]
    pub activation: Option<Activation>,
}

/// What the numbers of an output are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputKind {
    /// Within 0..=1.
    Probability,
    /// What an activation makes probabilities of; the stream's results are these probabilities.
    Logits,
    /// The more the likelier, on a scale of the model's own.
    Scores,
    /// Audio to be given back, `hop` samples of each window.
    Pcm,
    /// A point in a space.
    Embedding,
    /// Anything else.
    #[default]
    Raw,
    /// Of no interest: it is not even computed where the engine can leave it out.
    Unused,
}

impl OutputKind {
    /// Its name in `model.toml`.
    pub fn name(self) -> &'static str {
        match self {
            OutputKind::Probability => "probability",
            OutputKind::Logits => "logits",
            OutputKind::Scores => "scores",
            OutputKind::Pcm => "pcm",
            OutputKind::Embedding => "embedding",
            OutputKind::Raw => "raw",
            OutputKind::Unused => "unused",
        }
    }
}

/// What makes probabilities of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Over the last dimension; its elements add up to 1.
    Softmax,
    /// Of each element.
    Sigmoid,
}

/// `[batch]`: how runs share a call.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchSection {
    /// Rows in a call at most.
    pub max: Option<usize>,
    /// How long the first waits for others.
    #[serde(deserialize_with = "values::optional_duration")]
    pub max_wait: Option<Duration>,
    /// Sizes at which the model is fastest, ascending.
    pub preferred: Vec<usize>,
}

/// `[limits]`: bounds of one batch, and of one request.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// How long a batch may take.
    #[serde(deserialize_with = "values::optional_duration")]
    pub time: Option<Duration>,
    /// Batches with the workers at a time.
    pub concurrency: Option<usize>,
    /// Elements of one request's inputs, and of its outputs.
    pub elements_max: Option<usize>,
}

/// `[postprocess]`: what is made of an output.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Postprocess {
    /// Events where speech starts and ends.
    Speech(Speech),
    /// The likeliest labels.
    Classify(Classify),
    /// Words, told once each.
    Keyword(Keyword),
}

/// `kind = "speech"`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Speech {
    /// The output that tells; left out: the only one of probabilities.
    pub output: Option<String>,
    /// Which of the output's labels is speech, where a row has several elements.
    pub label: Option<String>,
    /// Speech begins at this probability.
    pub on: f32,
    /// And goes on at this one.
    pub off: f32,
    /// What is shorter is no speech.
    #[serde(deserialize_with = "values::duration")]
    pub min_on: Duration,
    /// A pause that is shorter does not end it.
    #[serde(deserialize_with = "values::duration")]
    pub min_off: Duration,
    /// Added before and after.
    #[serde(deserialize_with = "values::duration")]
    pub pad: Duration,
    /// By how much a window's probability is behind the end of the window.
    #[serde(deserialize_with = "values::duration")]
    pub lag: Duration,
}

/// `kind = "classify"`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Classify {
    /// The output that tells; left out: the only one of probabilities, logits or scores.
    pub output: Option<String>,
    /// How many labels to tell.
    pub top_k: usize,
    /// Windows to take the mean of.
    pub smooth: usize,
}

/// `kind = "keyword"`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keyword {
    /// The output that tells; left out: the only one of probabilities, logits or scores.
    pub output: Option<String>,
    /// Windows to take the mean of; nothing is told before there are as many.
    pub smooth: usize,
    /// The mean from which on a word counts.
    pub threshold: f32,
    /// How long nothing is told after a word.
    #[serde(deserialize_with = "values::duration")]
    pub refractory: Duration,
    /// Labels that are no words, such as silence.
    pub ignore: Vec<String>,
}

impl Default for Speech {
    /// The thresholds that silero's own scripts use; the times are those of `vad` rounded.
    fn default() -> Self {
        Self {
            output: None,
            label: None,
            on: 0.5,
            off: 0.35,
            min_on: Duration::from_millis(50),
            min_off: Duration::from_millis(200),
            pad: Duration::from_millis(30),
            lag: Duration::ZERO,
        }
    }
}

impl Default for Classify {
    fn default() -> Self {
        Self { output: None, top_k: 5, smooth: 1 }
    }
}

impl Default for Keyword {
    fn default() -> Self {
        Self {
            output: None,
            smooth: 3,
            threshold: 0.8,
            refractory: Duration::from_millis(500),
            ignore: Vec::new(),
        }
    }
}

/// All that is wrong with a `model.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// At least one; each names the file, the key, what is wrong and what would be right.
    pub problems: Vec<String>,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for ManifestError {}

impl Manifest {
    /// Reads a `model.toml`. `file` is what errors call it.
    ///
    /// # Errors
    /// What is wrong with it: the first thing that is no such file at all, or else everything that breaks a rule.
    pub fn parse(file: &str, text: &str) -> Result<Manifest, ManifestError> {
        let manifest: Manifest = toml::from_str(text)
            .map_err(|error| ManifestError { problems: vec![locate::tell(file, text, &error)] })?;
        let problems = check::problems(&manifest);
        if problems.is_empty() {
            return Ok(manifest);
        }
        Err(ManifestError {
            problems: problems.into_iter().map(|problem| format!("{file}: {problem}")).collect(),
        })
    }

    /// The part that concerns the graph.
    pub fn plan(&self) -> Plan {
        let constant = |constant: &Const| Constant {
            input: constant.name.clone(),
            shape: constant.shape.clone(),
            values: constant.value.to_vec(),
        };
        let axis =
            |section: &AxisSection| Axis { port: section.name.clone(), axis: section.axis.dimension() };
        let hidden = self.outputs.iter().filter(|output| output.kind == OutputKind::Unused);
        Plan {
            states: match &self.states {
                None => States::Detected,
                Some(pairs) => States::Declared(pairs.iter().map(state_plan).collect()),
            },
            constants: self.constants.iter().map(constant).collect(),
            axes: self.axes.iter().map(axis).collect(),
            hidden: hidden.map(|output| output.name.clone()).collect(),
            batch_max: self.batch.max,
            samples: self.samples.iter().map(|sample| (sample.input.clone(), sample.shape.clone())).collect(),
        }
    }

    /// What the model asks of those who batch and run it.
    pub fn limits(&self) -> ModelLimits {
        ModelLimits {
            batch_max: self.batch.max,
            queue_delay_max: self.batch.max_wait,
            preferred: self.batch.preferred.clone(),
            infer_timeout: self.limits.time,
            concurrency_max: self.limits.concurrency,
            // Foreign code: it may hang.
            prompt: false,
        }
    }

    /// What it says about an output.
    pub fn output(&self, name: &str) -> Option<&Output> {
        self.outputs.iter().find(|output| output.name == name)
    }
}

fn state_plan(pair: &StatePair) -> StatePlan {
    let side = |side: &Side| match side {
        Side::Fixed(side) => Some(*side),
        Side::Word(_) => None,
    };
    StatePlan {
        input: pair.input.clone(),
        output: pair.output.clone(),
        shape: pair.shape.as_ref().map(|shape| shape.iter().map(side).collect()),
        initial: match &pair.init {
            None => Initial::default(),
            Some(Flat::One(number)) => Initial::Fill(number.0),
            Some(many) => Initial::Values(many.to_vec()),
        },
    }
}

fn one() -> u32 {
    1
}

fn two() -> u32 {
    2
}

fn unit() -> f32 {
    1.0
}

fn floor() -> f32 {
    1e-10
}

#[cfg(test)]
mod tests;
