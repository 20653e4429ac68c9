//! The fuzzer's bytes as a source of decisions, and the cuts of what a peer sends.

/// Gives bytes off the front; zeros once they are used up, so that every input means something.
#[derive(Clone)]
pub struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.bytes.split_off_first().copied().unwrap_or(0)
    }

    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// One of a few things.
    pub fn pick<T: Copy>(&mut self, things: &[T]) -> T {
        things[usize::from(self.byte()) % things.len()]
    }

    /// As many as there are, at most `count`.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let count = count.min(self.bytes.len());
        self.bytes.split_off(..count).unwrap_or_default()
    }

    /// A byte that says how many, and then so many.
    pub fn piece(&mut self) -> &'a [u8] {
        let count = usize::from(self.byte());
        self.take(count)
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }
}

/// Lengths of pieces, over and over again; each at least 1.
pub struct Cuts {
    lengths: Vec<usize>,
    at: usize,
}

impl Cuts {
    /// Four lengths from 1 to 256, small ones likelier.
    pub fn draw(input: &mut Input<'_>) -> Self {
        let length = |byte: u8| if byte < 192 { usize::from(byte % 16) + 1 } else { usize::from(byte) + 1 };
        Self { lengths: (0..4).map(|_| length(input.byte())).collect(), at: 0 }
    }

    /// The length of the next piece of what has `left` bytes.
    pub fn next(&mut self, left: usize) -> usize {
        let length = self.lengths[self.at % self.lengths.len()];
        self.at += 1;
        length.min(left)
    }
}
