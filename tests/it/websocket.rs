//! RFC 6455 on the wire: the handshake and its refusals, frames in every form, and closing.

use crate::answer::{metric, request, upgrade_request};
use crate::stream_client::StreamClient;
use crate::support::{BINARY, CLOSE, Client, PING, PONG, TEXT, TestServer, config, frame};
use serde_json::json;
use std::time::Duration;
use suzu::config::Config;
use suzu::model::Registry;

const CONTINUATION: u8 = 0;
/// The bit of a frame's first byte that says that the message goes on is absent: no FIN.
const FIN: u8 = 0x80;

/// The same frame as a part of a message that goes on.
fn unfinished(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = frame(opcode, payload);
    frame[0] &= !FIN;
    frame
}

/// Reads up to a Close and answers its code; then the connection must end.
fn closed_with(client: &mut Client) -> u16 {
    loop {
        let (opcode, payload) = client.read_message();
        if opcode == CLOSE {
            client.await_closed();
            return u16::from_be_bytes([payload[0], payload[1]]);
        }
    }
}

#[test]
fn a_path_for_websockets_asks_for_the_upgrade() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    for target in ["/v1/stream", "/audio", "/v1/echo"] {
        let answer = client.ask("GET", target, "");
        assert_eq!(answer.status, 426, "{target}");
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        assert_eq!(answer.header("sec-websocket-version"), Some("13"));
        assert!(answer.error()["message"].as_str().unwrap().contains("ws://"), "{}", answer.text());
    }
}

#[test]
fn a_wrong_handshake_is_refused_by_name_and_may_be_tried_again() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    const RIGHT: [&str; 4] = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    for (place, line, status, param) in [
        (1, "Connection: keep-alive", 426, "Connection"),
        (2, "Sec-WebSocket-Version: 8", 426, "Sec-WebSocket-Version"),
        (2, "X: no version", 426, "Sec-WebSocket-Version"),
        (3, "X: no key", 400, "Sec-WebSocket-Key"),
        (3, "Sec-WebSocket-Key: c2hvcnQ=", 400, "Sec-WebSocket-Key"),
        (3, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=!", 400, "Sec-WebSocket-Key"),
    ] {
        let mut lines = RIGHT;
        lines[place] = line;
        let answer = client.ask("GET", "/v1/echo", &(lines.join("\r\n") + "\r\n"));
        assert_eq!((answer.status, answer.error()["param"].as_str()), (status, Some(param)), "{line}");
    }
    client.upgrade("/v1/echo");
    client.echo(b"at last");
}

#[test]
fn other_paths_and_methods_are_refused_before_the_upgrade() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    client.send(upgrade_request("/v1/steam", ""));
    assert_eq!(client.answer().status, 404);
    client.send(upgrade_request("/v1/stream", "").replace("GET", "PUT"));
    assert_eq!(client.answer().status, 405);
    client.send(upgrade_request("/v1/stream", "").replace("HTTP/1.1", "HTTP/1.0"));
    assert_eq!(client.answer().status, 400);
}

#[test]
fn the_subprotocol_is_selected_if_it_was_offered() {
    let server = TestServer::start();
    for (offer, selected) in [
        ("Sec-WebSocket-Protocol: suzu.v1\r\n", Some("suzu.v1")),
        ("Sec-WebSocket-Protocol: other, suzu.v1\r\n", Some("suzu.v1")),
        (
            "Sec-WebSocket-Protocol: other\r\nSec-WebSocket-Protocol: suzu.v1, token.secret\r\n",
            Some("suzu.v1"),
        ),
        ("Sec-WebSocket-Protocol: suzu.v2, token.secret\r\n", None),
        ("", None),
    ] {
        let mut client = Client::connect(server.addr);
        client.send(upgrade_request("/v1/stream?model=echo", &format!("{offer}X-Request-Id: r-1\r\n")));
        let head = client.answer_head();
        assert_eq!((head.status, head.header("sec-websocket-protocol")), (101, selected), "{offer}");
        assert_eq!(head.header("x-request-id"), Some("r-1"));
        assert!(!format!("{head:?}").contains("secret"), "a secret is not for repeating: {head:?}");
        assert_eq!(StreamClient::after_upgrade(client).begin["request_id"], "r-1");
    }
}

#[test]
fn extensions_that_are_not_spoken_are_not_promised() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    client.send(upgrade_request("/v1/echo", "Sec-WebSocket-Extensions: permessage-deflate\r\n"));
    let head = client.answer_head();
    assert_eq!((head.status, head.header("sec-websocket-extensions")), (101, None));
}

