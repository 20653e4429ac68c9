//! A graph served as a model that hears streams.
//!
//! Owns the way from a lane's samples to the graph's one input and from its outputs to the lane's findings. Where the
//! audio goes and what the rows look like is found out once, at load; later rows of another size fail their lane.
//! Called by the loader, and by worker threads through [`Model`].
//!
//! Invariants: windows of different streams meet only in a call of the engine; what fails for one lane is told there and
//! leaves the others as they are.

use super::ear::{Ear, EarBench, EarMemory};
use super::engine::{Engine, Port, PortDim};
use super::graph::{Graph, GraphLane, GraphState};
use super::judge::{Judge, JudgeMemory};
use super::layout::{Layout, fits};
use super::manifest::{Activation, Audio, Manifest, OutputKind, Side};
use super::plan::{Axis, Plan};
use super::served::{ModelOptions, check_outputs};
use super::trial::Batching;
use super::view::{Elements, View};
use crate::model::{
    Datatype, Failure, Findings, Lane, Model, ModelSpec, OutputSpec, State, Tensor, TensorData, elements,
};
use std::cell::Cell;
use std::sync::Arc;

/// A graph served as a model that hears streams.
pub struct OnnxStream {
    spec: ModelSpec,
    graph: Graph,
    ear: Ear,
    /// The dimensions of the input with one row.
    shape: Vec<usize>,
    /// What becomes of each output of the graph.
    outlets: Vec<Outlet>,
    judge: Option<Judge>,
}

/// What becomes of an output.
struct Outlet {
    /// Elements in a row.
    len: usize,
    way: Way,
}

enum Way {
    /// Into that output of the model; an activation over so many elements at a time first.
    Row { output: usize, activation: Option<(Activation, usize)> },
    /// Divided by this, into the audio given back.
    Audio { scale: f32 },
}

/// What is remembered of one stream.
struct Memory {
    graph: GraphState,
    ear: EarMemory,
    judge: JudgeMemory,
}

thread_local! {
    /// The outputs of the last lanes, whose memory the next ones use.
    static LENT: Cell<Vec<Vec<Tensor>>> = const { Cell::new(Vec::new()) };
}

impl OnnxStream {
    /// Serves a file as `manifest` with its `audio` says, under a name and a version. Runs it a few times.
    ///
    /// # Errors
    /// As [`super::open_model`].
    pub fn new(
        name: &str,
        version: u32,
        manifest: &Manifest,
        audio: &Audio,
        engine: Arc<dyn Engine>,
        options: &ModelOptions,
    ) -> Result<OnnxStream, String> {
        let mut plan = manifest.plan();
        let input = find_input(&*engine, audio, &plan)?;
        let layout = find_layout(&input, manifest, audio)?;
        let shape = shape_of(&layout, manifest, audio);
        put_into(&mut plan, &input, &layout, &shape)?;
        let graph = Graph::new(engine, &plan)?.with_costs(&options.costs);
        check_outputs(&graph, manifest)?;
        let ear = Ear::new(manifest, audio, &layout);
        let rows = learn_rows(&graph, &ear, &shape)?;
        let (outlets, outputs) = outlets(&graph, manifest, audio, &rows)?;
        let judge = Judge::resolve(manifest, audio, &outputs)?;
        let state_bytes = size_of::<Memory>()
            + graph.state_bytes()
            + ear.memory_bytes()
            + judge.as_ref().map_or(0, Judge::memory_bytes);
        let mut limits = manifest.limits();
        let rows_max = match graph.batching() {
            Batching::Shared { rows_max } => *rows_max,
            Batching::Alone(_) => 1,
        };
        limits.batch_max = Some(limits.batch_max.map_or(rows_max, |declared| declared.min(rows_max)));
        let row_bytes: usize = rows.iter().map(|row| row.data.bytes()).sum();
        let call_bytes = rows_max * (4 * ear.len() + row_bytes + 2 * state_bytes);
        let spec = ModelSpec {
            name: name.into(),
            version,
            description: manifest.description.as_str().into(),
            sample_rate_hz: Some(audio.sample_rate),
            window: audio.window(),
            hop: audio.hop,
            latency: audio.latency,
            audio_out: outlets.iter().any(|outlet| matches!(outlet.way, Way::Audio { .. })),
            outputs,
            state_bytes,
            batched: matches!(graph.batching(), Batching::Shared { .. }),
            weights_bytes: 2 * options.file_bytes + call_bytes,
            limits,
        };
        Ok(OnnxStream { spec, graph, ear, shape, outlets, judge })
    }

    /// The plan that its graph is made with: that of the manifest, and what follows from the audio.
    pub(super) fn plan(engine: &dyn Engine, manifest: &Manifest, audio: &Audio) -> Result<Plan, String> {
        let mut plan = manifest.plan();
        let input = find_input(engine, audio, &plan)?;
        let layout = find_layout(&input, manifest, audio)?;
        put_into(&mut plan, &input, &layout, &shape_of(&layout, manifest, audio))?;
        Ok(plan)
    }

