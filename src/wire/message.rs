//! The messages of `/v1/stream`: typed on both sides, parsed once at the edge, written straight into a buffer.
//!
//! Owns the field names, their types and their ranges. Knows no session, no socket and no policy: whether a message
//! may come now is the server's business.
//!
//! Strict where a client speaks (an unknown field is a mistake that would otherwise go unnoticed), lenient where a
//! server speaks (a newer server may tell more than this client knows).

mod client;
mod names;
mod params;
mod server;
mod webhook;

pub use client::ClientMessage;
pub use names::{DiscardReason, Encoding, Framing, Overflow};
pub(crate) use params::CHANNELS;
pub use params::StreamParams;
pub use server::{
    AudioAdded, Begin, Class, Configuration, Detection, Discarded, ErrorMessage, Keepalive, Ledger, Limits,
    Pong, Reconnect, Results, ServerMessage, SpeechBoundary, Tensor, Termination, Timing, Warning,
    encode_http_error,
};
pub use webhook::{WebhookData, WebhookEvent, rfc3339};

use crate::reason::{Fault, Reason};

/// Greatest length of a name or value of the peer's that is repeated in an error, characters.
const QUOTED_CHARS_MAX: usize = 48;

/// What the peer wrote, fit to be repeated in an error: quoted, escaped and cut.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// The known name that `text` was probably meant to be, if one is near enough to be worth saying.
fn nearest<'n>(text: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_ascii_lowercase()), name))
        // A third of the letters may be wrong: "sample_rat" is a slip, "foo" is not meant to be "raw".
        .filter(|(distance, name)| distance * 3 <= name.len().max(3))
        .min()
        .map(|(_, name)| name)
}

/// ", did you mean `name`?" or nothing.
fn suggestion<'n>(text: &str, names: impl IntoIterator<Item = &'n str>) -> String {
    nearest(text, names).map(|name| format!("; did you mean {name:?}?")).unwrap_or_default()
}

/// A fault for a name that is not among those accepted.
fn not_among(reason: Reason, what: &str, text: &str, names: &[&str]) -> Fault {
    let guess = suggestion(text, names.iter().copied());
    Fault::new(reason, format!("{what} {} is not known, accepted: {}{guess}", quoted(text), names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised_and_a_stranger_is_not() {
        let names = ["sample_rate", "channels", "raw"];
        assert_eq!(nearest("sampel_rate", names), Some("sample_rate"));
        assert_eq!(nearest("Sample_Rate", names), Some("sample_rate"));
        assert_eq!(nearest("channel", names), Some("channels"));
        assert_eq!(nearest("foo", names), None);
        assert_eq!(nearest("", names), None);
        assert_eq!(nearest(&"x".repeat(100_000), names), None);
    }

    #[test]
    fn what_a_peer_wrote_is_repeated_escaped_and_cut() {
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
        assert_eq!(quoted(&"é".repeat(60)), format!("\"{}\"...", "é".repeat(48)));
    }
}
