//! A full server, silent peers and slow ones: every limit met for real.

use crate::answer::{get, metric, request, upgrade_request};
use crate::stream_client::{StreamClient, tone_ms};
use crate::support::{BINARY, CLOSE, Client, PING, TEXT, TestServer, await_that, config, frame};
use serde_json::{Value, json};
use std::net::TcpStream;
use std::time::Duration;
use suzu::config::Config;
use suzu::model::Registry;

fn start(change: impl FnOnce(&mut Config)) -> TestServer {
    let mut config = config();
    change(&mut config);
    TestServer::start_with(config, Registry::builtin())
}

fn closed(server: &TestServer, reason: &str) -> f64 {
    metric(server.addr, &format!("suzu_connections_closed_total{{reason=\"{reason}\"}}"))
}

#[test]
fn connections_beyond_the_limit_are_refused_politely_and_health_is_still_told() {
    let server = start(|config| {
        config.connections_max = 2;
        config.sessions_max = 2;
        config.retry_after = Duration::from_secs(7);
    });
    let mut inside = StreamClient::open(server.addr, "/v1/stream?model=echo");
    let other = Client::websocket(server.addr, "/v1/echo");
    for bytes in [upgrade_request("/v1/stream", ""), upgrade_request("/v1/echo", ""), request("GET", "/", "")]
    {
        let mut refused = Client::connect(server.addr);
        refused.send(bytes);
        let answer = refused.answer();
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("7")));
        assert_eq!(answer.error()["code"], "overloaded");
        assert!(refused.read_to_end().is_empty());
    }
    for target in ["/health/live", "/api/health", "/metrics", "/api/metrics", "/v1/status"] {
        assert_eq!(get(server.addr, target).status, 200, "{target}");
    }
    inside.audio(&tone_ms(100));
    inside.await_message("Results");
    drop(other);
    await_that("there is a place again", || get(server.addr, "/").status == 200);
    assert_eq!(inside.finish().close, 1000);
}

#[test]
fn peers_that_fill_the_door_and_say_nothing_are_sent_away() {
    let server = start(|config| {
        config.connections_max = 1;
        config.sessions_max = 1;
        config.head_timeout = Duration::from_millis(50);
    });
    let mut inside = Client::websocket(server.addr, "/v1/echo");
    let silent: Vec<_> = (0..100).map(|_| TcpStream::connect(server.addr).unwrap()).collect();
    assert_eq!(get(server.addr, "/health/live").status, 200, "it waits its turn behind them and is served");
    inside.echo(b"still inside");
    for stream in silent {
        let mut client = Client::over(stream);
        assert_eq!(client.answer().status, 408);
    }
}

#[test]
fn silent_peers_at_a_full_door_do_not_keep_health_waiting_for_the_head_timeout() {
    let server = start(|config| {
        config.connections_max = 1;
        config.sessions_max = 1;
        // Far beyond the deadline of a test.
        config.head_timeout = Duration::from_secs(600);
    });
    let _inside = Client::websocket(server.addr, "/v1/echo");
    let _silent: Vec<_> = (0..100).map(|_| TcpStream::connect(server.addr).unwrap()).collect();
    assert_eq!(get(server.addr, "/health/live").status, 200);
}

#[test]
fn streams_beyond_the_limit_are_refused_before_the_upgrade_or_told_after_it() {
    let server = start(|config| config.sessions_max = 1);
    let inside = StreamClient::open(server.addr, "/v1/stream?model=echo");
    let mut refused = Client::connect(server.addr);
    refused.send(upgrade_request("/audio", ""));
    let answer = refused.answer();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")));
    assert_eq!(answer.error()["code"], "too_many_sessions");

    let mut browser = Client::websocket(server.addr, "/v1/stream?browser_errors=1");
    let (opcode, text) = browser.read_message();
    let error: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        (opcode, &error["code"], &error["retryable"]),
        (TEXT, &json!("too_many_sessions"), &json!(true))
    );
    assert_eq!(error["retry_after_ms"], 2000);
    let (opcode, payload) = browser.read_message();
    assert_eq!((opcode, &payload[..2]), (CLOSE, &1013_u16.to_be_bytes()[..]));

    assert_eq!(inside.finish().close, 1000);
    refused.send(upgrade_request("/audio", ""));
    assert_eq!(refused.answer_head().status, 101, "the place is free again, and the connection was kept");
}

/// Sends until the server closes. In a thread, since the kernel takes only so much.
fn flood(client: &Client, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
    let mut stream = client.stream.try_clone().unwrap();
    std::thread::spawn(move || while std::io::Write::write_all(&mut stream, &bytes).is_ok() {})
}

