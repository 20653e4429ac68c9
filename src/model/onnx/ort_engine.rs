//! ONNX Runtime: a shared library of the system, loaded when a model asks for it.
//!
//! A session computes for one caller at a time, so there is one for each worker that needs one at the same time, made
//! when it is first needed. Sessions compute on their caller's thread.
//!
//! Its recurrent kernels limit what goes through them, so that NaN in an input may come out as a number: what is not
//! finite is then not noticed. Whoever cares looks at the inputs.
//!
//! Invariants: one library for the life of the process; all sessions of an engine hold the same file.

use super::engine::{Engine, EngineKind, Port};
use super::file::Ports;
use super::view::{Elements, View};
use crate::model::{Datatype, Failure, Tensor, TensorData};
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, TensorRef};
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// The library in this process, and where it was loaded from.
static LIBRARY: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// A file that ONNX Runtime loaded.
pub(super) struct OrtEngine {
    path: PathBuf,
    /// What the file looked like when it was opened: sessions made later must not hold another one.
    stamp: Stamp,
    environment: Environment,
    ports: Ports,
    /// Those that nobody uses right now.
    seats: Mutex<Vec<Seat>>,
}

/// A session, and which outputs its options select.
struct Seat {
    session: Session,
    options: RunOptions<HasSelectedOutputs>,
    wanted: Vec<usize>,
}

#[derive(PartialEq)]
struct Stamp(u64, Option<SystemTime>);

impl OrtEngine {
    /// Loads a file, whose `ports` have been read before, and the library if it is not loaded yet.
    pub(super) fn open(path: &Path, ports: Ports, library: Option<&Path>) -> Result<Self, String> {
        let environment = environment(library)?;
        let stamp = stamp(path)?;
        let engine = Self { path: path.to_owned(), stamp, environment, ports, seats: Mutex::default() };
        let all: Vec<usize> = (0..engine.ports.outputs.len()).collect();
        let seat = engine.seat(&all)?;
        lock(&engine.seats).push(seat);
        Ok(engine)
    }

    fn seat(&self, wanted: &[usize]) -> Result<Seat, String> {
        if stamp(&self.path)? != self.stamp {
            return Err(format!(
                "`{}` is not the file that was loaded; load the model again",
                self.path.display()
            ));
        }
        let told =
            |error: &dyn Display| format!("ONNX Runtime cannot load `{}`: {error}", self.path.display());
        let builder = Session::builder(&self.environment).map_err(|error| told(&error))?;
        let builder = builder.with_intra_threads(1).map_err(|error| told(&error))?;
        let mut builder = builder.with_inter_threads(1).map_err(|error| told(&error))?;
        // What it would write to the standard error comes back as an error as well.
        builder = builder.with_log_level(LogLevel::Fatal).map_err(|error| told(&error))?;
        let session = builder.commit_from_file(&self.path).map_err(|error| told(&error))?;
        Ok(Seat { session, options: self.options(wanted)?, wanted: wanted.to_vec() })
    }

    fn options(&self, wanted: &[usize]) -> Result<RunOptions<HasSelectedOutputs>, String> {
        let names = wanted.iter().map(|index| &*self.ports.outputs[*index].name);
        let selected = names.fold(OutputSelector::no_default(), |selected, name| selected.with(name));
        Ok(RunOptions::new().map_err(|error| error.to_string())?.with_outputs(selected))
    }
}

impl Engine for OrtEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::OnnxRuntime
    }

    fn inputs(&self) -> &[Port] {
        &self.ports.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.ports.outputs
    }

    fn run(&self, inputs: &[View<'_>], wanted: &[usize]) -> Result<Vec<Tensor>, Failure> {
        let free = lock(&self.seats).pop();
        let mut seat = free.map_or_else(|| self.seat(wanted), Ok).map_err(Failure::Engine)?;
        if seat.wanted != wanted {
            let options = self.options(wanted).map_err(Failure::Engine)?;
            (seat.options, seat.wanted) = (options, wanted.to_vec());
        }
        let answer = self.run_on(&mut seat, inputs);
        lock(&self.seats).push(seat);
        answer
    }
}

