//! From a URL to an open WebSocket: connecting, asking for the upgrade, understanding the answer.

use super::pipe::Pipe;
use super::random::Random;
use super::{Error, Options, Url};
use crate::reason::{Fault, Reason};
use crate::wire::http::{BodyDecoder, ResponseHead, parse_response_head};
use crate::wire::websocket::{accept_key, client_key};
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// The subprotocol that is offered.
const SUBPROTOCOL: &str = "suzu.v1";
/// Greatest body of a refusal, bytes; the rest is not read.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Greatest number of reads until the answer is whole. With the time-out of each read, a bound on the whole handshake.
const READS_MAX: usize = 128;

/// Opens the WebSocket. Gives the connection and whatever came behind the handshake.
pub(super) fn connect(url: &Url, options: &Options, random: &mut Random) -> Result<(Pipe, Vec<u8>), Error> {
    let pipe = dial(url, options)?;
    let key = client_key(random.key());
    let request = upgrade_request(url, options, &key)?;
    pipe.write_all(request.as_bytes()).map_err(|error| Error::from_io(error, "asking for the stream"))?;
    let (head, left) = read_head(&pipe)?;
    if head.status != 101 {
        return Err(refusal(&head, &read_body(&pipe, &head, left)));
    }
    check_upgrade(&head, &key)?;
    pipe.set_timeouts(options.read_timeout, options.write_timeout).map_err(Error::Io)?;
    Ok((pipe, left))
}

/// Asks for a path by GET, on a connection of its own, and gives the body of a good answer, up to 64 KiB of it.
///
/// # Errors
/// [`Error::Refused`] for any status but 200, and what connecting and reading give.
pub fn get(url: &Url, options: &Options) -> Result<Vec<u8>, Error> {
    let pipe = dial(url, options)?;
    let mark = if url.query.is_empty() { "" } else { "?" };
    let mut request = format!(
        "GET {}{mark}{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nUser-Agent: suzu/{}\r\n",
        url.path,
        url.query,
        url.authority(),
        env!("CARGO_PKG_VERSION"),
    );
    push_headers(&mut request, &options.headers)?;
    pipe.write_all(request.as_bytes()).map_err(|error| Error::from_io(error, "asking"))?;
    let (head, left) = read_head(&pipe)?;
    let body = read_body(&pipe, &head, left);
    if head.status == 200 { Ok(body) } else { Err(refusal(&head, &body)) }
}

/// Tries each address of the host, and greets by TLS if the URL asks for it.
fn dial(url: &Url, options: &Options) -> Result<Pipe, Error> {
    let failed = |source| Error::Connect { address: url.authority(), source };
    let addresses = (url.host.as_str(), url.port).to_socket_addrs().map_err(failed)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, options.connect_timeout) {
            Ok(tcp) => return Pipe::open(tcp, url, options),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

/// The request for the upgrade, with what equals the protocol's default left out.
pub(crate) fn upgrade_request(url: &Url, options: &Options, key: &str) -> Result<String, Error> {
    let mut url = url.clone();
    url.push_query(&options.params.pairs());
    let (path, query) = (&url.path, &url.query);
    let mark = if query.is_empty() { "" } else { "?" };
    let mut request = format!(
        "GET {path}{mark}{query} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\
         User-Agent: suzu/{}\r\n",
        url.authority(),
        env!("CARGO_PKG_VERSION"),
    );
    push_headers(&mut request, &options.headers)?;
    Ok(request)
}

/// Adds the caller's header fields and the empty line behind them.
fn push_headers(request: &mut String, headers: &[(String, String)]) -> Result<(), Error> {
    for (name, value) in headers {
        let bad_name = name.is_empty() || name.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b':');
        if bad_name || value.chars().any(char::is_control) {
            let text = format!("the header field {name:?} has characters that cannot be sent");
            return Err(Error::Protocol(Fault::new(Reason::InvalidValue, text)));
        }
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    Ok(())
}

/// Reads to the end of the head of the final answer. Gives it and what came behind.
fn read_head(pipe: &Pipe) -> Result<(ResponseHead, Vec<u8>), Error> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    for _ in 0..READS_MAX {
        let count = read(pipe, &mut chunk, "waiting for the server's answer")?;
        if count == 0 {
            return Err(Error::Disconnected);
        }
        bytes.extend_from_slice(&chunk[..count]);
        while let Some((head, length)) = parse_response_head(&bytes)? {
            bytes.drain(..length);
            // Interim answers (100, 103) come before the one that counts.
            if head.status == 101 || head.status >= 200 {
                return Ok((head, bytes));
            }
        }
    }
    Err(Error::TimedOut("waiting for the server's answer"))
}

fn read(pipe: &Pipe, buffer: &mut [u8], doing: &'static str) -> Result<usize, Error> {
    loop {
        match pipe.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(|error| Error::from_io(error, doing)),
        }
    }
}

/// As much of a refusal's body as can be had: the status alone is an answer too.
fn read_body(pipe: &Pipe, head: &ResponseHead, left: Vec<u8>) -> Vec<u8> {
    let mut body = Vec::new();
    let mut decoder = match head.body() {
        Ok(Some(framing)) => match BodyDecoder::new(&framing, BODY_BYTES_MAX) {
            Ok(decoder) => Some(decoder),
            Err(_) => return body,
        },
        Ok(None) => None,
        Err(_) => return body,
    };
    let mut chunk = left;
    for _ in 0..READS_MAX {
        let whole = match &mut decoder {
            Some(decoder) => decoder.decode(&mut &chunk[..], &mut body).unwrap_or(true),
            None => {
                body.extend_from_slice(&chunk);
                body.len() >= BODY_BYTES_MAX
            }
        };
        if whole {
            break;
        }
        chunk.resize(4096, 0);
        match read(pipe, &mut chunk, "reading the server's refusal") {
            Ok(count) if count > 0 => chunk.truncate(count),
            _ => break,
        }
    }
    body
}

fn refusal(head: &ResponseHead, body: &[u8]) -> Error {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &json["error"];
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let message = text(&error["message"]).or_else(|| text(error)).unwrap_or_else(|| plain(body));
    let seconds = head.header("retry-after").and_then(|value| value.trim().parse().ok());
    Error::Refused {
        status: head.status,
        code: text(&error["code"]),
        message,
        retry_after: seconds.map(Duration::from_secs),
    }
}

/// The first line of a body that is not the protocol's, such as a proxy's.
fn plain(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    match line {
        Some(line) => line.chars().filter(|c| !c.is_control()).take(200).collect(),
        None => "it gave no reason".into(),
    }
}

/// Holds an answer of 101 against what was asked.
pub(crate) fn check_upgrade(head: &ResponseHead, key: &str) -> Result<(), Error> {
    let contains = |name, token: &str| {
        head.header(name)
            .is_some_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    let fault = |text| Err(Error::Protocol(Fault::new(Reason::ProtocolError, text)));
    if !contains("upgrade", "websocket") || !contains("connection", "upgrade") {
        return fault("it answered 101 without upgrading to websocket");
    }
    if head.header("sec-websocket-accept") != Some(accept_key(key).as_str()) {
        return fault("its Sec-WebSocket-Accept does not answer the key; is a cache in between?");
    }
    match head.header("sec-websocket-protocol") {
        None | Some(SUBPROTOCOL) => {}
        Some(_) => return fault("it chose a subprotocol that was not offered"),
    }
    match head.header("sec-websocket-extensions") {
        None => Ok(()),
        Some(_) => fault("it chose an extension, and none was offered"),
    }
}
