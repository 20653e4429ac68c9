//! A graph served as a model of tensors.

use super::graph::Graph;
use crate::model::{ModelLimits, State, TensorLane, TensorModel, TensorModelSpec};
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
    /// What it asks of those who batch and run it.
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
        let _ = (graph, plan);
        todo!()
    }

    /// The graph beneath.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
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
        let _ = lanes;
        todo!()
    }
}
