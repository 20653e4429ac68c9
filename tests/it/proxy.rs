//! Behind a proxy that speaks the PROXY protocol: whose limits count, and what happens to headers that are wrong or slow.

use crate::answer::{Answer, metric, request};
#[cfg(feature = "tls")]
use crate::bridge::Certificates;
use crate::shutdown::Binary;
use crate::support::{Client, TestServer, await_that, config, connect_from, dribble_until_closed};
use ppp::v2::{Addresses, Builder, Command, Protocol, Type, Version};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use suzu::config::{Config, ProxyProtocol};
use suzu::model::Registry;

/// The trusted proxy.
const PROXY: [u8; 4] = [127, 0, 0, 9];

fn proxied(config: Config) -> Config {
    Config { proxy_protocol: ProxyProtocol::V2, trusted_proxies: "127.0.0.9 10.0.0.0/8".into(), ..config }
}

fn start(change: impl FnOnce(&mut Config)) -> TestServer {
    let mut config = proxied(config());
    change(&mut config);
    TestServer::start_bare(config, Registry::builtin())
}

fn build(command: Command, addresses: Addresses) -> Vec<u8> {
    let header = Builder::with_addresses(Version::Two | command, Protocol::Stream, addresses);
    header.write_tlv(Type::NoOp, b"some bytes to pass over").unwrap().build().unwrap()
}

/// The header of a client's connection.
pub fn header(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let target = match client {
        SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 443),
        SocketAddr::V6(_) => "[::1]:443".parse().unwrap(),
    };
    build(Command::Proxy, (client, target).into())
}

/// That of the proxy's own connection, and of one whose client it cannot name.
fn local() -> Vec<u8> {
    build(Command::Local, Addresses::Unspecified)
}

fn unknown() -> Vec<u8> {
    build(Command::Proxy, Addresses::Unspecified)
}

/// A connection through the proxy.
fn connect(server: &TestServer, header: impl AsRef<[u8]>) -> Client {
    let mut client = connect_from(PROXY, server.addr);
    client.send(header);
    client
}

fn live(client: &mut Client) -> u16 {
    client.ask("GET", "/health/live", "").status
}

#[test]
fn the_client_in_the_header_has_the_connections_that_count() {
    let server = start(|config| config.address_connections_max = 2);
    let refused = |header: &[u8]| {
        let mut client = connect(&server, header);
        // It is closed without an answer; the request may be there before or after that.
        let _ = client.stream.write_all(request("GET", "/health/live", "").as_bytes());
        let mut byte = [0];
        !client.stream.read(&mut byte).is_ok_and(|count| count > 0)
    };
    let mut kept = Vec::new();
    for client in ["192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1", "[::ffff:192.0.2.3]:1"] {
        for _ in 0..2 {
            let mut inside = connect(&server, header(client));
            assert_eq!(live(&mut inside), 200, "{client}");
            kept.push(inside);
        }
    }
    for client in ["192.0.2.1:2", "192.0.2.2:2", "[2001:db8::2]:2", "192.0.2.3:2"] {
        assert!(refused(&header(client)), "{client}");
    }
    // Those of whom nothing is known share an address; the proxy's own connections are not counted.
    for _ in 0..2 {
        let mut inside = connect(&server, unknown());
        assert_eq!(live(&mut inside), 200);
        kept.push(inside);
    }
    assert!(refused(&unknown()));
    for _ in 0..4 {
        let mut inside = connect(&server, local());
        assert_eq!(live(&mut inside), 200);
        kept.push(inside);
    }
    kept.remove(0);
    await_that("the place is free again", || !refused(&header("192.0.2.1:3")));
}

#[test]
fn forwarded_for_is_believed_of_proxies_and_not_of_the_clients_that_a_header_names() {
    let server = start(|config| config.address_requests_per_second_max = 1);
    let ask = |header: Vec<u8>, forwarded: &str| {
        let fields = format!("X-Forwarded-For: {forwarded}\r\n");
        connect(&server, header).ask("GET", "/v1/models", &fields).status
    };
    // Two at once are all, so of several the last are refused.
    let asks = |header: Vec<u8>, forwarded: &[&str]| {
        forwarded.iter().map(|forwarded| ask(header.clone(), forwarded)).collect::<Vec<_>>()
    };
    let lies = ["198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4"];
    assert!(asks(header("192.0.2.1:1"), &lies).contains(&429), "a client can write anything");
    assert!(asks(unknown(), &lies).contains(&429), "so can one of whom nothing is known");
    assert_eq!(asks(header("10.1.1.1:1"), &lies), [200; 4], "a proxy before the proxy tells the truth");
    assert_eq!(asks(local(), &["203.0.113.1", "203.0.113.2", "203.0.113.3"]), [200; 3]);
    assert!(asks(header("10.1.1.1:2"), &["9.9.9.9"; 4]).contains(&429), "each of those is limited");
}

