//! The four signature algorithms of JSON Web Tokens, by `ring`: what the library for tokens is told to compute with.
//!
//! `ring` is the one cryptographic library of the project; TLS uses it too.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::rand::SystemRandom;
use ring::signature::{self as algorithms, UnparsedPublicKey};
use ring::{hmac, signature};
use std::sync::Once;

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory,
    verifier_factory,
    // Keys are never turned into JWKs here.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Sees to it that tokens can be verified and signed in this process. Whoever embeds the server and has told the library
/// of another implementation keeps that.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if PROVIDER.install_default().is_err() {
            log::debug!("tokens are verified by the implementation that this process has chosen");
        }
    });
}

fn check_family(algorithm: Algorithm, family: AlgorithmFamily) -> Result<(), Error> {
    match algorithm.family() == family {
        true => Ok(()),
        // A token that says HS256 must never be held against the bytes of a public key.
        false => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

struct Verifier {
    algorithm: Algorithm,
    key: VerifyingKey,
}

enum VerifyingKey {
    Secret(hmac::Key),
    Public(UnparsedPublicKey<Vec<u8>>),
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

fn verifier_factory(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    check_family(*algorithm, key.family())?;
    let public = |scheme: &'static dyn signature::VerificationAlgorithm| {
        Ok::<_, Error>(VerifyingKey::Public(UnparsedPublicKey::new(scheme, key.try_get_as_bytes()?.to_vec())))
    };
    let key = match algorithm {
        Algorithm::HS256 => VerifyingKey::Secret(hmac::Key::new(hmac::HMAC_SHA256, key.try_get_as_bytes()?)),
        Algorithm::RS256 => match key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => VerifyingKey::Rsa { n: n.clone(), e: e.clone() },
            DecodingKeyKind::SecretOrDer(_) => public(&algorithms::RSA_PKCS1_2048_8192_SHA256)?,
        },
        Algorithm::ES256 => public(&algorithms::ECDSA_P256_SHA256_FIXED)?,
        Algorithm::EdDSA => public(&algorithms::ED25519)?,
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    Ok(Box::new(Verifier { algorithm: *algorithm, key }))
}

impl ::signature::Verifier<Vec<u8>> for Verifier {
    fn verify(&self, message: &[u8], given: &Vec<u8>) -> Result<(), ::signature::Error> {
        match &self.key {
            VerifyingKey::Secret(key) => hmac::verify(key, message, given),
            VerifyingKey::Public(key) => key.verify(message, given),
            VerifyingKey::Rsa { n, e } => signature::RsaPublicKeyComponents { n, e }.verify(
                &algorithms::RSA_PKCS1_2048_8192_SHA256,
                message,
                given,
            ),
        }
        .map_err(|_| ::signature::Error::new())
    }
}

impl JwtVerifier for Verifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

struct Signer {
    algorithm: Algorithm,
    key: SigningKey,
}

enum SigningKey {
    Secret(hmac::Key),
    Rsa(Box<signature::RsaKeyPair>),
    Ecdsa(signature::EcdsaKeyPair),
    Ed25519(signature::Ed25519KeyPair),
}

fn signer_factory(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    check_family(*algorithm, key.family())?;
    let bytes = key.as_bytes();
    let key = match algorithm {
        Algorithm::HS256 => SigningKey::Secret(hmac::Key::new(hmac::HMAC_SHA256, bytes)),
        Algorithm::RS256 => {
            let key = signature::RsaKeyPair::from_der(bytes)
                .map_err(|error| ErrorKind::InvalidRsaKey(error.to_string()))?;
            SigningKey::Rsa(Box::new(key))
        }
        Algorithm::ES256 => {
            let scheme = &algorithms::ECDSA_P256_SHA256_FIXED_SIGNING;
            let key = signature::EcdsaKeyPair::from_pkcs8(scheme, bytes, &SystemRandom::new())
                .map_err(|_| ErrorKind::InvalidEcdsaKey)?;
            SigningKey::Ecdsa(key)
        }
        Algorithm::EdDSA => {
            // The form that OpenSSL writes has no public key in it.
            let key = signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes)
                .map_err(|_| ErrorKind::InvalidEddsaKey)?;
            SigningKey::Ed25519(key)
        }
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    Ok(Box::new(Signer { algorithm: *algorithm, key }))
}

impl ::signature::Signer<Vec<u8>> for Signer {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, ::signature::Error> {
        let random = SystemRandom::new();
        match &self.key {
            SigningKey::Secret(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            SigningKey::Rsa(key) => {
                let mut signed = vec![0; key.public().modulus_len()];
                key.sign(&algorithms::RSA_PKCS1_SHA256, &random, message, &mut signed)
                    .map_err(|_| ::signature::Error::new())?;
                Ok(signed)
            }
            SigningKey::Ecdsa(key) => key
                .sign(&random, message)
                .map(|signed| signed.as_ref().to_vec())
                .map_err(|_| ::signature::Error::new()),
            SigningKey::Ed25519(key) => Ok(key.sign(message).as_ref().to_vec()),
        }
    }
}

impl JwtSigner for Signer {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
