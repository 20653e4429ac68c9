//! The library's pool and its second attempts, against a real server that comes and goes.

use crate::cli::suzu;
use crate::support::{DEADLINE, TestServer, await_that, config};
use socket2::{Domain, Socket, Type};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use suzu::client::{Connection, Error, Message, Options, Pool, PoolSettings, Retry};
use suzu::config::Config;
use suzu::model::Registry;

fn url(server: &TestServer) -> String {
    format!("ws://{}/v1/echo", server.addr)
}

/// A pool of connections to wherever the URL leads when one is opened.
fn pool(settings: PoolSettings, url: &Arc<Mutex<String>>) -> Pool<Connection> {
    let url = Arc::clone(url);
    let options = Options { read_timeout: Some(DEADLINE), ..Options::default() };
    let open = move || Connection::open(&url.lock().expect("no panic"), &options);
    Pool::new(settings, open, Connection::is_usable)
}

fn settings(max_connections: usize) -> PoolSettings {
    PoolSettings { max_connections, max_wait_time: DEADLINE, ..PoolSettings::default() }
}

fn echo(connection: &mut Connection, payload: &[u8]) {
    connection.send(payload).expect("the server reads");
    assert_eq!(connection.recv().expect("an answer"), Some(Message::Binary(payload.to_vec())));
}

#[test]
fn many_threads_share_few_connections_and_each_gets_its_own_answers() {
    let server = TestServer::start();
    let pool = pool(settings(2), &Arc::new(Mutex::new(url(&server))));
    std::thread::scope(|scope| {
        for thread in 0..6u8 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..40 {
                    echo(&mut pool.get().expect("in turn"), &[thread, round]);
                }
            });
        }
    });
    let stats = pool.stats();
    assert!(stats.created <= 2, "{stats:?}");
    assert_eq!((stats.broken, stats.timed_out, stats.active, stats.idle as u64), (0, 0, 0, stats.created));
}

#[test]
fn after_a_restart_of_the_server_nobody_gets_a_broken_connection() {
    let server = TestServer::start();
    let place = Arc::new(Mutex::new(url(&server)));
    let pool = pool(settings(3), &place);
    let three: Vec<_> = (0..3).map(|_| pool.get().expect("opened")).collect();
    drop(three);
    drop(server);
    // Nobody is there: the broken ones are found and dropped, and the error is that of opening another.
    assert!(matches!(pool.get(), Err(Error::Connect { .. })));
    let stats = pool.stats();
    assert_eq!((stats.broken, stats.open_failed, stats.idle), (3, 1, 0));

    let server = TestServer::start();
    *place.lock().expect("no panic") = url(&server);
    echo(&mut pool.get().expect("opened anew"), b"again");
    let stats = pool.stats();
    assert_eq!((stats.created, stats.idle), (4, 1));
}

#[test]
fn a_connection_that_breaks_in_use_is_replaced_by_the_next() {
    let config = Config { echo_message_bytes_max: 1024, ..config() };
    let server = TestServer::start_with(config, Registry::builtin());
    let pool = pool(settings(1), &Arc::new(Mutex::new(url(&server))));
    let mut connection = pool.get().expect("opened");
    // The server ends what breaks its limits; the pool notices by itself.
    connection.send(&[0; 1025]).expect("sent");
    assert!(matches!(connection.recv(), Ok(Some(Message::Closed { code: Some(1009), .. }))));
    drop(connection);
    echo(&mut pool.get().expect("another"), b"whole");
    let stats = pool.stats();
    assert_eq!((stats.created, stats.broken), (2, 1));
}

