//! Frames into a byte buffer: always whole messages, one frame each.

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// What a control frame may hold (125 bytes) less the code: RFC 6455, section 5.5.
const CLOSE_REASON_BYTES_MAX: usize = 123;

/// Appends a text message. A client gives a mask of four random bytes, a server none.
pub fn encode_text(out: &mut Vec<u8>, payload: &str, mask: Option<[u8; 4]>) {
    encode_frame(out, OpCode::Data(Data::Text), true, payload.as_bytes(), mask);
}

/// Appends a binary message.
pub fn encode_binary(out: &mut Vec<u8>, payload: &[u8], mask: Option<[u8; 4]>) {
    encode_frame(out, OpCode::Data(Data::Binary), true, payload, mask);
}

/// Appends only the header of a binary message, so that the caller can write its payload straight behind it: exactly
/// `payload_len` bytes, and if there is a mask, through [`apply_mask`].
pub fn encode_binary_header(out: &mut Vec<u8>, payload_len: usize, mask: Option<[u8; 4]>) {
    encode_header(out, OpCode::Data(Data::Binary), true, payload_len, mask);
}

/// Appends a ping. Only the first 125 bytes of the payload are sent.
pub fn encode_ping(out: &mut Vec<u8>, payload: &[u8], mask: Option<[u8; 4]>) {
    encode_frame(out, OpCode::Control(Control::Ping), true, cut(payload), mask);
}

/// Appends a pong. Only the first 125 bytes of the payload are sent; that of a ping is never longer.
pub fn encode_pong(out: &mut Vec<u8>, payload: &[u8], mask: Option<[u8; 4]>) {
    encode_frame(out, OpCode::Control(Control::Pong), true, cut(payload), mask);
}

/// Appends a close with a code and a reason, cut to 123 bytes between two characters; with no code (the answer to a
/// close without one), an empty close.
pub fn encode_close(out: &mut Vec<u8>, code: impl Into<Option<u16>>, reason: &str, mask: Option<[u8; 4]>) {
    let mut payload = [0; 2 + CLOSE_REASON_BYTES_MAX];
    let mut len = 0;
    if let Some(code) = code.into() {
        debug_assert!(super::close_code_is_valid(code), "the close code {code} may not be sent");
        let reason = cut_text(reason, CLOSE_REASON_BYTES_MAX).as_bytes();
        payload[..2].copy_from_slice(&code.to_be_bytes());
        len = 2 + reason.len();
        payload[2..len].copy_from_slice(reason);
    }
    encode_frame(out, OpCode::Control(Control::Close), true, &payload[..len], mask);
}

/// Masks or unmasks a payload from its first byte on. Eight bytes at a time, which the compiler makes sixteen or more.
pub fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= mask;
    }
}

pub(super) fn encode_frame(
    out: &mut Vec<u8>,
    opcode: OpCode,
    is_final: bool,
    payload: &[u8],
    mask: Option<[u8; 4]>,
) {
    encode_header(out, opcode, is_final, payload.len(), mask);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(&mut out[start..], mask);
    }
}

fn encode_header(
    out: &mut Vec<u8>,
    opcode: OpCode,
    is_final: bool,
    payload_len: usize,
    mask: Option<[u8; 4]>,
) {
    let header = FrameHeader { is_final, opcode, mask, ..FrameHeader::default() };
    out.reserve(header.len(payload_len as u64) + payload_len);
    header.format(payload_len as u64, out).expect("a Vec takes every byte");
}

fn cut(payload: &[u8]) -> &[u8] {
    &payload[..payload.len().min(super::CONTROL_BYTES_MAX)]
}

/// The longest beginning of whole characters within `most` bytes.
fn cut_text(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}