    /// The graph beneath.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// One window of every lane that has as many.
    fn step(&self, lanes: &mut [Lane<'_>], step: usize, bench: &mut EarBench, lent: &mut Vec<Vec<Tensor>>) {
        let is_in = |lane: &Lane<'_>| step < lane.count && lane.failure.is_none();
        bench.clear();
        for lane in lanes.iter_mut().filter(|lane| is_in(lane)) {
            let window = self.ear.window(lane.samples, step);
            self.ear.hear(window, &mut memory(lane.state).ear, bench);
        }
        let (mut views, mut states) = (Vec::new(), Vec::new());
        for lane in lanes.iter_mut().filter(|lane| is_in(lane)) {
            let Memory { graph, ear, .. } = memory(lane.state);
            let heard = self.ear.heard(views.len(), self.ear.window(lane.samples, step), ear, bench);
            views.push([View { shape: &self.shape, data: Elements::Fp32(heard) }]);
            states.push(graph);
        }
        let mut shares: Vec<GraphLane<'_>> = states
            .into_iter()
            .zip(&views)
            .map(|(state, inputs)| GraphLane { state, inputs, outputs: Ok(lent.pop().unwrap_or_default()) })
            .collect();
        self.graph.run(&mut shares);
        let given: Vec<_> = shares.into_iter().map(|share| share.outputs).collect();
        for (lane, given) in lanes.iter_mut().filter(|lane| is_in(lane)).zip(given) {
            match given.and_then(|tensors| self.take(tensors, lane.findings)) {
                Ok(tensors) => {
                    self.judge_newest(lane, step);
                    lent.push(tensors);
                }
                Err(failure) => *lane.failure = Some(failure),
            }
        }
    }

    /// Puts a window's rows where they belong, and gives the tensors back.
    fn take(&self, tensors: Vec<Tensor>, findings: &mut Findings) -> Result<Vec<Tensor>, Failure> {
        for (tensor, outlet) in tensors.iter().zip(&self.outlets) {
            if tensor.data.len() != outlet.len {
                return Err(Failure::WrongShape);
            }
            match outlet.way {
                Way::Audio { scale } => {
                    let before = findings.audio.len();
                    extend_f32(&mut findings.audio, &tensor.data);
                    findings.audio[before..].iter_mut().for_each(|sample| *sample /= scale);
                }
                Way::Row { output, activation } => {
                    let data = &mut findings.outputs[output];
                    append(data, &tensor.data);
                    if let (Some((activation, side)), TensorData::Fp32(data)) = (activation, data) {
                        let first = data.len() - outlet.len;
                        data[first..].chunks_exact_mut(side).for_each(|row| activate(activation, row));
                    }
                }
            }
        }
        Ok(tensors)
    }

    fn judge_newest(&self, lane: &mut Lane<'_>, step: usize) {
        let Some(judge) = &self.judge else { return };
        let Findings { outputs, .. } = &mut *lane.findings;
        // Taken out for the time of the call, as the judge adds to the other findings.
        let row = std::mem::replace(&mut outputs[judge.output], TensorData::Fp32(Vec::new()));
        if let TensorData::Fp32(rows) = &row {
            let row = &rows[rows.len() - self.spec.outputs[judge.output].row_len()..];
            let window = lane.first_window + step as u64;
            judge.step(&mut memory(lane.state).judge, row, window, lane.ends_at, lane.findings);
        }
        lane.findings.outputs[judge.output] = row;
    }
}

impl Model for OnnxStream {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn start(&self) -> State {
        let judge = JudgeMemory::default();
        Box::new(Memory { graph: self.graph.start(), ear: self.ear.start(), judge })
    }