#[test]
fn frames_in_the_packet_of_the_upgrade_belong_to_the_stream() {
    let server = TestServer::start();
    let mut client = Client::connect(server.addr);
    let mut bytes = request("GET", "/health/live", "").into_bytes();
    bytes.extend(upgrade_request("/v1/stream?model=echo", "").into_bytes());
    bytes.extend(frame(BINARY, &[0; 6400]));
    bytes.extend(frame(TEXT, br#"{"type":"CloseStream"}"#));
    client.send(bytes);
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.answer_head().status, 101);
    let story = StreamClient::after_upgrade(client).rest();
    assert_eq!(story.termination()["processed_ms"], 200);
    assert_eq!(story.close, 1000);
}

#[test]
fn fragments_are_put_together_and_control_frames_between_them_answered_at_once() {
    let server = TestServer::start();
    let mut client = Client::websocket(server.addr, "/v1/echo");
    // Cut in the middle of a character, which is allowed.
    let text = "straße".as_bytes();
    client.send(unfinished(TEXT, &text[..5]));
    client.send_message(PING, b"in between");
    assert_eq!(client.read_message(), (PONG, b"in between".to_vec()));
    client.send(unfinished(CONTINUATION, b""));
    client.send_message(PONG, b"nobody asked");
    client.send_message(CONTINUATION, &text[5..]);
    assert_eq!(client.read_message(), (TEXT, text.to_vec()));
    client.send(unfinished(BINARY, &[1]));
    client.send_message(CONTINUATION, &[2]);
    client.hear_echo(&[1, 2]);
}

#[test]
fn frames_may_come_in_any_pieces() {
    let server = TestServer::start();
    let mut client = Client::websocket(server.addr, "/v1/echo");
    let mut bytes = unfinished(TEXT, "é".repeat(100).as_bytes());
    bytes.extend(frame(PING, b"p"));
    bytes.extend(frame(CONTINUATION, b"end"));
    for byte in bytes {
        client.send([byte]);
    }
    assert_eq!(client.read_message(), (PONG, b"p".to_vec()));
    assert_eq!(client.read_message(), (TEXT, ("é".repeat(100) + "end").into_bytes()));
}

#[test]
fn messages_of_every_length_of_length_come_back() {
    let server = TestServer::start();
    let mut client = Client::websocket(server.addr, "/v1/echo");
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
        let payload: Vec<u8> = (0..length).map(|place: usize| place as u8).collect();
        client.echo(&payload);
    }
    client.send_message(TEXT, b"");
    assert_eq!(client.read_message(), (TEXT, vec![]));
}

#[test]
fn a_message_of_16_mib_comes_back_and_one_byte_more_is_too_much() {
    let server = TestServer::start();
    let mut client = Client::websocket(server.addr, "/v1/echo");
    let mut payload: Vec<u8> = (0..16_u32 << 20).map(|place| (place / 251) as u8).collect();
    client.echo(&payload);
    payload.push(0);
    // The head is enough to see it.
    client.send(&frame(BINARY, &payload)[..14]);
    assert_eq!(closed_with(&mut client), 1009);
}

#[test]
fn a_ping_is_answered_with_its_own_payload() {
    let server = TestServer::start();
    let mut client = Client::websocket(server.addr, "/v1/echo");
    for payload in [&b""[..], b"x", &[0xff; 125]] {
        client.send_message(PING, payload);
        assert_eq!(client.read_message(), (PONG, payload.to_vec()));
    }
}

#[test]
fn a_close_is_answered_with_its_code_and_ends_the_connection() {
    let server = TestServer::start();
    for code in [1000_u16, 1001, 3000, 4999] {
        let mut client = Client::websocket(server.addr, "/v1/echo");
        client.send_message(CLOSE, &[&code.to_be_bytes()[..], "bye ✓".as_bytes()].concat());
        client.send_message(TEXT, b"after the end");
        assert_eq!(client.read_message(), (CLOSE, code.to_be_bytes().to_vec()));
        assert!(client.read_to_end().is_empty());
    }
    let mut client = Client::websocket(server.addr, "/v1/echo");
    client.send_message(CLOSE, b"");
    assert_eq!(client.read_message(), (CLOSE, vec![]));
    assert!(client.read_to_end().is_empty());
}

#[test]
fn the_server_waits_for_the_answer_to_its_close_but_not_for_ever() {
    let server = TestServer::start_with(
        Config { close_timeout: Duration::from_millis(50), ..config() },
        Registry::builtin(),
    );
    let mut client = Client::websocket(server.addr, "/v1/stream?model=echo");
    client.send_message(TEXT, json!({"type": "CloseStream"}).to_string().as_bytes());
    assert_eq!(closed_with(&mut client), 1000, "and it does end although nobody answers");
}

