//! Signed requests: who holds the key signs one request, and whoever has the signed URL may make that request once.
//!
//! The signature is HMAC-SHA256, in hexadecimal, over
//!
//! ```text
//! METHOD "\n" path "\n" query
//! ```
//!
//! with the path decoded, and the query's pairs without `signature` sorted by name and value, each percent-encoded but for
//! `A-Z a-z 0-9 - . _ ~` (RFC 3986, section 2.3) and joined as `name=value&name=value`.

use crate::wire::http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::hmac;

/// What is encoded: everything that RFC 3986 does not call unreserved.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The query's pairs as they are signed.
fn canonical_query(query: &[(String, String)]) -> String {
    let mut pairs: Vec<_> = query.iter().filter(|(name, _)| name != "signature").collect();
    pairs.sort();
    let encode = |text| utf8_percent_encode(text, ENCODED);
    let pairs: Vec<_> =
        pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    pairs.join("&")
}

/// What is signed of a request.
fn message(method: Method, path: &str, query: &[(String, String)]) -> String {
    format!("{}\n{path}\n{}", method.as_str(), canonical_query(query))
}

/// The signature of a request, in hexadecimal.
pub fn sign(secret: &[u8], method: Method, path: &str, query: &[(String, String)]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    data_encoding::HEXLOWER.encode(hmac::sign(&key, message(method, path, query).as_bytes()).as_ref())
}

/// Whether the signature is that of the request. Takes the same time however much of it is right.
pub(super) fn verify(
    key: &hmac::Key,
    signature: &str,
    method: Method,
    path: &str,
    query: &[(String, String)],
) -> bool {
    let given = data_encoding::HEXLOWER_PERMISSIVE.decode(signature.as_bytes());
    given.is_ok_and(|given| hmac::verify(key, message(method, path, query).as_bytes(), &given).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn the_query_is_sorted_and_encoded_without_its_signature() {
        let query = pairs(&[("model", "vad"), ("b", "ü &"), ("signature", "x"), ("a", "~-._"), ("b", "1")]);
        assert_eq!(canonical_query(&query), "a=~-._&b=1&b=%C3%BC%20%26&model=vad");
    }

    /// Computed by Python: `hmac.new(b"secret", b"GET\n/v1/stream\nexpires=100&key_id=k&model=vad", "sha256").hexdigest()`.
    #[test]
    fn a_signature_is_what_another_implementation_computes() {
        let query = pairs(&[("model", "vad"), ("key_id", "k"), ("expires", "100")]);
        let signature = sign(b"secret", Method::Get, "/v1/stream", &query);
        assert_eq!(signature, SIGNATURE);
    }

    const SIGNATURE: &str = "196aea04c171724d51a3529f53a5b21d0c48976e3ae2237f6f4de4fa371be2c0";

    #[test]
    fn nothing_of_a_signed_request_may_change() {
        let query = pairs(&[("model", "vad"), ("key_id", "k"), ("expires", "100")]);
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let holds = |method, path: &str, query: &[(String, String)], signature: &str| {
            verify(&key, signature, method, path, query)
        };
        let signature = sign(b"secret", Method::Get, "/v1/stream", &query);
        assert!(holds(Method::Get, "/v1/stream", &query, &signature));
        assert!(holds(Method::Get, "/v1/stream", &query, &signature.to_uppercase()));
        assert!(!holds(Method::Post, "/v1/stream", &query, &signature));
        assert!(!holds(Method::Get, "/v1/echo", &query, &signature));
        assert!(!holds(Method::Get, "/v1/stream", &query[1..], &signature));
        assert!(!holds(Method::Get, "/v1/stream", &query, &signature[2..]));
        assert!(!holds(Method::Get, "/v1/stream", &query, ""));
    }
}
