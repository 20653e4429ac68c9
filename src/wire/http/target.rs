//! The target of a request: its forms, its path and its query.
//!
//! A path comes out decoded once and without dot segments, so it can be compared and cannot climb.

use super::bad_request;
use super::head::Method;
use crate::reason::Fault;

pub(super) struct Target {
    pub path: String,
    pub query: Vec<(String, String)>,
    /// Host and port, if the target names them.
    pub authority: Option<String>,
}

/// Parses the origin-form, the absolute-form and the asterisk-form of RFC 9112, section 3.2.
pub(super) fn parse_target(target: &str, method: Method) -> Result<Target, Fault> {
    if target == "*" && method == Method::Options {
        return Ok(Target { path: "*".to_owned(), query: Vec::new(), authority: None });
    }
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(bad_request("the target has a byte that must be percent-encoded"));
    }
    let (authority, rest) = split_authority(target)?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = match (path, &authority) {
        ("", Some(_)) => "/".to_owned(),
        _ => parse_path(path)?,
    };
    let query = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    Ok(Target { path, query, authority })
}

/// Splits `http://host:port` off the front, if it is there.
fn split_authority(target: &str) -> Result<(Option<String>, &str), Fault> {
    if target.starts_with('/') {
        return Ok((None, target));
    }
    let wrong = || bad_request("the target is neither a path that begins with / nor an http:// address");
    let (scheme, rest) = target.split_once("://").ok_or_else(wrong)?;
    if !["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(wrong());
    }
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() || !host_is_valid(authority) {
        return Err(bad_request("the target's address has no valid host"));
    }
    Ok((Some(authority.to_owned()), rest))
}

/// Whether this can be a host with an optional port: the characters of RFC 3986, section 3.2.2, no user before it. It
/// may be empty, as a Host field may.
pub(super) fn host_is_valid(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    };
    let name_is_valid = match name.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| {
            !address.is_empty()
                && address.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte))
        }),
        None => name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&byte)),
    };
    name_is_valid && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit())
}

fn parse_path(path: &str) -> Result<String, Fault> {
    let path = path.strip_prefix('/').ok_or_else(|| bad_request("the path does not begin with /"))?;
    let mut segments = Vec::new();
    let mut ends_open = false;
    for raw in path.split('/') {
        let segment = decode_segment(raw)?;
        ends_open = matches!(&segment[..], "." | "..");
        match &segment[..] {
            "." => {}
            ".." => {
                segments.pop().ok_or_else(|| bad_request("the path leads above its root (..)"))?;
            }
            _ => segments.push(segment),
        }
    }
    if ends_open {
        segments.push(String::new());
    }
    Ok(format!("/{}", segments.join("/")))
}

/// Decodes what stands between two slashes. An encoded slash would be one more slash to some readers and none to
/// others, so it is refused, as are backslashes and control characters.
fn decode_segment(raw: &str) -> Result<String, Fault> {
    let mut escapes = raw.split('%');
    escapes.next();
    for escape in escapes {
        if !matches!(escape.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit()) {
            return Err(bad_request("the path has a % that is not followed by two hexadecimal digits"));
        }
    }
    let segment = percent_encoding::percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| bad_request("the path is not UTF-8 once decoded"))?;
    if segment.chars().any(|character| matches!(character, '/' | '\\') || character.is_control()) {
        return Err(bad_request("the path has an encoded slash, a backslash or a control character"));
    }
    Ok(segment.into_owned())
}
