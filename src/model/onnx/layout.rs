//! A plan resolved against a file: what every input and output of the engine is.
//!
//! Owns the search for states and batch axes, and every error that names a plan and a file which contradict each other.
//! It runs nothing.

use super::engine::{Engine, Port, PortDim};
use super::plan::{Constant, Initial, Plan, StatePlan, States};
use crate::model::{Datatype, Tensor, TensorData, elements};
use half::{bf16, f16};

/// What every input and output of an engine is.
#[derive(Debug)]
pub(super) struct Layout {
    /// One for each input of the engine.
    pub(super) slots: Vec<Slot>,
    /// The inputs that lanes bring.
    pub(super) inputs: Vec<Port>,
    /// Where their rows are.
    pub(super) input_axes: Vec<Option<usize>>,
    /// The outputs that lanes get.
    pub(super) outputs: Vec<Port>,
    /// Where their rows are.
    pub(super) output_axes: Vec<Option<usize>>,
    /// What is remembered.
    pub(super) states: Vec<StateLayout>,
    /// The engine's outputs to ask for: those that lanes get, then the states.
    pub(super) wanted: Vec<usize>,
    /// Dimensions of two inputs that must be equal: input and dimension, of either.
    pub(super) equal: Vec<[(usize, usize); 2]>,
}

/// What an input of the engine is.
#[derive(Debug)]
pub(super) enum Slot {
    /// That input of the lanes.
    Input(usize),
    /// That state.
    State(usize),
    /// Always this.
    Constant(Tensor),
}

/// A state.
#[derive(Debug)]
pub(super) struct StateLayout {
    /// Its input.
    pub(super) name: String,
    /// Where its rows are; `None` if it has room for one only.
    pub(super) axis: Option<usize>,
    /// One row of it at the start.
    pub(super) initial: Tensor,
}

/// A pair of ports found or declared to be a state.
struct Pair {
    input: usize,
    output: usize,
    plan: StatePlan,
}

impl Layout {
    /// Resolves a plan.
    ///
    /// # Errors
    /// What in the plan contradicts what in the file.
    pub(super) fn resolve(engine: &dyn Engine, plan: &Plan) -> Result<Layout, String> {
        let (inputs, outputs) = (engine.inputs(), engine.outputs());
        let constants = constants(inputs, &plan.constants)?;
        let pairs = match &plan.states {
            States::Declared(states) => declared(inputs, outputs, states)?,
            States::Detected => detected(inputs, outputs, &constants)?,
        };
        let mut states = Vec::new();
        let mut symbol = None;
        for pair in &pairs {
            if let Some(Slot::Constant(_)) = constants[pair.input] {
                return Err(format!("input `{}` is declared as a state and as a constant", pair.plan.input));
            }
            let (state, batch) = state(&inputs[pair.input], &outputs[pair.output], &pair.plan)?;
            symbol = symbol.or(batch);
            states.push(state);
        }
        let mut layout = Layout {
            slots: Vec::new(),
            inputs: Vec::new(),
            input_axes: Vec::new(),
            outputs: Vec::new(),
            output_axes: Vec::new(),
            states,
            wanted: Vec::new(),
            equal: Vec::new(),
        };
        layout.take_inputs(inputs, plan, constants, &pairs, symbol)?;
        layout.take_outputs(outputs, plan, &pairs)?;
        Ok(layout)
    }

    /// Bytes of one row of all states.
    pub(super) fn state_bytes(&self) -> usize {
        let bytes = |state: &StateLayout| {
            state.initial.data.bytes() + size_of_val(&*state.initial.shape) + size_of::<Tensor>()
        };
        self.states.iter().map(bytes).sum()
    }

