//! WebSocket (RFC 6455) on bytes in memory: events out of received bytes, and frames into a byte buffer.
//!
//! Owns the rules of the wire: masking, fragments, control frames, UTF-8, close codes and the message limit. Never
//! reads, writes or waits, and never answers by itself: whoever calls replies to a ping and to a close.
//!
//! Invariants: a frame that lies whole in the input is handed on as a slice of the input, unmasked in place; memory
//! is held only for what arrived of an incomplete message, whatever length its header declares; nothing is held
//! between messages.

mod encode;
mod message;
#[cfg(test)]
mod tests;

pub use encode::{
    apply_mask, encode_binary, encode_binary_header, encode_close, encode_ping, encode_pong, encode_text,
};

use crate::reason::{Fault, Reason};
use message::{Message, append, invalid_utf8};
use std::io::Cursor;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Two bytes, eight of length, four of mask: RFC 6455, section 5.2.
const HEADER_BYTES_MAX: usize = 14;

/// RFC 6455, section 5.5.
const CONTROL_BYTES_MAX: usize = 125;

/// Which end of the connection decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Every frame that comes must be masked.
    Server,
    /// No frame that comes may be masked.
    Client,
}

/// What a peer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// A ping, at most 125 bytes. To be answered by a pong with the same payload.
    Ping(&'a [u8]),
    /// A pong, at most 125 bytes.
    Pong(&'a [u8]),
    /// The peer closes. To be answered by a close, unless one has been sent. Nothing comes after it.
    Close {
        /// The code, if the peer gave one: always one that may stand on the wire.
        code: Option<u16>,
        /// The reason, often empty.
        reason: &'a str,
    },
}

/// Turns received bytes into events.
pub struct Decoder {
    role: Role,
    message_bytes_max: usize,
    stage: Stage,
    /// The data message of which a fragment or a part of a frame has come.
    message: Option<Message>,
    /// What has come of a control frame that is not whole.
    control: Vec<u8>,
    /// What the last event pointed to, if not to the input. Given up at the next call.
    delivered: Delivered,
}

/// What the next byte belongs to.
#[derive(Clone, Copy)]
enum Stage {
    Header {
        bytes: [u8; HEADER_BYTES_MAX],
        held: u8,
    },
    Payload(Frame),
    /// After a close or a fault: whatever else comes is thrown away.
    Ended,
}

/// A frame whose header has been read and found right.
#[derive(Clone, Copy)]
struct Frame {
    opcode: OpCode,
    is_final: bool,
    /// Rotated so that it begins with the byte for the next byte of payload.
    mask: Option<[u8; 4]>,
    /// Payload bytes still to come.
    remaining: usize,
}

enum Delivered {
    Nothing,
    Text(String),
    Binary(Vec<u8>),
    Control(Control, Vec<u8>),
}

/// How far one step came.
enum Step<'b> {
    /// The input is used up.
    Starved,
    /// Something was taken, nothing is complete.
    Again,
    /// An event is complete.
    Complete(Complete<'b>),
}

/// Where the content of a complete event lies.
enum Complete<'b> {
    Text(&'b str),
    Binary(&'b [u8]),
    Control(Control, &'b [u8]),
    InDelivered,
}

const BEGINNING: Stage = Stage::Header { bytes: [0; HEADER_BYTES_MAX], held: 0 };

impl Decoder {
    /// A decoder at the beginning of a stream, for messages of at most `message_bytes_max` bytes. Allocates nothing.
    pub fn new(role: Role, message_bytes_max: usize) -> Self {
        Self {
            role,
            message_bytes_max,
            stage: BEGINNING,
            message: None,
            control: Vec::new(),
            delivered: Delivered::Nothing,
        }
    }

    /// Changes the limit, from the next frame header on.
    pub fn set_message_bytes_max(&mut self, message_bytes_max: usize) {
        self.message_bytes_max = message_bytes_max;
    }

    /// Takes bytes off the front of `input` until an event is complete. `None` when the input is used up.
    ///
    /// Changes the input (unmasking). After a close, and after a fault, all further input is thrown away.
    ///
    /// # Errors
    /// `ProtocolError`, `InvalidUtf8` or `MessageTooBig`, as soon as the bytes show it. The connection must then be
    /// closed with the reason's close code.
    pub fn next<'a, 'b: 'a>(&'a mut self, input: &mut &'b mut [u8]) -> Result<Option<Event<'a>>, Fault> {
        self.delivered = Delivered::Nothing;
        loop {
            match self.step(input) {
                Ok(Step::Again) => {}
                Ok(Step::Starved) => return Ok(None),
                Ok(Step::Complete(complete)) => return self.event(complete).map(Some),
                Err(fault) => {
                    self.end();
                    return Err(fault);
                }
            }
        }
    }

    /// Heap bytes held for an incomplete frame or message: 0 between messages. The content of an event that was not
    /// whole in one input counts until the next call of [`Decoder::next`].
    pub fn held_bytes(&self) -> usize {
        let delivered = match &self.delivered {
            Delivered::Nothing => 0,
            Delivered::Text(text) => text.capacity(),
            Delivered::Binary(bytes) | Delivered::Control(_, bytes) => bytes.capacity(),
        };
        self.message.as_ref().map_or(0, Message::held_bytes) + self.control.capacity() + delivered
    }

    /// Whether a message, or a frame, has begun and is not whole.
    pub fn is_half_way(&self) -> bool {
        self.message.is_some() || !matches!(self.stage, Stage::Header { held: 0, .. } | Stage::Ended)
    }

    /// Gives up what the last event pointed to, for whoever will not call [`Decoder::next`] again soon.
    pub fn forget_delivered(&mut self) {
        self.delivered = Delivered::Nothing;
    }

    fn step<'b>(&mut self, input: &mut &'b mut [u8]) -> Result<Step<'b>, Fault> {
        match self.stage {
            Stage::Header { bytes, held } => self.take_header(bytes, usize::from(held), input),
            Stage::Payload(frame) => self.take_payload(frame, input),
            Stage::Ended => {
                *input = &mut [];
                Ok(Step::Starved)
            }
        }
    }

    fn take_header<'b>(
        &mut self,
        mut bytes: [u8; HEADER_BYTES_MAX],
        held: usize,
        input: &mut &'b mut [u8],
    ) -> Result<Step<'b>, Fault> {
        let count = input.len().min(HEADER_BYTES_MAX - held);
        let known = held + count;
        bytes[held..known].copy_from_slice(&input[..count]);
        let mut cursor = Cursor::new(&bytes[..known]);
        let parsed = FrameHeader::parse(&mut cursor)
            .map_err(|_| protocol_error("a frame has an opcode that RFC 6455 reserves"))?;
        let Some((header, length)) = parsed else {
            take(input, count);
            self.stage = Stage::Header { bytes, held: known as u8 };
            return Ok(Step::Starved);
        };
        // The header was incomplete with `held` bytes, so it ends beyond them.
        take(input, cursor.position() as usize - held);
        check_header(self.role, &header, bytes[1] & 0x7f, length)?;
        let remaining = match header.opcode {
            OpCode::Control(_) => length as usize,
            OpCode::Data(data) => self.admit(data, length)?,
        };
        let FrameHeader { opcode, is_final, mask, .. } = header;
        self.stage = Stage::Payload(Frame { opcode, is_final, mask, remaining });
        Ok(Step::Again)
    }

    /// Whether a data frame may come here and is not too long; gives its length.
    fn admit(&self, data: Data, length: u64) -> Result<usize, Fault> {
        let begun = match (&self.message, data) {
            (None, Data::Continue) => {
                return Err(protocol_error("a continuation frame came, but no message had begun"));
            }
            (Some(message), Data::Continue) => message.len(),
            (Some(_), _) => {
                return Err(protocol_error("a new message began before the last fragment of the one before"));
            }
            (None, _) => 0,
        };
        let room = self.message_bytes_max.saturating_sub(begun);
        usize::try_from(length).ok().filter(|&length| length <= room).ok_or_else(|| {
            let whole = length.saturating_add(begun as u64);
            let most = self.message_bytes_max;
            Fault::new(
                Reason::MessageTooBig,
                format!("a message of at least {whole} bytes was announced; the limit is {most} bytes"),
            )
        })
    }

    fn take_payload<'b>(&mut self, mut frame: Frame, input: &mut &'b mut [u8]) -> Result<Step<'b>, Fault> {
        let count = frame.remaining.min(input.len());
        if count == 0 && frame.remaining > 0 {
            return Ok(Step::Starved);
        }
        let chunk = take(input, count);
        if let Some(mask) = &mut frame.mask {
            encode::apply_mask(chunk, *mask);
            mask.rotate_left(count % 4);
        }
        match frame.opcode {
            OpCode::Control(control) => Ok(self.take_control(control, frame, chunk)),
            OpCode::Data(data) => self.take_data(data, frame, chunk),
        }
    }

    fn take_control<'b>(&mut self, control: Control, mut frame: Frame, chunk: &'b [u8]) -> Step<'b> {
        if chunk.len() < frame.remaining {
            let most = self.control.len() + frame.remaining;
            append(&mut self.control, chunk, most);
            frame.remaining -= chunk.len();
            self.stage = Stage::Payload(frame);
            return Step::Again;
        }
        self.stage = if control == Control::Close { Stage::Ended } else { BEGINNING };
        if self.control.is_empty() {
            return Step::Complete(Complete::Control(control, chunk));
        }
        let mut payload = std::mem::take(&mut self.control);
        append(&mut payload, chunk, CONTROL_BYTES_MAX);
        self.delivered = Delivered::Control(control, payload);
        Step::Complete(Complete::InDelivered)
    }

    fn take_data<'b>(&mut self, data: Data, mut frame: Frame, chunk: &'b [u8]) -> Result<Step<'b>, Fault> {
        let frame_ends = chunk.len() == frame.remaining;
        if frame_ends && frame.is_final && self.message.is_none() {
            self.stage = BEGINNING;
            return Ok(Step::Complete(match data {
                Data::Text => Complete::Text(std::str::from_utf8(chunk).map_err(|_| invalid_utf8())?),
                _ => Complete::Binary(chunk),
            }));
        }
        let message = self.message.get_or_insert_with(|| Message::new(data == Data::Text));
        let most = if frame.is_final { message.len() + frame.remaining } else { self.message_bytes_max };
        message.push(chunk, most)?;
        frame.remaining -= chunk.len();
        if !frame_ends {
            self.stage = Stage::Payload(frame);
            return Ok(Step::Again);
        }
        self.stage = BEGINNING;
        if !frame.is_final {
            return Ok(Step::Again);
        }
        self.delivered = match self.message.take() {
            Some(Message::Text(text)) => Delivered::Text(text.finish()?),
            Some(Message::Binary(bytes)) => Delivered::Binary(bytes),
            None => Delivered::Nothing,
        };
        Ok(Step::Complete(Complete::InDelivered))
    }

    fn event<'a>(&'a self, complete: Complete<'a>) -> Result<Event<'a>, Fault> {
        match complete {
            Complete::Text(text) => Ok(Event::Text(text)),
            Complete::Binary(bytes) => Ok(Event::Binary(bytes)),
            Complete::Control(control, payload) => control_event(control, payload),
            Complete::InDelivered => match &self.delivered {
                Delivered::Text(text) => Ok(Event::Text(text)),
                Delivered::Binary(bytes) => Ok(Event::Binary(bytes)),
                Delivered::Control(control, payload) => control_event(*control, payload),
                Delivered::Nothing => unreachable!("what is complete was put there in the same call"),
            },
        }
    }

    fn end(&mut self) {
        self.stage = Stage::Ended;
        self.message = None;
        self.control = Vec::new();
    }
}

