//! Recordings by `POST /v1/models/{model}`, as curl and simpler clients send them.

use crate::answer::{Answer, get, metric, request};
use crate::support::{BINARY, CLOSE, Client, DEADLINE, TEXT, TestServer, config};
use crate::test_models::{models_with, start_gated};
use serde_json::Value;
use std::io::{Cursor, Read, Write};
use std::thread;
use std::time::Duration;
use suzu::config::Config;
use suzu::model::{Lane, Model, ModelSpec, Registry, State};
use suzu::wire::wav::encode_head;

const WAV: &str = "Content-Type: audio/wav\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

fn wav(samples: &[i16], rate: u32) -> Vec<u8> {
    let mut file = Vec::new();
    encode_head(&mut file, false, rate, Some(samples.len() as u64));
    file.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    file
}

/// Speech, 16 kHz mono.
fn recording() -> Vec<i16> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/speech-clean.wav");
    let mut reader = hound::WavReader::open(path).expect("test data");
    assert_eq!((reader.spec().channels, reader.spec().sample_rate), (1, 16_000));
    reader.samples().map(|sample| sample.expect("a sample")).collect()
}

/// `parrot`: gives back what it hears, and panics at samples above 0.9.
struct Parrot {
    spec: ModelSpec,
}

impl Parrot {
    fn new() -> Self {
        let echo = Registry::builtin().get("echo").expect("inside the binary");
        let spec =
            ModelSpec { name: "parrot".into(), audio_out: true, outputs: vec![], ..echo.spec().clone() };
        Self { spec }
    }
}

impl Model for Parrot {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn start(&self) -> State {
        Box::new(())
    }

    fn infer(&self, lanes: &mut [Lane<'_>]) {
        for lane in lanes {
            let heard = &lane.samples[..lane.count * self.spec.hop];
            assert!(heard.iter().all(|sample| sample.abs() <= 0.9), "too loud: the secret of this model");
            lane.findings.audio.extend_from_slice(heard);
        }
    }
}

fn counted(target: &str, extra: &str, body: &[u8]) -> Vec<u8> {
    let head = request("POST", target, &format!("{extra}Content-Length: {}\r\n", body.len()));
    [head.as_bytes(), body].concat()
}

fn chunked(target: &str, extra: &str, body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = request("POST", target, &format!("{extra}{CHUNKED}")).into_bytes();
    for piece in body.chunks(size) {
        bytes.extend(format!("{:x}\r\n", piece.len()).bytes());
        bytes.extend(piece);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

/// Takes an answer however long it is, chunk by chunk if it comes so.
fn whole_answer(client: &mut Client) -> Answer {
    let mut answer = client.answer_head();
    if let Some(length) = answer.header("content-length") {
        answer.body = client.read_exactly(length.parse().expect("a number"));
        return answer;
    }
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    loop {
        let line = String::from_utf8(client.read_until("\r\n")).expect("a size");
        let size = usize::from_str_radix(line.trim_end(), 16).expect("hexadecimal");
        answer.body.extend(client.read_exactly(size));
        assert_eq!(client.read_exactly(2), b"\r\n");
        if size == 0 {
            return answer;
        }
    }
}

fn post(server: &TestServer, bytes: &[u8]) -> Answer {
    let mut client = Client::connect(server.addr);
    let mut sender = client.try_clone();
    thread::scope(|scope| {
        scope.spawn(move || sender.send(bytes));
        whole_answer(&mut client)
    })
}

/// Every value of an output, over all results.
fn output(answer: &Value, name: &str) -> Vec<Value> {
    let results = answer["results"].as_array().expect("results");
    let outputs = results.iter().filter_map(|message| message["outputs"].as_array()).flatten();
    let named = outputs.filter(|output| output["name"] == name);
    named.flat_map(|output| output["data"].as_array().expect("data").clone()).collect()
}

fn of_type<'a>(answer: &'a Value, kind: &str) -> Vec<&'a Value> {
    let results = answer["results"].as_array().expect("results");
    results.iter().filter(|message| message["type"] == kind).collect()
}

/// What the stream of the WebSocket gives for the same samples.
fn by_websocket(server: &TestServer, target: &str, samples: &[i16]) -> (Value, Vec<u8>) {
    let mut client = Client::websocket(server.addr, target);
    let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let mut sender = client.try_clone();
    let (mut results, mut audio) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        scope.spawn(move || {
            bytes.chunks(6_400).for_each(|chunk| sender.send_message(BINARY, chunk));
            sender.send_message(TEXT, br#"{"type":"CloseStream"}"#);
        });
        loop {
            match client.read_message() {
                (TEXT, text) => results.push(serde_json::from_slice::<Value>(&text).expect("JSON")),
                (BINARY, bytes) => audio.extend(bytes),
                (CLOSE, _) => break,
                other => panic!("{other:?}"),
            }
        }
    });
    (serde_json::json!({ "results": results }), audio)
}

