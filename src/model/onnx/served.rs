//! From an open file and its `model.toml` to a model that can be served.
//!
//! Tells models of tensors from models that hear streams, and bounds what either takes in memory. Called by whoever
//! loads models, never while serving. Reads no file: engine and manifest are handed in.

use super::manifest::OutputKind;
use super::stream::quoted;
use super::{Engine, Graph, Manifest, OnnxStream, OnnxTensors, Plan, TensorsPlan, Timed};
use crate::model::Served;
use std::sync::Arc;

/// What the server says about a model where its `model.toml` does not, and what only the loader knows.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Elements of one request's inputs, and of its outputs, at most; for models of tensors without
    /// `limits.elements_max`.
    pub elements_max: usize,
    /// Bytes of the ONNX file with the files that it refers to.
    pub file_bytes: usize,
    /// How long calls of some sizes take, ascending from 1, if that was measured: see [`Graph::with_costs`].
    pub costs: Vec<Timed>,
}

/// Makes a model of an open file: one that hears streams if the manifest has `[audio]`, else one of tensors. `name` and
/// `version` are those that it is served under. Runs the model a few times to learn its shapes and whether it batches,
/// so it takes as long as that: for a loader's thread. The engine of `manifest.platform` is the caller's to choose,
/// with [`super::open`].
///
/// The specification's `weights_bytes` is twice the file; for a model that hears streams also what the largest call
/// takes for inputs, outputs and states. What an engine needs between the layers of a model is not known.
///
/// # Errors
/// What in the manifest contradicts what in the file, with both sides; or what the engine said when it was tried. Without
/// the model's name, which the caller puts before it.
pub fn open_model(
    name: &str,
    version: u32,
    manifest: &Manifest,
    engine: Arc<dyn Engine>,
    options: &ModelOptions,
) -> Result<Served, String> {
    if let Some(audio) = &manifest.audio {
        let stream = OnnxStream::new(name, version, manifest, audio, engine, options)?;
        return Ok(Served::Audio(Arc::new(stream)));
    }
    let graph = Graph::new(engine, &manifest.plan())?.with_costs(&options.costs);
    check_outputs(&graph, manifest)?;
    let labelled = manifest.outputs.iter().filter(|output| !output.labels.is_empty());
    let labels = labelled.map(|output| {
        (output.name.clone(), output.labels.iter().map(|label| label.as_str().into()).collect())
    });
    let plan = TensorsPlan {
        name: name.into(),
        version,
        description: manifest.description.as_str().into(),
        labels: labels.collect(),
        elements_max: manifest.limits.elements_max.unwrap_or(options.elements_max),
        weights_bytes: 2 * options.file_bytes,
        limits: manifest.limits(),
    };
    Ok(Served::Tensors(Arc::new(OnnxTensors::new(Arc::new(graph), plan)?)))
}

/// Whether all that the manifest describes is there.
pub(super) fn check_outputs(graph: &Graph, manifest: &Manifest) -> Result<(), String> {
    let told = manifest.outputs.iter().filter(|output| output.kind != OutputKind::Unused);
    for output in told {
        if !graph.outputs().iter().any(|port| *port.name == *output.name) {
            return Err(format!(
                "output `{}` is described, but the model gives {}",
                output.name,
                quoted(graph.outputs())
            ));
        }
    }
    Ok(())
}

/// The plan that [`open_model`] makes its graph with, for those who look at the graph itself.
///
/// # Errors
/// As [`open_model`].
pub fn plan_of(engine: &dyn Engine, manifest: &Manifest) -> Result<Plan, String> {
    match &manifest.audio {
        Some(audio) => OnnxStream::plan(engine, manifest, audio),
        None => Ok(manifest.plan()),
    }
}
