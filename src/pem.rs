//! Certificates and keys in PEM files, for both sides of TLS.
//!
//! What cannot be used is told with what to do; whose setting or option the file was is the caller's to say.

use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;

/// The certificates in a file, in their order; at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, _>>();
    let found =
        found.map_err(|error| format!("is not PEM: {error}; `openssl x509 -in FILE` shows what is wrong"))?;
    if found.is_empty() {
        return Err("there is no BEGIN CERTIFICATE in it".into());
    }
    Ok(found)
}

/// The first private key in a file.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        Error::NoItemsFound => "there is no BEGIN PRIVATE KEY in it; a key under a password must be opened \
                                first: `openssl pkey -in FILE -out NEW`"
            .into(),
        error => format!("is not PEM: {error}; `openssl pkey -in FILE -noout` shows what is wrong"),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot be read: {error}; give the path of a PEM file"))
}
