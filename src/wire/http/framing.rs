//! How long a body is: RFC 9112, section 6.3, without its leniencies.

use super::{bad_request, list, values};
use crate::reason::{Fault, Reason};

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// Nothing: no length was given, or zero.
    None,
    /// So many bytes, at least one.
    Length(u64),
    /// Chunks, each with its length, the last one empty.
    Chunked,
}

/// Decides by `Content-Length` and `Transfer-Encoding`.
pub(super) fn framing(headers: &[(String, String)], http_1_0: bool) -> Result<BodyFraming, Fault> {
    let mut lengths = values(headers, "content-length");
    let mut codings = values(headers, "transfer-encoding");
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(BodyFraming::None),
        (Some(_), Some(_)) => {
            Err(bad_request("Content-Length and Transfer-Encoding exclude each other")
                .at("Transfer-Encoding"))
        }
        (Some(length), None) => match lengths.next() {
            None => parse_length(length),
            Some(_) => Err(bad_request("there is more than one Content-Length").at("Content-Length")),
        },
        (None, Some(coding)) => {
            if http_1_0 {
                let message = "HTTP/1.0 has no Transfer-Encoding";
                return Err(bad_request(message).at("Transfer-Encoding"));
            }
            if codings.next().is_none() && coding.eq_ignore_ascii_case("chunked") {
                return Ok(BodyFraming::Chunked);
            }
            Err(unknown_coding(headers))
        }
    }
}

fn parse_length(length: &str) -> Result<BodyFraming, Fault> {
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    match length.parse() {
        Ok(0) if digits => Ok(BodyFraming::None),
        Ok(length) if digits => Ok(BodyFraming::Length(length)),
        _ => Err(bad_request("Content-Length is not a number of bytes").at("Content-Length")),
    }
}

/// A coding under `chunked` is one that the server does not know; anything else has no certain end.
fn unknown_coding(headers: &[(String, String)]) -> Fault {
    let codings: Vec<_> = list(headers, "transfer-encoding").map(str::to_ascii_lowercase).collect();
    let reason = match codings.iter().position(|coding| coding == "chunked") {
        Some(first) if first > 0 && first + 1 == codings.len() => Reason::NotImplemented,
        _ => Reason::BadRequest,
    };
    Fault::new(reason, "the only Transfer-Encoding served is chunked").at("Transfer-Encoding")
}
