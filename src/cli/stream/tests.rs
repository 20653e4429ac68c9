//! The command as a whole, against a server that answers from a script.

use super::*;
use crate::model::TensorData;
use crate::wire::message::{
    AudioAdded, Configuration, Keepalive, Ledger, Limits, Results, SpeechBoundary, Tensor, Termination,
};
use crate::wire::websocket::{self, Decoder, Event, Role, accept_key};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

/// What becomes of the audio that the server gets.
#[derive(Clone, Copy, PartialEq)]
enum Server {
    /// Gives all of it back and balances.
    Right,
    /// Loses a sample in its balance.
    Unbalanced,
    /// Balances, but for less than was sent.
    Forgetful,
    /// Closes in the middle.
    Closing,
}

fn encoded(messages: &[ServerMessage]) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages {
        let mut text = Vec::new();
        message.encode(&mut text);
        websocket::encode_text(&mut out, std::str::from_utf8(&text).expect("UTF-8"), None);
    }
    out
}

fn begin(query: &str) -> ServerMessage {
    let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let params = StreamParams::parse(&pairs, StreamParams::default()).expect("a right query");
    ServerMessage::Begin(Box::new(Begin {
        session_id: "s".into(),
        request_id: "r".into(),
        resumed: false,
        resume_token: None,
        resume_ttl_s: 0.0,
        audio_seq: 0,
        audio_ms: 0.0,
        message_seq: 0,
        credit_ms: 100.0,
        keepalive: Keepalive { ping_s: 25.0, audio_idle_s: 30.0 },
        limits: Limits { max_frame_bytes: 40_000, max_session_s: 60.0 },
        configuration: Configuration::from(&params),
    }))
}

/// Serves one stream of 8 kHz linear16 mono. Gives the query that the client asked with.
fn serve(server: Server) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}", listener.local_addr().expect("bound"));
    let thread = thread::spawn(move || {
        let (mut tcp, _) = listener.accept().expect("a client");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            tcp.read_exact(&mut byte).expect("a request");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("ASCII");
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
        let query =
            head.split_whitespace().nth(1).and_then(|target| target.split_once('?')).expect("a query").1;
        write!(
            tcp,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            accept_key(key)
        )
        .expect("an answer");
        tcp.write_all(&encoded(&[begin(query)])).expect("an answer");
        converse(tcp, server);
        query.to_owned()
    });
    (url, thread)
}

fn converse(mut tcp: TcpStream, server: Server) {
    let mut decoder = Decoder::new(Role::Server, 1 << 20);
    let mut buffer = vec![0; 4096];
    let mut received = 0u64;
    loop {
        let count = match tcp.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        let mut input = &mut buffer[..count];
        while let Some(event) = decoder.next(&mut input).expect("a right client") {
            let out = match event {
                Event::Binary(_) if server == Server::Closing => {
                    let mut out = Vec::new();
                    websocket::encode_close(&mut out, 4429, "too fast", None);
                    out
                }
                Event::Binary(audio) => {
                    received += audio.len() as u64 / 2;
                    on_audio(audio, received)
                }
                Event::Text(text) if text.contains("CloseStream") => on_close(received, server),
                Event::Text(text) => panic!("{text}"),
                Event::Close { .. } => return,
                Event::Ping(_) | Event::Pong(_) => Vec::new(),
            };
            if tcp.write_all(&out).is_err() {
                return;
            }
        }
    }
}

fn on_audio(audio: &[u8], received: u64) -> Vec<u8> {
    let ms = |samples: u64| samples as f64 / 8.0;
    let duration_ms = ms(audio.len() as u64 / 2);
    let (message_seq, start_ms) = (received, ms(received) - duration_ms);
    let tensor =
        Tensor { name: "speech_probability".into(), shape: vec![1], data: TensorData::Fp32(vec![0.5]) };
    let results = Results {
        message_seq,
        start_ms,
        duration_ms,
        is_final: true,
        outputs: vec![tensor],
        ..Results::default()
    };
    let added = AudioAdded {
        seq: received,
        audio_ms: ms(received),
        processed_ms: ms(received),
        discarded_ms: 0.0,
        credit_ms: 100.0,
        lag_ms: 0.0,
    };
    let started = SpeechBoundary { message_seq, at_ms: start_ms };
    let mut out = encoded(&[
        ServerMessage::Results(results),
        ServerMessage::SpeechStarted(started),
        ServerMessage::AudioAdded(added),
    ]);
    websocket::encode_binary(&mut out, audio, None);
    out
}

