//! Trying a graph before it serves: whether it batches, how fast it is at which size, and warming it up.
//!
//! Owns the made-up inputs of rehearsals. Called by whoever loads models, never while serving.

use super::engine::{Port, PortDim};
use super::graph::{Graph, GraphLane, GraphState};
use super::plan::Plan;
use super::view::View;
use crate::model::{Datatype, Failure, Tensor, TensorData};
use half::{bf16, f16};
use std::time::Duration;

/// What the refusal of a model says if its engine panicked on it.
pub const ENGINE_PANICKED: &str = "the engine panicked";

/// Rows in one call at most where nothing is declared: recurrent models gain little beyond, and a call gets long.
const ROWS_MAX: usize = 32;

/// Steps of a rehearsal: after the first one states differ between rows.
const STEPS: u64 = 3;

/// Sizes that an open dimension is tried with where none is declared: a short sequence, a scalar, 10 ms of audio.
const SIDES: [usize; 3] = [16, 1, 160];

/// How far a float may be away from what it is without company, relative to its size or to 1. Kernels sum in another
/// order for another number of rows: the state of a GRU of 256 was 3e-7 away at most over 50 steps of 32 rows
/// (`what_gathering_and_scattering_cost`); deeper models add up more. 16-bit floats have three digits only.
const TOLERANCE: f64 = 1e-4;
const TOLERANCE_OF_16_BITS: f64 = 1e-2;

/// How long one size is measured.
const MEASURED: Duration = Duration::from_millis(50);

/// How much faster a larger call must be to be called better.
const GAIN: f64 = 1.05;

/// How lanes share calls of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Batching {
    /// Any number of rows up to this share a call.
    Shared {
        /// Rows in one call at most.
        rows_max: usize,
    },
    /// Each lane has a call of its own; why.
    Alone(String),
}

/// How long calls of one size take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timed {
    /// Rows in a call.
    pub rows: usize,
    /// Microseconds for each row.
    pub us_per_row: f64,
}

/// Which sizes of calls are worth it.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Every size tried, ascending.
    pub table: Vec<Timed>,
    /// The size with the least time for a row; the smaller one where they hardly differ.
    pub best: usize,
}

impl Calibration {
    /// What a table of sizes, ascending, comes to.
    pub fn of(table: Vec<Timed>) -> Self {
        Self { best: best(&table), table }
    }
}

impl Graph {
    /// How lanes share calls.
    pub fn batching(&self) -> &Batching {
        &self.batching
    }

    /// Runs calls of each of these sizes once, so that the first real one meets warm memory.
    ///
    /// # Errors
    /// What the engine said.
    pub fn warm_up(&self, sizes: &[usize]) -> Result<(), String> {
        for rows in self.usable(sizes) {
            let mut cast: Vec<Player> = (0..rows as u64).map(|seed| self.player(seed)).collect();
            self.play(&mut cast, &mut |_| false)?;
        }
        Ok(())
    }

    /// Measures how long calls of these sizes take, about 50 ms each; sizes beyond what shares a call are left out.
    /// `clock` tells the time since any origin.
    ///
    /// # Errors
    /// What the engine said.
    pub fn calibrate(&self, sizes: &[usize], clock: &dyn Fn() -> Duration) -> Result<Calibration, String> {
        let mut table = Vec::new();
        for rows in self.usable(sizes) {
            let mut cast: Vec<Player> = (0..rows as u64).map(|seed| self.player(seed)).collect();
            self.play(&mut cast, &mut |_| false)?;
            let start = clock();
            let mut taken = Duration::ZERO;
            let mut calls = 0;
            self.play(&mut cast, &mut |done| {
                taken = clock().saturating_sub(start);
                calls = done;
                taken < MEASURED
            })?;
            table.push(Timed { rows, us_per_row: taken.as_secs_f64() * 1e6 / (calls * rows) as f64 });
        }
        Ok(Calibration::of(table))
    }

    /// Those of the sizes that lanes can share a call in, ascending; at least 1.
    fn usable(&self, sizes: &[usize]) -> Vec<usize> {
        let rows_max = match self.batching {
            Batching::Shared { rows_max } => rows_max,
            Batching::Alone(_) => 1,
        };
        let mut sizes: Vec<usize> =
            sizes.iter().copied().filter(|rows| (1..=rows_max).contains(rows)).collect();
        sizes.sort_unstable();
        sizes.dedup();
        if sizes.is_empty() { vec![1] } else { sizes }
    }

