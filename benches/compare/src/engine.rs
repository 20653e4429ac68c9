//! ONNX files by ONNX Runtime or by rten, on one thread each: what the rivals ask their models with.
//!
//! ONNX Runtime's sessions are exclusive, so there are as many as threads ask at the same time ([`Seats`]). rten's
//! model is shared; each seat has a pool of one thread, as rten runs nothing outside a pool.

use clap::ValueEnum;
use ort::environment::Environment;
use ort::session::Session as OrtSession;
use ort::session::SessionInputValue;
use ort::value::TensorRef;
use rten::{ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView, ValueView};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What runs ONNX files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// ONNX Runtime, from `ORT_DYLIB_PATH` or the conformance tests' packages.
    Ort,
    /// rten, the engine inside Suzu.
    Rten,
}

impl Engine {
    /// ONNX Runtime where its library is found.
    pub fn found() -> Engine {
        if library().is_some() { Engine::Ort } else { Engine::Rten }
    }
}

/// Where the library is: as `ORT_DYLIB_PATH` says, else in the environment that `tests/conformance/run` makes.
pub fn library() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH") {
        return Some(path.into());
    }
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/conformance/venv/lib");
    let pythons = lib.read_dir().ok()?.flatten();
    let folders = pythons.map(|python| python.path().join("site-packages/onnxruntime/capi"));
    let files = folders.filter_map(|folder| folder.read_dir().ok()).flatten().flatten();
    files.map(|file| file.path()).find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libonnxruntime.so"))
    })
}

/// The library, loaded once.
fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let library = library().expect("ORT_DYLIB_PATH names libonnxruntime.so");
        let builder = ort::init_from(library).expect("a library that fits");
        builder.with_telemetry(false).build().expect("an environment")
    })
}

/// An ONNX file, and whoever runs it at the moment.
pub struct Seats {
    file: PathBuf,
    kind: Kind,
    free: Mutex<Vec<Session>>,
}

enum Kind {
    Ort(Environment),
    Rten(Arc<rten::Model>),
}

/// A file that one thread may run now.
pub enum Session {
    Ort(Box<OrtSession>),
    Rten { model: Arc<rten::Model>, pool: Arc<ThreadPool> },
}

impl Seats {
    /// Loads `NAME/1/model.onnx` of a folder of models. Panics where that fails: a rival has nothing else to do.
    pub fn open(engine: Engine, models: &Path, name: &str) -> Seats {
        let file = models.join(name).join("1/model.onnx");
        let make = "tests/conformance/run --only-models";
        assert!(file.is_file(), "`{}` is not there; `{make}` makes it", file.display());
        let kind = match engine {
            Engine::Ort => Kind::Ort(environment().clone()),
            Engine::Rten => {
                let options = ModelOptions::with_all_ops().prepack_weights(true).load_file(&file);
                Kind::Rten(Arc::new(options.expect("a model that rten knows")))
            }
        };
        let seats = Seats { file, kind, free: Mutex::default() };
        seats.give_back(seats.make());
        seats
    }

    /// A session for this thread; a new one if others have all there are.
    pub fn take(&self) -> Session {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| self.make())
    }

    pub fn give_back(&self, session: Session) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(session);
    }

    fn make(&self) -> Session {
        match &self.kind {
            Kind::Ort(environment) => {
                let builder = OrtSession::builder(environment).expect("the library is loaded");
                let builder = builder.with_intra_threads(1).expect("one thread");
                let mut builder = builder.with_inter_threads(1).expect("one thread");
                Session::Ort(Box::new(builder.commit_from_file(&self.file).expect("a model")))
            }
            Kind::Rten(model) => {
                let pool = Arc::new(ThreadPool::with_num_threads(1));
                Session::Rten { model: Arc::clone(model), pool }
            }
        }
    }
}

impl Session {
    /// Runs the file on named inputs (name, dimensions, elements) and gives these outputs, in this order.
    pub fn run<const N: usize>(
        &mut self,
        inputs: &[(&str, &[usize], &[f32])],
        outputs: [&str; N],
    ) -> [Vec<f32>; N] {
        match self {
            Session::Ort(session) => {
                let inputs: Vec<(&str, SessionInputValue)> = inputs
                    .iter()
                    .map(|(name, shape, data)| {
                        let tensor =
                            TensorRef::from_array_view((*shape, *data)).expect("as many as there are");
                        (*name, tensor.into())
                    })
                    .collect();
                let results = session.run(inputs).expect("the model runs");
                outputs.map(|name| {
                    results[name].try_extract_tensor::<f32>().expect("a tensor of floats").1.to_vec()
                })
            }
            Session::Rten { model, pool } => {
                let id = |name: &str| model.node_id(name).expect("the model has it");
                let inputs: Vec<(NodeId, ValueOrView)> = inputs
                    .iter()
                    .map(|(name, shape, data)| {
                        let view = ValueView::from_shape(shape, data).expect("as many as there are");
                        (id(name), view.into())
                    })
                    .collect();
                let options = RunOptions::default().with_thread_pool(Some(Arc::clone(pool)));
                let results = model.run(inputs, &outputs.map(id), Some(options)).expect("the model runs");
                let mut results = results.into_iter();
                outputs.map(|name| match results.next() {
                    Some(Value::FloatTensor(data)) => data.into_data(),
                    _ => panic!("{name} is no tensor of floats"),
                })
            }
        }
    }

    /// The same session, called from the thread of another one.
    pub fn beside(self, other: &Session) -> Session {
        match (self, other) {
            (Session::Rten { model, .. }, Session::Rten { pool, .. }) => {
                Session::Rten { model, pool: Arc::clone(pool) }
            }
            (own, _) => own,
        }
    }

    /// Does `work` on a thread from which this session is called without a change of threads, and waits for it.
    pub fn at_home<T: Send>(self, work: impl FnOnce(Session) -> T + Send) -> T {
        match &self {
            Session::Ort(_) => work(self),
            Session::Rten { pool, .. } => {
                let pool = Arc::clone(pool);
                pool.run(|| work(self))
            }
        }
    }
}