#[test]
fn a_wav_gets_the_results_of_its_stream_however_it_is_sent() {
    let server = TestServer::start();
    let samples = recording();
    let file = wav(&samples, 16_000);
    let raw: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let (wanted, _) = by_websocket(&server, "/v1/stream?model=vad", &samples);
    let probabilities = output(&wanted, "speech_probability");
    assert!(probabilities.len() > 50);
    for bytes in [
        counted("/v1/models/vad", WAV, &file),
        counted("/v1/models/vad", "", &file),
        chunked("/v1/models/vad", WAV, &file, 1_001),
        chunked("/v1/models/vad?timing=true&tag=t", "", &file, 3),
        counted("/v1/models/vad?encoding=linear16&sample_rate=16000&channels=1", "", &raw),
        chunked("/v1/models/vad", "Content-Type: application/octet-stream\r\n", &raw, 50_000),
    ] {
        let answer = post(&server, &bytes);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        assert!(answer.header("x-request-id").is_some());
        let json = answer.json();
        assert_eq!(output(&json, "speech_probability"), probabilities);
        for kind in ["SpeechStarted", "SpeechEnded"] {
            let times = |json| of_type(json, kind).iter().map(|at| at["at_ms"].clone()).collect::<Vec<_>>();
            assert_eq!(times(&json), times(&wanted), "{kind}");
        }
        assert_eq!((&json["model"], &json["version"]), (&Value::from("vad"), &Value::from(1)));
        assert_eq!(json["request_id"].as_str(), answer.header("x-request-id"));
        let end = &json["termination"];
        assert_eq!(
            (end["reason"].as_str(), end["ledger"]["received"].as_u64()),
            (Some("finished"), Some(samples.len() as u64))
        );
        assert_eq!(end["ledger"]["processed"], end["ledger"]["received"]);
    }
    assert_eq!(metric(server.addr, "suzu_sessions"), 0.0);
}

#[test]
fn processed_audio_is_bit_for_bit_that_of_the_stream() {
    let server = TestServer::start();
    let samples = recording();
    let (_, wanted) = by_websocket(&server, "/v1/stream?model=denoise", &samples);
    let file = wav(&samples, 16_000);
    let mut unknown = file.clone();
    unknown[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
    for (bytes, known) in [
        (counted("/v1/models/denoise?output=audio", WAV, &file), true),
        (counted("/v1/models/denoise", "Accept: audio/wav\r\n", &unknown), true),
        (chunked("/v1/models/denoise", "Accept: audio/*, application/json;q=0.5\r\n", &file, 700), true),
        (chunked("/v1/models/denoise?output=audio", WAV, &unknown, 4_321), false),
    ] {
        let answer = post(&server, &bytes);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("audio/wav")));
        assert_eq!(answer.header("content-length").is_some(), known);
        let length = u32::from_le_bytes(answer.body[40..44].try_into().expect("four bytes"));
        assert_eq!(length, if known { wanted.len() as u32 } else { u32::MAX });
        assert!(answer.body[44..] == wanted, "other audio came back than by the stream");
    }
    let json =
        post(&server, &counted("/v1/models/denoise?output=json", "Accept: audio/wav\r\n", &file)).json();
    assert_eq!(json["termination"]["reason"], "finished");
}

