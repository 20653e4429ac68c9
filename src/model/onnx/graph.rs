//! A graph: an engine whose states and constants are hidden, for many lanes at a time.
//!
//! Owns the gathering of states and inputs into one call, the call, and the scattering of what came out. It knows
//! nothing of audio, requests or threads; models call it from worker threads.
//!
//! Invariants: rows of different lanes meet only in a call of the engine, never in a state; a state changes only when
//! everything of its lane came out right. What a thread keeps for the next call is the room that its largest call took.

use super::division::Division;
use super::engine::{Engine, Port};
use super::layout::{Layout, Slot};
use super::plan::Plan;
use super::trial::{Batching, Timed};
use super::view::{Rows, View};
use crate::model::pipeline::panic_message;
use crate::model::{Failure, Tensor, TensorData, elements};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// An engine whose states and constants are hidden; shared by all workers.
pub struct Graph {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) layout: Layout,
    pub(super) batching: Batching,
    division: Division,
    /// The dimensions of each input in rehearsals, with one row.
    pub(super) samples: Vec<Vec<usize>>,
}

/// What a graph remembers of one stream or sequence; made by [`Graph::start`].
#[derive(Clone, Debug, PartialEq)]
pub struct GraphState {
    /// One row of each state.
    pub(super) tensors: Vec<Tensor>,
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

/// What a thread keeps from call to call, so that steady work allocates little.
#[derive(Default)]
struct Scratch {
    /// Rows of each lane that has yet to be inferred; 0 for the others.
    rows: Vec<usize>,
    /// The lanes of one call.
    members: Vec<usize>,
    /// What goes into the engine, one for each input.
    gathered: Vec<Tensor>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Graph {
    /// Resolves the plan against what the file says and tries it: with one row, and with two whether the first comes
    /// out the same. Takes as long as a few calls of the engine.
    ///
    /// # Errors
    /// What in the plan contradicts what in the file; or what the engine said when it was tried.
    pub fn new(engine: Arc<dyn Engine>, plan: &Plan) -> Result<Graph, String> {
        let layout = Layout::resolve(&*engine, plan)?;
        let batching = Batching::Alone("not tried yet".into());
        let division = Division::default();
        let mut graph = Graph { engine, layout, batching, division, samples: Vec::new() };
        graph.try_out(plan)?;
        Ok(graph)
    }

    /// The same, told how long calls of some sizes take, ascending from 1: rows that share a call are divided by that.
    pub fn with_costs(self, costs: &[Timed]) -> Graph {
        Graph { division: Division::of(costs), ..self }
    }

    /// The inputs that lanes bring: neither states nor constants.
    pub fn inputs(&self) -> &[Port] {
        &self.layout.inputs
    }

    /// The outputs that lanes get: neither states nor hidden ones.
    pub fn outputs(&self) -> &[Port] {
        &self.layout.outputs
    }

    /// Along which dimension each of [`Graph::inputs`] has its rows; `None`: it is the same for all rows.
    pub fn input_axes(&self) -> &[Option<usize>] {
        &self.layout.input_axes
    }

    /// Along which dimension each of [`Graph::outputs`] has its rows.
    pub fn output_axes(&self) -> &[Option<usize>] {
        &self.layout.output_axes
    }

    /// Whether it remembers.
    pub fn is_stateful(&self) -> bool {
        !self.layout.states.is_empty()
    }

    /// Bytes that one [`GraphState`] takes.
    pub fn state_bytes(&self) -> usize {
        size_of::<GraphState>() + self.layout.state_bytes()
    }

    /// The engine beneath.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// The memory of a stream or sequence that has seen nothing yet.
    pub fn start(&self) -> GraphState {
        GraphState { tensors: self.layout.states.iter().map(|state| state.initial.clone()).collect() }
    }

    /// Infers every lane, in as few calls of the engine as `batch_max` and the shapes of the inputs allow, and fills
    /// in outputs and states. A lane that brings more rows than `batch_max` gets a call of its own.
    ///
    /// What can go wrong with a lane is told in its outputs: [`Failure::Refused`] if its inputs do not fit (what, and
    /// to what), [`Failure::Engine`] and [`Failure::Panicked`] if the engine fails on it alone,
    /// [`Failure::NotFinite`] if its outputs or its new state are not finite.
    pub fn run(&self, lanes: &mut [GraphLane<'_>]) {
        let rows_max = match self.batching {
            Batching::Shared { rows_max } => rows_max,
            Batching::Alone(_) => 1,
        };
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { rows, members, gathered } = scratch;
            rows.clear();
            for lane in lanes.iter_mut() {
                let checked = self.check(lane);
                rows.push(*checked.as_ref().unwrap_or(&0));
                if let Err(why) = checked {
                    lane.outputs = Err(Failure::Refused(why));
                }
            }
            for lead in 0..lanes.len() {
                if rows[lead] == 0 {
                    continue;
                }
                members.clear();
                let mut total = 0;
                for lane in lead..lanes.len() {
                    let joins = lane == lead
                        || rows[lane] > 0
                            && total + rows[lane] <= rows_max
                            && self.alike(&lanes[lead], &lanes[lane]);
                    if joins {
                        total += std::mem::take(&mut rows[lane]);
                        members.push(lane);
                    }
                }
                self.infer_divided(lanes, members, gathered);
            }
        });
    }

