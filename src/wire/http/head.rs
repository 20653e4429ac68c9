//! The head of a request: request line and header fields, checked and decoded once.

use super::framing::{BodyFraming, framing};
use super::scan::{Extent, find_head};
use super::target::{Target, host_is_valid, parse_target};
use super::{Headers, bad_request, list, owned, values};
use crate::reason::{Fault, Reason};

/// How much head a peer may send.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of the whole head, with the empty line that ends it.
    pub head_bytes_max: usize,
    /// Bytes of the request's target. Reached only if smaller than `head_bytes_max`.
    pub target_bytes_max: usize,
    /// Header fields.
    pub headers_max: usize,
}

/// The methods that the server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
    /// OPTIONS
    Options,
    /// PATCH
    Patch,
}

impl Method {
    /// Every method.
    pub const ALL: [Method; 7] = [
        Method::Get,
        Method::Head,
        Method::Post,
        Method::Put,
        Method::Delete,
        Method::Options,
        Method::Patch,
    ];

    /// As it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Patch => "PATCH",
        }
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        Self::ALL.into_iter().find(|method| method.as_str() == text).ok_or_else(|| {
            let shown: String = text.chars().take(32).collect();
            Fault::new(Reason::NotImplemented, format!("the method {shown} is not served"))
        })
    }
}

/// A request without its body. Its headers may hold secrets: do not log it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The path: percent-decoded, without dot segments, beginning with `/` (or `*` alone, with OPTIONS).
    pub path: String,
    /// The target as it came.
    pub target: String,
    /// The query's names and values, decoded, in their order.
    pub query: Vec<(String, String)>,
    /// Whom the request is for: from the target if it names one, otherwise from `Host`.
    pub host: Option<String>,
    /// The header fields in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// What follows the head.
    pub body: BodyFraming,
    /// Whether the client will send another request on this connection.
    pub keep_alive: bool,
    /// Whether the client waits for [`super::CONTINUE`] before it sends the body.
    pub expect_continue: bool,
    /// Whether the version is HTTP/1.0 rather than HTTP/1.1.
    pub http_1_0: bool,
}

impl RequestHead {
    /// The first value of a header field, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        values(&self.headers, name).next()
    }

    /// Every value of a header field, in the order of the lines.
    pub fn header_values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        values(&self.headers, name)
    }

    /// Every element of a header field that is a comma-separated list, over all its lines.
    pub fn header_list<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        list(&self.headers, name)
    }

    /// The first value of a name in the query.
    pub fn query_value(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(given, _)| given == name).map(|(_, value)| &value[..])
    }
}

/// Parses the head at the beginning of `bytes`. Gives it with the number of bytes it took; `None` when it is not whole
/// yet. Call again with the same bytes and more.
///
/// # Errors
/// `BadRequest`, `UriTooLong`, `HeadTooLarge`, `NotImplemented`, `VersionNotSupported`, `ExpectationFailed`: as soon as
/// the bytes show it. What follows on the connection can no longer be told apart: answer and close.
pub fn parse_head(bytes: &[u8], limits: &HeadLimits) -> Result<Option<(RequestHead, usize)>, Fault> {
    let Some(extent) = find_head(bytes, limits)? else { return Ok(None) };
    let Extent { start, end, headers } = extent;
    let bytes = &bytes[start..end];
    let http_1_0 = check_request_line(bytes)?;
    let mut fields = vec![httparse::EMPTY_HEADER; headers];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes).map_err(|error| bad_head(error, bytes))? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => 0,
    };
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(bad_request("the request's head ends before its end"));
    };
    if length != bytes.len() {
        return Err(bad_request("the request's head ends before its end"));
    }
    let method = Method::parse(method)?;
    let headers = owned(request.headers);
    Ok(Some((assemble(method, target, http_1_0, headers)?, end)))
}

fn assemble(method: Method, target: &str, http_1_0: bool, headers: Headers) -> Result<RequestHead, Fault> {
    let Target { path, query, authority } = parse_target(target, method)?;
    let host = check_host(&headers, http_1_0)?;
    let body = framing(&headers, http_1_0)?;
    let expects = check_expect(&headers, http_1_0)?;
    let has = |option: &str| list(&headers, "connection").any(|token| token.eq_ignore_ascii_case(option));
    let keep_alive = !has("close") && (!http_1_0 || has("keep-alive"));
    Ok(RequestHead {
        method,
        path,
        target: target.to_owned(),
        query,
        // RFC 9112, section 3.2.2: the target's authority replaces the field.
        host: authority.or(host),
        body,
        keep_alive,
        expect_continue: expects && body != BodyFraming::None,
        http_1_0,
        headers,
    })
}

/// Whether the request line has its three parts and a version that is served; gives whether that is HTTP/1.0.
fn check_request_line(head: &[u8]) -> Result<bool, Fault> {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|&byte| byte == b' ');
    let (Some([_, ..]), Some([_, ..]), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad_request("the request line is not of the form `METHOD target HTTP/1.1`"));
    };
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            let (major, minor) = (char::from(*major), char::from(*minor));
            let message = format!("HTTP/{major}.{minor} is not served here; use HTTP/1.1");
            Err(Fault::new(Reason::VersionNotSupported, message))
        }
        _ => Err(bad_request("the request line does not end with a version such as HTTP/1.1")),
    }
}

fn bad_head(error: httparse::Error, head: &[u8]) -> Fault {
    use httparse::Error;
    match error {
        Error::HeaderName => {
            let lines = head.split(|&byte| byte == b'\n').skip(1).filter(|line| line.len() > 1);
            let spaced = lines.map(|line| line.split(|&byte| byte == b':').next().unwrap_or_default());
            let spaced = spaced.into_iter().any(|name| matches!(name.last(), Some(b' ' | b'\t')));
            bad_request(match spaced {
                true => "white space stands between a header's name and its colon",
                false => {
                    "a header's name is empty, has no colon behind it, or has a character that no name has"
                }
            })
        }
        Error::HeaderValue => bad_request("a header's value has a byte that no value may have"),
        Error::Token => bad_request("the method or the target has a byte that may not stand there"),
        error => bad_request(format!("the head is not HTTP/1.1: {error}")),
    }
}

fn check_host(headers: &[(String, String)], http_1_0: bool) -> Result<Option<String>, Fault> {
    let mut hosts = values(headers, "host");
    match (hosts.next(), hosts.next()) {
        (None, _) if http_1_0 => Ok(None),
        (None, _) => Err(bad_request("the Host header is missing").at("Host")),
        (Some(_), Some(_)) => Err(bad_request("there is more than one Host header").at("Host")),
        (Some(host), None) if host_is_valid(host) => Ok(Some(host.to_owned())),
        (Some(_), None) => Err(bad_request("the Host header is not a host with an optional port").at("Host")),
    }
}

/// Whether the client expects `100-continue`. HTTP/1.0 has no expectations (RFC 9110, section 10.1.1).
fn check_expect(headers: &[(String, String)], http_1_0: bool) -> Result<bool, Fault> {
    let mut expects = false;
    for expectation in values(headers, "expect").filter(|_| !http_1_0) {
        if !expectation.eq_ignore_ascii_case("100-continue") {
            let message = "only the expectation 100-continue is understood";
            return Err(Fault::new(Reason::ExpectationFailed, message).at("Expect"));
        }
        expects = true;
    }
    Ok(expects)
}
