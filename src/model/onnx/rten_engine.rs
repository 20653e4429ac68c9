//! The engine inside the binary: rten.
//!
//! One model is shared by all workers, its weights packed once. It computes on one thread, that of the caller if that
//! is inside [`on_worker_thread`]: rten runs everything in a thread pool, and a call from outside of the pool costs two
//! context switches.
//!
//! rten knows FP32, INT32, INT8 and UINT8. INT64 and BOOL are computed in INT32, FP64 and FP16 in FP32; what does not
//! fit is an error, not a wrong number.

use super::engine::{Engine, EngineKind, Port};
use super::file::Ports;
use super::view::{Elements, View};
use crate::model::{Datatype, Failure, Tensor, TensorData};
use half::f16;
use rten::{ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView, ValueView};
use rten_tensor::{AsView, Layout};
use std::cell::RefCell;
use std::fmt::Display;
use std::path::Path;
use std::sync::{Arc, OnceLock};

thread_local! {
    /// The pool whose only thread this is.
    static POOL: RefCell<Option<Arc<ThreadPool>>> = const { RefCell::new(None) };
}

/// Runs what a worker thread does for its whole life, so that the engine inside can compute on that thread. Without it
/// every call of the engine hands over to another thread and back. What is done elsewhere works, and costs that.
///
/// `work` runs on a thread of its own, while the calling one waits; a panic comes through.
pub fn on_worker_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    /// Forgets the pool again, even if the work panics: a pool that its own thread holds would never end.
    struct Forget;
    impl Drop for Forget {
        fn drop(&mut self) {
            POOL.set(None);
        }
    }

    let pool = Arc::new(ThreadPool::with_num_threads(1));
    let own = Arc::clone(&pool);
    pool.run(move || {
        POOL.set(Some(own));
        let _forget = Forget;
        work()
    })
}

/// The pool of this worker thread; elsewhere one for the whole process.
fn pool() -> Arc<ThreadPool> {
    static COMMON: OnceLock<Arc<ThreadPool>> = OnceLock::new();
    let common = || Arc::clone(COMMON.get_or_init(|| Arc::new(ThreadPool::with_num_threads(1))));
    POOL.with_borrow(|own| own.as_ref().map_or_else(common, Arc::clone))
}

/// A file that rten loaded.
pub(super) struct RtenEngine {
    model: rten::Model,
    ports: Ports,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
}

impl RtenEngine {
    /// Loads a file, whose `ports` have been read before. `optimized`: operators are joined where rten knows how.
    pub(super) fn open(path: &Path, ports: Ports, optimized: bool) -> Result<Self, String> {
        let unsupported = |what: &str, port: &Port| {
            format!(
                "`{}`: {what} {port} is of a type that the engine `rten` does not know; \
                 convert the model, or use the engine `onnxruntime`",
                path.display()
            )
        };
        let known = |port: &&Port| {
            use Datatype::{Bool, Fp16, Fp32, Fp64, Int8, Int32, Int64, Uint8};
            !matches!(port.datatype, Bool | Uint8 | Int8 | Int32 | Int64 | Fp16 | Fp32 | Fp64)
        };
        if let Some(port) = ports.inputs.iter().find(known) {
            return Err(unsupported("input", port));
        }
        if let Some(port) = ports.outputs.iter().find(known) {
            return Err(unsupported("output", port));
        }
        let told = |error: &dyn Display| format!("rten cannot load `{}`: {error}", path.display());
        let mut options = ModelOptions::with_all_ops();
        let options = options.prepack_weights(true).enable_optimization(optimized);
        let model = options.load_file(path).map_err(|error| told(&error))?;
        let ids = |ports: &[Port]| {
            ports.iter().map(|port| model.node_id(&port.name).map_err(|error| told(&error))).collect()
        };
        let (inputs, outputs): (Result<_, _>, Result<_, _>) = (ids(&ports.inputs), ids(&ports.outputs));
        Ok(Self { inputs: inputs?, outputs: outputs?, model, ports })
    }
}

