//! A message that comes in parts: what has arrived of it, and nothing more.
//!
//! Text is checked as it comes, so a wrong byte is found at once and no byte is looked at twice.

use crate::reason::{Fault, Reason};

/// A data message in progress.
pub(super) enum Message {
    Text(PartialText),
    Binary(Vec<u8>),
}

/// Text of which the last character may be incomplete.
pub(super) struct PartialText {
    text: String,
    /// The bytes of the incomplete last character: at most three are held.
    tail: [u8; 4],
    tail_len: usize,
}

impl Message {
    pub(super) fn new(is_text: bool) -> Self {
        if is_text {
            Message::Text(PartialText { text: String::new(), tail: [0; 4], tail_len: 0 })
        } else {
            Message::Binary(Vec::new())
        }
    }

    /// Bytes received so far.
    pub(super) fn len(&self) -> usize {
        match self {
            Message::Text(text) => text.text.len() + text.tail_len,
            Message::Binary(bytes) => bytes.len(),
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Message::Text(text) => text.text.capacity(),
            Message::Binary(bytes) => bytes.capacity(),
        }
    }

    /// Adds what came. The message is known to stay within `most` bytes.
    pub(super) fn push(&mut self, chunk: &[u8], most: usize) -> Result<(), Fault> {
        match self {
            Message::Text(text) => text.push(chunk, most),
            Message::Binary(bytes) => {
                append(bytes, chunk, most);
                Ok(())
            }
        }
    }
}

impl PartialText {
    fn push(&mut self, chunk: &[u8], most: usize) -> Result<(), Fault> {
        let rest = self.complete_tail(chunk, most)?;
        match std::str::from_utf8(rest) {
            Ok(text) => self.push_str(text, most),
            Err(error) if error.error_len().is_some() => return Err(invalid_utf8()),
            Err(error) => {
                let (valid, tail) = rest.split_at(error.valid_up_to());
                // The same bytes were just found valid, so nothing is lost by the default.
                self.push_str(std::str::from_utf8(valid).unwrap_or_default(), most);
                self.tail[..tail.len()].copy_from_slice(tail);
                self.tail_len = tail.len();
            }
        }
        Ok(())
    }

    /// Completes the character that the last chunk cut, and gives the rest of `chunk`.
    fn complete_tail<'c>(&mut self, mut chunk: &'c [u8], most: usize) -> Result<&'c [u8], Fault> {
        while self.tail_len > 0 {
            let Some((&byte, rest)) = chunk.split_first() else { break };
            chunk = rest;
            self.tail[self.tail_len] = byte;
            self.tail_len += 1;
            let tail = self.tail;
            match std::str::from_utf8(&tail[..self.tail_len]) {
                Ok(character) => {
                    self.tail_len = 0;
                    self.push_str(character, most);
                }
                Err(error) if error.error_len().is_some() => return Err(invalid_utf8()),
                // Four bytes are a character or an error, so there is always place for one more.
                Err(_) => {}
            }
        }
        Ok(chunk)
    }

    fn push_str(&mut self, text: &str, most: usize) {
        let needed = self.text.len() + text.len();
        if needed > self.text.capacity() {
            self.text.reserve_exact(grown(needed, most) - self.text.len());
        }
        self.text.push_str(text);
    }

    /// The whole text, unless it ends within a character.
    pub(super) fn finish(self) -> Result<String, Fault> {
        if self.tail_len > 0 { Err(invalid_utf8()) } else { Ok(self.text) }
    }
}

/// Appends without ever holding much more than what came: half as much again, and no more than `most`.
pub(super) fn append(bytes: &mut Vec<u8>, chunk: &[u8], most: usize) {
    let needed = bytes.len() + chunk.len();
    if needed > bytes.capacity() {
        bytes.reserve_exact(grown(needed, most) - bytes.len());
    }
    bytes.extend_from_slice(chunk);
}

pub(super) fn invalid_utf8() -> Fault {
    Fault::new(Reason::InvalidUtf8, "a text message is not UTF-8; send bytes as a binary message")
}

/// The capacity for `needed` bytes: geometric, so that many small parts cost linear time.
fn grown(needed: usize, most: usize) -> usize {
    needed.saturating_add(needed / 2).min(most).max(needed)
}
