//! The model repository extension: which models there are, and the requests to load and unload one.

use super::describe::bytes;
use super::invalid;
use super::json::Json;
use crate::reason::{Fault, Reason};
use serde_json::{Value, json};

/// A model in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Whether it serves.
    pub state: ModelState,
    /// Why it does not, if it does not.
    pub reason: String,
}

/// Whether a model serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// It serves.
    Ready,
    /// It is being loaded.
    Loading,
    /// It is being unloaded.
    Unloading,
    /// It does not serve.
    Unavailable,
}

impl ModelState {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            ModelState::Ready => "READY",
            ModelState::Loading => "LOADING",
            ModelState::Unloading => "UNLOADING",
            ModelState::Unavailable => "UNAVAILABLE",
        }
    }
}

/// A request for the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexRequest {
    /// Only the models that serve.
    pub ready: bool,
}

/// The body of `/v2/repository/index`.
pub fn encode_index(entries: &[IndexEntry]) -> Vec<u8> {
    let entry = |entry: &IndexEntry| {
        let (version, state) = (entry.version.to_string(), entry.state.name());
        json!({ "name": entry.name, "version": version, "state": state, "reason": entry.reason })
    };
    bytes(&Value::Array(entries.iter().map(entry).collect()))
}

/// A request for the index; an empty body asks for all.
///
/// # Errors
/// `InvalidPayload` if it is not the JSON it should be.
pub fn parse_index(body: &[u8]) -> Result<IndexRequest, Fault> {
    let mut json = Json::new(body)?;
    let mut request = IndexRequest::default();
    if json.peek().is_none() {
        return Ok(request);
    }
    json.object("the request", |json, key| match key {
        "ready" => json.boolean(key).map(|ready| request.ready = ready),
        _ => json.ignore(),
    })?;
    json.end()?;
    Ok(request)
}

/// The body of a request to load or to unload a model; it may be empty and holds nothing that is taken over.
///
/// # Errors
/// `NotSupported` for a configuration or files that come with it, `InvalidPayload` for what is not the JSON it should
/// be.
pub fn parse_load(body: &[u8]) -> Result<(), Fault> {
    let mut json = Json::new(body)?;
    if json.peek().is_none() {
        return Ok(());
    }
    json.object("the request", |json, key| match key {
        "parameters" => json.object(key, |json, key| match key {
            "unload_dependents" => json.boolean(key).map(drop),
            "config" => Err(Fault::new(
                Reason::NotSupported,
                "a configuration in the request is not taken: models are configured in their folders on the server",
            )),
            _ if key.starts_with("file:") => Err(Fault::new(
                Reason::NotSupported,
                "files in the request are not taken: put the model into its folder on the server and load it again",
            )),
            _ => Err(invalid(format!("the parameter {} is not known", super::quoted(key)))),
        }),
        _ => json.ignore(),
    })?;
    json.end()
}