fn on_close(received: u64, server: Server) -> Vec<u8> {
    let mut ledger = Ledger { received, processed: received, discarded: 0, pending: 0 };
    match server {
        Server::Unbalanced => ledger.processed -= 1,
        Server::Forgetful => ledger = Ledger { received: received - 1, processed: received - 1, ..ledger },
        Server::Right | Server::Closing => {}
    }
    let ms = received as f64 / 8.0;
    let mut out = encoded(&[ServerMessage::Termination(Box::new(Termination {
        audio_received_ms: ms,
        processed_ms: ms,
        discarded_ms: 0.0,
        results: 1,
        reason: "finished".into(),
        ledger,
    }))]);
    websocket::encode_close(&mut out, 1000, "", None);
    out
}

fn write_wav(path: &Path, samples: usize) -> Vec<i16> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 8_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let samples: Vec<i16> = (0..samples).map(|index| (index as i16).wrapping_mul(31)).collect();
    let mut writer = hound::WavWriter::create(path, spec).expect("a file");
    for &sample in &samples {
        writer.write_sample(sample).expect("written");
    }
    writer.finalize().expect("written");
    samples
}

fn stream(arguments: &[&str]) -> Result<(), String> {
    let arguments = ["stream", "--quiet"].iter().chain(arguments);
    let matches = command().try_get_matches_from(arguments).map_err(|error| error.to_string())?;
    run(&matches, &[]).map_err(|error| error.to_string())
}

#[test]
fn the_arguments_are_well_formed() {
    command().debug_assert();
    for wrong in [
        &["a.wav", "--speed", "0"][..],
        &["a.wav", "--chunk", "0ms"],
        &["a.wav", "--chunk", "1h"],
        &["a.wav", "--encoding", "opus"],
        &["a.wav", "--json"], // with --quiet
        &[],
    ] {
        assert!(stream(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn what_comes_back_is_written_and_every_sample_is_accounted_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let (source, out) = (directory.path().join("in.wav"), directory.path().join("out.wav"));
    let samples = write_wav(&source, 2_345);
    // The third chunk is longer than all the credit.
    let ways = [
        ("block", "30ms", "max"),
        ("close", "30ms", "max"),
        ("close", "500ms", "max"),
        ("block", "30ms", "20"),
    ];
    for (overflow, chunk, speed) in ways {
        let (url, server) = serve(Server::Right);
        let overflow = format!("overflow={overflow}");
        let result = stream(&[
            &source.to_string_lossy(),
            "--out",
            &out.to_string_lossy(),
            "--url",
            &url,
            "--model",
            "denoise",
            "--chunk",
            chunk,
            "--speed",
            speed,
            "--param",
            &overflow,
        ]);
        assert_eq!(result, Ok(()), "{overflow}");
        let query = server.join().expect("the server's script");
        assert!(query.contains("model=denoise") && query.contains("sample_rate=8000"), "{query}");
        let written: Vec<i16> = hound::WavReader::open(&out)
            .expect("a WAV")
            .into_samples()
            .collect::<Result<_, _>>()
            .expect("samples");
        assert_eq!(written, samples);
    }
}

#[test]
fn a_wrong_balance_is_a_failure() {
    let directory = tempfile::tempdir().expect("a directory");
    let source = directory.path().join("in.wav");
    write_wav(&source, 800);
    for (server, says) in [
        (Server::Unbalanced, "the server's balance is wrong"),
        (Server::Forgetful, "800 samples were sent and the server received 799"),
        (Server::Closing, "closed the stream with code 4429: too fast"),
    ] {
        let (url, thread) = serve(server);
        let error = stream(&[&source.to_string_lossy(), "--url", &url, "--speed", "max"]).expect_err(says);
        assert!(error.contains(says), "{error}");
        thread.join().expect("the server's script");
    }
}

#[test]
fn a_chunk_that_the_server_does_not_take_is_refused_before_it_is_sent() {
    let directory = tempfile::tempdir().expect("a directory");
    let source = directory.path().join("in.wav");
    write_wav(&source, 80);
    let (url, server) = serve(Server::Right);
    let error = stream(&[&source.to_string_lossy(), "--url", &url, "--chunk", "10s"]).expect_err("too large");
    assert!(error.contains("160000 bytes") && error.contains("shorter --chunk"), "{error}");
    server.join().expect("the server's script");
}

#[test]
fn what_failed_says_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let source = directory.path().join("in.wav");
    write_wav(&source, 80);
    let source = source.to_string_lossy();
    // Bound and dropped: nobody listens there now.
    let address =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let url = format!("http://{address}");
    for (arguments, says) in [
        (&[&*source, "--url", &url][..], "suzu serve"),
        (&[&source, "--url", "localhost"], "ws://127.0.0.1:8080"),
        (&[&source, "--out", &source], "write to another"),
        (&["no-such-file.wav"], "cannot open no-such-file.wav"),
        (&[&source, "--param", "overflow"], "NAME=VALUE"),
        (&[&source, "--param", "overflow=drop"], "block, discard_oldest, close"),
        (&[&source, "--param", "model=vad"], "--model"),
        (&[&source, "--param", "channels=2"], "the WAV says that"),
    ] {
        let error = stream(arguments).expect_err(says);
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
}
