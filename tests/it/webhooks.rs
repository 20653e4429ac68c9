//! Webhooks over real sockets: a receiver that knows only HTTP and the convention of signatures.

use crate::answer::{get, metric, request_with};
use crate::shutdown::Binary;
use crate::stream_client::{StreamClient, tone_ms};
use crate::support::{Client, DEADLINE, TestServer, await_that, config};
use ring::hmac;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use suzu::config::{Config, WebhookEvents};
use suzu::driver::EventLoop;
use suzu::model::Registry;

const SECRET: &str = "a planted secret, 32 bytes and more";

/// One attempt as it came.
#[derive(Clone, Debug)]
struct Attempt {
    target: String,
    id: String,
    timestamp: u64,
    signature: String,
    raw: Vec<u8>,
}

impl Attempt {
    fn body(&self) -> Value {
        serde_json::from_slice(&self.raw).expect("JSON")
    }

    /// Whether the signature is the secret's. Computed without the server's code.
    fn check_signature(&self) {
        let signed = [format!("{}.{}.", self.id, self.timestamp).as_bytes(), &self.raw].concat();
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        let expected = data_encoding::BASE64.encode(hmac::sign(&key, &signed).as_ref());
        assert_eq!(self.signature, format!("v1,{expected}"));
        let now = suzu::driver::Clock::new().now().unix_ms / 1000;
        assert!(self.timestamp.abs_diff(now) < 300, "{} is not now: {now}", self.timestamp);
    }
}

/// What the receiver answers to its nth attempt, counted from 0; None: nothing, ever.
type Answers = Arc<dyn Fn(usize, &Attempt) -> Option<String> + Send + Sync>;

/// Anything that bytes go over.
trait Line: Read + Write {}
impl<T: Read + Write> Line for T {}

struct Hooks {
    addr: SocketAddr,
    attempts: Receiver<Attempt>,
    connections: Arc<AtomicUsize>,
}

impl Hooks {
    fn start(answers: impl Fn(usize, &Attempt) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::start_over(answers, |tcp| Box::new(tcp))
    }

    /// The same over lines that are made of sockets: of TLS, for instance.
    fn start_over(
        answers: impl Fn(usize, &Attempt) -> Option<String> + Send + Sync + 'static,
        open: impl Fn(TcpStream) -> Box<dyn Line> + Send + Sync + Clone + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, attempts) = channel();
        let (answers, count): (Answers, _) = (Arc::new(answers), Arc::new(AtomicUsize::new(0)));
        let connections = Arc::new(AtomicUsize::new(0));
        let opened = Arc::clone(&connections);
        std::thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                opened.fetch_add(1, SeqCst);
                let (tell, answers, count) = (tell.clone(), Arc::clone(&answers), Arc::clone(&count));
                let open = open.clone();
                std::thread::spawn(move || {
                    let mut line = BufReader::new(open(tcp));
                    while let Some(attempt) = read_attempt(&mut line) {
                        let answer = answers(count.fetch_add(1, SeqCst), &attempt);
                        // A test that is over hears no more.
                        let _ = tell.send(attempt);
                        match answer {
                            Some(answer) if line.get_mut().write_all(answer.as_bytes()).is_ok() => {}
                            Some(_) => return,
                            None => drop(line.read(&mut [0])),
                        }
                    }
                });
            }
        });
        Self { addr, attempts, connections }
    }

    /// The next attempt, its signature checked.
    fn hear(&self) -> Attempt {
        let attempt = self.attempts.recv_timeout(DEADLINE).expect("an attempt");
        attempt.check_signature();
        attempt
    }

    fn hear_body(&self) -> Value {
        self.hear().body()
    }
}

