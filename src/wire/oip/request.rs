//! Requests for inference: JSON, JSON with binary tensors behind it, or the bytes of one tensor alone.

use super::json::Json;
use super::{binary, dims, elements, invalid, malformed, quoted};
use crate::model::{self, Datatype, Dim, Tensor, TensorData, TensorSpec};
use crate::reason::{Fault, Reason};
use std::time::Duration;

/// Greatest number of dimensions of a tensor.
const DIMS_MAX: usize = 16;
/// Greatest length of an id, a name or a sequence's name, bytes.
const NAME_BYTES_MAX: usize = 1024;

/// How much a request may bring. The bytes of the body are limited where it is received.
#[derive(Clone, Copy, Debug)]
pub struct InferLimits {
    /// Tensors among its inputs, and names among its outputs.
    pub tensors_max: usize,
    /// Elements of all its inputs together.
    pub elements_max: usize,
}

/// A request for inference, whole and well-formed; whether it fits a model is for [`super::check_inputs`] to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InferRequest {
    /// What the answer repeats.
    pub id: Option<String>,
    /// The sequence it belongs to.
    pub sequence: Option<Sequence>,
    /// How long the client thinks it worth waiting (`timeout`, microseconds on the wire).
    pub timeout: Option<Duration>,
    /// The inputs in the order they came; names are unique.
    pub inputs: Vec<InputTensor>,
    /// The outputs wanted, in this order, names unique; `None`: all.
    pub outputs: Option<Vec<RequestedOutput>>,
    /// Whether outputs that say nothing of it come back as binary data.
    pub binary_data_output: bool,
}

/// An input of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct InputTensor {
    /// Its name.
    pub name: String,
    /// Its shape and its elements, all finite.
    pub tensor: Tensor,
}

/// An output that a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedOutput {
    /// Its name.
    pub name: String,
    /// Whether it comes back as binary data; the default of the request is applied.
    pub binary_data: bool,
    /// How many of the best classes to tell in place of the elements; 0: the elements.
    pub classification: usize,
}

/// Where in a sequence a request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Which sequence.
    pub key: SequenceKey,
    /// The first of the sequence.
    pub start: bool,
    /// The last of the sequence.
    pub end: bool,
}

/// What a client calls a sequence. The number 0 and the empty string mean no sequence and never come here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SequenceKey {
    /// A number from 1.
    Number(u64),
    /// A name.
    Name(String),
}

impl std::fmt::Display for SequenceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SequenceKey::Number(number) => write!(f, "{number}"),
            SequenceKey::Name(name) => f.write_str(&quoted(name)),
        }
    }
}

impl InferRequest {
    /// A request of a body. `header_len` is the value of `Inference-Header-Content-Length`: so many bytes are JSON, and
    /// the binary tensors follow. Without it the whole body is JSON. For the value 0 see [`InferRequest::parse_raw`].
    ///
    /// # Errors
    /// `InvalidPayload` for what is not the JSON it should be, `InvalidValue` for tensors that contradict themselves,
    /// `PayloadTooLarge` for more than the limits allow. The message names the input and, where there is one, the
    /// element.
    pub fn parse(body: &[u8], header_len: Option<usize>, limits: &InferLimits) -> Result<Self, Fault> {
        let (header, behind) = body.split_at_checked(header_len.unwrap_or(body.len())).ok_or_else(|| {
            let (stated, there) = (header_len.unwrap_or_default(), body.len());
            malformed(format!("Inference-Header-Content-Length is {stated}, the body has only {there} bytes"))
        })?;
        let mut parser = Parser { limits, elements: 0 };
        let head = parser.head(header)?;
        let inputs = parser.inputs(head.inputs, behind)?;
        let binary_data_output = head.parameters.binary_data_output.unwrap_or(false);
        let output = |(name, binary_data, classification): (String, Option<bool>, usize)| RequestedOutput {
            name,
            binary_data: binary_data.unwrap_or(binary_data_output),
            classification,
        };
        Ok(InferRequest {
            id: head.id,
            sequence: head.parameters.sequence()?,
            timeout: head.parameters.timeout_us.filter(|&us| us > 0).map(Duration::from_micros),
            inputs,
            outputs: head.outputs.map(|outputs| outputs.into_iter().map(output).collect()),
            binary_data_output,
        })
    }

