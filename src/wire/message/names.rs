//! The choices that the protocol offers by name.

use super::not_among;
use crate::reason::{Fault, Reason};
use serde::{Deserialize, Serialize};

macro_rules! names {
    (
        $(#[$doc:meta])*
        $type:ident, parameter $param:literal, fault $reason:ident:
        $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)+
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $type {
            $($(#[$variant_doc])* #[serde(rename = $name)] $variant,)+
        }

        impl $type {
            /// Every value, in the order in which it is listed to people.
            pub const ALL: &'static [$type] = &[$($type::$variant),+];
            /// The names on the wire, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The name on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $($type::$variant => $name),+ }
            }

            /// The value of that name; otherwise a fault that lists the names.
            pub fn parse(text: &str) -> Result<Self, Fault> {
                match text {
                    $($name => Ok($type::$variant),)+
                    _ => Err(not_among(Reason::$reason, $param, text, Self::NAMES).at($param)),
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

names! {
    /// How a sample is written.
    Encoding, parameter "encoding", fault InvalidAudioFormat:
    /// 16-bit signed integers, little-endian.
    Linear16 = "linear16",
    /// 32-bit IEEE floats within -1..=1, little-endian.
    F32le = "f32le",
    /// G.711 mu-law, one byte.
    Mulaw = "mulaw",
    /// G.711 A-law, one byte.
    Alaw = "alaw",
}

impl Encoding {
    /// Bytes of one sample of one channel.
    pub const fn sample_bytes(self) -> usize {
        match self {
            Encoding::Linear16 => 2,
            Encoding::F32le => 4,
            Encoding::Mulaw | Encoding::Alaw => 1,
        }
    }
}

names! {
    /// What a binary message is.
    Framing, parameter "framing", fault InvalidValue:
    /// Bare samples.
    Raw = "raw",
    /// A 16-byte header ([`crate::wire::pcm::AudioHeader`]), then samples.
    Seq = "seq",
}

names! {
    /// What becomes of audio that comes faster than it can be processed.
    Overflow, parameter "overflow", fault InvalidValue:
    /// The server stops reading until there is room.
    Block = "block",
    /// The oldest audio is discarded, and the client told.
    DiscardOldest = "discard_oldest",
    /// The stream ends.
    Close = "close",
}

names! {
    /// Why the server discarded audio.
    DiscardReason, parameter "reason", fault InvalidValue:
    /// The buffer was full and the client chose to lose the oldest.
    Overflow = "overflow",
    /// It waited past the deadline.
    Deadline = "deadline",
    /// The server is shutting down.
    Drain = "drain",
    /// The model failed on it.
    InferenceFailed = "inference_failed",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_to_its_value() {
        for encoding in Encoding::ALL {
            assert_eq!(Encoding::parse(encoding.as_str()).as_ref(), Ok(encoding));
            assert_eq!(serde_json::to_value(encoding).ok(), Some(encoding.as_str().into()));
        }
        for overflow in Overflow::ALL {
            assert_eq!(Overflow::parse(overflow.as_str()).as_ref(), Ok(overflow));
        }
    }

    #[test]
    fn an_unknown_encoding_is_a_fault_of_the_audio_format_and_lists_the_names() {
        let fault = Encoding::parse("linear_16").unwrap_err();
        assert_eq!(fault.reason, Reason::InvalidAudioFormat);
        assert_eq!(fault.param.as_deref(), Some("encoding"));
        assert!(fault.message.contains("linear16, f32le, mulaw, alaw"), "{fault}");
        assert!(fault.message.contains("did you mean \"linear16\""), "{fault}");
    }
}
