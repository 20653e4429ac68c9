//! Accepting connections, also when the machine has no descriptors left.
//!
//! An edge tells only once that peers wait. So the listener remembers it until the kernel says that nobody waits
//! any more, through every reason not to accept: the turn's share used up, no room in the core, no descriptors.
//! Without descriptors it tries again after each close and every [`RETRY_PAUSE`]; it never spins.

use crate::time::Instant;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// How long to leave the backlog alone after the machine refused a descriptor, unless one is freed.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket and what is known of its backlog.
#[derive(Debug)]
pub(super) struct Listener {
    inner: TcpListener,
    backlog: Backlog,
    failures: u64,
}

/// What is known of the peers that wait to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backlog {
    /// Nobody waits: an edge will tell.
    Empty,
    /// Somebody may wait, and no edge will tell.
    Waiting,
    /// Somebody waits and the machine has no descriptor or memory for them.
    Starved { retry_at: Instant },
}

/// The outcome of one attempt to accept.
#[derive(Debug)]
pub(super) enum Accepted {
    /// A connection.
    Peer(TcpStream, SocketAddr),
    /// This one failed, the next may not.
    Failed,
    /// Nobody waits, or there is no descriptor for them now.
    Nobody,
}

impl Listener {
    /// Listens on the first address of `host` that allows it, with `backlog` places for peers not yet accepted.
    pub(super) fn bind(host: &str, port: u16, backlog: u32) -> io::Result<Self> {
        let explain = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen on {host}:{port}: {error}{}", advice(&error)))
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
        for address in (host, port).to_socket_addrs().map_err(explain)? {
            match listen(address, backlog) {
                Ok(inner) => return Ok(Self { inner, backlog: Backlog::Waiting, failures: 0 }),
                Err(error) => last = error,
            }
        }
        Err(explain(last))
    }

    /// The address that peers connect to; names the port if 0 was asked for.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.inner, token, Interest::READABLE)
    }

    /// The poll told that somebody waits.
    pub(super) fn on_edge(&mut self) {
        if self.backlog == Backlog::Empty {
            self.backlog = Backlog::Waiting;
        }
    }

    /// A descriptor was freed: a starved backlog is worth another attempt at once.
    pub(super) fn on_freed(&mut self) {
        if let Backlog::Starved { retry_at } = &mut self.backlog {
            *retry_at = Instant::default();
        }
    }

    /// When to try next: a moment in the past says now, `None` says that an edge will tell.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.backlog {
            Backlog::Empty => None,
            Backlog::Waiting => Some(Instant::default()),
            Backlog::Starved { retry_at } => Some(retry_at),
        }
    }

    /// Accepts one peer.
    pub(super) fn accept(&mut self, now: Instant) -> Accepted {
        match self.inner.accept() {
            Ok((stream, peer)) => {
                self.backlog = Backlog::Waiting;
                Accepted::Peer(stream, peer)
            }
            Err(error) => match judge(&error) {
                Verdict::Nobody => {
                    self.backlog = Backlog::Empty;
                    Accepted::Nobody
                }
                Verdict::PeerGone => Accepted::Failed,
                Verdict::Starved => {
                    self.on_starved(&error, now);
                    Accepted::Nobody
                }
            },
        }
    }

    /// Times that the machine refused a descriptor.
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    fn on_starved(&mut self, error: &io::Error, now: Instant) {
        if !matches!(self.backlog, Backlog::Starved { .. }) {
            log::warn!("cannot accept connections: {error}; they wait until others close (see `ulimit -n`)");
        }
        self.failures += 1;
        self.backlog = Backlog::Starved { retry_at: now + RETRY_PAUSE };
    }
}

fn listen(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // On Unix: a restart need not wait for the old connections' TIME_WAIT. Elsewhere it would allow port theft.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(TcpListener::from_std(socket.into()))
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; stop the program that uses the port, or choose another (0 takes a free one)"
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege: choose a higher one",
        io::ErrorKind::AddrNotAvailable => {
            "; this machine has no such address: 127.0.0.1 or 0.0.0.0 always work"
        }
        _ => "",
    }
}

