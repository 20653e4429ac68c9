//! Answers to requests for inference: JSON, with the binary tensors behind it.

use super::{InferRequest, binary, classify, invalid, quoted};
use crate::model::{Tensor, TensorData};
use crate::reason::Fault;
use std::sync::Arc;

/// What a model gave, to be written as the request asked for it.
#[derive(Clone, Debug)]
pub struct InferResponse<'a> {
    /// The model that answered.
    pub model_name: &'a str,
    /// Its version.
    pub model_version: u32,
    /// All its outputs, finite, in the model's order.
    pub outputs: Vec<OutputTensor<'a>>,
}

/// An output of a model.
#[derive(Clone, Debug)]
pub struct OutputTensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its shape and elements.
    pub tensor: &'a Tensor,
    /// What the last dimension's elements stand for; empty: nothing is known.
    pub labels: &'a [Arc<str>],
    /// Whether the first dimension counts the rows of a batch: classification is then told row by row.
    pub batched: bool,
}

/// The body of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The bytes.
    pub body: Vec<u8>,
    /// The value of `Inference-Header-Content-Length`, if binary tensors follow the JSON. The type of the content is
    /// then `application/octet-stream`, else `application/json`.
    pub header_len: Option<usize>,
}

impl InferResponse<'_> {
    /// The answer to `request`: its id, and the outputs that it asked for in its order and form.
    ///
    /// # Errors
    /// `InvalidValue` for an output that the model has not, that cannot be classified, or whose strings are not UTF-8
    /// and were asked for in JSON.
    pub fn encode(&self, request: &InferRequest) -> Result<Encoded, Fault> {
        let mut json = Vec::with_capacity(256);
        json.push(b'{');
        if let Some(id) = &request.id {
            json.extend_from_slice(b"\"id\":");
            push_string(&mut json, id);
            json.push(b',');
        }
        json.extend_from_slice(b"\"model_name\":");
        push_string(&mut json, self.model_name);
        json.extend_from_slice(
            format!(",\"model_version\":\"{}\",\"outputs\":[", self.model_version).as_bytes(),
        );
        let mut binary = None;
        let mut first = true;
        let mut push = |output: &OutputTensor<'_>, binary_data, classification| {
            if !std::mem::take(&mut first) {
                json.push(b',');
            }
            let behind = if binary_data { Some(binary.get_or_insert_with(Vec::new)) } else { None };
            output.push(&mut json, behind, classification)
        };
        match &request.outputs {
            None => self.outputs.iter().try_for_each(|output| push(output, request.binary_data_output, 0))?,
            Some(wanted) => {
                for wanted in wanted {
                    let output =
                        self.outputs.iter().find(|output| output.name == wanted.name).ok_or_else(|| {
                            let (name, model) = (quoted(&wanted.name), self.model_name);
                            invalid(format!("unexpected inference output {name} for model '{model}'"))
                        })?;
                    push(output, wanted.binary_data, wanted.classification)?;
                }
            }
        }
        json.extend_from_slice(b"]}");
        let header_len = binary.is_some().then_some(json.len());
        json.extend_from_slice(&binary.unwrap_or_default());
        Ok(Encoded { body: json, header_len })
    }
}

impl OutputTensor<'_> {
    /// Appends the output to the JSON, and its bytes to `behind` if they go there.
    fn push(
        &self,
        json: &mut Vec<u8>,
        behind: Option<&mut Vec<u8>>,
        classification: usize,
    ) -> Result<(), Fault> {
        let classes;
        let tensor = if classification > 0 {
            classes = classify::classify(self.name, self.tensor, self.labels, self.batched, classification)?;
            &classes
        } else {
            self.tensor
        };
        json.extend_from_slice(b"{\"name\":");
        push_string(json, self.name);
        let datatype = tensor.data.datatype().name();
        json.extend_from_slice(format!(",\"datatype\":\"{datatype}\",\"shape\":").as_bytes());
        json.extend_from_slice(super::dims(&tensor.shape).as_bytes());
        if let Some(behind) = behind {
            let size = binary::encoded_bytes(&tensor.data);
            json.extend_from_slice(format!(",\"parameters\":{{\"binary_data_size\":{size}}}").as_bytes());
            binary::encode(&tensor.data, behind);
        } else {
            json.extend_from_slice(b",\"data\":[");
            push_data(json, self.name, &tensor.data)?;
            json.push(b']');
        }
        json.push(b'}');
        Ok(())
    }
}

/// Appends the elements, separated by commas, without brackets.
fn push_data(json: &mut Vec<u8>, name: &str, data: &TensorData) -> Result<(), Fault> {
    // Room for floats as short as most are; longer ones make it grow once.
    json.reserve(data.len().saturating_mul(12));
    let mut integer = itoa::Buffer::new();
    let mut float = zmij::Buffer::new();
    macro_rules! integers {
        ($data:expr) => {
            separated(json, $data, |json, &element| {
                json.extend_from_slice(integer.format(element).as_bytes())
            })
        };
    }
    match data {
        TensorData::Bool(data) => separated(json, data, |json, &element| {
            json.extend_from_slice(if element { &b"true"[..] } else { b"false" });
        }),
        TensorData::Uint8(data) => integers!(data),
        TensorData::Uint16(data) => integers!(data),
        TensorData::Uint32(data) => integers!(data),
        TensorData::Uint64(data) => integers!(data),
        TensorData::Int8(data) => integers!(data),
        TensorData::Int16(data) => integers!(data),
        TensorData::Int32(data) => integers!(data),
        TensorData::Int64(data) => integers!(data),
        TensorData::Fp16(data) => {
            separated(json, data, |json, element| push_float(json, float.format(element.to_f32())));
        }
        TensorData::Bf16(data) => {
            separated(json, data, |json, element| push_float(json, float.format(element.to_f32())));
        }
        TensorData::Fp32(data) => {
            separated(json, data, |json, &element| push_float(json, float.format(element)))
        }
        TensorData::Fp64(data) => {
            separated(json, data, |json, &element| push_float(json, float.format(element)))
        }
        TensorData::Bytes(data) => {
            for (index, string) in data.iter().enumerate() {
                let string = std::str::from_utf8(string).map_err(|_| {
                    invalid(format!(
                        "element {index} of output '{name}' is not UTF-8, which JSON cannot carry: ask for it with \
                         \"binary_data\": true"
                    ))
                })?;
                if index > 0 {
                    json.push(b',');
                }
                push_string(json, string);
            }
        }
    }
    Ok(())
}

#[inline]
fn separated<T>(json: &mut Vec<u8>, data: &[T], mut push: impl FnMut(&mut Vec<u8>, &T)) {
    let mut data = data.iter();
    if let Some(element) = data.next() {
        push(json, element);
    }
    for element in data {
        json.push(b',');
        push(json, element);
    }
}

#[inline]
fn push_float(json: &mut Vec<u8>, text: &str) {
    debug_assert!(!text.ends_with(['N', 'f']), "outputs are checked to be finite before they come here");
    json.extend_from_slice(text.as_bytes());
}

fn push_string(json: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(json, text).expect("a string is written to memory");
}
