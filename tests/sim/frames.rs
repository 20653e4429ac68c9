//! The client's end of HTTP and WebSocket, on the crate's own codecs.

use crate::rng::Rng;
use suzu::wire::http::{ResponseHead, parse_response_head};
use suzu::wire::websocket::{self, Decoder, Event, Role};

/// What a WebSocket said, as owned values.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

/// The receiving end of a client's connection: first the answer to its upgrade, then messages.
pub struct Receiver {
    held: Vec<u8>,
    pub head: Option<ResponseHead>,
    /// The body of a refusal.
    pub body: Vec<u8>,
    decoder: Decoder,
}

impl Receiver {
    pub fn new() -> Self {
        Self { held: Vec::new(), head: None, body: Vec::new(), decoder: Decoder::new(Role::Client, 1 << 26) }
    }

    pub fn status(&self) -> Option<u16> {
        self.head.as_ref().map(|head| head.status)
    }

    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<Said>, String> {
        let mut bytes = bytes.to_vec();
        if self.head.is_none() {
            self.held.append(&mut bytes);
            let parsed = parse_response_head(&self.held).map_err(|fault| fault.to_string())?;
            let Some((head, taken)) = parsed else { return Ok(Vec::new()) };
            bytes = self.held.split_off(taken);
            self.head = Some(head);
        }
        if self.status() != Some(101) {
            self.body.append(&mut bytes);
            return Ok(Vec::new());
        }
        let mut said = Vec::new();
        let mut rest = &mut bytes[..];
        while let Some(event) =
            self.decoder.next(&mut rest).map_err(|fault| format!("broken frame: {fault}"))?
        {
            said.push(match event {
                Event::Text(text) => Said::Text(text.to_owned()),
                Event::Binary(bytes) => Said::Binary(bytes.to_vec()),
                Event::Ping(bytes) => Said::Ping(bytes.to_vec()),
                Event::Pong(bytes) => Said::Pong(bytes.to_vec()),
                Event::Close { code, reason } => Said::Close(code, reason.to_owned()),
            });
        }
        Ok(said)
    }
}

/// A request for a WebSocket.
pub fn upgrade(target: &str, rng: &mut Rng, extra: &str) -> Vec<u8> {
    let mut random = [0; 16];
    random.copy_from_slice(&rng.bytes(16));
    let key = websocket::client_key(random);
    format!(
        "GET {target} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{extra}\r\n"
    )
    .into_bytes()
}

/// One masked frame, of whatever kind and however wrong.
pub fn frame(out: &mut Vec<u8>, first_byte: u8, payload: &[u8], mask: [u8; 4]) {
    out.push(first_byte);
    match payload.len() {
        len @ 0..126 => out.push(0x80 | len as u8),
        len @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    websocket::apply_mask(&mut out[start..], mask);
}

/// A message in several frames, perhaps with a ping between them.
pub fn fragmented(out: &mut Vec<u8>, opcode: u8, payload: &[u8], rng: &mut Rng) {
    let parts = rng.range(2, 4) as usize;
    let size = payload.len().div_ceil(parts).max(1);
    let mut rest = payload;
    let mut first = opcode;
    loop {
        let (part, after) = rest.split_at(rest.len().min(size));
        let last = after.is_empty();
        frame(out, if last { 0x80 | first } else { first }, part, rng.mask());
        if last {
            return;
        }
        if rng.chance(30) {
            frame(out, 0x8a, b"unasked pong", rng.mask());
        }
        (rest, first) = (after, 0);
    }
}
