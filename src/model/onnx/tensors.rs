//! A graph served as a model of tensors.
//!
//! Owns the specification that requests are compared with, and nothing else: gathering and failing is the graph's.

use super::engine::{Port, PortDim};
use super::graph::{Graph, GraphLane, GraphState};
use super::trial::Batching;
use super::view::View;
use crate::model::{
    Dim, Failure, ModelLimits, State, Tensor, TensorLane, TensorModel, TensorModelSpec, TensorSpec,
};
use std::sync::Arc;

/// What the owner of a model of tensors declares besides the graph's plan.
#[derive(Clone, Debug, Default)]
pub struct TensorsPlan {
    /// The name in paths.
    pub name: Arc<str>,
    /// Which version of it.
    pub version: u32,
    /// One sentence for people.
    pub description: Arc<str>,
    /// What the elements of the last dimension of an output stand for.
    pub labels: Vec<(String, Vec<Arc<str>>)>,
    /// Upper bound of the elements of one request's inputs, and of its outputs.
    pub elements_max: usize,
    /// Upper bound of the weights and of what a worker needs to run it, bytes.
    pub weights_bytes: usize,
    /// What it asks of those who batch and run it. Without a `batch_max` it is that of the graph.
    pub limits: ModelLimits,
}

/// A graph served as a model of tensors.
pub struct OnnxTensors {
    spec: TensorModelSpec,
    graph: Arc<Graph>,
}

impl OnnxTensors {
    /// Serves a graph; its inputs and outputs are those of the model.
    ///
    /// # Errors
    /// What in the plan contradicts what in the graph.
    pub fn new(graph: Arc<Graph>, plan: TensorsPlan) -> Result<OnnxTensors, String> {
        let TensorsPlan { name, version, description, labels, elements_max, weights_bytes, mut limits } = plan;
        for (output, labels) in &labels {
            check_labels(&graph, output, labels)?;
        }
        let axes = || graph.input_axes().iter().chain(graph.output_axes());
        let batched = match graph.batching() {
            Batching::Shared { rows_max } => {
                limits.batch_max =
                    Some(limits.batch_max.map_or(*rows_max, |declared| declared.min(*rows_max)));
                axes().all(Option::is_some)
            }
            Batching::Alone(_) => false,
        };
        let tensor = |port: &Port| {
            let own = labels.iter().find(|(output, _)| **output == *port.name);
            TensorSpec {
                name: Arc::clone(&port.name),
                datatype: port.datatype,
                shape: dims(port),
                labels: own.map_or_else(Vec::new, |(_, labels)| labels.clone()),
            }
        };
        let unlabelled = |port| TensorSpec { labels: Vec::new(), ..tensor(port) };
        let spec = TensorModelSpec {
            name,
            version,
            platform: graph.engine().kind().platform().into(),
            description,
            inputs: graph.inputs().iter().map(unlabelled).collect(),
            outputs: graph.outputs().iter().map(tensor).collect(),
            stateful: graph.is_stateful(),
            batched,
            state_bytes: graph.state_bytes(),
            weights_bytes,
            elements_max,
            limits,
        };
        Ok(OnnxTensors { spec, graph })
    }

    /// The graph beneath.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    fn take(&self, outputs: Result<Vec<Tensor>, Failure>) -> Result<Vec<Tensor>, Failure> {
        let outputs = outputs?;
        let count: usize = outputs.iter().map(|output| output.data.len()).sum();
        if count > self.spec.elements_max {
            let most = self.spec.elements_max;
            return Err(Failure::Refused(format!(
                "{count} elements came out, of which at most {most} are served"
            )));
        }
        Ok(outputs)
    }
}

impl TensorModel for OnnxTensors {
    fn spec(&self) -> &TensorModelSpec {
        &self.spec
    }

    fn start(&self) -> State {
        Box::new(self.graph.start())
    }

    fn infer(&self, lanes: &mut [TensorLane<'_>]) {
        let views = lanes.iter().map(|lane| lane.inputs.iter().map(View::from).collect());
        let views: Vec<Vec<View<'_>>> = views.collect();
        let mut shares = Vec::with_capacity(lanes.len());
        let mut homes = Vec::with_capacity(lanes.len());
        for (lane, inputs) in lanes.iter_mut().zip(&views) {
            let Some(state) = lane.state.downcast_mut::<GraphState>() else {
                lane.outputs =
                    Err(Failure::Refused("the memory of another model; start the sequence again".into()));
                continue;
            };
            let outputs = std::mem::replace(&mut lane.outputs, Ok(Vec::new()));
            shares.push(GraphLane { state, inputs, outputs });
            homes.push(&mut lane.outputs);
        }
        self.graph.run(&mut shares);
        for (share, home) in shares.into_iter().zip(homes) {
            *home = self.take(share.outputs);
        }
    }
}

fn dims(port: &Port) -> Vec<Dim> {
    let dim = |dim: &PortDim| match dim {
        PortDim::Fixed(side) => Dim::Fixed(*side),
        PortDim::Symbol(_) | PortDim::Unknown => Dim::Any,
    };
    port.shape.iter().flatten().map(dim).collect()
}

fn check_labels(graph: &Graph, output: &str, labels: &[Arc<str>]) -> Result<(), String> {
    let Some(port) = graph.outputs().iter().find(|port| *port.name == *output) else {
        let names =
            graph.outputs().iter().map(|port| format!("`{}`", port.name)).collect::<Vec<_>>().join(", ");
        return Err(format!("labels are declared for output `{output}`, but the model gives {names}"));
    };
    match port.shape.as_ref().and_then(|shape| shape.last()) {
        Some(PortDim::Fixed(side)) if *side != labels.len() => {
            Err(format!("{} labels are declared for output {port}", labels.len()))
        }
        None => Err(format!("labels are declared for output {port}, which has no dimension")),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "tensors_tests.rs"]
mod tests;
