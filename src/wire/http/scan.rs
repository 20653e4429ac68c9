//! Finds the end of a request head, and refuses on the way what no parser should have to interpret.
//!
//! One pass over the bytes in their order, so the first fault is the same however the bytes were cut.

use super::bad_request;
use super::head::HeadLimits;
use crate::reason::{Fault, Reason};

/// Where a whole head lies.
pub(super) struct Extent {
    /// Its first byte.
    pub start: usize,
    /// One behind its last byte.
    pub end: usize,
    /// Header lines in it.
    pub headers: usize,
}

/// Looks for the end of the head. `None` when more bytes are needed and the limits allow more.
pub(super) fn find_head(bytes: &[u8], limits: &HeadLimits) -> Result<Option<Extent>, Fault> {
    if bytes == b"\r" {
        return Ok(None);
    }
    // One empty line in front is left over from careless clients: RFC 9112, section 2.2.
    let start: usize = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let seen = &bytes[start..bytes.len().min(start.saturating_add(limits.head_bytes_max))];
    let mut line = 0;
    let mut at = 0;
    while let Some(end) = scan_line(seen, at, line, limits)? {
        if end == at {
            return match line {
                0 => Err(bad_request("two empty lines stand where the request line belongs")),
                _ => Ok(Some(Extent { start, end: start + end + 2, headers: line - 1 })),
            };
        }
        line += 1;
        if line > limits.headers_max.saturating_add(1) {
            let message = format!("more than {} header fields", limits.headers_max);
            return Err(Fault::new(Reason::HeadTooLarge, message));
        }
        at = end + 2;
    }
    if seen.len() >= limits.head_bytes_max {
        let message = format!("the request's head is larger than {} bytes", limits.head_bytes_max);
        return Err(Fault::new(Reason::HeadTooLarge, message));
    }
    Ok(None)
}

/// The index of the CRLF that ends the line beginning at `start`, if it is there.
fn scan_line(seen: &[u8], start: usize, line: usize, limits: &HeadLimits) -> Result<Option<usize>, Fault> {
    if line > 0 && matches!(seen.get(start), Some(b' ' | b'\t')) {
        return Err(bad_request("a header line begins with white space (an obsolete folded line)"));
    }
    let mut spaces = 0;
    let mut target_bytes = 0;
    for (index, &byte) in seen.iter().enumerate().skip(start) {
        match byte {
            b'\r' => match seen.get(index + 1) {
                Some(b'\n') => return Ok(Some(index)),
                Some(_) => return Err(bad_request("a CR in the head is not followed by LF")),
                None => return Ok(None),
            },
            b'\n' => return Err(bad_request("a line of the head ends with LF alone, not CRLF")),
            b'\t' if line > 0 => {}
            0..=0x1f | 0x7f => {
                return Err(bad_request(format!("a control byte (0x{byte:02x}) stands in the head")));
            }
            b' ' => spaces += 1,
            _ if line == 0 && spaces == 1 => target_bytes += 1,
            _ => {}
        }
        if target_bytes > limits.target_bytes_max {
            let message = format!("the request's target is longer than {} bytes", limits.target_bytes_max);
            return Err(Fault::new(Reason::UriTooLong, message));
        }
    }
    Ok(None)
}