    /// A request whose body is the bytes of one tensor and nothing else (`Inference-Header-Content-Length: 0`). The
    /// model must have one input; one [`Dim::Any`] at most is told by the number of bytes, others are 1 from the front
    /// on (the batch). A BYTES input is one element, the body itself. The answer is binary.
    ///
    /// # Errors
    /// `InvalidValue` if the model has not one input or the bytes do not fill its shape, `PayloadTooLarge` beyond the
    /// limits.
    pub fn parse_raw(body: &[u8], inputs: &[TensorSpec], limits: &InferLimits) -> Result<Self, Fault> {
        let [spec] = inputs else {
            let count = inputs.len();
            return Err(invalid(format!(
                "a raw binary request (Inference-Header-Content-Length: 0) needs a model with one input, this one has \
                 {count}"
            )));
        };
        let what = format!("input '{}'", spec.name);
        let shape = raw_shape(&what, spec, body.len())?;
        let elements = model::elements(&shape).filter(|&elements| elements <= limits.elements_max);
        let elements = elements.ok_or_else(|| too_many(&what, limits.elements_max))?;
        let data = match spec.datatype {
            Datatype::Bytes => TensorData::Bytes(vec![body.to_vec()]),
            datatype => binary::decode(&what, datatype, elements, body)?,
        };
        let input = InputTensor { name: spec.name.to_string(), tensor: Tensor { shape, data } };
        Ok(InferRequest { inputs: vec![input], binary_data_output: true, ..Self::default() })
    }
}

fn raw_shape(what: &str, spec: &TensorSpec, bytes: usize) -> Result<Vec<usize>, Fault> {
    let mut shape: Vec<usize> =
        spec.shape.iter().map(|dim| if let Dim::Fixed(side) = dim { *side } else { 1 }).collect();
    let Some(element_bytes) = spec.datatype.element_bytes() else { return Ok(vec![1; shape.len().max(1)]) };
    let fixed = model::elements(&shape).and_then(|elements| elements.checked_mul(element_bytes));
    let fixed = fixed.filter(|&fixed| fixed > 0).unwrap_or(usize::MAX);
    if let Some(last) = spec.shape.iter().rposition(|dim| *dim == Dim::Any)
        && bytes.is_multiple_of(fixed)
    {
        shape[last] = bytes / fixed;
    } else if bytes != fixed {
        let expected = dims(&shape);
        return Err(invalid(format!(
            "{what} has {bytes} bytes, which do not fill rows of its shape {expected}"
        )));
    }
    Ok(shape)
}

fn too_many(what: &str, elements_max: usize) -> Fault {
    Fault::new(
        Reason::PayloadTooLarge,
        format!("{what} has too many elements: a request may have {elements_max}"),
    )
}

/// The JSON of a request as far as it can be understood without what stands behind it.
#[derive(Default)]
struct Head {
    id: Option<String>,
    parameters: Parameters,
    inputs: Vec<Input>,
    outputs: Option<Vec<(String, Option<bool>, usize)>>,
}

#[derive(Default)]
struct Parameters {
    key: Option<SequenceKey>,
    start: bool,
    end: bool,
    timeout_us: Option<u64>,
    binary_data_output: Option<bool>,
}

impl Parameters {
    fn sequence(&self) -> Result<Option<Sequence>, Fault> {
        match &self.key {
            Some(key) => Ok(Some(Sequence { key: key.clone(), start: self.start, end: self.end })),
            None if self.start || self.end => Err(invalid(
                "sequence_start or sequence_end without a sequence_id: say which sequence is meant",
            )),
            None => Ok(None),
        }
    }
}

struct Input {
    name: String,
    datatype: Datatype,
    shape: Vec<usize>,
    /// The product of the shape.
    elements: usize,
    source: Source,
}

enum Source {
    Data(TensorData),
    Binary(usize),
}

struct Parser<'a> {
    limits: &'a InferLimits,
    /// Of all inputs so far.
    elements: usize,
}

