//! A server that cannot keep up, over real sockets: who is refused, who is told, and that it is over when it is over.

use crate::answer::{get, metric, request_with, upgrade_request};
use crate::stream_client::{StreamClient, tone, tone_ms};
use crate::support::{Client, TEXT, TestServer, await_that, config};
use crate::test_models::{Gate, start_gated};
use serde_json::{Value, json};
use std::time::Duration;
use suzu::config::Config;
use suzu::model::Registry;
use suzu::wire::message::Encoding;

/// Streams that say so when there are no interim results.
const TARGET: &str = "/v1/stream?model=gated&interim_results=true&sample_rate=48000&encoding=f32le";

fn pressure(server: &TestServer, resource: &str) -> f64 {
    metric(server.addr, &format!("suzu_pressure{{resource=\"{resource}\"}}"))
}

/// A server whose only worker stands at a gate, and whose streams fill the room for audio until it refuses newcomers.
fn overloaded() -> (TestServer, Gate, Vec<StreamClient>) {
    let config = Config {
        audio_bytes_total_max: 1 << 20,
        message_bytes_max: 64 << 10,
        retry_after: Duration::from_secs(7),
        ..config()
    };
    let (server, gate) = start_gated(config);
    let mut streams: Vec<_> = (0..4).map(|_| StreamClient::open(server.addr, TARGET)).collect();
    let chunk = tone(Encoding::F32le, 512, 48_000);
    streams[0].audio(&chunk);
    gate.await_begun();
    // Buffers double: half of the room, a quarter, and then in small steps, so that no rung is jumped over.
    for (stream, chunks) in [(1, 140), (2, 70)] {
        (0..chunks).for_each(|_| streams[stream].audio(&chunk));
        streams[stream].round_trip();
    }
    while pressure(&server, "memory") < 0.8 {
        streams[3].audio(&chunk);
        streams[3].round_trip();
    }
    assert!(pressure(&server, "memory") < 0.9);
    (server, gate, streams)
}

#[test]
fn newcomers_are_refused_with_retry_after_and_health_is_served() {
    let (server, gate, streams) = overloaded();
    let mut refused = Client::connect(server.addr);
    refused.send(upgrade_request("/v1/stream?model=echo", ""));
    let answer = refused.answer();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("7")));
    assert_eq!(answer.error()["code"], "overloaded");
    for target in ["/health/live", "/api/health", "/metrics", "/api/metrics", "/v1/status"] {
        assert_eq!(get(server.addr, target).status, 200, "{target}");
    }
    assert_eq!(
        (get(server.addr, "/health/ready").status, metric(server.addr, "suzu_pressure_rung")),
        (503, 2.0)
    );
    assert_eq!(metric(server.addr, "suzu_streams_remaining"), 0.0);
    drop(streams);
    drop(gate);
    await_that("all is normal again", || metric(server.addr, "suzu_pressure_rung") == 0.0);
    assert_eq!(get(server.addr, "/health/ready").status, 200);
    assert_eq!(StreamClient::open(server.addr, "/v1/stream?model=echo").finish().close, 1000);
}

#[test]
fn requests_for_inference_and_recordings_are_refused_with_retry_after_too() {
    let (server, gate, _streams) = overloaded();
    let infer = r#"{"inputs":[{"name":"audio","shape":[1,1],"datatype":"FP32","data":[0]}]}"#;
    let recording = "\0".repeat(3_200);
    let raw = "Content-Type: application/octet-stream\r\n";
    for (target, extra, body) in [
        ("/v2/models/gated/infer", "", infer),
        ("/v1/models/vad", raw, &recording),
        ("/v1/models/gated", raw, ""),
    ] {
        let mut client = Client::connect(server.addr);
        client.send(request_with("POST", target, extra, body));
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("7")), "{target}: {answer:?}");
        // The Open Inference Protocol has words and no codes.
        assert!(target.starts_with("/v2/") || answer.error()["code"] == "overloaded", "{target}: {answer:?}");
    }
    assert_eq!(metric(server.addr, "suzu_calls_received_total"), 0.0);
    drop(gate);
    await_that("all is normal again", || metric(server.addr, "suzu_pressure_rung") == 0.0);
    let mut client = Client::connect(server.addr);
    client.send(request_with("POST", "/v1/models/vad", raw, &recording));
    assert_eq!(client.answer_head().status, 200);
}

