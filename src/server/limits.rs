//! The limits that all connections and sessions share, and what every limit adds up to.
//!
//! Owns the budgets (bytes held now) and the computation of the memory bound from the configuration. One line of the
//! bound for each holder of memory; a holder without a line is a bug.

use crate::config::{Config, ConfigError};
use crate::model::{Registry, Served, WORKER_BYTES_MAX};
use crate::server::SURPLUS_MAX;
use crate::server::calls::Sequence;
use crate::server::connection::Connection;
use crate::server::session::Session;
use crate::server::spares;
use std::time::Duration;

/// Bytes held now, of all connections and sessions together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budgets {
    /// Incomplete requests and messages.
    pub incoming: usize,
    /// What waits to be written.
    pub outgoing: usize,
    /// Audio that waits or is with a worker.
    pub audio: usize,
    /// Requests for inference as they came, from their last byte to their answer.
    pub calls: usize,
}

impl Budgets {
    /// A connection held `before` (incoming, outgoing) and holds `after`.
    pub fn charge_connection(&mut self, before: (usize, usize), after: (usize, usize)) {
        self.incoming = self.incoming + after.0 - before.0;
        self.outgoing = self.outgoing + after.1 - before.1;
    }

    /// A session held `before` bytes of audio and holds `after`.
    pub fn charge_audio(&mut self, before: usize, after: usize) {
        self.audio = self.audio + after - before;
    }
}

/// What the limits of a configuration add up to: each holder of memory with its greatest size in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryBound {
    lines: Vec<(String, u64)>,
}

/// The program itself: code, weights, allocator, logs, metrics. Measured at 6 MiB resident on x86-64, with a margin.
const PROGRAM_BYTES: u64 = 12 << 20;
/// The event loop's receive area and its lists of sockets.
const LOOP_BYTES: u64 = 1 << 20;
/// Buckets of a principal or an address with their places in the table and its order, and the longest name.
const LIMITER_BYTES: usize = 320;
/// A signature that is remembered, with its place.
const ONCE_BYTES: usize = 160;
/// What the driver holds for a connection that speaks TLS and rests: 3.7 KiB resident were measured with 2,000 idle
/// WebSockets on x86-64 (keys of both directions, the session's state); the rest is for a small record that waits for its
/// peer while `tls_bytes_total_max` is used up.
const TLS_BYTES: usize = 4 << 10;
/// What posts a webhook: its stack as far as it is touched, its buffers, a session of TLS.
const POSTER_BYTES: usize = 1 << 20;
/// A worker's stack as far as it is touched.
const STACK_BYTES: usize = 1 << 20;
/// What the driver holds for a socket.
const SOCKET_BYTES: usize = 128;
/// The fastest rate that a stream may have, hertz: its audio is the largest.
const RATE_MAX_HZ: usize = 48_000;
/// Results of a run, as tensors and as audio, are at most this many times its samples.
const OUTCOME_FACTOR: usize = 3;
/// A request for inference with its tensors and its answer is at most this many times its body. JSON of small numbers
/// takes more room as tensors; answers larger than the question are what `elements_max` of a model bounds.
const CALL_FACTOR: usize = 3;
/// Answers that may be compressed piece by piece at a time; beyond that they go out as they are.
pub const PACKERS_MAX: usize = 32;
/// What deflate holds while it compresses: the tables of miniz_oxide have 314 KiB by their declared sizes, the buffer of
/// flate2 has 32 KiB.
const PACKER_BYTES: usize = 384 << 10;
/// Vec grows by doubling: what is held may be half empty.
const GROWTH: usize = 2;

impl MemoryBound {
    /// Each holder with its bytes.
    pub fn lines(&self) -> &[(String, u64)] {
        &self.lines
    }

