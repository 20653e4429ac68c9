//! The checksums that the model `echo` must give for the audio that was sent.

use crate::model::{ECHO_WINDOW, echo_checksum};
use crate::wire::message::Encoding;
use crate::wire::pcm::Decoder;
use std::collections::VecDeque;

/// Expected checksums of a stream, in order.
pub(super) struct Checksums {
    decoder: Decoder,
    samples: Vec<f32>,
    expected: VecDeque<u32>,
}

impl Checksums {
    pub(super) fn new(encoding: Encoding, channels: u16) -> Self {
        Self { decoder: Decoder::new(encoding, channels), samples: Vec::new(), expected: VecDeque::new() }
    }

    /// A chunk goes out.
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.decoder.decode(chunk, &mut self.samples);
        let windows = self.samples.chunks_exact(ECHO_WINDOW);
        let rest = windows.remainder().len();
        self.expected.extend(windows.map(echo_checksum));
        self.samples.drain(..self.samples.len() - rest);
    }

    /// The stream ends: a window that is not full is filled up with silence.
    pub(super) fn end(&mut self) {
        if !self.samples.is_empty() {
            self.samples.resize(ECHO_WINDOW, 0.0);
            self.expected.push_back(echo_checksum(&self.samples));
            self.samples.clear();
        }
    }

    /// The next that must come; `None` if none must.
    pub(super) fn pop(&mut self) -> Option<u32> {
        self.expected.pop_front()
    }
}
