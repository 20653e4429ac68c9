//! TLS over real sockets: the same conversations as without, faults of the greeting, and a new certificate.

use crate::answer::{Answer, metric, request};
use crate::bridge::{Certificates, TlsStream};
use crate::cli::suzu;
use crate::stream_client::{Story, StreamClient, tone_ms};
use crate::streams::recording;
use crate::support::{BINARY, Client, DEADLINE, TestServer, await_that, config, dribble_until_closed, frame};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;
use suzu::client::{Connection, Error, Message, Options};
use suzu::config::Config;
use suzu::model::Registry;

/// A server with TLS, and a bridge for clients without.
struct Secure {
    server: TestServer,
    certificates: Certificates,
    bridge: SocketAddr,
}

impl Secure {
    fn start() -> Self {
        Self::start_with(config())
    }

    fn start_with(config: Config) -> Self {
        let certificates = Certificates::new();
        let server = TestServer::start_bare(certificates.on(config), Registry::builtin());
        let bridge = certificates.bridge(server.addr);
        Self { server, certificates, bridge }
    }

    fn connect(&self) -> TlsStream {
        self.certificates.connect(self.server.addr).expect("a trusted server")
    }

    fn options(&self) -> Options {
        let ca_file = Some(self.certificates.path("ca.pem"));
        Options { ca_file, read_timeout: Some(DEADLINE), ..Options::default() }
    }

    fn echo_url(&self) -> String {
        format!("wss://localhost:{}/v1/echo", self.server.addr.port())
    }

    /// That the others are served as ever.
    fn check_others(&self) {
        Client::websocket(self.bridge, "/v1/echo").echo(b"others are served");
    }
}

