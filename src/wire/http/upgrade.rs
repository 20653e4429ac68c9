//! The request to go on as WebSocket: RFC 6455, section 4.2.1.

use super::bad_request;
use super::framing::BodyFraming;
use super::head::{Method, RequestHead};
use crate::reason::{Fault, Reason};

/// A right request for a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketRequest {
    /// The client's key, checked. [`crate::wire::websocket::accept_key`] answers it.
    pub key: String,
    /// The subprotocols that the client offers, best first. May hold a secret: echo only names of the server's own.
    pub protocols: Vec<String>,
}

impl RequestHead {
    /// Whether the request asks to go on as WebSocket, and if so, whether it does it right. `None` for all others.
    pub fn websocket(&self) -> Option<Result<WebSocketRequest, Fault>> {
        let asks = self.header_list("upgrade").any(|protocol| protocol.eq_ignore_ascii_case("websocket"));
        asks.then(|| self.check_websocket())
    }

    fn check_websocket(&self) -> Result<WebSocketRequest, Fault> {
        if !self.header_list("connection").any(|token| token.eq_ignore_ascii_case("upgrade")) {
            let message = "the Connection header does not say Upgrade: does a proxy on the way drop it?";
            return Err(Fault::new(Reason::UpgradeRequired, message).at("Connection"));
        }
        if self.method != Method::Get {
            let method = self.method.as_str();
            return Err(bad_request(format!("a WebSocket is opened with GET, not {method}")));
        }
        if self.http_1_0 {
            return Err(bad_request("a WebSocket needs HTTP/1.1"));
        }
        if self.host.as_deref().is_none_or(str::is_empty) {
            return Err(bad_request("the Host header is missing").at("Host"));
        }
        if self.body != BodyFraming::None {
            return Err(bad_request("a request for a WebSocket has no body"));
        }
        match self.only("sec-websocket-version")? {
            Some("13") => {}
            _ => {
                let message = "only version 13 of WebSocket is served";
                return Err(Fault::new(Reason::UpgradeRequired, message).at("Sec-WebSocket-Version"));
            }
        }
        let key = self.only("sec-websocket-key")?.filter(|key| key_is_valid(key)).ok_or_else(|| {
            bad_request("Sec-WebSocket-Key is not 16 bytes in base64").at("Sec-WebSocket-Key")
        })?;
        let protocols = self.header_list("sec-websocket-protocol").map(str::to_owned).collect();
        Ok(WebSocketRequest { key: key.to_owned(), protocols })
    }

    /// The value of a field that may come once.
    fn only(&self, name: &str) -> Result<Option<&str>, Fault> {
        let mut values = self.header_values(name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(bad_request(format!("there is more than one {name} header")).at(name)),
            (value, None) => Ok(value),
        }
    }
}

/// The value for `Sec-WebSocket-Accept` that answers this request.
///
/// # Errors
/// `UpgradeRequired` if it does not ask for a WebSocket of version 13; `BadRequest` if it asks wrongly.
pub fn websocket_key(head: &RequestHead) -> Result<String, Fault> {
    let request = head.websocket().unwrap_or_else(|| {
        Err(Fault::new(Reason::UpgradeRequired, "this path is a WebSocket; connect with ws:// or wss://"))
    })?;
    Ok(crate::wire::websocket::accept_key(&request.key))
}

/// 16 bytes in base64 are 22 characters and `==`. The spare bits of the last one are the client's affair: the key is
/// only hashed, never decoded.
fn key_is_valid(key: &str) -> bool {
    key.strip_suffix("==").is_some_and(|digits| {
        digits.len() == 22 && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte))
    })
}
