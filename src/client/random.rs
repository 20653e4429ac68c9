//! Random numbers for the handshake's key, the masks and the waits between attempts.
//!
//! A mask protects proxies from a browser's scripts, not the client from anybody: it must differ from frame to frame and
//! not be foreseeable by whoever wrote the payload. The standard library's keyed hash, seeded by the operating system,
//! over a counter is that.

use std::hash::{BuildHasher, RandomState};

/// A source of random bytes, differently seeded each time.
#[derive(Debug, Default)]
pub(crate) struct Random {
    keys: RandomState,
    count: u64,
}

impl Random {
    /// Any number, each as likely as the other.
    pub(super) fn number(&mut self) -> u64 {
        self.count += 1;
        self.keys.hash_one(self.count)
    }

    /// A mask.
    pub(crate) fn mask(&mut self) -> [u8; 4] {
        // The greater half of the hash; which half makes no difference.
        ((self.number() >> 32) as u32).to_le_bytes()
    }

    /// The bytes of a handshake's key.
    pub(crate) fn key(&mut self) -> [u8; 16] {
        let (a, b) = (u128::from(self.number()), u128::from(self.number()));
        (a << 64 | b).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_differ_from_each_other_and_between_sources() {
        let (mut one, mut other) = (Random::default(), Random::default());
        let mut masks: Vec<_> = (0..8).flat_map(|_| [one.mask(), other.mask()]).collect();
        masks.sort_unstable();
        masks.dedup();
        // Two of sixteen being equal by chance: 1 in 36 million.
        assert!(masks.len() > 14, "{masks:?}");
        assert_ne!(one.key(), other.key());
    }
}
