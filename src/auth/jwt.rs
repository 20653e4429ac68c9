//! JSON Web Tokens: which keys they are held against, and what must stand in them.
//!
//! The library takes the token apart and computes the signature. Times are held against the server's own clock here, so that
//! a simulated server sees simulated tokens expire, and what a token must have is stricter than the library's defaults: an
//! expiry, a subject, the audience and the issuer where the entry names some, and no critical extension.

use super::crypto;
use super::principal::{Allowance, Principal, Scopes};
use crate::reason::{Fault, Reason};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Keys that one token is held against at most. A token that names its key is held against those of that name.
const TRIES_MAX: usize = 8;
/// Characters of a subject: it stands in logs and in metrics.
const SUBJECT_CHARS_MAX: usize = 128;

/// The algorithms that are verified here, by their names in tokens.
pub const ALGORITHMS: [(&str, Algorithm); 4] = [
    ("HS256", Algorithm::HS256),
    ("RS256", Algorithm::RS256),
    ("ES256", Algorithm::ES256),
    ("EdDSA", Algorithm::EdDSA),
];

/// A key that tokens are verified by, for one algorithm alone.
pub(super) struct TokenKey {
    name: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
    validation: Validation,
    issue: Arc<Issue>,
}

/// What holds for all tokens of one entry of the file.
pub(super) struct Issue {
    pub source: Arc<str>,
    pub issuers: Vec<String>,
    pub audiences: Vec<String>,
    pub leeway: Duration,
    /// For tokens that name no scopes.
    pub scopes: Scopes,
    pub allowance: Allowance,
}

