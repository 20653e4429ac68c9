//! The rivals say on the wire what Suzu says. Suzu runs inside this process, each rival as a process of its own.
//!
//! Those that are ignored need the models that `tests/conformance/run --only-models` makes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;
use suzu::client::{Options, Received, Stream};
use suzu::config::Config;
use suzu::driver::{EventLoop, Handle};
use suzu::model::{Registry, Repository, RepositoryOptions};
use suzu::wire::message::{ServerMessage, SpeechBoundary, StreamParams};
use tokio_tungstenite::tungstenite::{Message, client::client};

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

/// Every server that streams, in each of its ways.
const SERVERS: &[&[&str]] = &[
    &["tokio"],
    &["tokio", "--tuned"],
    &["tokio", "--tuned", "--runtime", "multi", "--threads", "2", "--inference", "inline"],
    &["axum", "--inference", "batched"],
    &["axum", "--runtime", "multi"],
    &["fastwebsockets"],
    &["fastwebsockets", "--inference", "batched"],
];

/// A rival's process. Killed when it goes out of scope.
struct Rival {
    child: Child,
    addr: SocketAddr,
}

impl Rival {
    fn start(args: &[&str]) -> Rival {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rival"));
        let mut child = command.args(args).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        let stderr = child.stderr.as_mut().expect("it was asked for");
        BufReader::new(stderr).read_line(&mut line).expect("it tells its address");
        let addr = line.trim().strip_prefix("listening on http://").and_then(|addr| addr.parse().ok());
        Rival { addr: addr.unwrap_or_else(|| panic!("{args:?} said {line:?}")), child }
    }

