//! The receiving side of a connection: bytes in, events out.
//!
//! Owns the buffer and the decoder. It never sends: answering pings and closes is its caller's.

use super::Error;
use super::pipe::Pipe;
use crate::reason::Fault;
use crate::wire::websocket::{Decoder, Event, Role};
use std::io;

/// Bytes asked of the connection at a time.
const READ_BYTES: usize = 16 * 1024;

/// What has come in and is not taken yet.
pub(super) struct Inbox {
    decoder: Decoder,
    /// Bytes received; `start..end` are not decoded yet.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The last bytes decoded began a frame and did not end it.
    within_frame: bool,
}

impl Inbox {
    /// Begins with what came behind the handshake.
    pub(super) fn new(left: Vec<u8>, message_bytes_max: usize) -> Self {
        Self {
            decoder: Decoder::new(Role::Client, message_bytes_max),
            end: left.len(),
            buffer: left,
            start: 0,
            within_frame: false,
        }
    }

    /// Decodes one event of what has been received. `None` does not mean that all is decoded: see [`Inbox::is_empty`].
    pub(super) fn next(&mut self) -> Result<Option<Event<'_>>, Fault> {
        let mut input = &mut self.buffer[self.start..self.end];
        let event = self.decoder.next(&mut input)?;
        let left = input.len();
        self.within_frame = event.is_none() && (self.within_frame || left < self.end - self.start);
        self.start = self.end - left;
        Ok(event)
    }

    /// Whether everything received has been decoded, be it to half a message.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether nothing received is left over, not even a part of a message.
    pub(super) fn is_between_messages(&self) -> bool {
        self.is_empty() && !self.within_frame && self.decoder.held_bytes() == 0
    }

    /// Waits for bytes, at most for the socket's time-out.
    ///
    /// # Errors
    /// [`Error::Disconnected`] at the end, [`Error::TimedOut`], or what the operating system said.
    pub(super) fn fill(&mut self, pipe: &Pipe) -> Result<(), Error> {
        self.fill_by(|buffer| pipe.read(buffer))
    }

    /// Takes what is there without waiting. Gives whether that was anything.
    pub(super) fn fill_now(&mut self, pipe: &Pipe) -> Result<bool, Error> {
        match self.fill_by(|buffer| pipe.read_now(buffer)) {
            Ok(()) => Ok(true),
            Err(Error::TimedOut(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn fill_by(&mut self, mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> Result<(), Error> {
        // The first buffer is what came with the handshake and may be of any size.
        if self.buffer.len() != READ_BYTES {
            self.buffer.resize(READ_BYTES, 0);
        }
        (self.start, self.end) = (0, 0);
        self.end = uninterrupted(|| read(&mut self.buffer))?;
        Ok(())
    }
}

/// How many bytes came; none is the end.
fn uninterrupted(mut read: impl FnMut() -> io::Result<usize>) -> Result<usize, Error> {
    loop {
        match read() {
            Ok(0) => return Err(Error::Disconnected),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(|error| Error::from_io(error, "waiting for the server")),
        }
    }
}
