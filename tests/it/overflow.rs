//! Audio that comes faster than it is processed, under each of the three policies, and when all streams together hold
//! too much.

use crate::answer::metric;
use crate::stream_client::{StreamClient, tone_ms};
use crate::support::{BINARY, TEXT, TestServer, await_that, config, frame};
use crate::test_models::{Gate, start_gated};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use suzu::config::Config;

/// A server that holds 200 ms of a stream, and whose `gated` model waits.
fn start(change: impl FnOnce(&mut Config)) -> (TestServer, Gate) {
    let mut config = Config {
        audio_held_max: Duration::from_millis(200),
        run_max: Duration::from_millis(100),
        ..config()
    };
    change(&mut config);
    start_gated(config)
}

#[test]
fn block_leaves_the_socket_alone_and_loses_nothing() {
    let (server, gate) = start(|_| {});
    let stream = StreamClient::open(server.addr, "/v1/stream?model=gated&overflow=block");
    let sent = Arc::new(AtomicUsize::new(0));
    let (mut sender, count) = (stream.client.try_clone(), Arc::clone(&sent));
    let sending = std::thread::spawn(move || {
        // 40 s: more than the server holds and the kernel takes on its side.
        for _ in 0..400 {
            sender.send_message(BINARY, &tone_ms(100));
            count.fetch_add(3200, Ordering::SeqCst);
        }
        sender.send_message(TEXT, br#"{"type":"CloseStream"}"#);
    });
    gate.await_begun();
    await_that("much more is sent than the server takes", || sent.load(Ordering::SeqCst) > 300_000);
    await_that("the credit is used up", || metric(server.addr, "suzu_samples_received_total") >= 3200.0);
    for _ in 0..20 {
        let samples = metric(server.addr, "suzu_samples_received_total");
        assert!(samples <= 3200.0 + 1600.0, "200 ms may be held, and one chunk over: {samples} samples");
        // What was read before the socket was left alone waits, at most one turn's share.
        let held = metric(server.addr, "suzu_incoming_bytes");
        assert!(held < 140_000.0, "{held} bytes are held of what came in");
    }
    drop(gate);
    let story = stream.rest();
    sending.join().unwrap();
    assert_eq!(story.termination()["processed_ms"], 40_000);
    assert_eq!((story.termination()["discarded_ms"].as_f64(), story.close), (Some(0.0), 1000));
    assert_eq!(story.sum("Results", "duration_ms"), 40_000.0);
}

#[test]
fn a_blocked_stream_is_told_that_it_has_no_credit() {
    let (server, gate) = start(|_| {});
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=gated&ack_interval_ms=100");
    stream.audio(&tone_ms(200));
    gate.await_begun();
    let added = stream.await_message("AudioAdded");
    assert_eq!((&added["credit_ms"], &added["lag_ms"]), (&json!(0), &json!(200)));
    drop(gate);
    stream.finish().termination();
}

#[test]
fn who_finishes_sending_while_blocked_still_gets_everything() {
    let (server, gate) = start(|_| {});
    let stream = StreamClient::open(server.addr, "/v1/stream?model=gated");
    let mut bytes = Vec::new();
    for _ in 0..10 {
        bytes.extend(frame(BINARY, &tone_ms(100)));
    }
    let mut sender = stream.client.try_clone();
    sender.send(&bytes);
    sender.finish_sending();
    gate.await_begun();
    drop(gate);
    let mut received = 0.0;
    let mut client = stream.client;
    loop {
        let (opcode, text) = client.read_message();
        if opcode != TEXT {
            break;
        }
        let message: serde_json::Value = serde_json::from_slice(&text).unwrap();
        if message["type"] == "Termination" {
            received = message["processed_ms"].as_f64().unwrap();
        }
    }
    assert_eq!(received, 1000.0);
}

#[test]
fn discard_oldest_tells_what_it_discards() {
    let (server, gate) = start(|_| {});
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=gated&overflow=discard_oldest");
    stream.audio(&tone_ms(100));
    gate.await_begun();
    for _ in 0..50 {
        stream.audio(&tone_ms(100));
    }
    stream.round_trip();
    assert!(stream.so_far().all("Discarded").count() > 0, "it is told at once");
    drop(gate);
    let story = stream.finish();
    let discarded = story.sum("Discarded", "duration_ms");
    assert!(discarded >= 4_800.0, "200 ms are held, 5100 were sent: {discarded}");
    assert!(story.all("Discarded").all(|message| message["reason"] == "overflow"));
    assert_eq!(story.termination()["discarded_ms"], discarded);
    assert_eq!(story.termination()["audio_received_ms"], 5_100);
    assert_eq!(story.sum("Results", "duration_ms") + discarded, 5_100.0);
    assert_eq!(story.close, 1000);
    // The stretches are the oldest ones, without a hole, and results go on behind them.
    let mut place = 100.0;
    for message in story.all("Discarded") {
        assert_eq!(message["start_ms"], place);
        place += message["duration_ms"].as_f64().unwrap();
    }
    assert_eq!(story.all("Results").nth(1).unwrap()["start_ms"], place);
}

#[test]
fn close_ends_the_stream_with_4429_and_the_balance() {
    let (server, gate) = start(|_| {});
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=gated&overflow=close");
    stream.audio(&tone_ms(100));
    gate.await_begun();
    for _ in 0..5 {
        stream.audio(&tone_ms(100));
    }
    let error = stream.await_message("Error");
    assert_eq!((&error["code"], &error["fatal"]), (&json!("buffer_overflow"), &json!(true)));
    assert_eq!((&error["retryable"], &error["retry_after_ms"]), (&json!(true), &json!(2000)));
    drop(gate);
    let story = stream.rest();
    assert_eq!(story.close, 4429);
    assert_eq!(story.termination()["processed_ms"], 100, "what was with the worker is still told");
    assert_eq!(story.sum("Discarded", "duration_ms"), 200.0);
}

#[test]
fn a_stream_that_stays_full_is_closed_after_blocked_max() {
    let (server, gate) = start(|config| config.blocked_max = Duration::from_millis(50));
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=gated");
    stream.audio(&tone_ms(100));
    gate.await_begun();
    for _ in 0..3 {
        stream.audio(&tone_ms(100));
    }
    assert_eq!(stream.await_message("Error")["code"], "audio_too_fast");
    drop(gate);
    let story = stream.rest();
    assert_eq!((story.close, &story.termination()["reason"]), (4429, &json!("blocked_too_long")));
}

#[test]
fn a_stream_that_waits_for_memory_goes_on_when_others_free_it() {
    let (server, gate) = start_gated(Config {
        audio_bytes_total_max: 1 << 20,
        audio_held_max: Duration::from_secs(5),
        ..config()
    });
    // Less than a window: held, but nothing that a worker could take.
    let mut small =
        StreamClient::open(server.addr, "/v1/stream?model=echo&sample_rate=8000&ack_interval_ms=100");
    small.audio(&[0; 100]);
    // Nothing else will move this stream from here on.
    small.await_message("AudioAdded");
    // 4 s of 48 kHz are 768 KB as the server holds them: two such streams are more than all may hold.
    let mut large: Vec<_> =
        (0..2).map(|_| StreamClient::open(server.addr, "/v1/stream?model=gated&sample_rate=48000")).collect();
    for stream in &mut large {
        stream.audio(&[0; 384_000]);
    }
    gate.await_begun();
    await_that("all is held", || metric(server.addr, "suzu_audio_bytes") > 1_048_576.0);
    for _ in 0..3 {
        small.audio(&[0; 1600]);
    }
    small.say(json!({"type": "CloseStream"}));
    // At least the first chunk: if the others came later, they wait in the kernel, since nobody reads on.
    await_that("its bytes wait", || metric(server.addr, "suzu_incoming_bytes") >= 1_600.0);
    drop(gate);
    for stream in large {
        assert_eq!(stream.finish().termination()["processed_ms"], 4000);
    }
    assert_eq!(small.rest().termination()["ledger"]["processed"], 2450);
}