impl OrtEngine {
    fn run_on(&self, seat: &mut Seat, inputs: &[View<'_>]) -> Result<Vec<Tensor>, Failure> {
        let values = self
            .ports
            .inputs
            .iter()
            .zip(inputs)
            .map(|(port, view)| value(view).map_err(|error| format!("input {port}: {error}")));
        let values = values.collect::<Result<Vec<_>, String>>().map_err(Failure::Refused)?;
        let outputs = seat.session.run_with_options(&values[..], &seat.options);
        let outputs = outputs.map_err(|error| Failure::Engine(error.to_string()))?;
        let ports = seat.wanted.iter().map(|index| &self.ports.outputs[*index]);
        let tensors = outputs.values().zip(ports).map(|(value, port)| tensor(port, &value));
        tensors.collect::<Result<_, String>>().map_err(Failure::Engine)
    }
}

/// The library, loaded once. It can neither be unloaded nor replaced by another.
fn environment(library: Option<&Path>) -> Result<Environment, String> {
    let mut loaded = lock(&LIBRARY);
    let Some(library) = library else {
        return match &*loaded {
            Some((_, environment)) => Ok(environment.clone()),
            None => {
                Err("the engine `onnxruntime` needs the path of libonnxruntime.so in the configuration"
                    .into())
            }
        };
    };
    let told =
        |error: &dyn Display| format!("cannot load ONNX Runtime from `{}`: {error}", library.display());
    let path = fs::canonicalize(library).map_err(|error| told(&error))?;
    if let Some((other, environment)) = &*loaded {
        if *other == path {
            return Ok(environment.clone());
        }
        return Err(told(&format!(
            "this process has loaded `{}` already; restart to change it",
            other.display()
        )));
    }
    let builder = ort::init_from(&path).map_err(|error| told(&error))?;
    let environment =
        builder.with_name("suzu").with_telemetry(false).build().map_err(|error| told(&error))?;
    *loaded = Some((path, environment.clone()));
    Ok(environment)
}

fn stamp(path: &Path) -> Result<Stamp, String> {
    let about = fs::metadata(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    Ok(Stamp(about.len(), about.modified().ok()))
}

/// Nothing that is locked here is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What goes in: borrowed, except strings.
fn value<'a>(view: &View<'a>) -> Result<SessionInputValue<'a>, String> {
    let shape = view.shape;
    macro_rules! borrowed {
        ($($variant:ident)+) => {
            match view.data {
                $(Elements::$variant(data) => {
                    TensorRef::from_array_view((shape, data)).map(SessionInputValue::from)
                })+
                Elements::Bytes(data) => {
                    let texts = data.iter().cloned().map(String::from_utf8).collect::<Result<Vec<_>, _>>();
                    let texts = texts.map_err(|_| "a string that is not UTF-8")?;
                    if texts.iter().any(|text| text.contains('\0')) {
                        return Err("a string with a NUL byte, where ONNX Runtime's strings end".into());
                    }
                    ort::value::Tensor::from_string_array((shape, &texts[..])).map(SessionInputValue::from)
                }
            }
        };
    }
    borrowed!(Bool Uint8 Uint16 Uint32 Uint64 Int8 Int16 Int32 Int64 Fp16 Fp32 Fp64 Bf16)
        .map_err(|error| error.to_string())
}

/// What comes out.
fn tensor(port: &Port, value: &DynValue) -> Result<Tensor, String> {
    let told = |error: ort::Error| format!("output {port}: {error}");
    macro_rules! owned {
        ($($variant:ident)+) => {
            match port.datatype {
                $(Datatype::$variant => {
                    let (shape, data) = value.try_extract_tensor().map_err(told)?;
                    (shape, TensorData::$variant(data.to_vec()))
                })+
                Datatype::Bytes => {
                    let (shape, data) = value.try_extract_strings().map_err(told)?;
                    (shape, TensorData::Bytes(data.into_iter().map(String::into_bytes).collect()))
                }
            }
        };
    }
    let (shape, data) = owned!(Bool Uint8 Uint16 Uint32 Uint64 Int8 Int16 Int32 Int64 Fp16 Fp32 Fp64 Bf16);
    let shape = shape.iter().map(|&side| usize::try_from(side).unwrap_or(0)).collect();
    Tensor::new(shape, data).ok_or_else(|| format!("ONNX Runtime gives too few elements for output {port}"))
}