    fn take_inputs(
        &mut self,
        inputs: &[Port],
        plan: &Plan,
        constants: Vec<Option<Slot>>,
        pairs: &[Pair],
        symbol: Option<PortDim>,
    ) -> Result<(), String> {
        // Without a state it is the first input that tells the symbol of the batch.
        let mut symbol = symbol;
        for (index, (port, constant)) in inputs.iter().zip(constants).enumerate() {
            let state = pairs.iter().position(|pair| pair.input == index);
            let slot = match (constant, state) {
                (Some(constant), _) => constant,
                (None, Some(state)) => Slot::State(state),
                (None, None) => {
                    let axis = axis(port, plan, symbol.as_ref())?;
                    if symbol.is_none() {
                        symbol = axis.and_then(|axis| port.shape.as_ref()?.get(axis).cloned());
                    }
                    self.inputs.push(port.clone());
                    self.input_axes.push(axis);
                    Slot::Input(self.inputs.len() - 1)
                }
            };
            self.slots.push(slot);
        }
        if self.inputs.is_empty() {
            return Err(format!(
                "no input is left for the caller: of {} all are states or constants; \
                 declare which of them are states",
                names(inputs)
            ));
        }
        self.equal = equal(&self.inputs, &self.input_axes);
        self.check_named(inputs, plan)
    }

    /// Whether all that the plan names as an input or output is one that lanes bring or get.
    fn check_named(&self, inputs: &[Port], plan: &Plan) -> Result<(), String> {
        for (name, shape) in &plan.samples {
            let Some(port) = self.inputs.iter().find(|port| *port.name == **name) else {
                return Err(format!(
                    "a sample shape is declared for `{name}`, which is not among the inputs that callers bring: {}",
                    names(&self.inputs)
                ));
            };
            if !fits(port, shape) {
                return Err(format!(
                    "the sample shape of `{name}` is declared {shape:?}, the file says {port}"
                ));
            }
        }
        let state = |name: &String| self.states.iter().any(|state| state.name == *name);
        if let Some(axis) = plan.axes.iter().find(|axis| state(&axis.port)) {
            let port = inputs.iter().find(|port| *port.name == *axis.port);
            let port = port.map_or_else(String::new, Port::to_string);
            return Err(format!(
                "an axis is declared for {port}, which is a state; the dimension without a size in its shape is its batch"
            ));
        }
        Ok(())
    }

    fn take_outputs(&mut self, outputs: &[Port], plan: &Plan, pairs: &[Pair]) -> Result<(), String> {
        for name in &plan.hidden {
            find("hidden output", name, "output", outputs)?;
        }
        let all = self.inputs.iter().map(|port| &port.name).chain(outputs.iter().map(|port| &port.name));
        let all: Vec<_> = all.collect();
        if let Some(axis) = plan.axes.iter().find(|axis| !all.iter().any(|name| ***name == *axis.port)) {
            return Err(format!(
                "an axis is declared for `{}`, which the file does not have: it has {}",
                axis.port,
                all.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            ));
        }
        let symbol = self.inputs.iter().zip(&self.input_axes).find_map(|(port, axis)| {
            let dim = port.shape.as_ref()?.get((*axis)?)?;
            matches!(dim, PortDim::Symbol(_)).then(|| dim.clone())
        });
        for (index, port) in outputs.iter().enumerate() {
            let is_state = pairs.iter().any(|pair| pair.output == index);
            if is_state || plan.hidden.iter().any(|name| **name == *port.name) {
                continue;
            }
            // What comes out often has symbols of its own: where the batch's is not found, its first dimension is it.
            let found = axis(port, plan, symbol.as_ref())?;
            let open =
                |shape: &Vec<PortDim>| shape.first().is_some_and(|dim| !matches!(dim, PortDim::Fixed(_)));
            let declared = plan.axes.iter().any(|axis| *axis.port == *port.name);
            let guess = (!declared && port.shape.as_ref().is_none_or(open)).then_some(0);
            self.outputs.push(port.clone());
            self.output_axes.push(found.or(guess));
            self.wanted.push(index);
        }
        if self.outputs.is_empty() {
            return Err(format!(
                "no output is left for the caller: of {} all are states or hidden",
                names(outputs)
            ));
        }
        self.wanted.extend(pairs.iter().map(|pair| pair.output));
        Ok(())
    }
}

fn names(ports: &[Port]) -> String {
    ports.iter().map(|port| format!("`{}`", port.name)).collect::<Vec<_>>().join(", ")
}

