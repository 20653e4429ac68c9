//! The door over real sockets: every route against every kind of credentials, and what limits and reloads do to those inside.

use crate::answer::{Answer, request, request_with, upgrade_request};
use crate::shutdown::Binary;
use crate::support::{CLOSE, Client, TEXT, TestServer, await_that, config, connect_from};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use suzu::auth::{NewToken, Scopes, algorithm, key_entry, mint, sign};
use suzu::config::Config;
use suzu::driver::{Clock, EventLoop};
use suzu::model::Registry;
use suzu::wire::http::Method;

const SECRET: &str = "a secret of this test, 32 bytes and more";
const SIGNING: &str = "another secret of this test, as long as that";

/// A file of credentials: keys `all`, `stream`, `infer`, `metrics` and `admin` with those scopes, tokens, a signer.
struct Credentials {
    folder: tempfile::TempDir,
}

impl Credentials {
    fn new() -> Self {
        let credentials = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(credentials.folder.path().join("jwt"), SECRET).unwrap();
        fs::write(credentials.folder.path().join("signer"), SIGNING).unwrap();
        credentials.write("");
        credentials
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("credentials.toml")
    }

    /// Writes the file, with more entries at its end.
    fn write(&self, more: &str) {
        let mut text = String::from(
            "[[jwt]]\nid = \"users\"\nalgorithm = \"HS256\"\nsecret_file = \"jwt\"\naudiences = [\"suzu\"]\nleeway = \"0s\"\n\
             scopes = [\"stream\", \"infer\", \"metrics\", \"admin\"]\n\
             [[signer]]\nid = \"backend\"\nsecret_file = \"signer\"\nscopes = [\"stream\", \"infer\", \"metrics\", \"admin\"]\n",
        );
        for scope in ["stream", "infer", "metrics", "admin"] {
            text.push_str(&key(scope, &[scope], ""));
        }
        text.push_str(&key("all", &["stream", "infer", "metrics", "admin"], ""));
        fs::write(self.path(), text + more).unwrap();
    }

    fn config(&self) -> Config {
        Config { credentials_file: self.path().to_str().unwrap().into(), address_failures_max: 0, ..config() }
    }
}

fn key(id: &str, scopes: &[&str], limits: &str) -> String {
    let scopes = Scopes::parse(scopes.iter().copied()).unwrap();
    key_entry(&secret(id), scopes) + limits + "\n"
}

fn secret(id: &str) -> String {
    format!("{id}.planted-secret-of-{id}")
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn now_s() -> u64 {
    Clock::new().now().unix_ms / 1000
}

fn token(expires_in_s: i64, audience: &str, secret: &str) -> String {
    let exp = now_s().saturating_add_signed(expires_in_s);
    let token = NewToken { sub: "alice".into(), exp, aud: Some(audience.into()), ..NewToken::default() };
    mint(&token, algorithm("HS256").unwrap(), secret.as_bytes(), None).unwrap()
}

/// The target with what signs it.
fn signed(method: &str, target: &str, expires_in_s: u64, secret: &str) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap();
        pairs.push((name.into(), value.into()));
    }
    pairs.push(("key_id".into(), "backend".into()));
    pairs.push(("expires".into(), (now_s() + expires_in_s).to_string()));
    let method = if method == "POST" { Method::Post } else { Method::Get };
    let signature = sign(secret.as_bytes(), method, path, &pairs);
    let query: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{path}?{}&signature={signature}", query.join("&"))
}

fn with_token(target: &str, token: &str) -> String {
    let mark = if target.contains('?') { '&' } else { '?' };
    format!("{target}{mark}token={token}")
}

