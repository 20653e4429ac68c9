//! Responses: encoded by the server, and their heads parsed by the client.

use super::framing::{BodyFraming, framing};
use super::{Headers, bad_request, owned, values};
use crate::reason::{Fault, Reason};
use std::borrow::Cow;
use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

/// Tells the client that waits for it to send the body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The most of a response's head that a client takes: several times what servers and proxies send.
const RESPONSE_HEAD_BYTES_MAX: usize = 32 * 1024;
const RESPONSE_HEADERS_MAX: usize = 100;

/// 9999-12-31T23:59:59Z, the last second that a `Date` can show.
const LAST_UNIX_SECOND: u64 = 253_402_300_799;

/// A response to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// The status, 200 to 599.
    pub status: u16,
    /// Header fields besides `Date`, `Content-Length`, `Transfer-Encoding` and `Connection`, which are written by
    /// [`Response::encode`] and dropped here.
    pub headers: Vec<(&'a str, Cow<'a, str>)>,
    /// The body.
    pub body: Cow<'a, [u8]>,
}

impl<'a> Response<'a> {
    /// A response with nothing but a status.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Cow::Borrowed(&[]) }
    }

    /// The same with one more header field. Line breaks and control characters in a value become spaces.
    pub fn with_header(mut self, name: &'a str, value: impl Into<Cow<'a, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The same with a body and its `Content-Type`.
    pub fn with_body(self, content_type: &'a str, body: impl Into<Cow<'a, [u8]>>) -> Self {
        let mut response = self.with_header("Content-Type", content_type);
        response.body = body.into();
        response
    }

    /// Appends the response to `out`. `head_only` answers HEAD: the head that GET would get, no body. A 426 says by
    /// itself which protocol it asks for.
    pub fn encode(&self, out: &mut Vec<u8>, head_only: bool, keep_alive: bool, unix_ms: u64) {
        out.reserve(256 + if head_only { 0 } else { self.body.len() });
        self.encode_head(out, BodyLength::Known(self.body.len() as u64), keep_alive, unix_ms);
        let bodiless = matches!(self.status, 100..=199 | 204 | 304);
        if !head_only && !bodiless {
            out.extend_from_slice(&self.body);
        }
    }

    /// Appends the head alone, for a body of that length that follows in pieces; whatever body is here is left out.
    pub fn encode_head(&self, out: &mut Vec<u8>, length: BodyLength, keep_alive: bool, unix_ms: u64) {
        let seconds = (unix_ms / 1000).min(LAST_UNIX_SECOND);
        let date = httpdate::HttpDate::from(UNIX_EPOCH + Duration::from_secs(seconds));
        push(out, format_args!("HTTP/1.1 {} {}\r\nDate: {date}\r\n", self.status, status_text(self.status)));
        for (name, value) in &self.headers {
            if !OWN_FIELDS.iter().any(|own| own.eq_ignore_ascii_case(name)) {
                push_field(out, name, value);
            }
        }
        match length {
            _ if matches!(self.status, 100..=199 | 204) => {}
            BodyLength::Known(length) => push(out, format_args!("Content-Length: {length}\r\n")),
            BodyLength::Chunked => push_field(out, "Transfer-Encoding", "chunked"),
            BodyLength::UntilClose => {}
        }
        let persistence = if keep_alive && length != BodyLength::UntilClose { "keep-alive" } else { "close" };
        if self.status == 426 {
            push_field(out, "Upgrade", "websocket");
            push_field(out, "Sec-WebSocket-Version", "13");
            push(out, format_args!("Connection: Upgrade, {persistence}\r\n\r\n"));
        } else {
            push(out, format_args!("Connection: {persistence}\r\n\r\n"));
        }
    }
}

/// How a client finds the end of a body that comes in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// It has that many bytes.
    Known(u64),
    /// Each piece says how long it is: [`encode_chunk`] and [`encode_last_chunk`]. HTTP/1.1 only.
    Chunked,
    /// It ends where the connection does: all that HTTP/1.0 has for a length that is not known.
    UntilClose,
}

/// Appends a piece of a chunked body. An empty one is left out: it would end the body.
pub fn encode_chunk(out: &mut Vec<u8>, piece: &[u8]) {
    if !piece.is_empty() {
        push(out, format_args!("{:x}\r\n", piece.len()));
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the end of a chunked body.
pub fn encode_last_chunk(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n\r\n");
}

/// The fields that frame a message or belong to the connection: nobody else may write them.
const OWN_FIELDS: [&str; 7] = [
    "date",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "sec-websocket-version",
];

/// Appends the answer that makes the connection a WebSocket: what the client's key gave, the subprotocol chosen among
/// those it offered, and further header fields.
pub fn encode_switching_protocols(
    out: &mut Vec<u8>,
    accept: &str,
    protocol: Option<&str>,
    extra: &[(&str, &str)],
) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
    );
    push_field(out, "Sec-WebSocket-Accept", accept);
    if let Some(protocol) = protocol {
        push_field(out, "Sec-WebSocket-Protocol", protocol);
    }
    for (name, value) in extra {
        push_field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// The words behind a status code; empty for one that the server does not send.
pub fn status_text(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

fn push(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a Vec takes every byte");
}

/// Appends a header field. A value may come from a peer: it must not be able to begin a line of its own.
fn push_field(out: &mut Vec<u8>, name: &str, value: &str) {
    debug_assert!(
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'),
        "{name}"
    );
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}

/// A response without its body, as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status.
    pub status: u16,
    /// The header fields in their order, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl ResponseHead {
    /// The first value of a header field, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        values(&self.headers, name).next()
    }

    /// What follows the head of an answer to anything but HEAD. `None` when the body lasts until the connection closes.
    ///
    /// # Errors
    /// `BadRequest` or `NotImplemented` if the server's framing is ambiguous or unknown.
    pub fn body(&self) -> Result<Option<BodyFraming>, Fault> {
        let given = self.header("content-length").or(self.header("transfer-encoding"));
        match self.status {
            100..=199 | 204 | 304 => Ok(Some(BodyFraming::None)),
            _ if given.is_none() => Ok(None),
            _ => framing(&self.headers, false).map(Some),
        }
    }
}

/// Parses the head of a response at the beginning of `bytes`. Gives it with the number of bytes it took; `None` when it
/// is not whole yet. An interim response (100) counts as one.
///
/// # Errors
/// `BadRequest` if this is not HTTP/1, `HeadTooLarge` over 32 KiB or 100 header fields.
pub fn parse_response_head(bytes: &[u8]) -> Result<Option<(ResponseHead, usize)>, Fault> {
    let too_large = || Fault::new(Reason::HeadTooLarge, "the head of the server's response is over 32 KiB");
    let seen = &bytes[..bytes.len().min(RESPONSE_HEAD_BYTES_MAX)];
    let mut fields = [httparse::EMPTY_HEADER; RESPONSE_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(seen) {
        Ok(httparse::Status::Complete(length)) => {
            let status = response.code.unwrap_or_default();
            let headers: Headers = owned(response.headers);
            Ok(Some((ResponseHead { status, headers }, length)))
        }
        Ok(httparse::Status::Partial) if seen.len() < RESPONSE_HEAD_BYTES_MAX => Ok(None),
        Ok(httparse::Status::Partial) => Err(too_large()),
        Err(httparse::Error::TooManyHeaders) => {
            Err(Fault::new(Reason::HeadTooLarge, "the server's response has more than 100 header fields"))
        }
        Err(error) => Err(bad_request(format!("the server's response is not HTTP/1.1: {error}"))),
    }
}