#[test]
fn waiting_for_a_connection_ends_with_the_time_or_with_the_pool() {
    let server = TestServer::start();
    let place = Arc::new(Mutex::new(url(&server)));
    let max_wait_time = Duration::from_millis(10);
    let hasty = pool(PoolSettings { max_wait_time, ..settings(1) }, &place);
    let held = hasty.get().expect("opened");
    let error = hasty.get().err().expect("it is taken").to_string();
    assert!(error.contains("all 1 connections of the pool were taken"), "{error}");
    drop(held);

    let patient = Arc::new(pool(PoolSettings { max_wait_time: Duration::MAX, ..settings(1) }, &place));
    let mut held = patient.get().expect("opened");
    let (tell, told) = std::sync::mpsc::channel();
    let waiter = Arc::clone(&patient);
    std::thread::spawn(move || tell.send(waiter.get().err()));
    await_that("somebody waits", || patient.stats().waiting == 1);
    patient.close();
    assert!(matches!(told.recv_timeout(DEADLINE), Ok(Some(Error::PoolClosed))));
    echo(&mut held, b"what is in use stays so");
}

#[test]
fn a_full_server_is_tried_again_and_never_sooner_than_it_asks() {
    let server = TestServer::start_with(
        Config { connections_max: 1, sessions_max: 1, ..config() },
        Registry::builtin(),
    );
    let mut occupant = Some(Connection::open(&url(&server), &Options::default()).expect("room for one"));
    let retry = Retry { base: Duration::from_millis(1), ..Retry::default() };
    let (url, options, mut refusals) = (url(&server), Options::default(), 0);
    let opened = retry.run(
        || Connection::open(&url, &options),
        |error, delay| {
            // Whoever takes the place of the waiting here makes room instead.
            assert!(matches!(error, Error::Refused { status: 503, .. }), "{error}");
            let asked = error.retry_after().expect("the server says when");
            assert!(asked >= Duration::from_secs(1) && delay >= asked, "{delay:?}");
            refusals += 1;
            drop(occupant.take());
            std::thread::yield_now();
            true
        },
    );
    echo(&mut opened.expect("there is room now"), b"in");
    assert!(refusals > 0);
}

/// A WAV of so many 16-bit samples at 16 kHz.
fn silence(samples: u32) -> Vec<u8> {
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + 2 * samples).to_le_bytes());
    wav.extend(b"WAVEfmt ");
    wav.extend([16, 0, 0, 0, 1, 0, 1, 0]);
    wav.extend(16_000u32.to_le_bytes());
    wav.extend(32_000u32.to_le_bytes());
    wav.extend([2, 0, 16, 0]);
    wav.extend(b"data");
    wav.extend((2 * samples).to_le_bytes());
    wav.resize(44 + 2 * samples as usize, 0);
    wav
}

#[test]
fn suzu_stream_goes_on_trying_until_the_server_is_there() {
    // Bound and not listening: connections are refused, and nobody else gets the port before the server does.
    let reserved = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor is left");
    reserved.set_reuse_address(true).expect("a TCP socket");
    reserved.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    let address = reserved.local_addr().expect("bound").as_socket().expect("of IP");
    // A tenth of a second of silence.
    let wav = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(wav.path(), silence(1_600)).expect("room for it");

    let (path, url) = (wav.path().to_str().expect("UTF-8"), format!("ws://{address}"));
    let assert = suzu(&["stream", path, "--url", &url]).assert().code(1);
    let text = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(!text.contains("trying again") && text.contains("suzu serve"), "{text}");

    let program = assert_cmd::cargo::cargo_bin!("suzu");
    let mut child = std::process::Command::new(program)
        .args(["stream", path, "--url", &url, "--speed", "max", "--retry", "60s"])
        .env_clear()
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let first = lines.next().expect("a line").expect("UTF-8");
    assert!(first.contains("cannot connect") && first.contains("trying again in"), "{first}");
    let _server = TestServer::start_with(Config { port: address.port(), ..config() }, Registry::builtin());
    let rest: Vec<String> = lines.map(|line| line.expect("UTF-8")).collect();
    assert!(child.wait().expect("it ends").success(), "{rest:#?}");
}
