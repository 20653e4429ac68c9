//! What a load came to.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;

/// Microseconds as milliseconds.
pub(super) fn in_ms(us: u64) -> f64 {
    us as f64 / 1e3
}

/// Figures of a load that has ended.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The URL, without its query.
    pub url: String,
    /// Clients that took part.
    pub clients: usize,
    /// Length of the stretch that counts, seconds.
    pub seconds: f64,
    /// How connecting went.
    pub connections: Connections,
    /// What became of the messages (chunks, requests, pings), of the whole load.
    pub messages: Messages,
    /// Answers in a second, while it counted.
    pub throughput_per_second: f64,
    /// From when a message was due to its answer, of messages due while it counted.
    pub latency_ms: Latency,
    /// Latency (milliseconds) below which a share of the messages lie, for drawing: pairs of share and latency.
    pub percentiles: Vec<(f64, f64)>,
    /// Audio of streams; zero elsewhere.
    pub audio: Seconds,
    /// Streams whose last balance is not that of the audio sent.
    pub ledgers_off: u64,
    /// Everything that went wrong: messages lost, duplicated, reordered or wrong, failures, balances that are off.
    pub errors: u64,
    /// Errors for each message sent and connection tried, 0 to 1.
    pub error_rate: f64,
    /// What failed, and how often.
    pub failures: BTreeMap<String, u64>,
    /// What the server warned of, and how often.
    pub warnings: BTreeMap<String, u64>,
    /// What the server's process used, if it was named.
    pub server: Option<ServerUsage>,
    /// Second after second, from the first connection on.
    pub moments: Vec<Moment>,
}

/// How connecting went.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Connections {
    /// Connections tried.
    pub wanted: u64,
    /// Open and, where there is one, upgraded; a stream has begun.
    pub opened: u64,
    /// Refused or broken before that.
    pub failed: u64,
    /// Times that a client was refused by HTTP 429 or 503. With [`super::Plan::try_again`] these are no failures.
    pub refused: u64,
    /// From the try to the refusal.
    pub refusal_ms: Latency,
    /// Opened in a second, from the first try to the last success.
    pub per_second: f64,
    /// From the try to being open.
    pub latency_ms: Latency,
}

/// What became of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Messages {
    /// Handed to the connections.
    pub sent: u64,
    /// Answered well.
    pub answered: u64,
    /// Never answered.
    pub lost: u64,
    /// Answered more than once.
    pub duplicated: u64,
    /// Answered after a later one.
    pub reordered: u64,
    /// Answered with something else than it should.
    pub wrong: u64,
}

/// Quantiles of times, milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Half are below.
    pub p50: f64,
    /// 90 % are below.
    pub p90: f64,
    /// 95 % are below.
    pub p95: f64,
    /// 99 % are below.
    pub p99: f64,
    /// 99.9 % are below.
    pub p999: f64,
    /// The greatest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// The standard deviation.
    pub stdev: f64,
}

impl Latency {
    pub(super) fn of(times: &Histogram<u64>) -> Latency {
        let at = |quantile| in_ms(times.value_at_quantile(quantile));
        Latency {
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: in_ms(times.max()),
            mean: times.mean() / 1e3,
            stdev: times.stdev() / 1e3,
        }
    }
}

/// Pairs of share and latency, finer towards the end.
pub(super) fn percentiles(times: &Histogram<u64>) -> Vec<(f64, f64)> {
    if times.is_empty() {
        return Vec::new();
    }
    // Five points for each halving of what is left, as the figures of HDR histograms are drawn.
    let mut points: Vec<_> = times
        .iter_quantiles(5)
        .map(|point| (point.quantile(), in_ms(point.value_iterated_to().min(times.max()))))
        .collect();
    points.dedup();
    points
}

/// Audio, seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Seconds {
    /// Sent.
    pub sent_s: f64,
    /// Processed, as the server's balances say.
    pub processed_s: f64,
    /// Discarded, as the server's balances say.
    pub discarded_s: f64,
}

/// What the server's process used.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ServerUsage {
    /// CPU time while it counted, seconds.
    pub cpu_seconds: f64,
    /// The same for each answer, microseconds.
    pub cpu_us_per_message: f64,
    /// The same as a share of one core, 0 to 1 and above.
    pub cpu_share: f64,
    /// CPU time for each connection opened before it counted, microseconds. What clients send meanwhile is in it.
    pub cpu_us_per_connection: f64,
    /// Resident memory before the first connection.
    pub resident_bytes_before: u64,
    /// Resident memory at the end of what counts.
    pub resident_bytes_loaded: u64,
    /// The most that the process ever held.
    pub resident_bytes_max: u64,
}

/// A stretch of the load, for drawing.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Moment {
    /// When it began, seconds from the first connection.
    pub at_s: f64,
    /// How long it was, seconds.
    pub length_s: f64,
    /// Answers that came.
    pub answered: u64,
    /// What went wrong.
    pub errors: u64,
    /// Median latency of those answers.
    pub p50_ms: f64,
    /// 99 % of those answers were faster.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl Moment {
    /// Neighbours as one. Their quantiles cannot be merged, so the greater ones are kept.
    pub(super) fn merged(pair: &[Moment]) -> Moment {
        let mut merged = pair[0];
        for other in &pair[1..] {
            merged.length_s += other.length_s;
            merged.answered += other.answered;
            merged.errors += other.errors;
            merged.p50_ms = merged.p50_ms.max(other.p50_ms);
            merged.p99_ms = merged.p99_ms.max(other.p99_ms);
            merged.max_ms = merged.max_ms.max(other.max_ms);
        }
        merged
    }
}

/// How far a load is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Connections open.
    pub open: u64,
    /// Connections that will be.
    pub wanted: u64,
    /// Messages sent so far.
    pub sent: u64,
    /// Answered so far.
    pub answered: u64,
    /// What went wrong so far.
    pub errors: u64,
    /// 99 % of the answers that count were faster, milliseconds.
    pub p99_ms: f64,
    /// How much of what counts is done, 0 to 1.
    pub done: f64,
}
