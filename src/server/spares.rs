//! Buffers that are empty now and will be wanted again: what goes out is encoded into one that has grown already.
//!
//! A connection holds no buffer while nothing waits to be written, so each turn would allocate one for every connection
//! that has something to say, and grow it. A few that go from one to the next save both. Bounded: more than
//! [`BUFFERS_MAX`] are never wanted by one turn for long, and a buffer that one large answer made is given up.

/// Buffers kept at most.
const BUFFERS_MAX: usize = 64;
/// Greatest capacity kept, bytes: a turn's worth of small messages.
const CAPACITY_MAX: usize = 16 * 1024;
/// All of them together, bytes.
pub(super) const BYTES_MAX: usize = BUFFERS_MAX * CAPACITY_MAX;

/// The buffers.
#[derive(Default)]
pub(super) struct Spares {
    buffers: Vec<Vec<u8>>,
    /// Memory is short: nothing is kept.
    short: bool,
}

impl Spares {
    /// An empty buffer, the one given back last: it is the likeliest to be in the processor's cache.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_default()
    }

    /// A buffer that is not wanted any more.
    pub(super) fn give(&mut self, mut buffer: Vec<u8>) {
        if !self.short && buffer.capacity() <= CAPACITY_MAX && self.buffers.len() < BUFFERS_MAX {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }

    /// Whether there is memory for buffers that nobody uses. If not, they are given back at once.
    pub(super) fn keep(&mut self, keep: bool) {
        self.short = !keep;
        if self.short && !self.buffers.is_empty() {
            self.buffers = Vec::new();
        }
    }

    /// Bytes that are kept.
    pub(super) fn bytes(&self) -> usize {
        self.buffers.iter().map(Vec::capacity).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_while_memory_is_short() {
        let mut spares = Spares::default();
        spares.give(vec![1; 100]);
        assert!(spares.bytes() >= 100);
        spares.keep(false);
        spares.give(vec![1; 100]);
        assert_eq!(spares.bytes(), 0);
        spares.keep(true);
        spares.give(vec![1; 100]);
        assert!(spares.bytes() >= 100);
    }

    #[test]
    fn what_is_kept_is_bounded_and_empty() {
        let mut spares = Spares::default();
        (0..1000).for_each(|_| spares.give(vec![1; 100]));
        spares.give(vec![1; CAPACITY_MAX + 1]);
        let held: Vec<_> =
            std::iter::from_fn(|| Some(spares.take()).filter(|buffer| buffer.capacity() > 0)).collect();
        assert_eq!(held.len(), BUFFERS_MAX);
        assert!(held.iter().all(|buffer| buffer.is_empty() && buffer.capacity() <= CAPACITY_MAX));
    }
}