    fn infer(&self, lanes: &mut [Lane<'_>]) {
        let steps = lanes.iter().map(|lane| lane.count).max().unwrap_or(0);
        let mut bench = self.ear.bench();
        let mut lent = LENT.take();
        for step in 0..steps {
            self.step(lanes, step, &mut bench, &mut lent);
        }
        LENT.set(lent);
        let Some(judge) = &self.judge else { return };
        for lane in lanes.iter_mut().filter(|lane| lane.failure.is_none()) {
            judge.conclude(&mut memory(lane.state).judge, lane.count, lane.ends_at, lane.findings);
        }
    }
}

fn memory(state: &mut State) -> &mut Memory {
    state.downcast_mut().expect("the state that `start` made")
}

/// Names for an error.
pub(super) fn quoted(ports: &[Port]) -> String {
    ports.iter().map(|port| format!("`{}`", port.name)).collect::<Vec<_>>().join(", ")
}

/// The input that takes the audio, which must be the only one that is left for streams.
fn find_input(engine: &dyn Engine, audio: &Audio, plan: &Plan) -> Result<Port, String> {
    let open = Layout::resolve(engine, plan)?.inputs;
    let found = match &audio.input {
        None => open.first(),
        Some(name) => open.iter().find(|port| *port.name == **name),
    };
    let Some(port) = found else {
        return Err(format!(
            "audio.input is `{}`, which is not among the file's inputs that are neither states nor constants: {}",
            audio.input.as_deref().unwrap_or(""),
            quoted(&open)
        ));
    };
    if port.datatype != Datatype::Fp32 {
        return Err(format!("audio goes into {port}, but only FP32 inputs can take it"));
    }
    let others: Vec<Port> = open.iter().filter(|other| other.name != port.name).cloned().collect();
    if !others.is_empty() {
        return Err(format!(
            "a stream brings audio for `{}` alone, but the file also asks for {}; \
             declare each as a [[state]] or a [[const]]",
            port.name,
            quoted(&others)
        ));
    }
    Ok(port.clone())
}

/// What the dimensions of the input are: as declared, or else the first usual way that the file allows.
fn find_layout(input: &Port, manifest: &Manifest, audio: &Audio) -> Result<Vec<Side>, String> {
    let usual: &[&[&str]] = match manifest.features {
        None => {
            &[&["batch", "samples"], &["batch", "1", "samples"], &["batch", "samples", "1"], &["samples"]]
        }
        Some(_) => &[
            &["batch", "frames", "features"],
            &["batch", "features", "frames"],
            &["batch", "1", "frames", "features"],
            &["batch", "1", "features", "frames"],
        ],
    };
    let side = |word: &&str| match *word {
        "1" => Side::Fixed(1),
        word => Side::Word(word.to_owned()),
    };
    let layouts = match &audio.layout {
        Some(layout) => vec![layout.clone()],
        None => usual.iter().map(|words| words.iter().map(side).collect()).collect(),
    };
    let shape = |layout: &Vec<Side>| shape_of(layout, manifest, audio);
    if let Some(layout) = layouts.iter().find(|layout| fits(input, &shape(layout))) {
        return Ok(layout.clone());
    }
    let tried = layouts.iter().map(|layout| format!("{:?}", shape(layout))).collect::<Vec<_>>().join(" or ");
    let declared =
        if audio.layout.is_some() { "audio.layout makes" } else { "audio would be put before it as" };
    Err(format!("the file says {input}, but {declared} {tried}; set audio.layout, audio.window or features"))
}

/// The dimensions of one row.
fn shape_of(layout: &[Side], manifest: &Manifest, audio: &Audio) -> Vec<usize> {
    let (frames, bands) = manifest.features.as_ref().map_or((0, 0), |features| {
        (audio.window().saturating_sub(features.win) / features.hop + 1, features.n_mels)
    });
    let side = |side: &Side| match side {
        Side::Fixed(side) => *side,
        Side::Word(word) => match word.as_str() {
            "samples" => audio.window(),
            "frames" => frames,
            "features" => bands,
            _ => 1,
        },
    };
    layout.iter().map(side).collect()
}

/// Tells the plan where the batch is and how long the window.
fn put_into(plan: &mut Plan, input: &Port, layout: &[Side], shape: &[usize]) -> Result<(), String> {
    let batch = layout.iter().position(|side| matches!(side, Side::Word(word) if word == "batch"));
    if let Some((_, sample)) = plan.samples.iter().find(|(name, _)| **name == *input.name)
        && sample != shape
    {
        return Err(format!(
            "a sample of `{}` is declared {sample:?}, but a window of audio is {shape:?}; leave the sample out",
            input.name
        ));
    }
    let declared = plan.axes.iter().find(|axis| *axis.port == *input.name).map(|axis| axis.axis);
    match declared {
        Some(Some(axis)) if batch != Some(axis) => {
            let here = batch.map_or("nowhere".to_owned(), |batch| format!("at dimension {batch}"));
            return Err(format!(
                "the batch of `{}` is declared at dimension {axis}, but audio is put before it with the batch {here}",
                input.name
            ));
        }
        Some(_) => {}
        None => {
            // A batch that is 1 for ever is none.
            let is_open = |dim: &usize| {
                !matches!(input.shape.as_ref().map(|shape| &shape[*dim]), Some(PortDim::Fixed(_)))
            };
            plan.axes.push(Axis { port: input.name.to_string(), axis: batch.filter(is_open) });
        }
    }
    plan.samples.retain(|(name, _)| **name != *input.name);
    plan.samples.push((input.name.to_string(), shape.to_vec()));
    Ok(())
}

/// What the graph gives for one window of faint noise, without the batch.
fn learn_rows(graph: &Graph, ear: &Ear, shape: &[usize]) -> Result<Vec<Tensor>, String> {
    let (mut memory, mut bench) = (ear.start(), ear.bench());
    // Not silence, whose logarithm some models take.
    let faint = |n: usize| if n * n % 7 < 3 { 0.01 } else { -0.01 };
    let samples: Vec<f32> = (0..ear.window_len()).map(faint).collect();
    ear.hear(&samples, &mut memory, &mut bench);
    let heard = ear.heard(0, &samples, &memory, &bench);
    let inputs = [View { shape, data: Elements::Fp32(heard) }];
    let mut lanes = [GraphLane { state: &mut graph.start(), inputs: &inputs, outputs: Ok(Vec::new()) }];
    graph.run(&mut lanes);
    let [lane] = lanes;
    let mut rows = lane.outputs.map_err(|failure| format!("a window of faint noise fails: {failure:?}"))?;
    for (row, axis) in rows.iter_mut().zip(graph.output_axes()) {
        // A first dimension of 1 is the batch of a file that has room for one.
        match axis {
            Some(axis) => drop(row.shape.remove(*axis)),
            None if row.shape.first() == Some(&1) => drop(row.shape.remove(0)),
            None => {}
        }
    }
    Ok(rows)
}

/// What becomes of each output, and what the model is said to give.
fn outlets(
    graph: &Graph,
    manifest: &Manifest,
    audio: &Audio,
    rows: &[Tensor],
) -> Result<(Vec<Outlet>, Vec<OutputSpec>), String> {
    let (mut outlets, mut outputs) = (Vec::new(), Vec::new());
    for (port, row) in graph.outputs().iter().zip(rows) {
        let own = manifest.output(&port.name);
        let kind = own.map_or(OutputKind::Raw, |own| own.kind);
        let len = elements(&row.shape).unwrap_or(0);
        let datatype = match port.datatype {
            Datatype::Fp16 | Datatype::Bf16 => Datatype::Fp32,
            Datatype::Bool => Datatype::Uint8,
            Datatype::Bytes => {
                return Err(format!(
                    "output {port} is of texts, which streams do not give; make it \"unused\""
                ));
            }
            other => other,
        };
        let is_float = datatype == Datatype::Fp32;
        if !is_float && matches!(kind, OutputKind::Pcm | OutputKind::Logits) {
            let kind = kind.name();
            return Err(format!("output {port} is of kind \"{kind}\", which is of floats of up to 32 bits"));
        }
        if kind == OutputKind::Pcm {
            if len != audio.hop {
                return Err(format!(
                    "output {port} gives {len} samples for each window, but audio.hop is {}",
                    audio.hop
                ));
            }
            outlets.push(Outlet { len, way: Way::Audio { scale: audio.scale } });
            continue;
        }
        let side = row.shape.last().copied().unwrap_or(1);
        let labels: Vec<Arc<str>> =
            own.map_or_else(Vec::new, |own| own.labels.iter().map(|label| label.as_str().into()).collect());
        if !labels.is_empty() && labels.len() != side {
            return Err(format!(
                "output `{}` has {} labels, but its rows are {:?}",
                port.name,
                labels.len(),
                row.shape
            ));
        }
        let usual = if side > 1 { Activation::Softmax } else { Activation::Sigmoid };
        let activation = own.filter(|_| kind == OutputKind::Logits && side > 0);
        let activation = activation.map(|own| (own.activation.unwrap_or(usual), side));
        outlets.push(Outlet { len, way: Way::Row { output: outputs.len(), activation } });
        outputs.push(OutputSpec { name: Arc::clone(&port.name), datatype, shape: row.shape.clone(), labels });
    }
    Ok((outlets, outputs))
}

/// Makes probabilities of logits.
fn activate(activation: Activation, row: &mut [f32]) {
    match activation {
        Activation::Sigmoid => row.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
        Activation::Softmax => {
            // Less the greatest, so that nothing overflows.
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|x| *x = (*x - most).exp());
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|x| *x /= sum);
        }
    }
}

/// Appends elements to those of an output, whose type was chosen for them.
fn append(data: &mut TensorData, more: &TensorData) {
    match (data, more) {
        (TensorData::Uint8(data), TensorData::Bool(more)) => data.extend(more.iter().map(|x| u8::from(*x))),
        (TensorData::Fp32(data), more) => extend_f32(data, more),
        (data, more) => data.extend_from(more, 0..more.len()),
    }
}

fn extend_f32(data: &mut Vec<f32>, more: &TensorData) {
    match more {
        TensorData::Fp32(more) => data.extend_from_slice(more),
        TensorData::Fp16(more) => data.extend(more.iter().map(|x| x.to_f32())),
        TensorData::Bf16(more) => data.extend(more.iter().map(|x| x.to_f32())),
        other => unreachable!("{:?} for FP32", other.datatype()),
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