#[test]
fn who_never_reads_is_closed_as_a_slow_consumer() {
    let server = start(|config| config.write_timeout = Duration::from_millis(50));
    let client = Client::websocket(server.addr, "/v1/echo");
    let flooding = flood(&client, frame(BINARY, &vec![7; 100_000]));
    await_that("it is closed", || closed(&server, "slow_consumer") == 1.0);
    flooding.join().unwrap();
    assert!(metric(server.addr, "suzu_outgoing_bytes") < 100_000.0, "nothing is kept for it");
}

#[test]
fn pings_and_requests_without_end_are_no_way_around_that_limit() {
    let server = start(|config| config.write_timeout = Duration::from_millis(50));
    let pings = Client::websocket(server.addr, "/v1/echo");
    let requests = Client::connect(server.addr);
    let floods = [
        flood(&pings, frame(PING, &[7; 125]).repeat(100)),
        flood(&requests, request("GET", "/metrics", "").repeat(100).into_bytes()),
    ];
    await_that("both are closed", || closed(&server, "slow_consumer") == 2.0);
    floods.into_iter().for_each(|flood| flood.join().unwrap());
    assert!(metric(server.addr, "suzu_outgoing_bytes") < 100_000.0, "nothing is kept for them");
}

#[test]
fn a_stream_that_never_reads_its_audio_is_closed_and_its_ledger_balances() {
    let server = start(|config| config.write_timeout = Duration::from_millis(50));
    let stream = StreamClient::open(server.addr, "/v1/stream?model=denoise&sample_rate=48000&encoding=f32le");
    let flooding = flood(&stream.client, frame(BINARY, &vec![0; 96_000]));
    await_that("it is closed", || {
        metric(server.addr, "suzu_sessions_ended_total{reason=\"slow_consumer\"}") == 1.0
    });
    flooding.join().unwrap();
    let count = |name: &str| metric(server.addr, name);
    let discarded = count("suzu_samples_discarded_total{reason=\"slow_consumer\"}");
    assert_eq!(count("suzu_samples_received_total"), count("suzu_samples_processed_total") + discarded);
    assert_eq!((count("suzu_samples_pending"), count("suzu_audio_bytes")), (0.0, 0.0));
}

#[test]
fn a_message_that_does_not_come_whole_in_time_ends_its_websocket() {
    let server = start(|config| config.body_timeout = Duration::from_millis(400));
    let late = |client: &mut Client| {
        let mut dripping = client.stream.try_clone().unwrap();
        let (head, rest) = (frame(BINARY, &[7; 60_000])[..100].to_vec(), [7; 1]);
        let drip = std::thread::spawn(move || {
            // Ends by itself when the message would be whole, which it must not be.
            std::io::Write::write_all(&mut dripping, &head).unwrap();
            (0..10_000)
                .take_while(|_| {
                    std::thread::sleep(Duration::from_millis(1));
                    std::io::Write::write_all(&mut dripping, &rest).is_ok()
                })
                .count()
        });
        let close = loop {
            let (opcode, payload) = client.read_message();
            if opcode == CLOSE {
                break payload;
            }
        };
        assert_eq!(close[..2], 4408_u16.to_be_bytes(), "{:?}", String::from_utf8_lossy(&close));
        client.stream.shutdown(std::net::Shutdown::Both).unwrap();
        drip.join().unwrap();
    };
    let mut healthy = Client::websocket(server.addr, "/v1/echo");
    late(&mut Client::websocket(server.addr, "/v1/echo"));
    late(&mut Client::websocket(server.addr, "/v1/stream?model=vad"));
    // Whole messages may follow each other for as long as they like, and between two of them nothing is late.
    healthy.echo(&[1; 60_000]);
    let ended = "suzu_sessions_ended_total{reason=\"request_timeout\"}";
    await_that("the stream is gone", || metric(server.addr, ended) == 1.0);
    assert_eq!(metric(server.addr, "suzu_incoming_bytes"), 0.0);
}

#[test]
fn a_stream_without_audio_ends_unless_it_says_keep_alive() {
    let server = start(|config| config.audio_idle_timeout = Duration::from_millis(300));
    let mut kept = StreamClient::open(server.addr, "/v1/stream?model=echo");
    let silent = StreamClient::open(server.addr, "/v1/stream?model=echo");
    let waiting = std::thread::spawn(move || silent.rest());
    while !waiting.is_finished() {
        kept.say(json!({"type": "KeepAlive"}));
        kept.round_trip();
    }
    let story = waiting.join().unwrap();
    assert_eq!((story.errors(), story.close), (vec!["idle_timeout"], 4408));
    assert_eq!(story.termination()["reason"], "idle_timeout");
    kept.audio(&tone_ms(100));
    assert_eq!(kept.finish().close, 1000);
}

