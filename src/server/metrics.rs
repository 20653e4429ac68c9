//! What the server counts, and the two ways it shows it: Prometheus text and JSON.
//!
//! Owns plain numbers that only grow, and latency histograms of bounded size. Counting costs an addition; the text
//! is put together when somebody asks for it. Labels come from closed enums, so their number is bounded.

use crate::reason::Reason;
use crate::server::contract::ProcessFigures;
use crate::server::pressure::{Load, Resource, Rung};
use crate::server::routes::{ROUTES, Route};
use crate::server::webhooks::WebhookFigures;
use hdrhistogram::Histogram as Hdr;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::Duration;

const REASONS: usize = Reason::InternalError as usize + 1;
const ROUTE_COUNT: usize = ROUTES.len() + 1;
/// Slow requests remembered.
const SLOW_MAX: usize = 32;
/// Latencies beyond this count as this: keeps each histogram at a few KiB.
const LATENCY_MAX: Duration = Duration::from_secs(3600);

/// Numbers that only grow.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Connections taken in.
    pub connections_opened: u64,
    /// Connections closed, by reason.
    pub connections_closed: [u64; REASONS],
    /// WebSockets opened.
    pub websockets_opened: u64,
    /// Refusals before the upgrade, by reason.
    pub refusals: [u64; REASONS],
    /// Sessions begun.
    pub sessions_began: u64,
    /// Sessions ended, by reason.
    pub sessions_ended: [u64; REASONS],
    /// Samples accepted, of all streams.
    pub samples_received: u64,
    /// Samples inferred.
    pub samples_processed: u64,
    /// Samples discarded, by reason.
    pub samples_discarded: [u64; REASONS],
    /// Audio accepted, as time.
    pub audio_received: Duration,
    /// Chunks accepted.
    pub chunks: u64,
    /// Batches sent to the workers.
    pub batches: u64,
    /// Runs in them.
    pub runs: u64,
    /// Runs whose model failed.
    pub failures: u64,
    /// Batches over their time limit.
    pub overdue: u64,
    /// Requests for inference taken in.
    pub calls_received: u64,
    /// Requests for inference answered.
    pub calls_answered: u64,
    /// Requests for inference refused or failed after they were taken in, or left by their client.
    pub calls_failed: u64,
    /// Times that a model failed so often in a row that newcomers were kept from it.
    pub circuits_opened: u64,
    /// Time the workers spent on inference.
    pub infer_time: Duration,
    /// Bytes that came in.
    pub bytes_in: u64,
    /// Bytes that went out.
    pub bytes_out: u64,
    /// WebSocket messages sent back by the echo endpoint.
    pub echoes: u64,
}

/// Figures that go up and down, put together by the server when somebody asks.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Open connections.
    pub connections: usize,
    /// Connections allowed.
    pub connections_max: usize,
    /// Sessions.
    pub sessions: usize,
    /// Sessions allowed.
    pub sessions_max: usize,
    /// Samples neither processed nor discarded yet.
    pub samples_pending: u64,
    /// Sessions that wait for a batch.
    pub queued: usize,
    /// How long the first of them has waited.
    pub queue_wait: Duration,
    /// Batches with the workers.
    pub batches_in_flight: usize,
    /// Bytes held for what comes in, goes out, and for audio.
    pub incoming_bytes: usize,
    /// See above.
    pub outgoing_bytes: usize,
    /// See above.
    pub audio_bytes: usize,
    /// Bytes that the configuration allows the process to use.
    pub memory_bound_bytes: u64,
    /// Principals and addresses whose use is remembered, and signed requests that were made.
    pub limiters: usize,
    /// How the events for the receiver of webhooks stand; None without one.
    pub webhooks: Option<WebhookFigures>,
    /// What each resource has of its target.
    pub load: Load,
    /// What the server does about it.
    pub rung: Rung,
    /// Streams whose credit is cut.
    pub credit_cut: usize,
    /// Streams at real time that could be taken besides.
    pub streams_remaining: usize,
    /// The part of the host that streams take.
    pub capacity_taken: f64,
    /// What each component holds of the memory, bytes.
    pub memory_held: [(&'static str, u64); 7],
    /// Bytes that the process may use.
    pub memory_max: u64,
    /// Whether newcomers are served.
    pub ready: bool,
    /// Time since the server was made.
    pub uptime: Duration,
    /// As the operating system tells them.
    pub process: ProcessFigures,
}

struct Endpoint {
    count: u64,
    errors: u64,
    latency_us: Hdr<u64>,
}

struct Slow {
    route: Route,
    request_id: String,
    status: u16,
    took: Duration,
    unix_ms: u64,
}

/// All that is counted.
pub struct Metrics {
    /// Numbers that only grow.
    pub counters: Counters,
    endpoints: Vec<Endpoint>,
    added_latency_us: Hdr<u64>,
    statuses: std::collections::BTreeMap<(Route, u16), u64>,
    slow: VecDeque<Slow>,
    slow_request: Duration,
    batch_size: Histogram,
    infer_seconds: Histogram,
    added_seconds: Histogram,
    request_seconds: Histogram,
}

/// A finished request.
pub struct Served<'a> {
    /// Where it went.
    pub route: Route,
    /// Its name.
    pub request_id: &'a str,
    /// The response's status.
    pub status: u16,
    /// From its first byte to the response's last.
    pub took: Duration,
    /// When it ended.
    pub unix_ms: u64,
}