impl Engine for RtenEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Rten
    }

    fn inputs(&self) -> &[Port] {
        &self.ports.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.ports.outputs
    }

    fn run(&self, inputs: &[View<'_>], wanted: &[usize]) -> Result<Vec<Tensor>, Failure> {
        let values = self.inputs.iter().zip(&self.ports.inputs).zip(inputs);
        let values = values.map(|((id, port), view)| Ok((*id, value(port, view)?)));
        let values = values.collect::<Result<Vec<_>, String>>().map_err(Failure::Refused)?;
        let ids: Vec<NodeId> = wanted.iter().map(|index| self.outputs[*index]).collect();
        let options = RunOptions::default().with_thread_pool(Some(pool()));
        let values = self.model.run(values, &ids, Some(options));
        let values = values.map_err(|error| Failure::Engine(error.to_string()))?;
        let tensors =
            values.into_iter().zip(wanted).map(|(value, index)| tensor(&self.ports.outputs[*index], value));
        tensors.collect::<Result<_, String>>().map_err(Failure::Engine)
    }
}

/// What goes in, as rten knows it.
fn value<'a>(port: &Port, view: &View<'a>) -> Result<ValueOrView<'a>, String> {
    let shape = view.shape;
    Ok(match view.data {
        Elements::Fp32(data) => fits(ValueView::from_shape(shape, data))?.into(),
        Elements::Int32(data) => fits(ValueView::from_shape(shape, data))?.into(),
        Elements::Int8(data) => fits(ValueView::from_shape(shape, data))?.into(),
        Elements::Uint8(data) => fits(ValueView::from_shape(shape, data))?.into(),
        Elements::Int64(data) => {
            let narrow = |&number: &i64| {
                i32::try_from(number).map_err(|_| beyond(port, &number, "computes INT64 in 32 bits"))
            };
            let data = data.iter().map(narrow).collect::<Result<Vec<i32>, String>>()?;
            fits(Value::from_shape(shape, data))?.into()
        }
        Elements::Bool(data) => {
            fits(Value::from_shape(shape, data.iter().map(|&truth| i32::from(truth)).collect()))?.into()
        }
        Elements::Fp64(data) => {
            let narrow = |&number: &f64| match number as f32 {
                narrow if number.is_finite() && !narrow.is_finite() => {
                    Err(beyond(port, &number, "computes FP64 in 32 bits"))
                }
                narrow => Ok(narrow),
            };
            let data = data.iter().map(narrow).collect::<Result<Vec<f32>, String>>()?;
            fits(Value::from_shape(shape, data))?.into()
        }
        Elements::Fp16(data) => {
            fits(Value::from_shape(shape, data.iter().map(|number| number.to_f32()).collect()))?.into()
        }
        other => return Err(format!("input {port} got {}", other.datatype().name())),
    })
}

fn fits<T>(made: Result<T, impl Display>) -> Result<T, String> {
    made.map_err(|error| error.to_string())
}

fn beyond(port: &Port, number: &dyn Display, why: &str) -> String {
    format!("{number} in input {port}: the engine `rten` {why}")
}

/// What comes out, as the file says.
fn tensor(port: &Port, value: Value) -> Result<Tensor, String> {
    let shape = value.shape().to_vec();
    let data = match (value, port.datatype) {
        (Value::FloatTensor(data), Datatype::Fp32) => TensorData::Fp32(data.into_data()),
        (Value::FloatTensor(data), Datatype::Fp64) => {
            TensorData::Fp64(data.iter().map(|&x| f64::from(x)).collect())
        }
        (Value::FloatTensor(data), Datatype::Fp16) => {
            TensorData::Fp16(data.iter().map(|&x| f16::from_f32(x)).collect())
        }
        (Value::Int32Tensor(data), Datatype::Int32) => TensorData::Int32(data.into_data()),
        (Value::Int32Tensor(data), Datatype::Int64) => {
            TensorData::Int64(data.iter().map(|&x| i64::from(x)).collect())
        }
        (Value::Int32Tensor(data), Datatype::Bool) => {
            TensorData::Bool(data.iter().map(|&x| x != 0).collect())
        }
        (Value::Int8Tensor(data), Datatype::Int8) => TensorData::Int8(data.into_data()),
        (Value::UInt8Tensor(data), Datatype::Uint8) => TensorData::Uint8(data.into_data()),
        (value, _) => return Err(format!("rten gives {} for output {port}", value.dtype())),
    };
    Tensor::new(shape, data).ok_or_else(|| format!("rten gives too few elements for output {port}"))
}