/// The value for `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key`.
pub fn accept_key(key: &str) -> String {
    tungstenite::handshake::derive_accept_key(key.as_bytes())
}

/// The value for `Sec-WebSocket-Key` made of 16 random bytes.
pub fn client_key(random: [u8; 16]) -> String {
    data_encoding::BASE64.encode(&random)
}

/// Whether a code may stand in a close frame: RFC 6455, section 7.4, and the codes registered since (1012 to 1014).
pub fn close_code_is_valid(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// What a header must keep, whatever came before it. `length_byte` is how the length was declared.
fn check_header(role: Role, header: &FrameHeader, length_byte: u8, length: u64) -> Result<(), Fault> {
    if header.rsv1 || header.rsv2 || header.rsv3 {
        return Err(protocol_error("a frame has a reserved bit set, but no extension was agreed on"));
    }
    match (role, header.mask) {
        (Role::Server, None) => return Err(protocol_error("a frame from the client is not masked")),
        (Role::Client, Some(_)) => return Err(protocol_error("a frame from the server is masked")),
        _ => {}
    }
    if length >> 63 != 0 {
        return Err(protocol_error("a frame's length has its highest bit set"));
    }
    if (length_byte == 126 && length < 126) || (length_byte == 127 && length <= u64::from(u16::MAX)) {
        return Err(protocol_error("a frame's length is not written in its shortest form"));
    }
    if let OpCode::Control(_) = header.opcode {
        if !header.is_final {
            return Err(protocol_error("a control frame is fragmented"));
        }
        if length > CONTROL_BYTES_MAX as u64 {
            return Err(protocol_error("a control frame is longer than 125 bytes"));
        }
    }
    Ok(())
}

fn control_event(control: Control, payload: &[u8]) -> Result<Event<'_>, Fault> {
    match control {
        Control::Ping => Ok(Event::Ping(payload)),
        Control::Pong => Ok(Event::Pong(payload)),
        Control::Close | Control::Reserved(_) => close_event(payload),
    }
}

fn close_event(payload: &[u8]) -> Result<Event<'_>, Fault> {
    let (code, reason) = match payload {
        [] => return Ok(Event::Close { code: None, reason: "" }),
        [_] => return Err(protocol_error("a close frame has one byte where a code of two bytes belongs")),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !close_code_is_valid(code) {
        return Err(protocol_error(format!("a close frame has the code {code}, which may not be sent")));
    }
    let reason = std::str::from_utf8(reason)
        .map_err(|_| Fault::new(Reason::InvalidUtf8, "the reason in a close frame is not UTF-8"))?;
    Ok(Event::Close { code: Some(code), reason })
}

fn protocol_error(message: impl Into<String>) -> Fault {
    Fault::new(Reason::ProtocolError, message)
}

/// Takes `count` bytes off the front; there are at least as many.
fn take<'b>(input: &mut &'b mut [u8], count: usize) -> &'b mut [u8] {
    input.split_off_mut(..count).unwrap_or_default()
}
