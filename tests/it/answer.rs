//! HTTP as a client sees it: requests as text, answers taken apart without the server's own code.

use crate::support::Client;
use serde_json::Value;
use std::net::SocketAddr;

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The `error` object of a refusal.
    pub fn error(&self) -> Value {
        self.json()["error"].clone()
    }
}

impl Client {
    /// Takes the next answer.
    pub fn answer(&mut self) -> Answer {
        let mut answer = self.answer_head();
        let length = answer.header("content-length").expect("every answer says its length").parse().unwrap();
        answer.body = self.read_exactly(length);
        answer
    }

    /// Takes the next answer, which has no body: to HEAD.
    pub fn answer_head(&mut self) -> Answer {
        let head = String::from_utf8(self.read_until("\r\n\r\n")).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).expect("a status line");
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no header: {line}"));
            (name.to_ascii_lowercase(), value.to_owned())
        };
        let status = status[..3].parse().expect("three digits");
        Answer { status, headers: lines.map(header).collect(), body: Vec::new() }
    }

    /// Asks and takes the answer; `extra` are further header lines, each with its end.
    pub fn ask(&mut self, method: &str, target: &str, extra: &str) -> Answer {
        self.send(request(method, target, extra));
        self.answer()
    }
}

/// A request without a body.
pub fn request(method: &str, target: &str, extra: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n")
}

/// A request with a body.
pub fn request_with(method: &str, target: &str, extra: &str, body: &str) -> String {
    request(method, target, &format!("{extra}Content-Length: {}\r\n", body.len())) + body
}

/// The right request for a WebSocket.
pub fn upgrade_request(target: &str, extra: &str) -> String {
    request(
        "GET",
        target,
        &format!(
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}"
        ),
    )
}

/// Asks on a connection of its own.
pub fn get(addr: SocketAddr, target: &str) -> Answer {
    Client::connect(addr).ask("GET", target, "")
}

/// The value of a sample in `/metrics`, 0 if it is not there. `name` with its labels, if it has any.
pub fn metric(addr: SocketAddr, name: &str) -> f64 {
    let answer = get(addr, "/metrics");
    let line = answer.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().expect("a number"))
}