fn latency_histogram() -> Hdr<u64> {
    // Two digits are 1 % and a few KiB; microseconds up to an hour.
    Hdr::new_with_max(LATENCY_MAX.as_micros() as u64, 2).expect("these bounds are valid")
}

/// Buckets in seconds from 0.1 ms to 13 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 18))
}

impl Metrics {
    /// All zero. Requests that take longer than `slow_request` are remembered one by one.
    pub fn new(slow_request: Duration) -> Self {
        let endpoint = || Endpoint { count: 0, errors: 0, latency_us: latency_histogram() };
        Self {
            counters: Counters::default(),
            endpoints: (0..ROUTE_COUNT).map(|_| endpoint()).collect(),
            added_latency_us: latency_histogram(),
            statuses: std::collections::BTreeMap::new(),
            slow: VecDeque::new(),
            slow_request,
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            infer_seconds: seconds(),
            added_seconds: seconds(),
            request_seconds: seconds(),
        }
    }

    /// A request is done.
    pub fn served(&mut self, served: Served<'_>) {
        let endpoint = &mut self.endpoints[served.route.index()];
        endpoint.count += 1;
        endpoint.errors += u64::from(served.status >= 400);
        endpoint.latency_us.saturating_record(served.took.as_micros() as u64);
        *self.statuses.entry((served.route, served.status)).or_default() += 1;
        self.request_seconds.observe(served.took.as_secs_f64());
        if served.took >= self.slow_request {
            if self.slow.len() == SLOW_MAX {
                self.slow.pop_front();
            }
            let request_id = served.request_id.to_owned();
            let Served { route, status, took, unix_ms, .. } = served;
            self.slow.push_back(Slow { route, request_id, status, took, unix_ms });
        }
    }

    /// A batch is home.
    pub fn inferred(&mut self, runs: usize, infer_time: Duration) {
        self.counters.infer_time += infer_time;
        self.batch_size.observe(runs as f64);
        self.infer_seconds.observe(infer_time.as_secs_f64());
    }

    /// A run's results are on their way: the time from its last chunk until now, without the inference itself.
    pub fn answered(&mut self, added: Duration) {
        self.added_latency_us.saturating_record(added.as_micros() as u64);
        self.added_seconds.observe(added.as_secs_f64());
    }

    /// The text that Prometheus reads (OpenMetrics).
    pub fn exposition(&self, gauges: &Gauges) -> String {
        let mut registry = Registry::with_prefix("suzu");
        self.register_counters(&mut registry);
        self.register_audio(&mut registry);
        register_gauges(&mut registry, gauges);
        register_pressure(&mut registry, gauges);
        register_process(&mut registry, &gauges.process);
        register_webhooks(&mut registry, gauges);
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }

