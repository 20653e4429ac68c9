//! What goes wrong with a stream: parameters, messages, models. Each is told by name, and no other stream notices.

use crate::answer::{metric, upgrade_request};
use crate::stream_client::{StreamClient, level_ms, tone_ms};
use crate::support::{CLOSE, Client, TEXT, TestServer, config, frame};
use crate::test_models::{Touchy, models_with, start_gated};
use serde_json::{Value, json};
use std::time::Duration;
use suzu::config::Config;

/// A stream beside the others, of which every sample must come back as if it were alone.
struct Bystander {
    stream: StreamClient,
    chunks: usize,
}

impl Bystander {
    fn new(server: &TestServer) -> Self {
        Self { stream: StreamClient::open(server.addr, "/v1/stream?model=echo"), chunks: 0 }
    }

    /// A chunk goes in and its result comes out.
    fn is_served(&mut self) {
        self.stream.audio(&tone_ms(100));
        let result = self.stream.await_message("Results");
        assert_eq!(result["start_ms"], self.chunks * 100);
        self.chunks += 1;
    }

    fn saw_nothing(self) {
        let chunks = self.chunks;
        let story = self.stream.finish();
        assert_eq!((story.errors(), story.close), (vec![], 1000));
        assert_eq!(story.termination()["processed_ms"], chunks * 100);
        let checksums = story.tensor("checksum");
        let (first, rest) = checksums.split_at(5);
        assert!(rest.chunks(5).all(|five| five == first), "the same audio has the same checksums");
    }
}

#[test]
fn every_wrong_parameter_is_refused_by_name_before_the_upgrade() {
    let server = TestServer::start();
    let mut bystander = Bystander::new(&server);
    let mut client = Client::connect(server.addr);
    for (query, param, status, code) in [
        ("model=vda", "model", 404, "model_not_found"),
        ("model=", "model", 400, "invalid_value"),
        ("encoding=opus", "encoding", 400, "invalid_audio_format"),
        ("sample_rate=7999", "sample_rate", 400, "invalid_audio_format"),
        ("sample_rate=48001", "sample_rate", 400, "invalid_audio_format"),
        ("sample_rate=16k", "sample_rate", 400, "invalid_audio_format"),
        ("channels=0", "channels", 400, "invalid_audio_format"),
        ("channels=9", "channels", 400, "invalid_audio_format"),
        ("interim_results=maybe", "interim_results", 400, "invalid_value"),
        ("framing=none", "framing", 400, "invalid_value"),
        ("overflow=explode", "overflow", 400, "invalid_value"),
        ("ack_interval_ms=1", "ack_interval_ms", 400, "invalid_value"),
        ("deadline_ms=0", "deadline_ms", 400, "invalid_value"),
        ("timing=please", "timing", 400, "invalid_value"),
        ("last_message=-1", "last_message", 400, "invalid_value"),
        ("browser_errors=perhaps", "browser_errors", 400, "invalid_value"),
        ("tag=%00", "tag", 400, "invalid_value"),
        ("sampel_rate=8000", "sampel_rate", 400, "invalid_value"),
        ("channels=1&channels=1", "channels", 400, "invalid_value"),
    ] {
        for path in ["/v1/stream", "/audio"] {
            client.send(upgrade_request(&format!("{path}?{query}"), ""));
            let answer = client.answer();
            let error = answer.error();
            assert_eq!(
                (answer.status, &error["code"], &error["param"]),
                (status, &json!(code), &json!(param))
            );
            assert_eq!(error["request_id"].as_str(), answer.header("x-request-id"), "{query}");
            assert!(error["message"].as_str().unwrap().contains(param), "{error}");
        }
    }
    bystander.is_served();
    bystander.saw_nothing();
    let refused = metric(server.addr, "suzu_refusals_total{reason=\"invalid_audio_format\"}");
    assert_eq!(refused, 12.0);
}

#[test]
fn a_client_id_that_cannot_be_a_tag_is_refused_by_name() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    let long = format!("X-Client-ID: {}\r\n", "long ".repeat(1000));
    client.send(upgrade_request("/audio", &long));
    let answer = client.answer();
    assert_eq!((answer.status, answer.error()["param"].as_str()), (400, Some("X-Client-ID")));
    assert!(answer.text().len() < 500, "and is not repeated at length: {}", answer.text());
    let stream = StreamClient::open_with(server.addr, "/audio", "X-Client-ID:\r\n");
    assert_eq!(stream.begin["configuration"]["tag"], Value::Null);
}

