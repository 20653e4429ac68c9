//! The statistics extension: how often a model ran and how long each part took.

use super::describe::bytes;
use serde_json::{Value, json};

/// How often something happened and how long it took in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Duration {
    /// How often.
    pub count: u64,
    /// Nanoseconds, summed.
    pub ns: u64,
}

/// What one model did since it was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelStatistics {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// When the last inference was asked for: milliseconds since 1970; 0: never.
    pub last_inference_ms: u64,
    /// Inferences that succeeded; a batch counts once for each row.
    pub inference_count: u64,
    /// How often the model ran; a batch counts once.
    pub execution_count: u64,
    /// Requests that succeeded, from arrival to answer.
    pub success: Duration,
    /// Requests that failed.
    pub fail: Duration,
    /// Waiting for a worker.
    pub queue: Duration,
    /// Preparing inputs.
    pub compute_input: Duration,
    /// The model itself.
    pub compute_infer: Duration,
    /// Writing outputs.
    pub compute_output: Duration,
    /// The runs by the size of their batch, ascending.
    pub batches: Vec<BatchStatistics>,
}

/// What batches of one size took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchStatistics {
    /// Requests, or runs of streams, in the batch. A request with several rows counts once: rows may be any number, and
    /// a table by them would grow without a limit.
    pub batch_size: u64,
    /// Preparing inputs.
    pub compute_input: Duration,
    /// The model itself.
    pub compute_infer: Duration,
    /// Writing outputs.
    pub compute_output: Duration,
}

impl Duration {
    fn to_json(self) -> Value {
        json!({ "count": self.count, "ns": self.ns })
    }
}

/// The body of `/v2/models/{m}/stats` (one model) and `/v2/models/stats` (all).
pub fn encode_statistics(models: &[ModelStatistics]) -> Vec<u8> {
    let batch = |batch: &BatchStatistics| {
        json!({
            "batch_size": batch.batch_size,
            "compute_input": batch.compute_input.to_json(),
            "compute_infer": batch.compute_infer.to_json(),
            "compute_output": batch.compute_output.to_json(),
        })
    };
    let model = |model: &ModelStatistics| {
        json!({
            "name": model.name,
            "version": model.version.to_string(),
            "last_inference": model.last_inference_ms,
            "inference_count": model.inference_count,
            "execution_count": model.execution_count,
            "inference_stats": {
                "success": model.success.to_json(),
                "fail": model.fail.to_json(),
                "queue": model.queue.to_json(),
                "compute_input": model.compute_input.to_json(),
                "compute_infer": model.compute_infer.to_json(),
                "compute_output": model.compute_output.to_json(),
            },
            "batch_stats": model.batches.iter().map(batch).collect::<Vec<_>>(),
        })
    };
    bytes(&json!({ "model_stats": models.iter().map(model).collect::<Vec<_>>() }))
}