    /// Calls for the whole cast once and then as long as `again` says, which is told how many calls there were.
    fn play(&self, cast: &mut [Player], again: &mut dyn FnMut(usize) -> bool) -> Result<(), String> {
        let views: Vec<Vec<View<'_>>> =
            cast.iter().map(|player| player.inputs.iter().map(View::from).collect()).collect();
        let states = cast.iter().map(|player| player.state.clone());
        let mut states: Vec<GraphState> = states.collect();
        let lanes = states.iter_mut().zip(&views);
        let mut lanes: Vec<GraphLane<'_>> =
            lanes.map(|(state, inputs)| GraphLane { state, inputs, outputs: Ok(Vec::new()) }).collect();
        let mut calls = 0;
        loop {
            self.run(&mut lanes);
            calls += 1;
            let failed = lanes.iter().find_map(|lane| lane.outputs.as_ref().err());
            // Made-up inputs may well lead to infinity; that says nothing of real ones.
            if let Some(failure) = failed.filter(|failure| **failure != Failure::NotFinite) {
                return Err(told(failure));
            }
            if !again(calls) {
                return Ok(());
            }
        }
    }

    /// Finds dimensions that the engine takes, and whether lanes can share a call.
    pub(super) fn try_out(&mut self, plan: &Plan) -> Result<(), String> {
        let rows_max = plan.batch_max.unwrap_or(ROWS_MAX);
        if rows_max == 0 {
            return Err("a batch of at most 0 rows is declared; declare at least 1".into());
        }
        let mut failures = Vec::new();
        let mut heard = None;
        for side in SIDES {
            self.samples = self.samples(plan, side)?;
            match self.rehearse_alone() {
                Ok(steps) => {
                    heard = Some(steps);
                    break;
                }
                Err(failure) => failures.push(format!("{:?}: {}", self.samples, told(&failure))),
            }
        }
        let Some(heard) = heard else {
            failures.dedup();
            return Err(format!(
                "the model runs with none of the input shapes tried; declare sample shapes that fit, or \
                 mend the model. {}",
                failures.join("; ")
            ));
        };
        let open = |count: usize| vec![PortDim::Unknown; count];
        for (port, output) in self.layout.outputs.iter_mut().zip(&heard[0].outputs) {
            port.shape.get_or_insert_with(|| open(output.shape.len()));
        }
        for (port, sample) in self.layout.inputs.iter_mut().zip(&self.samples) {
            port.shape.get_or_insert_with(|| open(sample.len()));
        }
        let alone = if rows_max == 1 { Err("so it is declared".into()) } else { self.can_share(&heard) };
        self.batching = match (alone, plan.batch_max) {
            (Ok(()), _) => Batching::Shared { rows_max },
            (Err(why), Some(declared)) if declared > 1 => {
                return Err(format!("batches of up to {declared} rows are declared, but {why}"));
            }
            (Err(why), _) => Batching::Alone(why),
        };
        Ok(())
    }

    /// The shape of each input with one row.
    fn samples(&self, plan: &Plan, side: usize) -> Result<Vec<Vec<usize>>, String> {
        let shape = |(port, axis): (&Port, &Option<usize>)| {
            if let Some((_, shape)) = plan.samples.iter().find(|(name, _)| **name == *port.name) {
                return Ok(shape.clone());
            }
            let Some(dims) = &port.shape else {
                return Err(format!(
                    "the file does not say how many dimensions there are in {port}; declare a sample"
                ));
            };
            let size = |(index, dim): (usize, &PortDim)| match dim {
                PortDim::Fixed(fixed) => *fixed,
                _ if *axis == Some(index) => 1,
                _ => side,
            };
            Ok(dims.iter().enumerate().map(size).collect())
        };
        self.layout.inputs.iter().zip(&self.layout.input_axes).map(shape).collect()
    }

