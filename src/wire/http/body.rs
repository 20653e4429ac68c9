//! A body as it arrives: counted, or in chunks.
//!
//! Chunk framing is read byte by byte and strictly: every line ends with CRLF, sizes are bare hexadecimal digits.
//! Extensions and trailers are checked, limited and dropped.

use super::bad_request;
use super::framing::BodyFraming;
use crate::reason::{Fault, Reason};

/// Sixteen digits are 64 bits.
const SIZE_DIGITS_MAX: u8 = 16;

/// Extension bytes of a whole body. Nobody sends any; unlimited, they are work without a body.
const EXTENSION_BYTES_MAX: usize = 4096;

/// Trailer bytes of a body.
const TRAILER_BYTES_MAX: usize = 4096;

/// Takes one body out of received bytes.
#[derive(Debug)]
pub struct BodyDecoder {
    stage: Stage,
    /// Body bytes that may still come.
    room: u64,
    body_bytes_max: usize,
    extension_bytes: usize,
    trailer_bytes: usize,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Counted { left: u64 },
    Size { value: u64, digits: u8 },
    Extension { size: u64 },
    SizeLf { size: u64 },
    Chunk { left: u64 },
    ChunkCr,
    ChunkLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Whole,
}

impl BodyDecoder {
    /// A decoder for the body that follows a head.
    ///
    /// # Errors
    /// `PayloadTooLarge` if the declared length is over the limit.
    pub fn new(framing: &BodyFraming, body_bytes_max: usize) -> Result<Self, Fault> {
        let stage = match *framing {
            BodyFraming::None | BodyFraming::Length(0) => Stage::Whole,
            BodyFraming::Length(length) if length > body_bytes_max as u64 => {
                return Err(too_large(body_bytes_max));
            }
            BodyFraming::Length(left) => Stage::Counted { left },
            BodyFraming::Chunked => Stage::Size { value: 0, digits: 0 },
        };
        let room = body_bytes_max as u64;
        Ok(Self { stage, room, body_bytes_max, extension_bytes: 0, trailer_bytes: 0 })
    }

