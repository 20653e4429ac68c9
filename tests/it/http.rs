//! HTTP/1.1 and 1.0 as clients and proxies speak it: connections that are kept, bodies, methods, versions.

use crate::answer::{request, request_with};
use crate::support::{Client, TestServer, config};
use std::time::Duration;
use suzu::config::Config;
use suzu::model::Registry;

#[test]
fn a_connection_serves_one_request_after_another() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    for target in ["/", "/health/live", "/v1/models", "/v1/status", "/api/metrics", "/metrics"] {
        let answer = client.ask("GET", target, "");
        assert_eq!((answer.status, answer.header("connection")), (200, Some("keep-alive")), "{target}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    let all = [
        request("GET", "/health/live", "X-Request-Id: r1\r\n"),
        request_with("POST", "/v1/echo", "X-Request-Id: r2\r\n", "the second"),
        request("GET", "/nowhere", "X-Request-Id: r3\r\n"),
        request("HEAD", "/v1/models", "X-Request-Id: r4\r\n"),
        request_with("POST", "/v1/echo", "X-Request-Id: r5\r\n", "the fifth"),
    ];
    client.send(all.concat());
    let mut answers = vec![client.answer(), client.answer(), client.answer(), client.answer_head()];
    answers.push(client.answer());
    let ids: Vec<_> = answers.iter().filter_map(|answer| answer.header("x-request-id")).collect();
    assert_eq!(ids, ["r1", "r2", "r3", "r4", "r5"]);
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 200, 404, 200, 200]);
    assert_eq!((answers[1].text(), answers[4].text()), ("the second", "the fifth"));
}

#[test]
fn requests_may_come_in_any_pieces() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    let bytes = request_with("POST", "/v1/echo", "", "in pieces") + &request("GET", "/health/live", "");
    for byte in bytes.as_bytes() {
        client.send([*byte]);
    }
    assert_eq!(client.answer().text(), "in pieces");
    assert_eq!(client.answer().status, 200);
}

#[test]
fn head_gets_the_head_that_get_gets_and_no_body() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    for target in ["/", "/v1/models"] {
        let get = client.ask("GET", target, "");
        client.send(request("HEAD", target, ""));
        let head = client.answer_head();
        assert_eq!(head.status, 200);
        for name in ["content-length", "content-type", "connection"] {
            assert_eq!(head.header(name), get.header(name), "{target}: {name}");
        }
    }
    // Nothing was left behind by HEAD: the next answer is in its place.
    assert_eq!(client.ask("GET", "/health/live", "").status, 200);
}

#[test]
fn a_body_comes_back_with_its_type() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    client.send(request_with("POST", "/v1/echo", "Content-Type: text/x-test\r\n", "what I said"));
    let answer = client.answer();
    assert_eq!((answer.status, answer.text()), (200, "what I said"));
    assert_eq!(answer.header("content-type"), Some("text/x-test"));
    client.send(request_with("POST", "/v1/echo", "", ""));
    assert_eq!(client.answer().text(), "");
}

#[test]
fn a_body_in_chunks_is_put_together() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    let head = request("POST", "/v1/echo", "Transfer-Encoding: chunked\r\n");
    let chunks = "5\r\nhello\r\n1;name=value\r\n,\r\nA\r\n ten bytes\r\n0\r\nTrailer: ignored\r\n\r\n";
    client.send(format!("{head}{chunks}{}", request("GET", "/health/live", "")));
    assert_eq!(client.answer().text(), "hello, ten bytes");
    assert_eq!(client.answer().status, 200, "what follows the body is the next request");
}

#[test]
fn a_body_of_the_greatest_size_is_taken_in_either_form() {
    let server = TestServer::start_with(Config { body_bytes_max: 300_000, ..config() }, Registry::builtin());
    let mut client = Client::connect(server.addr);
    let body = "0123456789".repeat(30_000);
    client.send(request_with("POST", "/v1/echo", "", &body));
    assert!(client.answer().text() == body, "other bytes came back");
    let head = request("POST", "/v1/echo", "Transfer-Encoding: chunked\r\n");
    client.send(format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
    assert!(client.answer().text() == body, "other bytes came back");
}

#[test]
fn who_expects_100_continue_is_told_to_go_on() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    client.send(request("POST", "/v1/echo", "Content-Length: 4\r\nExpect: 100-continue\r\n"));
    assert_eq!(client.read_until("\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body");
    assert_eq!(client.answer().text(), "body");
}

#[test]
fn who_expects_100_continue_for_too_much_is_refused_instead() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    client.send(request("POST", "/v1/echo", "Content-Length: 99999999\r\nExpect: 100-continue\r\n"));
    assert_eq!(client.answer().status, 413);
    assert!(client.read_to_end().is_empty());
    let answer = Client::connect(server.addr).ask("POST", "/v1/echo", "Expect: a-miracle\r\n");
    assert_eq!(answer.status, 417);
}