fn echo(connection: &mut Connection, payload: &[u8]) {
    connection.send(payload).expect("the server reads");
    let heard = connection.recv().expect("an answer");
    assert!(heard == Some(Message::Binary(payload.to_vec())), "other bytes came back than were sent");
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count as u32).map(|place| (place.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    let secure = Secure::start();
    let mut client = Client::connect(secure.bridge);
    for _ in 0..3 {
        assert_eq!(client.ask("GET", "/health/live", "").status, 200);
    }
    let Answer { status, .. } = client.ask("GET", "/nowhere", "");
    assert_eq!(status, 404);
    await_that("the greeting is counted", || metric(secure.bridge, "suzu_tls_handshakes_total") >= 1.0);
}

#[test]
fn the_protocol_is_agreed_on_and_others_are_refused() {
    let secure = Secure::start();
    let stream =
        secure.certificates.connect_as(secure.server.addr, &["h2", "http/1.1"]).expect("one of them");
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    let refused = secure.certificates.connect_as(secure.server.addr, &["h2"]).expect_err("not spoken");
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    let stream = secure.certificates.connect_as(secure.server.addr, &[]).expect("who offers none is served");
    assert_eq!(stream.conn.alpn_protocol(), None);
    secure.check_others();
}

/// What does not depend on when chunks arrived.
fn said(story: &Story) -> (Vec<f64>, Vec<(String, f64)>, Vec<u8>) {
    let events = story
        .messages
        .iter()
        .filter_map(|message| Some((message["type"].as_str()?.to_owned(), message.get("at_ms")?.as_f64()?)));
    (story.tensor("speech_probability"), events.collect(), story.audio.concat())
}

#[test]
fn streams_give_the_same_results_as_without_tls() {
    let secure = Secure::start();
    let plain = TestServer::start();
    let bytes = recording("speech-noisy.wav");
    for target in ["/v1/stream?model=vad", "/v1/stream?model=denoise"] {
        let play = |addr| {
            let mut stream = StreamClient::open(addr, target);
            bytes.chunks(3_194).for_each(|chunk| stream.audio(chunk));
            let story = stream.finish();
            story.termination();
            (said(&story), story.close)
        };
        let (over_tls, over_tcp) = (play(secure.bridge), play(plain.addr));
        assert!(over_tls == over_tcp, "{target}: other results than without TLS");
        assert!(!over_tls.0.0.is_empty() || !over_tls.0.2.is_empty(), "{target} gave nothing");
    }
}

#[test]
fn a_large_message_goes_both_ways_through_small_buffers() {
    let secure = Secure::start();
    let narrow = secure.certificates.bridge_with(secure.server.addr, |tcp| {
        let socket = socket2::SockRef::from(tcp);
        socket.set_recv_buffer_size(32 * 1024).unwrap();
        socket.set_send_buffer_size(32 * 1024).unwrap();
    });
    let large = pattern(4 << 20);
    let mut client = Client::websocket(narrow, "/v1/echo");
    // All of it is sent before anything is read.
    client.send_message(BINARY, &large);
    client.hear_echo(&large);
    client.echo(b"and on it goes");
    assert_eq!(metric(secure.bridge, "suzu_outgoing_bytes"), 0.0);
}

#[test]
fn the_librarys_client_speaks_it() {
    let secure = Secure::start();
    let mut connection = Connection::open(&secure.echo_url(), &secure.options()).expect("a trusted server");
    echo(&mut connection, b"hello");
    for count in [0, 1, 16_384, 16_385, 1 << 20] {
        echo(&mut connection, &pattern(count));
    }
    // Tickets of the session came meanwhile; they are no message.
    assert!(connection.is_usable());
    connection.close(1000, "").expect("sent");
    assert!(matches!(connection.recv(), Ok(Some(Message::Closed { code: Some(1000), .. }))));
}

#[test]
fn the_librarys_client_trusts_nobody_without_reason() {
    let secure = Secure::start();
    let other = Certificates::new();
    let wrong = Options { ca_file: Some(other.path("ca.pem")), ..Options::default() };
    for (options, part) in [(Options::default(), "--ca-file"), (wrong, "--ca-file")] {
        let refused = Connection::open(&secure.echo_url(), &options).err().expect("an unknown authority");
        assert!(matches!(&refused, Error::Tls { why, .. } if why.contains(part)), "{refused}");
        assert!(!refused.is_retryable());
    }
    let plain = TestServer::start_bare(config(), Registry::builtin());
    let url = format!("wss://localhost:{}/v1/echo", plain.addr.port());
    let refused = Connection::open(&url, &secure.options()).err().expect("no TLS there");
    assert!(refused.to_string().contains("ws://"), "{refused}");
    secure.check_others();
}

#[test]
fn a_server_that_does_not_keep_up_leaves_the_socket_alone_and_loses_nothing() {
    let secure = Secure::start_with(Config {
        audio_held_max: Duration::from_millis(200),
        run_max: Duration::from_millis(100),
        ..config()
    });
    let stream = StreamClient::open(secure.bridge, "/v1/stream?model=denoise&overflow=block");
    let mut sender = stream.client.try_clone();
    let sending = std::thread::spawn(move || {
        for chunk in 0..400 {
            sender.send_message(BINARY, &tone_ms(5 * (1 + chunk % 40)));
        }
        sender.send_message(1, br#"{"type":"CloseStream"}"#);
    });
    let story = stream.rest();
    sending.join().unwrap();
    assert_eq!(story.termination()["processed_ms"], 10 * 4_100);
    assert_eq!(story.audio.concat().len(), 10 * 4_100 * 32);
}

#[test]
fn a_peer_that_does_not_read_meets_the_write_timeout() {
    let secure = Secure::start_with(Config { write_timeout: Duration::from_millis(300), ..config() });
    let mut stream = secure.connect();
    socket2::SockRef::from(&stream.sock).set_recv_buffer_size(4096).unwrap();
    stream.write_all(crate::answer::upgrade_request("/v1/echo", "").as_bytes()).unwrap();
    stream.write_all(&frame(BINARY, &pattern(8 << 20))).unwrap();
    await_that("it is given up", || metric(secure.bridge, "suzu_connections") <= 1.0);
    assert_eq!(metric(secure.bridge, "suzu_outgoing_bytes"), 0.0);
    secure.check_others();
}

#[test]
fn who_finished_sending_still_gets_the_answer() {
    let secure = Secure::start();
    for _ in 0..20 {
        // With the goodbye of TLS.
        let mut client = Client::websocket(secure.bridge, "/v1/echo");
        client.send_message(BINARY, b"last words");
        client.finish_sending();
        client.hear_echo(b"last words");
        client.await_closed();
        // Without it.
        let mut stream = secure.connect();
        stream.write_all(crate::answer::upgrade_request("/v1/echo", "").as_bytes()).unwrap();
        stream.write_all(&frame(BINARY, b"last words")).unwrap();
        stream.flush().unwrap();
        stream.sock.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).expect("the server says goodbye");
        assert!(heard.windows(10).any(|window| window == b"last words"), "{heard:?}");
    }
}

#[test]
fn a_long_answer_before_the_close_is_not_cut_off() {
    let secure = Secure::start();
    for _ in 0..10 {
        let mut stream = secure.connect();
        socket2::SockRef::from(&stream.sock).set_recv_buffer_size(4096).unwrap();
        let ask = request("GET", "/metrics", "Connection: close\r\n");
        stream.write_all(ask.as_bytes()).unwrap();
        stream.flush().unwrap();
        let mut heard = Vec::new();
        // An end without a goodbye would be an error.
        stream.read_to_end(&mut heard).expect("the server says goodbye");
        let text = String::from_utf8(heard).unwrap();
        assert!(text.starts_with("HTTP/1.1 200") && text.trim_end().ends_with("# EOF"), "{text}");
    }
}

/// The first bytes of a real greeting.
fn hello(secure: &Secure) -> Vec<u8> {
    let mut bytes = Vec::new();
    secure.certificates.session(&[]).write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn who_is_slow_to_greet_is_closed_and_disturbs_nobody() {
    let secure = Secure::start_with(Config { tls_handshake_timeout: Duration::from_millis(500), ..config() });
    let mut healthy = Client::websocket(secure.bridge, "/v1/echo");
    let hello = hello(&secure);
    let slow = (0..50).map(|_| TcpStream::connect(secure.server.addr).unwrap()).collect();
    dribble_until_closed(slow, &hello[..60], |place| healthy.echo(&pattern(place)));
    await_that("they are counted", || metric(secure.bridge, "suzu_tls_handshakes_failed_total") >= 50.0);
    healthy.echo(b"still here");
}

#[test]
fn who_holds_half_records_takes_nothing_from_the_others() {
    let secure = Secure::start_with(Config { tls_bytes_total_max: 256 << 10, ..config() });
    let begun = [&[22, 3, 1, 0x40, 0][..], &[1, 0, 0x3f, 0xfc], &[0; 15_000]].concat();
    let greedy = |_| {
        let mut stream = TcpStream::connect(secure.server.addr).unwrap();
        stream.write_all(&begun).unwrap();
        stream
    };
    let greedy: Vec<_> = (0..40).map(greedy).collect();
    let mut healthy = Connection::open(&secure.echo_url(), &secure.options()).expect("served");
    for count in [10, 40_000, 1 << 20] {
        echo(&mut healthy, &pattern(count));
    }
    // Records that come in many pieces.
    let mut stream = secure.connect();
    stream.write_all(crate::answer::upgrade_request("/v1/echo", "").as_bytes()).unwrap();
    let message = frame(BINARY, &pattern(40_000));
    stream.conn.set_buffer_limit(None);
    stream.conn.writer().write_all(&message).unwrap();
    let mut sealed = Vec::new();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut sealed).unwrap();
    }
    for piece in sealed.chunks(700) {
        stream.sock.write_all(piece).unwrap();
    }
    let mut heard = vec![0; 129 + 4 + 40_000];
    stream.read_exact(&mut heard).expect("the echo behind the answer");
    drop(greedy);
    secure.check_others();
}

