//! Why something was refused, ended or given up: one table for the whole server.
//!
//! A `Reason` decides the HTTP status, the WebSocket close code, the protocol's error code, the metric label and
//! whether trying again can help. No other place in the code may choose any of these by hand.

use std::time::Duration;

/// Why a request was refused or a connection or session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The stream or conversation ended as the client asked.
    Finished,
    /// The peer closed its side or the connection broke.
    HungUp,
    /// The request is not well-formed HTTP, or its framing is ambiguous.
    BadRequest,
    /// No such path.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The head or the body did not arrive in time.
    RequestTimeout,
    /// The body is larger than allowed.
    PayloadTooLarge,
    /// The request line is longer than allowed.
    UriTooLong,
    /// An expectation other than `100-continue`.
    ExpectationFailed,
    /// The path is a WebSocket and the request did not ask for one, or asked for another version.
    UpgradeRequired,
    /// The header fields are larger or more than allowed.
    HeadTooLarge,
    /// A method or a transfer coding that the server does not know.
    NotImplemented,
    /// Not HTTP/1.0 or HTTP/1.1.
    VersionNotSupported,
    /// A WebSocket frame breaks RFC 6455.
    ProtocolError,
    /// A kind of message that this endpoint does not take.
    UnsupportedData,
    /// A text message that is not UTF-8.
    InvalidUtf8,
    /// A message larger than allowed.
    MessageTooBig,
    /// The peer reads too slowly: what waits for it has reached the limit, or nothing moved for too long.
    SlowConsumer,
    /// A text message that is not the JSON it should be.
    InvalidPayload,
    /// A message `type` that does not exist.
    UnknownEvent,
    /// A message that cannot come now.
    InvalidState,
    /// A parameter or field that is unknown or has an impossible value.
    InvalidValue,
    /// Audio that cannot be decoded, such as half a sample.
    InvalidAudio,
    /// An encoding, rate or channel count that is not served.
    InvalidAudioFormat,
    /// No credentials, or such as are not taken.
    Unauthorized,
    /// The credentials were right and have ended.
    TokenExpired,
    /// The credentials are right and do not allow this, or the page that asks comes from elsewhere.
    Forbidden,
    /// More was asked for than one principal or address may have.
    RateLimited,
    /// The principal has all the streams or connections that it may have.
    QuotaReached,
    /// No model of that name.
    ModelNotFound,
    /// All session places are taken.
    TooManySessions,
    /// The client chose to be closed rather than wait when its buffer is full.
    BufferOverflow,
    /// The client kept a full buffer for longer than the server waits.
    BlockedTooLong,
    /// Nothing came for too long.
    IdleTimeout,
    /// A ping was not answered.
    PongTimeout,
    /// The session reached its greatest length.
    SessionExpired,
    /// The server has no room: connections, memory or queue.
    Overloaded,
    /// The server is shutting down.
    Draining,
    /// The audio waited past its deadline.
    DeadlineExceeded,
    /// The model failed on this stream's audio.
    InferenceFailed,
    /// No sequence of that name goes on.
    UnknownSequence,
    /// The model has failed too often in a row and is not tried now.
    ModelUnavailable,
    /// A model could not be loaded.
    LoadFailed,
    /// The feature is not served.
    NotSupported,
    /// A fault of the server itself.
    InternalError,
}

struct Row {
    reason: Reason,
    status: u16,
    close: u16,
    code: &'static str,
    label: &'static str,
    retryable: bool,
}

const fn row(
    reason: Reason,
    status: u16,
    close: u16,
    code: &'static str,
    label: &'static str,
    retryable: bool,
) -> Row {
    Row { reason, status, close, code, label, retryable }
}