    /// What one lane gets by itself, step by step.
    fn rehearse_alone(&self) -> Result<Vec<Heard>, Failure> {
        let mut state = self.start();
        let mut steps = Vec::new();
        for step in 0..STEPS {
            let inputs = self.inputs_of(step);
            let views: Vec<View<'_>> = inputs.iter().map(View::from).collect();
            let mut lane = GraphLane { state: &mut state, inputs: &views, outputs: Ok(Vec::new()) };
            self.alone(&mut lane)?;
            let outputs = lane.outputs?;
            steps.push(Heard { outputs, state: state.clone() });
        }
        Ok(steps)
    }

    /// Whether a lane gets the same with another one in its call.
    fn can_share(&self, alone: &[Heard]) -> Result<(), String> {
        if let Some(state) = self.layout.states.iter().find(|state| state.axis.is_none()) {
            return Err(format!("state `{}` has no open dimension for the batch", state.name));
        }
        if self.layout.input_axes.iter().all(Option::is_none) {
            return Err("no input has an open dimension for the batch".into());
        }
        let mut states = [self.start(), self.start()];
        let mut gathered = Vec::new();
        for (step, alone) in alone.iter().enumerate() {
            // The second lane hears something else, but shares what is not in rows.
            let inputs = self.inputs_of(step as u64);
            let mut others = self.inputs_of(step as u64 + STEPS);
            for ((other, input), axis) in others.iter_mut().zip(&inputs).zip(&self.layout.input_axes) {
                if axis.is_none() {
                    other.clone_from(input);
                }
            }
            let views: Vec<View<'_>> = inputs.iter().map(View::from).collect();
            let other_views: Vec<View<'_>> = others.iter().map(View::from).collect();
            let [state, other] = &mut states;
            let mut lanes = [
                GraphLane { state, inputs: &views, outputs: Ok(Vec::new()) },
                GraphLane { state: other, inputs: &other_views, outputs: Ok(Vec::new()) },
            ];
            self.together(&mut lanes, &[0, 1], &mut gathered)
                .map_err(|failure| format!("two rows in one call fail: {}", told(&failure)))?;
            let [GraphLane { outputs, .. }, GraphLane { outputs: other, .. }] = lanes;
            let outputs = outputs.map_err(|failure| told(&failure))?;
            other.map_err(|failure| told(&failure))?;
            let names = self.layout.outputs.iter().map(|port| &*port.name);
            let names = names.chain(self.layout.states.iter().map(|state| state.name.as_str()));
            let here = outputs.iter().chain(&states[0].tensors);
            let there = alone.outputs.iter().chain(&alone.state.tensors);
            for ((name, here), there) in names.zip(here).zip(there) {
                if let Some(how) = difference(there, here) {
                    return Err(format!(
                        "`{name}` of a row depends on the other rows of its call: {how}; if its rows are along \
                         another dimension, declare the axis"
                    ));
                }
            }
        }
        Ok(())
    }

    fn player(&self, seed: u64) -> Player {
        Player { state: self.start(), inputs: self.inputs_of(seed) }
    }

    fn inputs_of(&self, seed: u64) -> Vec<Tensor> {
        let ports = self.layout.inputs.iter().zip(&self.samples).zip(&self.layout.input_axes).enumerate();
        // What is the same for all rows is the same in all rehearsals, so that they can share calls.
        let seed_of = |index: usize, axis: &Option<usize>| axis.map_or(0, |_| seed * 64) + index as u64;
        ports
            .map(|(index, ((port, shape), axis))| made_up(port.datatype, shape, seed_of(index, axis)))
            .collect()
    }
}

/// What a lane got in a step.
struct Heard {
    outputs: Vec<Tensor>,
    state: GraphState,
}

/// A lane of a rehearsal.
struct Player {
    state: GraphState,
    inputs: Vec<Tensor>,
}

fn told(failure: &Failure) -> String {
    match failure {
        Failure::Panicked(what) => format!("{ENGINE_PANICKED}: {what}"),
        Failure::NotFinite => "NaN or infinity came out".into(),
        Failure::WrongShape => "what came out has not the rows that went in".into(),
        Failure::Engine(what) | Failure::Refused(what) => what.clone(),
    }
}

/// The smallest size that no larger one is much faster than.
fn best(table: &[Timed]) -> usize {
    let least = table.iter().map(|timed| timed.us_per_row).fold(f64::INFINITY, f64::min);
    table.iter().find(|timed| timed.us_per_row <= least * GAIN).map_or(1, |timed| timed.rows)
}

