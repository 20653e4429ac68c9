//! Requests for inference by the Open Inference Protocol with axum and serde_json, for the classifier `conv`.
//!
//! JSON goes through serde's derived types straight into vectors; the binary tensor extension is taken off the end of
//! the body. Shapes and types are checked as far as is needed to answer rightly.

use crate::inference::{CONV_SAMPLES, CONV_SCORES, Service};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// Tells how long the JSON before binary tensors is.
const JSON_LENGTH: &str = "inference-header-content-length";

type Refusal = (StatusCode, Json<Value>);

#[derive(Deserialize)]
struct Request {
    id: Option<String>,
    inputs: Vec<Input>,
    #[serde(default)]
    outputs: Vec<RequestedOutput>,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    datatype: String,
    shape: Vec<usize>,
    #[serde(default)]
    parameters: Parameters,
    data: Option<Vec<f32>>,
}

#[derive(Deserialize)]
struct RequestedOutput {
    name: String,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Default, Deserialize)]
struct Parameters {
    binary_data_size: Option<usize>,
    binary_data: Option<bool>,
    binary_data_output: Option<bool>,
}

#[derive(Serialize)]
struct Answer<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: [Output<'a>; 1],
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: [usize; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinarySize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a [f32]>,
}

#[derive(Serialize)]
struct BinarySize {
    binary_data_size: usize,
}

/// `GET /v2/models/{model}`.
pub async fn metadata(
    Path(model): Path<String>,
    State(service): State<Arc<Service>>,
) -> Result<Json<Value>, Refusal> {
    check_model(&model, &service)?;
    Ok(Json(json!({
        "name": "conv",
        "versions": ["1"],
        "platform": "onnx",
        "inputs": [{ "name": "audio", "datatype": "FP32", "shape": [-1, CONV_SAMPLES] }],
        "outputs": [{ "name": "scores", "datatype": "FP32", "shape": [-1, CONV_SCORES] }],
    })))
}

/// `POST /v2/models/{model}/infer`.
pub async fn infer(
    Path(model): Path<String>,
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    check_model(&model, &service)?;
    let json_len = match headers.get(JSON_LENGTH) {
        None => body.len(),
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .filter(|len| *len <= body.len())
            .ok_or_else(|| refuse("Inference-Header-Content-Length is no length within the body"))?,
    };
    let (head, tail) = body.split_at(json_len);
    let request: Request = serde_json::from_slice(head).map_err(|error| refuse(&error.to_string()))?;
    let binary = wants_binary(&request)?;
    let audio = audio(request.inputs, tail)?;
    let scores = service.classify(audio).await;
    Ok(answer(request.id, &scores, binary))
}

fn wants_binary(request: &Request) -> Result<bool, Refusal> {
    let all = request.parameters.binary_data_output.unwrap_or(false);
    match &request.outputs[..] {
        [] => Ok(all),
        [output] if output.name == "scores" => Ok(output.parameters.binary_data.unwrap_or(all)),
        _ => Err(refuse("the only output is `scores`")),
    }
}

/// The samples of the only input.
fn audio(inputs: Vec<Input>, tail: &[u8]) -> Result<Vec<f32>, Refusal> {
    let one: [Input; 1] = inputs.try_into().map_err(|_| refuse("the only input is `audio`"))?;
    let [input] = one;
    if input.name != "audio" || input.datatype != "FP32" {
        return Err(refuse("the only input is `audio`, FP32"));
    }
    let data = match (input.data, input.parameters.binary_data_size) {
        (Some(data), None) => data,
        (None, Some(size)) if size == tail.len() && size % 4 == 0 => {
            let floats = tail.as_chunks::<4>().0.iter();
            floats.map(|bytes| f32::from_le_bytes(*bytes)).collect()
        }
        _ => return Err(refuse("`audio` needs data, or as many bytes behind the JSON as it says")),
    };
    match input.shape[..] {
        [rows, CONV_SAMPLES] if rows > 0 && rows.checked_mul(CONV_SAMPLES) == Some(data.len()) => Ok(data),
        _ => Err(refuse("`audio` is [rows, 16000]")),
    }
}

fn answer(id: Option<String>, scores: &[f32], binary: bool) -> Response {
    let bytes: Vec<u8> = match binary {
        true => scores.iter().flat_map(|score| score.to_le_bytes()).collect(),
        false => Vec::new(),
    };
    let output = Output {
        name: "scores",
        datatype: "FP32",
        shape: [scores.len() / CONV_SCORES, CONV_SCORES],
        parameters: binary.then_some(BinarySize { binary_data_size: bytes.len() }),
        data: (!binary).then_some(scores),
    };
    let answer = Answer { model_name: "conv", model_version: "1", id, outputs: [output] };
    if !binary {
        return Json(answer).into_response();
    }
    let mut body = serde_json::to_vec(&answer).expect("numbers and names are JSON");
    let json_len = body.len().to_string();
    body.extend(bytes);
    let kind = (header::CONTENT_TYPE.as_str(), "application/octet-stream");
    ([kind, (JSON_LENGTH, json_len.as_str())], body).into_response()
}

fn check_model(model: &str, service: &Service) -> Result<(), Refusal> {
    if model == "conv" && service.has_files() {
        return Ok(());
    }
    Err((StatusCode::NOT_FOUND, Json(json!({ "error": "`conv` is served, from a folder of models" }))))
}

fn refuse(text: &str) -> Refusal {
    (StatusCode::BAD_REQUEST, Json(json!({ "error": text })))
}