#[test]
fn broken_frames_end_the_connection_with_the_right_code() {
    let server = TestServer::start();
    let mut bystander = Client::websocket(server.addr, "/v1/echo");
    let masked = |head: &[u8], length: usize| [head, &[0; 4], &vec![b'a'; length]].concat();
    let text = |payload: &[u8]| frame(TEXT, payload);
    let close = |payload: &[u8]| frame(CLOSE, payload);
    for (what, bytes, code) in [
        ("not masked", vec![0x81, 2, b'h', b'i'], 1002),
        ("a reserved bit", masked(&[0xc1, 0x81], 1), 1002),
        ("a reserved opcode", masked(&[0x83, 0x81], 1), 1002),
        ("a reserved control opcode", masked(&[0x8b, 0x80], 0), 1002),
        ("a fragmented ping", masked(&[0x09, 0x80], 0), 1002),
        ("a long ping", masked(&[0x89, 0xfe, 0, 126], 126), 1002),
        ("going on with nothing", frame(CONTINUATION, b"x"), 1002),
        ("a new message within another", [unfinished(TEXT, b"a"), text(b"b")].concat(), 1002),
        ("a close of one byte", close(&[3]), 1002),
        ("a close with a reserved code", close(&1005_u16.to_be_bytes()), 1002),
        ("a close with a code below all", close(&999_u16.to_be_bytes()), 1002),
        ("a close that is not UTF-8", close(&[3, 232, 0xff]), 1007),
        ("text that is not UTF-8", text(b"\xc3\x28"), 1007),
        ("a surrogate", text(b"\xed\xa0\x80"), 1007),
        ("text that ends in a character", text(b"\xe2\x82"), 1007),
        ("fragments not UTF-8", [unfinished(TEXT, b"ok"), frame(CONTINUATION, b"\xff")].concat(), 1007),
        ("a length over 63 bits", masked(&[0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0], 0), 1002),
        ("1 GB", [&[0x82, 0xff][..], &(1_u64 << 30).to_be_bytes(), &[0; 4]].concat(), 1009),
    ] {
        let mut client = Client::websocket(server.addr, "/v1/echo");
        client.send(bytes);
        let (opcode, payload) = client.read_message();
        assert_eq!((opcode, u16::from_be_bytes([payload[0], payload[1]])), (CLOSE, code), "{what}");
        assert!(payload.len() > 2, "{what}: and says why");
        client.await_closed();
        bystander.echo(what.as_bytes());
    }
}

#[test]
fn bytes_that_are_only_announced_cost_nothing() {
    let server = TestServer::start();
    let announced = &frame(BINARY, &vec![0; 15 << 20])[..14];
    let mut clients: Vec<_> = (0..40).map(|_| Client::websocket(server.addr, "/v1/echo")).collect();
    for client in &mut clients {
        // The ping in front is answered when the server has seen the rest too.
        client.send([frame(PING, b""), announced.to_vec(), vec![0; 100]].concat());
        assert_eq!(client.read_message().0, PONG);
    }
    let held = metric(server.addr, "suzu_incoming_bytes");
    assert!(held < 40.0 * 4096.0, "600 MiB announced, 4 KB sent, {held} bytes held");
}

#[test]
fn a_connection_at_rest_holds_nothing_of_the_messages_before() {
    let server = TestServer::start();
    let mut clients: Vec<_> = (0..8).map(|_| Client::websocket(server.addr, "/v1/echo")).collect();
    for client in &mut clients {
        // More than may wait for one connection, so the server stops in the middle of its own answer.
        client.echo(&vec![1; 1 << 20]);
    }
    for name in ["suzu_incoming_bytes", "suzu_outgoing_bytes"] {
        let held = metric(server.addr, name);
        assert!(held < 10_000.0, "{name}: {held}");
    }
}

#[test]
fn a_stream_that_breaks_the_protocol_still_gets_what_it_is_owed() {
    let server = TestServer::start();
    for (bytes, code) in
        [(vec![0x81, 2, b'h', b'i'], 1002), (frame(TEXT, b"\xff"), 1007), (frame(3, b""), 1002)]
    {
        let mut stream = StreamClient::open(server.addr, "/v1/stream?model=echo");
        stream.audio(&[0; 3200]);
        stream.client.send(bytes);
        let story = stream.rest();
        assert_eq!(story.close, code);
        assert_eq!(story.errors(), ["invalid_payload"]);
        assert_eq!(story.all("Error").next().unwrap()["fatal"], true);
        assert_eq!(story.termination()["processed_ms"], 100);
    }
}
