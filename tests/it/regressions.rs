//! What fuzzing found in the server, each as the shortest conversation that showed it.

use std::time::Duration;
use suzu::config::Config;
use suzu::id::ConnId;
use suzu::model::Registry;
use suzu::server::{Input, Output, Server};
use suzu::time::{Instant, Now};
use suzu::wire::websocket;

const NOW: Now = Now { instant: Instant::from_origin(Duration::from_secs(1000)), unix_ms: 1_700_000_000_000 };

fn server_with_one() -> (Server, ConnId) {
    let mut server = Server::new(Config::default(), Registry::builtin(), 1, NOW).expect("the defaults");
    let conn = server.accept(([192, 0, 2, 1], 9).into(), NOW).expect("room for one");
    (server, conn)
}

fn receive(server: &mut Server, conn: ConnId, bytes: &[u8]) {
    server.handle_input(Input::Received { conn, bytes: &mut bytes.to_vec() }, NOW);
}

fn outputs(server: &mut Server) -> Vec<Output> {
    std::iter::from_fn(|| server.poll_output()).collect()
}

fn write_all(server: &mut Server, conn: ConnId) -> Vec<u8> {
    let written = server.outgoing(conn).to_vec();
    server.sent(conn, written.len(), NOW);
    written
}

fn is_closed(server: &mut Server, conn: ConnId) -> bool {
    outputs(server).iter().any(|output| matches!(output, Output::Close(id) if *id == conn))
}

#[test]
fn a_request_cut_off_by_the_end_of_input_is_no_longer_charged() {
    for cut_off in [
        "POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\nhalf",
        "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTT",
    ] {
        let (mut server, conn) = server_with_one();
        receive(&mut server, conn, cut_off.as_bytes());
        server.handle_input(Input::HalfClosed { conn }, NOW);
        server.check_invariants();
        write_all(&mut server, conn);
        assert!(is_closed(&mut server, conn));
    }
}

#[test]
fn a_body_that_came_too_late_is_no_longer_charged() {
    let (mut server, conn) = server_with_one();
    receive(&mut server, conn, b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf");
    let later = Now { instant: NOW.instant + server.config().body_timeout, ..NOW };
    server.handle_timeout(later);
    assert!(server.outgoing(conn).starts_with(b"HTTP/1.1 408 "));
    server.check_invariants();
}

#[test]
fn a_close_frame_right_behind_close_stream_closes_the_connection() {
    let (mut server, conn) = server_with_one();
    receive(
        &mut server,
        conn,
        b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    );
    let mut frames = Vec::new();
    websocket::encode_text(&mut frames, r#"{"type":"CloseStream"}"#, Some([0; 4]));
    websocket::encode_close(&mut frames, 1000, "", Some([0; 4]));
    receive(&mut server, conn, &frames);
    write_all(&mut server, conn);
    assert!(is_closed(&mut server, conn), "nothing more is to come from either side");
}