fn find(what: &str, name: &str, kind: &str, ports: &[Port]) -> Result<usize, String> {
    ports.iter().position(|port| *port.name == *name).ok_or_else(|| {
        format!("{what} `{name}` is declared, but the file has no such {kind}: it has {}", names(ports))
    })
}

/// Whether a shape is one that the port takes.
pub(super) fn fits(port: &Port, shape: &[usize]) -> bool {
    let same = |(dim, side): (&PortDim, &usize)| !matches!(dim, PortDim::Fixed(fixed) if fixed != side);
    port.shape.as_ref().is_none_or(|dims| dims.len() == shape.len() && dims.iter().zip(shape).all(same))
}

/// The constant for each input that has one.
fn constants(inputs: &[Port], plans: &[Constant]) -> Result<Vec<Option<Slot>>, String> {
    let mut constants: Vec<Option<Slot>> = inputs.iter().map(|_| None).collect();
    for plan in plans {
        let index = find("constant", &plan.input, "input", inputs)?;
        let port = &inputs[index];
        let fixed = |dim: &PortDim| match dim {
            PortDim::Fixed(side) => Some(*side),
            _ => None,
        };
        let said = port.shape.as_ref().and_then(|shape| shape.iter().map(fixed).collect::<Option<Vec<_>>>());
        let shape = plan.shape.clone().or(said);
        let Some(shape) = shape.filter(|shape| fits(port, shape)) else {
            return Err(match &plan.shape {
                Some(shape) => {
                    format!("constant `{}` is declared {shape:?}, the file says {port}", plan.input)
                }
                None => format!("constant `{}` needs a shape: the file says {port}", plan.input),
            });
        };
        let data = fill(port, &shape, &plan.values, "constant")?;
        if constants[index].replace(Slot::Constant(Tensor { shape, data })).is_some() {
            return Err(format!("constant `{}` is declared twice", plan.input));
        }
    }
    Ok(constants)
}

/// Elements of the port's type for a shape: as many values as it holds, or one that is repeated.
fn fill(port: &Port, shape: &[usize], values: &[f64], what: &str) -> Result<TensorData, String> {
    let count = elements(shape).filter(|count| *count <= isize::MAX as usize / 8).unwrap_or(usize::MAX);
    let repeated;
    let values = match values {
        [value] if count < usize::MAX => {
            repeated = vec![*value; count];
            &repeated
        }
        values if values.len() == count => values,
        values => {
            let given = values.len();
            return Err(format!("{what} `{}` has {given} values for {count} elements: {port}", port.name));
        }
    };
    let data = match port.datatype {
        Datatype::Bool => values
            .iter()
            .all(|value| *value == 0.0 || *value == 1.0)
            .then(|| TensorData::Bool(values.iter().map(|value| *value != 0.0).collect())),
        Datatype::Fp16 => Some(TensorData::Fp16(values.iter().map(|value| f16::from_f64(*value)).collect())),
        Datatype::Bf16 => Some(TensorData::Bf16(values.iter().map(|value| bf16::from_f64(*value)).collect())),
        other => TensorData::from_f64(other, values),
    };
    let data = data.filter(TensorData::is_finite);
    data.ok_or_else(|| format!("{what} `{}` has a value that is not one of {port}", port.name))
}

fn declared(inputs: &[Port], outputs: &[Port], plans: &[StatePlan]) -> Result<Vec<Pair>, String> {
    let mut pairs: Vec<Pair> = Vec::new();
    for plan in plans {
        let input = find("state", &plan.input, "input", inputs)?;
        let output = find("state", &plan.output, "output", outputs)?;
        if let Some(other) = pairs.iter().find(|pair| pair.input == input || pair.output == output) {
            return Err(format!(
                "state `{}` -> `{}` is declared, and so is `{}` -> `{}`: an input and an output belong to one state",
                plan.output, plan.input, other.plan.output, other.plan.input
            ));
        }
        pairs.push(Pair { input, output, plan: plan.clone() });
    }
    Ok(pairs)
}