#[test]
fn what_is_no_greeting_is_answered_by_an_alert_and_closed() {
    let secure = Secure::start();
    let mut healthy = Client::websocket(secure.bridge, "/v1/echo");
    let noise = pattern(3_000);
    for bytes in
        [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], &noise, &[22, 3, 1, 255, 255], &[0; 70_000]]
    {
        let mut stream = TcpStream::connect(secure.server.addr).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // It may be closed before all is written.
        let _ = stream.write_all(bytes);
        let mut heard = Vec::new();
        let end = stream.read_to_end(&mut heard);
        assert!(heard.len() >= 7 || end.is_err(), "neither an alert nor a reset: {heard:?}");
        let plain = String::from_utf8_lossy(&heard).contains("This port speaks TLS");
        assert!(heard.is_empty() || heard[0] == 21 || (bytes[0] == b'G' && plain), "no alert: {heard:?}");
        healthy.echo(bytes);
    }
    // In the middle of an open connection.
    let mut stream = secure.connect();
    stream.sock.write_all(&[23, 3, 3, 0, 40]).unwrap();
    stream.sock.write_all(&[7; 40]).unwrap();
    let mut byte = [0];
    let broken = stream.read(&mut byte).expect_err("the record is not sealed");
    assert!(broken.to_string().contains("BadRecordMac"), "{broken}");
    healthy.echo(b"still here");
}