#[test]
fn browsers_are_told_after_the_upgrade() {
    let server = TestServer::start();
    for (query, code, close) in [
        ("model=nothing", "model_not_found", 4404),
        ("encoding=opus", "invalid_audio_format", 4415),
        ("overflow=x", "invalid_value", 4400),
    ] {
        let mut client = Client::websocket(server.addr, &format!("/v1/stream?{query}&browser_errors=1"));
        let (opcode, text) = client.read_message();
        let error: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((opcode, &error["type"], &error["code"]), (TEXT, &json!("Error"), &json!(code)));
        assert_eq!((&error["fatal"], &error["retryable"]), (&json!(true), &json!(false)));
        let (opcode, payload) = client.read_message();
        assert_eq!((opcode, u16::from_be_bytes([payload[0], payload[1]])), (CLOSE, close));
        client.send(frame(CLOSE, &payload[..2]));
        assert!(client.read_to_end().is_empty());
    }
}

#[test]
fn a_wrong_message_is_named_and_the_stream_goes_on() {
    let server = TestServer::start();
    let mut bystander = Bystander::new(&server);
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=echo");
    let request_id = stream.begin["request_id"].clone();
    for (text, code, param) in [
        ("", "invalid_payload", Value::Null),
        ("{", "invalid_payload", Value::Null),
        ("[1]", "invalid_payload", Value::Null),
        (r#"{"type":"KeepAlive"} {}"#, "invalid_payload", Value::Null),
        (r#"{"type":"Finalise"}"#, "unknown_event", json!("type")),
        (r#"{"kind":"Finalize"}"#, "unknown_event", json!("type")),
        (r#"{"type":"Finalize","name":"x"}"#, "invalid_value", json!("name")),
        (r#"{"type":"Ping"}"#, "invalid_value", json!("t")),
        (r#"{"type":"Discarded","start_ms":0,"duration_ms":-1}"#, "invalid_value", json!("duration_ms")),
    ] {
        stream.client.send_message(TEXT, text.as_bytes());
        let error = stream.await_message("Error");
        assert_eq!(
            (&error["code"], error.get("param").unwrap_or(&Value::Null)),
            (&json!(code), &param),
            "{text}"
        );
        assert_eq!((&error["fatal"], &error["request_id"]), (&json!(false), &request_id));
    }
    stream.client.send_message(TEXT, "[".repeat(50_000).as_bytes());
    assert_eq!(stream.await_message("Error")["code"], "invalid_payload", "nested beyond reason");
    bystander.is_served();
    stream.audio(&tone_ms(100));
    let story = stream.finish();
    assert_eq!((story.close, &story.termination()["processed_ms"]), (1000, &json!(100)));
    bystander.saw_nothing();
}

#[test]
fn too_many_wrong_messages_end_the_stream_with_what_it_is_owed() {
    let server = TestServer::start();
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=echo");
    stream.audio(&tone_ms(100));
    for _ in 0..16 {
        stream.client.send_message(TEXT, b"nonsense");
    }
    let story = stream.rest();
    assert_eq!((story.errors().len(), story.close), (16, 4400));
    let fatal: Vec<_> = story.all("Error").filter(|error| error["fatal"] == true).collect();
    assert_eq!(fatal.len(), 1);
    assert_eq!(story.termination()["processed_ms"], 100);
}

#[test]
fn too_many_finalizes_at_once_are_refused_and_the_others_answered() {
    let (server, gate) = start_gated(config());
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=gated");
    stream.audio(&tone_ms(100));
    gate.await_begun();
    for id in 0..17 {
        stream.say(json!({"type": "Finalize", "id": id.to_string()}));
    }
    assert_eq!(stream.await_message("Error")["code"], "invalid_state");
    drop(gate);
    let story = stream.finish();
    let ids: Vec<_> = story.all("Results").filter_map(|result| result["finalize_id"].as_str()).collect();
    assert_eq!(ids, (0..16).map(|id| id.to_string()).collect::<Vec<_>>());
    story.termination();
}

#[test]
fn nothing_more_can_be_asked_of_a_stream_that_ends() {
    let (server, gate) = start_gated(config());
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=gated");
    stream.audio(&tone_ms(100));
    gate.await_begun();
    stream.say(json!({"type": "CloseStream"}));
    stream.audio(&tone_ms(100));
    stream.say(json!({"type": "Finalize"}));
    assert_eq!(stream.await_message("Error")["code"], "invalid_state");
    drop(gate);
    let story = stream.rest();
    assert_eq!((&story.termination()["audio_received_ms"], story.close), (&json!(100), 1000));
}

#[test]
fn a_message_larger_than_the_credit_ends_the_stream_with_1009() {
    let server = TestServer::start();
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=echo");
    let most = stream.begin["limits"]["max_frame_bytes"].as_u64().unwrap() as usize;
    assert_eq!(most, 4 * 32_000 + 16);
    stream.audio(&vec![0; most - 16]);
    stream.client.send(&frame(2, &vec![0; most + 2])[..14]);
    let story = stream.rest();
    assert_eq!((story.close, &story.termination()["processed_ms"]), (1009, &json!(4000)));
}

#[test]
fn a_model_that_panics_costs_its_audio_and_the_stream_goes_on() {
    let server = TestServer::start_with(config(), models_with(Touchy::new()));
    let mut bystander = Bystander::new(&server);
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=touchy");
    let mut start = 0;
    // It panics, gives NaN, gives too few rows; in between all is well.
    for bad in [0.95, 0.85, 0.75, 0.95] {
        stream.audio(&level_ms(0.5, 100));
        assert_eq!(stream.await_message("Results")["start_ms"], start);
        stream.audio(&level_ms(bad, 100));
        let discarded = stream.await_message("Discarded");
        assert_eq!((&discarded["start_ms"], &discarded["duration_ms"]), (&json!(start + 100), &json!(100)));
        assert_eq!(discarded["reason"], "inference_failed");
        let error = stream.await_message("Error");
        assert_eq!((&error["code"], &error["fatal"]), (&json!("inference_failed"), &json!(false)));
        assert!(!error.to_string().contains("secret"), "what a model says is not for clients: {error}");
        bystander.is_served();
        start += 200;
    }
    let story = stream.finish();
    assert_eq!(
        (&story.termination()["processed_ms"], &story.termination()["discarded_ms"]),
        (&json!(400), &json!(400))
    );
    assert_eq!(story.close, 1000);
    assert_eq!(metric(server.addr, "suzu_inference_failures_total"), 4.0);
    bystander.saw_nothing();
}

#[test]
fn a_stream_whose_model_always_fails_is_ended_with_4500() {
    let server =
        TestServer::start_with(Config { infer_failures_max: 3, ..config() }, models_with(Touchy::new()));
    let mut bystander = Bystander::new(&server);
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=touchy");
    for _ in 0..3 {
        stream.audio(&level_ms(0.95, 100));
        stream.await_message("Error");
    }
    let story = stream.rest();
    assert_eq!((story.close, story.errors().len()), (4500, 3));
    let last = story.all("Error").last().unwrap();
    assert_eq!((&last["fatal"], &last["retryable"]), (&json!(true), &json!(true)));
    assert_eq!(story.termination()["discarded_ms"], 300);
    assert_eq!(story.termination()["reason"], "inference_failed");
    bystander.is_served();
    bystander.saw_nothing();
}

#[test]
fn the_last_run_of_a_stream_may_fail_too() {
    let server = TestServer::start_with(config(), models_with(Touchy::new()));
    let mut stream = StreamClient::open(server.addr, "/audio?model=touchy");
    stream.audio(&level_ms(0.95, 100));
    let story = stream.finish();
    assert_eq!((story.errors(), story.close), (vec!["inference_failed"], 1000));
    assert_eq!(story.termination()["discarded_ms"], 100);
}

#[test]
fn a_hung_inference_ends_its_stream_and_no_other() {
    let (server, gate) =
        start_gated(Config { infer_timeout: Duration::from_millis(300), workers: 2, ..config() });
    let mut bystander = Bystander::new(&server);
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=gated");
    stream.audio(&tone_ms(100));
    gate.await_begun();
    stream.audio(&tone_ms(100));
    bystander.is_served();
    let story = stream.rest();
    assert_eq!((story.errors(), story.close), (vec!["inference_failed"], 4500));
    assert_eq!(story.sum("Discarded", "duration_ms"), 200.0);
    assert_eq!(story.termination()["discarded_ms"], 200);
    bystander.is_served();
    assert_eq!(metric(server.addr, "suzu_inference_overdue_total"), 1.0);
    bystander.is_served();
    bystander.saw_nothing();
    drop(gate);
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let server = TestServer::start();
    let mut bystander = Bystander::new(&server);
    for round in 0..30 {
        let mut stream = StreamClient::open(server.addr, "/v1/stream?model=vad");
        stream.audio(&tone_ms(500));
        match round % 3 {
            0 => socket2::SockRef::from(&stream.client.stream).set_linger(Some(Duration::ZERO)).unwrap(),
            1 => stream.client.send_message(CLOSE, &1001_u16.to_be_bytes()),
            _ => {}
        }
        drop(stream);
        bystander.is_served();
    }
    crate::support::await_that("only the bystander's stream is left", || {
        metric(server.addr, "suzu_sessions") == 1.0
    });
    bystander.saw_nothing();
    crate::support::await_that("no audio is held", || metric(server.addr, "suzu_audio_bytes") == 0.0);
}