/// The pairs whose names say that they are states.
fn detected(inputs: &[Port], outputs: &[Port], constants: &[Option<Slot>]) -> Result<Vec<Pair>, String> {
    let mut pairs: Vec<Pair> = Vec::new();
    for (input, port) in inputs.iter().enumerate().filter(|(input, _)| constants[*input].is_none()) {
        let expected = successors(&port.name);
        let matches =
            |output: &Port| expected.iter().any(|name| **name == *output.name) && same(port, output);
        let found: Vec<usize> = (0..outputs.len()).filter(|output| matches(&outputs[*output])).collect();
        let output = match found[..] {
            [] => continue,
            [output] => output,
            [first, second, ..] => {
                return Err(format!(
                    "input `{}` may take its next value from output `{}` or `{}`; declare the states",
                    port.name, outputs[first].name, outputs[second].name
                ));
            }
        };
        if let Some(other) = pairs.iter().find(|pair| pair.output == output) {
            return Err(format!(
                "output `{}` may be the next value of input `{}` or `{}`; declare the states",
                outputs[output].name, other.plan.input, port.name
            ));
        }
        let (name, next) = (port.name.to_string(), outputs[output].name.to_string());
        let plan = StatePlan { input: name, output: next, shape: None, initial: Initial::default() };
        pairs.push(Pair { input, output, plan });
    }
    Ok(pairs)
}

/// What an output is called that is the next value of this input.
fn successors(input: &str) -> Vec<String> {
    let mut names = vec![format!("{input}N"), format!("{input}_out")];
    let renamed = [("_in", "_out"), ("0", "n")];
    names.extend(renamed.iter().filter_map(|(old, new)| Some(format!("{}{new}", input.strip_suffix(old)?))));
    let renamed = [("past_", "present_"), ("cached_", "new_cached_")];
    names.extend(renamed.iter().filter_map(|(old, new)| Some(format!("{new}{}", input.strip_prefix(old)?))));
    names
}

/// Whether an output can be the next value of an input: same type, and a shape that is fixed but for the batch.
fn same(input: &Port, output: &Port) -> bool {
    let Some(shape) = &input.shape else { return false };
    let open = shape.iter().filter(|dim| !matches!(dim, PortDim::Fixed(_))).count();
    input.datatype == output.datatype && open <= 1 && compatible(shape, output)
}

/// Whether no fixed dimension of an output contradicts one of `shape`.
fn compatible(shape: &[PortDim], output: &Port) -> bool {
    let agree = |dims: (&PortDim, &PortDim)| match dims {
        (PortDim::Fixed(one), PortDim::Fixed(other)) => one == other,
        _ => true,
    };
    output.shape.as_ref().is_none_or(|dims| dims.len() == shape.len() && shape.iter().zip(dims).all(agree))
}