/// What is read of a token.
#[derive(Debug, Deserialize)]
struct Claims {
    sub: Option<String>,
    /// Seconds since 1970, perhaps with a fraction (RFC 7519, section 2).
    exp: f64,
    nbf: Option<f64>,
    /// Words parted by spaces (RFC 8693, section 4.2), or an array of them as some issuers have it.
    scope: Option<Words>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Words {
    Line(String),
    List(Vec<String>),
}

impl TokenKey {
    pub(super) fn new(
        name: Option<String>,
        algorithm: Algorithm,
        key: DecodingKey,
        issue: &Arc<Issue>,
    ) -> TokenKey {
        let mut validation = Validation::new(algorithm);
        // Times are held against the server's own clock.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let mut required = vec!["exp", "sub"];
        validation.validate_aud = !issue.audiences.is_empty();
        if validation.validate_aud {
            required.push("aud");
            validation.set_audience(&issue.audiences);
        }
        if !issue.issuers.is_empty() {
            required.push("iss");
            validation.set_issuer(&issue.issuers);
        }
        validation.set_required_spec_claims(&required);
        TokenKey { name, algorithm, key, validation, issue: Arc::clone(issue) }
    }
}

/// Whose token it is.
///
/// # Errors
/// `TokenExpired` if that is all that is wrong, otherwise `Unauthorized` with what is. The token itself is not repeated.
pub(super) fn verify(keys: &[TokenKey], token: &str, now_unix_ms: u64) -> Result<Principal, Fault> {
    let header = jsonwebtoken::decode_header(token)
        .map_err(|_| refuse("it is no signed JSON Web Token, or by an algorithm that is not taken"))?;
    if header.crit.is_some() {
        return Err(refuse("it has critical extensions, of which none is understood"));
    }
    let named = |key: &&TokenKey| match (&header.kid, &key.name) {
        (Some(wanted), Some(name)) => wanted == name,
        _ => true,
    };
    let candidates = keys.iter().filter(|key| key.algorithm == header.alg).filter(named);
    let mut refusal = refuse("no key is known for its algorithm and name");
    for key in candidates.take(TRIES_MAX) {
        match verify_by(key, token, now_unix_ms) {
            Ok(principal) => return Ok(principal),
            Err(Trial::OtherKey(fault)) => refusal = fault,
            Err(Trial::Refused(fault)) => return Err(fault),
        }
    }
    Err(refusal)
}

/// Why a token is not taken by a key.
enum Trial {
    /// Another key may be the right one.
    OtherKey(Fault),
    /// The key is the right one, and the token is not taken.
    Refused(Fault),
}

fn verify_by(key: &TokenKey, token: &str, now_unix_ms: u64) -> Result<Principal, Trial> {
    // Two issuers may share a key, so whatever is wrong here, another entry may be the right one.
    let decoded = jsonwebtoken::decode::<Claims>(token, &key.key, &key.validation)
        .map_err(|error| Trial::OtherKey(refuse(&explain(&error))))?;
    check_claims(decoded.claims, &key.issue, now_unix_ms).map_err(Trial::Refused)
}

fn explain(error: &jsonwebtoken::errors::Error) -> String {
    match error.kind() {
        ErrorKind::InvalidSignature => "its signature is by none of the keys".into(),
        ErrorKind::InvalidAudience => "it is meant for another audience".into(),
        ErrorKind::InvalidIssuer => "it is by an issuer that is not trusted".into(),
        ErrorKind::MissingRequiredClaim(claim) => format!("it has no `{claim}`"),
        _ => "it cannot be read".into(),
    }
}

fn check_claims(claims: Claims, issue: &Issue, now_unix_ms: u64) -> Result<Principal, Fault> {
    let (now_s, leeway_s) = (now_unix_ms as f64 / 1000.0, issue.leeway.as_secs_f64());
    let user = claims.sub.unwrap_or_default();
    if user.is_empty() || user.chars().count() > SUBJECT_CHARS_MAX || user.chars().any(char::is_control) {
        return Err(refuse(&format!(
            "its `sub` is empty, longer than {SUBJECT_CHARS_MAX} characters or has control characters"
        )));
    }
    if now_s >= claims.exp + leeway_s {
        return Err(Fault::new(Reason::TokenExpired, "the token has expired; get a new one"));
    }
    if claims.nbf.is_some_and(|nbf| now_s + leeway_s < nbf) {
        return Err(refuse("it is not valid yet; are the clocks right?"));
    }
    let scopes = match &claims.scope {
        Some(Words::Line(line)) => Scopes::of_known(line.split_ascii_whitespace()),
        Some(Words::List(list)) => Scopes::of_known(list.iter().map(String::as_str)),
        None => issue.scopes,
    };
    Ok(Principal {
        user: user.into(),
        source: Arc::clone(&issue.source),
        scopes,
        // A float of any size becomes the nearest integer that there is.
        expires_unix_ms: Some(((claims.exp + leeway_s) * 1000.0) as u64),
        allowance: issue.allowance,
    })
}

fn refuse(why: &str) -> Fault {
    Fault::new(Reason::Unauthorized, format!("the token is refused: {why}"))
}

/// What a token made here says.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NewToken {
    /// The user.
    pub sub: String,
    /// When it ends, seconds since 1970.
    pub exp: u64,
    /// When it was made.
    pub iat: u64,
    /// What it is for, words parted by spaces; none: what the server's entry says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Whom it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
}

/// Makes a token. `key` is the secret of HS256, or a private key as PEM (PKCS#8; PKCS#1 for RSA too).
///
/// # Errors
/// The key is not one of the algorithm.
pub fn mint(
    token: &NewToken,
    algorithm: Algorithm,
    key: &[u8],
    key_name: Option<String>,
) -> Result<String, String> {
    crypto::install();
    let key = match algorithm {
        Algorithm::HS256 => Ok(EncodingKey::from_secret(key)),
        Algorithm::RS256 => EncodingKey::from_rsa_pem(key),
        Algorithm::ES256 => EncodingKey::from_ec_pem(key),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(key),
        _ => return Err("the algorithm is not one of HS256, RS256, ES256 and EdDSA".into()),
    };
    let cannot = |error| format!("the key is not a private key for {algorithm:?}: {error}");
    let header = Header { kid: key_name, ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, token, &key.map_err(cannot)?).map_err(cannot)
}
