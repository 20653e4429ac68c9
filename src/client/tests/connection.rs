//! A bare WebSocket against a script: what makes it fit for the next one who uses it.

use super::*;
use crate::driver::Clock;
use crate::time::Instant;

fn await_that(what: &str, mut is_so: impl FnMut() -> bool) {
    let clock = Clock::new();
    while !is_so() {
        assert!(clock.instant() < Instant::from_origin(PATIENCE), "{what}");
        thread::yield_now();
    }
}

/// A connection to a server that says `bytes` when told to, and then listens.
fn said(bytes: Vec<u8>) -> (Connection, std::sync::mpsc::Sender<()>, JoinHandle<Vec<Heard>>) {
    let (go, wait) = std::sync::mpsc::channel();
    let (url, server) = serve(move |mut tcp, head| {
        tcp.write_all(&switching(&head)).expect("an answer");
        wait.recv().expect("the signal");
        tcp.write_all(&bytes).expect("the client is there");
        hear(&mut tcp)
    });
    let connection = Connection::open(&format!("{url}/v1/echo"), &Options::default()).expect("open");
    (connection, go, server)
}

#[test]
fn messages_go_both_ways_and_the_end_is_told_once() {
    let (url, server) = serve(|mut tcp, head| {
        let mut out = switching(&head);
        websocket::encode_text(&mut out, "hm", None);
        websocket::encode_binary(&mut out, &[1, 2, 3], None);
        websocket::encode_close(&mut out, 1000, "done", None);
        tcp.write_all(&out).expect("an answer");
        (head, hear(&mut tcp))
    });
    let mut connection = Connection::open(&format!("{url}/v1/echo?a=b"), &Options::default()).expect("open");
    connection.send(&[4, 5]).expect("sent");
    connection.send_text("six").expect("sent");
    let mut received = Vec::new();
    while let Some(message) = connection.recv().expect("no error") {
        received.push(message);
    }
    let closed = Message::Closed { code: Some(1000), reason: "done".into() };
    assert_eq!(received, [Message::Text("hm".into()), Message::Binary(vec![1, 2, 3]), closed]);
    assert!(matches!(connection.send(&[7]), Err(Error::Closed)) && !connection.is_usable());
    let (head, heard) = server.join().expect("the server's script");
    assert!(head.starts_with("GET /v1/echo?a=b HTTP/1.1\r\n"), "{head}");
    assert_eq!(heard, [Heard::Binary(vec![4, 5]), Heard::Text("six".into()), Heard::Close(Some(1000))]);
}

#[test]
fn a_silent_connection_is_usable_and_closes_properly_when_it_is_dropped() {
    let (mut connection, go, server) = said(Vec::new());
    assert!(connection.is_usable() && connection.is_usable());
    drop(connection);
    go.send(()).expect("the server lives");
    assert_eq!(server.join().expect("the server's script"), [Heard::Close(Some(1000))]);
}

#[test]
fn a_ping_is_answered_by_asking_whether_the_connection_is_usable() {
    let mut ping = Vec::new();
    websocket::encode_ping(&mut ping, b"there?", None);
    websocket::encode_close(&mut ping, 1000, "", None);
    let (mut connection, go, server) = said(ping);
    go.send(()).expect("the server lives");
    await_that("the close comes behind the ping", || !connection.is_usable());
    let heard = server.join().expect("the server's script");
    assert_eq!(heard, [Heard::Pong(b"there?".to_vec()), Heard::Close(Some(1000))]);
}

#[test]
fn what_nobody_asked_for_makes_a_connection_unusable_be_it_whole_or_not() {
    let mut whole = Vec::new();
    websocket::encode_binary(&mut whole, &[9; 300], None);
    let mut masked = Vec::new();
    websocket::encode_binary(&mut masked, &[9; 3], Some([1, 2, 3, 4]));
    for bytes in [whole.clone(), whole[..1].to_vec(), whole[..3].to_vec(), whole[..100].to_vec(), masked] {
        let count = bytes.len();
        let (mut connection, go, server) = said(bytes);
        assert!(connection.is_usable());
        go.send(()).expect("the server lives");
        await_that(&format!("{count} bytes make it unusable"), || !connection.is_usable());
        drop(connection);
        server.join().expect("the server's script");
    }
}

#[test]
fn a_connection_whose_server_is_gone_is_not_usable() {
    let (url, server) = serve(|mut tcp, head| tcp.write_all(&switching(&head)).expect("an answer"));
    let mut connection = Connection::open(&format!("{url}/v1/echo"), &Options::default()).expect("open");
    server.join().expect("the server's script");
    await_that("the end is noticed", || !connection.is_usable());
    assert!(matches!(connection.recv(), Ok(None)));
}