    fn register_counters(&self, registry: &mut Registry) {
        let counters = &self.counters;
        let mut count =
            |name: &str, help: &str, value: u64| registry.register(name, help, ConstCounter::new(value));
        count("connections_opened", "Connections taken in", counters.connections_opened);
        count("websockets_opened", "WebSockets opened", counters.websockets_opened);
        count("sessions_began", "Streams begun", counters.sessions_began);
        count("chunks", "Chunks of audio accepted", counters.chunks);
        count("batches", "Batches sent to the workers", counters.batches);
        count("runs", "Runs in those batches", counters.runs);
        count("inference_failures", "Runs whose model failed", counters.failures);
        count("inference_overdue", "Batches over their time limit", counters.overdue);
        count("calls_received", "Requests for inference taken in", counters.calls_received);
        count("calls_answered", "Requests for inference answered", counters.calls_answered);
        count("calls_failed", "Requests for inference that failed or were left", counters.calls_failed);
        count(
            "circuits_opened",
            "Times that newcomers were kept from a failing model",
            counters.circuits_opened,
        );
        count("received_bytes", "Bytes that came in", counters.bytes_in);
        count("sent_bytes", "Bytes that went out", counters.bytes_out);
        count("echoes", "Messages sent back by the echo endpoint", counters.echoes);
        registry.register_with_unit(
            "inference",
            "Time that the workers spent on inference",
            Unit::Seconds,
            ConstCounter::new(counters.infer_time.as_secs_f64()),
        );
        by_reason(registry, "connections_closed", "Connections closed", &counters.connections_closed);
        by_reason(registry, "refusals", "Requests refused", &counters.refusals);
        by_reason(registry, "sessions_ended", "Streams ended", &counters.sessions_ended);
        let statuses = self.statuses.iter();
        let requests = statuses.map(|(&(route, status), &value)| {
            (vec![("route", route.path().to_owned()), ("status", status.to_string())], value)
        });
        let requests = LabelledCounter(requests.collect());
        registry.register("requests", "Requests answered, upgrades included", requests);
    }

    fn register_audio(&self, registry: &mut Registry) {
        let counters = &self.counters;
        let mut count =
            |name: &str, help: &str, value: u64| registry.register(name, help, ConstCounter::new(value));
        count("samples_received", "Samples accepted from clients", counters.samples_received);
        count("samples_processed", "Samples inferred", counters.samples_processed);
        let help = "Samples given up and reported to their client";
        by_reason(registry, "samples_discarded", help, &counters.samples_discarded);
        let audio = ConstCounter::new(counters.audio_received.as_secs_f64());
        registry.register_with_unit("audio_received", "Audio accepted, as time", Unit::Seconds, audio);
        registry.register("batch_size", "Runs in a batch", self.batch_size.clone());
        let (infer, added) = (self.infer_seconds.clone(), self.added_seconds.clone());
        registry.register_with_unit("batch_inference", "Time of a batch in its worker", Unit::Seconds, infer);
        let help = "From a run's last chunk to its results, without the inference itself";
        registry.register_with_unit("added_latency", help, Unit::Seconds, added);
        let help = "From a request's first byte to its response's last";
        registry.register_with_unit("request", help, Unit::Seconds, self.request_seconds.clone());
    }

    /// The figures as JSON: what `/api/metrics` answers.
    pub fn json(&self, gauges: &Gauges) -> Value {
        let counters = &self.counters;
        let routes = ROUTES.iter().map(|(_, route)| *route).chain([Route::Unknown]);
        let endpoints: serde_json::Map<String, Value> = routes
            .filter(|route| self.endpoints[route.index()].count > 0)
            .map(|route| (route.path().to_owned(), endpoint_json(&self.endpoints[route.index()])))
            .collect();
        let slow: Vec<Value> = self.slow.iter().rev().map(slow_json).collect();
        let requests: u64 = self.endpoints.iter().map(|endpoint| endpoint.count).sum();
        let errors: u64 = self.endpoints.iter().map(|endpoint| endpoint.errors).sum();
        json!({
            "uptime_s": gauges.uptime.as_secs_f64(),
            "requests": { "count": requests, "errors": errors },
            "endpoints": endpoints,
            "slow_requests": slow,
            "added_latency": latency_json(&self.added_latency_us),
            "connections": {
                "open": gauges.connections,
                "max": gauges.connections_max,
                "opened": counters.connections_opened,
                "websockets_opened": counters.websockets_opened,
                "closed": reasons_json(&counters.connections_closed),
            },
            "sessions": {
                "open": gauges.sessions,
                "max": gauges.sessions_max,
                "began": counters.sessions_began,
                "ended": reasons_json(&counters.sessions_ended),
            },
            "refusals": reasons_json(&counters.refusals),
            "audio": {
                "samples_received": counters.samples_received,
                "samples_processed": counters.samples_processed,
                "samples_discarded": reasons_json(&counters.samples_discarded),
                "samples_pending": gauges.samples_pending,
                "received_s": counters.audio_received.as_secs_f64(),
            },
            "inference": {
                "batches": counters.batches,
                "runs": counters.runs,
                "failures": counters.failures,
                "overdue": counters.overdue,
                "time_s": counters.infer_time.as_secs_f64(),
                "queued": gauges.queued,
                "queue_wait_ms": gauges.queue_wait.as_secs_f64() * 1000.0,
                "batches_in_flight": gauges.batches_in_flight,
            },
            "streams_remaining": gauges.streams_remaining,
            "capacity_taken": rounded(gauges.capacity_taken),
            "pressure": pressure_json(gauges),
            "webhooks": webhooks_json(gauges),
            "memory": {
                "max_bytes": gauges.memory_max,
                "shares": Value::Object(memory_shares(gauges).map(|(name, share)| (name.to_owned(), json!(share))).collect()),
                "resident_bytes": gauges.process.resident_bytes,
                "bound_bytes": gauges.memory_bound_bytes,
                "incoming_bytes": gauges.incoming_bytes,
                "outgoing_bytes": gauges.outgoing_bytes,
                "audio_bytes": gauges.audio_bytes,
            },
            "process": {
                "descriptors": gauges.process.descriptors,
                "threads": gauges.process.threads,
                "cpu_s": gauges.process.cpu_time.as_secs_f64(),
                "loop_turns": gauges.process.loop_turns,
                "loop_turn_max_ms": gauges.process.loop_turn_max.as_secs_f64() * 1000.0,
                "accept_failures": gauges.process.accept_failures,
            },
        })
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            connections_opened: 0,
            connections_closed: [0; REASONS],
            websockets_opened: 0,
            refusals: [0; REASONS],
            sessions_began: 0,
            sessions_ended: [0; REASONS],
            samples_received: 0,
            samples_processed: 0,
            samples_discarded: [0; REASONS],
            audio_received: Duration::ZERO,
            chunks: 0,
            batches: 0,
            runs: 0,
            failures: 0,
            overdue: 0,
            calls_received: 0,
            calls_answered: 0,
            calls_failed: 0,
            circuits_opened: 0,
            infer_time: Duration::ZERO,
            bytes_in: 0,
            bytes_out: 0,
            echoes: 0,
        }
    }
}

