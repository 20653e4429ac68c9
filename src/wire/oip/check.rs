//! Whether a well-formed request fits a model: each input there, of its type and shape; each output known.

use super::describe::AUDIO;
use super::{InferRequest, dims, invalid, quoted};
use crate::model::{Datatype, Dim, Tensor, TensorData, TensorSpec};
use crate::reason::{Fault, Reason};

/// Takes the inputs out of a request, in the order of `specs`, without copying them.
///
/// # Errors
/// `InvalidValue` for an input that is missing or unexpected or has another type or shape; `PayloadTooLarge` for more
/// than `elements_max` elements in all. `model` is the name that the message tells.
pub fn check_inputs(
    request: &mut InferRequest,
    model: &str,
    specs: &[TensorSpec],
    elements_max: usize,
) -> Result<Vec<Tensor>, Fault> {
    check_elements(request, model, elements_max)?;
    if let Some(other) =
        request.inputs.iter().find(|input| specs.iter().all(|spec| *spec.name != *input.name))
    {
        let known: Vec<_> = specs.iter().map(|spec| &*spec.name).collect();
        let (name, known) = (quoted(&other.name), known.join(", "));
        return Err(invalid(format!(
            "unexpected inference input {name} for model '{model}'. Expected {known}"
        )));
    }
    let mut tensors = Vec::with_capacity(specs.len());
    for spec in specs {
        let found = request.inputs.iter_mut().find(|input| *input.name == *spec.name);
        let input = found.ok_or_else(|| {
            let (name, datatype, shape) = (&spec.name, spec.datatype.name(), shape(spec));
            invalid(format!("input '{name}' is missing for model '{model}'. Expected {datatype} {shape}"))
        })?;
        check_tensor(&input.tensor, model, spec)?;
        let nothing = Tensor { shape: vec![0], data: TensorData::new(spec.datatype) };
        tensors.push(std::mem::replace(&mut input.tensor, nothing));
    }
    request.inputs.clear();
    Ok(tensors)
}

/// Takes the one input of a model that hears audio out of a request: `AUDIO`, FP32, `[samples]` or `[n, samples]`.
///
/// # Errors
/// As [`check_inputs`].
pub fn check_audio(request: &mut InferRequest, model: &str, elements_max: usize) -> Result<Tensor, Fault> {
    let rank = request.inputs.first().map_or(2, |input| input.tensor.shape.len());
    if !matches!(rank, 1 | 2) {
        let got = dims(&request.inputs[0].tensor.shape);
        return Err(invalid(format!(
            "unexpected shape for input '{AUDIO}' for model '{model}'. Expected [-1] or [-1,-1], got {got}"
        )));
    }
    let spec = TensorSpec {
        name: AUDIO.into(),
        datatype: Datatype::Fp32,
        shape: vec![Dim::Any; rank],
        labels: Vec::new(),
    };
    let mut tensors = check_inputs(request, model, &[spec], elements_max)?;
    Ok(tensors.remove(0))
}

/// Whether the model has each output that the request names: worth knowing before it runs.
///
/// # Errors
/// `InvalidValue` naming the first that it has not.
pub fn check_outputs<'n>(
    request: &InferRequest,
    model: &str,
    names: impl IntoIterator<Item = &'n str> + Clone,
) -> Result<(), Fault> {
    for output in request.outputs.iter().flatten() {
        if !names.clone().into_iter().any(|name| name == output.name) {
            let known: Vec<_> = names.into_iter().collect();
            let (name, known) = (quoted(&output.name), known.join(", "));
            return Err(invalid(format!(
                "unexpected inference output {name} for model '{model}'. It has {known}"
            )));
        }
    }
    Ok(())
}

fn check_elements(request: &InferRequest, model: &str, elements_max: usize) -> Result<(), Fault> {
    // Tensors in memory are counted: their sum cannot overflow.
    let elements: usize = request.inputs.iter().map(|input| input.tensor.data.len()).sum();
    if elements <= elements_max {
        return Ok(());
    }
    let message =
        format!("{elements} elements for model '{model}', which takes {elements_max} in one request");
    Err(Fault::new(Reason::PayloadTooLarge, message))
}

fn check_tensor(tensor: &Tensor, model: &str, spec: &TensorSpec) -> Result<(), Fault> {
    let name = &spec.name;
    let (given, expected) = (tensor.data.datatype(), spec.datatype);
    if given != expected {
        let (given, expected) = (given.name(), expected.name());
        return Err(invalid(format!(
            "inference input '{name}' data-type is '{given}', but model '{model}' expects '{expected}'"
        )));
    }
    let fits = |(side, dim): (&usize, &Dim)| *dim == Dim::Any || *dim == Dim::Fixed(*side);
    if tensor.shape.len() != spec.shape.len() || !tensor.shape.iter().zip(&spec.shape).all(fits) {
        let (expected, got) = (shape(spec), dims(&tensor.shape));
        return Err(invalid(format!(
            "unexpected shape for input '{name}' for model '{model}'. Expected {expected}, got {got}"
        )));
    }
    Ok(())
}

fn shape(spec: &TensorSpec) -> String {
    dims(super::describe::wire_dims(&spec.shape))
}
