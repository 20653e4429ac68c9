//! HTTP that is too slow, too large or ambiguous: refused by name, the connection closed, the others untouched.

use crate::answer::{get, metric, request};
use crate::support::{Client, TestServer, config};
use std::io::Write;
use std::time::Duration;
use suzu::config::Config;
use suzu::model::Registry;

fn start(change: impl FnOnce(&mut Config)) -> TestServer {
    let mut config = config();
    change(&mut config);
    TestServer::start_with(config, Registry::builtin())
}

/// Sends, expects one answer of that status, and then the end.
fn refused(server: &TestServer, bytes: impl AsRef<[u8]>, status: u16) {
    let bytes = bytes.as_ref();
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
    let mut client = Client::connect(server.addr);
    client.send(bytes);
    let answer = client.answer();
    assert_eq!(answer.status, status, "{shown:?}: {}", answer.text());
    assert_eq!(answer.header("connection"), Some("close"), "{shown:?}");
    assert!(answer.error()["message"].as_str().is_some_and(|words| words.len() > 10), "{}", answer.text());
    let rest = client.read_to_end();
    assert!(rest.is_empty(), "{shown:?} was answered further: {}", String::from_utf8_lossy(&rest));
}

#[test]
fn a_head_that_does_not_come_gets_408() {
    let server = start(|config| config.head_timeout = Duration::from_millis(50));
    refused(&server, "", 408);
    refused(&server, "GET / HTTP/1.1\r\nHost: lo", 408);
    // Also behind a request that was served.
    let mut client = Client::connect(server.addr);
    assert_eq!(client.ask("GET", "/health/live", "").status, 200);
    client.send("GET");
    assert_eq!(client.answer().status, 408);
    assert!(client.read_to_end().is_empty());
    assert_eq!(metric(server.addr, "suzu_refusals_total{reason=\"request_timeout\"}"), 3.0);
}

#[test]
fn a_body_that_does_not_come_gets_408() {
    let server = start(|config| config.body_timeout = Duration::from_millis(50));
    refused(&server, request("POST", "/v1/echo", "Content-Length: 10\r\n") + "12345", 408);
    refused(&server, request("POST", "/v1/echo", "Transfer-Encoding: chunked\r\n") + "5\r\n123", 408);
}

#[test]
fn sending_a_byte_now_and_then_wins_no_time() {
    let server = start(|config| {
        config.head_timeout = Duration::from_millis(50);
        config.body_timeout = Duration::from_millis(50);
    });
    let head = "GET / HTTP/1.1\r\nX: ".to_owned();
    let body = request("POST", "/v1/echo", "Content-Length: 900000\r\n");
    for begin in [head, body] {
        let mut client = Client::connect(server.addr);
        client.send(begin);
        let mut dripping = client.stream.try_clone().unwrap();
        let drip = std::thread::spawn(move || {
            // Ends by itself when the limits on head and body would be reached, which they must not be.
            (0..10_000)
                .take_while(|_| {
                    std::thread::sleep(Duration::from_millis(1));
                    dripping.write_all(b"x").is_ok()
                })
                .count()
        });
        assert_eq!(client.answer().status, 408);
        drop(client);
        drip.join().unwrap();
    }
}

#[test]
fn a_body_over_the_limit_gets_413() {
    let server = start(|config| config.body_bytes_max = 1000);
    refused(&server, request("POST", "/v1/echo", "Content-Length: 1001\r\n"), 413);
    refused(&server, request("POST", "/v1/echo", "Content-Length: 18446744073709551615\r\n"), 413);
    let chunked = request("POST", "/v1/echo", "Transfer-Encoding: chunked\r\n");
    refused(&server, format!("{chunked}3E9\r\n"), 413);
    refused(&server, format!("{chunked}3e8\r\n{}\r\n1\r\nx\r\n0\r\n\r\n", "y".repeat(1000)), 413);
}

#[test]
fn a_target_over_the_limit_gets_414() {
    let server = start(|config| config.target_bytes_max = 1000);
    refused(&server, request("GET", &format!("/{}", "a".repeat(1000)), ""), 414);
    // As soon as it shows, without the rest of the head.
    refused(&server, format!("GET /{}", "a".repeat(1000)), 414);
    assert_eq!(get(server.addr, &format!("/health/live?{}", "a".repeat(980))).status, 200);
}

