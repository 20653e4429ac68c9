//! The generator against peers that misbehave, over real sockets. Against the real server it is tested in `tests/it`.

use super::*;
use crate::wire::http::{HeadLimits, parse_head};
use crate::wire::websocket::{accept_key, encode_close, encode_text};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Bytes of a message.
const MESSAGE: usize = 32;

/// Serves every connection in a thread of its own by `script`. Gives host and port.
fn serve(script: impl Fn(TcpStream) -> std::io::Result<()> + Clone + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let script = script.clone();
            // A script that fails has lost its client, which the client's report tells.
            std::thread::spawn(move || script(tcp));
        }
    });
    address
}

/// Three clients that send ten messages each over bare TCP to what turns each message into others.
fn load(turn: impl Fn(u64, &[u8]) -> Vec<u8> + Clone + Send + 'static) -> Report {
    let address = serve(move |mut tcp| {
        let mut message = [0; MESSAGE];
        for number in 0.. {
            tcp.read_exact(&mut message)?;
            tcp.write_all(&turn(number, &message))?;
        }
        Ok(())
    });
    let mut plan = Plan::new(&format!("tcp://{address}")).expect("a plan");
    plan.clients = 3;
    plan.message_bytes = MESSAGE;
    plan.pace = Pace::Every(Duration::from_millis(1));
    plan.length = Length::Messages { count: 10, time_max: None };
    plan.answer_timeout = Duration::from_millis(600);
    run(&plan, |_| ()).expect("the load is made")
}

#[test]
fn an_honest_echo_is_without_errors() {
    let report = load(|_, message| message.to_vec());
    assert_eq!((report.messages.sent, report.messages.answered, report.errors), (30, 30, 0), "{report:?}");
    assert_eq!(report.connections.opened, 3);
    assert!(report.latency_ms.p50 > 0.0 && report.latency_ms.max >= report.latency_ms.p99);
}

#[test]
fn lost_messages_are_counted() {
    let report = load(|number, message| if number == 4 { Vec::new() } else { message.to_vec() });
    // The gap is seen when a later one comes.
    assert_eq!((report.messages.lost, report.messages.answered), (3, 27), "{report:?}");
    assert!(report.error_rate > 0.05);
}

#[test]
fn duplicated_messages_are_counted() {
    let report = load(|number, message| if number == 4 { message.repeat(2) } else { message.to_vec() });
    assert_eq!((report.messages.duplicated, report.messages.lost), (3, 0), "{report:?}");
}

#[test]
fn changed_messages_are_counted() {
    let report = load(|number, message| {
        let mut message = message.to_vec();
        message[MESSAGE - 1] ^= u8::from(number == 4);
        message
    });
    assert_eq!((report.messages.wrong, report.messages.lost), (3, 0), "{report:?}");
}

#[test]
fn a_silent_peer_loses_everything_in_bounded_time() {
    let report = load(|_, _| Vec::new());
    assert_eq!((report.messages.lost, report.messages.answered), (30, 0), "{report:?}");
    assert_eq!(report.failures.get("no answer in time"), Some(&3), "{report:?}");
}

#[test]
fn a_peer_that_hangs_up_is_a_failure() {
    let address = serve(|mut tcp| tcp.read_exact(&mut [0; MESSAGE]));
    let mut plan = Plan::new(&format!("tcp://{address}")).expect("a plan");
    (plan.clients, plan.message_bytes) = (2, MESSAGE);
    plan.length = Length::Messages { count: 5, time_max: None };
    let report = run(&plan, |_| ()).expect("the load is made");
    assert_eq!(report.failures.values().sum::<u64>(), 2, "{report:?}");
    assert_eq!((report.messages.answered, report.messages.lost), (0, 2));
}

