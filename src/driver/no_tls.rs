//! What stands in for TLS in a build without the feature `tls`: nobody speaks it, and the rest of the driver need not
//! know.

use crate::config::Config;
use std::io;

/// There is none.
pub(super) enum Acceptor {}

/// There is none.
pub(super) enum Identity {}

/// There are none.
pub(super) enum Sessions {}

/// There is none.
pub(super) enum Tls {}

/// There is none.
pub(super) struct Opened {
    pub(super) bytes: usize,
    pub(super) fault: Option<String>,
}

impl Acceptor {
    /// None. A configuration that asks for TLS is refused when it is validated.
    pub(super) fn open(_: &Config) -> io::Result<Option<Self>> {
        Ok(None)
    }

    pub(super) fn identity(&self) -> Identity {
        match *self {}
    }

    pub(super) fn renew(&mut self, _: Result<Sessions, String>) {
        match *self {}
    }

    pub(super) fn accept(&self) -> io::Result<Box<Tls>> {
        match *self {}
    }

    pub(super) fn handshakes(&self) -> (u64, u64) {
        match *self {}
    }
}

impl Identity {
    pub(super) fn read(&self) -> Result<Sessions, String> {
        match *self {}
    }
}

impl Tls {
    pub(super) fn is_greeting(&self) -> bool {
        match *self {}
    }

    pub(super) fn is_finished(&self) -> bool {
        match *self {}
    }

    pub(super) fn room<'a>(&self, _: &'a mut [u8]) -> Option<&'a mut [u8]> {
        match *self {}
    }

    pub(super) fn is_scarce(&self) -> bool {
        match *self {}
    }

    pub(super) fn whole(&self, _: &[u8]) -> usize {
        match *self {}
    }

    pub(super) fn open(&mut self, _: &mut [u8], _: usize) -> Opened {
        match *self {}
    }

    pub(super) fn seal(&mut self, _: &[u8]) -> Result<(), String> {
        match *self {}
    }

    pub(super) fn say_goodbye(&mut self) {
        match *self {}
    }

    pub(super) fn unsent(&self) -> &[u8] {
        match *self {}
    }

    pub(super) fn on_sent(&mut self, _: usize) -> usize {
        match *self {}
    }
}
