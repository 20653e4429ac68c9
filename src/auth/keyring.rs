//! The file of credentials: whose tokens, keys and signatures are taken.

use super::jwt::{self, ALGORITHMS, Issue, TokenKey};
use super::presented::Presented;
use super::principal::{Allowance, Principal, Scopes};
use super::{crypto, signed};
use crate::reason::{Fault, Reason};
use crate::wire::http::RequestHead;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use ring::{digest, hmac};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// Bytes that a secret has at least: those of the hash (RFC 7518, section 3.2, and RFC 2104, section 3).
const SECRET_BYTES_MIN: usize = 32;
/// The leeway for clocks that differ, if an entry names none.
const LEEWAY: Duration = Duration::from_secs(30);

/// Everything that credentials are held against. Made at start and made anew at each reload.
#[derive(Default)]
pub struct Keyring {
    tokens: Vec<TokenKey>,
    keys: BTreeMap<String, ApiKey>,
    signers: BTreeMap<String, Signer>,
    /// The ids of all entries.
    sources: BTreeSet<String>,
}

struct ApiKey {
    hash: [u8; 32],
    owner: Owner,
}

struct Signer {
    key: hmac::Key,
    owner: Owner,
}

/// Whom a key of the file belongs to.
struct Owner {
    user: Arc<str>,
    source: Arc<str>,
    scopes: Scopes,
    allowance: Allowance,
}

/// How long credentials that others may see can live.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// Of a token in the URL.
    pub query_token: Duration,
    /// Of a signed request.
    pub signed_request: Duration,
}

/// The outcome of looking at credentials that are right.
#[derive(Clone, Debug, PartialEq)]
pub struct Authenticated {
    /// Who asks.
    pub principal: Principal,
    /// If this may be asked only once: what to remember, and until when.
    pub once: Option<Once>,
}

