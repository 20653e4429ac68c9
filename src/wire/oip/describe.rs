//! What the server and its models are, as the protocol tells it; errors and health.

use crate::model::{Datatype, Dim, ModelSpec, Served, TensorSpec};
use crate::reason::Fault;
use serde_json::{Value, json};

/// The name of the input of models that hear audio, and of the output of those that give it back.
pub const AUDIO: &str = "AUDIO";

/// The extensions of the protocol that are served.
pub const EXTENSIONS: &[&str] = &[
    "classification",
    "sequence",
    "model_repository",
    "binary_tensor_data",
    "statistics",
    "model_configuration",
];

/// What a model takes and gives as tensors, whichever kind it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// What runs it.
    pub platform: String,
    /// What a request must bring.
    pub inputs: Vec<TensorSpec>,
    /// What comes back.
    pub outputs: Vec<TensorSpec>,
}

/// The tensors of a model. One that hears audio takes `AUDIO`, FP32, `[n, samples]` at its rate, and gives
/// `[n, windows, row...]` for each of its outputs, and `AUDIO` if it gives audio back; with `[samples]` all of them lack
/// the first dimension (see [`super::check_audio`]).
pub fn signature(model: &Served) -> Signature {
    match model {
        Served::Tensors(model) => {
            let spec = model.spec();
            let (inputs, outputs) = (spec.inputs.clone(), spec.outputs.clone());
            Signature { platform: spec.platform.to_string(), inputs, outputs }
        }
        Served::Audio(model) => audio_signature(model.spec()),
    }
}

fn audio_signature(spec: &ModelSpec) -> Signature {
    let audio = || TensorSpec {
        name: AUDIO.into(),
        datatype: Datatype::Fp32,
        shape: vec![Dim::Any; 2],
        labels: Vec::new(),
    };
    let outputs = spec.outputs.iter().map(|output| TensorSpec {
        name: output.name.clone(),
        datatype: output.datatype,
        shape: [Dim::Any; 2].into_iter().chain(output.shape.iter().map(|&side| Dim::Fixed(side))).collect(),
        labels: output.labels.clone(),
    });
    let outputs = outputs.chain(spec.audio_out.then(audio)).collect();
    Signature { platform: "suzu".into(), inputs: vec![audio()], outputs }
}

/// Dimensions as the wire has them: -1 for any.
pub(super) fn wire_dims(shape: &[Dim]) -> Vec<i64> {
    let side = |dim: &Dim| match dim {
        Dim::Fixed(side) => i64::try_from(*side).unwrap_or(i64::MAX),
        Dim::Any => -1,
    };
    shape.iter().map(side).collect()
}

/// The body of every refusal: `{"error": "..."}`.
pub fn encode_error(fault: &Fault) -> Vec<u8> {
    bytes(&json!({ "error": fault.message }))
}

/// The body of `/v2/health/live`.
pub fn encode_live(live: bool) -> Vec<u8> {
    bytes(&json!({ "live": live }))
}

/// The body of `/v2/health/ready`.
pub fn encode_ready(ready: bool) -> Vec<u8> {
    bytes(&json!({ "ready": ready }))
}

/// The body of `/v2/models/{m}/ready`.
pub fn encode_model_ready(name: &str, ready: bool) -> Vec<u8> {
    bytes(&json!({ "name": name, "ready": ready }))
}

/// The body of `/v2`. `version` is the server's own.
pub fn server_metadata(version: &str) -> Vec<u8> {
    bytes(&json!({ "name": "suzu", "version": version, "extensions": EXTENSIONS }))
}

/// The body of `/v2/models/{m}`.
pub fn model_metadata(model: &Served) -> Vec<u8> {
    let Signature { platform, inputs, outputs } = signature(model);
    let tensors = |specs: &[TensorSpec]| -> Vec<Value> {
        let tensor = |spec: &TensorSpec| json!({ "name": &*spec.name, "datatype": spec.datatype.name(), "shape": wire_dims(&spec.shape) });
        specs.iter().map(tensor).collect()
    };
    bytes(&json!({
        "name": &**model.name(),
        "versions": [model.version().to_string()],
        "platform": platform,
        "inputs": tensors(&inputs),
        "outputs": tensors(&outputs),
    }))
}

/// The body of `/v2/models/{m}/config`. `batch_max` holds where the model says nothing of it. If every tensor of a model
/// that batches begins with a free dimension, that is the batch and is left out of `dims`; otherwise `max_batch_size` is
/// 0 and `dims` are whole.
pub fn model_config(model: &Served, batch_max: usize) -> Vec<u8> {
    let Signature { platform, inputs, outputs } = signature(model);
    let batched = match model {
        Served::Audio(_) => true,
        Served::Tensors(model) => model.spec().batched,
    };
    let free = |spec: &TensorSpec| spec.shape.first() == Some(&Dim::Any);
    let batched = batched && inputs.iter().chain(&outputs).all(free);
    let tensors = |specs: &[TensorSpec]| -> Vec<Value> {
        let tensor = |spec: &TensorSpec| {
            let dims = wire_dims(&spec.shape[usize::from(batched)..]);
            json!({ "name": &*spec.name, "data_type": config_type(spec.datatype), "dims": dims })
        };
        specs.iter().map(tensor).collect()
    };
    let mut config = json!({
        "name": &**model.name(),
        "platform": platform,
        "max_batch_size": if batched { model.limits().batch_max.unwrap_or(batch_max) } else { 0 },
        "input": tensors(&inputs),
        "output": tensors(&outputs),
    });
    if let Served::Tensors(model) = model
        && model.spec().stateful
    {
        config["sequence_batching"] = json!({});
    }
    bytes(&config)
}

/// The names of types in a model's configuration differ from those on the wire in one point.
fn config_type(datatype: Datatype) -> String {
    match datatype {
        Datatype::Bytes => "TYPE_STRING".into(),
        other => format!("TYPE_{}", other.name()),
    }
}

pub(super) fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}