#[test]
fn an_unknown_path_is_told_what_to_do() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    let answer = client.ask("GET", "/v1/modles?x=1", "");
    assert_eq!(answer.status, 404);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let error = answer.error();
    assert_eq!(error["code"], "not_found");
    assert_eq!(error["message"], "there is nothing at /v1/modles; GET / lists what is served");
    assert_eq!(error["request_id"].as_str(), answer.header("x-request-id"));
    assert_eq!(client.ask("GET", "/", "").status, 200, "the connection goes on");
}

#[test]
fn a_wrong_method_is_told_the_right_ones() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    for (method, target, allow) in [
        ("DELETE", "/health/live", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("PUT", "/v1/echo", "GET, POST"),
        ("POST", "/v1/stream", "GET"),
        ("HEAD", "/audio", "GET"),
    ] {
        client.send(request(method, target, ""));
        let answer = if method == "HEAD" { client.answer_head() } else { client.answer() };
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{method} {target}");
    }
}

#[test]
fn a_refused_body_does_not_become_the_next_request() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    client.send(request_with("POST", "/health/live", "", &request("GET", "/smuggled", "")));
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (405, Some("close")));
    assert!(client.read_to_end().is_empty());
}

#[test]
fn a_request_keeps_its_name_or_gets_one() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    let named = client.ask("GET", "/nowhere", "X-Request-ID: trace-7_b.c\r\n");
    assert_eq!(named.header("x-request-id"), Some("trace-7_b.c"));
    assert_eq!(named.error()["request_id"], "trace-7_b.c");
    let mut given = Vec::new();
    let long = "x".repeat(65);
    for bad in ["", "X-Request-Id: has blanks\r\n", &format!("X-Request-Id: {long}\r\n"), "X-Request-Id:\r\n"]
    {
        let answer = client.ask("GET", "/health/live", bad);
        let id = answer.header("x-request-id").expect("every answer has one").to_owned();
        assert_eq!((id.len(), id.matches('-').count()), (36, 4), "{bad:?} got {id}");
        given.push(id);
    }
    given.sort_unstable();
    given.dedup();
    assert_eq!(given.len(), 4, "each request has a name of its own");
}

#[test]
fn http_1_0_is_served_and_closed_unless_asked_otherwise() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    client.send("GET /health/live HTTP/1.0\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(client.read_to_end().is_empty());

    let mut client = Client::connect(server.addr);
    for _ in 0..2 {
        client.send("GET /health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(client.answer().header("connection"), Some("keep-alive"));
    }
}

#[test]
fn connection_close_is_heeded() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    let answer = client.ask("GET", "/health/live", "Connection: close\r\n");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(client.read_to_end().is_empty());
}

#[test]
fn other_versions_are_refused_by_name() {
    let server = TestServer::start();
    for (bytes, status) in [
        ("GET / HTTP/1.2\r\nHost: x\r\n\r\n", 505),
        ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("GET / HTTP/9\r\nHost: x\r\n\r\n", 400),
        ("BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    ] {
        let mut client = Client::connect(server.addr);
        client.send(bytes);
        let answer = client.answer();
        assert_eq!(answer.status, status, "{bytes:?}");
        assert!(!answer.error()["message"].as_str().unwrap().is_empty());
        client.await_closed();
    }
}

#[test]
fn who_finished_sending_gets_every_answer() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    client.send([request_with("POST", "/v1/echo", "", "one"), request("GET", "/health/live", "")].concat());
    client.finish_sending();
    assert_eq!(client.answer().text(), "one");
    assert_eq!(client.answer().status, 200);
    assert!(client.read_to_end().is_empty());
}

#[test]
fn a_connection_at_rest_is_closed_without_a_word() {
    let server = TestServer::start_with(
        Config { idle_timeout: Duration::from_millis(50), ..config() },
        Registry::builtin(),
    );
    let mut client = Client::connect(server.addr);
    assert_eq!(client.ask("GET", "/health/live", "").status, 200);
    assert!(client.read_to_end().is_empty());
}

#[test]
fn percent_signs_and_dots_in_a_path_are_taken_for_what_they_mean() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    for target in ["/health/%6cive", "/x/../health/live", "http://localhost/health/live"] {
        assert_eq!(client.ask("GET", target, "").status, 200, "{target}");
    }
}
