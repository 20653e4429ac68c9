//! The end: by signals to the real binary, and by the handle of an embedded server.

use crate::answer::{request, request_with};
use crate::stream_client::{StreamClient, tone_ms};
use crate::support::{CLOSE, Client, DEADLINE, TestServer, config};
use crate::test_models::start_gated;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use suzu::config::Config;

/// The real binary on a free port, its log read line by line. Killed when it goes out of scope.
pub struct Binary {
    child: Child,
    pub addr: SocketAddr,
    lines: Receiver<String>,
    /// Log lines taken so far.
    log: Vec<Value>,
}

impl Binary {
    /// `prefix` is shell text before the command, such as a limit.
    pub fn start(prefix: &str, flags: &[&str]) -> Self {
        let program = assert_cmd::cargo::cargo_bin!("suzu");
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("{prefix} exec \"$0\" serve --port 0 --log-format json \"$@\"")])
            .arg(program)
            .args(flags)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).all(|line| send.send(line).is_ok()));
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut binary = Self { child, addr, lines, log: Vec::new() };
        let listening = binary.await_line("listening on http");
        let (_, addr) = listening.split_once("://").unwrap();
        binary.addr = addr.parse().expect("the log tells the port");
        assert_ne!(binary.addr.port(), 0);
        binary
    }

    /// Waits for a log line whose message contains this, and gives the message.
    pub fn await_line(&mut self, part: &str) -> String {
        loop {
            let line =
                self.lines.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("no {part}: {:#?}", self.log));
            let line = self.note(&line);
            if line.contains(part) {
                return line;
            }
        }
    }

    fn note(&mut self, line: &str) -> String {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for key in ["ts", "level", "target", "message"] {
            assert!(object[key].is_string(), "{key} is missing in {line}");
        }
        let message = object["message"].as_str().unwrap().to_owned();
        self.log.push(object);
        message
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: a plain system call; the process is our child and has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Waits for the end; gives the exit code and the whole log.
    pub fn end(mut self) -> (Option<i32>, Vec<Value>) {
        // The log ends when the process does.
        while let Ok(line) = self.lines.recv_timeout(DEADLINE) {
            self.note(&line);
        }
        let code = self.child.wait().unwrap().code();
        (code, std::mem::take(&mut self.log))
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn sigterm_finishes_what_is_in_flight_and_exits_with_0() {
    let binary = Binary::start("", &[]);
    let mut streams: Vec<_> = (0..3)
        .map(|number| {
            let header = format!("X-Request-Id: request-{number}\r\n");
            // Ten chunks would make a batch: what is sent waits until the drain.
            let mut stream = StreamClient::open_with(binary.addr, "/audio?model=vad", &header);
            stream.audio(&tone_ms(500));
            stream.round_trip();
            stream
        })
        .collect();
    let mut echo = Client::websocket(binary.addr, "/v1/echo");
    binary.signal(libc::SIGTERM);
    let sessions: Vec<_> = streams.iter().map(|stream| stream.begin["session_id"].clone()).collect();
    for stream in &mut streams {
        let reconnect = stream.await_message("Reconnect");
        assert_eq!((&reconnect["reason"], &reconnect["after_ms"]), (&json!("draining"), &json!(2000)));
    }
    for stream in streams {
        let story = stream.rest();
        assert_eq!((story.close, &story.termination()["processed_ms"]), (1012, &json!(500)));
        assert_eq!(story.termination()["reason"], "draining");
        assert!(story.sum("Results", "duration_ms") > 490.0, "{story:?}");
    }
    let (opcode, payload) = echo.read_message();
    assert_eq!((opcode, &payload[..2]), (CLOSE, &1012_u16.to_be_bytes()[..]));
    echo.send_message(CLOSE, &payload[..2]);
    let (code, log) = binary.end();
    assert_eq!(code, Some(0), "{log:#?}");
    for (number, session) in sessions.iter().enumerate() {
        let of_session: Vec<_> = log.iter().filter(|line| line["session"] == *session).collect();
        let messages: Vec<_> = of_session.iter().map(|line| line["message"].as_str().unwrap()).collect();
        assert_eq!(messages, ["stream begins", "stream ends"]);
        assert!(
            of_session.iter().all(|line| line["request"] == format!("request-{number}")),
            "{of_session:#?}"
        );
        assert_eq!(
            (&of_session[1]["reason"], &of_session[1]["processed"]),
            (&json!("draining"), &json!(8000))
        );
    }
    assert!(log.iter().all(|line| line["level"] != "error"), "{log:#?}");
    assert!(!log.iter().any(|line| line.to_string().contains("panic")), "{log:#?}");
}

#[test]
fn a_second_signal_ends_at_once() {
    for (signal, code) in [(libc::SIGTERM, 143), (libc::SIGINT, 130)] {
        let mut binary = Binary::start("", &["--drain-timeout", "1h", "--body-timeout", "1h"]);
        let mut client = Client::connect(binary.addr);
        client.send(request("POST", "/v1/echo", "Content-Length: 9\r\nExpect: 100-continue\r\n"));
        client.read_until("100 Continue\r\n\r\n");
        binary.signal(libc::SIGTERM);
        binary.await_line("draining: ");
        binary.signal(signal);
        let (ended, log) = binary.end();
        assert_eq!(ended, Some(code), "{log:#?}");
        client.await_closed();
    }
}

#[test]
fn a_request_in_flight_is_answered_before_the_end() {
    let mut binary = Binary::start("", &[]);
    let mut client = Client::connect(binary.addr);
    let mut idle = Client::connect(binary.addr);
    assert_eq!(idle.ask("GET", "/health/live", "").status, 200);
    client.send(request("POST", "/v1/echo", "Content-Length: 4\r\nExpect: 100-continue\r\n"));
    client.read_until("100 Continue\r\n\r\n");
    binary.signal(libc::SIGINT);
    binary.await_line("draining: ");
    assert!(idle.read_to_end().is_empty(), "who asks nothing is closed at once");
    client.send("done");
    let answer = client.answer();
    assert_eq!((answer.text(), answer.header("connection")), ("done", Some("close")));
    assert_eq!(binary.end().0, Some(0));
}

#[test]
fn faults_of_every_kind_leave_a_clean_log_and_a_living_server() {
    let binary = Binary::start("", &[]);
    for bytes in [
        &b"garbage\r\n\r\n"[..],
        b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /v1/stream?token=geheim&sample_rate=1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let mut client = Client::connect(binary.addr);
        client.send(bytes);
        assert!(client.answer().status >= 400);
    }
    let mut stream = StreamClient::open(binary.addr, "/v1/stream?token=geheim&tag=geheim");
    stream.client.send_message(1, b"nonsense");
    stream.client.send_message(0, b"nonsense");
    assert_eq!(stream.rest().close, 1002);
    let mut client = Client::connect(binary.addr);
    client.send(request_with("POST", "/v1/echo", "", "alive"));
    assert_eq!(client.answer().text(), "alive");
    binary.signal(libc::SIGTERM);
    let (code, log) = binary.end();
    assert_eq!(code, Some(0));
    let text = format!("{log:?}");
    assert!(!text.contains("panic") && !text.contains("geheim"), "{log:#?}");
}

#[test]
fn with_few_descriptors_peers_wait_and_are_served_when_others_leave() {
    let binary = Binary::start("ulimit -n 40;", &["--descriptors-reserve", "16"]);
    let mut clients: Vec<_> = (0..60).map(|_| Client::connect(binary.addr)).collect();
    for client in &mut clients {
        client.send(request("GET", "/health/live", ""));
    }
    // One after the other leaves, and each place is given to the next.
    for mut client in clients {
        assert_eq!(client.answer().status, 200);
    }
    binary.signal(libc::SIGTERM);
    let (code, log) = binary.end();
    assert_eq!(code, Some(0), "{log:#?}");
}

#[test]
fn what_is_not_done_by_the_drains_deadline_is_discarded_and_told() {
    let (server, gate) = start_gated(Config { drain_timeout: Duration::from_millis(50), ..config() });
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=gated");
    stream.audio(&tone_ms(100));
    gate.await_begun();
    stream.audio(&tone_ms(300));
    stream.round_trip();
    server.handle.drain();
    let story = stream.rest();
    assert_eq!((story.all("Reconnect").count(), story.close), (1, 1012));
    assert_eq!(story.termination()["discarded_ms"], 400);
    assert_eq!(story.sum("Discarded", "duration_ms"), 400.0);
    assert!(story.all("Discarded").all(|message| message["reason"] == "drain"), "{story:?}");
    drop(gate);
    server.join();
}

#[test]
fn two_servers_in_one_process_know_nothing_of_each_other() {
    let one =
        TestServer::start_with(Config { sessions_max: 1, ..config() }, suzu::model::Registry::builtin());
    let two = TestServer::start();
    let first = StreamClient::open(one.addr, "/v1/stream?model=echo");
    let mut second = StreamClient::open(two.addr, "/v1/stream?model=echo");
    assert_eq!(crate::answer::metric(two.addr, "suzu_sessions_began_total"), 1.0);
    one.handle.drain();
    assert_eq!(first.rest().close, 1012);
    one.join();
    second.audio(&tone_ms(100));
    assert_eq!(second.await_message("Results")["duration_ms"], 100);
    assert_eq!(second.finish().close, 1000);
}
