//! Test models that make every mistake visible: each result depends on all that the stream said before.

use crc32fast::Hasher;
use std::sync::Arc;
use suzu::model::{Datatype, Lane, Model, ModelLimits, ModelSpec, OutputSpec, Registry, State};

/// A sample of this value (12345 as 16 bits) makes `glass` panic.
pub const POISON: i16 = 12_345;

/// Windows overlap, audio goes back as it came, and the outputs are a checksum of everything so far.
pub struct Chain {
    spec: ModelSpec,
    fragile: bool,
}

impl Chain {
    pub fn new(name: &'static str, batched: bool, fragile: bool) -> Self {
        let spec = ModelSpec {
            name: name.into(),
            version: 1,
            description: "For tests.".into(),
            sample_rate_hz: None,
            window: 400,
            hop: 160,
            latency: 0,
            audio_out: true,
            outputs: vec![OutputSpec::scalar("chain", Datatype::Uint32)],
            state_bytes: 64,
            batched,
            weights_bytes: 0,
            limits: ModelLimits::default(),
        };
        Self { spec, fragile }
    }
}

impl Model for Chain {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn start(&self) -> State {
        Box::new(0u32)
    }

    fn infer(&self, lanes: &mut [Lane<'_>]) {
        for lane in lanes {
            let poison = f32::from(POISON) / 32_768.0;
            if self.fragile && lane.samples.contains(&poison) {
                panic!("poisoned");
            }
            let chain: &mut u32 = lane.state.downcast_mut().expect("the state that `start` made");
            for window in 0..lane.count {
                let samples = &lane.samples[window * self.spec.hop..][..self.spec.window];
                let mut hasher = Hasher::new_with_initial(*chain);
                samples.iter().for_each(|sample| hasher.update(&sample.to_le_bytes()));
                *chain = hasher.finalize();
                lane.findings.outputs[0].push_u32(*chain);
                lane.findings.audio.extend_from_slice(&samples[..self.spec.hop]);
            }
        }
    }
}

/// The models inside, one that breaks, and one that infers many streams in one call.
pub fn registry() -> Registry {
    let mut registry = Registry::builtin();
    registry.insert(Arc::new(Chain::new("glass", false, true)));
    registry.insert(Arc::new(Chain::new("choir", true, false)));
    registry
}