/// A tensor of numbers that any model should bear: floats above 0 and up to 1, integers 0 and 1.
fn made_up(datatype: Datatype, shape: &[usize], seed: u64) -> Tensor {
    let count: usize = shape.iter().product();
    // SplitMix64, so that neighbouring seeds are unlike.
    let number = move |index: usize| {
        let mut x = (seed << 32).wrapping_add(index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x >> 40) + 1) as f64 / (1u64 << 24) as f64
    };
    let floats = || (0..count).map(number);
    let bits: Vec<f64> = floats().map(f64::round).collect();
    let data = match datatype {
        Datatype::Fp16 => TensorData::Fp16(floats().map(f16::from_f64).collect()),
        Datatype::Bf16 => TensorData::Bf16(floats().map(bf16::from_f64).collect()),
        Datatype::Fp32 => TensorData::Fp32(floats().map(|x| x as f32).collect()),
        Datatype::Fp64 => TensorData::Fp64(floats().collect()),
        Datatype::Bool => TensorData::Bool(bits.iter().map(|bit| *bit != 0.0).collect()),
        Datatype::Bytes => TensorData::Bytes(vec![b"text".to_vec(); count]),
        // Every integer type holds 0 and 1.
        other => TensorData::from_f64(other, &bits).unwrap_or(TensorData::new(other)),
    };
    Tensor { shape: shape.to_vec(), data }
}

/// How two tensors differ by more than rounding.
pub(super) fn difference(expected: &Tensor, got: &Tensor) -> Option<String> {
    if expected.shape != got.shape {
        return Some(format!("{:?} instead of {:?}", got.shape, expected.shape));
    }
    let wide = |x: f32, y: f32| (f64::from(x), f64::from(y));
    match (&expected.data, &got.data) {
        (TensorData::Fp32(one), TensorData::Fp32(other)) => {
            far(one.iter().zip(other).map(|(x, y)| wide(*x, *y)), TOLERANCE)
        }
        (TensorData::Fp64(one), TensorData::Fp64(other)) => {
            far(one.iter().zip(other).map(|(x, y)| (*x, *y)), TOLERANCE)
        }
        (TensorData::Fp16(one), TensorData::Fp16(other)) => {
            let pairs = one.iter().zip(other).map(|(x, y)| wide(x.to_f32(), y.to_f32()));
            far(pairs, TOLERANCE_OF_16_BITS)
        }
        (TensorData::Bf16(one), TensorData::Bf16(other)) => {
            let pairs = one.iter().zip(other).map(|(x, y)| wide(x.to_f32(), y.to_f32()));
            far(pairs, TOLERANCE_OF_16_BITS)
        }
        (one, other) => (one != other).then(|| "other elements".into()),
    }
}

/// The first pair of numbers that are further apart than the tolerance.
fn far(mut pairs: impl Iterator<Item = (f64, f64)>, tolerance: f64) -> Option<String> {
    let is_far = |&(x, y): &(f64, f64)| x != y && (x - y).abs() > tolerance * x.abs().max(1.0);
    pairs.find(is_far).map(|(x, y)| format!("{y} instead of {x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_size_is_the_smallest_of_those_that_hardly_differ() {
        let table = |times: &[f64]| {
            let timed =
                |(index, us_per_row): (usize, &f64)| Timed { rows: 1 << index, us_per_row: *us_per_row };
            times.iter().enumerate().map(timed).collect::<Vec<_>>()
        };
        assert_eq!(best(&table(&[45.0, 30.0, 20.0, 19.5])), 4);
        assert_eq!(best(&table(&[10.0, 12.0, 11.0])), 1);
        assert_eq!(best(&table(&[45.0, 60.0, 30.0])), 4);
    }

    #[test]
    fn what_is_made_up_has_its_shape_and_type_and_is_finite() {
        for &datatype in Datatype::ALL {
            let tensor = made_up(datatype, &[2, 3], 7);
            assert_eq!((tensor.data.len(), tensor.data.datatype()), (6, datatype));
            assert!(tensor.data.is_finite());
        }
        assert_ne!(made_up(Datatype::Fp32, &[4], 1), made_up(Datatype::Fp32, &[4], 2));
    }
}