    /// The sum, bytes.
    pub fn total(&self) -> u64 {
        self.lines.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The sum and each holder, a line each.
    pub fn describe(&self) -> Vec<String> {
        let sum = format!("memory bound: {}, of which", mib(self.total()));
        let lines = self.lines.iter().map(|(name, bytes)| format!("  {name}: {}", mib(*bytes)));
        std::iter::once(sum).chain(lines).collect()
    }

    /// Compares the sum with `memory_max`.
    ///
    /// # Errors
    /// Names the largest holders if the sum is above.
    pub fn check(&self, config: &Config) -> Result<(), ConfigError> {
        if self.total() <= config.memory_max as u64 {
            return Ok(());
        }
        let mut largest = self.lines.clone();
        largest.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let largest: Vec<_> =
            largest.iter().take(3).map(|(name, bytes)| format!("{name} {}", mib(*bytes))).collect();
        Err(ConfigError::new(format!(
            "the limits add up to {}, more than memory_max = {}; the largest are {}: lower them or raise memory_max",
            mib(self.total()),
            mib(config.memory_max as u64),
            largest.join(", "),
        )))
    }
}

/// Bytes as whole MiB, rounded up.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// What the limits of `config` add up to when it serves `models`.
pub fn memory_bound<'a>(config: &Config, models: impl Iterator<Item = &'a Served>) -> MemoryBound {
    let connections = config.connections_max + SURPLUS_MAX;
    let message = config.message_bytes_max.max(config.echo_message_bytes_max).max(config.body_bytes_max);
    let (state, weights) = models.fold((0, 0), |(state, weights), model| {
        (model.state_bytes_max().max(state), weights + model.weights_bytes())
    });
    let run = samples_in(config.run_max, RATE_MAX_HZ) * size_of::<f32>();
    let runs = batches_in_flight_max(config) * config.batch_max.min(config.sessions_max);
    let mut lines = Vec::new();
    let mut line = |name: &str, bytes: usize| lines.push((name.to_owned(), bytes as u64));
    line("program", PROGRAM_BYTES as usize);
    line("event loop", LOOP_BYTES as usize);
    line(
        "limiters_max, signed_requests_max",
        config.limiters_max * 2 * LIMITER_BYTES + config.signed_requests_max * ONCE_BYTES,
    );
    line("connections_max x connection", connections * (size_of::<Connection>() + SOCKET_BYTES));
    if !config.tls_certificate.is_empty() {
        line("connections_max x TLS", connections * TLS_BYTES);
        line("tls_bytes_total_max, each way", 2 * config.tls_bytes_total_max);
    }
    if !config.webhook_url.is_empty() {
        // What is given up is not counted any more while it waits for its file, and has as much room there.
        line("webhook_bytes_max, waiting and given up", 2 * config.webhook_bytes_max);
        line("webhook_posts_max x attempt", config.webhook_posts_max * POSTER_BYTES);
    }
    line(
        "sessions_max x (session + model state)",
        config.sessions_max * (size_of::<Session>() + 1024 + state),
    );
    line("models loaded", weights);
    line("sequences_max x model state", config.sequences_max * (size_of::<Sequence>() + 256 + state));
    // A request is held as it came, as tensors and as its answer, and an answer is not counted before it is written.
    line("calls_bytes_total_max", config.calls_bytes_total_max * CALL_FACTOR);
    line("answers being compressed", PACKERS_MAX.min(config.sessions_max) * PACKER_BYTES);
    line("incoming_bytes_total_max", config.incoming_bytes_total_max);
    line("outgoing_bytes_total_max", config.outgoing_bytes_total_max);
    line("spare buffers", spares::BYTES_MAX);
    line("audio_bytes_total_max", config.audio_bytes_total_max);
    // A message may be complete before its size meets the shared limit, is copied once, and Vec may double.
    line("the largest message on its way", message * GROWTH * 2);
    line("results of the runs in flight", runs * run * OUTCOME_FACTOR);
    // A worker keeps its resamplers, and a run's samples before and after them.
    line("workers", worker_count(config) * (STACK_BYTES + WORKER_BYTES_MAX + run * OUTCOME_FACTOR));
    MemoryBound { lines }
}

/// How many workers there are: as configured, or the cores less the one for the loop.
pub fn worker_count(config: &Config) -> usize {
    config.worker_count(cores())
}