/// A signature, which is taken once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Once {
    /// When it may be forgotten, milliseconds since 1970.
    pub expires_unix_ms: u64,
    /// The signature.
    pub signature: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    jwt: Vec<JwtEntry>,
    #[serde(default)]
    key: Vec<KeyEntry>,
    #[serde(default)]
    signer: Vec<SignerEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JwtEntry {
    id: String,
    algorithm: Option<String>,
    secret_env: Option<String>,
    secret_file: Option<PathBuf>,
    public_key_file: Option<PathBuf>,
    jwks_file: Option<PathBuf>,
    kid: Option<String>,
    #[serde(default)]
    issuers: Vec<String>,
    #[serde(default)]
    audiences: Vec<String>,
    leeway: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    limits: Allowance,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    id: String,
    hash: String,
    user: Option<String>,
    scopes: Vec<String>,
    #[serde(default)]
    limits: Allowance,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignerEntry {
    id: String,
    secret_env: Option<String>,
    secret_file: Option<PathBuf>,
    user: Option<String>,
    scopes: Vec<String>,
    #[serde(default)]
    limits: Allowance,
}

impl Keyring {
    /// Reads the file of credentials and what it names: secrets of the environment, keys, JWKS. Paths in it are relative to it.
    ///
    /// # Errors
    /// Which entry is wrong, and how. No secret is repeated.
    pub fn load(path: &Path) -> Result<Keyring, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let sources = Sources { folder, variable: &|name| std::env::var(name).ok() };
        Keyring::parse(&text, &sources).map_err(|problem| format!("{}: {problem}", path.display()))
    }

    /// The text of such a file. Paths in it are relative to the working directory.
    ///
    /// # Errors
    /// As [`Keyring::load`].
    pub fn of_text(text: &str) -> Result<Keyring, String> {
        Keyring::parse(text, &Sources { folder: Path::new("."), variable: &|name| std::env::var(name).ok() })
    }

    fn parse(text: &str, sources: &Sources<'_>) -> Result<Keyring, String> {
        crypto::install();
        // The error of the library shows the line, which may hold a secret that was written into the wrong place.
        let document: Document = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            format!("line {line}: {}", error.message())
        })?;
        let mut keyring = Keyring::default();
        for entry in document.jwt {
            let id = entry.id.clone();
            keyring.add_tokens(entry, sources).map_err(|problem| format!("[[jwt]] {id}: {problem}"))?;
        }
        for entry in document.key {
            let id = entry.id.clone();
            keyring.add_key(entry).map_err(|problem| format!("[[key]] {id}: {problem}"))?;
        }
        for entry in document.signer {
            let id = entry.id.clone();
            keyring.add_signer(entry, sources).map_err(|problem| format!("[[signer]] {id}: {problem}"))?;
        }
        Ok(keyring)
    }

    /// How many keys there are of each kind: of tokens, of clients, of signers.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.tokens.len(), self.keys.len(), self.signers.len())
    }

    /// Whether that entry is still there: what it vouched for goes on only then.
    pub fn knows(&self, source: &str) -> bool {
        self.sources.contains(source)
    }

    /// Who makes this request; `None` if it presents nothing.
    ///
    /// # Errors
    /// `BadRequest`, `Unauthorized` or `TokenExpired`: what is presented is not taken.
    pub fn authenticate(
        &self,
        head: &RequestHead,
        now_unix_ms: u64,
        lifetimes: Lifetimes,
    ) -> Result<Option<Authenticated>, Fault> {
        let Some(presented) = Presented::of(head)? else { return Ok(None) };
        match presented {
            Presented::Secret { secret, in_query } => {
                let principal = match secret.matches('.').count() {
                    2 => jwt::verify(&self.tokens, secret, now_unix_ms)?,
                    _ => self.owner_of_key(secret)?,
                };
                if in_query {
                    check_query_token(&principal, now_unix_ms, lifetimes.query_token)?;
                }
                Ok(Some(Authenticated { principal, once: None }))
            }
            Presented::Signed { key_id, expires, signature } => {
                let expires = check_expiry(expires, now_unix_ms, lifetimes.signed_request)?;
                let signer = self.signers.get(key_id);
                let holds = signer.filter(|signer| {
                    signed::verify(&signer.key, signature, head.method, &head.path, &head.query)
                });
                let Some(signer) = holds else {
                    let message = "the request's signature is not right, or its key is not known";
                    return Err(Fault::new(Reason::Unauthorized, message));
                };
                let once = Once { expires_unix_ms: expires, signature: signature.to_ascii_lowercase() };
                let principal = signer.owner.principal();
                Ok(Some(Authenticated { principal, once: Some(once) }))
            }
        }
    }

    fn owner_of_key(&self, secret: &str) -> Result<Principal, Fault> {
        let id = secret.split('.').next().unwrap_or_default();
        let found = self.keys.get(id);
        // A name that is not known takes as long as a wrong key.
        let expected = found.map_or([0; 32], |key| key.hash);
        let right: bool = hash(secret).ct_eq(&expected).into();
        match found.filter(|_| right) {
            Some(key) => Ok(key.owner.principal()),
            None => Err(Fault::new(Reason::Unauthorized, "the key is not known")),
        }
    }

    fn add_tokens(&mut self, entry: JwtEntry, sources: &Sources<'_>) -> Result<(), String> {
        check_id(&entry.id)?;
        self.add_source(&entry.id)?;
        let leeway = match &entry.leeway {
            None => LEEWAY,
            Some(text) => {
                humantime::parse_duration(text).map_err(|_| "leeway is no duration such as \"30s\"")?
            }
        };
        let issue = Arc::new(Issue {
            source: entry.id.as_str().into(),
            issuers: entry.issuers,
            audiences: entry.audiences,
            leeway,
            scopes: Scopes::parse(entry.scopes.iter().map(String::as_str))?,
            allowance: entry.limits,
        });
        if let Some(path) = &entry.jwks_file {
            let alone = entry.algorithm.is_none()
                && entry.secret_env.is_none()
                && entry.secret_file.is_none()
                && entry.public_key_file.is_none()
                && entry.kid.is_none();
            if !alone {
                return Err("jwks_file says algorithms, names and keys itself; leave the others out".into());
            }
            let set: JwkSet = serde_json::from_slice(&sources.read(path)?)
                .map_err(|error| format!("{} is no JWKS: line {}", path.display(), error.line()))?;
            let before = self.tokens.len();
            self.tokens.extend(set.keys.iter().filter_map(|jwk| token_key(jwk, &issue)));
            return match self.tokens.len() > before {
                true => Ok(()),
                false => Err(format!("{} has no key for HS256, RS256, ES256 or EdDSA", path.display())),
            };
        }
        let word = entry.algorithm.ok_or("algorithm is missing: HS256, RS256, ES256 or EdDSA")?;
        let algorithm = algorithm(&word)
            .ok_or_else(|| format!("algorithm = \"{word}\" is not one of HS256, RS256, ES256 and EdDSA"))?;
        let key = match (algorithm, entry.public_key_file) {
            (Algorithm::HS256, None) => {
                DecodingKey::from_secret(&sources.secret(entry.secret_env, entry.secret_file)?)
            }
            (Algorithm::HS256, Some(_)) => return Err("HS256 has a secret and no public key".into()),
            (_, None) => return Err(format!("{word} needs public_key_file, a PEM file")),
            (_, Some(_)) if entry.secret_env.is_some() || entry.secret_file.is_some() => {
                return Err(format!("{word} has a public key and no secret"));
            }
            (_, Some(path)) => public_key(algorithm, &sources.read(&path)?)
                .map_err(|error| format!("{} is no public key for {word}: {error}", path.display()))?,
        };
        self.tokens.push(TokenKey::new(entry.kid, algorithm, key, &issue));
        Ok(())
    }

    fn add_key(&mut self, entry: KeyEntry) -> Result<(), String> {
        self.add_source(&entry.id)?;
        let hex =
            entry.hash.strip_prefix("sha256:").ok_or("hash begins with \"sha256:\"; see `suzu token key`")?;
        let hash = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok();
        let hash = hash.and_then(|hash| hash.try_into().ok()).ok_or("hash is not 64 hexadecimal digits")?;
        let owner = Owner::new(&entry.id, entry.user, &entry.scopes, entry.limits)?;
        self.keys.insert(entry.id, ApiKey { hash, owner });
        Ok(())
    }

    fn add_signer(&mut self, entry: SignerEntry, sources: &Sources<'_>) -> Result<(), String> {
        self.add_source(&entry.id)?;
        let secret = sources.secret(entry.secret_env, entry.secret_file)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let owner = Owner::new(&entry.id, entry.user, &entry.scopes, entry.limits)?;
        self.signers.insert(entry.id, Signer { key, owner });
        Ok(())
    }

    /// An entry has that id.
    fn add_source(&mut self, id: &str) -> Result<(), String> {
        match self.sources.insert(id.to_owned()) {
            true => Ok(()),
            false => Err("another entry has that id".into()),
        }
    }
}