#[test]
fn a_header_comes_in_pieces_or_with_what_follows() {
    let server = start(|_| {});
    let wanted = [header("192.0.2.1:1"), request("GET", "/health/live", "").into_bytes()].concat();
    let mut whole = connect(&server, &wanted);
    assert_eq!(whole.answer().status, 200);
    let mut pieces = connect_from(PROXY, server.addr);
    for byte in &wanted {
        pieces.send([*byte]);
    }
    assert_eq!(pieces.answer().status, 200);
    assert_eq!(live(&mut pieces), 200, "the connection goes on");
    let mut finished = connect(&server, &wanted);
    finished.finish_sending();
    assert_eq!(finished.answer().status, 200);
    let mut stream = connect(&server, header("[2001:db8::1]:1"));
    stream.upgrade("/v1/echo");
    stream.echo(b"hello");
}

#[test]
fn others_are_served_without_a_header_and_one_from_them_is_a_bad_request() {
    let server = start(|_| {});
    assert_eq!(live(&mut Client::connect(server.addr)), 200);
    let mut liar = connect_from([127, 0, 0, 5], server.addr);
    liar.send([header("192.0.2.1:1"), request("GET", "/health/live", "").into_bytes()].concat());
    let Answer { status, .. } = liar.answer();
    assert_eq!(status, 400);
    assert_eq!(metric(server.addr, "suzu_proxy_headers_refused_total"), 0.0, "it was never taken for one");
}

/// What a proxy may send that is not set up for this, or broken.
fn wrong() -> Vec<Vec<u8>> {
    let good = header("192.0.2.1:1");
    let with = |place: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[place] = byte;
        bytes
    };
    vec![
        request("GET", "/health/live", "").into_bytes(),
        b"PROXY TCP4 192.0.2.1 127.0.0.1 1 443\r\nGET /health/live HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(),
        with(12, 0x31),
        with(12, 0x2f),
        with(13, 0x51),
        with(14, 0xff),
        [&good[..14], &[0, 4, 1, 2, 3, 4]].concat(),
        vec![0xff; 70_000],
    ]
}

#[test]
fn a_header_that_is_wrong_closes_the_connection_without_an_answer() {
    let server = start(|_| {});
    let mut healthy = connect(&server, header("192.0.2.1:1"));
    healthy.upgrade("/v1/echo");
    let wrong = wrong();
    for bytes in &wrong {
        let mut client = connect_from(PROXY, server.addr);
        // It may be closed before all is written.
        let _ = client.stream.write_all(bytes);
        let mut heard = Vec::new();
        let _ = client.stream.read_to_end(&mut heard);
        assert!(heard.is_empty(), "{:?}", String::from_utf8_lossy(&heard));
        healthy.echo(b"others do not notice");
    }
    let count = wrong.len() as f64;
    await_that("they are counted", || metric(server.addr, "suzu_proxy_headers_refused_total") == count);
    let mut left = connect(&server, &header("192.0.2.1:1")[..20]);
    left.finish_sending();
    left.await_closed();
}

#[test]
fn the_log_names_the_client_and_says_once_what_is_wrong_with_a_proxy() {
    let binary = Binary::start(
        "",
        &[
            "--models-dir",
            "",
            "--workers",
            "1",
            "--log-level",
            "debug",
            "--proxy-protocol",
            "v2",
            "--trusted-proxies",
            "127.0.0.9",
        ],
    );
    for _ in 0..3 {
        let mut client = connect_from(PROXY, binary.addr);
        client.send("PROXY TCP4 192.0.2.1 127.0.0.1 1 443\r\n");
        client.await_closed();
    }
    let mut client = connect_from(PROXY, binary.addr);
    client.send([header("192.0.2.77:7"), request("GET", "/", "Connection: close\r\n").into_bytes()].concat());
    client.await_closed();
    binary.signal(libc::SIGTERM);
    let (_, log) = binary.end();
    let lines = |level: &str, part: &str| {
        let is = |line: &&serde_json::Value| {
            line["level"] == level && line["message"].as_str().is_some_and(|words| words.contains(part))
        };
        log.iter().filter(is).count()
    };
    assert_eq!(lines("warn", "version 1"), 1, "{log:#?}");
    assert_eq!(lines("debug", "version 1"), 2);
    assert!(lines("debug", "from 192.0.2.77:7 closed") == 1, "{log:#?}");
}

