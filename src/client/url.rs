//! The part of URLs that a stream needs: `ws://host:port/path?query`, and `wss://` for the same by TLS.

use super::Error;
use std::fmt;

/// Where a stream is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Whether to speak TLS.
    pub tls: bool,
    /// A name or an address; an IPv6 address without its brackets.
    pub host: String,
    /// 80 if the URL names none, 443 with TLS.
    pub port: u16,
    /// Begins with `/`. `/v1/stream` if the URL names none.
    pub path: String,
    /// Without the question mark; may be empty.
    pub query: String,
}

impl Url {
    /// Parses `ws://` and `wss://`, and as the same `http://` and `https://`.
    ///
    /// # Errors
    /// [`Error::Url`] for everything else; the text says what to write instead.
    pub fn parse(text: &str) -> Result<Url, Error> {
        let refuse =
            |why: &str| Err(Error::Url(format!("{text:?} {why}; write it like ws://127.0.0.1:8080")));
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return refuse("has a space in it");
        }
        let (tls, rest) = match text.split_once("://") {
            Some((scheme, rest)) if is_one_of(scheme, &["ws", "http"]) => (false, rest),
            Some((scheme, _)) if is_one_of(scheme, &["wss", "https"]) && cfg!(not(feature = "tls")) => {
                return refuse("asks for TLS, which this build does not speak (its feature `tls` is off)");
            }
            Some((scheme, rest)) if is_one_of(scheme, &["wss", "https"]) => (true, rest),
            _ => return refuse("does not begin with ws:// or wss://"),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match before_query.find('/') {
            Some(slash) => before_query.split_at(slash),
            None => (before_query, ""),
        };
        if authority.contains('@') {
            return refuse("has a user in it, which is not sent");
        }
        let Some((host, port)) = split_port(authority, if tls { 443 } else { 80 }) else {
            return refuse("has no host, or a port that is none");
        };
        let path = if matches!(path, "" | "/") { "/v1/stream" } else { path };
        Ok(Url { tls, host: host.into(), port, path: path.into(), query: query.into() })
    }

    /// Host and port as they stand in the `Host` field.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Adds parameters to the query.
    pub(super) fn push_query(&mut self, pairs: &[(String, String)]) {
        if pairs.is_empty() {
            return;
        }
        if !self.query.is_empty() {
            self.query.push('&');
        }
        let mut encoder = form_urlencoded::Serializer::new(String::new());
        self.query.push_str(&encoder.extend_pairs(pairs).finish());
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the query: there may be a secret in it.
        let scheme = if self.tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

fn is_one_of(scheme: &str, names: &[&str]) -> bool {
    names.iter().any(|name| scheme.eq_ignore_ascii_case(name))
}

fn split_port(authority: &str, default: u16) -> Option<(&str, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|&port| port != 0)?
        }
        Some(_) => return None,
        None => default,
    };
    (!host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(host: &str, port: u16, path: &str, query: &str) -> Url {
        Url { tls: false, host: host.into(), port, path: path.into(), query: query.into() }
    }

    #[test]
    fn what_people_write_is_understood() {
        for (text, wanted) in [
            ("ws://127.0.0.1:8080", url("127.0.0.1", 8080, "/v1/stream", "")),
            ("http://localhost:8080/", url("localhost", 8080, "/v1/stream", "")),
            ("WS://suzu.example", url("suzu.example", 80, "/v1/stream", "")),
            ("ws://[::1]:9000/audio?tag=a%20b#x", url("::1", 9000, "/audio", "tag=a%20b")),
            ("ws://a?model=vad", url("a", 80, "/v1/stream", "model=vad")),
        ] {
            assert_eq!(Url::parse(text).ok(), Some(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused_and_says_how_to_write_one() {
        for text in [
            "",
            "127.0.0.1:8080",
            "ws://",
            "ws://:80",
            "ws://a:",
            "ws://a:0",
            "ws://a:65536",
            "ws://a:+80",
            "ws://::1",
            "ws://[::1",
            "ws://[::1]x",
            "ws://[a]:1",
            "ftp://a",
            "ws://user:pw@a",
            "ws://a b",
            "ws://a\r\nX: y",
        ] {
            let error = Url::parse(text).expect_err(text).to_string();
            assert!(error.contains("ws://127.0.0.1:8080"), "{text}: {error}");
        }
    }

    #[test]
    fn tls_is_understood_where_it_is_spoken() {
        match Url::parse("wss://a/audio") {
            Ok(url) if cfg!(feature = "tls") => {
                assert_eq!(url, Url { tls: true, ..self::url("a", 443, "/audio", "") });
                assert_eq!(url.to_string(), "wss://a:443/audio");
                assert_eq!(Url::parse("HTTPS://a/audio").expect("the same"), url);
            }
            Err(error) if cfg!(not(feature = "tls")) => assert!(error.to_string().contains("TLS"), "{error}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_ipv6_host_stands_in_brackets_and_secrets_are_not_shown() {
        let url = Url::parse("ws://[::1]/audio?token=secret").expect("a URL");
        assert_eq!(url.authority(), "[::1]:80");
        assert_eq!(url.to_string(), "ws://[::1]:80/audio");
    }

    #[test]
    fn parameters_join_those_of_the_url() {
        let mut url = Url::parse("ws://a?token=x").expect("a URL");
        url.push_query(&[]);
        assert_eq!(url.query, "token=x");
        url.push_query(&[("tag".into(), "a&b c".into())]);
        assert_eq!(url.query, "token=x&tag=a%26b+c");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            let _ = Url::parse(&text);
            let _ = Url::parse(&format!("ws://{text}"));
        }
    }
}
