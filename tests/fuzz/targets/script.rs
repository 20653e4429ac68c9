//! What a client sends, written by the fuzzer's bytes: requests, handshakes and frames that are right or nearly so.

use super::input::Input;
use super::websocket::raw_frame;
use std::time::Duration;
use suzu::config::Config;
use suzu::wire::message::ClientMessage;
use suzu::wire::pcm::{AudioHeader, AudioKind};
use suzu::wire::websocket;

const PATHS: &[&str] = &[
    "/v1/echo",
    "/",
    "/health/live",
    "/health/ready",
    "/api/health",
    "/metrics",
    "/api/metrics",
    "/v1/status",
    "/v1/models",
    "/v1/stream",
    "/audio",
    "/nowhere",
    "*",
];

/// Parameters as they may stand in a query; the first ones are right.
const QUERIES: &[&str] = &[
    "model=echo",
    "model=vad",
    "model=denoise",
    "encoding=mulaw",
    "encoding=f32le",
    "encoding=alaw",
    "sample_rate=8000",
    "sample_rate=48000",
    "sample_rate=44100",
    "channels=2",
    "channels=8",
    "framing=seq",
    "overflow=discard_oldest",
    "overflow=close",
    "deadline_ms=1",
    "deadline_ms=100",
    "ack_interval_ms=100",
    "timing=true",
    "interim_results=1",
    "tag=x",
    "resume=x",
    "browser_errors=1",
    "sample_rate=1",
    "model=none",
    "unknown=1",
    "channels=1&channels=1",
];

/// A whole handshake; gives whether it is for a stream.
pub fn handshake(input: &mut Input<'_>, wire: &mut Vec<u8>) -> bool {
    let path = input.pick(&["/v1/stream", "/v1/stream", "/audio", "/v1/echo"]);
    let count = input.byte() % 5;
    let query: Vec<_> = (0..count).map(|_| input.pick(QUERIES)).collect();
    let head = format!(
        "GET {path}?{} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Client-ID: device\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         Sec-WebSocket-Protocol: suzu.v1\r\n\r\n",
        query.join("&"),
    );
    wire.extend_from_slice(head.as_bytes());
    path != "/v1/echo"
}

/// Anything else that a client may send.
pub fn element(input: &mut Input<'_>, wire: &mut Vec<u8>) {
    match input.byte() % 16 {
        0 => wire.extend_from_slice(input.piece()),
        1..=2 => request(input, wire),
        3..=7 => binary(input, wire),
        8..=11 => text(input, wire),
        12 => wire_control(input, wire),
        13 => {
            let (first, mask) = (input.byte(), [input.byte(); 4]);
            raw_frame(wire, first, input.piece(), Some(mask));
        }
        14 => websocket::encode_text(wire, &String::from_utf8_lossy(input.piece()), Some([1, 2, 3, 4])),
        _ => {
            handshake(input, wire);
        }
    }
}

fn request(input: &mut Input<'_>, wire: &mut Vec<u8>) {
    let method = input.pick(&["GET", "POST", "HEAD", "OPTIONS", "BREW"]);
    let (path, flags) = (input.pick(PATHS), input.byte());
    let body = input.piece();
    let mut head = format!("{method} {path} HTTP/1.{}\r\nHost: x\r\n", u8::from(flags & 1 == 0));
    if flags & 2 != 0 {
        head.push_str("Expect: 100-continue\r\n");
    }
    if flags & 4 != 0 {
        head.push_str("Connection: close\r\n");
    }
    match flags >> 3 & 3 {
        0 => head.push_str("\r\n"),
        1 => head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len())),
        2 => head.push_str("Transfer-Encoding: chunked\r\n\r\n"),
        _ => head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len() * 300)),
    }
    wire.extend_from_slice(head.as_bytes());
    match flags >> 3 & 3 {
        0 => {}
        2 => {
            wire.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
            wire.extend_from_slice(body);
            wire.extend_from_slice(if body.is_empty() { b"\r\n" } else { b"\r\n0\r\n\r\n" });
        }
        // Of the third kind a part is missing.
        _ => wire.extend_from_slice(body),
    }
}

