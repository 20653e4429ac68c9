//! Frames: the same events and faults however they were cut, little memory held, and what is encoded comes back.

use super::http::check_fault;
use super::input::{Cuts, Input};
use suzu::reason::Fault;
use suzu::wire::websocket::{self, Decoder, Event, Role};

/// An event that owns what it says.
#[derive(Debug, PartialEq)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

/// Both roles, arbitrary frames or right ones.
pub fn websocket(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.byte();
    let role = if flags & 1 == 0 { Role::Server } else { Role::Client };
    let most = input.pick(&[1 << 20, 0, 1, 125, 126, 1000]);
    let mut cuts = Cuts::draw(&mut input);
    if flags & 2 == 0 {
        let bytes = input.rest();
        let whole = decode(role, most, bytes, |left| left);
        assert_eq!(decode(role, most, bytes, |left| cuts.next(left)), whole);
        if let Some(fault) = whole.1 {
            check_fault(&fault);
        }
    } else {
        let (wire, events) = messages(role, &mut input);
        assert_eq!(decode(role, 1 << 20, &wire, |left| cuts.next(left)), (events, None));
    }
}

fn decode(
    role: Role,
    most: usize,
    bytes: &[u8],
    mut cut: impl FnMut(usize) -> usize,
) -> (Vec<Owned>, Option<Fault>) {
    let mut bytes = bytes.to_vec();
    let mut decoder = Decoder::new(role, most);
    let (mut events, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let length = cut(bytes.len() - at);
        let mut piece = &mut bytes[at..at + length];
        at += length;
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(event)) => events.push(owned(event)),
                Ok(None) => break,
                Err(fault) => {
                    assert_eq!(decoder.next(&mut piece), Ok(None), "after a fault all is thrown away");
                    assert!(piece.is_empty());
                    return (events, Some(fault));
                }
            }
        }
        let held = decoder.held_bytes();
        assert!(held <= at + at / 2, "{held} bytes held of {at} that came");
        assert!(held <= most + 125, "{held} bytes held, a message has at most {most}");
    }
    (events, None)
}

fn owned(event: Event<'_>) -> Owned {
    match event {
        Event::Text(text) => Owned::Text(text.to_owned()),
        Event::Binary(bytes) => Owned::Binary(bytes.to_vec()),
        Event::Ping(payload) => Owned::Ping(payload.to_vec()),
        Event::Pong(payload) => Owned::Pong(payload.to_vec()),
        Event::Close { code, reason } => Owned::Close(code, reason.to_owned()),
    }
}

/// Messages as the other end writes them, and what they are to be decoded to.
fn messages(role: Role, input: &mut Input<'_>) -> (Vec<u8>, Vec<Owned>) {
    let (mut wire, mut events) = (Vec::new(), Vec::new());
    while !input.is_empty() && wire.len() < 4000 {
        let kind = input.byte() % 6;
        let mask = match role {
            Role::Server => Some([input.byte(), input.byte(), input.byte(), input.byte()]),
            Role::Client => None,
        };
        let payload = input.piece();
        let text = String::from_utf8_lossy(payload).into_owned();
        let short = &payload[..payload.len().min(125)];
        match kind {
            0 => {
                websocket::encode_text(&mut wire, &text, mask);
                events.push(Owned::Text(text));
            }
            1 => {
                websocket::encode_ping(&mut wire, payload, mask);
                events.push(Owned::Ping(short.to_vec()));
            }
            2 => {
                websocket::encode_pong(&mut wire, payload, mask);
                events.push(Owned::Pong(short.to_vec()));
            }
            3 => {
                let long = payload.repeat(300);
                websocket::encode_binary(&mut wire, &long, mask);
                events.push(Owned::Binary(long));
            }
            4 => {
                fragments(&mut wire, &text, mask);
                events.push(Owned::Text(text));
            }
            _ => {
                websocket::encode_close(&mut wire, 4000, &text, mask);
                let end = (0..=text.len().min(123)).rev().find(|&end| text.is_char_boundary(end));
                events.push(Owned::Close(Some(4000), text[..end.unwrap_or(0)].to_owned()));
                break;
            }
        }
    }
    (wire, events)
}

/// A text in frames of at most 7 bytes, wherever that cuts a character.
fn fragments(wire: &mut Vec<u8>, text: &str, mask: Option<[u8; 4]>) {
    let pieces: Vec<_> = text.as_bytes().chunks(7).collect();
    let last = pieces.len().saturating_sub(1);
    for (index, piece) in pieces.iter().enumerate() {
        let opcode = u8::from(index == 0);
        raw_frame(wire, if index == last { 0x80 | opcode } else { opcode }, piece, mask);
    }
    if pieces.is_empty() {
        raw_frame(wire, 0x81, &[], mask);
    }
}

/// A frame of at most 65,535 bytes with any first byte.
pub fn raw_frame(wire: &mut Vec<u8>, first: u8, payload: &[u8], mask: Option<[u8; 4]>) {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    wire.push(first);
    match payload.len() {
        length @ ..126 => wire.push(masked | length as u8),
        length => {
            wire.push(masked | 126);
            wire.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    wire.extend_from_slice(&mask.unwrap_or_default()[..if mask.is_some() { 4 } else { 0 }]);
    let start = wire.len();
    wire.extend_from_slice(payload);
    websocket::apply_mask(&mut wire[start..], mask.unwrap_or_default());
}
