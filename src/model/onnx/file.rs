//! What an ONNX file says about its inputs and outputs, whatever an engine makes of it.
//!
//! Reads names, types and dimensions, and skips the weights.

use super::engine::{Port, PortDim};
use crate::model::Datatype;
use rten_onnx::onnx::{DataType, Dimension, ValueInfoProto};
use rten_onnx::protobuf::{DecodeMessage, Fields, OwnedValues, ProtobufError, ReadValue, ValueReader};
use std::fs::File;
use std::path::Path;

/// The inputs and outputs of a file.
#[derive(Debug)]
#[cfg_attr(not(any(feature = "rten", feature = "onnxruntime")), allow(dead_code))]
pub(super) struct Ports {
    /// Inputs without a value in the file.
    pub(super) inputs: Vec<Port>,
    /// All outputs.
    pub(super) outputs: Vec<Port>,
}

/// Reads a file's inputs and outputs.
///
/// # Errors
/// That it cannot be read, that it is not an ONNX model, or which input or output is not a tensor of a type that can be
/// served.
pub(super) fn read(path: &Path) -> Result<Ports, String> {
    let told = |error: &dyn std::fmt::Display| format!("cannot read `{}`: {error}", path.display());
    let file = File::open(path).map_err(|error| told(&error))?;
    let head = Head::decode(ValueReader::from_file(file)).map_err(|error| {
        let text = error.to_string();
        // The reader tells the Rust type that it was filling; nobody else knows that.
        let text = text.rsplit_once("::Head ").map_or(text.as_str(), |(_, rest)| rest);
        told(&format_args!("it is not an ONNX model, or a broken one ({text})"))
    })?;
    let Some(graph) = head.graph else {
        return Err(format!("`{}` holds no graph: it is not an ONNX model", path.display()));
    };
    // Before version 4 of the format all weights were inputs as well.
    let is_given =
        |input: &&ValueInfoProto| !graph.given.iter().any(|name| Some(name) == input.name.as_ref());
    let inputs = graph.inputs.iter().filter(is_given).map(|input| port("input", input)).collect();
    let outputs = graph.outputs.iter().map(|output| port("output", output)).collect();
    let ports =
        |ports: Result<Vec<Port>, String>| ports.map_err(|error| format!("`{}`: {error}", path.display()));
    Ok(Ports { inputs: ports(inputs)?, outputs: ports(outputs)? })
}

fn port(what: &str, value: &ValueInfoProto) -> Result<Port, String> {
    let name = value.name.as_deref().unwrap_or("");
    let tensor = value.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
    let Some(tensor) = tensor else {
        return Err(format!("{what} `{name}` is not a tensor; sequences, maps and optionals are not served"));
    };
    let kind = tensor.elem_type.unwrap_or(DataType(0));
    let Some(datatype) = datatype(kind) else {
        let kind = kind.name().map_or_else(|| format!("of unknown type {}", kind.0), str::to_owned);
        return Err(format!("{what} `{name}` is {kind}, which is not served"));
    };
    let shape = tensor.shape.as_ref().map(|shape| shape.dim.iter().map(dim).collect());
    Ok(Port { name: name.into(), datatype, shape })
}

fn dim(dim: &Dimension) -> PortDim {
    // Some exporters write -1 or an empty symbol for what they do not know.
    let fixed = dim.dim_value.and_then(|side| usize::try_from(side).ok());
    match (fixed, dim.dim_param.as_deref()) {
        (Some(side), _) => PortDim::Fixed(side),
        (None, Some(symbol)) if !symbol.is_empty() => PortDim::Symbol(symbol.into()),
        _ => PortDim::Unknown,
    }
}

fn datatype(kind: DataType) -> Option<Datatype> {
    Some(match kind {
        DataType::BOOL => Datatype::Bool,
        DataType::UINT8 => Datatype::Uint8,
        DataType::UINT16 => Datatype::Uint16,
        DataType::UINT32 => Datatype::Uint32,
        DataType::UINT64 => Datatype::Uint64,
        DataType::INT8 => Datatype::Int8,
        DataType::INT16 => Datatype::Int16,
        DataType::INT32 => Datatype::Int32,
        DataType::INT64 => Datatype::Int64,
        DataType::FLOAT16 => Datatype::Fp16,
        DataType::FLOAT => Datatype::Fp32,
        DataType::DOUBLE => Datatype::Fp64,
        DataType::BFLOAT16 => Datatype::Bf16,
        DataType::STRING => Datatype::Bytes,
        _ => return None,
    })
}

/// Of `ModelProto`: the graph.
#[derive(Default)]
struct Head {
    graph: Option<Graph>,
}

/// Of `GraphProto`: inputs, outputs, and the names of what has a value.
#[derive(Default)]
struct Graph {
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    given: Vec<String>,
}

/// Of `TensorProto`: the name.
#[derive(Default)]
struct Weight {
    name: Option<String>,
}

impl DecodeMessage for Head {
    type Types = OwnedValues;

    fn decode_fields<R: ReadValue<Types = OwnedValues>>(
        mut fields: Fields<R>,
    ) -> Result<Self, ProtobufError> {
        let mut head = Self::default();
        while let Some(mut field) = fields.next()? {
            match field.number() {
                7 => head.graph = Some(Graph::decode_field(&mut field)?),
                _ => field.skip()?,
            }
        }
        Ok(head)
    }
}

impl DecodeMessage for Graph {
    type Types = OwnedValues;

    fn decode_fields<R: ReadValue<Types = OwnedValues>>(
        mut fields: Fields<R>,
    ) -> Result<Self, ProtobufError> {
        let mut graph = Self::default();
        while let Some(mut field) = fields.next()? {
            match field.number() {
                5 => graph.given.extend(Weight::decode_field(&mut field)?.name),
                11 => graph.inputs.push(ValueInfoProto::decode_field(&mut field)?),
                12 => graph.outputs.push(ValueInfoProto::decode_field(&mut field)?),
                _ => field.skip()?,
            }
        }
        Ok(graph)
    }
}

impl DecodeMessage for Weight {
    type Types = OwnedValues;

    fn decode_fields<R: ReadValue<Types = OwnedValues>>(
        mut fields: Fields<R>,
    ) -> Result<Self, ProtobufError> {
        let mut weight = Self::default();
        while let Some(mut field) = fields.next()? {
            match field.number() {
                8 => weight.name = Some(field.read_string()?),
                _ => field.skip()?,
            }
        }
        Ok(weight)
    }
}