/// The configuration with its workers settled: as configured, or one less than `cores`, but no more than `memory_max` has room
/// for; at least one.
pub fn settle_workers(config: Config, cores: usize, models: &Registry) -> Config {
    let with = |workers| Config { workers, ..config.clone() };
    let fits =
        |workers: &usize| memory_bound(&with(*workers), models.iter()).total() <= config.memory_max as u64;
    with(
        (1..=config.worker_count(cores))
            .rev()
            .find(|workers| config.workers > 0 || fits(workers))
            .unwrap_or(1),
    )
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Batches that may be with the workers: one that runs and, if it is full, one that waits for each, so that under load
/// none idles for the loop.
pub fn batches_in_flight_max(config: &Config) -> usize {
    worker_count(config) * 2
}

/// Samples that `duration` holds at `rate_hz`.
pub fn samples_in(duration: Duration, rate_hz: usize) -> usize {
    (duration.as_nanos() * rate_hz as u128 / 1_000_000_000) as usize
}

/// Refuses a default model that is not there.
pub fn check_models(config: &Config, models: &Registry) -> Result<(), ConfigError> {
    let wanted = &config.model_default;
    if models.get(wanted).is_some() {
        return Ok(());
    }
    let names: Vec<_> = models.audio().map(|model| &*model.spec().name).collect();
    Err(ConfigError::new(format!(
        "model_default = \"{wanted}\" is not there; there are {}",
        names.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_their_own_bound_on_any_machine() {
        for cores in [1, 2, 3, 4, 8, 64, 1024] {
            for tls in ["", "pem"] {
                let config = Config { tls_certificate: tls.into(), tls_key: tls.into(), ..Config::default() };
                let config = settle_workers(config, cores, &Registry::builtin());
                memory_bound(&config, Registry::builtin().iter()).check(&config).unwrap();
                assert!(config.workers >= 1);
            }
        }
        let roomy = Config { memory_max: 8 << 30, ..Config::default() };
        assert_eq!(settle_workers(roomy, 8, &Registry::builtin()).workers, 7);
        let asked = Config { workers: 5, ..Config::default() };
        assert_eq!(
            settle_workers(asked, 2, &Registry::builtin()).workers,
            5,
            "what was asked for is not changed"
        );
        let config = settle_workers(Config::default(), 2, &Registry::builtin());
        let bound = memory_bound(&config, Registry::builtin().iter());
        bound.check(&config).unwrap();
        assert!(bound.total() > (100 << 20), "the bound counts everything: {bound:?}");
    }

    #[test]
    fn the_defaults_fit_with_tls_too_and_it_is_counted() {
        let plain = Config { workers: 1, ..Config::default() };
        let config =
            Config { tls_certificate: "chain.pem".into(), tls_key: "key.pem".into(), ..plain.clone() };
        let total = |config| memory_bound(config, Registry::builtin().iter()).total();
        let more = total(&config) - total(&plain);
        assert_eq!(more as usize, 10_064 * TLS_BYTES + 2 * config.tls_bytes_total_max);
        memory_bound(&config, Registry::builtin().iter()).check(&config).unwrap();
    }

    #[test]
    fn webhooks_are_counted_where_there_is_a_receiver() {
        let none = Config { workers: 1, ..Config::default() };
        let config = Config { webhook_url: "http://localhost/".into(), webhook_posts_max: 3, ..none.clone() };
        let total = |config| memory_bound(config, Registry::builtin().iter()).total();
        let more = total(&config) - total(&none);
        assert_eq!(more as usize, 2 * config.webhook_bytes_max + 3 * POSTER_BYTES);
        memory_bound(&config, Registry::builtin().iter()).check(&config).unwrap();
    }

    #[test]
    fn limits_that_add_up_to_more_than_the_memory_are_refused_by_name() {
        let config = Config { outgoing_bytes_total_max: 1 << 30, ..Config::default() };
        let error = memory_bound(&config, Registry::builtin().iter()).check(&config).unwrap_err();
        assert!(error.to_string().contains("outgoing_bytes_total_max 1024 MiB"), "{error}");
    }
}