#[test]
fn a_peer_that_answers_no_ping_is_closed_and_one_that_does_is_not() {
    let server = start(|config| {
        config.ping_interval = Duration::from_millis(300);
        config.pong_timeout = Duration::from_millis(300);
    });
    // `hear` answers pings, `read_message` does not.
    let alive = StreamClient::open(server.addr, "/v1/stream?model=echo");
    let mut sender = alive.client.try_clone();
    let living = std::thread::spawn(move || alive.rest());
    let mut stream = StreamClient::open(server.addr, "/v1/stream?model=echo");
    let mut echo = Client::websocket(server.addr, "/v1/echo");
    assert_eq!(echo.read_message(), (PING, b"suzu".to_vec()));
    let (opcode, payload) = echo.read_message();
    assert_eq!((opcode, &payload[..2]), (CLOSE, &4408_u16.to_be_bytes()[..]));

    assert_eq!(stream.client.read_message().0, PING);
    let story = stream.rest();
    assert_eq!((story.close, &story.termination()["reason"]), (4408, &json!("pong_timeout")));
    sender.send_message(TEXT, br#"{"type":"CloseStream"}"#);
    assert_eq!(living.join().unwrap().close, 1000, "whoever answers stays");
}

#[test]
fn a_stream_ends_at_its_greatest_length_with_everything_it_is_owed() {
    let server = start(|config| config.session_duration_max = Duration::from_millis(100));
    let mut stream = StreamClient::open(server.addr, "/audio?model=echo");
    stream.audio(&tone_ms(100));
    let story = stream.rest();
    assert_eq!((story.errors(), story.close), (vec!["session_expired"], 4410));
    assert_eq!(story.termination()["processed_ms"], 100);
}

#[test]
fn unfinished_messages_of_all_together_have_a_limit() {
    let server = start(|config| {
        config.incoming_bytes_total_max = 1 << 20;
        config.echo_message_bytes_max = 512 << 10;
        config.body_bytes_max = 512 << 10;
        config.message_bytes_max = 64 << 10;
    });
    let message = vec![3; 400_000];
    let whole = frame(BINARY, &message);
    let mut first: Vec<_> = (0..2)
        .map(|_| {
            let mut client = Client::websocket(server.addr, "/v1/echo");
            client.send(&whole[..350_000]);
            client
        })
        .collect();
    await_that("both are half there", || metric(server.addr, "suzu_incoming_bytes") >= 700_000.0);
    let mut third = Client::websocket(server.addr, "/v1/echo");
    // Buffers double as they grow, so this must meet the limit.
    third.send(&whole[..390_000]);
    let (opcode, payload) = third.read_message();
    assert_eq!((opcode, &payload[..2]), (CLOSE, &1013_u16.to_be_bytes()[..]));
    drop(third);
    let mut post = Client::connect(server.addr);
    post.send(request("POST", "/v1/echo", "Content-Length: 400000\r\n"));
    post.send(&message[..390_000]);
    let answer = post.answer();
    assert_eq!((answer.status, answer.error()["code"].as_str()), (503, Some("overloaded")));
    drop(post);
    for client in &mut first {
        client.send(&whole[350_000..]);
        client.hear_echo(&message);
    }
    await_that("nothing is held", || metric(server.addr, "suzu_incoming_bytes") < 1000.0);
}

#[test]
fn what_waits_for_all_together_has_a_limit_and_the_server_lives_on() {
    let server = start(|config| {
        config.outgoing_bytes_total_max = 1 << 20;
        config.outgoing_bytes_max = 512 << 10;
        config.echo_message_bytes_max = 512 << 10;
        config.message_bytes_max = 64 << 10;
        config.write_timeout = Duration::from_secs(1);
    });
    let clients: Vec<_> = (0..4).map(|_| Client::websocket(server.addr, "/v1/echo")).collect();
    let floods: Vec<_> =
        clients.iter().map(|client| flood(client, frame(BINARY, &vec![7; 400_000]))).collect();
    await_that("somebody is closed for the total", || closed(&server, "slow_consumer") >= 1.0);
    await_that("all of them are gone", || closed(&server, "slow_consumer") == 4.0);
    floods.into_iter().for_each(|flood| flood.join().unwrap());
    await_that("newcomers are taken again", || metric(server.addr, "suzu_pressure_rung") == 0.0);
    Client::websocket(server.addr, "/v1/echo").echo(b"room again");
}
