//! Messages and parameters: what is parsed keeps its ranges, and written again it parses to the same.

use super::http::check_fault;
use serde_json::Value;
use suzu::reason::Reason;
use suzu::wire::http::{HeadLimits, parse_head};
use suzu::wire::message::{ClientMessage, ServerMessage, StreamParams};

/// A text message of a client.
pub fn client_message(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match ClientMessage::parse(&text) {
        Ok(message) => {
            if let ClientMessage::Discarded { start_ms, duration_ms } = message {
                assert!(start_ms >= 0.0 && start_ms.is_finite(), "{start_ms}");
                assert!(duration_ms >= 0.0 && duration_ms.is_finite(), "{duration_ms}");
            }
            let written = written(|out| message.encode(out));
            let again = ClientMessage::parse(&written).unwrap_or_else(|fault| panic!("{written}: {fault}"));
            same_json(&written, &self::written(|out| again.encode(out)));
        }
        Err(fault) => {
            check_fault(&fault);
            let named = matches!(fault.reason, Reason::UnknownEvent | Reason::InvalidValue);
            assert!(named == fault.param.is_some() && (named || fault.reason == Reason::InvalidPayload));
        }
    }
}

/// A text message of a server, as the client reads it.
pub fn server_message(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(message) = ServerMessage::parse(&text) {
        let written = written(|out| message.encode(out));
        let again = ServerMessage::parse(&written).unwrap_or_else(|fault| panic!("{written}: {fault}"));
        same_json(&written, &self::written(|out| again.encode(out)));
    }
}

/// The query of a stream, with the escapes as they come in a target.
pub fn stream_params(data: &[u8]) {
    let mut head = b"GET /v1/stream?".to_vec();
    for &byte in data {
        match byte {
            b'!'..=b'~' if byte != b'#' => head.push(byte),
            _ => head.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    head.extend_from_slice(b" HTTP/1.1\r\nHost: x\r\n\r\n");
    let limits = HeadLimits { head_bytes_max: usize::MAX, target_bytes_max: usize::MAX, headers_max: 1 };
    let (head, _) = parse_head(&head, &limits).expect("a right head").expect("a whole head");
    let mut pairs = head.query;
    let parsed = StreamParams::parse(&pairs, StreamParams::default());
    match &parsed {
        Ok(params) => check_params(params),
        Err(fault) => {
            check_fault(fault);
            assert!(fault.param.is_some(), "{fault}");
        }
    }
    pairs.reverse();
    let turned = StreamParams::parse(&pairs, StreamParams::default());
    assert!(parsed == turned || (parsed.is_err() && turned.is_err()), "{parsed:?}, turned {turned:?}");
}

fn check_params(params: &StreamParams) {
    assert!((8_000..=48_000).contains(&params.sample_rate_hz) && (1..=8).contains(&params.channels));
    assert!((100..=60_000).contains(&params.ack_interval_ms));
    assert!(params.deadline_ms.is_none_or(|deadline| (1..=3_600_000).contains(&deadline)));
    let fits = |text: &String| text.chars().count() <= 128 && !text.chars().any(char::is_control);
    assert!(fits(&params.model) && params.tag.as_ref().is_none_or(fits));
}

fn written(encode: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    encode(&mut out);
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// Both say the same. A number with decimals may differ in its last bits: serde_json's quick way of reading them.
fn same_json(a: &str, b: &str) {
    let value = |text: &str| serde_json::from_str::<Value>(text).expect("our own JSON");
    assert!(is_same(&value(a), &value(b)), "{a}\n{b}");
}

fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| is_same(a, b)))
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let (Some(a), Some(b)) = (a.as_f64(), b.as_f64()) else { return false };
            (a - b).abs() <= a.abs() * 1e-9
        }
        (a, b) => a == b,
    }
}
