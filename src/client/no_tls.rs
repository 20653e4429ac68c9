//! What stands in for TLS in a build without the feature `tls`.

use super::{Error, Options, Url};
use std::io;
use std::net::TcpStream;

/// There is none.
pub(super) enum Session {}

impl Session {
    /// Fails. URLs that ask for TLS are refused before.
    pub(super) fn greet(_: &TcpStream, url: &Url, _: &Options) -> Result<Session, Error> {
        Err(Error::Tls { address: url.authority(), why: "this build speaks no TLS".into() })
    }

    pub(super) fn put(&self, _: &[u8]) {
        match *self {}
    }

    pub(super) fn take(&self, _: &mut [u8]) -> io::Result<Option<usize>> {
        match *self {}
    }

    pub(super) fn seal(&self, _: &[u8], _: &mut Vec<u8>) {
        match *self {}
    }
}