    fn models(args: &[&str]) -> Rival {
        let models = models();
        Rival::start(&[args, &["--models", models.to_str().expect("a path in UTF-8")]].concat())
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Suzu inside this process.
struct Suzu {
    addr: SocketAddr,
    handle: Handle,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Suzu {
    fn start(models_dir: Option<PathBuf>) -> Suzu {
        let config = Config { port: 0, ..Config::default() };
        let mut models = Registry::builtin();
        let folder = models_dir.map(|folder| Repository::new(folder, RepositoryOptions::default()));
        for (name, loaded) in folder.iter().flat_map(Repository::load_all) {
            if ["gru", "conv"].contains(&name.as_str()) {
                models.insert_loaded(loaded.expect("a model of the conformance tests"));
            }
        }
        let event_loop = EventLoop::bind_with(config, models, folder).expect("a free port");
        let (addr, handle) = (event_loop.local_addr(), event_loop.handle());
        Suzu { addr, handle, thread: Some(std::thread::spawn(move || event_loop.run())) }
    }
}

impl Drop for Suzu {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the loop does not panic").expect("the loop ends well");
        }
    }
}

/// What a stream said, however it was cut into results.
#[derive(Debug, Default, PartialEq)]
struct Said {
    /// Each output's name with all its rows.
    outputs: Vec<(String, Vec<f64>)>,
    speech_probability: Option<f32>,
    is_speech: Option<bool>,
    started_ms: Vec<f64>,
    ended_ms: Vec<f64>,
    /// Up to where the results went.
    until_ms: f64,
    samples: u64,
}

/// Streams the sample in chunks of so many bytes and checks what holds for any server.
fn listen(addr: SocketAddr, model: &str, chunk_bytes: usize) -> Said {
    let params = StreamParams { model: model.into(), ..StreamParams::default() };
    let options = Options { params, read_timeout: Some(DEADLINE), ..Options::default() };
    let (sender, mut receiver) =
        Stream::connect(&format!("ws://{addr}"), &options).expect("a stream").split();
    let sending = std::thread::spawn(move || {
        for chunk in sample().chunks(chunk_bytes) {
            sender.send_audio(chunk).expect("the server reads");
        }
        sender.close_stream().expect("the server reads");
    });
    let (mut said, mut seq, mut results, mut ended) = (Said::default(), 0, 0, false);
    let mut next = |message_seq| {
        seq += 1;
        assert_eq!(message_seq, seq, "numbered messages have no gaps");
    };
    let first = receiver.recv().expect("it speaks");
    assert!(matches!(first, Some(Received::Message(ServerMessage::Begin(_)))), "{first:?}");
    while let Some(received) = receiver.recv().expect("the server keeps to the protocol") {
        assert!(!ended || matches!(received, Received::Closed { .. }), "{received:?} after Termination");
        match received {
            Received::Message(ServerMessage::Results(found)) => {
                next(found.message_seq);
                results += 1;
                assert_eq!(found.start_ms, said.until_ms, "results follow each other");
                said.until_ms = ((found.start_ms + found.duration_ms) * 1e3).round() / 1e3;
                said.speech_probability = found.speech_probability;
                said.is_speech = found.is_speech;
                for (place, tensor) in found.outputs.into_iter().enumerate() {
                    if said.outputs.len() == place {
                        said.outputs.push((tensor.name.into_owned(), Vec::new()));
                    }
                    said.outputs[place].1.extend(elements(&tensor.data));
                }
            }
            Received::Message(ServerMessage::SpeechStarted(SpeechBoundary { message_seq, at_ms })) => {
                next(message_seq);
                said.started_ms.push(at_ms);
            }
            Received::Message(ServerMessage::SpeechEnded(SpeechBoundary { message_seq, at_ms })) => {
                next(message_seq);
                said.ended_ms.push(at_ms);
            }
            Received::Message(ServerMessage::Termination(end)) => {
                assert!(end.ledger.balances() && end.ledger.pending == 0, "{end:?}");
                assert_eq!((end.results, &*end.reason), (results, "finished"));
                said.samples = end.ledger.processed;
                ended = true;
            }
            Received::Message(ServerMessage::AudioAdded(_)) => {}
            Received::Closed { code, .. } => assert_eq!(code, Some(1000)),
            other => panic!("the server sent {other:?}"),
        }
    }
    assert!(ended, "a stream ends with Termination");
    sending.join().expect("everything was sent");
    said
}

/// The elements of a tensor, whichever type they have.
fn elements(data: &suzu::model::TensorData) -> Vec<f64> {
    use suzu::model::TensorData::{Fp32, Uint32};
    match data {
        Fp32(elements) => elements.iter().map(|&element| f64::from(element)).collect(),
        Uint32(elements) => elements.iter().map(|&element| f64::from(element)).collect(),
        other => panic!("no model here gives {other:?}"),
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn wav() -> PathBuf {
    root().join("tests/data/speech-noisy.wav")
}

fn models() -> PathBuf {
    root().join("target/conformance/models")
}

fn sample() -> Vec<u8> {
    let mut reader = hound::WavReader::open(wav()).expect("it is part of the repository");
    reader.samples::<i16>().flat_map(|sample| sample.expect("a whole file").to_le_bytes()).collect()
}

#[test]
fn suzu_stream_finds_no_fault_with_any_rival() {
    for server in SERVERS {
        let rival = Rival::start(server);
        for model in ["vad", "echo"] {
            let url = format!("ws://{}", rival.addr);
            let wav = wav();
            let wav = wav.to_str().expect("a path in UTF-8");
            let args = ["suzu", "stream", wav, "--url", &url, "--model", model, "--speed", "max", "--quiet"];
            let code = suzu::cli::run(args.map(Into::into), []);
            assert_eq!(code, ExitCode::SUCCESS, "{server:?} {model}");
        }
    }
}

#[test]
fn every_rival_says_of_speech_what_suzu_says() {
    let suzu = Suzu::start(None);
    for model in ["vad", "echo"] {
        let expected = listen(suzu.addr, model, 3200);
        assert_eq!(expected.samples as usize, sample().len() / 2);
        assert_eq!(model == "vad", !expected.started_ms.is_empty(), "the sample holds speech");
        for server in SERVERS {
            let rival = Rival::start(server);
            // Odd chunks: samples and windows are cut everywhere.
            for chunk_bytes in [3200, 1001] {
                assert_eq!(
                    listen(rival.addr, model, chunk_bytes),
                    expected,
                    "{server:?} {model} {chunk_bytes}"
                );
            }
        }
    }
}

#[test]
#[ignore = "needs the models of tests/conformance/run --only-models"]
fn every_rival_says_of_the_gru_what_suzu_says() {
    let suzu = Suzu::start(Some(models()));
    let expected = listen(suzu.addr, "gru", 1024);
    for server in SERVERS {
        for engine in ["rten", "ort"] {
            let rival = Rival::models(&[*server, &["--engine", engine]].concat());
            let said = listen(rival.addr, "gru", 1024);
            assert_eq!(said.until_ms, expected.until_ms);
            assert_eq!(said.outputs.len(), expected.outputs.len());
            for ((name, own), (other, theirs)) in said.outputs.iter().zip(&expected.outputs) {
                assert_eq!((name, own.len()), (other, theirs.len()), "{server:?} {engine}");
                let apart = own.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                // The engines add up in different orders.
                assert!(apart < 1e-3, "{server:?} {engine}: {name} is {apart} apart");
            }
        }
    }
}

#[test]
fn every_rival_returns_binary_messages_as_they_came() {
    for server in SERVERS {
        let rival = Rival::start(server);
        let stream = TcpStream::connect(rival.addr).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a valid time");
        let (mut socket, _) = client(format!("ws://{}/v1/echo", rival.addr), stream).expect("a WebSocket");
        let messages: Vec<Message> =
            (0..64).map(|n| Message::binary(vec![n as u8; [0, 1, 125, 126, 640, 70_000][n % 6]])).collect();
        for ahead in messages.chunks(16) {
            ahead.iter().for_each(|message| socket.write(message.clone()).expect("it reads"));
            socket.flush().expect("it reads");
            for message in ahead {
                assert_eq!(&socket.read().expect("it answers"), message, "{server:?}");
            }
        }
        socket.close(None).expect("it reads");
        let closed =
            std::iter::repeat_with(|| socket.read()).find(|read| !matches!(read, Ok(Message::Close(_))));
        assert!(closed.is_some_and(|end| end.is_err()), "{server:?} closes");
    }
}

#[test]
fn bytes_come_back_from_the_bare_rival_however_many_are_on_the_way() {
    let rival = Rival::start(&["bare"]);
    let mut stream = TcpStream::connect(rival.addr).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a valid time");
    // More than the kernel holds, so that the rival has to wait with what it could not write.
    let bytes: Vec<u8> = (0..32 << 20).map(|n: u32| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let (mut writer, sent) = (stream.try_clone().expect("a descriptor"), bytes.clone());
    let writing = std::thread::spawn(move || writer.write_all(&sent).expect("it reads"));
    let mut returned = vec![0; bytes.len()];
    stream.read_exact(&mut returned).expect("it answers");
    writing.join().expect("all was sent");
    assert!(returned == bytes, "other bytes came back");
}

#[test]
fn what_is_not_served_is_refused_before_the_upgrade() {
    for server in [&["tokio"][..], &["axum"], &["fastwebsockets"]] {
        let rival = Rival::start(server);
        for target in
            ["/v1/stream?model=none", "/v1/stream?model=vad&sample_rate=8000", "/v1/stream?model=gru"]
        {
            let stream = TcpStream::connect(rival.addr).expect("it listens");
            let refused = client(format!("ws://{}{target}", rival.addr), stream);
            assert!(refused.is_err(), "{server:?} {target}");
        }
    }
}

/// The answer to a request on a connection of its own: its head and its body.
fn ask(addr: SocketAddr, head: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a valid time");
    let length = body.len();
    let head = format!("{head}Host: here\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers and closes");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let body = answer.split_off(end + 4);
    (String::from_utf8(answer).expect("UTF-8"), body)
}

#[test]
#[ignore = "needs the models of tests/conformance/run --only-models"]
fn axum_answers_requests_for_inference_as_suzu_does() {
    let suzu = Suzu::start(Some(models()));
    let audio: Vec<f32> = (0..16_000).map(|n| ((n * 37 % 1000) as f32 - 500.0) / 1000.0).collect();
    let input = r#"{"name":"audio","datatype":"FP32","shape":[1,16000],"#;
    let json =
        format!(r#"{{"inputs":[{input}"data":{}}}]}}"#, serde_json::to_string(&audio).expect("numbers"));
    let bytes: Vec<u8> = audio.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let header = format!(
        r#"{{"inputs":[{input}"parameters":{{"binary_data_size":64000}}}}],"parameters":{{"binary_data_output":true}}}}"#
    );
    let binary = [header.as_bytes(), &bytes].concat();
    let scores = |addr| {
        let post = "POST /v2/models/conv/infer HTTP/1.1\r\n";
        let (head, body) = ask(addr, &format!("{post}Content-Type: application/json\r\n"), json.as_bytes());
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let answer: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let output = &answer["outputs"][0];
        assert_eq!((&output["name"], &output["shape"]), (&"scores".into(), &vec![1, 10].into()));
        let as_json: Vec<f32> = serde_json::from_value(output["data"].clone()).expect("numbers");

        let length = format!("{post}Inference-Header-Content-Length: {}\r\n", header.len());
        let (head, body) = ask(addr, &length, &binary);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let as_bytes: Vec<f32> = body[body.len() - 40..]
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        assert_eq!(as_json, as_bytes, "the same, however it is written");
        as_json
    };
    let expected = scores(suzu.addr);
    for inference in ["inline", "blocking", "batched"] {
        let rival = Rival::models(&["axum", "--inference", inference]);
        let apart = scores(rival.addr).iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-4, "{inference}: {apart} apart");
        let (head, body) = ask(rival.addr, "GET /v2/models/conv HTTP/1.1\r\n", b"");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let metadata: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(metadata["inputs"][0]["shape"], serde_json::json!([-1, 16_000]));
    }
}