#[test]
fn who_is_slow_with_the_header_is_closed_and_disturbs_nobody() {
    let server = start(|config| config.tls_handshake_timeout = Duration::from_millis(500));
    let mut healthy = connect(&server, header("192.0.2.1:1"));
    healthy.upgrade("/v1/echo");
    let slow_header = header("192.0.2.2:1");
    let slow = (0..50).map(|_| connect_from(PROXY, server.addr).stream).collect();
    // The last byte never comes.
    let begun = &slow_header[..slow_header.len() - 1];
    dribble_until_closed(slow, begun, |place| healthy.echo(&[place as u8; 100]));
    await_that("they are counted", || metric(server.addr, "suzu_proxy_headers_refused_total") >= 50.0);
    assert_eq!(live(&mut connect(&server, header("192.0.2.2:2"))), 200);
}

#[test]
fn many_come_through_the_proxy_at_once_and_all_are_served() {
    let server = start(|_| {});
    let ask = [header("192.0.2.1:1"), request("GET", "/health/live", "").into_bytes()].concat();
    // Some of them before their header, so that many wait at once.
    let mut clients: Vec<_> = (0..300).map(|_| connect_from(PROXY, server.addr)).collect();
    clients.iter_mut().for_each(|client| client.send(&ask[..20]));
    clients.iter_mut().rev().for_each(|client| client.send(&ask[20..]));
    assert!(clients.iter_mut().all(|client| client.answer().status == 200));
    assert_eq!(metric(server.addr, "suzu_proxy_headers_refused_total"), 0.0);
}

#[test]
fn a_full_server_refuses_those_behind_a_proxy_too_and_serves_health() {
    let server = start(|config| (config.connections_max, config.sessions_max) = (2, 2));
    let open = |number: u16| connect(&server, header(&format!("192.0.2.{number}:1")));
    let mut inside: Vec<_> = (1..=2).map(open).collect();
    inside.iter_mut().for_each(|client| client.upgrade("/v1/echo"));
    assert_eq!(open(3).ask("GET", "/", "").status, 503);
    assert_eq!(live(&mut open(4)), 200);
    inside.clear();
    await_that("there is a place again", || open(5).ask("GET", "/", "").status == 200);
}

#[test]
fn a_drain_ends_those_that_have_not_said_whose_they_are() {
    let server = start(|config| config.drain_timeout = Duration::from_millis(500));
    let mut waiting = connect(&server, &header("192.0.2.1:1")[..20]);
    assert_eq!(live(&mut connect(&server, header("192.0.2.1:1"))), 200);
    server.handle.drain();
    server.join();
    waiting.await_closed();
}

#[cfg(feature = "tls")]
#[test]
fn the_header_stands_before_the_handshake_of_tls() {
    let certificates = Certificates::new();
    let config = Config { address_connections_max: 1, ..proxied(config()) };
    let server = TestServer::start_bare(certificates.on(config), Registry::builtin());
    let connect = |header: &[u8], pieces: usize| {
        let mut client = connect_from(PROXY, server.addr);
        let mut session = certificates.session(&["http/1.1"]);
        let mut hello = header.to_vec();
        session.write_tls(&mut hello).unwrap();
        hello.chunks(pieces).for_each(|piece| client.send(piece));
        session.complete_io(&mut client.stream).map(|_| rustls::StreamOwned::new(session, client.stream))
    };
    let mut kept = Vec::new();
    for (client, pieces) in [("192.0.2.1:1", 100_000), ("192.0.2.2:1", 1), ("[2001:db8::1]:1", 7)] {
        let mut stream = connect(&header(client), pieces).expect("served");
        stream.write_all(request("GET", "/health/live", "").as_bytes()).unwrap();
        let mut heard = [0; 12];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"HTTP/1.1 200");
        kept.push(stream);
    }
    assert!(connect(&header("192.0.2.1:2"), 100_000).is_err(), "the client in the header has one already");
    assert!(connect(&[], 100_000).is_err(), "a greeting is no header");
    assert!(certificates.connect(server.addr).is_ok(), "others greet at once");
}
