//! A request for inference made of what the model says of itself, so that any model can be loaded without a file.

use super::{Error, Request};
use crate::client::{self, Options, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// Length of an open last side: a second of audio at 16 kHz. Other open sides are 1.
const OPEN_SIDE: usize = 16_000;
/// Elements of all inputs at most, so that a strange model does not fill the memory.
const ELEMENTS_MAX: usize = 16 << 20;

/// How tensors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As numbers in the JSON.
    Json,
    /// As bytes behind the JSON.
    Binary,
}

#[derive(Deserialize)]
struct Metadata {
    inputs: Vec<Input>,
}

/// An input as `GET /v2/models/{model}` tells it.
#[derive(Deserialize)]
struct Input {
    name: String,
    datatype: String,
    shape: Vec<i64>,
}

/// Asks the server of a URL `http://host/v2/models/{model}/infer` for the inputs of the model, and makes a request that
/// has them, with these header fields for the credentials and, by TLS, this file of authorities: a little noise in each
/// floating-point tensor, zeros in each other one.
///
/// # Errors
/// [`Error::Plan`] if the path is another, the server does not tell, or the model takes what cannot be made up.
pub fn infer_request(
    url: &Url,
    headers: &[(String, String)],
    ca_file: Option<&Path>,
    form: Form,
) -> Result<Request, Error> {
    let Some(path) = url.path.strip_suffix("/infer") else {
        return Err(Error::Plan(format!("{} does not end in /infer, so it takes no form", url.path)));
    };
    let about = Url { path: path.to_owned(), ..url.clone() };
    let answer = client::get(
        &about,
        &Options { headers: headers.to_vec(), ca_file: ca_file.map(Path::to_owned), ..Options::default() },
    )
    .map_err(|error| Error::Plan(format!("the model's inputs cannot be had: {error}")))?;
    let metadata: Metadata = serde_json::from_slice(&answer)
        .map_err(|error| Error::Plan(format!("{path} does not tell the model's inputs: {error}")))?;
    request(&metadata, form)
}

fn request(metadata: &Metadata, form: Form) -> Result<Request, Error> {
    let mut tail = Vec::new();
    let mut inputs = Vec::new();
    for input in &metadata.inputs {
        let shape = closed(&input.shape);
        let count = shape.iter().try_fold(1_usize, |product, &side| product.checked_mul(side));
        let count = count.filter(|&count| count <= ELEMENTS_MAX).ok_or_else(|| {
            Error::Plan(format!(
                "the input {} of shape {:?} is too large to be made up",
                input.name, input.shape
            ))
        })?;
        let mut tensor = json!({"name": input.name, "datatype": input.datatype, "shape": shape});
        match form {
            Form::Json if input.datatype == "BF16" => {
                let name = &input.name;
                return Err(Error::Plan(format!(
                    "the input {name} is BF16, which JSON cannot carry; send it as binary"
                )));
            }
            Form::Json => tensor["data"] = numbers(&input.datatype, count),
            Form::Binary => {
                let before = tail.len();
                push_bytes(&mut tail, input, count)?;
                tensor["parameters"] = json!({"binary_data_size": tail.len() - before});
            }
        }
        inputs.push(tensor);
    }
    let mut body = json!({"inputs": inputs});
    if form == Form::Binary {
        body["parameters"] = json!({"binary_data_output": true});
    }
    let head = body.to_string().into_bytes();
    let headers = match form {
        Form::Json => vec![("Content-Type".to_owned(), "application/json".to_owned())],
        Form::Binary => vec![
            ("Content-Type".to_owned(), "application/octet-stream".to_owned()),
            ("Inference-Header-Content-Length".to_owned(), head.len().to_string()),
        ],
    };
    Ok(Request { method: "POST".into(), headers, body: [head, tail].concat() })
}

/// The shape without open sides.
fn closed(shape: &[i64]) -> Vec<usize> {
    let last = shape.len().saturating_sub(1);
    let side = |(place, &side): (usize, &i64)| match usize::try_from(side) {
        Ok(side) => side,
        Err(_) if place == last => OPEN_SIDE,
        Err(_) => 1,
    };
    shape.iter().enumerate().map(side).collect()
}

/// Something between -0.25 and 0.25, not the same twice in a row.
fn noise(place: usize) -> f32 {
    // The fractional part of multiples of the golden ratio, which spread evenly.
    ((place as f32 * 0.618_034).fract() - 0.5) / 2.0
}

fn numbers(datatype: &str, count: usize) -> Value {
    match datatype {
        "FP16" | "FP32" | "FP64" | "BF16" => (0..count).map(noise).map(Value::from).collect(),
        "BOOL" => vec![Value::from(false); count].into(),
        "BYTES" => vec![Value::from("a"); count].into(),
        _ => vec![Value::from(0); count].into(),
    }
}

fn push_bytes(tail: &mut Vec<u8>, input: &Input, count: usize) -> Result<(), Error> {
    let bytes = match input.datatype.as_str() {
        "FP32" => {
            (0..count).for_each(|place| tail.extend_from_slice(&noise(place).to_le_bytes()));
            return Ok(());
        }
        "FP64" => {
            (0..count).for_each(|place| tail.extend_from_slice(&f64::from(noise(place)).to_le_bytes()));
            return Ok(());
        }
        "BYTES" => {
            (0..count).for_each(|_| tail.extend_from_slice(b"\x01\0\0\0a"));
            return Ok(());
        }
        "BOOL" | "INT8" | "UINT8" => 1,
        "FP16" | "BF16" | "INT16" | "UINT16" => 2,
        "INT32" | "UINT32" => 4,
        "INT64" | "UINT64" => 8,
        other => {
            return Err(Error::Plan(format!(
                "the input {} has the datatype {other}, which is not known",
                input.name
            )));
        }
    };
    tail.resize(tail.len() + bytes * count, 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::oip::{InferLimits, InferRequest};

    #[test]
    fn the_request_is_one_that_the_server_understands() {
        let all = ["FP32", "FP64", "FP16", "BF16", "INT64", "UINT32", "INT16", "UINT8", "BOOL", "BYTES"];
        for form in [Form::Json, Form::Binary] {
            for datatype in all {
                let input = Input { name: "x".into(), datatype: datatype.into(), shape: vec![-1, 3, -1] };
                let made = request(&Metadata { inputs: vec![input] }, form);
                if (form, datatype) == (Form::Json, "BF16") {
                    assert!(made.is_err());
                    continue;
                }
                let made = made.expect("a request");
                let header = made.headers.iter().find(|(name, _)| name.starts_with("Inference"));
                let length = header.map(|(_, length)| length.parse().expect("a number"));
                let limits = InferLimits { tensors_max: 8, elements_max: 1 << 20 };
                let parsed = InferRequest::parse(&made.body, length, &limits);
                let parsed = parsed.unwrap_or_else(|error| panic!("{datatype} {form:?}: {error:?}"));
                assert_eq!(parsed.inputs[0].tensor.data.len(), 3 * OPEN_SIDE, "{datatype} {form:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_made_up_is_said() {
        let input = |datatype: &str, shape| Input { name: "x".into(), datatype: datatype.into(), shape };
        let huge = Metadata { inputs: vec![input("FP32", vec![1 << 40, 1 << 40])] };
        assert!(request(&huge, Form::Json).is_err());
        let strange = Metadata { inputs: vec![input("FP7", vec![1])] };
        assert!(request(&strange, Form::Binary).is_err());
    }
}
