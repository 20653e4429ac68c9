//! `oip`: requests for inference by the Open Inference Protocol, whole server against the bare model in a loop.
//!
//! Connections that are kept ask the classifier of `tests/conformance/make_models.py` about one second of audio each
//! (16,000 floats), one request at a time: as binary tensors, as the JSON that Python's clients write (an FP32 as the
//! 17 digits of the FP64 that it becomes), and as JSON with no digit more than an FP32 needs. In between the bare
//! model runs on the same core, in calls of as many rows as the server's had on average. The last figures are of the
//! parser alone.

use super::bare::{Bare, noise, thread_cpu};
use super::figures::{heading, line, percentiles, ratio, share, us};
use super::peer::read_head;
use super::process::{DEADLINE, Server, bind_to_the_servers_core};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;
use suzu::driver::Clock;
use suzu::time::Instant;
use suzu::wire::oip::{InferLimits, InferRequest};

/// Elements of the model's input: a second at 16 kHz.
const ELEMENTS: usize = 16_000;
/// How often each is measured, in turns.
const ROUNDS: usize = 3;
/// Requests before the first that counts.
const REQUESTS_BEFORE: usize = 20;

/// A kind of request: its name and its bytes, with the length of the JSON at the beginning of a binary body.
struct Kind {
    name: &'static str,
    body: Vec<u8>,
    header_len: Option<usize>,
}

pub fn run(models: &Path, connections: usize, duration: Duration) {
    heading(&format!(
        "oip: requests of {ELEMENTS} floats on {connections} connections, {} s of each kind",
        duration.as_secs()
    ));
    let conv = Bare::conv(models);
    let server = Server::start(&["--models-dir", models.to_str().expect("a path in UTF-8")]);
    let stretch = duration / ROUNDS as u32;
    for kind in kinds() {
        let request = kind.request(server.addr);
        let (mut cpu, mut bare, mut ratios) = (Duration::ZERO, Duration::ZERO, Vec::new());
        let (mut latencies, mut took, mut calls) = (Vec::new(), Duration::ZERO, 0.0);
        for _ in 0..ROUNDS {
            let before = statistics(&server);
            let round = ask(&server, &request, connections, stretch);
            let after = statistics(&server);
            calls += after.1 - before.1;
            let rows = ((after.0 - before.0) / (after.1 - before.1)).round() as usize;
            let alone = conv.run(rows.max(1), stretch / 2) * round.latencies.len() as u32;
            ratios.push(round.cpu.div_duration_f64(alone));
            (cpu, bare, took) = (cpu + round.cpu, bare + alone, took + round.took);
            latencies.extend(round.latencies);
        }
        let count = latencies.len() as f64;
        line(kind.name, format!("{} bytes", kind.body.len()));
        line("  requests", format!("{:.0} / s, {:.1} in a call", count / took.as_secs_f64(), count / calls));
        line("  server CPU for each", us(cpu.div_f64(count)));
        line("  bare model, as many rows in a call", us(bare.div_f64(count)));
        ratio("  ratio", cpu, bare, ratios);
        line("  server CPU", share(cpu, took));
        percentiles("  request to answer", &mut latencies);
    }
    server.stop();
    parsers();
}

/// What a stretch of asking came to.
struct Asked {
    latencies: Vec<Duration>,
    cpu: Duration,
    took: Duration,
}

fn ask(server: &Server, request: &[u8], connections: usize, duration: Duration) -> Asked {
    let clock = Clock::new();
    let mut clients: Vec<_> = (0..connections).map(|_| Client::connect(server.addr)).collect();
    clients.iter_mut().for_each(|client| {
        client.ask(request);
    });
    for _ in 0..REQUESTS_BEFORE {
        clients[0].ask(request);
    }
    let (began, cpu) = (clock.instant(), server.cpu());
    let latencies = std::thread::scope(|scope| {
        let asking: Vec<_> = clients
            .into_iter()
            .map(|client| scope.spawn(|| keep_asking(client, request, began + duration, &clock)))
            .collect();
        asking.into_iter().flat_map(|client| client.join().expect("every request is answered")).collect()
    });
    Asked { latencies, cpu: (server.cpu() - cpu).total, took: clock.instant() - began }
}

fn keep_asking(mut client: Client, request: &[u8], until: Instant, clock: &Clock) -> Vec<Duration> {
    let mut latencies = Vec::new();
    loop {
        let departed = clock.instant();
        if departed > until {
            return latencies;
        }
        client.ask(request);
        latencies.push(clock.instant() - departed);
    }
}