/// Reads a request; None at the end of the connection.
fn read_attempt(line: &mut BufReader<Box<dyn Line>>) -> Option<Attempt> {
    let mut words = String::new();
    if line.read_line(&mut words).ok()? == 0 {
        return None;
    }
    let target = words.split(' ').nth(1).expect("a request").to_owned();
    assert!(words.starts_with("POST "), "{words}");
    let mut fields = std::collections::BTreeMap::new();
    loop {
        let mut field = String::new();
        line.read_line(&mut field).ok()?;
        let Some((name, value)) = field.trim_end().split_once(": ") else { break };
        fields.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut raw = vec![0; fields["content-length"].parse().unwrap()];
    line.read_exact(&mut raw).ok()?;
    assert_eq!(fields["content-type"], "application/json");
    Some(Attempt {
        target,
        id: fields["webhook-id"].clone(),
        timestamp: fields["webhook-timestamp"].parse().unwrap(),
        signature: fields["webhook-signature"].clone(),
        raw,
    })
}

fn answer(status: u16, fields: &str) -> Option<String> {
    Some(format!("HTTP/1.1 {status} Whatever\r\n{fields}Content-Length: 2\r\n\r\nok"))
}

/// A folder with the secret, and with dead letters in time.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        std::fs::write(files.path("secret"), format!("{SECRET}\n")).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// With a receiver there, and a file of dead letters.
    fn config(&self, receiver: SocketAddr) -> Config {
        let text = |name: &str| self.path(name).to_str().unwrap().to_owned();
        Config {
            webhook_url: format!("http://{receiver}/hook?a=b"),
            webhook_secret_file: text("secret"),
            webhook_retry_delay: Duration::from_millis(5),
            webhook_dead_letters_file: text("letters"),
            ..config()
        }
    }

    fn letters(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("letters")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

fn start(config: Config) -> TestServer {
    TestServer::start_with(config, Registry::builtin())
}

/// So many chunks of 100 ms, each of which has its own result.
fn several_results(stream: &mut StreamClient, count: usize) {
    for _ in 0..count {
        stream.audio(&tone_ms(100));
        stream.await_message("Results");
    }
}

fn is_results(message: &&Value) -> bool {
    message["type"] == "Results"
}

#[test]
fn results_and_the_end_are_posted_in_order_as_the_client_was_told_them() {
    let (files, hooks) = (Files::new(), Hooks::start(|_, _| answer(200, "")));
    let server = start(files.config(hooks.addr));
    let header = "X-Request-Id: request-7\r\n";
    let mut stream = StreamClient::open_with(server.addr, "/v1/stream?model=vad&tag=phone", header);
    several_results(&mut stream, 10);
    let session = stream.begin["session_id"].clone();
    let story = stream.finish();
    let told: Vec<_> = story.messages.iter().filter(is_results).chain([story.termination()]).collect();
    assert!(told.len() > 5, "{told:?}");
    let mut names = BTreeSet::new();
    for (index, message) in told.iter().enumerate() {
        let attempt = hooks.hear();
        let body = attempt.body();
        let kind = if index + 1 < told.len() { "stream.results" } else { "stream.ended" };
        let data = json!({
            "session_id": session, "request_id": "request-7", "user": "anyone", "model": "vad", "tag": "phone",
            "message": message,
        });
        assert_eq!((&body["type"], &body["data"]), (&json!(kind), &data));
        assert!(body["timestamp"].as_str().unwrap().ends_with('Z'), "{body}");
        assert_eq!(attempt.target, "/hook?a=b");
        names.insert(attempt.id);
    }
    assert_eq!(names.len(), told.len(), "no two events have one name");
    await_that("all is delivered", || {
        metric(server.addr, "suzu_webhook_events_total{outcome=\"delivered\"}") == told.len() as f64
    });
    assert_eq!(metric(server.addr, "suzu_webhook_pending"), 0.0);
    assert_eq!(get(server.addr, "/v1/status").json()["webhooks"]["delivered"], told.len());
    assert!(hooks.connections.load(SeqCst) <= 2, "connections are used again");
}

#[test]
fn if_only_ends_are_wanted_only_they_are_posted() {
    let (files, hooks) = (Files::new(), Hooks::start(|_, _| answer(200, "")));
    let server = start(Config { webhook_events: WebhookEvents::Ends, ..files.config(hooks.addr) });
    for _ in 0..2 {
        let mut stream = StreamClient::open(server.addr, "/v1/stream?model=echo");
        stream.audio(&tone_ms(500));
        let story = stream.finish();
        let body = hooks.hear_body();
        assert_eq!(body["type"], "stream.ended");
        assert_eq!(&body["data"]["message"], story.termination());
    }
}

#[test]
fn an_uploaded_recording_is_told_of_too() {
    let (files, hooks) = (Files::new(), Hooks::start(|_, _| answer(200, "")));
    let server = start(files.config(hooks.addr));
    let audio = "\0".repeat(32_000);
    let fields = "Content-Type: application/octet-stream\r\nConnection: close\r\n";
    let mut client = Client::connect(server.addr);
    client.send(request_with("POST", "/v1/models/vad", fields, &audio));
    assert!(client.read_to_end().starts_with(b"HTTP/1.1 200 "));
    let end = loop {
        let body = hooks.hear_body();
        if body["type"] == "stream.ended" {
            break body;
        }
    };
    let ledger = json!({"received": 16_000, "processed": 16_000, "discarded": 0, "pending": 0});
    assert_eq!(end["data"]["message"]["ledger"], ledger);
}

#[test]
fn what_fails_at_first_is_posted_again_under_its_name() {
    let files = Files::new();
    let hooks = Hooks::start(|nth, _| match nth {
        0 => answer(500, ""),
        1 => answer(429, "Retry-After: 1\r\n"),
        2 => Some("this is no HTTP\r\n\r\n".into()),
        _ => answer(200, ""),
    });
    let server = start(Config { webhook_events: WebhookEvents::Ends, ..files.config(hooks.addr) });
    StreamClient::open(server.addr, "/v1/stream?model=echo").finish();
    let attempts: Vec<_> = (0..4).map(|_| hooks.hear()).collect();
    for again in &attempts[1..] {
        assert_eq!((&again.id, &again.raw), (&attempts[0].id, &attempts[0].raw));
    }
    assert!(attempts[2].timestamp > attempts[1].timestamp, "a second was asked for: {attempts:?}");
    await_that("it is delivered", || {
        metric(server.addr, "suzu_webhook_events_total{outcome=\"delivered\"}") == 1.0
    });
    assert_eq!(metric(server.addr, "suzu_webhook_attempts_failed_total"), 3.0);
    assert!(files.letters().is_empty());
}

#[test]
fn a_redirect_is_not_followed_and_what_is_refused_lands_among_the_dead_letters() {
    let files = Files::new();
    let elsewhere = Hooks::start(|_, _| answer(200, ""));
    let target = format!("Location: http://{}/\r\n", elsewhere.addr);
    let hooks = Hooks::start(move |nth, _| match nth {
        0 => answer(307, &target),
        1 => answer(302, &target),
        _ => answer(410, ""),
    });
    let server = start(Config { webhook_events: WebhookEvents::Ends, ..files.config(hooks.addr) });
    let mut attempts = Vec::new();
    for _ in 0..3 {
        StreamClient::open(server.addr, "/v1/stream?model=echo").finish();
        attempts.push(hooks.hear());
    }
    await_that("they are written", || metric(server.addr, "suzu_webhook_dead_letters_written_total") == 3.0);
    assert_eq!(metric(server.addr, "suzu_webhook_events_total{outcome=\"dead\"}"), 3.0);
    let letters = files.letters();
    for ((letter, attempt), status) in letters.iter().zip(&attempts).zip(["307", "302", "410"]) {
        assert_eq!((&letter["id"], &letter["attempts"]), (&json!(attempt.id), &json!(1)));
        assert_eq!(letter["event"], attempt.body());
        assert!(letter["why"].as_str().unwrap().contains(status), "{letter}");
    }
    assert!(elsewhere.attempts.try_recv().is_err(), "a redirect was followed");
}

#[test]
fn attempts_end_and_the_file_has_what_was_posted_byte_for_byte() {
    let (files, hooks) = (Files::new(), Hooks::start(|_, _| answer(503, "")));
    let config =
        Config { webhook_events: WebhookEvents::Ends, webhook_attempts_max: 3, ..files.config(hooks.addr) };
    let server = start(config);
    StreamClient::open(server.addr, "/v1/stream?model=echo").finish();
    let attempts: Vec<_> = (0..3).map(|_| hooks.hear()).collect();
    await_that("it is written", || metric(server.addr, "suzu_webhook_dead_letters_written_total") == 1.0);
    assert!(hooks.attempts.try_recv().is_err(), "three attempts are all");
    let text = std::fs::read_to_string(files.path("letters")).unwrap();
    let raw = std::str::from_utf8(&attempts[0].raw).unwrap();
    assert!(text.contains(&format!("\"event\":{raw}}}\n")), "{text}");
    assert_eq!(files.letters()[0]["attempts"], 3);
}

#[test]
fn a_receiver_that_never_answers_holds_up_no_stream_and_no_shutdown() {
    let (files, hooks) = (Files::new(), Hooks::start(|_, _| None));
    let config = Config {
        drain_timeout: Duration::from_millis(200),
        webhook_timeout: Duration::from_secs(600),
        webhook_bytes_max: 16 << 10,
        ..files.config(hooks.addr)
    };
    let server = start(config);
    let mut made = 0;
    let mut open = StreamClient::open(server.addr, "/v1/stream?model=vad");
    for _ in 0..4 {
        let mut stream = StreamClient::open(server.addr, "/v1/stream?model=vad");
        several_results(&mut stream, 10);
        let story = stream.finish();
        assert_eq!((story.close, story.termination()["processed_ms"].as_f64()), (1000, Some(1000.0)));
        made += story.all("Results").count() + 1;
    }
    open.round_trip();
    assert!(metric(server.addr, "suzu_webhook_bytes") <= f64::from(16 << 10));
    assert!(metric(server.addr, "suzu_webhook_crowded_out_total") > 0.0, "{made} events are too many");
    server.handle.drain();
    let story = open.rest();
    assert_eq!((story.close, &story.termination()["reason"]), (1012, &json!("draining")));
    server.join();
    let letters = files.letters();
    assert_eq!(letters.len(), made + 1, "every event is there");
    let names: BTreeSet<_> = letters.iter().map(|letter| letter["id"].to_string()).collect();
    assert_eq!(names.len(), made + 1, "once");
    assert!(letters.iter().any(|letter| letter["why"].as_str().unwrap().contains("may have it")));
}

#[test]
fn a_shutdown_gives_what_waits_one_more_attempt() {
    let (files, hooks) =
        (Files::new(), Hooks::start(|nth, _| if nth == 0 { answer(500, "") } else { answer(200, "") }));
    let config = Config {
        webhook_events: WebhookEvents::Ends,
        webhook_retry_delay: Duration::from_secs(3600),
        ..files.config(hooks.addr)
    };
    let server = start(config);
    StreamClient::open(server.addr, "/v1/stream?model=echo").finish();
    let first = hooks.hear();
    await_that("the answer came", || metric(server.addr, "suzu_webhook_attempts_failed_total") == 1.0);
    server.handle.drain();
    server.join();
    assert_eq!(hooks.hear().id, first.id);
    assert!(files.letters().is_empty());
}

#[test]
fn without_a_secret_or_with_files_that_cannot_be_used_the_server_does_not_start() {
    let files = Files::new();
    let good = files.config(([127, 0, 0, 1], 9).into());
    let refused = |config: Config| {
        EventLoop::bind(config, Registry::builtin()).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(refused(good.clone()), Ok(()));
    let none = refused(Config { webhook_secret_file: String::new(), ..good.clone() }).unwrap_err();
    assert!(none.contains("SUZU_WEBHOOK_SECRET") && none.contains("webhook_secret_file"), "{none}");
    std::fs::write(files.path("short"), "planted").unwrap();
    let short = files.path("short").to_str().unwrap().to_owned();
    let short = refused(Config { webhook_secret_file: short, ..good.clone() }).unwrap_err();
    assert!(short.contains("7 bytes") && !short.contains("planted"), "{short}");
    let nowhere = "/nowhere/file".to_owned();
    let letters = refused(Config { webhook_dead_letters_file: nowhere, ..good }).unwrap_err();
    assert!(letters.contains("webhook_dead_letters_file"), "{letters}");
}

#[test]
fn neither_the_secret_nor_the_url_is_in_any_answer_or_log() {
    let files = Files::new();
    let hooks = Hooks::start(|nth, _| match nth % 4 {
        0 => answer(200, ""),
        1 => answer(500, ""),
        2 => answer(404, ""),
        _ => Some("no HTTP\r\n\r\n".into()),
    });
    let url = format!("http://{}/planted-path?planted=query", hooks.addr);
    let letters = files.path("letters");
    let flags = ["--webhook-url", &url, "--webhook-dead-letters-file", letters.to_str().unwrap()];
    let more = ["--log-level", "trace", "--workers", "1", "--models-dir", "", "--webhook-retry-delay", "1ms"];
    let server = Binary::start(&format!("SUZU_WEBHOOK_SECRET='{SECRET}'"), &[&flags[..], &more].concat());
    let mut said = String::new();
    for _ in 0..3 {
        let mut stream = StreamClient::open(server.addr, "/v1/stream?model=vad");
        (0..5).for_each(|_| stream.audio(&tone_ms(100)));
        said.push_str(&format!("{:?}", stream.finish()));
    }
    await_that("none waits", || metric(server.addr, "suzu_webhook_pending") == 0.0);
    for target in ["/metrics", "/api/metrics", "/v1/status", "/v1/models", "/"] {
        said.push_str(get(server.addr, target).text());
    }
    assert!(said.contains("suzu_webhook_events_total"));
    server.signal(libc::SIGTERM);
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log:#?}");
    let log = Value::from(log).to_string();
    assert!(log.contains("webhooks do not arrive"), "the log tells of the trouble: {log}");
    assert!(!files.letters().is_empty());
    let written = std::fs::read_to_string(letters).unwrap();
    for text in [&said, &log, &written] {
        assert!(!text.contains("planted"), "{text}");
    }
}

#[cfg(feature = "tls")]
#[test]
fn a_receiver_with_tls_is_posted_to_if_its_authority_is_trusted_and_not_otherwise() {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let certificates = crate::bridge::Certificates::new();
    let read = |name: &str| std::fs::read(certificates.path(name)).unwrap();
    let chain = CertificateDer::pem_slice_iter(&read("chain.pem")).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(&read("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let tls = Arc::new(tls);
    let open = move |tcp| -> Box<dyn Line> {
        let session = rustls::ServerConnection::new(Arc::clone(&tls)).unwrap();
        Box::new(rustls::StreamOwned::new(session, tcp))
    };
    let (files, hooks) = (Files::new(), Hooks::start_over(|_, _| answer(200, ""), open));
    let trusting = Config {
        webhook_url: format!("https://localhost:{}/hook", hooks.addr.port()),
        webhook_ca_file: certificates.path("ca.pem").to_str().unwrap().into(),
        webhook_events: WebhookEvents::Ends,
        webhook_attempts_max: 1,
        ..files.config(hooks.addr)
    };
    let server = start(trusting.clone());
    StreamClient::open(server.addr, "/v1/stream?model=echo").finish();
    assert_eq!(hooks.hear_body()["type"], "stream.ended");
    let suspicious = start(Config { webhook_ca_file: String::new(), ..trusting.clone() });
    StreamClient::open(suspicious.addr, "/v1/stream?model=echo").finish();
    await_that("it is given up", || {
        metric(suspicious.addr, "suzu_webhook_dead_letters_written_total") == 1.0
    });
    let letter = &files.letters()[0];
    assert!(letter["why"].as_str().unwrap().contains("UnknownIssuer"), "{letter}");
    assert!(hooks.attempts.try_recv().is_err(), "nothing was told to whom nobody vouches for");
    let none = Config { webhook_ca_file: files.path("secret").to_str().unwrap().into(), ..trusting };
    let refused = EventLoop::bind(none, Registry::builtin()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("webhook_ca_file") && !refused.contains("planted"), "{refused}");
}
