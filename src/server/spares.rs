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
}

impl Spares {
    /// An empty buffer, the one given back last: it is the likeliest to be in the processor's cache.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_default()
    }

    /// A buffer that is not wanted any more.
    pub(super) fn give(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= CAPACITY_MAX && self.buffers.len() < BUFFERS_MAX {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
