//! Which models there are, by name.

use super::denoise::Denoise;
use super::echo::Echo;
use super::vad::Vad;
use super::warm_up::trial_cost;
use super::{Model, ModelLimits, ModelSpec, TensorModel, state_bytes_max};
use crate::reason::{Fault, Reason};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A model that a server serves, of either kind.
#[derive(Clone)]
pub enum Served {
    /// It hears streams.
    Audio(Arc<dyn Model>),
    /// It takes and gives tensors.
    Tensors(Arc<dyn TensorModel>),
}

impl Served {
    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Served::Audio(model) => &model.spec().name,
            Served::Tensors(model) => &model.spec().name,
        }
    }

    /// Its version.
    pub fn version(&self) -> u32 {
        match self {
            Served::Audio(model) => model.spec().version,
            Served::Tensors(model) => model.spec().version,
        }
    }

    /// What it asks of those who batch and run it.
    pub fn limits(&self) -> &ModelLimits {
        match self {
            Served::Audio(model) => &model.spec().limits,
            Served::Tensors(model) => &model.spec().limits,
        }
    }

    /// Whether it remembers from one request to the next.
    pub fn is_stateful(&self) -> bool {
        match self {
            Served::Audio(_) => true,
            Served::Tensors(model) => model.spec().stateful,
        }
    }

    /// Upper bound of what it remembers of one stream or sequence, bytes.
    pub fn state_bytes_max(&self) -> usize {
        match self {
            Served::Audio(model) => state_bytes_max(model.spec()),
            Served::Tensors(model) => model.spec().state_bytes,
        }
    }

    /// What its weights and its work take in memory, bytes, besides what it remembers; 0 for a model inside the binary.
    pub fn weights_bytes(&self) -> usize {
        match self {
            Served::Audio(model) => model.spec().weights_bytes,
            Served::Tensors(model) => model.spec().weights_bytes,
        }
    }

    /// The model, if it hears streams.
    pub fn audio(&self) -> Option<&Arc<dyn Model>> {
        match self {
            Served::Audio(model) => Some(model),
            Served::Tensors(_) => None,
        }
    }

    /// What it takes and gives, for `/v1/models` and `suzu models --json`.
    pub fn to_json(&self) -> Value {
        match self {
            Served::Audio(model) => model.spec().to_json(),
            Served::Tensors(model) => {
                let spec = model.spec();
                json!({
                    "name": &*spec.name,
                    "version": spec.version,
                    "description": &*spec.description,
                    "platform": &*spec.platform,
                    "stateful": spec.stateful,
                })
            }
        }
    }
}

/// The models that a server serves. Cloning is cheap: models are shared.
#[derive(Clone, Default)]
pub struct Registry {
    models: BTreeMap<Arc<str>, Served>,
    /// Names of those that come from a folder.
    loaded: BTreeSet<Arc<str>>,
    /// Names of those inside the binary.
    inside: BTreeSet<Arc<str>>,
    /// Seconds of work for a second of audio, of those that have been tried.
    costs: BTreeMap<Arc<str>, f64>,
}

impl Registry {
    /// Without any model.
    pub fn new() -> Self {
        Self::default()
    }

    /// The models inside the binary: `denoise`, `echo` and `vad`.
    pub fn builtin() -> Self {
        let mut registry = Self::new();
        registry.insert(Arc::new(Denoise::new()));
        registry.insert(Arc::new(Echo::new()));
        registry.insert(Arc::new(Vad::new()));
        registry.inside = registry.models.keys().cloned().collect();
        registry
    }

    /// Adds a model that hears streams; one of the same name is replaced and returned.
    ///
    /// # Panics
    /// If the model's spec contradicts itself (see [`ModelSpec`]): a fault of the program that adds it.
    pub fn insert(&mut self, model: Arc<dyn Model>) -> Option<Served> {
        self.insert_served(Served::Audio(model))
    }

    /// Adds a model of either kind; one of the same name is replaced and returned.
    ///
    /// # Panics
    /// As [`Registry::insert`].
    pub fn insert_served(&mut self, model: Served) -> Option<Served> {
        if let Served::Audio(model) = &model {
            check(model.spec());
        }
        self.loaded.remove(model.name());
        self.inside.remove(model.name());
        self.costs.remove(model.name());
        self.models.insert(Arc::clone(model.name()), model)
    }

    /// Adds a model that comes from a folder, so that it may be loaded again, replaced and withdrawn at run time.
    ///
    /// # Panics
    /// As [`Registry::insert`].
    pub fn insert_loaded(&mut self, model: Served) -> Option<Served> {
        let name = Arc::clone(model.name());
        let replaced = self.insert_served(model);
        self.loaded.insert(name);
        replaced
    }

    /// Whether the model of that name comes from a folder.
    pub fn is_loaded(&self, name: &str) -> bool {
        self.loaded.contains(name)
    }