/// A kept connection.
struct Client {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Client {
    fn connect(addr: SocketAddr) -> Client {
        let stream = TcpStream::connect(addr).expect("it listens");
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(DEADLINE)).expect("a valid time");
        Client { stream, answer: Vec::new() }
    }

    /// Asks and reads the answer, which must be a good one.
    fn ask(&mut self, request: &[u8]) {
        self.stream.write_all(request).expect("it reads");
        let head = String::from_utf8(read_head(&mut self.stream)).expect("UTF-8");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let length = head.to_ascii_lowercase();
        let length = length.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        self.answer.resize(length.expect("answers say how long they are"), 0);
        self.stream.read_exact(&mut self.answer).expect("the answer is whole");
        assert!(self.answer.windows(8).any(|word| word == b"\"scores\""), "an answer without scores");
    }
}

/// Rows that the model inferred, and in how many calls.
fn statistics(server: &Server) -> (f64, f64) {
    let answer = server.get("/v2/models/conv/stats");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let stats: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let count = |name: &str| stats["model_stats"][0][name].as_f64().expect("a number");
    (count("inference_count"), count("execution_count"))
}

impl Kind {
    fn request(&self, addr: SocketAddr) -> Vec<u8> {
        let mut head = format!("POST /v2/models/conv/infer HTTP/1.1\r\nHost: {addr}\r\n");
        let _ = write!(head, "Content-Length: {}\r\n", self.body.len());
        if let Some(len) = self.header_len {
            let _ = write!(head, "Inference-Header-Content-Length: {len}\r\n");
        }
        head.push_str("\r\n");
        [head.as_bytes(), &self.body].concat()
    }
}

fn kinds() -> [Kind; 3] {
    let audio: Vec<f32> = (0..ELEMENTS).map(noise).collect();
    let input = r#"{"name":"audio","datatype":"FP32","shape":[1,16000],"#;
    let bytes: Vec<u8> = audio.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let header = format!(
        r#"{{"inputs":[{input}"parameters":{{"binary_data_size":{}}}}}],"parameters":{{"binary_data_output":true}}}}"#,
        bytes.len()
    );
    let json = |numbers: Vec<String>| {
        format!(r#"{{"inputs":[{input}"data":[{}]}}]}}"#, numbers.join(", ")).into_bytes()
    };
    [
        Kind { name: "binary", header_len: Some(header.len()), body: [header.as_bytes(), &bytes].concat() },
        Kind {
            name: "JSON as Python writes it",
            header_len: None,
            body: json(audio.iter().map(|sample| f64::from(*sample).to_string()).collect()),
        },
        Kind {
            name: "JSON as short as can be",
            header_len: None,
            body: json(audio.iter().map(f32::to_string).collect()),
        },
    ]
}

/// What the parser takes for each float, beside serde_json with a tree and with a typed vector.
fn parsers() {
    #[derive(serde::Deserialize)]
    struct Typed {
        inputs: Vec<Input>,
    }
    #[derive(serde::Deserialize)]
    struct Input {
        data: Vec<f32>,
    }
    heading("oip: the parser alone");
    bind_to_the_servers_core();
    let limits = InferLimits { tensors_max: 8, elements_max: ELEMENTS };
    for Kind { name, body, header_len } in kinds() {
        let own = per_float(|| {
            let request = InferRequest::parse(&body, header_len, &limits).expect("a request");
            assert_eq!(request.inputs[0].tensor.data.len(), ELEMENTS);
        });
        if header_len.is_some() {
            line(name, format!("{own:.2} ns for each float"));
            continue;
        }
        let tree = per_float(|| {
            let tree: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(tree["inputs"][0]["data"].as_array().map(Vec::len), Some(ELEMENTS));
        });
        let typed = per_float(|| {
            let typed: Typed = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(typed.inputs[0].data.len(), ELEMENTS);
        });
        line(
            name,
            format!("{own:.1} ns for each float; serde_json into a vector {typed:.1}, into a tree {tree:.1}"),
        );
    }
}

fn per_float(mut parse: impl FnMut()) -> f64 {
    const TIMES: usize = 200;
    parse();
    let began = thread_cpu();
    (0..TIMES).for_each(|_| parse());
    (thread_cpu() - began).as_nanos() as f64 / (TIMES * ELEMENTS) as f64
}