#[test]
fn a_page_is_told_by_a_close() {
    let (server, gate, _streams) = overloaded();
    let mut browser = Client::websocket(server.addr, "/v1/stream?browser_errors=1&model=echo");
    let (opcode, text) = browser.read_message();
    let error: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        (opcode, &error["code"], &error["retry_after_ms"]),
        (TEXT, &json!("overloaded"), &json!(7000))
    );
    assert_eq!(browser.read_message().1[..2], 1013_u16.to_be_bytes());
    drop(gate);
}

#[test]
fn who_wants_interim_results_is_told_once_that_there_are_none() {
    let (_server, gate, mut streams) = overloaded();
    let warning = streams[0].await_message("Warning");
    assert_eq!(warning["code"], "interim_results_suppressed");
    drop(gate);
    for stream in streams {
        let story = stream.finish();
        assert_eq!(story.all("Warning").count(), 1, "{story:?}");
        assert_eq!(story.termination()["reason"], "finished");
    }
}

#[test]
fn under_lasting_overload_streams_are_closed_one_by_one_with_their_balance() {
    let (server, gate) = start_gated(Config { queue_wait_target: Duration::from_millis(100), ..config() });
    let open = || StreamClient::open(server.addr, "/v1/stream?model=gated");
    let (mut first, mut second, third) = (open(), open(), open());
    first.audio(&tone_ms(100));
    gate.await_begun();
    second.audio(&tone_ms(100));
    // Nobody takes the run of the second, so it waits longer than may be; and it holds more than its fair share.
    let story = second.rest();
    assert_eq!((story.errors(), story.close), (vec!["overloaded"], 1013));
    let end = story.termination();
    assert_eq!((&end["reason"], &end["discarded_ms"]), (&json!("overloaded"), &json!(100)));
    drop(gate);
    await_that("all is normal again", || get(server.addr, "/health/ready").status == 200);
    assert_eq!((first.finish().close, third.finish().close), (1000, 1000));
}

#[test]
fn those_who_send_as_fast_as_they_can_are_held_back_and_not_closed() {
    const STREAMS: usize = 8;
    const SECONDS: usize = 60;
    // Together they would hold twice what there is room for.
    let config = Config { audio_bytes_total_max: 1 << 20, message_bytes_max: 64 << 10, ..config() };
    let server = TestServer::start_with(config, Registry::builtin());
    // All are inside before the room is full, for newcomers are refused then.
    let open = |_| StreamClient::open(server.addr, "/v1/stream?model=vad");
    let streams: Vec<_> = (0..STREAMS).map(open).collect();
    let streams = streams.into_iter().map(|mut stream| {
        std::thread::spawn(move || {
            (0..SECONDS * 4).for_each(|_| stream.audio(&tone_ms(250)));
            stream.finish()
        })
    });
    for stream in streams.collect::<Vec<_>>() {
        let story = stream.join().unwrap();
        assert_eq!((story.errors(), story.close), (Vec::new(), 1000));
        assert_eq!(story.termination()["processed_ms"], json!(SECONDS * 1000));
    }
}

#[test]
fn status_tells_the_pressure_and_what_room_there_is() {
    let server = TestServer::start();
    let status = |addr| -> Value { serde_json::from_slice(&get(addr, "/v1/status").body).unwrap() };
    let before = status(server.addr);
    assert_eq!(before["pressure"]["rung"], "normal");
    assert_eq!(before["streams_remaining"], before["streams"]["remaining"], "nothing has been learnt yet");
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=denoise");
    stream.audio(&tone_ms(1000));
    stream.await_message("Results");
    let after = status(server.addr);
    assert!(after["streams_remaining"].as_u64().unwrap() > 0, "{after}");
    assert_eq!(stream.finish().close, 1000);
    let shares = ["resident", "audio", "incoming", "outgoing", "calls", "spare_buffers"];
    for component in shares {
        let share = metric(server.addr, &format!("suzu_memory_share{{component=\"{component}\"}}"));
        assert!((0.0..1.0).contains(&share), "{component}: {share}");
    }
}