/// Sends a request; WebSocket routes are asked for an upgrade. Takes the head of the answer.
fn ask_over(mut client: Client, method: &str, target: &str, fields: &str) -> (Answer, Client) {
    let path = target.split('?').next().unwrap();
    client.send(match (method, path) {
        ("GET", "/v1/stream" | "/v1/echo" | "/audio") => upgrade_request(target, fields),
        ("POST", _) => request_with(method, target, fields, ""),
        _ => request(method, target, fields),
    });
    let answer = client.answer_head();
    (answer, client)
}

fn ask(addr: SocketAddr, method: &str, target: &str, fields: &str) -> Answer {
    ask_over(Client::connect(addr), method, target, fields).0
}

fn next_json(client: &mut Client) -> Value {
    let (opcode, payload) = client.read_message();
    assert_eq!(opcode, TEXT, "{payload:?}");
    serde_json::from_slice(&payload).unwrap()
}

/// Reads messages until the server closes; gives the code of the error and that of the close.
fn read_close(client: &mut Client) -> (Option<String>, u16) {
    let mut error = None;
    loop {
        let (opcode, payload) = client.read_message();
        match opcode {
            TEXT => {
                let message: Value = serde_json::from_slice(&payload).unwrap();
                if message["type"] == "Error" {
                    error = message["code"].as_str().map(str::to_owned);
                }
            }
            CLOSE => return (error, u16::from_be_bytes([payload[0], payload[1]])),
            _ => {}
        }
    }
}

/// Every route with a method, and the scope it wants: `""` none, `"any"` whatever one has.
const ROUTES: &[(&str, &str, &str)] = &[
    ("GET", "/", ""),
    ("GET", "/health/live", ""),
    ("GET", "/health/ready", ""),
    ("GET", "/api/health", ""),
    ("GET", "/v2", ""),
    ("GET", "/v2/health/live", ""),
    ("GET", "/v2/health/ready", ""),
    ("GET", "/nowhere", ""),
    ("GET", "/v2/nowhere", ""),
    ("GET", "/metrics", "metrics"),
    ("GET", "/api/metrics", "metrics"),
    ("GET", "/v1/status", "metrics"),
    ("GET", "/v1/models", "any"),
    ("GET", "/v1/models/vad", "any"),
    ("POST", "/v1/models/vad", "infer"),
    ("POST", "/v1/admin/reload", "admin"),
    ("GET", "/v1/stream?model=vad", "stream"),
    ("GET", "/audio", "stream"),
    ("GET", "/v1/echo", "stream"),
    ("POST", "/v1/echo", "stream"),
    ("GET", "/v2/models/vad", "any"),
    ("GET", "/v2/models/vad/ready", "any"),
    ("GET", "/v2/models/vad/config", "any"),
    ("GET", "/v2/models/vad/stats", "any"),
    ("GET", "/v2/models/stats", "any"),
    ("GET", "/v2/repository/index", "any"),
    ("POST", "/v2/models/vad/infer", "infer"),
    ("POST", "/v2/repository/models/vad/load", "admin"),
    ("POST", "/v2/repository/models/vad/unload", "admin"),
];

