//! Trying a model that is about to serve: warming it up, and measuring how many rows a call had best have.
//!
//! Owns the made-up audio of models that hear streams; models of tensors are rehearsed by their [`Graph`]. Called by
//! the repository alone, before a model serves.

use super::onnx::{Calibration, Graph, Timed};
use super::pipeline::panic_message;
use super::{Failure, Findings, Lane, Model, Run, Served, State, StreamState, execute};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// How long one size is measured.
const MEASURED: Duration = Duration::from_millis(50);
/// How long a model is tried, and how many chunks that is at most, each as long as clients usually send them.
const TRIED: Duration = Duration::from_millis(1);
const TRIALS_MAX: usize = 20;
const CHUNK: Duration = Duration::from_millis(100);
/// The rate of the streams that are played, where the model takes any.
const TRIED_AT_HZ: u32 = 16_000;

/// Runs calls of each of these sizes once, so that the first real one meets warm memory.
///
/// # Errors
/// Why the model fails.
pub(super) fn warm_up(served: &Served, graph: &Graph, sizes: &[usize]) -> Result<(), String> {
    let Served::Audio(model) = served else { return graph.warm_up(sizes) };
    sizes.iter().try_for_each(|rows| Cast::new(model, *rows).play())
}

/// Measures how long calls of these sizes take for each row.
///
/// # Errors
/// Why the model fails.
pub(super) fn calibrate(
    served: &Served,
    graph: &Graph,
    sizes: &[usize],
    clock: &dyn Fn() -> Duration,
) -> Result<Calibration, String> {
    let Served::Audio(model) = served else { return graph.calibrate(sizes, clock) };
    let time = |rows: &usize| {
        let mut cast = Cast::new(model, *rows);
        cast.play()?;
        let start = clock();
        let mut calls = 0;
        let taken = loop {
            cast.play()?;
            calls += 1;
            let taken = clock().saturating_sub(start);
            if taken >= MEASURED {
                break taken;
            }
        };
        Ok(Timed { rows: *rows, us_per_row: taken.as_secs_f64() * 1e6 / (calls * rows) as f64 })
    };
    Ok(Calibration::of(sizes.iter().map(time).collect::<Result<_, String>>()?))
}

/// Seconds of work for a second of audio of one stream, by a trial of about a millisecond: the quickest of some chunks, for whatever
/// made the others slower was not the model.
///
/// # Errors
/// Why the model fails.
pub(super) fn trial_cost(model: &Arc<dyn Model>, clock: &dyn Fn() -> Duration) -> Result<f64, Failure> {
    let rate_hz = model.spec().rate_for(TRIED_AT_HZ);
    let state = StreamState::new(&**model, rate_hz).map_err(|fault| Failure::Engine(fault.message))?;
    let chunk = noise((u64::from(rate_hz) * CHUNK.as_millis() as u64 / 1000) as usize);
    let mut run = [Run::new(Box::new(state), Vec::new(), false)];
    let (begun, mut quickest) = (clock(), Duration::MAX);
    for _ in 0..TRIALS_MAX {
        run[0].samples.clone_from(&chunk);
        let start = clock();
        execute(&**model, &mut run);
        let end = clock();
        if let Some(failure) = run[0].outcome.failure.take() {
            return Err(failure);
        }
        quickest = quickest.min(end.saturating_sub(start));
        if end.saturating_sub(begun) >= TRIED {
            break;
        }
    }
    Ok(quickest.as_secs_f64() / CHUNK.as_secs_f64())
}

/// Streams that share a call.
struct Cast<'a> {
    model: &'a Arc<dyn Model>,
    states: Vec<State>,
    samples: Vec<f32>,
    findings: Vec<Findings>,
    /// Windows that they have heard.
    heard: u64,
}

impl<'a> Cast<'a> {
    fn new(model: &'a Arc<dyn Model>, rows: usize) -> Self {
        let findings = (0..rows).map(|_| Findings::empty(model.spec())).collect();
        let states = (0..rows).map(|_| model.start()).collect();
        Self { model, states, samples: noise(model.spec().window), findings, heard: 0 }
    }

    /// One window of each stream in one call.
    fn play(&mut self) -> Result<(), String> {
        let mut failures: Vec<Option<Failure>> = self.states.iter().map(|_| None).collect();
        let streams = self.states.iter_mut().zip(&mut self.findings).zip(&mut failures);
        let mut lanes: Vec<Lane<'_>> = streams
            .map(|((state, findings), failure)| {
                findings.reset(self.model.spec());
                let (samples, first_window) = (&self.samples[..], self.heard);
                Lane { state, samples, count: 1, first_window, ends_at: None, findings, failure }
            })
            .collect();
        catch_unwind(AssertUnwindSafe(|| self.model.infer(&mut lanes)))
            .map_err(|panic| format!("the model panics on quiet noise: {}", panic_message(&*panic)))?;
        self.heard += 1;
        match failures.into_iter().flatten().next() {
            None => Ok(()),
            Some(Failure::Engine(why) | Failure::Refused(why) | Failure::Panicked(why)) => {
                Err(format!("the model fails on quiet noise: {why}"))
            }
            Some(Failure::NotFinite) => Err("the model makes NaN or infinity of quiet noise".into()),
            Some(Failure::WrongShape) => Err("the model gives another number of rows than windows".into()),
        }
    }
}

/// Quiet noise, the same every time.
pub(crate) fn noise(len: usize) -> Vec<f32> {
    let mut seed = 1u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((seed >> 8) as f32 / (1u32 << 24) as f32 - 0.5) * 0.02
    };
    (0..len).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Registry;
    use crate::model::onnx::{EngineKind, Plan};

    fn graph() -> Graph {
        let path: std::path::PathBuf =
            [env!("CARGO_MANIFEST_DIR"), "tests", "data", "models", "conv.onnx"].iter().collect();
        let engine = crate::model::onnx::open(&path, EngineKind::Rten, None).expect("a file that loads");
        Graph::new(engine, &Plan::default()).expect("a plan that fits")
    }

    #[test]
    fn a_trial_tells_the_seconds_for_a_second() {
        let model = Registry::builtin().get("vad").expect("it is inside");
        let ticks = std::cell::Cell::new(0);
        let clock = || Duration::from_micros(100 * ticks.replace(ticks.get() + 1));
        let cost = trial_cost(&model, &clock).expect("it runs");
        assert!((cost - 100e-6 / 0.1).abs() < 1e-9, "{cost}");
        let mut registry = Registry::builtin();
        assert_eq!(registry.trial_cost("vad"), 0.0);
        registry.try_out(&clock);
        assert!(registry.audio().all(|model| registry.trial_cost(&model.spec().name) > 0.0));
    }

    #[test]
    fn models_that_hear_streams_are_warmed_up_and_measured_at_every_size() {
        for model in Registry::builtin().audio() {
            let served = Served::Audio(Arc::clone(model));
            warm_up(&served, &graph(), &[1, 2, 5]).expect("a model that works");
            let clock = std::cell::Cell::new(Duration::ZERO);
            // Each look at the clock is 10 ms later: 5 calls for 50 ms.
            let tick = || clock.replace(clock.get() + Duration::from_millis(10));
            let measured = calibrate(&served, &graph(), &[1, 2], &tick).expect("a model that works");
            let rows: Vec<_> = measured.table.iter().map(|timed| (timed.rows, timed.us_per_row)).collect();
            assert_eq!(rows, [(1, 10_000.0), (2, 5_000.0)]);
            assert_eq!(measured.best, 2);
        }
    }
}
