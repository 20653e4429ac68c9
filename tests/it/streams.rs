//! `/v1/stream` and `/audio` as they are meant to be used: audio in, results out, the balance at the end.

use crate::stream_client::{Story, StreamClient, tone, tone_ms};
use crate::support::{TestServer, await_that, config};
use crate::test_models::start_gated;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use suzu::config::Config;
use suzu::model::{EventKind, Outcome, Registry, Run, StreamState, TensorData, execute};
use suzu::wire::message::Encoding;
use suzu::wire::pcm;

/// A shipped recording: 16 kHz mono, as bytes of linear16.
pub fn recording(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let wav = hound::WavReader::open(path).expect("a recording of the repository");
    assert_eq!((wav.spec().sample_rate, wav.spec().channels), (16_000, 1));
    wav.into_samples::<i16>().flat_map(|sample| sample.expect("16 bit").to_le_bytes()).collect()
}

/// What the model says of all of it in one piece, without any server.
fn alone(model: &str, bytes: &[u8]) -> Outcome {
    let model = Registry::builtin().get(model).expect("inside the binary");
    let state = Box::new(StreamState::new(&*model, 16_000).expect("a rate that is served"));
    let mut samples = Vec::new();
    pcm::Decoder::new(Encoding::Linear16, 1).decode(bytes, &mut samples);
    let mut runs = [Run::new(state, samples, true)];
    execute(&*model, &mut runs);
    let [run] = runs;
    run.outcome
}

/// Sends all of it in chunks, then asks for the end.
fn play(mut stream: StreamClient, bytes: &[u8], chunk: usize) -> Story {
    for chunk in bytes.chunks(chunk) {
        stream.audio(chunk);
    }
    stream.finish()
}

#[test]
fn vad_over_a_socket_finds_what_the_model_finds_alone() {
    let bytes = recording("speech-noisy.wav");
    let expected = alone("vad", &bytes);
    let server = TestServer::start();
    let story = play(StreamClient::open(server.addr, "/v1/stream?model=vad"), &bytes, 3_194);

    let TensorData::Fp32(probabilities) = &expected.findings.outputs[0] else { panic!("floats") };
    let heard = story.tensor(&Registry::builtin().get("vad").unwrap().spec().outputs[0].name);
    assert_eq!(heard.len(), probabilities.len());
    for (place, (heard, expected)) in heard.iter().zip(probabilities).enumerate() {
        assert!((heard - f64::from(*expected)).abs() < 1e-6, "window {place}: {heard}, {expected}");
    }
    let events: Vec<(&str, f64)> = story
        .messages
        .iter()
        .filter(|message| message.get("at_ms").is_some())
        .map(|message| (message["type"].as_str().unwrap(), message["at_ms"].as_f64().unwrap()))
        .collect();
    let expected: Vec<(&str, f64)> = expected
        .findings
        .events
        .iter()
        .map(|event| match event.kind {
            EventKind::SpeechStarted => ("SpeechStarted", event.at_sample as f64 / 16.0),
            EventKind::SpeechEnded => ("SpeechEnded", event.at_sample as f64 / 16.0),
        })
        .collect();
    assert!(expected.len() >= 8, "there is speech: {expected:?}");
    assert_eq!(events, expected);
    assert_eq!(story.termination()["audio_received_ms"], 18_330);
    assert_eq!(story.sum("Results", "duration_ms").round(), 18_330.0);
}

