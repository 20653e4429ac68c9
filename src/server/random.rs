//! Names for sessions and requests, from the seed that the server was made with: the same seed, the same names.

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable and good enough for names. Not for secrets.
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A UUID of version 7 (RFC 9562): sorts by time, unique by 74 random bits.
    pub fn uuid(&mut self, unix_ms: u64) -> String {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.next().to_le_bytes());
        bytes[8..].copy_from_slice(&self.next().to_le_bytes()[..2]);
        uuid::Builder::from_unix_timestamp_millis(unix_ms, &bytes).into_uuid().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_the_seed_and_differ_from_each_other() {
        let (mut a, mut b) = (Random::new(7), Random::new(7));
        let first = a.uuid(1_700_000_000_000);
        assert_eq!(first, b.uuid(1_700_000_000_000));
        assert_ne!(first, a.uuid(1_700_000_000_000));
        assert_eq!(first.len(), 36);
        assert_eq!(&first[14..15], "7");
    }
}