#[test]
fn floats_come_back_as_floats() {
    let server = TestServer::start_with(config(), models_with(Parrot::new()));
    let spec = hound::WavSpec {
        channels: 2,
        sample_rate: 16_000,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let mut file = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut file, spec).expect("a head");
    for at in 0..3_200 {
        writer.write_sample(at as f32 / 6_400.0).expect("a sample");
        writer.write_sample(0.25f32).expect("a sample");
    }
    writer.finalize().expect("the end");
    let answer = post(&server, &counted("/v1/models/parrot?output=audio", WAV, file.get_ref()));
    let mut reader = hound::WavReader::new(Cursor::new(answer.body)).expect("a WAV");
    assert_eq!((reader.spec().channels, reader.spec().sample_format), (1, hound::SampleFormat::Float));
    let samples: Vec<f32> = reader.samples().map(|sample| sample.expect("a sample")).collect();
    let wanted: Vec<f32> = (0..3_200).map(|at| (at as f32 / 6_400.0 + 0.25) / 2.0).collect();
    assert_eq!(samples, wanted);
}

#[test]
fn a_connection_goes_on_after_an_upload_and_keeps_the_order() {
    let server = TestServer::start();
    let file = wav(&recording(), 16_000);
    let mut client = Client::connect(server.addr);
    let mut sender = client.try_clone();
    let all = [
        chunked("/v1/models/vad", "X-Request-Id: r1\r\n", &file, 5_000),
        request("GET", "/health/live", "X-Request-Id: r2\r\n").into_bytes(),
        counted("/v1/models/vad", "X-Request-Id: r3\r\n", &file[..2_000]),
        request("GET", "/health/live", "X-Request-Id: r4\r\n").into_bytes(),
    ]
    .concat();
    thread::scope(|scope| {
        scope.spawn(move || {
            sender.send(&all);
            sender.finish_sending();
        });
        for id in ["r1", "r2", "r3", "r4"] {
            let answer = whole_answer(&mut client);
            assert_eq!((answer.status, answer.header("x-request-id")), (200, Some(id)));
        }
        assert_eq!(client.read_to_end(), b"");
    });
}

#[test]
fn http_1_0_gets_an_answer_that_ends_with_its_connection() {
    let server = TestServer::start();
    let file = wav(&recording(), 16_000);
    let head = format!("POST /v1/models/vad HTTP/1.0\r\nContent-Length: {}\r\n\r\n", file.len());
    let mut client = Client::connect(server.addr);
    let mut sender = client.try_clone();
    let bytes = thread::scope(|scope| {
        scope.spawn(move || sender.send([head.as_bytes(), &file].concat()));
        client.read_to_end()
    });
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("Connection: close") && !head.contains("chunked"), "{head}");
    let json: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(json["termination"]["reason"], "finished");
}

#[test]
fn the_answer_is_compressed_for_those_who_like_it() {
    let server = TestServer::start();
    let file = wav(&recording(), 16_000);
    let answer = post(&server, &counted("/v1/models/vad", "Accept-Encoding: gzip\r\n", &file));
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(&answer.body[..]).read_to_string(&mut text).expect("gzip");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["termination"]["reason"], "finished");
    assert!(text.len() > 2 * answer.body.len(), "{} of {}", answer.body.len(), text.len());
}

