//! For tests: the small models of `tests/data/models`, on every engine that there is.

use super::*;
use std::path::PathBuf;
use std::sync::Arc;

/// The engines to test: ONNX Runtime only in builds with it and where `ORT_DYLIB_PATH` names its library.
pub(super) fn kinds() -> Vec<(EngineKind, Option<PathBuf>)> {
    let mut kinds = vec![(EngineKind::Rten, None)];
    if cfg!(feature = "onnxruntime") {
        match std::env::var_os("ORT_DYLIB_PATH") {
            Some(path) => kinds.push((EngineKind::OnnxRuntime, Some(path.into()))),
            None => eprintln!("skipped for ONNX Runtime: ORT_DYLIB_PATH does not name libonnxruntime.so"),
        }
    }
    kinds
}

pub(super) fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "data", "models", name].iter().collect()
}

/// A file on every engine.
pub(super) fn engines(name: &str) -> Vec<Arc<dyn Engine>> {
    let open = |(kind, library): (EngineKind, Option<PathBuf>)| open(&path(name), kind, library.as_deref());
    kinds().into_iter().map(|kind| open(kind).expect("a file that loads")).collect()
}

/// A graph of a file on every engine.
pub(super) fn graphs(name: &str, plan: &Plan) -> Vec<Graph> {
    engines(name).into_iter().map(|engine| Graph::new(engine, plan).expect("a plan that fits")).collect()
}

/// Why a plan does not fit a file.
pub(super) fn refusal(name: &str, plan: &Plan) -> String {
    let engine = engines(name).remove(0);
    Graph::new(engine, plan).err().expect("a plan that does not fit")
}