#[test]
fn every_route_is_open_or_shut_to_every_kind_of_credentials() {
    let credentials = Credentials::new();
    let server = TestServer::start_with(credentials.config(), Registry::builtin());
    let plain = |target: &str, fields: String| (target.to_owned(), fields);
    for &(method, target, wanted) in ROUTES {
        let status = |(target, fields): (String, String)| ask(server.addr, method, &target, &fields).status;
        let passes = |what: &str, request: (String, String)| {
            let status = status(request);
            assert!(!matches!(status, 401 | 403 | 429), "{method} {target} with {what}: {status}");
        };
        let refused = |what: &str, request: (String, String), expected: u16| match wanted {
            "" => passes(what, request),
            _ => assert_eq!(status(request), expected, "{method} {target} with {what}"),
        };
        let good = token(60, "suzu", SECRET);
        passes("all scopes", plain(target, bearer(&secret("all"))));
        passes("a key as a token", plain(target, format!("Authorization: Token {}\r\n", secret("all"))));
        passes("a key of its own field", plain(target, format!("X-API-Key: {}\r\n", secret("all"))));
        passes("a token", plain(target, bearer(&good)));
        passes("a subprotocol", plain(target, format!("Sec-WebSocket-Protocol: suzu.v1, token.{good}\r\n")));
        passes("a token in the query", (with_token(target, &good), String::new()));
        let once = signed(method, target, 60, SIGNING);
        passes("a signature", (once.clone(), String::new()));
        refused("the same signature again", (once, String::new()), 401);
        for scope in ["stream", "infer", "metrics", "admin"] {
            let request = plain(target, bearer(&secret(scope)));
            match wanted == "any" || wanted == scope {
                true => passes(scope, request),
                false => refused(scope, request, 403),
            }
        }
        refused("nothing", plain(target, String::new()), 401);
        let wrong = [
            ("a wrong key", bearer("all.wrong")),
            ("an unknown key", bearer("nobody.planted-secret-of-nobody")),
            ("an expired token", bearer(&token(-1, "suzu", SECRET))),
            ("another's token", bearer(&token(60, "others", SECRET))),
            ("a forged token", bearer(&token(60, "suzu", SIGNING))),
            ("a tampered token", bearer(&good.replacen('.', ".A", 1))),
            ("another scheme", "Authorization: Basic YTpi\r\n".to_owned()),
        ];
        wrong.into_iter().for_each(|(what, fields)| refused(what, plain(target, fields), 401));
        refused("credentials twice", (with_token(target, &good), bearer(&good)), 400);
        refused(
            "a long token in the query",
            (with_token(target, &token(3600, "suzu", SECRET)), String::new()),
            401,
        );
        refused("a key in the query", (with_token(target, &secret("all")), String::new()), 401);
        refused("another's signature", (signed(method, target, 60, SECRET), String::new()), 401);
        refused("too long a signature", (signed(method, target, 3600, SIGNING), String::new()), 401);
    }
}

#[test]
fn a_refusal_says_how_to_ask_and_a_subprotocol_with_a_secret_is_not_repeated() {
    let credentials = Credentials::new();
    let server = TestServer::start_with(credentials.config(), Registry::builtin());
    let refused = ask(server.addr, "GET", "/v1/models", "");
    assert_eq!(refused.header("www-authenticate"), Some("Bearer realm=\"suzu\""));
    let expired = ask(server.addr, "GET", "/v1/models", &bearer(&token(-1, "suzu", SECRET)));
    assert!(expired.header("www-authenticate").unwrap().contains("invalid_token"));
    let fields = format!("Sec-WebSocket-Protocol: suzu.v1, token.{}\r\n", secret("all"));
    let opened = ask(server.addr, "GET", "/v1/stream?model=vad", &fields);
    assert_eq!((opened.status, opened.header("sec-websocket-protocol")), (101, Some("suzu.v1")));
    assert!(!format!("{opened:?}").contains("planted"));
    let target = "/v1/stream?model=vad&browser_errors=1";
    assert_eq!(ask(server.addr, "GET", target, "").status, 401, "nobody opens anything without credentials");
}