#[test]
fn many_greet_at_once_and_all_are_served() {
    let secure = Secure::start();
    let (url, options) = (secure.echo_url(), secure.options());
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let (url, options) = (&url, &options);
            scope.spawn(move || {
                let mut connections: Vec<_> =
                    (0..10).map(|_| Connection::open(url, options).expect("served")).collect();
                for round in 0..5 {
                    connections.iter_mut().for_each(|connection| echo(connection, &[thread, round]));
                }
            });
        }
    });
    await_that("all are gone", || metric(secure.bridge, "suzu_connections") <= 1.0);
    assert_eq!(metric(secure.bridge, "suzu_tls_handshakes_failed_total"), 0.0);
}

/// A certificate is renewed, by a signal or by a request, while connections are open.
fn renew(reload: impl Fn(&Secure)) {
    let secure = Secure::start();
    let (addr, before) = (secure.server.addr, &secure.certificates);
    let mut old = Connection::open(&secure.echo_url(), &secure.options()).expect("a trusted server");
    echo(&mut old, b"before");

    // A certificate without its key is not taken.
    let chain = std::fs::read(before.path("chain.pem")).unwrap();
    let other = Certificates::new();
    std::fs::copy(other.path("chain.pem"), before.path("chain.pem")).unwrap();
    reload(&secure);
    for _ in 0..20 {
        echo(&mut old, b"meanwhile");
        secure.connect();
    }
    std::fs::write(before.path("chain.pem"), chain).unwrap();

    let mut renewed = Certificates::new();
    renewed.replace();
    for name in ["chain.pem", "key.pem"] {
        std::fs::copy(renewed.path(name), before.path(name)).unwrap();
    }
    reload(&secure);
    await_that("the new certificate is used", || renewed.connect(addr).is_ok());
    let refused = before.connect(addr).expect_err("the old authority did not issue it");
    assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
    echo(&mut old, &pattern(100_000));
}

#[test]
fn a_new_certificate_is_for_new_connections_and_the_open_ones_go_on() {
    renew(|secure| secure.server.handle.reload());
}

#[test]
fn a_request_renews_the_certificate_as_a_signal_does() {
    renew(|secure| {
        let mut stream = secure.connect();
        let ask = request("POST", "/v1/admin/reload", "Content-Length: 0\r\nConnection: close\r\n");
        stream.write_all(ask.as_bytes()).unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        assert!(heard.starts_with("HTTP/1.1 202 "), "{heard}");
    });
}

#[test]
fn it_is_drained_like_any_other() {
    let secure = Secure::start_with(Config { drain_timeout: Duration::from_millis(500), ..config() });
    let mut client = Client::websocket(secure.bridge, "/v1/echo");
    client.echo(b"still here");
    let idle = TcpStream::connect(secure.server.addr).unwrap();
    secure.server.handle.drain();
    client.await_closed();
    secure.server.join();
    drop(idle);
}

#[test]
fn the_command_line_serves_and_streams_by_tls() {
    let certificates = Certificates::new();
    let path = |name: &str| certificates.path(name).display().to_string();
    let mut server = std::process::Command::new(assert_cmd::cargo::cargo_bin!("suzu"))
        .env_clear()
        .args(["serve", "--port", "0", "--models-dir", ""])
        .args(["--tls-certificate", &path("chain.pem"), "--tls-key", &path("key.pem")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let logs: Box<dyn Read> = Box::new(server.stderr.take().unwrap());
    let mut lines = BufReader::new(logs).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("listening on")).expect("it says where it listens");
    let (_, addr) = line.split_once("https://").expect("it says how");
    let url = format!("wss://{}", addr.trim());
    let wav = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/speech-clean.wav");
    let stream = ["stream", wav, "--speed", "max", "--no-progress", "--url", &url];
    suzu(&stream).args(["--ca-file", &path("ca.pem")]).assert().success();
    let refused = suzu(&stream).assert().failure();
    let told = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(told.contains("UnknownIssuer") && told.contains("--ca-file"), "{told}");
    server.kill().unwrap();
    server.wait().unwrap();

    let refused = suzu(&["serve", "--port", "0", "--tls-certificate", "/nowhere.pem", "--tls-key", "/k.pem"]);
    let refused = { refused }.assert().failure();
    let told = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(told.contains("tls_certificate") && told.contains("/nowhere.pem"), "{told}");
}