#[test]
fn what_cannot_be_is_refused_before_the_body_comes() {
    let server = TestServer::start();
    let expect = "Expect: 100-continue\r\nContent-Length: 1000000\r\n";
    for (target, extra, status, param, said) in [
        ("/v1/models/nobody", "", 404, Some("model"), "nobody"),
        ("/v1/models/vad?rate=8000", "", 400, Some("rate"), "sample_rate"),
        ("/v1/models/vad?sample_rate=7", "", 400, Some("sample_rate"), "8000"),
        ("/v1/models/vad?output=video", "", 400, Some("output"), "json nor audio"),
        ("/v1/models/vad?model=echo", "", 400, Some("model"), "accepted"),
        ("/v1/models/vad?output=audio", "", 400, Some("output"), "denoise"),
        ("/v1/models/vad?channels=2", WAV, 400, Some("channels"), "itself"),
        ("/v1/models/vad", "Content-Type: application/json\r\n", 415, Some("content-type"), "--data-binary"),
        (
            "/v1/models/vad",
            "Content-Type: application/x-www-form-urlencoded\r\n",
            415,
            Some("content-type"),
            "curl",
        ),
        ("/v1/models/vad", "Content-Type: audio/mpeg\r\n", 415, Some("content-type"), "audio/mpeg"),
        ("/v1/models/vad", "Content-Encoding: gzip\r\n", 415, Some("content-encoding"), "gzip"),
    ] {
        let answer = Client::connect(server.addr).ask("POST", target, &format!("{expect}{extra}"));
        assert_eq!(answer.status, status, "{target} {extra}: {}", answer.text());
        let error = answer.error();
        assert_eq!(error["param"].as_str(), param, "{target}: {error}");
        assert!(error["message"].as_str().expect("a message").contains(said), "{error}");
    }
    let mut client = Client::connect(server.addr);
    let empty = client.ask("POST", "/v1/models/vad", "Content-Length: 0\r\n");
    assert_eq!((empty.status, empty.header("connection")), (400, Some("keep-alive")));
    assert_eq!(client.ask("POST", "/v1/models/vad", "").status, 400);
    // All is well: now, and not before, the body is asked for.
    client.send(request("POST", "/v1/models/vad", "Expect: 100-continue\r\nContent-Length: 3200\r\n"));
    assert_eq!(client.read_until("\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send([0; 3200]);
    assert_eq!(whole_answer(&mut client).json()["termination"]["ledger"]["received"], 1600);
}

#[test]
fn bodies_that_are_no_audio_are_refused_with_a_word_of_help() {
    let server = TestServer::start();
    let file = wav(&[7; 1_000], 16_000);
    let mut adpcm = file.clone();
    adpcm[20] = 2;
    let mut crowd = file.clone();
    crowd[22] = 9;
    crowd[32] = 18;
    for (target, extra, body, said) in [
        ("/v1/models/vad", WAV, &b"OggS and so on and on"[..], "ffmpeg"),
        ("/v1/models/vad", "", &b"OggS and so on and on"[..], "Ogg"),
        ("/v1/models/vad", "", &b"fLaC and so on and on"[..], "FLAC"),
        ("/v1/models/vad", WAV, &file[..30], "before its audio begins"),
        ("/v1/models/vad", "", &adpcm[..], "format 2"),
        ("/v1/models/vad", "", &crowd[..], "9 channels"),
        ("/v1/models/vad", "", &wav(&[7; 100], 96_000)[..], "96000"),
        ("/v1/models/vad?sample_rate=8000", "", &file[..], "sample_rate itself"),
    ] {
        let answer = post(&server, &counted(target, extra, body));
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(answer.error()["message"].as_str().expect("a message").contains(said), "{}", answer.text());
        assert!(answer.error()["code"].as_str().expect("a code").starts_with("invalid_"));
    }
    // One byte only is some audio: half a sample of it.
    let json = post(&server, &counted("/v1/models/vad", "", b"x")).json();
    assert_eq!(
        (&json["results"][0]["code"], &json["termination"]["results"]),
        (&"invalid_audio".into(), &0.into())
    );
}

#[test]
fn a_wav_that_is_cut_off_is_inferred_and_remarked() {
    let server = TestServer::start_with(config(), models_with(Parrot::new()));
    let file = wav(&recording(), 16_000);
    let json = post(&server, &chunked("/v1/models/vad", "", &file[..32_044], 999)).json();
    let warnings = of_type(&json, "Warning");
    assert!(
        warnings[0]["message"]
            .as_str()
            .expect("a message")
            .contains(&format!("{} bytes", file.len() - 32_044))
    );
    assert_eq!(json["termination"]["ledger"]["processed"], 16_000);
    // The promise of a length for the audio that comes back cannot be kept then, and the end says so.
    let mut client = Client::connect(server.addr);
    let bytes = chunked("/v1/models/parrot?output=audio", "", &file[..32_044], 999);
    let (first, rest) = bytes.split_at(20_000);
    client.send(first);
    let answer = client.answer_head();
    assert_eq!(answer.header("content-length"), Some(file.len().to_string().as_str()));
    client.send(rest);
    assert_eq!(client.read_to_end().len(), 32_044);
}

#[test]
fn a_body_that_breaks_ends_its_stream_with_the_reason() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    let mut bytes = request("POST", "/v1/models/vad", CHUNKED).into_bytes();
    bytes.extend(b"10000\r\n");
    bytes.extend([0; 0x10000]);
    bytes.extend(b"\r\nno size\r\n");
    client.send(bytes);
    let answer = whole_answer(&mut client);
    client.await_closed();
    if answer.status == 200 {
        let json = answer.json();
        assert_eq!(of_type(&json, "Error")[0]["fatal"], true);
        assert_eq!(json["termination"]["reason"], "bad_request");
        assert_eq!(json["termination"]["ledger"]["processed"], 0x8000);
    } else {
        assert_eq!((answer.status, answer.error()["code"].as_str()), (400, Some("invalid_payload")));
    }
}

#[test]
fn a_model_that_fails_is_told_in_json_and_cuts_audio() {
    let server = TestServer::start_with(config(), models_with(Parrot::new()));
    let mut samples = vec![0i16; 160_000];
    samples[120_000..].fill(32_000);
    let file = wav(&samples, 16_000);
    let json = post(&server, &counted("/v1/models/parrot", "", &file)).json();
    assert!(!of_type(&json, "Discarded").is_empty() && !of_type(&json, "Error").is_empty());
    let ledger = &json["termination"]["ledger"];
    assert_eq!(ledger["received"].as_u64(), Some(160_000));
    assert!(!json.to_string().contains("secret"));

    let mut client = Client::connect(server.addr);
    let mut sender = client.try_clone();
    let bytes = thread::scope(|scope| {
        scope.spawn(move || {
            let _ = sender.stream.write_all(&counted("/v1/models/parrot?output=audio", "", &file));
        });
        client.answer_head();
        client.read_to_end()
    });
    assert!(bytes.len() < 44 + 2 * 120_000, "{} bytes", bytes.len());

    // Nothing good before it: the status tells.
    let file = wav(&[32_000; 1_600], 16_000);
    let answer = post(&server, &counted("/v1/models/parrot?output=audio", "", &file));
    assert_eq!((answer.status, answer.error()["code"].as_str()), (500, Some("inference_failed")));
}

#[test]
fn uploads_take_the_places_of_streams() {
    let (server, gate) = start_gated(Config { sessions_max: 1, ..config() });
    let mut first = Client::connect(server.addr);
    first.send(request("POST", "/v1/models/gated", CHUNKED));
    first.send([&b"1900\r\n"[..], &[0; 6_400], b"\r\n"].concat());
    gate.await_begun();
    let refused = post(&server, &counted("/v1/models/gated", "", &[0; 640]));
    assert_eq!((refused.status, refused.error()["code"].as_str()), (503, Some("too_many_sessions")));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(metric(server.addr, "suzu_sessions"), 1.0);
    drop(gate);
    first.send("0\r\n\r\n");
    assert_eq!(whole_answer(&mut first).json()["termination"]["ledger"]["processed"], 3_200);
    assert_eq!(post(&server, &counted("/v1/models/gated", "", &[0; 640])).status, 200);
}

#[test]
fn who_leaves_in_the_middle_leaves_nothing_behind() {
    let server = TestServer::start_with(config(), models_with(Parrot::new()));
    for target in ["/v1/models/vad", "/v1/models/parrot?output=audio"] {
        let mut client = Client::connect(server.addr);
        client.send(request("POST", target, "Content-Length: 1000000\r\n"));
        client.send([0; 50_000]);
    }
    crate::support::await_that("both streams end", || {
        let figures = get(server.addr, "/v1/status").json();
        figures["streams"]["running"] == 0 && metric(server.addr, "suzu_samples_pending") == 0.0
    });
}

#[test]
fn who_sends_for_ever_and_never_reads_is_given_up() {
    let write_timeout = Duration::from_millis(200);
    let config = Config { write_timeout, ..config() };
    let server = TestServer::start_with(config, models_with(Parrot::new()));
    let mut client = Client::connect(server.addr);
    client.send(request("POST", "/v1/models/parrot?output=audio", "Content-Length: 1000000000000\r\n"));
    let piece = vec![0; 64_000];
    // The sockets between the two hold some megabytes.
    let refused = (0..10_000).any(|_| client.stream.write_all(&piece).is_err());
    assert!(refused, "the server took it all");
    crate::support::await_that("its stream is gone, and the reason counted", || {
        let figures = get(server.addr, "/api/metrics").json();
        let running = &get(server.addr, "/v1/status").json()["streams"]["running"];
        *running == 0 && figures["connections"]["closed"]["slow_consumer"] == 1
    });
}

#[test]
fn a_drain_finishes_what_is_there() {
    let (server, gate) = start_gated(config());
    let mut client = Client::connect(server.addr);
    client.send(request("POST", "/v1/models/gated", CHUNKED));
    client.send([&b"1900\r\n"[..], &[0; 6_400], b"\r\n"].concat());
    gate.await_begun();
    server.handle.drain();
    drop(gate);
    let answer = whole_answer(&mut client);
    client.await_closed();
    server.join();
    match answer.status {
        200 => {
            let json = answer.json();
            assert_eq!(json["termination"]["reason"], "draining");
            assert_eq!(of_type(&json, "Error")[0]["code"], "draining");
        }
        status => assert_eq!((status, answer.header("retry-after").is_some()), (503, true)),
    }
}

/// Half an hour at 16 kHz through a model that is much slower than the network: what the server holds stays small.
#[test]
fn half_an_hour_is_never_held() {
    let server = TestServer::start_with(config(), Registry::builtin());
    let mut client = Client::connect(server.addr);
    let mut sender = client.try_clone();
    let total: usize = 30 * 60 * 16_000 * 2;
    let mut held_max = 0.0f64;
    let answer = thread::scope(|scope| {
        let sent = scope.spawn(move || {
            sender.stream.set_write_timeout(Some(4 * DEADLINE)).expect("a time");
            sender.send(request("POST", "/v1/models/echo", &format!("Content-Length: {total}\r\n")));
            let piece = vec![0; 64_000];
            (0..total / piece.len()).for_each(|_| sender.send(&piece));
        });
        let answer = scope.spawn(move || whole_answer(&mut client));
        while !sent.is_finished() {
            let held: f64 = ["suzu_audio_bytes", "suzu_incoming_bytes", "suzu_outgoing_bytes"]
                .into_iter()
                .map(|name| metric(server.addr, name))
                .sum();
            held_max = held_max.max(held);
            thread::sleep(Duration::from_millis(5));
        }
        answer.join().expect("an answer")
    });
    let json = answer.json();
    assert_eq!(json["termination"]["ledger"]["processed"].as_u64(), Some(total as u64 / 2));
    assert!(held_max > 0.0 && held_max < 4.0 * (1 << 20) as f64, "{held_max} bytes were held");
}