#[test]
fn a_stream_ends_when_its_token_does_and_when_its_key_is_gone() {
    let credentials = Credentials::new();
    credentials.write(&key("guest", &["stream"], ""));
    let server = TestServer::start_with(credentials.config(), Registry::builtin());
    let open = |target: &str, token: &str| {
        let (answer, client) = ask_over(Client::connect(server.addr), "GET", target, &bearer(token));
        assert_eq!(answer.status, 101, "{:?}", answer);
        client
    };
    let mut short = open("/v1/stream?model=vad", &token(2, "suzu", SECRET));
    let mut short_echo = open("/v1/echo", &token(2, "suzu", SECRET));
    let mut guest = open("/v1/stream?model=vad", &secret("guest"));
    let mut stays = open("/v1/stream?model=vad", &secret("all"));
    assert_eq!(read_close(&mut short), (Some("session_expired".into()), 4410));
    assert_eq!(read_close(&mut short_echo).1, 4410);
    assert_eq!(next_json(&mut guest)["type"], "Begin");

    credentials.write(&key("newcomer", &["stream"], ""));
    assert_eq!(ask(server.addr, "GET", "/v1/models", &bearer(&secret("newcomer"))).status, 401);
    assert_eq!(ask(server.addr, "POST", "/v1/admin/reload", &bearer(&secret("admin"))).status, 202);
    await_that("the new key is taken", || {
        ask(server.addr, "GET", "/v1/models", &bearer(&secret("newcomer"))).status == 200
    });
    assert_eq!(ask(server.addr, "GET", "/v1/models", &bearer(&secret("guest"))).status, 401);
    assert_eq!(read_close(&mut guest), (Some("session_expired".into()), 4410));

    fs::write(credentials.path(), "this is no file of credentials").unwrap();
    server.handle.reload();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(ask(server.addr, "GET", "/v1/models", &bearer(&secret("newcomer"))).status, 200);
    stays.send_message(TEXT, br#"{"type":"CloseStream"}"#);
    assert_eq!(read_close(&mut stays), (None, 1000), "who has credentials still notices nothing of it");
}

#[test]
fn requests_beyond_the_rate_are_told_when_to_come_again() {
    let credentials = Credentials::new();
    credentials.write(&key("slow", &["metrics"], "limits = { requests_per_second = 2 }"));
    let server = TestServer::start_with(credentials.config(), Registry::builtin());
    let ask_as = |id: &str| ask(server.addr, "GET", "/v1/models", &bearer(&secret(id)));
    let first = ask_as("slow");
    assert_eq!(first.header("ratelimit-policy"), Some("\"requests\";q=4;w=2"));
    assert!(first.header("ratelimit").unwrap().starts_with("\"requests\";r=3;t="), "{first:?}");
    let refused = (0..20).map(|_| ask_as("slow")).find(|answer| answer.status == 429).expect("a limit");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(ask_as("all").status, 200, "others do not notice");
    assert_eq!(ask_as("all").header("ratelimit"), None);
}

#[test]
fn a_principal_has_so_many_streams_and_a_browser_is_told_after_the_upgrade() {
    let credentials = Credentials::new();
    credentials.write(&key("few", &["stream"], "limits = { sessions = 1, connections = 2 }"));
    let server = TestServer::start_with(credentials.config(), Registry::builtin());
    let open = |target: &str| ask_over(Client::connect(server.addr), "GET", target, &bearer(&secret("few")));
    let (first, mut client) = open("/v1/stream?model=vad");
    assert_eq!(first.status, 101);
    let (second, _) = open("/v1/stream?model=vad");
    assert_eq!(second.status, 429);
    assert!(second.header("retry-after").is_some());
    let (echo, _kept) = open("/v1/echo");
    assert_eq!(echo.status, 101);
    assert_eq!(open("/v1/echo").0.status, 429, "two WebSockets are all");
    client.send_message(TEXT, br#"{"type":"CloseStream"}"#);
    assert_eq!(read_close(&mut client), (None, 1000));
    drop(client);
    await_that("the place is free again", || open("/v1/stream?model=vad").0.status == 101);
    let (answer, mut browser) = open("/v1/stream?model=nonsense&browser_errors=1");
    assert_eq!(answer.status, 101);
    let (error, close) = read_close(&mut browser);
    assert!(matches!(
        (error.as_deref(), close),
        (Some("model_not_found"), 4404) | (Some("too_many_sessions"), 4429)
    ));
}

#[test]
fn audio_beyond_the_rate_closes_the_stream_with_a_ledger_that_balances() {
    let credentials = Credentials::new();
    credentials.write(&key("fast", &["stream"], "limits = { audio_per_second = 1 }"));
    let server = TestServer::start_with(credentials.config(), Registry::builtin());
    let (_, mut client) =
        ask_over(Client::connect(server.addr), "GET", "/v1/stream?model=echo", &bearer(&secret("fast")));
    let mut sender = client.try_clone();
    let sending = std::thread::spawn(move || {
        for _ in 0..15 {
            sender.send_message(crate::support::BINARY, &[0; 32_000]);
        }
    });
    let (mut error, mut termination) = (None, Value::Null);
    let close = loop {
        let (opcode, payload) = client.read_message();
        match (opcode, serde_json::from_slice::<Value>(&payload)) {
            (TEXT, Ok(message)) if message["type"] == "Error" => error = Some(message["code"].clone()),
            (TEXT, Ok(message)) if message["type"] == "Termination" => termination = message,
            (CLOSE, _) => break u16::from_be_bytes([payload[0], payload[1]]),
            _ => {}
        }
    };
    sending.join().unwrap();
    assert_eq!((error, close), (Some(json!("rate_limited")), 4429));
    let ms = |name: &str| termination[name].as_f64().unwrap();
    assert_eq!(ms("audio_received_ms"), ms("processed_ms") + ms("discarded_ms"), "{termination}");
}

#[test]
fn an_address_that_guesses_waits_and_others_do_not_notice() {
    let credentials = Credentials::new();
    let config = Config { address_failures_max: 5, ..credentials.config() };
    let server = TestServer::start_with(config, Registry::builtin());
    let ask_from =
        |ip, token: &str| ask_over(connect_from(ip, server.addr), "GET", "/v1/models", &bearer(token)).0;
    let statuses: Vec<_> = (0..8).map(|_| ask_from([127, 0, 0, 2], "all.guess").status).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 429, 429]);
    let waits = ask_from([127, 0, 0, 2], &secret("all"));
    assert_eq!(waits.status, 429, "the right key, guessed at last, would say so");
    assert!(waits.header("retry-after").unwrap().parse::<u32>().unwrap() <= 60);
    assert_eq!(ask_from([127, 0, 0, 3], &secret("all")).status, 200);
    let expired = token(-1, "suzu", SECRET);
    assert!(
        (0..10).all(|_| ask_from([127, 0, 0, 4], &expired).status == 401),
        "who comes too late does not guess"
    );
}