    /// Infers some lanes in the calls that take the least time.
    fn infer_divided(&self, lanes: &mut [GraphLane<'_>], members: &[usize], gathered: &mut Vec<Tensor>) {
        let mut rest = members;
        while !rest.is_empty() {
            let size = self.division.next(rest.iter().map(|&member| self.rows(&lanes[member])).sum());
            // A lane's rows stay together, so a call may get fewer than it should; never none.
            let mut taken = 0;
            let fits = |member: &&usize| {
                taken += self.rows(&lanes[**member]);
                taken <= size
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (part, behind) = rest.split_at(count);
            self.infer(lanes, part, gathered);
            rest = behind;
        }
    }

    /// Infers some lanes in one call, or if that fails in one call each, so that only those fail that are to blame.
    fn infer(&self, lanes: &mut [GraphLane<'_>], members: &[usize], gathered: &mut Vec<Tensor>) {
        if members.len() > 1 && self.together(lanes, members, gathered).is_ok() {
            return;
        }
        for &member in members {
            if let Err(failure) = self.alone(&mut lanes[member]) {
                lanes[member].outputs = Err(failure);
            }
        }
    }

    /// One call for one lane: nothing is copied.
    pub(super) fn alone(&self, lane: &mut GraphLane<'_>) -> Result<(), Failure> {
        let views = self.layout.slots.iter().map(|slot| match slot {
            Slot::Input(index) => lane.inputs[*index],
            Slot::State(index) => (&lane.state.tensors[*index]).into(),
            Slot::Constant(value) => value.into(),
        });
        let mut results = self.call(&views.collect::<Vec<_>>())?;
        self.check_results(&results, self.rows(lane))?;
        if !results.iter().all(|result| result.data.is_finite()) {
            return Err(Failure::NotFinite);
        }
        lane.state.tensors.clear();
        lane.state.tensors.extend(results.drain(self.layout.outputs.len()..));
        lane.outputs = Ok(results);
        Ok(())
    }

    /// One call for several lanes. If it fails as a whole no lane has changed.
    pub(super) fn together(
        &self,
        lanes: &mut [GraphLane<'_>],
        members: &[usize],
        gathered: &mut Vec<Tensor>,
    ) -> Result<(), Failure> {
        self.gather(lanes, members, gathered);
        let views = self.layout.slots.iter().zip(&*gathered).map(|(slot, tensor)| match slot {
            Slot::Input(index) if self.layout.input_axes[*index].is_none() => {
                lanes[members[0]].inputs[*index]
            }
            Slot::Constant(value) => value.into(),
            Slot::Input(_) | Slot::State(_) => tensor.into(),
        });
        let results = self.call(&views.collect::<Vec<_>>())?;
        self.check_results(&results, members.iter().map(|&member| self.rows(&lanes[member])).sum())?;
        let all_finite = results.iter().all(|result| result.data.is_finite());
        let mut first = 0;
        for &member in members {
            let lane = &mut lanes[member];
            let rows = self.rows(lane);
            if all_finite || self.is_finite(&results, first, rows) {
                self.scatter(&results, first, rows, lane);
            } else {
                lane.outputs = Err(Failure::NotFinite);
            }
            first += rows;
        }
        Ok(())
    }

    fn gather(&self, lanes: &[GraphLane<'_>], members: &[usize], gathered: &mut Vec<Tensor>) {
        let lanes = members.iter().map(|&member| &lanes[member]);
        gathered.resize_with(self.layout.slots.len().max(gathered.len()), || Tensor {
            shape: Vec::new(),
            data: TensorData::Fp32(Vec::new()),
        });
        for (slot, into) in self.layout.slots.iter().zip(gathered) {
            match slot {
                Slot::Input(index) => {
                    if let Some(axis) = self.layout.input_axes[*index] {
                        Rows::gather(into, axis, lanes.clone().map(|lane| lane.inputs[*index]));
                    }
                }
                Slot::State(index) => {
                    // Lanes share calls only if every state has an axis.
                    let axis = self.layout.states[*index].axis.unwrap_or(0);
                    Rows::gather(into, axis, lanes.clone().map(|lane| (&lane.state.tensors[*index]).into()));
                }
                Slot::Constant(_) => {}
            }
        }
    }

    /// Takes a lane's rows out of what a call gave.
    fn scatter(&self, results: &[Tensor], first: usize, rows: usize, lane: &mut GraphLane<'_>) {
        let (results, states) = results.split_at(self.layout.outputs.len());
        let mut outputs = std::mem::replace(&mut lane.outputs, Ok(Vec::new())).unwrap_or_default();
        outputs.truncate(results.len());
        for (index, (result, axis)) in results.iter().zip(&self.layout.output_axes).enumerate() {
            let datatype = result.data.datatype();
            if outputs.get(index).is_none_or(|output| output.data.datatype() != datatype) {
                outputs.truncate(index);
                outputs.push(Tensor { shape: Vec::new(), data: TensorData::new(datatype) });
            }
            match axis {
                Some(axis) => Rows::scatter(result, *axis, first, rows, &mut outputs[index]),
                None => outputs[index].clone_from(result),
            }
        }
        lane.outputs = Ok(outputs);
        for ((result, layout), state) in states.iter().zip(&self.layout.states).zip(&mut lane.state.tensors) {
            Rows::scatter(result, layout.axis.unwrap_or(0), first, rows, state);
        }
    }

    fn is_finite(&self, results: &[Tensor], first: usize, rows: usize) -> bool {
        let states = self.layout.states.iter().map(|state| state.axis);
        let axes = self.layout.output_axes.iter().copied().chain(states);
        results.iter().zip(axes).all(|(result, axis)| match axis {
            Some(axis) => Rows::are_finite(result, axis, first, rows),
            None => result.data.is_finite(),
        })
    }

    fn call(&self, views: &[View<'_>]) -> Result<Vec<Tensor>, Failure> {
        // An engine that panics drops what it was computing; the model that it shares is never written to.
        let run = AssertUnwindSafe(|| self.engine.run(views, &self.layout.wanted));
        match catch_unwind(run) {
            Ok(results) => results,
            Err(payload) => Err(Failure::Panicked(panic_message(&*payload))),
        }
    }

    /// Whether what came out has the rows that went in.
    fn check_results(&self, results: &[Tensor], rows: usize) -> Result<(), Failure> {
        let (outputs, states) =
            results.split_at_checked(self.layout.outputs.len()).ok_or(Failure::WrongShape)?;
        let has_rows = |(output, axis): (&Tensor, &Option<usize>)| {
            axis.is_none_or(|axis| output.shape.get(axis) == Some(&rows))
        };
        let is_state = |(state, layout): (&Tensor, &super::layout::StateLayout)| {
            let initial = &layout.initial;
            let side = |(index, side): (usize, &usize)| if layout.axis == Some(index) { rows } else { *side };
            state.data.datatype() == initial.data.datatype()
                && state.shape.iter().copied().eq(initial.shape.iter().enumerate().map(side))
        };
        let right = outputs.iter().zip(&self.layout.output_axes).all(has_rows)
            && states.len() == self.layout.states.len()
            && states.iter().zip(&self.layout.states).all(is_state);
        if right { Ok(()) } else { Err(Failure::WrongShape) }
    }

    /// How many rows a lane that has been checked brings.
    fn rows(&self, lane: &GraphLane<'_>) -> usize {
        let mut axes = lane.inputs.iter().zip(&self.layout.input_axes);
        axes.find_map(|(input, axis)| Some(input.shape[(*axis)?])).unwrap_or(1)
    }

    /// Whether two lanes that have been checked can share a call.
    fn alike(&self, one: &GraphLane<'_>, other: &GraphLane<'_>) -> bool {
        let inputs = one.inputs.iter().zip(other.inputs).zip(&self.layout.input_axes);
        inputs.into_iter().all(|((one, other), axis)| match axis {
            Some(axis) => {
                let same = |index: usize| index == *axis || one.shape[index] == other.shape[index];
                one.shape.len() == other.shape.len() && (0..one.shape.len()).all(same)
            }
            None => one == other,
        })
    }

    /// Whether a lane's inputs fit, and how many rows they have.
    fn check(&self, lane: &GraphLane<'_>) -> Result<usize, String> {
        let ports = &self.layout.inputs;
        if lane.inputs.len() != ports.len() {
            return Err(format!("{} inputs for a model that takes {}", lane.inputs.len(), ports.len()));
        }
        for ((input, port), axis) in lane.inputs.iter().zip(ports).zip(&self.layout.input_axes) {
            let fits = input.data.datatype() == port.datatype
                && super::layout::fits(port, input.shape)
                && axis.is_none_or(|axis| axis < input.shape.len());
            if !fits {
                let given = input.data.datatype().name();
                return Err(format!("an input of {given} {:?} for {port}", input.shape));
            }
            if elements(input.shape) != Some(input.data.len()) {
                let given = input.data.len();
                return Err(format!("{given} elements for `{}` of shape {:?}", port.name, input.shape));
            }
        }
        for [(one, one_dim), (other, other_dim)] in &self.layout.equal {
            let (left, right) = (lane.inputs[*one].shape[*one_dim], lane.inputs[*other].shape[*other_dim]);
            if left != right {
                return Err(format!(
                    "`{}` has {left} in dimension {one_dim} and `{}` has {right} in dimension {other_dim}; they must be equal",
                    ports[*one].name, ports[*other].name
                ));
            }
        }
        let rows = self.rows(lane);
        if rows == 0 || rows > 1 && self.is_stateful() {
            let takes = if self.is_stateful() { "one row, as it remembers" } else { "at least one row" };
            return Err(format!("{rows} rows for a model that takes {takes}"));
        }
        self.check_state(lane.state)?;
        Ok(rows)
    }

    fn check_state(&self, state: &GraphState) -> Result<(), String> {
        let same = |(tensor, layout): (&Tensor, &super::layout::StateLayout)| {
            tensor.shape == layout.initial.shape && tensor.data.datatype() == layout.initial.data.datatype()
        };
        let states = &self.layout.states;
        if state.tensors.len() == states.len() && state.tensors.iter().zip(states).all(same) {
            return Ok(());
        }
        Err("the memory of another model, or of another version of it; start the sequence again".into())
    }
}

#[cfg(test)]
#[path = "graph_tests.rs"]
mod tests;
