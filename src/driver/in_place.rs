//! Which inference the loop does itself: one that is shorter than what its hand-over would cost.
//!
//! Handing a batch to a worker and taking it home costs two wake-ups and two turns of the scheduler, tens of microseconds:
//! as much as a small model takes for a chunk. So a batch of a model that says it is prompt
//! ([`crate::model::ModelLimits::prompt`]) is done in place if it is expected to take less than the limit, and everything
//! else goes to the workers: a load that grows makes larger batches, which are theirs again. The expectation is what
//! earlier batches of the model took for each sample on this machine, so the first one goes to a worker.
//!
//! Where there is one core for everything, a worker would take it from the loop all the same: the more is done in place, the
//! fewer times they take it from each other. So the limit is [`ALONE_FACTOR`] times as high there.
//!
//! Whatever is expected, a turn spends no more than the limit twice over: once expected, once overrun.

use crate::batch::{Batch, Streams, Work};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Part of a new measurement in the expectation; of a longer one, all of it. So it follows slowly when the machine is
/// quick and at once when it is slow.
const SHARE: f64 = 0.1;

/// How many times the limit holds where the loop shares its only core with the workers. By default 2 ms, in which a batch
/// of 32 chunks of `vad` is done: at two thirds of the load 5 to 10 % less CPU than with workers.
const ALONE_FACTOR: u32 = 10;

/// Decides, and learns from every batch.
pub(super) struct InPlace {
    max: Duration,
    /// Time spent in this turn.
    spent: Duration,
    /// Nanoseconds for each sample of a stream, by the model's name.
    costs: BTreeMap<Arc<str>, f64>,
}

impl InPlace {
    /// Takes batches that are expected to take less than `max` on a machine with that many cores; none if that is zero.
    pub(super) fn new(max: Duration, cores: usize) -> Self {
        let max = if cores > 1 { max } else { max * ALONE_FACTOR };
        Self { max, spent: Duration::ZERO, costs: BTreeMap::new() }
    }

    /// What was spent before was another turn's.
    pub(super) fn begin_turn(&mut self) {
        self.spent = Duration::ZERO;
    }

    /// A batch done in place took so long.
    pub(super) fn spend(&mut self, took: Duration) {
        self.spent += took;
    }

    /// Whether the batch should be done in place.
    pub(super) fn takes(&self, batch: &Batch) -> bool {
        let Some((streams, samples)) = prompt(batch) else { return false };
        let Some(cost) = self.costs.get(&streams.model.spec().name) else { return false };
        let expected = Duration::from_nanos((cost * samples as f64) as u64);
        self.spent + expected < self.max
    }

    /// A batch is home, wherever it was done.
    pub(super) fn learn(&mut self, batch: &Batch) {
        // The samples have been through the model, which leaves them in the runs.
        let Some((streams, samples)) = prompt(batch) else { return };
        if samples == 0 || self.max.is_zero() {
            return;
        }
        let measured = batch.infer_time.as_nanos() as f64 / samples as f64;
        let name = &streams.model.spec().name;
        match self.costs.get_mut(name) {
            Some(cost) if measured < *cost => *cost += (measured - *cost) * SHARE,
            Some(cost) => *cost = measured.min(*cost * 2.0),
            None => drop(self.costs.insert(Arc::clone(name), measured)),
        }
    }
}

/// The streams of a batch whose model is prompt, and their samples.
fn prompt(batch: &Batch) -> Option<(&Streams, usize)> {
    let Work::Streams(streams) = &batch.work else { return None };
    let samples = streams.runs.iter().map(|run| run.samples.len()).sum();
    streams.model.spec().limits.prompt.then_some((streams, samples))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BatchId;
    use crate::model::{Registry, Run, StreamState};

    const MAX: Duration = Duration::from_micros(200);

    /// A batch of one run of so many samples, as if it had been done in `took`.
    fn batch(model: &str, samples: usize, took: Duration) -> Batch {
        let model = Registry::builtin().find(model).expect("it is inside").clone();
        let state = Box::new(StreamState::new(&*model, 16_000).expect("a rate that is served"));
        let runs = vec![Run::new(state, vec![0.0; samples], false)];
        let mut batch = Batch::new(BatchId(0), Work::Streams(Streams { model, sessions: Vec::new(), runs }));
        batch.infer_time = took;
        batch
    }

    fn ms(samples: usize) -> Batch {
        batch("vad", samples * 16, Duration::ZERO)
    }

    fn learnt(took: Duration) -> InPlace {
        let mut in_place = InPlace::new(MAX, 2);
        in_place.learn(&batch("vad", 1_600, took));
        in_place
    }

    #[test]
    fn the_first_batch_of_a_model_goes_to_a_worker() {
        let in_place = learnt(Duration::from_micros(10));
        assert!(in_place.takes(&ms(100)));
        assert!(!InPlace::new(MAX, 2).takes(&ms(100)));
        assert!(!in_place.takes(&batch("echo", 1_600, Duration::ZERO)), "each model is learnt by itself");
    }

    #[test]
    fn what_is_expected_to_take_longer_goes_to_a_worker() {
        let in_place = learnt(Duration::from_micros(50));
        assert!(in_place.takes(&ms(300)));
        assert!(!in_place.takes(&ms(400)));
    }

    #[test]
    fn the_only_core_does_more_in_place() {
        let mut in_place = InPlace::new(MAX, 1);
        in_place.learn(&batch("vad", 1_600, Duration::from_micros(50)));
        assert!(in_place.takes(&ms(3_900)));
        assert!(!in_place.takes(&ms(4_100)));
    }

    #[test]
    fn a_turn_has_a_share_and_the_next_one_its_own() {
        let mut in_place = learnt(Duration::from_micros(50));
        in_place.spend(Duration::from_micros(160));
        assert!(!in_place.takes(&ms(100)));
        in_place.begin_turn();
        assert!(in_place.takes(&ms(100)));
    }

    #[test]
    fn a_machine_that_became_slow_is_noticed_at_once_and_one_that_became_quick_slowly() {
        let mut in_place = learnt(Duration::from_micros(150));
        in_place.learn(&batch("vad", 1_600, Duration::from_micros(1_000)));
        assert!(!in_place.takes(&ms(100)));
        let patience = (1..).find(|_| {
            in_place.learn(&batch("vad", 1_600, Duration::from_micros(50)));
            in_place.takes(&ms(100))
        });
        assert!((2..30).contains(&patience.expect("an end")), "{patience:?}");
    }

    #[test]
    fn zero_turns_it_off_and_a_model_that_promises_nothing_never_comes_here() {
        let mut off = InPlace::new(Duration::ZERO, 1);
        off.learn(&batch("vad", 1_600, Duration::from_nanos(1)));
        assert!(!off.takes(&ms(1)));
        let promises = |name| Registry::builtin().find(name).expect("it is inside").spec().limits.prompt;
        assert!(["vad", "denoise", "echo"].into_iter().all(promises));
        assert!(!crate::model::ModelLimits::default().prompt);
    }
}