#[test]
fn a_head_over_the_limit_gets_431() {
    let server = start(|config| config.head_bytes_max = 9000);
    refused(&server, request("GET", "/", &format!("X: {}\r\n", "a".repeat(9000))), 431);
    refused(&server, format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "a".repeat(9000)), 431);
    refused(&server, request("GET", "/", &"A: b\r\n".repeat(120)), 431);
    assert_eq!(Client::connect(server.addr).ask("GET", "/", &"A: b\r\n".repeat(90)).status, 200);
}

#[test]
fn framing_that_two_servers_could_read_differently_is_refused_and_the_connection_closed() {
    let server = TestServer::start();
    let smuggled = request("GET", "/v1/models", "");
    let post =
        |lines: &str, body: &str| format!("POST /v1/echo HTTP/1.1\r\nHost: x\r\n{lines}\r\n{body}{smuggled}");
    let empty_chunks = "0\r\n\r\n";
    for attempt in [
        post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", empty_chunks),
        post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", empty_chunks),
        post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
        post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
        post("Content-Length: 5, 5\r\n", "hello"),
        post("Content-Length: +5\r\n", "hello"),
        post("Content-Length: -1\r\n", ""),
        post("Content-Length: 0x5\r\n", "hello"),
        post("Content-Length:\r\n", ""),
        post("Content-Length: 99999999999999999999999\r\n", ""),
        post("Content-Length : 5\r\n", "hello"),
        post("Transfer-Encoding : chunked\r\n", empty_chunks),
        post("Transfer-Encoding: xchunked\r\n", empty_chunks),
        post("Transfer-Encoding: chunked, identity\r\n", empty_chunks),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", empty_chunks),
        post("Transfer-Encoding: \x0bchunked\r\n", empty_chunks),
        post("Transfer-Encoding:\r\n chunked\r\n", empty_chunks),
        post("X: a\r\n folded\r\nContent-Length: 0\r\n", ""),
        post("X: a\nContent-Length: 5\r\n", "hello"),
        post("X: a\rContent-Length: 5\r\n", "hello"),
        post("X: a\0b\r\n", ""),
        post("no colon here\r\n", ""),
        post(": no name\r\n", ""),
        post("Host: y\r\n", ""),
        format!("GET / HTTP/1.1\r\n\r\n{smuggled}"),
        format!("GET  / HTTP/1.1\r\nHost: x\r\n\r\n{smuggled}"),
        format!("GET / HTTP/1.1 \r\nHost: x\r\n\r\n{smuggled}"),
        format!("GET /a b HTTP/1.1\r\nHost: x\r\n\r\n{smuggled}"),
        format!(" GET / HTTP/1.1\r\nHost: x\r\n\r\n{smuggled}"),
        format!("GET /\r\n\r\n{smuggled}"),
    ] {
        refused(&server, attempt, 400);
    }
    refused(&server, post("Transfer-Encoding: gzip, chunked\r\n", empty_chunks), 501);
    refused(&server, "POST /v1/echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
    assert_eq!(metric(server.addr, "suzu_requests_total{route=\"/v1/models\",status=\"200\"}"), 0.0);
}

#[test]
fn chunks_that_two_servers_could_read_differently_are_refused() {
    let server = TestServer::start();
    let head = request("POST", "/v1/echo", "Transfer-Encoding: chunked\r\n");
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "\r\n\r\n",
        "g\r\n\r\n",
        "fffffffffffffffff\r\n",
    ] {
        refused(&server, format!("{head}{body}"), 400);
    }
}

#[test]
fn what_is_not_http_at_all_is_refused() {
    let server = TestServer::start();
    // The beginning of TLS, of SSH, and nothing that anybody knows.
    refused(&server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400);
    refused(&server, b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 400);
    refused(&server, [&[0xff_u8; 100][..], b"\r\n\r\n"].concat(), 400);
}

#[test]
fn after_a_fault_the_next_connection_is_served_as_ever() {
    let server = TestServer::start();
    let mut bystander = Client::connect(server.addr);
    for _ in 0..20 {
        refused(&server, "nonsense\r\n\r\n", 400);
        assert_eq!(bystander.ask("GET", "/health/live", "").status, 200);
        assert_eq!(get(server.addr, "/health/live").status, 200);
    }
}