    /// Takes what belongs to the body off the front of `input` and appends its content to `out`. True when the body is
    /// whole; the rest of the input is then the next request's.
    ///
    /// # Errors
    /// `BadRequest` for broken chunks, `PayloadTooLarge` as soon as a chunk's size exceeds the limit.
    pub fn decode(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, Fault> {
        loop {
            match self.stage {
                Stage::Whole => return Ok(true),
                _ if input.is_empty() => return Ok(false),
                Stage::Counted { left } => {
                    let left = copy(left, input, out);
                    self.stage = if left == 0 { Stage::Whole } else { Stage::Counted { left } };
                }
                Stage::Chunk { left } => {
                    let left = copy(left, input, out);
                    self.stage = if left == 0 { Stage::ChunkCr } else { Stage::Chunk { left } };
                }
                stage => {
                    if let Some((&byte, rest)) = input.split_first() {
                        self.stage = self.step(stage, byte)?;
                        *input = rest;
                    }
                }
            }
        }
    }

    /// One byte of the framing.
    fn step(&mut self, stage: Stage, byte: u8) -> Result<Stage, Fault> {
        match (stage, byte) {
            (Stage::Size { value, digits }, _) => size_byte(value, digits, byte),
            (Stage::Extension { size }, b'\r') => Ok(Stage::SizeLf { size }),
            (Stage::Extension { size }, _) => {
                count(&mut self.extension_bytes, EXTENSION_BYTES_MAX, "chunk extensions")?;
                check_text(byte, "a chunk's extension")?;
                Ok(Stage::Extension { size })
            }
            (Stage::SizeLf { size: 0 }, b'\n') => Ok(Stage::TrailerStart),
            (Stage::SizeLf { size }, b'\n') => {
                self.room = self.room.checked_sub(size).ok_or_else(|| too_large(self.body_bytes_max))?;
                Ok(Stage::Chunk { left: size })
            }
            (Stage::ChunkCr, b'\r') => Ok(Stage::ChunkLf),
            (Stage::ChunkLf, b'\n') => Ok(Stage::Size { value: 0, digits: 0 }),
            (Stage::ChunkCr | Stage::ChunkLf, _) => {
                Err(bad_request("a chunk is not followed by CRLF: its size is wrong"))
            }
            (Stage::TrailerStart, b'\r') => Ok(Stage::EndLf),
            (Stage::EndLf, b'\n') => Ok(Stage::Whole),
            (Stage::SizeLf { .. } | Stage::EndLf | Stage::TrailerLf, byte) if byte != b'\n' => {
                Err(bad_request("a CR in the chunks' framing is not followed by LF"))
            }
            _ => self.trailer_byte(stage, byte),
        }
    }

    fn trailer_byte(&mut self, stage: Stage, byte: u8) -> Result<Stage, Fault> {
        count(&mut self.trailer_bytes, TRAILER_BYTES_MAX, "trailers")?;
        match (stage, byte) {
            (Stage::TrailerLf, _) => Ok(Stage::TrailerStart),
            (Stage::TrailerValue, b'\r') => Ok(Stage::TrailerLf),
            (Stage::TrailerValue, _) => {
                check_text(byte, "a trailer")?;
                Ok(Stage::TrailerValue)
            }
            (Stage::TrailerName, b':') => Ok(Stage::TrailerValue),
            (_, byte) if is_token(byte) => Ok(Stage::TrailerName),
            _ => Err(bad_request("a trailer is not of the form `name: value`")),
        }
    }
}

fn size_byte(value: u64, digits: u8, byte: u8) -> Result<Stage, Fault> {
    if let Some(digit) = char::from(byte).to_digit(16) {
        if digits == SIZE_DIGITS_MAX {
            return Err(bad_request("a chunk's size has too many digits"));
        }
        return Ok(Stage::Size { value: value << 4 | u64::from(digit), digits: digits + 1 });
    }
    match byte {
        b'\r' if digits > 0 => Ok(Stage::SizeLf { size: value }),
        b';' if digits > 0 => Ok(Stage::Extension { size: value }),
        _ => Err(bad_request("a chunk's size is not hexadecimal digits followed by CRLF")),
    }
}

/// Room is made for what is left, but for no more than this many times what has come: a length that is only declared
/// must not take memory.
const GROWTH: usize = 8;

/// Copies at most `left` bytes and gives how many are then left.
fn copy(left: u64, input: &mut &[u8], out: &mut Vec<u8>) -> u64 {
    let left_bytes = usize::try_from(left).unwrap_or(usize::MAX);
    let length = left_bytes.min(input.len());
    let (content, rest) = input.split_at(length);
    if out.capacity() - out.len() < length {
        // Large bodies come in many pieces, and doubling would move them again and again.
        out.reserve(left_bytes.min(GROWTH * (out.len() + length) - out.len()));
    }
    out.extend_from_slice(content);
    *input = rest;
    left - length as u64
}

fn count(bytes: &mut usize, most: usize, what: &str) -> Result<(), Fault> {
    *bytes += 1;
    if *bytes > most {
        return Err(bad_request(format!("the body has more than {most} bytes of {what}")));
    }
    Ok(())
}

fn check_text(byte: u8, place: &str) -> Result<(), Fault> {
    match byte {
        b'\t' | b' '..=b'~' | 0x80.. => Ok(()),
        b'\n' => Err(bad_request(format!("{place} ends with LF alone, not CRLF"))),
        _ => Err(bad_request(format!("{place} has a control byte (0x{byte:02x})"))),
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn too_large(body_bytes_max: usize) -> Fault {
    let message = format!("the body is larger than {body_bytes_max} bytes, the most that is taken");
    Fault::new(Reason::PayloadTooLarge, message)
}
