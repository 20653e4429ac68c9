//! How each model fares, as its clients are told.

use crate::batch::CallTimes;
use crate::model::Served;
use crate::wire::oip::{self, BatchStatistics, ModelStatistics};
use std::collections::BTreeMap;
use std::time::Duration;

/// What one version of a model did since it was loaded. Runs of streams count as requests: one each, with a row for
/// each window.
#[derive(Default)]
pub struct ModelStats {
    last_inference_ms: u64,
    rows: u64,
    /// Each request's share of the batches that it was in, so that their sum is the number of batches.
    batches: f64,
    success: oip::Duration,
    fail: oip::Duration,
    queue: oip::Duration,
    read: oip::Duration,
    infer: oip::Duration,
    write: oip::Duration,
    /// By how many were in the batch. Sizes are limited by `batch_max`, so the table is small.
    sizes: BTreeMap<usize, Sized>,
}

/// What requests in batches of one size took, each with its share of its batch.
#[derive(Default)]
struct Sized {
    requests: u64,
    read: Duration,
    infer: Duration,
    write: Duration,
}

impl ModelStats {
    /// A request, or a run of a stream, has been answered. `queued` is how long it waited for a worker.
    pub fn note_success(
        &mut self,
        rows: u64,
        queued: Duration,
        times: CallTimes,
        batch_size: usize,
        unix_ms: u64,
    ) {
        self.last_inference_ms = unix_ms;
        self.rows += rows;
        self.batches += 1.0 / batch_size.max(1) as f64;
        add(&mut self.success, queued + times.read + times.infer + times.write);
        add(&mut self.queue, queued);
        add(&mut self.read, times.read);
        add(&mut self.infer, times.infer);
        add(&mut self.write, times.write);
        let size = self.sizes.entry(batch_size).or_default();
        size.requests += 1;
        size.read += times.read;
        size.infer += times.infer / batch_size.max(1) as u32;
        size.write += times.write;
    }

    /// A request failed, by its own fault or the model's.
    pub fn note_failure(&mut self, unix_ms: u64) {
        self.last_inference_ms = unix_ms;
        self.fail.count += 1;
    }

    /// As the protocol tells it.
    pub fn statistics(&self, served: &Served) -> ModelStatistics {
        let batches = self.sizes.iter().map(|(&size, of)| {
            let count = of.requests.div_ceil(size.max(1) as u64);
            let total = |time: Duration| oip::Duration { count, ns: time.as_nanos() as u64 };
            BatchStatistics {
                batch_size: size as u64,
                compute_input: total(of.read),
                compute_infer: total(of.infer),
                compute_output: total(of.write),
            }
        });
        ModelStatistics {
            name: served.name().to_string(),
            version: served.version(),
            last_inference_ms: self.last_inference_ms,
            inference_count: self.rows,
            execution_count: self.batches.round() as u64,
            success: self.success,
            fail: self.fail,
            queue: self.queue,
            compute_input: self.read,
            compute_infer: self.infer,
            compute_output: self.write,
            batches: batches.collect(),
        }
    }
}

fn add(total: &mut oip::Duration, time: Duration) {
    total.count += 1;
    total.ns += time.as_nanos() as u64;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Registry;

    #[test]
    fn a_batch_counts_once_and_its_rows_each() {
        let mut stats = ModelStats::default();
        let times = CallTimes { infer: Duration::from_micros(30), ..CallTimes::default() };
        for _ in 0..3 {
            stats.note_success(2, Duration::from_micros(1), times, 3, 7);
        }
        stats.note_success(1, Duration::ZERO, times, 1, 9);
        stats.note_failure(11);
        let told = stats.statistics(&Served::Audio(Registry::builtin().get("vad").unwrap()));
        assert_eq!((told.inference_count, told.execution_count, told.last_inference_ms), (7, 2, 11));
        assert_eq!((told.success.count, told.fail.count, told.queue.ns), (4, 1, 3_000));
        let sizes: Vec<_> =
            told.batches.iter().map(|size| (size.batch_size, size.compute_infer.count)).collect();
        assert_eq!(sizes, [(1, 1), (3, 1)]);
        assert_eq!(told.batches[1].compute_infer.ns, 30_000);
    }
}
