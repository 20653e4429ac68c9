//! A graph: an engine whose states and constants are hidden, for many lanes at a time.

use super::engine::{Engine, Port};
use super::plan::Plan;
use super::view::View;
use crate::model::{Failure, Tensor};
use std::sync::Arc;

/// An engine whose states and constants are hidden; shared by all workers.
pub struct Graph {
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

/// What a graph remembers of one stream or sequence; made by [`Graph::start`].
#[derive(Clone, Debug, PartialEq)]
pub struct GraphState {
    tensors: Vec<Tensor>,
}

/// One stream's or request's share of a call to [`Graph::run`].
pub struct GraphLane<'a> {
    /// What is remembered of it. Untouched if the lane fails.
    pub state: &'a mut GraphState,
    /// One for each of [`Graph::inputs`], in that order, with the batch among the dimensions. All have as many rows; a
    /// graph with states takes one row in each lane.
    pub inputs: &'a [View<'a>],
    /// One for each of [`Graph::outputs`], in that order; or why there are none. Tensors that are there before the
    /// call lend their memory.
    pub outputs: Result<Vec<Tensor>, Failure>,
}

impl Graph {
    /// Resolves the plan against what the file says and tries it: with one row, and with two whether the first comes
    /// out the same. Takes as long as a few calls of the engine.
    ///
    /// # Errors
    /// What in the plan contradicts what in the file; or what the engine said when it was tried.
    pub fn new(engine: Arc<dyn Engine>, plan: &Plan) -> Result<Graph, String> {
        let _ = (engine, plan);
        todo!()
    }

    /// The inputs that lanes bring: neither states nor constants.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The outputs that lanes get: neither states nor hidden ones.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Along which dimension each of [`Graph::inputs`] has its rows; `None`: it is the same for all rows.
    pub fn input_axes(&self) -> &[Option<usize>] {
        todo!()
    }

    /// Along which dimension each of [`Graph::outputs`] has its rows.
    pub fn output_axes(&self) -> &[Option<usize>] {
        todo!()
    }

    /// Whether it remembers.
    pub fn is_stateful(&self) -> bool {
        todo!()
    }

    /// Bytes that one [`GraphState`] takes.
    pub fn state_bytes(&self) -> usize {
        todo!()
    }

    /// The engine beneath.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        todo!()
    }

    /// The memory of a stream or sequence that has seen nothing yet.
    pub fn start(&self) -> GraphState {
        todo!()
    }

    /// Infers every lane, in as few calls of the engine as `batch_max` and the shapes of the inputs allow, and fills
    /// in outputs and states. A lane that brings more rows than `batch_max` gets a call of its own.
    ///
    /// What can go wrong with a lane is told in its outputs: [`Failure::Refused`] if its inputs do not fit (what, and
    /// to what), [`Failure::Engine`] and [`Failure::Panicked`] if the engine fails on it alone,
    /// [`Failure::NotFinite`] if its outputs or its new state are not finite.
    pub fn run(&self, lanes: &mut [GraphLane<'_>]) {
        let _ = lanes;
        todo!()
    }
}
