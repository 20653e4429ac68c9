//! What stands in for TLS in a build without the feature `tls`.

use super::{Error, Options, Url};
use std::io;
use std::net::TcpStream;
#[cfg(feature = "tools")]
use std::path::Path;

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

/// There is none.
#[cfg(feature = "tools")]
pub(crate) enum Greeter {}

#[cfg(feature = "tools")]
impl Greeter {
    /// Fails. URLs that ask for TLS are refused before.
    pub(crate) fn new(url: &Url, _: Option<&Path>) -> Result<Self, Error> {
        Err(Error::Tls { address: url.authority(), why: "this build speaks no TLS".into() })
    }

    pub(crate) fn begin(&self) -> io::Result<Records> {
        match *self {}
    }
}

/// There is none.
#[cfg(feature = "tools")]
pub(crate) enum Records {}

#[cfg(feature = "tools")]
impl Records {
    pub(crate) fn read(&mut self, _: &mut impl io::Read, _: &mut [u8]) -> io::Result<usize> {
        match *self {}
    }

    pub(crate) fn write(&mut self, _: &mut impl io::Write, _: &mut Vec<u8>) -> io::Result<()> {
        match *self {}
    }
}
