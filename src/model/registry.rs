//! Which models there are, by name.

use super::denoise::Denoise;
use super::echo::Echo;
use super::vad::Vad;
use super::{Model, ModelSpec};
use crate::reason::{Fault, Reason};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The models that a server serves. Cloning is cheap: models are shared.
#[derive(Clone, Default)]
pub struct Registry {
    models: BTreeMap<&'static str, Arc<dyn Model>>,
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
        registry
    }

    /// Adds a model; one of the same name is replaced and returned.
    ///
    /// # Panics
    /// If the model's spec contradicts itself (see [`ModelSpec`]): a fault of the program that adds it.
    pub fn insert(&mut self, model: Arc<dyn Model>) -> Option<Arc<dyn Model>> {
        check(model.spec());
        self.models.insert(model.spec().name, model)
    }

    /// The model of that name.
    pub fn get(&self, name: &str) -> Option<Arc<dyn Model>> {
        self.models.get(name).cloned()
    }

    /// The model of that name, or the answer to whoever asked for it: what there is, and what may have been meant.
    pub fn find(&self, name: &str) -> Result<Arc<dyn Model>, Fault> {
        self.get(name).ok_or_else(|| {
            let hint = match self.nearest(name) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => format!("there are: {}", self.names().collect::<Vec<_>>().join(", ")),
            };
            // What a peer sent may be long; the message need not be.
            let name: String = name.chars().take(64).collect();
            Fault::new(Reason::ModelNotFound, format!("there is no model `{name}`; {hint}")).at("model")
        })
    }

    /// The name that `name` is probably a misspelling of.
    pub fn nearest(&self, name: &str) -> Option<&'static str> {
        if name.len() > 64 {
            return None;
        }
        let name = name.to_lowercase();
        let closeness = |candidate: &str| strsim::jaro_winkler(&name, candidate);
        let best = self.names().max_by(|a, b| closeness(a).total_cmp(&closeness(b)))?;
        // Below 0.7 words have hardly a letter in place: no hint is better than a silly one.
        (closeness(best) >= 0.7).then_some(best)
    }

    /// All models in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Model>> {
        self.models.values()
    }

    /// All names in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.models.keys().copied()
    }
}

fn check(spec: &ModelSpec) {
    let name = spec.name;
    assert!(!name.is_empty(), "a model needs a name");
    assert!(spec.hop > 0 && spec.hop <= spec.window, "model `{name}`: hop must be within 1..=window");
    assert!(spec.sample_rate_hz != Some(0), "model `{name}`: a sample rate of 0");
    assert!(
        spec.audio_out || spec.latency == 0,
        "model `{name}`: latency is of audio given back, and it gives none"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_inside_come_in_order_of_their_names() {
        let registry = Registry::builtin();
        assert_eq!(registry.names().collect::<Vec<_>>(), ["denoise", "echo", "vad"]);
        for (model, name) in registry.iter().zip(registry.names()) {
            assert_eq!(model.spec().name, name);
            assert_eq!(registry.get(name).expect("it is there").spec().name, name);
        }
    }

    #[test]
    fn a_misspelt_name_gets_the_nearest_as_a_hint() {
        let registry = Registry::builtin();
        assert_eq!(registry.nearest("denose"), Some("denoise"));
        assert_eq!(registry.nearest("VAD"), Some("vad"));
        let fault = registry.find("dnoise").err().expect("no such model");
        assert_eq!(fault.reason, Reason::ModelNotFound);
        assert_eq!(fault.message, "there is no model `dnoise`; did you mean `denoise`?");
    }

    #[test]
    fn a_name_unlike_any_gets_the_list() {
        let registry = Registry::builtin();
        assert_eq!(registry.nearest("xyzzy"), None);
        let fault = registry.find("xyzzy").err().expect("no such model");
        assert_eq!(fault.message, "there is no model `xyzzy`; there are: denoise, echo, vad");
        let fault = registry.find(&"m".repeat(100_000)).err().expect("no such model");
        assert!(fault.message.len() < 200);
        assert_eq!(Registry::new().nearest("vad"), None);
    }

    #[test]
    fn a_model_of_the_same_name_replaces_the_other() {
        let mut registry = Registry::builtin();
        assert!(registry.insert(Arc::new(Echo::new())).is_some());
        assert_eq!(registry.iter().count(), 3);
    }
}