/// A WebSocket peer that upgrades, says these messages, closes with that code and waits for the end.
fn script(messages: &'static [&'static str], code: u16) -> String {
    serve(move |mut tcp| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            tcp.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let limits = HeadLimits { target_bytes_max: 4096, head_bytes_max: 8192, headers_max: 32 };
        let (head, _) = parse_head(&head, &limits).expect("a right request").expect("whole");
        let accept = accept_key(head.header("sec-websocket-key").expect("a key"));
        let mut out = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .into_bytes();
        messages.iter().for_each(|message| encode_text(&mut out, message, None));
        encode_close(&mut out, code, "", None);
        tcp.write_all(&out)?;
        tcp.read_to_end(&mut Vec::new()).map(drop)
    })
}

fn stream(messages: &'static [&'static str], code: u16) -> Report {
    let mut plan = Plan::new(&format!("ws://{}", script(messages, code))).expect("a plan");
    plan.clients = 1;
    plan.length = Length::Messages { count: 1, time_max: None };
    plan.pace = Pace::Every(Duration::from_secs(3600));
    run(&plan, |_| ()).expect("the load is made")
}

const BEGIN: &str = r#"{"type":"Begin"}"#;
const END: &str =
    r#"{"type":"Termination","results":0,"ledger":{"received":0,"processed":0,"discarded":0,"pending":0}}"#;

#[test]
fn a_hole_in_the_results_is_counted() {
    let report = stream(
        &[
            BEGIN,
            r#"{"type":"Results","message_seq":1,"start_ms":0,"duration_ms":10,"outputs":[]}"#,
            r#"{"type":"Results","message_seq":3,"start_ms":20,"duration_ms":10,"outputs":[]}"#,
            END,
        ],
        1000,
    );
    assert_eq!((report.messages.lost, report.messages.wrong), (1, 1), "{report:?}");
}

#[test]
fn a_balance_that_is_not_of_the_audio_sent_is_off() {
    let wrong = r#"{"type":"Termination","results":0,"ledger":{"received":9,"processed":9,"discarded":0,"pending":0}}"#;
    let report = stream(Box::leak(Box::new([BEGIN, wrong])), 1000);
    assert_eq!(report.ledgers_off, 1, "{report:?}");
    let results = r#"{"type":"Termination","results":5,"ledger":{"received":0,"processed":0,"discarded":0,"pending":0}}"#;
    let report = stream(Box::leak(Box::new([BEGIN, results])), 1000);
    assert_eq!(report.ledgers_off, 1, "{report:?}");
}

#[test]
fn errors_and_strange_closes_are_failures() {
    let report = stream(&[BEGIN, r#"{"type":"Error","code":"overloaded","fatal":true}"#], 1013);
    assert_eq!(report.failures.get("error overloaded"), Some(&1), "{report:?}");
    let report = stream(&[BEGIN], 1011);
    assert_eq!(report.failures.get("closed with 1011"), Some(&1), "{report:?}");
    let report = stream(&[BEGIN, "not JSON"], 1000);
    assert_eq!(report.failures.get("a message that cannot be read"), Some(&1), "{report:?}");
}

#[test]
fn plans_that_cannot_be_are_refused_with_the_reason() {
    let plan = Plan::new("tcp://127.0.0.1:9").expect("a plan");
    let refused = |change: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        change(&mut plan);
        run(&plan, |_| ()).expect_err("it cannot be").to_string()
    };
    assert!(refused(&|plan| plan.clients = 0).contains("at least one client"));
    assert!(refused(&|plan| plan.message_bytes = 3).contains("12 bytes"));
    assert!(refused(&|plan| plan.connect_rate = Some(0.0)).contains("above 0"));
    assert!(refused(&|plan| plan.pace = Pace::Every(Duration::ZERO)).contains("10 us"));
    let pool = Pooling { connections: 1, idle_max: Duration::from_secs(1) };
    assert!(refused(&|plan| plan.pool = Some(pool)).contains("--chunks"));
    assert!(refused(&|plan| plan.clients = 1 << 40).contains("ulimit"));
}