impl Owner {
    fn new(id: &str, user: Option<String>, scopes: &[String], limits: Allowance) -> Result<Owner, String> {
        check_id(id)?;
        Ok(Owner {
            user: user.as_deref().unwrap_or(id).into(),
            source: id.into(),
            scopes: Scopes::parse(scopes.iter().map(String::as_str))?,
            allowance: limits,
        })
    }

    fn principal(&self) -> Principal {
        Principal {
            user: Arc::clone(&self.user),
            source: Arc::clone(&self.source),
            scopes: self.scopes,
            expires_unix_ms: None,
            allowance: self.allowance,
        }
    }
}

/// Where entries take their secrets from.
struct Sources<'a> {
    folder: &'a Path,
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl Sources<'_> {
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        read(&self.folder.join(path))
    }

    fn secret(&self, variable: Option<String>, file: Option<PathBuf>) -> Result<Vec<u8>, String> {
        match (variable, file) {
            (Some(name), None) => check_secret((self.variable)(&name), &name),
            (None, Some(path)) => secret_of_file(&self.folder.join(path)),
            _ => Err("give one of secret_env and secret_file".into()),
        }
    }
}

/// The secret that a variable holds.
///
/// # Errors
/// The variable is not set, or the secret is too short to be safe.
pub fn secret_of_variable(name: &str) -> Result<Vec<u8>, String> {
    check_secret(std::env::var(name).ok(), name)
}

/// The secret that is in a file, without the end of its line.
///
/// # Errors
/// The file cannot be read, or the secret is too short to be safe.
pub fn secret_of_file(path: &Path) -> Result<Vec<u8>, String> {
    check_length(read(path)?.trim_ascii_end().to_vec())
}

fn check_secret(value: Option<String>, variable: &str) -> Result<Vec<u8>, String> {
    check_length(value.ok_or_else(|| format!("the variable {variable} is not set"))?.into_bytes())
}

