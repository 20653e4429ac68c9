//! What a request presents to say who asks, wherever it stands in the request.

use crate::reason::{Fault, Reason};
use crate::wire::http::RequestHead;

/// The first part of the subprotocol that carries a secret, for browsers, which cannot set header fields.
const SUBPROTOCOL_PREFIX: &str = "token.";

/// The names in the query that are credentials, and no parameters of what is asked for.
pub const QUERY_NAMES: [&str; 4] = ["token", "key_id", "expires", "signature"];

/// Credentials as they came. Never log it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Presented<'a> {
    /// A token or an API key; they look different.
    Secret {
        /// As it came.
        secret: &'a str,
        /// Whether it stood in the URL, which logs and histories of others keep.
        in_query: bool,
    },
    /// A signature of the request itself.
    Signed {
        /// Whose key.
        key_id: &'a str,
        /// Until when it holds, as it came.
        expires: &'a str,
        /// The signature, as it came.
        signature: &'a str,
    },
}

impl<'a> Presented<'a> {
    /// What the request presents, if anything.
    ///
    /// # Errors
    /// `BadRequest` if there is more than one, or half of one: whoever looks at only a part must not come to another answer.
    pub fn of(head: &'a RequestHead) -> Result<Option<Presented<'a>>, Fault> {
        let mut found = Vec::new();
        for value in head.header_values("authorization") {
            found.push(Presented::header(authorization(value)?));
        }
        found.extend(head.header_values("x-api-key").map(|key| Presented::header(key.trim())));
        let protocols = head.header_list("sec-websocket-protocol");
        found.extend(
            protocols.filter_map(|protocol| protocol.strip_prefix(SUBPROTOCOL_PREFIX)).map(Presented::header),
        );
        let named = |name: &'static str| {
            head.query.iter().filter(move |(given, _)| given == name).map(|(_, value)| &value[..])
        };
        found.extend(named("token").map(|secret| Presented::Secret { secret, in_query: true }));
        found.extend(signed(named("key_id"), named("expires"), named("signature"))?);
        match found.len() {
            0 => Ok(None),
            1 => Ok(found.pop()),
            _ => Err(bad("credentials are given more than once; give one")),
        }
    }

    fn header(secret: &'a str) -> Presented<'a> {
        Presented::Secret { secret, in_query: false }
    }
}

fn bad(message: &str) -> Fault {
    Fault::new(Reason::BadRequest, message)
}

/// The secret of an `Authorization` field: `Bearer <token>`, or `Token <key>` as hosted speech services have it.
fn authorization(value: &str) -> Result<&str, Fault> {
    let (scheme, secret) = value.trim().split_once(' ').unwrap_or((value, ""));
    let known = ["bearer", "token"].into_iter().any(|known| scheme.eq_ignore_ascii_case(known));
    match known && !secret.trim().is_empty() {
        true => Ok(secret.trim()),
        false => {
            let message = "is not of the form `Bearer <token>` or `Token <key>`";
            Err(Fault::new(Reason::Unauthorized, format!("the Authorization header {message}"))
                .at("Authorization"))
        }
    }
}

fn signed<'a>(
    mut key_ids: impl Iterator<Item = &'a str>,
    mut expires: impl Iterator<Item = &'a str>,
    mut signatures: impl Iterator<Item = &'a str>,
) -> Result<Option<Presented<'a>>, Fault> {
    let first = (key_ids.next(), expires.next(), signatures.next());
    if key_ids.next().or(expires.next()).or(signatures.next()).is_some() {
        return Err(bad("key_id, expires or signature is given twice"));
    }
    match first {
        (None, None, None) => Ok(None),
        (Some(key_id), Some(expires), Some(signature)) => {
            Ok(Some(Presented::Signed { key_id, expires, signature }))
        }
        _ => Err(bad("a signed request has all of key_id, expires and signature")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http::{HeadLimits, parse_head};

    const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 8192, target_bytes_max: 4096, headers_max: 50 };

    fn head(target: &str, fields: &str) -> RequestHead {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        parse_head(text.as_bytes(), &LIMITS).expect("a head").expect("a whole one").0
    }

    fn secret(target: &str, fields: &str) -> Option<(String, bool)> {
        match Presented::of(&head(target, fields)).ok()?? {
            Presented::Secret { secret, in_query } => Some((secret.to_owned(), in_query)),
            Presented::Signed { .. } => None,
        }
    }

    #[test]
    fn a_secret_is_found_wherever_it_may_stand() {
        for fields in [
            "Authorization: Bearer s3\r\n",
            "authorization: bearer   s3 \r\n",
            "Authorization: Token s3\r\n",
            "X-API-Key: s3\r\n",
            "Sec-WebSocket-Protocol: suzu.v1, token.s3\r\n",
        ] {
            assert_eq!(secret("/", fields), Some(("s3".into(), false)), "{fields}");
        }
        assert_eq!(secret("/?a=1&token=s3", ""), Some(("s3".into(), true)));
        assert_eq!(secret("/", ""), None);
    }

    #[test]
    fn a_signature_is_found_whole_or_refused() {
        let whole = head("/?key_id=k&expires=5&signature=ab", "");
        let presented = Presented::of(&whole);
        assert!(presented == Ok(Some(Presented::Signed { key_id: "k", expires: "5", signature: "ab" })));
        for half in ["/?key_id=k&expires=5", "/?signature=ab", "/?key_id=k&key_id=k&expires=5&signature=ab"] {
            assert!(
                matches!(Presented::of(&head(half, "")), Err(fault) if fault.reason == Reason::BadRequest)
            );
        }
    }

    #[test]
    fn two_credentials_are_refused_even_if_they_are_equal() {
        for fields in [
            "Authorization: Bearer s3\r\nX-API-Key: s3\r\n",
            "Authorization: Bearer s3\r\nAuthorization: Bearer s3\r\n",
            "Sec-WebSocket-Protocol: token.a, token.b\r\n",
        ] {
            let twice = head("/", fields);
            assert!(matches!(Presented::of(&twice), Err(fault) if fault.reason == Reason::BadRequest));
        }
    }

    #[test]
    fn another_scheme_is_unauthorized_and_its_secret_is_not_repeated() {
        for value in ["Basic dXNlcjpodW50ZXIy", "Bearer", "hunter2"] {
            let basic = head("/", &format!("Authorization: {value}\r\n"));
            let Err(fault) = Presented::of(&basic) else { panic!("{value} is refused") };
            assert_eq!(fault.reason, Reason::Unauthorized);
            assert!(!fault.message.contains("hunter2") && !fault.message.contains("dXNl"));
        }
    }
}
