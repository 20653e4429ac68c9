//! Engines: what runs an ONNX file.
//!
//! Owns the trait, what a file says about its inputs and outputs, and the one place where files are opened. It knows
//! nothing of batches, states or models; [`super::Graph`] does.

use super::file;
#[cfg(feature = "rten")]
use super::rten_engine::RtenEngine;
use super::view::View;
use crate::model::{Datatype, Failure, Tensor};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Which engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// The one inside the binary, in Rust.
    #[default]
    Rten,
    /// ONNX Runtime, a shared library of the system; in builds with the feature `onnxruntime`.
    OnnxRuntime,
}

impl EngineKind {
    /// Every kind.
    pub const ALL: &[EngineKind] = &[EngineKind::Rten, EngineKind::OnnxRuntime];

    /// Its name in configuration and metrics.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Rten => "rten",
            EngineKind::OnnxRuntime => "onnxruntime",
        }
    }

    /// What the Open Inference Protocol calls a model that it runs.
    pub fn platform(self) -> &'static str {
        match self {
            EngineKind::Rten => "onnx_rten",
            EngineKind::OnnxRuntime => "onnxruntime_onnx",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<EngineKind> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

/// A dimension of an input or output, as the file tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortDim {
    /// Always this.
    Fixed(usize),
    /// Known when it runs; dimensions of the same symbol are equal.
    Symbol(Arc<str>),
    /// Known when it runs.
    Unknown,
}

/// An input or output, as the file tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: Arc<str>,
    /// The type of its elements. It holds for what goes in and comes out of [`Engine::run`], whatever the engine
    /// computes in.
    pub datatype: Datatype,
    /// Its dimensions; `None` if the file does not even say how many there are.
    pub shape: Option<Vec<PortDim>>,
}

/// One ONNX file, loaded: shared by all workers.
pub trait Engine: Send + Sync + 'static {
    /// Which engine this is.
    fn kind(&self) -> EngineKind;

    /// The inputs in the file's order, without those that have a value in the file.
    fn inputs(&self) -> &[Port];

    /// The outputs in the file's order.
    fn outputs(&self) -> &[Port];

    /// Runs the file once: `inputs` has one view for each of [`Engine::inputs`], and the answer one tensor for each
    /// index into [`Engine::outputs`] that is `wanted`, in that order.
    ///
    /// # Errors
    /// [`Failure::Refused`] if an element of an input cannot be brought to the engine, such as a number that does not fit
    /// the type that it computes in: the fault of whoever brought it. [`Failure::Engine`] for everything else, with what
    /// the engine said. The engine may also panic; callers catch that.
    fn run(&self, inputs: &[View<'_>], wanted: &[usize]) -> Result<Vec<Tensor>, Failure>;
}

/// Loads an ONNX file. Takes as long as reading and preparing it takes: not for the poll loop. `library` is the path of
/// `libonnxruntime.so`, for [`EngineKind::OnnxRuntime`] only; the first one loaded stays for the life of the process.
///
/// # Errors
/// What is wrong with the file, the library or this build, and what to do about it.
pub fn open(path: &Path, kind: EngineKind, library: Option<&Path>) -> Result<Arc<dyn Engine>, String> {
    // A build without engines says that the file is none before it says that it has none.
    #[cfg_attr(not(any(feature = "rten", feature = "onnxruntime")), allow(unused_variables))]
    let ports = file::read(path)?;
    match kind {
        #[cfg(feature = "rten")]
        EngineKind::Rten => Ok(Arc::new(RtenEngine::open(path, ports, true)?)),
        #[cfg(not(feature = "rten"))]
        EngineKind::Rten => Err(no_rten(path)),
        #[cfg(feature = "onnxruntime")]
        EngineKind::OnnxRuntime => Ok(Arc::new(super::ort_engine::OrtEngine::open(path, ports, library)?)),
        #[cfg(not(feature = "onnxruntime"))]
        EngineKind::OnnxRuntime => Err(format!(
            "`{}` asks for the engine `onnxruntime` (library {}), which is not in this build; \
             build with `cargo build --release --features onnxruntime`, or use the engine `rten`",
            path.display(),
            library.map_or("not named".into(), |library| library.display().to_string()),
        )),
    }
}

/// Loads an ONNX file for `rten` as it is, without joining operators into others. For files that make rten panic when it
/// joins them: version 0.27 does on a MatMul whose Add has a single number for all columns.
///
/// # Errors
/// As [`open`].
#[cfg(feature = "rten")]
pub fn open_unoptimized(path: &Path) -> Result<Arc<dyn Engine>, String> {
    Ok(Arc::new(RtenEngine::open(path, file::read(path)?, false)?))
}

/// Fails: rten is not in this build.
///
/// # Errors
/// Always.
#[cfg(not(feature = "rten"))]
pub fn open_unoptimized(path: &Path) -> Result<Arc<dyn Engine>, String> {
    Err(no_rten(path))
}

#[cfg(not(feature = "rten"))]
fn no_rten(path: &Path) -> String {
    format!(
        "`{}` wants the engine `rten`, which is not in this build; build with `--features rten`, or use the engine \
         `onnxruntime`",
        path.display()
    )
}

/// As in the file: `name FP32 [batch, 3, ?]`.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.name, self.datatype.name())?;
        let Some(shape) = &self.shape else { return f.write_str(" of any shape") };
        f.write_str(" [")?;
        for (index, dim) in shape.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { ", " })?;
            match dim {
                PortDim::Fixed(side) => write!(f, "{side}")?,
                PortDim::Symbol(name) => f.write_str(name)?,
                PortDim::Unknown => f.write_str("?")?,
            }
        }
        f.write_str("]")
    }
}