fn check_length(secret: Vec<u8>) -> Result<Vec<u8>, String> {
    match secret.len() >= SECRET_BYTES_MIN {
        true => Ok(secret),
        false => Err(format!(
            "the secret has {} bytes; at least {SECRET_BYTES_MIN} are safe: `openssl rand -hex 32` makes one",
            secret.len()
        )),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The entry of an API key for the file of credentials. The key begins with its id and a dot.
pub fn key_entry(key: &str, scopes: Scopes) -> String {
    let id = key.split('.').next().unwrap_or_default();
    let hash = data_encoding::HEXLOWER.encode(&hash(key));
    let scopes: Vec<_> = scopes.words().split_whitespace().map(|word| format!("\"{word}\"")).collect();
    format!("[[key]]\nid = \"{id}\"\nhash = \"sha256:{hash}\"\nscopes = [{}]\n", scopes.join(", "))
}

/// The SHA-256 of a key. A key is random and long, so a fast hash without salt does: there is nothing to guess.
fn hash(key: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, key.as_bytes()).as_ref());
    hash
}

/// Names of entries begin API keys and stand in URLs.
pub fn check_id(id: &str) -> Result<(), String> {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    match !id.is_empty() && id.len() <= 64 && id.chars().all(harmless) {
        true => Ok(()),
        false => Err("an id has 1 to 64 letters, digits, `-` and `_`".into()),
    }
}

/// The algorithm of that name.
pub fn algorithm(name: &str) -> Option<Algorithm> {
    ALGORITHMS.into_iter().find(|(word, _)| *word == name).map(|(_, algorithm)| algorithm)
}

fn public_key(algorithm: Algorithm, pem: &[u8]) -> Result<DecodingKey, jsonwebtoken::errors::Error> {
    match algorithm {
        Algorithm::RS256 => DecodingKey::from_rsa_pem(pem),
        Algorithm::ES256 => DecodingKey::from_ec_pem(pem),
        _ => DecodingKey::from_ed_pem(pem),
    }
}

/// A key of a JWKS, if it is for signatures that are taken here.
fn token_key(jwk: &Jwk, issue: &Arc<Issue>) -> Option<TokenKey> {
    let named = match jwk.common.key_algorithm {
        Some(KeyAlgorithm::HS256) => Some(Algorithm::HS256),
        Some(KeyAlgorithm::RS256) => Some(Algorithm::RS256),
        Some(KeyAlgorithm::ES256) => Some(Algorithm::ES256),
        Some(KeyAlgorithm::EdDSA) => Some(Algorithm::EdDSA),
        Some(_) => return None,
        None => None,
    };
    let algorithm = match &jwk.algorithm {
        // A secret says what it is for, or it is not taken: it must not stand for another's signature.
        AlgorithmParameters::OctetKey(_) => named.filter(|named| *named == Algorithm::HS256)?,
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let for_signatures = !matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption));
    if !for_signatures || named.is_some_and(|named| named != algorithm) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(TokenKey::new(jwk.common.key_id.clone(), algorithm, key, issue))
}

/// A secret in a URL is kept by histories and by the logs of others, so only a token that soon ends may stand there.
fn check_query_token(principal: &Principal, now_unix_ms: u64, lifetime: Duration) -> Result<(), Fault> {
    let soon = now_unix_ms.saturating_add(lifetime.as_millis() as u64);
    match principal.expires_unix_ms {
        Some(expires) if expires <= soon => Ok(()),
        _ => {
            let message = format!(
                "only a token that ends within {lifetime:?} may stand in the URL; \
                 send others by the Authorization header or a subprotocol"
            );
            Err(Fault::new(Reason::Unauthorized, message).at("token"))
        }
    }
}

fn check_expiry(expires: &str, now_unix_ms: u64, lifetime: Duration) -> Result<u64, Fault> {
    let refuse = |reason, message: String| Err(Fault::new(reason, message).at("expires"));
    let Ok(expires_s) = expires.parse::<u64>() else {
        return refuse(Reason::Unauthorized, "expires is not in seconds since 1970".into());
    };
    let expires_unix_ms = expires_s.saturating_mul(1000);
    if expires_unix_ms <= now_unix_ms {
        return refuse(Reason::TokenExpired, "the signed request has expired; sign a new one".into());
    }
    if expires_unix_ms > now_unix_ms.saturating_add(lifetime.as_millis() as u64) {
        return refuse(Reason::Unauthorized, format!("a signed request may hold for {lifetime:?} at most"));
    }
    Ok(expires_unix_ms)
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;
