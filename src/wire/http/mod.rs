//! HTTP/1.1 on bytes in memory: request heads and bodies in, responses out, and the head of a response for clients.
//!
//! Owns the framing: where a head, a body and with it the next request begin. Framing that two readers could
//! understand in two ways is refused, never repaired (RFC 9112, sections 2.2, 5.2, 6.3 and 11.2). Never reads or
//! writes a socket, keeps no connection state beyond one body, and knows no path of the server.
//!
//! Invariant: what a head or a body parses to does not depend on how its bytes were cut on the way, faults included.

mod body;
mod framing;
mod head;
mod response;
mod scan;
mod target;
#[cfg(test)]
mod tests;
mod upgrade;

pub use body::BodyDecoder;
pub use framing::BodyFraming;
pub use head::{HeadLimits, Method, RequestHead, parse_head};
pub use response::{
    BodyLength, CONTINUE, Response, ResponseHead, encode_chunk, encode_last_chunk,
    encode_switching_protocols, parse_response_head, status_text,
};
pub use upgrade::{WebSocketRequest, websocket_key};

use crate::reason::{Fault, Reason};

/// Header fields in the order they came: lower-case name, value without the white space around it.
type Headers = Vec<(String, String)>;

fn bad_request(message: impl Into<String>) -> Fault {
    Fault::new(Reason::BadRequest, message)
}

/// Every value of a header field.
fn values<'a>(headers: &'a [(String, String)], name: &str) -> impl Iterator<Item = &'a str> {
    headers.iter().filter(move |(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| &value[..])
}

/// Every element of a header field that is a comma-separated list, over all its lines.
fn list<'a>(headers: &'a [(String, String)], name: &str) -> impl Iterator<Item = &'a str> {
    values(headers, name)
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|element| !element.is_empty())
}

/// Header fields as owned text. What is not UTF-8 in a value is replaced: no field that the server understands has it.
fn owned(fields: &[httparse::Header<'_>]) -> Headers {
    fields
        .iter()
        .map(|field| {
            let value = String::from_utf8_lossy(field.value);
            (field.name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned())
        })
        .collect()
}
