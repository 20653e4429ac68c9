//! Bytes both ways between client and server, plain or by TLS.
//!
//! Owns the TCP connection and, with `wss://`, the session around it. One thread reads and one writes at a time, and
//! neither waits for the other: the lock of the session is held for arithmetic only, never while the system is waited
//! for. What is to be sent is sealed first and written then, so that whoever writes can stop in between.

use super::tls::Session;
use super::{Error, Options, Url};
use socket2::SockRef;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// Bytes asked of the connection at a time, with TLS.
const READ_BYTES: usize = 16 * 1024;

/// An open connection.
pub(super) struct Pipe {
    tcp: TcpStream,
    tls: Option<Session>,
}

impl Pipe {
    /// Greets by TLS if the URL asks for it. Each read and write may take [`Options::connect_timeout`] from here on.
    pub(super) fn open(tcp: TcpStream, url: &Url, options: &Options) -> Result<Pipe, Error> {
        tcp.set_nodelay(true).map_err(Error::Io)?;
        let mut pipe = Pipe { tcp, tls: None };
        let patience = Some(options.connect_timeout);
        pipe.set_timeouts(patience, patience).map_err(Error::Io)?;
        if url.tls {
            pipe.tls = Some(Session::greet(&pipe.tcp, url, options)?);
        }
        Ok(pipe)
    }

    /// For each read, and each write; `None` waits for ever.
    pub(super) fn set_timeouts(&self, read: Option<Duration>, write: Option<Duration>) -> io::Result<()> {
        self.tcp.set_read_timeout(read)?;
        self.tcp.set_write_timeout(write)
    }

    /// Waits for bytes. None is the end.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.tls {
            None => (&self.tcp).read(buffer),
            Some(session) => loop {
                if let Some(count) = session.take(buffer)? {
                    return Ok(count);
                }
                let mut sealed = [0; READ_BYTES];
                let count = (&self.tcp).read(&mut sealed)?;
                if count == 0 {
                    // Whether the end came too early is told by what is said within: frames and lengths.
                    return Ok(0);
                }
                session.put(&sealed[..count]);
            },
        }
    }

    /// The same without waiting: [`io::ErrorKind::WouldBlock`] if there is nothing.
    pub(super) fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &self.tls else {
            self.peek()?;
            return (&self.tcp).read(buffer);
        };
        loop {
            if let Some(count) = session.take(buffer)? {
                return Ok(count);
            }
            self.peek()?;
            let mut sealed = [0; READ_BYTES];
            match (&self.tcp).read(&mut sealed)? {
                0 => return Ok(0),
                count => session.put(&sealed[..count]),
            }
        }
    }

    /// An error if nothing can be read now.
    fn peek(&self) -> io::Result<()> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
        SockRef::from(&self.tcp).recv_with_flags(&mut [MaybeUninit::uninit()], flags).map(drop)
    }

    /// Writes all of it, before there are other writers.
    pub(super) fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut sealed = Vec::new();
        self.seal(&mut bytes.to_vec(), &mut sealed);
        self.write_sealed(&sealed)
    }

    /// Moves `bytes` to the end of `sealed`, as they go over the connection. What was sealed first must go out first.
    pub(super) fn seal(&self, bytes: &mut Vec<u8>, sealed: &mut Vec<u8>) {
        match &self.tls {
            Some(session) => {
                session.seal(bytes, sealed);
                bytes.clear();
            }
            None if sealed.is_empty() => std::mem::swap(bytes, sealed),
            None => sealed.append(bytes),
        }
    }

    /// Waits until all of it is out.
    pub(super) fn write_sealed(&self, sealed: &[u8]) -> io::Result<()> {
        (&self.tcp).write_all(sealed)
    }

    /// Writes what the connection takes at once.
    pub(super) fn write_sealed_now(&self, sealed: &[u8]) -> io::Result<usize> {
        SockRef::from(&self.tcp).send_with_flags(sealed, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    }

    /// Ends it at once, also for whoever waits in a read or write.
    pub(super) fn cut(&self) {
        // It may have ended by itself.
        let _ = self.tcp.shutdown(Shutdown::Both);
    }
}