    /// Tries models that hear streams for a moment, so that a server knows from the beginning what they cost on this machine: those
    /// inside the binary and those of a folder, which are known not to hang. Others are learnt from their first batch. `clock`
    /// tells the time since anything.
    ///
    /// Takes about a millisecond for each, or the time of a chunk of a model for which that is longer. One that fails is left out: it will
    /// be found out by its first stream.
    pub fn try_out(&mut self, clock: &dyn Fn() -> Duration) {
        let known = |model: &&Arc<dyn Model>| {
            let name = &model.spec().name;
            self.inside.contains(name) || self.loaded.contains(name)
        };
        for model in self.models.values().filter_map(Served::audio).filter(known) {
            if let Ok(cost) = trial_cost(model, clock) {
                self.costs.insert(Arc::clone(&model.spec().name), cost);
            }
        }
    }

    /// Seconds of work for a second of audio of that model, as [`Registry::try_out`] found it; 0 if it was not tried.
    pub fn trial_cost(&self, name: &str) -> f64 {
        self.costs.get(name).copied().unwrap_or(0.0)
    }

    /// The model of that name that hears streams.
    pub fn get(&self, name: &str) -> Option<Arc<dyn Model>> {
        self.models.get(name)?.audio().cloned()
    }

    /// The model of that name, of either kind.
    pub fn served(&self, name: &str) -> Option<&Served> {
        self.models.get(name)
    }

    /// The model of that name that hears streams, or the answer to whoever asked for it: what there is, and what may
    /// have been meant.
    pub fn find(&self, name: &str) -> Result<Arc<dyn Model>, Fault> {
        self.get(name).ok_or_else(|| not_found(name, self.names()))
    }

    /// All models in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Served> {
        self.models.values()
    }

    /// The models that hear streams, in the order of their names.
    pub fn audio(&self) -> impl Iterator<Item = &Arc<dyn Model>> {
        self.models.values().filter_map(Served::audio)
    }

    /// All names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.models.keys().map(|name| &**name)
    }
}

/// The answer to whoever asked for a model that is not there: what there is, and what may have been meant.
pub fn not_found<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Fault {
    let names: Vec<_> = names.collect();
    let hint = match nearest(name, &names) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("there are: {}", names.join(", ")),
    };
    // What a peer sent may be long; the message need not be.
    let name: String = name.chars().take(64).collect();
    Fault::new(Reason::ModelNotFound, format!("there is no model `{name}`; {hint}")).at("model")
}

/// The name that `name` is probably a misspelling of.
fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    if name.len() > 64 {
        return None;
    }
    let name = name.to_lowercase();
    let closeness = |candidate: &str| strsim::jaro_winkler(&name, candidate);
    let best = names.iter().copied().max_by(|a, b| closeness(a).total_cmp(&closeness(b)))?;
    // Below 0.7 words have hardly a letter in place: no hint is better than a silly one.
    (closeness(best) >= 0.7).then_some(best)
}

fn check(spec: &ModelSpec) {
    let name = &spec.name;
    assert!(!name.is_empty(), "a model needs a name");
    assert!(spec.hop > 0 && spec.hop <= spec.window, "model `{name}`: hop must be within 1..=window");
    assert!(spec.sample_rate_hz != Some(0), "model `{name}`: a sample rate of 0");
    assert!(
        spec.audio_out || spec.latency == 0,
        "model `{name}`: latency is of audio given back, and it gives none"
    );
    let numbers = spec.outputs.iter().all(|output| output.datatype.is_number());
    assert!(numbers, "model `{name}`: the outputs of a stream are integers, FP32 or FP64");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_inside_come_in_order_of_their_names() {
        let registry = Registry::builtin();
        assert_eq!(registry.names().collect::<Vec<_>>(), ["denoise", "echo", "vad"]);
        for (model, name) in registry.iter().zip(registry.names()) {
            assert_eq!(&**model.name(), name);
            assert_eq!(&*registry.get(name).expect("it is there").spec().name, name);
        }
    }

    #[test]
    fn a_misspelt_name_gets_the_nearest_as_a_hint() {
        let registry = Registry::builtin();
        assert_eq!(nearest("denose", &registry.names().collect::<Vec<_>>()), Some("denoise"));
        assert_eq!(nearest("VAD", &registry.names().collect::<Vec<_>>()), Some("vad"));
        let fault = registry.find("dnoise").err().expect("no such model");
        assert_eq!(fault.reason, Reason::ModelNotFound);
        assert_eq!(fault.message, "there is no model `dnoise`; did you mean `denoise`?");
    }

    #[test]
    fn a_name_unlike_any_gets_the_list() {
        let registry = Registry::builtin();
        let fault = registry.find("xyzzy").err().expect("no such model");
        assert_eq!(fault.message, "there is no model `xyzzy`; there are: denoise, echo, vad");
        let fault = registry.find(&"m".repeat(100_000)).err().expect("no such model");
        assert!(fault.message.len() < 200);
        assert_eq!(nearest("vad", &[]), None);
    }

    #[test]
    fn a_model_of_the_same_name_replaces_the_other() {
        let mut registry = Registry::builtin();
        assert!(registry.insert(Arc::new(Echo::new())).is_some());
        assert_eq!(registry.iter().count(), 3);
    }
}
