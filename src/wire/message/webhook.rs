//! What the receiver of webhooks is told: a message of a stream, and whose stream it is.

use super::ServerMessage;
use serde::Serialize;
use std::time::{Duration, UNIX_EPOCH};

/// The body of a webhook. What it tells of the stream is the very message that the client got.
#[derive(Debug, Serialize)]
pub struct WebhookEvent<'a> {
    /// What happened: `stream.results` or `stream.ended`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// When, as RFC 3339 has it.
    pub timestamp: String,
    /// What.
    pub data: WebhookData<'a>,
}

/// A message and the stream that it belongs to.
#[derive(Debug, Serialize)]
pub struct WebhookData<'a> {
    /// The stream.
    pub session_id: &'a str,
    /// The request that opened it.
    pub request_id: &'a str,
    /// Whose it is.
    pub user: &'a str,
    /// The model's name.
    pub model: &'a str,
    /// The client's own name for the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<&'a str>,
    /// What the client was told.
    pub message: &'a ServerMessage,
}

impl WebhookEvent<'_> {
    /// The JSON text.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(512);
        super::server::append_json(self, &mut body);
        body
    }
}

/// A time as RFC 3339 has it, to the millisecond.
pub fn rfc3339(unix_ms: u64) -> String {
    // The latest time that the format has: its years have four digits.
    const LAST_MS: u64 = 253_402_300_799_999;
    let time = UNIX_EPOCH + Duration::from_millis(unix_ms.min(LAST_MS));
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_any_number_is_one() {
        assert_eq!(rfc3339(1_700_000_000_007), "2023-11-14T22:13:20.007Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
