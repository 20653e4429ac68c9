//! A model in a loop on one thread, and nothing else: what inference costs by itself.
//!
//! The engine is asked directly, without anything of Suzu's, on the core that the server runs on at other times. Its
//! states stay gathered from call to call, as no server could keep them. Time is CPU time of that thread.

use super::process::bind_to_the_servers_core;
use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView, ValueView};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Calls before the first that counts.
const CALLS_BEFORE: usize = 20;

/// A model of the folder with what its calls are made of.
pub struct Bare {
    model: Arc<Model>,
    input: NodeId,
    outputs: Vec<NodeId>,
    /// Elements of a row of the input.
    row: usize,
    /// Input, output and elements of a row of the state, whose rows are along its second dimension.
    state: Option<(NodeId, NodeId, usize)>,
}

/// Where a model of the folder is; tells how to make it if it is not there.
fn file(models: &Path, name: &str) -> PathBuf {
    let file = models.join(name).join("1/model.onnx");
    let make = "tests/conformance/run --only-models";
    assert!(file.is_file(), "`{}` is not there; `{make}` makes it", file.display());
    file
}

impl Bare {
    /// The GRU of `make_models.py`: 512 samples and a state of 224 floats.
    pub fn gru(models: &Path) -> Bare {
        let mut gru = Self::open(models, "gru", 512, &["speech", "embedding"]);
        let id = |name: &str| gru.model.node_id(name).expect("the GRU of make_models.py");
        gru.state = Some((id("h0"), id("hn"), 224));
        gru
    }

    /// The classifier of `make_models.py`: 16,000 samples.
    pub fn conv(models: &Path) -> Bare {
        Self::open(models, "conv", 16_000, &["scores"])
    }

    fn open(models: &Path, name: &str, row: usize, outputs: &[&str]) -> Bare {
        let file = file(models, name);
        let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(file).expect("a model");
        let id = |name: &str| model.node_id(name).expect("a model of make_models.py");
        let (input, outputs) = (id("audio"), outputs.iter().map(|name| id(name)).collect());
        Bare { input, outputs, row, state: None, model: Arc::new(model) }
    }

    /// CPU time of one row in calls of `rows`, measured for `duration`.
    pub fn run(&self, rows: usize, duration: Duration) -> Duration {
        let pool = Arc::new(ThreadPool::with_num_threads(1));
        let own = Arc::clone(&pool);
        pool.run(|| {
            bind_to_the_servers_core();
            let samples: Vec<f32> = (0..rows * self.row).map(noise).collect();
            let (mut memory, mut calls) = (vec![0.0; rows * self.state.map_or(0, |(.., len)| len)], 0);
            for _ in 0..CALLS_BEFORE {
                memory = self.call(rows, &samples, memory, &own);
            }
            let began = thread_cpu();
            loop {
                memory = self.call(rows, &samples, memory, &own);
                calls += 1;
                let taken = thread_cpu() - began;
                if taken >= duration {
                    return taken.div_f64((calls * rows) as f64);
                }
            }
        })
    }

    /// Gives the state for the next call.
    fn call(&self, rows: usize, samples: &[f32], memory: Vec<f32>, pool: &Arc<ThreadPool>) -> Vec<f32> {
        let samples = ValueView::from_shape(&[rows, self.row], samples).expect("as many as there are");
        let mut inputs: Vec<(NodeId, ValueOrView)> = vec![(self.input, samples.into())];
        let mut wanted = self.outputs.clone();
        if let Some((before, after, len)) = self.state {
            inputs.push((before, Value::from_shape(&[1, rows, len], memory).expect("as many").into()));
            wanted.push(after);
        }
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(pool)));
        let mut results = self.model.run(inputs, &wanted, Some(options)).expect("the model runs");
        match (self.state, results.pop()) {
            (Some(_), Some(Value::FloatTensor(memory))) => memory.into_data(),
            _ => Vec::new(),
        }
    }
}

/// Noise within -0.1..0.1.
pub fn noise(index: usize) -> f32 {
    ((index.wrapping_mul(2_654_435_761) >> 8) & 0xffff) as f32 / 327_680.0 - 0.1
}

/// CPU time of the calling thread.
pub fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to a valid timespec.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0, "Linux has it");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