/// A chunk of audio: short or up to 32 KiB, with the header of `framing=seq` or without.
fn binary(input: &mut Input<'_>, wire: &mut Vec<u8>) {
    let flags = input.byte();
    let length = match flags & 3 {
        0 => usize::from(input.byte()),
        1 => 640,
        2 => usize::from(input.short() % 4096),
        _ => usize::from(input.short() / 2),
    };
    let mut payload = Vec::new();
    if flags & 4 != 0 {
        let seq = u32::from(input.byte());
        AudioHeader { kind: AudioKind::Input, flags: 0, channel: 0, seq, capture_time_us: 0 }
            .encode(&mut payload);
    }
    let pattern = input.take(usize::from(flags >> 4) + 1);
    let pattern = if pattern.is_empty() { &[0] } else { pattern };
    payload.extend(pattern.iter().cycle().take(length));
    websocket::encode_binary(wire, &payload, Some([9, 8, 7, 6]));
}

fn text(input: &mut Input<'_>, wire: &mut Vec<u8>) {
    let message = match input.byte() % 8 {
        0 => ClientMessage::Configure {
            interim_results: Some(true),
            deadline_ms: Some(u64::from(input.short()) + 1),
        },
        1 => ClientMessage::KeepAlive,
        2 | 3 => ClientMessage::Finalize { id: Some(String::from_utf8_lossy(input.take(4)).into_owned()) },
        4 => ClientMessage::CloseStream,
        5 => {
            let exponent = i32::from(input.byte() % 64);
            ClientMessage::Discarded { start_ms: 0.0, duration_ms: 10f64.powi(exponent - 3) }
        }
        6 => ClientMessage::Ack { message_seq: input.short().into() },
        _ => ClientMessage::Ping { t: input.short().into() },
    };
    let mut json = Vec::new();
    message.encode(&mut json);
    websocket::encode_text(wire, &String::from_utf8_lossy(&json), Some([5, 5, 5, 5]));
}

fn wire_control(input: &mut Input<'_>, wire: &mut Vec<u8>) {
    let mask = Some([7, 1, 7, 1]);
    match input.byte() % 4 {
        0 => websocket::encode_ping(wire, input.piece(), mask),
        1 => websocket::encode_pong(wire, input.piece(), mask),
        2 => websocket::encode_close(wire, 1000, "bye", mask),
        _ => websocket::encode_close(wire, None, "", mask),
    }
}

/// Limits of which many are met at once.
pub fn config(input: &mut Input<'_>) -> Config {
    let ms = Duration::from_millis;
    let connections_max = input.pick(&[8, 1, 2, 100]);
    Config {
        workers: input.pick(&[1, 2]),
        connections_max,
        sessions_max: input.pick(&[8, 1, 2]).min(connections_max),
        head_bytes_max: input.pick(&[16 << 10, 1 << 10]),
        target_bytes_max: input.pick(&[1 << 10, 64]),
        headers_max: input.pick(&[100, 8]),
        body_bytes_max: input.pick(&[64 << 10, 0, 100]),
        message_bytes_max: input.pick(&[64 << 10, 1 << 10]),
        echo_message_bytes_max: input.pick(&[64 << 10, 1 << 10]),
        incoming_bytes_total_max: input.pick(&[1 << 20, 64 << 10]),
        outgoing_bytes_max: input.pick(&[64 << 10, 16 << 10]),
        outgoing_bytes_total_max: input.pick(&[1 << 20, 64 << 10]),
        audio_held_max: input.pick(&[ms(4000), ms(100), ms(500)]),
        run_max: input.pick(&[ms(100), ms(10)]),
        stream_batch_size: input.pick(&[1, 3]),
        batch_size: input.pick(&[2, 10]),
        batch_max: input.pick(&[32, 1, 2]),
        queue_delay_max: input.pick(&[ms(0), ms(5)]),
        infer_timeout: input.pick(&[ms(10_000), ms(50)]),
        infer_failures_max: input.pick(&[3, 1]),
        audio_idle_timeout: input.pick(&[ms(30_000), ms(100)]),
        blocked_max: input.pick(&[ms(60_000), ms(20)]),
        session_duration_max: input.pick(&[ms(86_400_000), ms(300)]),
        drain_timeout: input.pick(&[ms(10_000), ms(0), ms(100)]),
        ..Config::default()
    }
}
