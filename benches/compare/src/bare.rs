//! An echo of bytes on bare TCP: one thread, one poll, no protocol. What the machine can do at all.

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::io::{self, ErrorKind, Read, Write};

const LISTENER: Token = Token(usize::MAX);
const BUFFER_BYTES: usize = 64 * 1024;

/// A connection, and what the kernel did not take of its last write.
struct Peer {
    stream: TcpStream,
    unsent: Vec<u8>,
}

/// Serves for ever.
///
/// # Errors
/// That the poll fails, which no connection can bring about.
pub fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut listener = TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut peers, mut free): (Vec<Option<Peer>>, Vec<usize>) = (Vec::new(), Vec::new());
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut peers, &mut free);
                continue;
            }
            let slot = event.token().0;
            let Some(peer) = peers.get_mut(slot).and_then(Option::as_mut) else { continue };
            if peer.turn(&mut buffer).is_err() {
                peers[slot] = None;
                free.push(slot);
            }
        }
    }
}

fn accept(listener: &TcpListener, poll: &Poll, peers: &mut Vec<Option<Peer>>, free: &mut Vec<usize>) {
    // Until nobody waits; or no descriptor is left, and whoever waits goes on waiting.
    while let Ok((mut stream, _)) = listener.accept() {
        let slot = free.pop().unwrap_or(peers.len());
        let interest = Interest::READABLE | Interest::WRITABLE;
        let ready = stream.set_nodelay(true);
        if ready.and_then(|()| poll.registry().register(&mut stream, Token(slot), interest)).is_err() {
            free.extend((slot < peers.len()).then_some(slot));
            continue;
        }
        if slot == peers.len() {
            peers.push(None);
        }
        peers[slot] = Some(Peer { stream, unsent: Vec::new() });
    }
}

impl Peer {
    /// Returns what there is. An error is the end of the connection, its proper end too.
    fn turn(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut unsent = std::mem::take(&mut self.unsent);
        let left = self.write(&unsent)?;
        unsent.drain(..unsent.len() - left);
        if left > 0 {
            // Nothing more is read until it is gone; the event that tells of room reads on.
            self.unsent = unsent;
            return Ok(());
        }
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let left = self.write(&buffer[..count])?;
            if left > 0 {
                self.unsent.extend_from_slice(&buffer[count - left..count]);
                return Ok(());
            }
        }
    }

    /// Gives how many bytes at the end the kernel did not take.
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<usize> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes.len())
    }
}
