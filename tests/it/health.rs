//! Health and figures, also while every worker is busy.

use crate::answer::{get, metric, request, upgrade_request};
use crate::stream_client::{StreamClient, tone_ms};
use crate::support::{Client, PING, PONG, TestServer, await_that, config};
use crate::test_models::start_gated;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;
use suzu::config::Config;
use suzu::model::Registry;

#[test]
fn health_tells_status_timestamp_and_uptime() {
    let server = TestServer::start();
    for target in ["/api/health", "/health/live", "/health/ready"] {
        let answer = get(server.addr, target);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        let health = answer.json();
        let fields: Vec<_> = health.as_object().unwrap().keys().cloned().collect();
        assert_eq!(fields, ["status", "timestamp", "uptime"], "{target}");
        assert_eq!(health["status"], "ok");
        assert!(health["timestamp"].as_u64().unwrap() > 1_500_000_000_000, "{health}");
        assert!((0.0..1000.0).contains(&health["uptime"].as_f64().unwrap()), "{health}");
    }
}

#[test]
fn a_full_server_is_alive_but_not_ready() {
    let server = TestServer::start_with(Config { sessions_max: 1, ..config() }, Registry::builtin());
    let stream = StreamClient::open(server.addr, "/v1/stream?model=echo");
    let answer = get(server.addr, "/health/ready");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")));
    assert_eq!(answer.json()["status"], "overloaded");
    assert_eq!(get(server.addr, "/health/live").status, 200);
    let status = get(server.addr, "/v1/status").json();
    assert_eq!((&status["ready"], &status["streams"]["remaining"]), (&Value::Bool(false), &0.into()));
    stream.finish();
    assert_eq!(get(server.addr, "/health/ready").status, 200);
}