impl Parser<'_> {
    fn head(&mut self, header: &[u8]) -> Result<Head, Fault> {
        let mut json = Json::new(header)?;
        let mut head = Head::default();
        let (mut inputs, mut parameters) = (None, None);
        json.object("the request", |json, key| match key {
            "id" => once(&mut head.id, key, name(json, "id")?),
            "parameters" => once(&mut parameters, key, read_parameters(json)?),
            "inputs" => once(&mut inputs, key, self.read_inputs(json)?),
            "outputs" => once(&mut head.outputs, key, self.read_outputs(json)?),
            _ => json.ignore(),
        })?;
        json.end()?;
        head.inputs = inputs.ok_or_else(|| malformed("the request has no 'inputs'"))?;
        head.parameters = parameters.unwrap_or_default();
        Ok(head)
    }

    fn read_inputs(&mut self, json: &mut Json<'_>) -> Result<Vec<Input>, Fault> {
        let mut inputs: Vec<Input> = Vec::new();
        json.array("inputs", |json| {
            if inputs.len() == self.limits.tensors_max {
                return Err(invalid(format!("more than {} inputs", inputs.len())));
            }
            let input = self.read_input(json, inputs.len())?;
            if inputs.iter().any(|other| other.name == input.name) {
                return Err(invalid(format!("input {} comes twice", quoted(&input.name))));
            }
            inputs.push(input);
            Ok(())
        })?;
        Ok(inputs)
    }

    fn read_input(&mut self, json: &mut Json<'_>, index: usize) -> Result<Input, Fault> {
        let (mut given_name, mut datatype, mut shape, mut data, mut size) = (None, None, None, None, None);
        let what = |name: &Option<String>| match name {
            Some(name) => format!("input {}", quoted(name)),
            None => format!("input {index}"),
        };
        let mut later = None;
        json.object("an input", |json, key| match key {
            "name" => once(&mut given_name, key, name(json, "the name of an input")?),
            "datatype" => once(&mut datatype, key, read_datatype(json, &what(&given_name))?),
            "shape" => once(&mut shape, key, self.read_shape(json, &what(&given_name))?),
            "parameters" => read_input_parameters(json, &what(&given_name), &mut size),
            "data" if data.is_some() || later.is_some() => {
                Err(malformed(format!("{} has 'data' twice", what(&given_name))))
            }
            "data" => match (&shape, datatype) {
                (Some((shape, count)), Some(datatype)) => {
                    data = Some(elements::parse(json, &what(&given_name), datatype, shape, *count)?);
                    Ok(())
                }
                // What it is comes behind it.
                _ => json.defer_array("the data of an input").map(|start| later = Some(start)),
            },
            _ => json.ignore(),
        })?;
        let name = given_name.ok_or_else(|| malformed(format!("input {index} has no 'name'")))?;
        let what = format!("input {}", quoted(&name));
        let datatype = datatype.ok_or_else(|| malformed(format!("{what} has no 'datatype'")))?;
        let (shape, elements) = shape.ok_or_else(|| malformed(format!("{what} has no 'shape'")))?;
        if let Some(start) = later {
            let end = std::mem::replace(&mut json.at, start);
            data = Some(elements::parse(json, &what, datatype, &shape, elements)?);
            json.at = end;
        }
        let source = match (data, size) {
            (Some(data), None) => Source::Data(data),
            (None, Some(size)) => Source::Binary(size),
            (None, None) => {
                return Err(malformed(format!("{what} has neither 'data' nor 'binary_data_size'")));
            }
            (Some(_), Some(_)) => {
                return Err(invalid(format!("{what} has both 'data' and 'binary_data_size'")));
            }
        };
        Ok(Input { name, datatype, shape, elements, source })
    }

    /// A shape with its product, which counts against the limit.
    fn read_shape(&mut self, json: &mut Json<'_>, what: &str) -> Result<(Vec<usize>, usize), Fault> {
        let mut shape = Vec::new();
        json.array("a shape", |json| {
            let side: i64 = json.integer(&format!("a dimension of {what}"))?;
            if shape.len() == DIMS_MAX {
                return Err(invalid(format!("{what} has more than {DIMS_MAX} dimensions")));
            }
            let side = usize::try_from(side)
                .map_err(|_| invalid(format!("{what} has the dimension {side}: it cannot be negative")))?;
            shape.push(side);
            Ok(())
        })?;
        let left = self.limits.elements_max - self.elements;
        let elements = model::elements(&shape).filter(|&elements| elements <= left);
        let elements = elements.ok_or_else(|| too_many(what, self.limits.elements_max))?;
        self.elements += elements;
        Ok((shape, elements))
    }

    fn read_outputs(&self, json: &mut Json<'_>) -> Result<Vec<(String, Option<bool>, usize)>, Fault> {
        let mut outputs: Vec<(String, Option<bool>, usize)> = Vec::new();
        json.array("outputs", |json| {
            if outputs.len() == self.limits.tensors_max {
                return Err(invalid(format!("more than {} outputs", outputs.len())));
            }
            let (mut given_name, mut binary, mut classification) = (None, None, 0);
            json.object("an output", |json, key| match key {
                "name" => once(&mut given_name, key, name(json, "the name of an output")?),
                "parameters" => json.object("parameters", |json, key| match key {
                    "binary_data" => once(&mut binary, key, json.boolean(key)?),
                    "classification" => json.integer(key).map(|count| classification = count),
                    _ => other_parameter(json, key),
                }),
                _ => json.ignore(),
            })?;
            let name = given_name.ok_or_else(|| malformed("an output without a 'name'"))?;
            if outputs.iter().any(|(other, ..)| *other == name) {
                return Err(invalid(format!("output {} is asked for twice", quoted(&name))));
            }
            outputs.push((name, binary, classification));
            Ok(())
        })?;
        Ok(outputs)
    }

    /// The tensors, those behind the JSON among them, in their order.
    fn inputs(&self, inputs: Vec<Input>, behind: &[u8]) -> Result<Vec<InputTensor>, Fault> {
        let mut rest = behind;
        let mut tensors = Vec::with_capacity(inputs.len());
        for Input { name, datatype, shape, elements, source } in inputs {
            let what = format!("input {}", quoted(&name));
            let data = match source {
                Source::Data(data) => data,
                Source::Binary(size) => {
                    let (bytes, after) = rest.split_at_checked(size).ok_or_else(|| {
                        let there = rest.len();
                        malformed(format!(
                            "{what} has binary_data_size {size}, only {there} bytes are there for it"
                        ))
                    })?;
                    rest = after;
                    binary::decode(&what, datatype, elements, bytes)?
                }
            };
            tensors.push(InputTensor { name, tensor: Tensor { shape, data } });
        }
        if !rest.is_empty() {
            let (more, total) = (rest.len(), behind.len());
            return Err(malformed(format!(
                "{more} of the {total} bytes behind the JSON belong to no input: the binary_data_size of all inputs \
                 must add up to them (and Inference-Header-Content-Length to the JSON)"
            )));
        }
        Ok(tensors)
    }
}