enum Verdict {
    Nobody,
    PeerGone,
    Starved,
}

fn judge(error: &io::Error) -> Verdict {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    match error.kind() {
        WouldBlock => return Verdict::Nobody,
        Interrupted | ConnectionAborted | ConnectionReset => return Verdict::PeerGone,
        _ => {}
    }
    // accept(2): Linux hands on errors that were already pending on the new connection.
    const PEER_GONE: &[i32] = &[
        libc::EPROTO,
        libc::ENETDOWN,
        libc::ENOPROTOOPT,
        libc::EHOSTDOWN,
        libc::EHOSTUNREACH,
        libc::EOPNOTSUPP,
        libc::ENETUNREACH,
        libc::EPERM,
        libc::ETIMEDOUT,
    ];
    match error.raw_os_error() {
        Some(code) if PEER_GONE.contains(&code) => Verdict::PeerGone,
        // EMFILE, ENFILE, ENOBUFS, ENOMEM; and whatever else there may be, so that nothing unforeseen spins.
        _ => Verdict::Starved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream as Peer;

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    fn listener() -> Listener {
        Listener::bind("127.0.0.1", 0, 64).unwrap()
    }

    fn errno(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn the_backlog_is_emptied_before_an_edge_is_waited_for() {
        let mut listener = listener();
        let address = listener.local_addr().unwrap();
        let peers: Vec<_> = (0..3).map(|_| Peer::connect(address).unwrap()).collect();
        for _ in &peers {
            assert_eq!(listener.due(), Some(Instant::default()));
            assert!(matches!(listener.accept(at(0)), Accepted::Peer(..)));
        }
        assert!(matches!(listener.accept(at(0)), Accepted::Nobody));
        assert_eq!(listener.due(), None);
        listener.on_edge();
        assert_eq!(listener.due(), Some(Instant::default()));
    }

    #[test]
    fn peers_that_left_while_waiting_do_not_stop_the_others() {
        for code in [libc::ECONNABORTED, libc::EINTR, libc::EPROTO, libc::ENETDOWN, libc::EHOSTUNREACH] {
            assert!(matches!(judge(&errno(code)), Verdict::PeerGone), "{code}");
        }
    }

    #[test]
    fn without_descriptors_the_edge_is_remembered_and_retried_after_a_pause_or_a_close() {
        let mut listener = listener();
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert!(matches!(judge(&errno(code)), Verdict::Starved), "{code}");
        }
        listener.on_starved(&errno(libc::EMFILE), at(1000));
        assert_eq!(listener.due(), Some(at(1000) + RETRY_PAUSE));
        listener.on_edge();
        assert_eq!(listener.due(), Some(at(1000) + RETRY_PAUSE), "another edge does not make it spin");
        listener.on_freed();
        assert_eq!(listener.due(), Some(Instant::default()));
        listener.on_starved(&errno(libc::EMFILE), at(1001));
        assert_eq!(listener.due(), Some(at(1001) + RETRY_PAUSE));
        assert_eq!(listener.failures(), 2);
    }

    #[test]
    fn freeing_a_descriptor_says_nothing_about_an_empty_backlog() {
        let mut listener = listener();
        assert!(matches!(listener.accept(at(0)), Accepted::Nobody));
        listener.on_freed();
        assert_eq!(listener.due(), None);
    }

    #[test]
    fn a_taken_port_is_named_with_what_to_do() {
        let taken = listener();
        let port = taken.local_addr().unwrap().port();
        let error = Listener::bind("127.0.0.1", port, 64).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let text = error.to_string();
        assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
        assert!(text.contains("choose another"), "{text}");
    }

    #[test]
    fn an_address_of_another_machine_is_named_with_what_to_do() {
        // 192.0.2.0/24 is reserved for documentation: no machine has it.
        let text = Listener::bind("192.0.2.1", 0, 64).unwrap_err().to_string();
        assert!(text.contains("192.0.2.1:0") && text.contains("no such address"), "{text}");
    }
}
