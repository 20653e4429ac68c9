//! The sending side of the connection, shared by both halves.
//!
//! Invariants: frames go out whole and in order, one at a time. The sender may wait for the server; the receiver never
//! waits, neither for the server nor for the sender ([`Link::settle`]).

use super::Error;
use super::pipe::Pipe;
use super::random::Random;
use crate::wire::message::{ClientMessage, Framing};
use crate::wire::pcm::{AUDIO_HEADER_BYTES, AudioHeader, AudioKind};
use crate::wire::websocket::{encode_binary, encode_close, encode_pong, encode_text};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// One connection's way out.
pub(super) struct Link {
    pub(super) pipe: Pipe,
    writer: Mutex<Writer>,
    /// The payload of the last ping that is not answered yet. RFC 6455 lets a pong answer several pings, so one place
    /// is enough whatever the server sends.
    ping: Mutex<Option<Vec<u8>>>,
}

struct Writer {
    random: Random,
    framing: Framing,
    /// Chunks sent.
    chunks: u32,
    /// Frames encoded.
    frames: Vec<u8>,
    /// The same as the connection carries them, of which the first `written` bytes are out.
    carried: Vec<u8>,
    written: usize,
    state: State,
    scratch: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// A close frame has been encoded: nothing may follow it.
    Closed,
    /// A write failed, perhaps in the middle of a frame.
    Broken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves at worst half a frame, which `State::Broken` stands for.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub(super) fn new(pipe: Pipe, random: Random, framing: Framing) -> Self {
        let writer = Writer {
            random,
            framing,
            chunks: 0,
            frames: Vec::new(),
            carried: Vec::new(),
            written: 0,
            state: State::Open,
            scratch: Vec::new(),
        };
        Self { pipe, writer: Mutex::new(writer), ping: Mutex::new(None) }
    }

    /// Sends a chunk; with `framing=seq` behind a header with its number.
    pub(super) fn send_audio(&self, samples: &[u8], capture_time_us: u64) -> Result<(), Error> {
        self.send(|writer| writer.push_audio(samples, capture_time_us))
    }

    /// Sends one of the protocol's messages.
    pub(super) fn send_message(&self, message: &ClientMessage) -> Result<(), Error> {
        let mut text = Vec::new();
        message.encode(&mut text);
        // serde_json writes UTF-8 only.
        self.send_text(&String::from_utf8(text).unwrap_or_default())
    }

    /// Sends a text message.
    pub(super) fn send_text(&self, text: &str) -> Result<(), Error> {
        self.send(|writer| {
            let mask = Some(writer.random.mask());
            encode_text(&mut writer.frames, text, mask);
        })
    }

    /// Sends a binary message as it is.
    pub(super) fn send_binary(&self, payload: &[u8]) -> Result<(), Error> {
        self.send(|writer| {
            let mask = Some(writer.random.mask());
            encode_binary(&mut writer.frames, payload, mask);
        })
    }

    /// Whether something can still be sent, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        lock(&self.writer).state == State::Open
    }

    /// Sends a close; nothing can be sent after it.
    pub(super) fn send_close(&self, code: u16, reason: &str) -> Result<(), Error> {
        self.send(|writer| writer.push_close(Some(code), reason))
    }

    fn send(&self, push: impl FnOnce(&mut Writer)) -> Result<(), Error> {
        {
            let mut writer = lock(&self.writer);
            if writer.state != State::Open {
                return Err(Error::Closed);
            }
            push(&mut writer);
            writer.write_all(&self.pipe)?;
        }
        // A ping that came meanwhile found the writer taken and left its answer to us.
        self.settle();
        Ok(())
    }

    /// Answers a ping as soon as that is possible without waiting. Called by the receiver.
    pub(super) fn answer_ping(&self, payload: &[u8]) {
        *lock(&self.ping) = Some(payload.to_owned());
        self.settle();
    }

    /// Sends the pong that is owed, if the writer is free and the connection takes it. Never waits. If somebody else has
    /// the writer, they settle when they are done; if the connection is full, the next send brings it out.
    fn settle(&self) {
        while lock(&self.ping).is_some() {
            let Some(mut writer) = self.try_writer() else { return };
            let Some(payload) = lock(&self.ping).take() else { return };
            if writer.state != State::Open {
                return;
            }
            let mask = Some(writer.random.mask());
            encode_pong(&mut writer.frames, &payload, mask);
            writer.write_some(&self.pipe);
        }
    }

    /// Answers a close, or closes because of the server's fault, without waiting. A send that is held up fails then.
    pub(super) fn close_now(&self, code: Option<u16>) {
        let Some(mut writer) = self.try_writer() else {
            // Somebody is sending to a server that has said its last word.
            self.pipe.cut();
            return;
        };
        if writer.state == State::Open {
            writer.push_close(code, "");
            writer.write_some(&self.pipe);
        }
    }

    fn try_writer(&self) -> Option<MutexGuard<'_, Writer>> {
        match self.writer.try_lock() {
            Ok(writer) => Some(writer),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Writer {
    fn push_audio(&mut self, samples: &[u8], capture_time_us: u64) {
        self.chunks = self.chunks.wrapping_add(1);
        let mask = Some(self.random.mask());
        match self.framing {
            Framing::Raw => encode_binary(&mut self.frames, samples, mask),
            Framing::Seq => {
                let seq = self.chunks;
                let header =
                    AudioHeader { kind: AudioKind::Input, flags: 0, channel: 0, seq, capture_time_us };
                self.scratch.clear();
                self.scratch.reserve(AUDIO_HEADER_BYTES + samples.len());
                header.encode(&mut self.scratch);
                self.scratch.extend_from_slice(samples);
                encode_binary(&mut self.frames, &self.scratch, mask);
            }
        }
    }

    fn push_close(&mut self, code: Option<u16>, reason: &str) {
        let mask = Some(self.random.mask());
        encode_close(&mut self.frames, code, reason, mask);
        self.state = State::Closed;
    }

    /// Waits until everything is out, at most for the socket's time-out.
    fn write_all(&mut self, pipe: &Pipe) -> Result<(), Error> {
        pipe.seal(&mut self.frames, &mut self.carried);
        let result = pipe.write_sealed(&self.carried[self.written..]);
        self.carried.clear();
        self.written = 0;
        result.map_err(|error| {
            self.state = State::Broken;
            Error::from_io(error, "sending; the server does not read")
        })
    }

    /// Writes what the connection takes at once; the rest waits for the next send.
    fn write_some(&mut self, pipe: &Pipe) {
        pipe.seal(&mut self.frames, &mut self.carried);
        while self.written < self.carried.len() {
            match pipe.write_sealed_now(&self.carried[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The receiver learns the same from its own side of the connection.
                Err(_) => {
                    self.state = State::Broken;
                    break;
                }
            }
        }
        self.carried.clear();
        self.written = 0;
    }
}