fn once<T>(place: &mut Option<T>, key: &str, value: T) -> Result<(), Fault> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(malformed(format!("the key {} comes twice", quoted(key)))),
    }
}

fn name(json: &mut Json<'_>, what: &str) -> Result<String, Fault> {
    let name = json.string(what)?;
    if name.len() > NAME_BYTES_MAX {
        return Err(invalid(format!("{what} is longer than {NAME_BYTES_MAX} bytes")));
    }
    Ok(name.into_owned())
}

fn read_datatype(json: &mut Json<'_>, what: &str) -> Result<Datatype, Fault> {
    let name = json.string("a datatype")?;
    Datatype::parse(&name).ok_or_else(|| {
        let known: Vec<_> = Datatype::ALL.iter().map(|datatype| datatype.name()).collect();
        invalid(format!("{what} has the datatype {}, known are {}", quoted(&name), known.join(", ")))
    })
}

fn read_parameters(json: &mut Json<'_>) -> Result<Parameters, Fault> {
    let mut parameters = Parameters::default();
    json.object("parameters", |json, key| match key {
        "sequence_id" if json.peek() == Some(b'"') => {
            let name = name(json, key)?;
            parameters.key = (!name.is_empty()).then_some(SequenceKey::Name(name));
            Ok(())
        }
        "sequence_id" => {
            let number: u64 = json.integer(key)?;
            parameters.key = (number > 0).then_some(SequenceKey::Number(number));
            Ok(())
        }
        "sequence_start" => json.boolean(key).map(|start| parameters.start = start),
        "sequence_end" => json.boolean(key).map(|end| parameters.end = end),
        "timeout" => json.integer(key).map(|timeout| parameters.timeout_us = Some(timeout)),
        "binary_data_output" => json.boolean(key).map(|binary| parameters.binary_data_output = Some(binary)),
        // Everything else, `priority` among it, is the affair of servers that know it.
        _ => other_parameter(json, key),
    })?;
    Ok(parameters)
}

fn read_input_parameters(json: &mut Json<'_>, what: &str, size: &mut Option<usize>) -> Result<(), Fault> {
    json.object("parameters", |json, key| match key {
        "binary_data_size" => once(size, key, json.integer(&format!("binary_data_size of {what}"))?),
        _ => other_parameter(json, key),
    })
}

/// A parameter without meaning here is read over; one that would change where the data is must not be.
fn other_parameter(json: &mut Json<'_>, key: &str) -> Result<(), Fault> {
    if key.starts_with("shared_memory_") {
        return Err(Fault::new(
            Reason::NotSupported,
            "shared memory is not served: send the data in the request",
        ));
    }
    json.ignore()
}