/// A state with its batch's symbol, if the file has one.
fn state(input: &Port, output: &Port, plan: &StatePlan) -> Result<(StateLayout, Option<PortDim>), String> {
    let name = &plan.input;
    if input.datatype != output.datatype {
        return Err(format!("state `{name}`: input {input} and output {output} differ in type"));
    }
    let side = |dim: &PortDim| match dim {
        PortDim::Fixed(side) => Some(*side),
        _ => None,
    };
    let said = input.shape.as_ref().map(|shape| shape.iter().map(side).collect::<Vec<_>>());
    let Some(sides) = plan.shape.clone().or(said) else {
        return Err(format!("state `{name}` needs a shape: the file says {input}"));
    };
    if sides.iter().filter(|side| side.is_none()).count() > 1 {
        return Err(match &plan.shape {
            Some(_) => format!("state `{name}` is declared with more than one dimension for the batch"),
            None => format!(
                "state `{name}` needs a shape with one dimension for the batch: the file says {input}"
            ),
        });
    }
    let one_row: Vec<usize> = sides.iter().map(|side| side.unwrap_or(1)).collect();
    let dims: Vec<PortDim> = sides.iter().map(|side| side.map_or(PortDim::Unknown, PortDim::Fixed)).collect();
    let declared = Port { name: input.name.clone(), datatype: input.datatype, shape: Some(dims.clone()) };
    if !fits(input, &one_row) {
        return Err(format!("state `{name}` is declared as {declared}, the file says {input}"));
    }
    if !compatible(&dims, output) {
        return Err(format!("state `{name}` is {declared}, but its next value is output {output}"));
    }
    let values = match &plan.initial {
        Initial::Fill(value) => std::slice::from_ref(value),
        Initial::Values(values) => values,
    };
    let data = fill(&declared, &one_row, values, "the initial value of state")?;
    // A batch that the plan leaves open may be fixed in the file, to 1, if the file has no other dimension for it.
    let axis = sides.iter().position(Option::is_none);
    let batch = axis.and_then(|axis| input.shape.as_ref().map(|shape| shape[axis].clone()));
    let is_open = |dim: &PortDim| !matches!(dim, PortDim::Fixed(_));
    if let Some(PortDim::Fixed(_)) = batch
        && input.shape.iter().flatten().any(is_open)
    {
        return Err(format!(
            "state `{name}` is declared with its batch in another dimension than the file has open: {declared}, the \
             file says {input}"
        ));
    }
    let axis = axis.filter(|_| !matches!(batch, Some(PortDim::Fixed(_))));
    let state = StateLayout { name: name.clone(), axis, initial: Tensor { shape: one_row, data } };
    Ok((state, batch.filter(|dim| matches!(dim, PortDim::Symbol(_)))))
}

/// Where the rows of a port are: as declared, else the dimension with the symbol of the batch, else the first one if it
/// is open and has no other symbol.
fn axis(port: &Port, plan: &Plan, batch: Option<&PortDim>) -> Result<Option<usize>, String> {
    if let Some(declared) = plan.axes.iter().find(|axis| *axis.port == *port.name) {
        return match (declared.axis, &port.shape) {
            (Some(axis), Some(shape)) if axis >= shape.len() => Err(format!(
                "the batch of `{}` is declared at dimension {axis}, the file says {port}",
                port.name
            )),
            // What is fixed has room for that many only: each lane goes alone.
            (Some(axis), Some(shape)) if matches!(shape[axis], PortDim::Fixed(_)) => Err(format!(
                "the batch of `{}` is declared at dimension {axis}, which is fixed in the file: {port}",
                port.name
            )),
            (axis, _) => Ok(axis),
        };
    }
    let Some(shape) = &port.shape else { return Ok(Some(0)) };
    let is_batch = |dim: &PortDim| matches!(batch, Some(PortDim::Symbol(_))) && Some(dim) == batch;
    let found: Vec<usize> = (0..shape.len()).filter(|index| is_batch(&shape[*index])).collect();
    if found.len() > 1 {
        return Err(format!(
            "{port} has the batch in more than one dimension; declare which one has the rows"
        ));
    }
    let first = match (shape.first(), batch) {
        (Some(PortDim::Unknown), _) | (Some(PortDim::Symbol(_)), None) => Some(0),
        _ => None,
    };
    Ok(found.first().copied().or(first))
}

/// The dimensions that share a symbol, or are both the batch.
fn equal(inputs: &[Port], axes: &[Option<usize>]) -> Vec<[(usize, usize); 2]> {
    let dims = |input: usize| {
        let shape = inputs[input].shape.as_deref().unwrap_or(&[]);
        shape.iter().enumerate().map(move |(dim, said)| (input, dim, said))
    };
    let all: Vec<_> = (0..inputs.len()).flat_map(dims).collect();
    let mut equal = Vec::new();
    for (index, (input, dim, said)) in all.iter().enumerate() {
        let earlier = all[..index].iter().find(|(other, other_dim, other_said)| {
            let both_batch = axes[*input] == Some(*dim) && axes[*other] == Some(*other_dim);
            both_batch || (matches!(said, PortDim::Symbol(_)) && said == other_said)
        });
        equal.extend(earlier.map(|(other, other_dim, _)| [(*other, *other_dim), (*input, *dim)]));
    }
    equal
}