/// A counter by labels, shown in the order in which it was filled. The crate's own `Family` has a random order, and
/// then the same conversation would not give the same bytes.
#[derive(Debug)]
struct LabelledCounter<S>(Vec<(S, u64)>);

impl<S: EncodeLabelSet> EncodeMetric for LabelledCounter<S> {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), std::fmt::Error> {
        for (labels, value) in &self.0 {
            encoder.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// The same for what goes up and down.
#[derive(Debug)]
struct LabelledGauge<S>(Vec<(S, f64)>);

impl<S: EncodeLabelSet> EncodeMetric for LabelledGauge<S> {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), std::fmt::Error> {
        for (labels, value) in &self.0 {
            encoder.encode_family(labels)?.encode_gauge(value)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// What part of `memory_max` each component holds.
fn memory_shares(gauges: &Gauges) -> impl Iterator<Item = (&'static str, f64)> {
    let max = gauges.memory_max.max(1) as f64;
    gauges.memory_held.into_iter().map(move |(name, bytes)| (name, bytes as f64 / max))
}

/// The pressure of each resource, and what the server does about it.
pub fn pressure_json(gauges: &Gauges) -> Value {
    let mut json = json!({ "rung": gauges.rung.label(), "credit_cut": gauges.credit_cut });
    for resource in Resource::ALL {
        json[resource.label()] = json!(rounded(gauges.load.of(resource)));
    }
    json
}

/// A share, to three decimals.
pub fn rounded(share: f64) -> f64 {
    (share * 1000.0).round() / 1000.0
}

fn register_pressure(registry: &mut Registry, gauges: &Gauges) {
    let load = Resource::ALL.map(|resource| ([("resource", resource.label())], gauges.load.of(resource)));
    let help = "What a resource has of its target; the server does something about it from 0.7 on";
    registry.register("pressure", help, LabelledGauge(load.into()));
    let help = "What the server does: 0 nothing, 1 no interim results, 2 refuses newcomers, 3 cuts credit, 4 closes streams";
    registry.register("pressure_rung", help, ConstGauge::new(gauges.rung as u64 as f64));
    let help = "Streams whose credit is cut to their fair share";
    registry.register("streams_cut", help, ConstGauge::new(gauges.credit_cut as f64));
    let help =
        "The part of the host that streams take, as measured, with what newcomers will; 1 is all of it";
    registry.register("capacity_taken", help, ConstGauge::new(gauges.capacity_taken));
    let help = "Streams at real time that could be taken besides, by places and by what is measured";
    registry.register("streams_remaining", help, ConstGauge::new(gauges.streams_remaining as f64));
    let shares = memory_shares(gauges).map(|(name, share)| ([("component", name)], share));
    registry.register("memory_share", "What part of memory_max is held", LabelledGauge(shares.collect()));
    registry.register("memory_max_bytes", "Memory allowed", ConstGauge::new(gauges.memory_max as f64));
}

fn by_reason(registry: &mut Registry, name: &str, help: &str, counts: &[u64; REASONS]) {
    let present = Reason::all().filter(|reason| counts[*reason as usize] > 0);
    let family = present.map(|reason| ([("reason", reason.label())], counts[reason as usize]));
    registry.register(name, help, LabelledCounter(family.collect()));
}

fn register_gauges(registry: &mut Registry, gauges: &Gauges) {
    let mut gauge =
        |name: &str, help: &str, value: f64| registry.register(name, help, ConstGauge::new(value));
    gauge("connections", "Open connections", gauges.connections as f64);
    gauge("connections_max", "Connections allowed", gauges.connections_max as f64);
    gauge("sessions", "Open streams", gauges.sessions as f64);
    gauge("sessions_max", "Streams allowed", gauges.sessions_max as f64);
    gauge("samples_pending", "Samples neither processed nor discarded", gauges.samples_pending as f64);
    gauge("queue_length", "Streams that wait for a batch", gauges.queued as f64);
    gauge("queue_wait_seconds", "How long the first of them has waited", gauges.queue_wait.as_secs_f64());
    gauge("batches_in_flight", "Batches with the workers", gauges.batches_in_flight as f64);
    gauge("incoming_bytes", "Bytes held of what came in", gauges.incoming_bytes as f64);
    gauge("outgoing_bytes", "Bytes held of what goes out", gauges.outgoing_bytes as f64);
    gauge("audio_bytes", "Bytes held of audio", gauges.audio_bytes as f64);
    gauge(
        "limiters",
        "Principals, addresses and signed requests that are remembered",
        gauges.limiters as f64,
    );
    gauge("memory_bound_bytes", "Memory that the configuration allows", gauges.memory_bound_bytes as f64);
    gauge("ready", "1 if newcomers are served", f64::from(u8::from(gauges.ready)));
    gauge("uptime_seconds", "Time since the server began", gauges.uptime.as_secs_f64());
}

fn register_process(registry: &mut Registry, process: &ProcessFigures) {
    let mut gauge =
        |name: &str, help: &str, value: f64| registry.register(name, help, ConstGauge::new(value));
    gauge("process_resident_bytes", "Resident memory", process.resident_bytes as f64);
    gauge("process_descriptors", "Open descriptors", process.descriptors as f64);
    gauge("process_threads", "Threads", process.threads as f64);
    gauge("loop_turn_max_seconds", "Longest turn of late", process.loop_turn_max.as_secs_f64());
    let cpu = ConstCounter::new(process.cpu_time.as_secs_f64());
    registry.register_with_unit("process_cpu", "CPU time used", Unit::Seconds, cpu);
    registry.register("loop_turns", "Turns of the poll loop", ConstCounter::new(process.loop_turns));
    let help = "Times that accepting failed for lack of descriptors";
    registry.register("accept_failures", help, ConstCounter::new(process.accept_failures));
    let help = "Handshakes of TLS that were done";
    registry.register("tls_handshakes", help, ConstCounter::new(process.tls_handshakes));
    let help = "Handshakes of TLS that failed";
    registry.register("tls_handshakes_failed", help, ConstCounter::new(process.tls_handshakes_failed));
    let help = "Connections of proxies whose header was wrong or late";
    registry.register("proxy_headers_refused", help, ConstCounter::new(process.proxy_headers_refused));
}

fn register_webhooks(registry: &mut Registry, gauges: &Gauges) {
    let Some(webhooks) = &gauges.webhooks else { return };
    let mut count =
        |name: &str, help: &str, value: u64| registry.register(name, help, ConstCounter::new(value));
    count("webhook_events_made", "Events made for the receiver of webhooks", webhooks.made);
    count("webhook_attempts", "Attempts to deliver an event", webhooks.attempts);
    count("webhook_attempts_failed", "Those that failed", webhooks.failed);
    count("webhook_crowded_out", "Dead letters for lack of room", webhooks.crowded_out);
    let process = &gauges.process;
    count("webhook_dead_letters_written", "Dead letters in their file", process.dead_letters_written);
    let help = "Dead letters that their file had no room for, or that could not be written";
    count("webhook_dead_letters_lost", help, process.dead_letters_lost);
    let outcomes = [("delivered", webhooks.delivered), ("dead", webhooks.dead)];
    let outcomes = outcomes.map(|(outcome, count)| ([("outcome", outcome)], count));
    let help = "Events that the receiver took, and those that became dead letters";
    registry.register("webhook_events", help, LabelledCounter(outcomes.into()));
    let mut gauge =
        |name: &str, help: &str, value: usize| registry.register(name, help, ConstGauge::new(value as f64));
    gauge("webhook_pending", "Events that wait or are on their way", webhooks.pending);
    gauge("webhook_bytes", "What these hold", webhooks.bytes);
}

/// The events for the receiver of webhooks: null without one.
pub fn webhooks_json(gauges: &Gauges) -> Value {
    let Some(webhooks) = &gauges.webhooks else { return Value::Null };
    json!({
        "made": webhooks.made,
        "delivered": webhooks.delivered,
        "dead": webhooks.dead,
        "crowded_out": webhooks.crowded_out,
        "pending": webhooks.pending,
        "bytes": webhooks.bytes,
        "attempts": webhooks.attempts,
        "attempts_failed": webhooks.failed,
        "dead_letters_written": gauges.process.dead_letters_written,
        "dead_letters_lost": gauges.process.dead_letters_lost,
    })
}

fn reasons_json(counts: &[u64; REASONS]) -> Value {
    let present = Reason::all().filter(|reason| counts[*reason as usize] > 0);
    let map = present.map(|reason| (reason.label().to_owned(), json!(counts[reason as usize])));
    Value::Object(map.collect())
}

fn latency_json(histogram: &Hdr<u64>) -> Value {
    let ms = |us: u64| us as f64 / 1000.0;
    json!({
        "count": histogram.len(),
        "min_ms": ms(histogram.min()),
        "mean_ms": if histogram.is_empty() { 0.0 } else { histogram.mean() / 1000.0 },
        "p50_ms": ms(histogram.value_at_quantile(0.5)),
        "p90_ms": ms(histogram.value_at_quantile(0.9)),
        "p95_ms": ms(histogram.value_at_quantile(0.95)),
        "p99_ms": ms(histogram.value_at_quantile(0.99)),
        "max_ms": ms(histogram.max()),
    })
}

fn endpoint_json(endpoint: &Endpoint) -> Value {
    let mut value = latency_json(&endpoint.latency_us);
    value["count"] = json!(endpoint.count);
    value["errors"] = json!(endpoint.errors);
    value
}

fn slow_json(slow: &Slow) -> Value {
    json!({
        "route": slow.route.path(),
        "request_id": slow.request_id,
        "status": slow.status,
        "took_ms": slow.took.as_secs_f64() * 1000.0,
        "unix_ms": slow.unix_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(route: Route, status: u16, ms: u64) -> Served<'static> {
        Served { route, request_id: "r", status, took: Duration::from_millis(ms), unix_ms: 1 }
    }

    #[test]
    fn both_views_tell_the_same_figures() {
        let mut metrics = Metrics::new(Duration::from_millis(200));
        metrics.served(served(Route::Live, 200, 1));
        metrics.served(served(Route::Unknown, 404, 300));
        metrics.counters.samples_discarded[Reason::Draining as usize] = 7;
        let gauges = Gauges { ready: true, ..Gauges::default() };
        let json = metrics.json(&gauges);
        assert_eq!(json["requests"], json!({"count": 2, "errors": 1}));
        assert_eq!(json["endpoints"]["/health/live"]["count"], 1);
        assert_eq!(json["slow_requests"].as_array().unwrap().len(), 1);
        assert_eq!(json["audio"]["samples_discarded"]["draining"], 7);
        let text = metrics.exposition(&gauges);
        assert!(text.contains("suzu_requests_total{route=\"/health/live\",status=\"200\"} 1"), "{text}");
        assert!(text.contains("suzu_samples_discarded_total{reason=\"draining\"} 7"), "{text}");
        assert!(text.contains("suzu_ready 1"), "{text}");
    }

    #[test]
    fn slow_requests_are_remembered_up_to_a_limit() {
        let mut metrics = Metrics::new(Duration::from_millis(200));
        for ms in 0..1000 {
            metrics.served(served(Route::Live, 200, ms));
        }
        let json = metrics.json(&Gauges::default());
        let slow = json["slow_requests"].as_array().unwrap();
        assert_eq!(slow.len(), SLOW_MAX);
        assert_eq!(slow[0]["took_ms"], 999.0);
    }
}
