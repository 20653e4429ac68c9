//! Where the load goes and what is asked there: told by the URL.

use super::Error;
use crate::client::Url;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// A server and what is asked of it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Host, port, path and query.
    pub url: Url,
    /// Where the host is.
    pub address: SocketAddr,
    /// What is asked.
    pub ask: Ask,
    /// Header fields of each request and of each WebSocket's handshake, such as credentials.
    pub headers: Vec<(String, String)>,
    /// With TLS: PEM file of the authorities that are trusted; those that browsers trust if there is none.
    pub ca_file: Option<PathBuf>,
}

/// What is asked on each connection.
#[derive(Clone, Debug)]
pub enum Ask {
    /// A stream of `/v1/stream`: chunks of audio, or nothing but `Ping` messages.
    Stream {
        /// Send the protocol's `Ping` instead of audio.
        heartbeat: bool,
    },
    /// Binary WebSocket messages that come back as they were.
    Echo,
    /// Bytes on bare TCP that come back as they were.
    Bytes,
    /// HTTP requests on a kept connection.
    Http(Request),
}

/// An HTTP request that is sent again and again.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET` unless something is sent.
    pub method: String,
    /// Name and value of each header field but `Host` and `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// What is sent; may be empty.
    pub body: Vec<u8>,
}

impl Target {
    /// Understands `ws://host/path` (an echo if the path ends in `/echo`, otherwise a stream), `http://host/path`, the same by TLS
    /// (`wss://`, `https://`) and `tcp://host:port`, and looks the host up.
    ///
    /// # Errors
    /// [`Error::Plan`] if it is none of these or the host has no address.
    pub fn parse(text: &str) -> Result<Target, Error> {
        let plan = |error: &dyn std::fmt::Display| Error::Plan(error.to_string());
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
            None => ("ws".to_owned(), text),
        };
        // A request may ask for `/` itself; to a stream that is the path of streams.
        let bare_path = rest.find('/').is_none_or(|slash| matches!(&rest[slash..], "/"));
        let as_stream = match scheme.as_str() {
            "tcp" | "http" | "ws" => format!("ws://{rest}"),
            "https" | "wss" => format!("wss://{rest}"),
            _ => text.to_owned(),
        };
        let mut url = Url::parse(&as_stream).map_err(|error| plan(&error))?;
        let ask = match scheme.as_str() {
            "tcp" => Ask::Bytes,
            "http" | "https" => {
                if bare_path {
                    url.path = "/".into();
                }
                Ask::Http(Request { method: "GET".into(), ..Request::default() })
            }
            _ if url.path.ends_with("/echo") => Ask::Echo,
            _ => Ask::Stream { heartbeat: false },
        };
        let mut addresses = (url.host.as_str(), url.port).to_socket_addrs().map_err(|error| {
            Error::Plan(format!("{} cannot be found: {error}; is the name right?", url.authority()))
        })?;
        let address =
            addresses.next().ok_or_else(|| Error::Plan(format!("{} has no address", url.authority())))?;
        Ok(Target { url, address, ask, headers: Vec::new(), ca_file: None })
    }

    /// Path and query as they stand in a request.
    pub(super) fn path_and_query(&self) -> String {
        let mark = if self.url.query.is_empty() { "" } else { "?" };
        format!("{}{mark}{}", self.url.path, self.url.query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_says_what_is_asked() {
        let ask =
            |text: &str| Target::parse(text).map(|target| target.ask).map_err(|error| error.to_string());
        assert!(matches!(ask("ws://127.0.0.1:1"), Ok(Ask::Stream { heartbeat: false })));
        assert!(matches!(ask("127.0.0.1:1"), Ok(Ask::Stream { heartbeat: false })));
        assert!(matches!(ask("ws://127.0.0.1:1/v1/echo"), Ok(Ask::Echo)));
        assert!(matches!(ask("tcp://127.0.0.1:1"), Ok(Ask::Bytes)));
        assert!(matches!(ask("HTTP://127.0.0.1:1/health/live"), Ok(Ask::Http(_))));
        let secure = Target::parse("wss://127.0.0.1");
        assert_eq!(secure.is_ok(), cfg!(feature = "tls"));
        if let Ok(secure) = secure {
            assert!(secure.url.tls && secure.address.port() == 443);
            assert!(matches!(ask("https://127.0.0.1:1/health/live"), Ok(Ask::Http(_))));
        }
        assert!(ask("ftp://127.0.0.1:1").is_err());
    }

    #[test]
    fn a_request_may_ask_for_the_root() {
        let path = |text: &str| Target::parse(text).map(|target| target.path_and_query()).unwrap_or_default();
        assert_eq!(path("http://127.0.0.1:1"), "/");
        assert_eq!(path("http://127.0.0.1:1/a?b=c"), "/a?b=c");
        assert_eq!(path("ws://127.0.0.1:1"), "/v1/stream");
    }
}