#[test]
fn numbered_messages_have_no_holes() {
    let server = TestServer::start();
    let bytes = recording("speech-noisy.wav");
    let story = play(StreamClient::open(server.addr, "/v1/stream?model=vad"), &bytes[..320_000], 3_200);
    let numbers: Vec<_> =
        story.messages.iter().filter_map(|message| message["message_seq"].as_u64()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
}

#[test]
fn denoise_over_a_socket_is_what_the_model_makes_alone() {
    let bytes = recording("speech-noisy.wav");
    let bytes = &bytes[..4 * 32_000 + 154];
    let mut expected = Vec::new();
    pcm::encode(Encoding::Linear16, &alone("denoise", bytes).findings.audio, &mut expected);
    let server = TestServer::start();
    let story = play(StreamClient::open(server.addr, "/v1/stream?model=denoise"), bytes, 1_000);
    assert!(story.audio.concat() == expected, "other audio than without the server");
}

#[test]
fn denoise_gives_back_as_much_as_it_takes_at_every_rate_and_encoding() {
    let server = TestServer::start();
    for (rate_hz, encoding) in [
        (8_000, Encoding::Mulaw),
        (8_000, Encoding::Alaw),
        (11_025, Encoding::Linear16),
        (44_100, Encoding::F32le),
        (48_000, Encoding::Linear16),
    ] {
        let bytes = tone(encoding, rate_hz as usize + 77, rate_hz);
        let target = format!("/v1/stream?model=denoise&sample_rate={rate_hz}&encoding={encoding}");
        let story = play(StreamClient::open(server.addr, &target), &bytes, 1_777);
        assert_eq!(story.audio.concat().len(), bytes.len(), "{target}");
        assert_eq!((story.termination()["ledger"]["discarded"].as_u64(), story.close), (Some(0), 1000));
    }
}

#[test]
fn every_encoding_says_the_same() {
    let server = TestServer::start();
    for (encoding, error_max) in [
        (Encoding::Linear16, 0.0001),
        (Encoding::F32le, 0.0001),
        (Encoding::Mulaw, 0.02),
        (Encoding::Alaw, 0.02),
    ] {
        for rate_hz in [8_000, 44_100, 48_000] {
            let bytes = tone(encoding, rate_hz as usize / 2, rate_hz);
            let target = format!("/v1/stream?model=echo&sample_rate={rate_hz}&encoding={encoding}");
            let story = play(StreamClient::open(server.addr, &target), &bytes, 999);
            assert_eq!(story.termination()["processed_ms"], 500, "{target}");
            let peak = story.tensor("peak").into_iter().fold(0.0, f64::max);
            assert!((peak - 0.5).abs() < error_max + 0.001, "{target}: {peak}");
        }
    }
}

#[test]
fn channels_are_mixed_to_one() {
    let server = TestServer::start();
    let mut bytes = Vec::new();
    let both: Vec<f32> = (0..16_000).map(|place| if place % 2 == 0 { 0.5 } else { 0.25 }).collect();
    pcm::encode(Encoding::F32le, &both, &mut bytes);
    let target = "/v1/stream?model=echo&channels=2&encoding=f32le";
    let story = play(StreamClient::open(server.addr, target), &bytes, 1_001);
    assert_eq!(story.termination()["processed_ms"], 500);
    assert!(story.tensor("peak").iter().all(|peak| (peak - 0.375).abs() < 1e-6));
}

#[test]
fn begin_says_what_holds() {
    let server = TestServer::start();
    let target = "/v1/stream?model=denoise&sample_rate=48000&framing=seq&overflow=discard_oldest&tag=kitchen\
                  &ack_interval_ms=250&deadline_ms=5000&interim_results=true";
    let begin = StreamClient::open(server.addr, target).begin;
    assert_eq!(
        begin["configuration"],
        json!({
            "model": "denoise", "encoding": "linear16", "sample_rate": 48_000, "channels": 1,
            "interim_results": true, "framing": "seq", "overflow": "discard_oldest", "ack_interval_ms": 250,
            "deadline_ms": 5000, "tag": "kitchen",
        })
    );
    assert_eq!((&begin["resumed"], &begin["message_seq"]), (&json!(false), &json!(0)));
    assert_eq!(begin["credit_ms"], 4000);
    assert_eq!(begin["keepalive"], json!({"ping_s": 25, "audio_idle_s": 30}));
}

#[test]
fn audio_is_gathered_into_batches_of_chunks() {
    let server = TestServer::start_with(
        Config { batch_size: 10, flush_timeout: Duration::from_secs(60), ..config() },
        Registry::builtin(),
    );
    let mut stream = StreamClient::open(server.addr, "/audio?model=echo");
    for batch in 1..=3 {
        for _ in 0..9 {
            stream.audio(&tone_ms(50));
        }
        stream.round_trip();
        assert_eq!(stream.so_far().all("Results").count(), batch - 1, "nine chunks are not a batch");
        stream.audio(&tone_ms(50));
        assert_eq!(stream.await_message("Results")["duration_ms"], 500);
    }
    assert_eq!(stream.finish().termination()["results"], 3);
}

#[test]
fn a_batch_that_cannot_fill_up_goes_when_half_of_the_buffer_is_full() {
    let server = TestServer::start_with(
        Config {
            batch_size: 10,
            flush_timeout: Duration::from_secs(60),
            audio_held_max: Duration::from_secs(1),
            ..config()
        },
        Registry::builtin(),
    );
    let mut stream = StreamClient::open(server.addr, "/audio?model=echo");
    // Ten chunks of 400 ms are more than the server holds: without a flush they would wait for a minute.
    for _ in 0..10 {
        stream.audio(&tone_ms(400));
    }
    let story = stream.finish();
    assert_eq!(story.termination()["processed_ms"], 4000);
}

#[test]
fn a_batch_that_does_not_fill_up_goes_after_the_flush_timeout() {
    let server = TestServer::start_with(
        Config { batch_size: 10, flush_timeout: Duration::from_millis(50), ..config() },
        Registry::builtin(),
    );
    let mut stream = StreamClient::open(server.addr, "/audio?model=echo");
    for _ in 0..3 {
        stream.audio(&tone_ms(20));
    }
    let mut heard = 0.0;
    while heard < 60.0 {
        heard += stream.await_message("Results")["duration_ms"].as_f64().unwrap();
    }
    assert_eq!(stream.finish().termination()["processed_ms"], 60);
}

#[test]
fn a_client_of_audio_is_named_by_its_header() {
    let server = TestServer::start();
    let stream = StreamClient::open_with(server.addr, "/audio", "X-Client-ID: microphone 7\r\n");
    assert_eq!(stream.begin["configuration"]["tag"], "microphone 7");
    assert_eq!(stream.begin["configuration"]["model"], "vad");
    let stream = StreamClient::open_with(server.addr, "/audio?tag=other", "X-Client-ID: mic\r\n");
    assert_eq!(stream.begin["configuration"]["tag"], "other");
    let stream = StreamClient::open_with(server.addr, "/v1/stream", "X-Client-ID: mic\r\n");
    assert_eq!(stream.begin["configuration"]["tag"], Value::Null);
}

#[test]
fn finalize_is_answered_even_if_there_is_nothing() {
    let server = TestServer::start_with(
        Config { batch_size: 100, flush_timeout: Duration::from_secs(60), ..config() },
        Registry::builtin(),
    );
    let mut stream = StreamClient::open(server.addr, "/audio?model=echo");
    stream.say(json!({"type": "Finalize", "id": "nothing yet"}));
    let empty = stream.await_message("Results");
    assert_eq!((&empty["from_finalize"], &empty["finalize_id"]), (&json!(true), &json!("nothing yet")));
    assert_eq!(empty["duration_ms"], 0);
    // 25 ms are one window of 20 ms, and a rest that waits for more.
    stream.audio(&tone_ms(25));
    stream.say(json!({"type": "Finalize", "id": "first"}));
    let first = stream.await_message("Results");
    assert_eq!((&first["finalize_id"], &first["duration_ms"]), (&json!("first"), &json!(20)));
    stream.say(json!({"type": "Finalize", "id": "second"}));
    stream.say(json!({"type": "Finalize"}));
    assert_eq!(stream.await_message("Results")["finalize_id"], "second");
    let unnamed = stream.await_message("Results");
    assert_eq!((&unnamed["from_finalize"], unnamed.get("finalize_id")), (&json!(true), None));
    let story = stream.finish();
    assert_eq!(story.termination()["processed_ms"], 25);
    assert_eq!(story.all("Results").last().unwrap().get("from_finalize"), None);
}

#[test]
fn what_the_client_left_out_moves_the_clock() {
    let server = TestServer::start();
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=echo");
    stream.audio(&tone_ms(100));
    assert_eq!(stream.await_message("Results")["start_ms"], 0);
    stream.say(json!({"type": "Discarded", "start_ms": 100, "duration_ms": 2500.5}));
    stream.audio(&tone_ms(100));
    assert_eq!(stream.await_message("Results")["start_ms"], 2600.5);
    assert_eq!(stream.finish().termination()["audio_received_ms"], 200);
}

#[test]
fn ping_configure_and_ack_are_answered_as_promised() {
    let server = TestServer::start();
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=echo");
    stream.say(json!({"type": "Ack", "message_seq": 0}));
    stream.say(json!({"type": "KeepAlive"}));
    stream.say(json!({"type": "Ping", "t": 12.5}));
    let pong = stream.await_message("Pong");
    assert_eq!(pong["t"], 12.5);
    assert!(pong["server_ms"].as_u64().unwrap() > 1_500_000_000_000, "{pong}");
    stream.say(json!({"type": "Configure", "interim_results": true, "deadline_ms": 700}));
    let configured = stream.await_message("Configured");
    assert_eq!(configured["configuration"]["interim_results"], true);
    assert_eq!(configured["configuration"]["deadline_ms"], 700);
    assert_eq!(stream.so_far().messages.len(), 2, "nothing else was said: {:?}", stream.so_far());
}

#[test]
fn the_ledger_is_told_while_audio_comes() {
    let server = TestServer::start();
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=echo&ack_interval_ms=100");
    stream.audio(&tone_ms(1000));
    let mut added = stream.await_message("AudioAdded");
    while added["processed_ms"] != 1000 {
        stream.audio(&[]);
        added = stream.await_message("AudioAdded");
    }
    assert_eq!((&added["audio_ms"], &added["discarded_ms"]), (&json!(1000), &json!(0)));
    assert_eq!((&added["credit_ms"], &added["lag_ms"]), (&json!(4000), &json!(0)));
}

#[test]
fn numbered_chunks_are_taken_once_and_in_order() {
    let server = TestServer::start();
    let mut stream =
        StreamClient::open(server.addr, "/v1/stream?model=denoise&sample_rate=48000&framing=seq");
    let chunk = |seq: u32| {
        let mut bytes = vec![1, 0, 0, 0];
        bytes.extend(seq.to_le_bytes());
        bytes.extend(123_u64.to_le_bytes());
        bytes.extend(tone(Encoding::Linear16, 4_800, 48_000));
        bytes
    };
    for seq in [1, 2, 2, 1, 3] {
        stream.audio(&chunk(seq));
    }
    let story = stream.finish();
    assert_eq!(story.termination()["audio_received_ms"], 300, "what came twice counts once");
    let results: Vec<_> =
        story.all("Results").map(|result| result["message_seq"].as_u64().unwrap()).collect();
    let mut samples = 0;
    for audio in &story.audio {
        assert_eq!(audio[..4], [2, 0, 0, 0]);
        let seq = u32::from_le_bytes(audio[4..8].try_into().unwrap());
        assert!(results.contains(&u64::from(seq)), "{seq} is the number of a result: {results:?}");
        samples += (audio.len() - 16) / 2;
    }
    assert_eq!(samples, 14_400);
}

#[test]
fn a_hole_in_the_numbers_ends_the_stream() {
    let server = TestServer::start();
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=echo&framing=seq");
    stream.audio(&[&[1, 0, 0, 0, 2, 0, 0, 0][..], &[0; 8], &[0; 640]].concat());
    let story = stream.rest();
    assert_eq!((story.errors(), story.close), (vec!["invalid_state"], 4400));
    assert_eq!(story.all("Error").next().unwrap()["param"], "seq");
    story.termination();
}

#[test]
fn a_sample_may_be_cut_in_two() {
    let server = TestServer::start();
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=echo");
    for piece in tone_ms(100).chunks(7) {
        stream.audio(piece);
    }
    assert_eq!(stream.finish().termination()["ledger"]["received"], 1600);
}

#[test]
fn half_a_sample_at_the_end_is_told_and_left_out() {
    let server = TestServer::start();
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=echo");
    stream.audio(&[0; 641]);
    let story = stream.finish();
    assert_eq!((story.errors(), story.close), (vec!["invalid_audio"], 1000));
    assert_eq!(story.all("Error").next().unwrap()["fatal"], false);
    assert_eq!(story.termination()["ledger"]["received"], 320);
}

#[test]
fn samples_that_are_no_numbers_are_silence_and_told_once() {
    let server = TestServer::start();
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=echo&encoding=f32le");
    for _ in 0..2 {
        stream.audio(&[f32::NAN, f32::INFINITY, 0.25, -9.0].map(f32::to_le_bytes).concat());
    }
    let story = stream.finish();
    assert_eq!(story.all("Warning").count(), 1, "{story:?}");
    assert_eq!(story.tensor("peak"), [1.0], "beyond the range is cut to the range");
}

#[test]
fn who_finished_sending_still_gets_results_and_termination() {
    let server = TestServer::start();
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=echo");
    stream.audio(&tone_ms(250));
    stream.client.finish_sending();
    let mut kinds = Vec::new();
    loop {
        match stream.client.read_message() {
            (8, _) => break,
            (_, text) => kinds.push(serde_json::from_slice::<Value>(&text).unwrap()["type"].clone()),
        }
    }
    assert_eq!(kinds.last().unwrap(), "Termination");
    assert!(kinds.contains(&json!("Results")));
}

#[test]
fn an_empty_stream_has_an_end_too() {
    let server = TestServer::start();
    for model in ["echo", "vad", "denoise"] {
        let stream = StreamClient::open(server.addr, &format!("/v1/stream?model={model}"));
        let story = stream.finish();
        assert_eq!((story.messages.len(), story.close), (1, 1000));
        assert_eq!(story.termination()["ledger"]["received"], 0);
        assert_eq!(story.termination()["reason"], "finished");
    }
}

#[test]
fn asking_to_resume_gets_a_new_stream_that_says_so() {
    let server = TestServer::start();
    let mut stream = StreamClient::open(server.addr, "/v1/stream?resume=token&last_message=4");
    assert_eq!(stream.begin["resumed"], false);
    assert_eq!(stream.await_message("Warning")["code"], "resume_failed");
}

#[test]
fn audio_past_its_deadline_is_discarded_and_told() {
    let (server, gate) = start_gated(config());
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=gated&deadline_ms=5");
    stream.audio(&tone_ms(100));
    gate.await_begun();
    stream.audio(&tone_ms(100));
    stream.audio(&tone_ms(100));
    let begun = stream.server_ms();
    await_that("the deadline passes", || stream.server_ms() > begun + 10);
    drop(gate);
    let story = stream.finish();
    assert_eq!(story.sum("Discarded", "duration_ms"), 200.0);
    assert!(story.all("Discarded").all(|message| message["reason"] == "deadline"), "{story:?}");
    assert_eq!(story.termination()["discarded_ms"], 200);
    assert_eq!(story.termination()["audio_received_ms"], 300);
}

#[test]
fn timing_is_told_to_who_asks() {
    let server = TestServer::start();
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=echo&timing=true");
    stream.audio(&tone_ms(100));
    let timing = stream.await_message("Results")["timing"].clone();
    assert_eq!(timing["batch_size"], 1);
    assert!(timing["queue_ms"].is_number() && timing["infer_ms"].is_number(), "{timing}");
}