#[test]
fn an_address_has_so_many_connections_and_a_trusted_proxy_any_number() {
    let config = Config { address_connections_max: 2, trusted_proxies: "127.0.0.9".into(), ..config() };
    let server = TestServer::start_with(config, Registry::builtin());
    let connect = |ip| connect_from(ip, server.addr);
    let mut kept: Vec<_> =
        (0..2).map(|_| ask_over(connect([127, 0, 0, 2]), "GET", "/health/live", "").1).collect();
    connect([127, 0, 0, 2]).await_closed();
    let mut proxied: Vec<_> =
        (0..4).map(|_| ask_over(connect([127, 0, 0, 9]), "GET", "/health/live", "").1).collect();
    assert_eq!(ask_over(connect([127, 0, 0, 3]), "GET", "/health/live", "").0.status, 200);
    kept.clear();
    proxied.clear();
    await_that("the places are free again", || {
        let mut client = connect([127, 0, 0, 2]);
        client.send("GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let mut first = [0; 4];
        std::io::Read::read(&mut client.stream, &mut first).is_ok_and(|count| count == 4)
    });
}

#[test]
fn only_a_trusted_proxy_names_the_address() {
    let credentials = Credentials::new();
    let config = Config {
        address_failures_max: 1,
        trusted_proxies: "127.0.0.9 10.0.0.0/8".into(),
        ..credentials.config()
    };
    let server = TestServer::start_with(config, Registry::builtin());
    let ask_from = |ip, forwarded: &str| {
        let fields = format!("{}X-Forwarded-For: {forwarded}\r\n", bearer("all.guess"));
        ask_over(connect_from(ip, server.addr), "GET", "/v1/models", &fields).0.status
    };
    assert_eq!(ask_from([127, 0, 0, 9], "1.1.1.1"), 401);
    assert_eq!(ask_from([127, 0, 0, 9], "1.1.1.1"), 429);
    assert_eq!(ask_from([127, 0, 0, 9], "2.2.2.2"), 401);
    assert_eq!(
        ask_from([127, 0, 0, 9], "6.6.6.6, 2.2.2.2, 10.1.2.3"),
        429,
        "the last that is not trusted counts"
    );
    assert_eq!(ask_from([127, 0, 0, 5], "3.3.3.3"), 401);
    assert_eq!(ask_from([127, 0, 0, 5], "4.4.4.4"), 429, "anybody can write the field");
}

#[test]
fn pages_of_named_origins_may_read_and_connect_and_others_may_not() {
    let config = Config { allowed_origins: "https://app.example http://localhost:3000".into(), ..config() };
    let server = TestServer::start_with(config, Registry::builtin());
    let ask = |method, target, fields: &str| ask(server.addr, method, target, fields);
    let named = ask("GET", "/v1/models", "Origin: https://app.example\r\n");
    assert_eq!(named.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(named.header("vary"), Some("Origin"));
    for origin in ["https://evil.example", "https://app.example.evil.example", "http://app.example", "null"] {
        let fields = format!("Origin: {origin}\r\n");
        let other = ask("GET", "/v1/models", &fields);
        assert_eq!((other.status, other.header("access-control-allow-origin")), (200, None), "{origin}");
        assert_eq!(ask("GET", "/v1/echo", &fields).status, 403, "{origin}");
    }
    assert_eq!(ask("GET", "/v1/echo", "Origin: http://localhost:3000\r\n").status, 101);
    assert_eq!(ask("GET", "/v1/echo", "Origin: http://localhost\r\n").status, 101, "a page of this server");
    assert_eq!(ask("GET", "/v1/echo", "").status, 101, "programs send no origin");
    let fields = "Origin: https://app.example\r\nAccess-Control-Request-Method: POST\r\n";
    let preflight = ask("OPTIONS", "/v2/models/vad/infer", fields);
    assert_eq!((preflight.status, preflight.header("access-control-allow-methods")), (204, Some("POST")));
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("Authorization"));
    let fields = "Origin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n";
    assert_eq!(ask("OPTIONS", "/v2/models/vad/infer", fields).status, 405);
    let page = ask("GET", "/", "");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert!(page.header("content-security-policy").unwrap().contains("frame-ancestors 'none'"));
}

#[test]
fn an_address_that_the_network_reaches_wants_credentials_or_a_word() {
    let exposed = Config { host: "0.0.0.0".into(), ..config() };
    let bind = |config: Config| {
        EventLoop::bind(config, Registry::builtin()).map(drop).map_err(|error| error.to_string())
    };
    let refused = bind(exposed.clone()).unwrap_err();
    assert!(refused.contains("credentials_file") && refused.contains("open_access"), "{refused}");
    let said = Config { open_access: suzu::config::OpenAccess::Anywhere, ..exposed.clone() };
    assert_eq!(bind(said), Ok(()));
    let credentials = Credentials::new();
    assert_eq!(bind(Config { host: "0.0.0.0".into(), ..credentials.config() }), Ok(()));
    fs::write(credentials.path(), "[[key]]").unwrap();
    assert!(bind(credentials.config()).unwrap_err().contains("credentials.toml: line 1"));
}

#[test]
fn a_hundred_thousand_wrong_tokens_take_bounded_memory_and_change_nothing_for_others() {
    let credentials = Credentials::new();
    let config = Config { address_failures_max: 3, limiters_max: 64, ..credentials.config() };
    let config = Config { trusted_proxies: "127.0.0.9".into(), ..config };
    let server = TestServer::start_with(config, Registry::builtin());
    let mut flood = connect_from([127, 0, 0, 9], server.addr);
    for number in 0..1_000u32 {
        let requests: String = (0..100u32)
            .map(|part| {
                let [_, b, c, d] = (number * 100 + part).to_be_bytes();
                let token = token_like(number * 100 + part);
                format!(
                    "GET /v1/models HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.{b}.{c}.{d}\r\nAuthorization: Bearer {token}\r\n\r\n"
                )
            })
            .collect();
        flood.send(requests);
        for _ in 0..100 {
            let head = String::from_utf8(flood.read_until("\r\n\r\n")).unwrap();
            assert!(head.starts_with("HTTP/1.1 401") || head.starts_with("HTTP/1.1 429"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
            flood.read_exactly(length.parse().unwrap());
        }
        if number % 250 == 0 {
            assert_eq!(ask(server.addr, "GET", "/v1/models", &bearer(&secret("all"))).status, 200);
        }
    }
    let (_, mut client) = ask_over(Client::connect(server.addr), "GET", "/metrics", &bearer(&secret("all")));
    let body = String::from_utf8(client.read_until("# EOF\n")).unwrap();
    let remembered = body.lines().find_map(|line| line.strip_prefix("suzu_limiters ")).expect("the gauge");
    assert!(remembered.parse::<f64>().unwrap() <= 2.0 * 64.0, "{remembered}");
}

fn token_like(number: u32) -> String {
    format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIiwiZXhwIjo0MTAyNDQ0ODAwfQ.AAAA{number:08}")
}

#[test]
fn no_secret_is_in_any_answer_log_or_metric() {
    let credentials = Credentials::new();
    let path = credentials.path();
    let server = Binary::start(
        "",
        &[
            "--workers",
            "1",
            "--models-dir",
            "",
            "--log-level",
            "trace",
            "--address-failures-max",
            "0",
            "--credentials-file",
            path.to_str().unwrap(),
        ],
    );
    let good = token(60, "suzu", SECRET);
    let forged = token(60, "suzu", SIGNING);
    let mut said = String::new();
    let mut ask = |target: &str, fields: &str| {
        let close = format!("{fields}Connection: close\r\n");
        let mut client = Client::connect(server.addr);
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{close}\r\n"));
        said.push_str(&String::from_utf8_lossy(&client.read_to_end()));
    };
    for target in ["/v1/models", "/v1/stream", "/nowhere", "/metrics", "/api/metrics", "/v2/models/nothing"] {
        for secret in
            [secret("all"), "all.planted-wrong".into(), good.clone(), forged.clone(), "planted".into()]
        {
            ask(target, &bearer(&secret));
            ask(target, &format!("Authorization: {secret}\r\n"));
            ask(target, &format!("X-API-Key: {secret}\r\n"));
            ask(target, &format!("Sec-WebSocket-Protocol: token.{secret}\r\n"));
            ask(&with_token(target, &secret), "");
            ask(&with_token(target, &secret), &bearer(&secret));
            ask(&format!("{target}?key_id=backend&expires=9999999999&signature={secret}"), "");
        }
    }
    ask("/metrics", &bearer(&secret("all")));
    ask("/api/metrics", &bearer(&secret("all")));
    assert!(said.contains("suzu_limiters") && said.matches("HTTP/1.1 401").count() > 50);
    server.signal(libc::SIGTERM);
    let log = Value::from(server.end().1).to_string();
    assert!(log.contains("refused"), "the log tells of refusals: {log}");
    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    for secret in ["planted", SECRET, SIGNING, &signature(&good), &signature(&forged)] {
        assert!(!said.contains(secret), "an answer repeats {secret}");
        assert!(!log.contains(secret), "the log has {secret}");
    }
}
