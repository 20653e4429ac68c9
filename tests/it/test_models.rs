//! Models that misbehave on request, made of the `echo` model inside the binary.

use crate::support::{DEADLINE, TestServer};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use suzu::config::Config;
use suzu::model::{Lane, Model, ModelSpec, Registry, State, TensorData};

fn echo() -> Arc<dyn Model> {
    Registry::builtin().get("echo").expect("inside the binary")
}

/// The models inside the binary and this one.
pub fn models_with(model: impl Model) -> Registry {
    let mut models = Registry::builtin();
    models.insert(Arc::new(model));
    models
}

/// A server with [`Gated`]. The gate comes last, so that it is dropped first.
pub fn start_gated(config: Config) -> (TestServer, Gate) {
    let (model, gate) = Gated::new();
    (TestServer::start_with(config, models_with(model)), gate)
}

/// `gated`: echo that waits at a gate before each inference.
pub struct Gated {
    spec: ModelSpec,
    echo: Arc<dyn Model>,
    begun: Mutex<Sender<()>>,
    gate: Mutex<Receiver<()>>,
}

/// The other side of a [`Gated`] model. Dropping it opens the gate for good: keep it longer than what needs it closed,
/// and drop it before the server, which waits for its workers.
pub struct Gate {
    begun: Receiver<()>,
    /// Held, never used: the gate opens when it is dropped.
    _closed: Sender<()>,
}

impl Gated {
    pub fn new() -> (Self, Gate) {
        let (begin, begun) = channel();
        let (closed, gate) = channel();
        let echo = echo();
        let spec = ModelSpec { name: "gated".into(), ..echo.spec().clone() };
        let model = Self { spec, echo, begun: Mutex::new(begin), gate: Mutex::new(gate) };
        (model, Gate { begun, _closed: closed })
    }
}

impl Gate {
    /// Waits until a worker stands at the gate.
    pub fn await_begun(&self) {
        self.begun.recv_timeout(DEADLINE).expect("a worker comes to the gate");
    }
}

impl Model for Gated {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn start(&self) -> State {
        self.echo.start()
    }

    fn infer(&self, lanes: &mut [Lane<'_>]) {
        // Once the test is over nobody listens, and the gate is open.
        let _ = self.begun.lock().expect("no worker panics here").send(());
        let _ = self.gate.lock().expect("no worker panics here").recv();
        self.echo.infer(lanes);
    }
}

/// `touchy`: echo that panics at samples above 0.9, gives NaN above 0.8 and too few rows above 0.7.
pub struct Touchy {
    spec: ModelSpec,
    echo: Arc<dyn Model>,
}

impl Touchy {
    pub fn new() -> Self {
        let echo = echo();
        Self { spec: ModelSpec { name: "touchy".into(), ..echo.spec().clone() }, echo }
    }
}

impl Model for Touchy {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn start(&self) -> State {
        self.echo.start()
    }

    fn infer(&self, lanes: &mut [Lane<'_>]) {
        let loudest =
            |lane: &Lane<'_>| lane.samples.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
        let peak = lanes.iter().map(loudest).fold(0.0_f32, f32::max);
        assert!(peak <= 0.9, "too loud: the secret of this model");
        self.echo.infer(lanes);
        for output in lanes.iter_mut().flat_map(|lane| &mut lane.findings.outputs) {
            if let TensorData::Fp32(data) = output {
                match peak {
                    0.8.. => data.fill(f32::NAN),
                    0.7.. => data.clear(),
                    _ => {}
                }
            }
        }
    }
}