#[test]
fn a_draining_server_is_not_ready_and_takes_no_stream() {
    let server = TestServer::start();
    // A request that is half there keeps its connection through the drain.
    let ask = |bytes: &str| {
        let mut client = Client::connect(server.addr);
        client.send(bytes.replacen("\r\n\r\n", "\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n", 1));
        assert_eq!(client.read_until("\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
        client
    };
    let mut ready = ask(&request("GET", "/health/ready", ""));
    let mut live = ask(&request("GET", "/health/live", ""));
    let mut stream = Client::connect(server.addr);
    let upgrade = upgrade_request("/v1/stream", "");
    stream.send(&upgrade[..50]);
    metric(server.addr, "suzu_ready");
    server.handle.drain();
    await_that("nobody new is let in", || {
        std::net::TcpStream::connect_timeout(&server.addr, Duration::from_secs(1)).is_err()
    });
    ready.send("x");
    let answer = ready.answer();
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    assert_eq!(answer.json()["status"], "draining");
    live.send("x");
    assert_eq!(live.answer().status, 200);
    stream.send(&upgrade[50..]);
    let answer = stream.answer();
    assert_eq!((answer.status, answer.error()["code"].as_str()), (503, Some("draining")));
    assert!(answer.header("retry-after").is_some());
    server.join();
}

#[test]
fn control_traffic_is_answered_while_every_worker_is_busy() {
    let (server, gate) = start_gated(Config { workers: 2, batch_max: 1, ..config() });
    let mut streams: Vec<_> =
        (0..8).map(|_| StreamClient::open(server.addr, "/v1/stream?model=gated")).collect();
    for stream in &mut streams {
        stream.audio(&tone_ms(100));
    }
    gate.await_begun();
    gate.await_begun();
    // No result can come before the gate opens, so whatever is answered here came before it.
    for target in ["/health/live", "/health/ready", "/api/health", "/metrics", "/api/metrics", "/v1/models"] {
        assert_eq!(get(server.addr, target).status, 200, "{target}");
    }
    for stream in &mut streams {
        stream.round_trip();
        stream.client.send_message(PING, b"now");
        assert_eq!(stream.client.read_message(), (PONG, b"now".to_vec()));
        assert_eq!(stream.so_far().all("Results").count(), 0);
    }
    Client::websocket(server.addr, "/v1/echo").echo(b"not held up");
    let newcomer = StreamClient::open(server.addr, "/v1/stream?model=gated");
    assert_eq!(metric(server.addr, "suzu_queue_length"), 4.0, "four wait, four are with the workers");
    assert_eq!(metric(server.addr, "suzu_samples_pending"), 8.0 * 1600.0);
    drop(gate);
    for stream in streams {
        assert_eq!(stream.finish().termination()["processed_ms"], 100);
    }
    newcomer.finish();
}

/// One sample of the text: name, labels, value.
type Sample = (String, String, f64);

/// Reads OpenMetrics strictly: every sample belongs to the family announced above it, none comes twice.
fn open_metrics(text: &str) -> Vec<Sample> {
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    let (mut samples, mut seen, mut families) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let (mut family, mut kind) = (String::new(), String::new());
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            match what {
                "HELP" => {
                    assert!(families.insert(name.to_owned()), "{name} is announced twice");
                    assert!(rest.len() > 5 && !rest.ends_with(".."), "{line}");
                    family = name.to_owned();
                }
                "TYPE" => {
                    assert!(["counter", "gauge", "histogram"].contains(&rest), "{line}");
                    kind = rest.to_owned();
                }
                "UNIT" => assert!(name.ends_with(rest), "{line}"),
                _ => panic!("{line}"),
            }
            assert_eq!(name, family, "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(seen.insert(series.to_owned()), "{series} comes twice");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("{name} stands under {family}"));
        let suffixes: &[&str] = match &*kind {
            "counter" => &["_total"],
            "gauge" => &[""],
            _ => &["_bucket", "_sum", "_count"],
        };
        assert!(suffixes.contains(&suffix), "{line} is no {kind}");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(value.is_finite() && (kind != "counter" || value >= 0.0), "{line}");
        samples.push((name.to_owned(), labels.to_owned(), value));
    }
    samples
}

/// `received = processed + discarded + pending`, all reasons together.
fn assert_balance(samples: &[Sample]) -> (f64, f64) {
    let sum = |wanted: &str| -> f64 {
        samples.iter().filter(|(name, ..)| name == wanted).map(|(_, _, value)| value).sum()
    };
    let received = sum("suzu_samples_received_total");
    let pending = sum("suzu_samples_pending");
    let ended = sum("suzu_samples_processed_total") + sum("suzu_samples_discarded_total");
    assert_eq!(received, ended + pending, "every sample is somewhere");
    (received, pending)
}

#[test]
fn the_metrics_are_open_metrics_and_balance() {
    let (server, gate) = start_gated(config());
    let exposition = || {
        let answer = get(server.addr, "/metrics");
        let kind = answer.header("content-type").unwrap().to_owned();
        assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
        open_metrics(answer.text())
    };
    assert_eq!(assert_balance(&exposition()), (0.0, 0.0));

    let mut held = StreamClient::open(server.addr, "/v1/stream?model=gated&overflow=discard_oldest");
    held.audio(&tone_ms(100));
    gate.await_begun();
    held.audio(&tone_ms(3_950));
    held.audio(&tone_ms(200));
    held.round_trip();
    StreamClient::open(server.addr, "/v1/stream?model=vad").finish();
    let mut cut = StreamClient::open(server.addr, "/audio?model=vad");
    cut.audio(&tone_ms(330));
    cut.round_trip();
    drop(cut);
    get(server.addr, "/nowhere");
    let (received, pending) = assert_balance(&exposition());
    assert_eq!(received, 16.0 * (4_250.0 + 330.0));
    assert!(pending > 16.0 * 3_000.0, "{pending}");

    drop(gate);
    held.finish();
    await_that("the stream that was cut off has ended", || metric(server.addr, "suzu_sessions") == 0.0);
    let samples = exposition();
    assert_eq!(assert_balance(&samples), (received, 0.0));
    let began = samples.iter().find(|(name, ..)| name == "suzu_sessions_began_total").unwrap().2;
    let ended: f64 = samples
        .iter()
        .filter(|(name, ..)| name == "suzu_sessions_ended_total")
        .map(|(.., value)| value)
        .sum();
    assert_eq!((began, ended), (3.0, 3.0));
    let not_found = samples.iter().find(|(name, labels, _)| {
        name == "suzu_requests_total" && labels.contains("other") && labels.contains("404")
    });
    assert_eq!(not_found.map(|(.., value)| *value), Some(1.0));
}

#[test]
fn the_json_figures_tell_each_endpoints_latencies() {
    let server =
        TestServer::start_with(Config { slow_request: Duration::ZERO, ..config() }, Registry::builtin());
    let mut client = Client::connect(server.addr);
    for _ in 0..5 {
        client.ask("GET", "/health/live", "X-Request-Id: slow-one\r\n");
    }
    client.ask("GET", "/nowhere", "");
    let figures = client.ask("GET", "/api/metrics", "").json();
    let live = &figures["endpoints"]["/health/live"];
    assert_eq!((&live["count"], &live["errors"]), (&5.into(), &0.into()), "{figures:#}");
    assert_eq!(figures["endpoints"]["other"]["errors"], 1);
    assert_eq!((&figures["requests"]["count"], &figures["requests"]["errors"]), (&6.into(), &1.into()));
    let latency = if live["latency"].is_object() { &live["latency"] } else { live };
    let ms = |name: &str| latency[name].as_f64().unwrap_or_else(|| panic!("no {name} in {live:#}"));
    let rising = ["min_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms"].map(ms);
    assert!(rising.windows(2).all(|pair| pair[0] <= pair[1]), "{rising:?}");
    assert!((rising[0]..=rising[5]).contains(&ms("mean_ms")), "{live:#}");
    let slow = figures["slow_requests"].as_array().unwrap();
    assert!(slow.iter().any(|request| request["request_id"] == "slow-one"), "{figures:#}");
    assert_eq!(figures["connections"]["open"], 1);
    await_that("the process has been looked at", || {
        let figures = get(server.addr, "/api/metrics").json();
        figures["memory"]["resident_bytes"].as_f64().unwrap() > 1e6
            && figures["process"]["descriptors"].as_u64().unwrap() > 5
    });
}

#[test]
fn models_are_listed_with_what_they_take_and_give() {
    let server = TestServer::start();
    let models = get(server.addr, "/v1/models").json();
    let names: Vec<_> = models["models"].as_array().unwrap().iter().map(|model| &model["name"]).collect();
    assert_eq!(names, ["denoise", "echo", "vad"]);
    let default: Vec<_> =
        models["models"].as_array().unwrap().iter().filter(|model| model["default"] == true).collect();
    assert_eq!(default.len(), 1);
    assert_eq!(default[0]["sample_rate_hz"], 16_000);
}
