//! Models in ONNX files: engines that run them, and what a server needs around an engine.
//!
//! An [`Engine`] is one loaded file, shared by all workers; there are two, [`EngineKind`]. A [`Graph`] is an engine whose
//! states and constants are hidden: it gathers the states and inputs of many lanes into one call and scatters the
//! results back. [`OnnxTensors`] serves a graph as a model of tensors, [`OnnxStream`] as one that hears streams;
//! [`open_model`] tells which is wanted.
//!
//! Nothing here reads configuration, waits, or looks at a clock of its own. Files are read by [`open`] alone.
//!
//! Invariants: what a lane gets does not depend on who shares its call, up to the rounding of the engine's kernels; a
//! lane that fails leaves its state as it was, and no other lane fails with it.

mod division;
mod ear;
mod engine;
mod explain;
mod features;
mod file;
mod graph;
mod judge;
mod layout;
pub mod manifest;
#[cfg(feature = "onnxruntime")]
mod ort_engine;
mod plan;
#[cfg(feature = "rten")]
mod rten_engine;
mod served;
mod stream;
mod tensors;
#[cfg(test)]
mod test_models;
mod trial;
mod view;

pub use division::Division;
pub use engine::{Engine, EngineKind, Port, PortDim, open, open_unoptimized};
pub use explain::{ConstantView, StateView};
pub use features::{FeatureBench, FilterBank};
pub use graph::{Graph, GraphLane, GraphState};
pub use manifest::{MANIFEST_FILE, Manifest, ManifestError};
pub use plan::{Axis, Constant, Initial, Plan, StatePlan, States};
#[cfg(feature = "rten")]
pub use rten_engine::on_worker_thread;
pub use served::{ModelOptions, open_model, plan_of};
pub use stream::OnnxStream;
pub use tensors::{OnnxTensors, TensorsPlan};
pub use trial::{Batching, Calibration, ENGINE_PANICKED, Timed};
pub use view::{Elements, View};

/// Does `work` where an engine computes best: in a build without rten, that is here.
#[cfg(not(feature = "rten"))]
pub fn on_worker_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    work()
}
