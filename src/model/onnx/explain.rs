//! What a graph found out about its file, for people: states with the dimension of their rows, and constants.
//!
//! Called by the commands that explain models, never while serving.

use super::engine::Port;
use super::graph::Graph;
use super::layout::Slot;
use crate::model::Tensor;

/// A state of a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct StateView<'a> {
    /// The input.
    pub input: &'a Port,
    /// The output that is the input of the next call.
    pub output: &'a Port,
    /// Along which dimension it has its rows; `None`: it has room for one stream only.
    pub axis: Option<usize>,
    /// One row of it when a stream begins.
    pub initial: &'a Tensor,
}

/// An input that is the same in every call.
#[derive(Clone, Debug, PartialEq)]
pub struct ConstantView<'a> {
    /// The input.
    pub input: &'a Port,
    /// What goes in.
    pub value: &'a Tensor,
}

impl Graph {
    /// What is remembered of each stream or sequence.
    pub fn states(&self) -> Vec<StateView<'_>> {
        let outputs = self.layout.wanted.iter().skip(self.layout.outputs.len());
        let slots = self.engine.inputs().iter().zip(&self.layout.slots);
        let input = |index: usize| {
            slots
                .clone()
                .find(|(_, slot)| matches!(slot, Slot::State(of) if *of == index))
                .map(|(port, _)| port)
        };
        let states = self.layout.states.iter().zip(outputs).enumerate();
        states
            .filter_map(|(index, (state, output))| {
                let output = &self.engine.outputs()[*output];
                Some(StateView { input: input(index)?, output, axis: state.axis, initial: &state.initial })
            })
            .collect()
    }

    /// The inputs that nobody brings.
    pub fn constants(&self) -> Vec<ConstantView<'_>> {
        let slots = self.engine.inputs().iter().zip(&self.layout.slots);
        slots
            .filter_map(|(input, slot)| match slot {
                Slot::Constant(value) => Some(ConstantView { input, value }),
                Slot::Input(_) | Slot::State(_) => None,
            })
            .collect()
    }

    /// The dimensions of each of [`Graph::inputs`] in rehearsals, with one row.
    pub fn sample_shapes(&self) -> &[Vec<usize>] {
        &self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Constant, Plan};
    use super::super::test_models::graphs;

    #[test]
    fn states_and_constants_are_told_with_their_ports() {
        let constant = Constant { input: "rate".into(), shape: None, values: vec![8_000.0] };
        for graph in graphs("tcn.onnx", &Plan { constants: vec![constant], ..Plan::default() }) {
            let states = graph.states();
            assert_eq!(states.len(), 1);
            assert_eq!(&*states[0].input.name, "cached_context");
            assert_eq!(&*states[0].output.name, "new_cached_context");
            assert_eq!((states[0].axis, &states[0].initial.shape[..]), (Some(0), &[1, 2, 4][..]));
            let constants = graph.constants();
            assert_eq!(constants.len(), 1);
            assert_eq!((&*constants[0].input.name, constants[0].value.data.len()), ("rate", 1));
            assert_eq!(graph.sample_shapes(), [vec![1, 2, 16]]);
        }
        for graph in graphs("lstm.onnx", &Plan::default()) {
            let pairs: Vec<_> =
                graph.states().iter().map(|state| (state.input.name.to_string(), state.axis)).collect();
            assert_eq!(pairs, [("h_in".to_owned(), Some(1)), ("c_in".to_owned(), Some(1))]);
            assert!(graph.constants().is_empty());
        }
    }
}