/// The table. Close codes below 4000 are RFC 6455's; above, the last three digits follow the HTTP status.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    //  reason                       HTTP  close  error code              metric label             retryable
    row(Reason::Finished,             200, 1000, "finished",              "finished",              false),
    row(Reason::HungUp,               400, 1001, "invalid_state",         "hung_up",               true),
    row(Reason::BadRequest,           400, 1002, "invalid_payload",       "bad_request",           false),
    row(Reason::NotFound,             404, 4404, "not_found",             "not_found",             false),
    row(Reason::MethodNotAllowed,     405, 4400, "not_supported",         "method_not_allowed",    false),
    row(Reason::RequestTimeout,       408, 4408, "idle_timeout",          "request_timeout",       true),
    row(Reason::PayloadTooLarge,      413, 4413, "invalid_payload",       "payload_too_large",     false),
    row(Reason::UriTooLong,           414, 4413, "invalid_payload",       "uri_too_long",          false),
    row(Reason::ExpectationFailed,    417, 4400, "not_supported",         "expectation_failed",    false),
    row(Reason::UpgradeRequired,      426, 4400, "not_supported",         "upgrade_required",      false),
    row(Reason::HeadTooLarge,         431, 4413, "invalid_payload",       "head_too_large",        false),
    row(Reason::NotImplemented,       501, 4400, "not_supported",         "not_implemented",       false),
    row(Reason::VersionNotSupported,  505, 4400, "not_supported",         "version_not_supported", false),
    row(Reason::ProtocolError,        400, 1002, "invalid_payload",       "protocol_error",        false),
    row(Reason::UnsupportedData,      415, 1003, "invalid_payload",       "unsupported_data",      false),
    row(Reason::InvalidUtf8,          400, 1007, "invalid_payload",       "invalid_utf8",          false),
    row(Reason::MessageTooBig,        413, 1009, "invalid_payload",       "message_too_big",       false),
    row(Reason::SlowConsumer,         408, 1008, "buffer_overflow",       "slow_consumer",         true),
    row(Reason::InvalidPayload,       400, 4400, "invalid_payload",       "invalid_payload",       false),
    row(Reason::UnknownEvent,         400, 4400, "unknown_event",         "unknown_event",         false),
    row(Reason::InvalidState,         409, 4400, "invalid_state",         "invalid_state",         false),
    row(Reason::InvalidValue,         400, 4400, "invalid_value",         "invalid_value",         false),
    row(Reason::InvalidAudio,         400, 4415, "invalid_audio",         "invalid_audio",         false),
    row(Reason::InvalidAudioFormat,   400, 4415, "invalid_audio_format",  "invalid_audio_format",  false),
    row(Reason::Unauthorized,         401, 4401, "unauthorized",          "unauthorized",          false),
    row(Reason::TokenExpired,         401, 4401, "token_expired",         "token_expired",         false),
    row(Reason::Forbidden,            403, 4403, "forbidden",             "forbidden",             false),
    row(Reason::RateLimited,          429, 4429, "rate_limited",          "rate_limited",          true),
    row(Reason::QuotaReached,         429, 4429, "too_many_sessions",     "quota_reached",         true),
    row(Reason::ModelNotFound,        404, 4404, "model_not_found",       "model_not_found",       false),
    row(Reason::TooManySessions,      503, 1013, "too_many_sessions",     "too_many_sessions",     true),
    row(Reason::BufferOverflow,       429, 4429, "buffer_overflow",       "buffer_overflow",       true),
    row(Reason::BlockedTooLong,       429, 4429, "audio_too_fast",        "blocked_too_long",      true),
    row(Reason::IdleTimeout,          408, 4408, "idle_timeout",          "idle_timeout",          true),
    row(Reason::PongTimeout,          408, 4408, "idle_timeout",          "pong_timeout",          true),
    row(Reason::SessionExpired,       408, 4410, "session_expired",       "session_expired",       true),
    row(Reason::Overloaded,           503, 1013, "overloaded",            "overloaded",            true),
    row(Reason::Draining,             503, 1012, "draining",              "draining",              true),
    row(Reason::DeadlineExceeded,     504, 4429, "deadline_exceeded",     "deadline_exceeded",     true),
    row(Reason::InferenceFailed,      500, 4500, "inference_failed",      "inference_failed",      true),
    row(Reason::UnknownSequence,      400, 4400, "invalid_state",         "unknown_sequence",      false),
    row(Reason::ModelUnavailable,     503, 1013, "overloaded",            "model_unavailable",     true),
    row(Reason::LoadFailed,           400, 4400, "invalid_value",         "load_failed",           false),
    row(Reason::NotSupported,         501, 4400, "not_supported",         "not_supported",         false),
    row(Reason::InternalError,        500, 1011, "internal_error",        "internal_error",        true),
];

impl Reason {
    fn row(self) -> &'static Row {
        let row = &TABLE[self as usize];
        debug_assert!(row.reason == self, "the table stands in the order of the enum");
        row
    }

    /// Every reason, in the order of the table.
    pub fn all() -> impl Iterator<Item = Reason> {
        TABLE.iter().map(|row| row.reason)
    }

    /// The HTTP status of a refusal before the upgrade.
    pub fn status(self) -> u16 {
        self.row().status
    }

    /// The WebSocket close code.
    pub fn close_code(self) -> u16 {
        self.row().close
    }

    /// The `code` of the protocol's errors.
    pub fn code(self) -> &'static str {
        self.row().code
    }

    /// The value of the `reason` label in the metrics: unique for each reason.
    pub fn label(self) -> &'static str {
        self.row().label
    }

    /// Whether the same request may succeed later.
    pub fn retryable(self) -> bool {
        self.row().retryable
    }
}

/// Whether the request may succeed later that was refused with this status and this `code`. Of pairs that stand in the
/// table for several reasons, all must pass; of those that do not stand there, another server's, the status decides.
pub fn refusal_is_retryable(status: u16, code: Option<&str>) -> bool {
    let mut rows = TABLE.iter().filter(|row| row.status == status && Some(row.code) == code).peekable();
    match rows.peek() {
        Some(_) => rows.all(|row| row.retryable),
        None => matches!(status, 408 | 425 | 429 | 502 | 503 | 504),
    }
}

/// A reason together with what happened, to what, and what to do about it: the answer to a peer's fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of fault it is.
    pub reason: Reason,
    /// One sentence for the person who reads it. Never contains a secret.
    pub message: String,
    /// The parameter, field or header at fault, if one is.
    pub param: Option<String>,
    /// When to try again, if that is known; otherwise the configuration's `retry_after` holds.
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// A fault without a parameter.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), param: None, retry_after: None }
    }

    /// The same fault, with the time after which it may be tried again.
    pub fn after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }

    /// The same fault, naming the parameter at fault.
    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.reason.label(), self.message)
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_in_the_order_of_the_enum() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.reason as usize, index, "{:?}", row.reason);
        }
        assert_eq!(TABLE.len(), Reason::InternalError as usize + 1);
    }

    #[test]
    fn labels_are_unique() {
        let mut labels: Vec<_> = Reason::all().map(Reason::label).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), TABLE.len());
    }

    #[test]
    fn close_codes_may_be_sent_on_the_wire() {
        for reason in Reason::all() {
            let code = reason.close_code();
            assert!(matches!(code, 1000..=1003 | 1007..=1013 | 4000..=4999), "{reason:?}: {code}");
        }
    }
}
