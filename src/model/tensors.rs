//! Models of tensors: whatever takes and gives tensors and knows nothing of audio.
//!
//! They are asked by requests, not by streams. A model with a memory keeps it between the requests of a sequence.

use super::{Datatype, Failure, ModelLimits, State, Tensor};
use std::sync::Arc;

/// One dimension of a tensor that a model takes or gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Always this.
    Fixed(usize),
    /// Whatever the request brings.
    Any,
}

/// A tensor that a model takes or gives.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Its name on the wire.
    pub name: Arc<str>,
    /// The type of its elements.
    pub datatype: Datatype,
    /// Its dimensions, that of the batch among them.
    pub shape: Vec<Dim>,
    /// What the last dimension's elements stand for, if they stand for something.
    pub labels: Vec<Arc<str>>,
}

/// What a model of tensors takes and gives.
#[derive(Clone, Debug)]
pub struct TensorModelSpec {
    /// The name in paths.
    pub name: Arc<str>,
    /// Which version of it.
    pub version: u32,
    /// What runs it, such as `onnx_rten`.
    pub platform: Arc<str>,
    /// One sentence for people.
    pub description: Arc<str>,
    /// What a request must bring; states are the model's own affair and not among them.
    pub inputs: Vec<TensorSpec>,
    /// What comes back.
    pub outputs: Vec<TensorSpec>,
    /// Whether it remembers: then requests of one sequence go through it in order.
    pub stateful: bool,
    /// Whether requests share a batch. Each input and output then has its rows along one dimension, which is
    /// [`Dim::Any`], and may have any number of them.
    pub batched: bool,
    /// Upper bound of one sequence's memory, bytes.
    pub state_bytes: usize,
    /// Upper bound of its weights and of what a worker needs to run it, bytes.
    pub weights_bytes: usize,
    /// Upper bound of the elements of one request's inputs, and of its outputs.
    pub elements_max: usize,
    /// What it asks of those who batch and run it.
    pub limits: ModelLimits,
}

/// A model of tensors: shared by all workers, so it holds no sequence's memory.
pub trait TensorModel: Send + Sync + 'static {
    /// What it takes and gives.
    fn spec(&self) -> &TensorModelSpec;

    /// The memory of a sequence that has seen nothing yet.
    fn start(&self) -> State;

    /// Infers every lane and fills in its outputs. The inputs have been compared with the specification: each is
    /// there, in its order, with its type, and each fixed dimension is right. What still does not fit (dimensions
    /// that must agree with each other) is a [`Failure::Refused`] of that lane alone.
    ///
    /// A lane that fails leaves its state in an unknown condition, and no other's.
    fn infer(&self, lanes: &mut [TensorLane<'_>]);
}

/// One request's share of a call to [`TensorModel::infer`].
pub struct TensorLane<'a> {
    /// The memory of the request's sequence, made by this model's `start`.
    pub state: &'a mut State,
    /// One for each of the specification's inputs, same order.
    pub inputs: &'a [Tensor],
    /// One for each of the specification's outputs, same order; or why there are none.
    pub outputs: Result<Vec<Tensor>, Failure>,
}
