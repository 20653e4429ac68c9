//! Connections of trusted proxies that have not yet said whose they are.
//!
//! With `proxy_protocol` a proxy begins each connection with a header ([`crate::wire::proxy`]). Until it is whole the core knows
//! nothing of the connection, so that every limit meets the client's address and never the proxy's. Nothing is held for one that
//! waits but its socket: the bytes stay with the kernel, are looked at there, and only the header is taken out, so what
//! follows it is found by TLS or HTTP as if nothing had been before.
//!
//! Invariants: there are at most [`WAITING_MAX`]; each is gone when its time is over. Whoever is displaced or too late is closed
//! without a word, for nobody knows to whom it would be said.

use super::socket::retry;
use crate::config::{Config, ProxyProtocol};
use crate::time::Instant;
use crate::wire::proxy::{self, HEADER_BYTES_MAX, Origin};
use ipnet::IpNet;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Connections that wait for their header. Proxies send it with their first packet, so few do; when there are more, the one that
/// has waited longest makes room.
const WAITING_MAX: usize = 1024;
/// The tokens of the poll from here on are theirs. No slot of a connection is so high.
const TOKENS_FROM: usize = 1 << 31;
/// Behind them stand the loop's own.
const TOKENS: usize = usize::MAX - 16 - TOKENS_FROM;
/// A proxy that is set up wrongly makes one line in the log in so long, not one for each connection.
const WARN_PAUSE: Duration = Duration::from_secs(60);
/// Where a client is of whom the proxy cannot say it: nowhere that would be trusted, and all of them together.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

pub(super) struct Introductions {
    /// Empty if no header is wanted of anybody.
    trusted: Vec<IpNet>,
    time_max: Duration,
    /// By numbers that count up, so whoever came first stands first and is due first.
    waiting: BTreeMap<usize, Waiting>,
    next: usize,
    /// Those that are to be looked at, each once.
    ready: VecDeque<usize>,
    refused: u64,
    warn_at: Instant,
}

struct Waiting {
    stream: TcpStream,
    peer: SocketAddr,
    due: Instant,
    /// It stands among those to be looked at.
    queued: bool,
    /// The proxy sends nothing more.
    finished: bool,
}

/// What looking at a connection gave.
enum Look {
    /// The header is whole: the connection, and whose it is.
    Whole(SocketAddr),
    /// An edge tells when there is more.
    Partial,
    /// It is over, and nobody did anything wrong.
    Gone,
    /// It is over: why.
    Refused(String),
}

impl Introductions {
    pub(super) fn new(config: &Config) -> Self {
        let trusted = match config.proxy_protocol {
            ProxyProtocol::Off => Vec::new(),
            ProxyProtocol::V2 => config.trusted_networks(),
        };
        Self {
            trusted,
            time_max: config.tls_handshake_timeout,
            waiting: BTreeMap::new(),
            next: 0,
            ready: VecDeque::new(),
            refused: 0,
            warn_at: Instant::default(),
        }
    }

    /// Whether a connection of that peer begins with a header. Those of others never do: their own address is what counts.
    pub(super) fn expects(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted.iter().any(|network| network.contains(&peer))
    }

    /// How many descriptors are held.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How many are to be looked at.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Headers that were wrong or late so far.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// When the next one's time is over.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, waiting)| waiting.due)
    }

    /// Whether what the poll told is of one of these.
    pub(super) fn owns(&self, token: Token) -> bool {
        (TOKENS_FROM..TOKENS_FROM + TOKENS).contains(&token.0)
    }

    /// A proxy connected. Its first bytes may be there already, so it is to be looked at.
    pub(super) fn push(&mut self, stream: TcpStream, peer: SocketAddr, now: Instant, registry: &Registry) {
        if self.waiting.len() >= WAITING_MAX
            && let Some((_, oldest)) = self.waiting.pop_first()
        {
            self.refuse(oldest.peer, "others came meanwhile, and the header is not there", now);
        }
        let (mut stream, number) = (stream, self.next);
        if let Err(error) = registry.register(&mut stream, Token(TOKENS_FROM + number), Interest::READABLE) {
            return log::debug!("{peer} was gone before it could be looked at: {error}");
        }
        self.next = (number + 1) % TOKENS;
        self.ready.push_back(number);
        let due = now + self.time_max;
        self.waiting.insert(number, Waiting { stream, peer, due, queued: true, finished: false });
    }

    /// Notes what the poll told.
    pub(super) fn on_event(&mut self, event: &Event) {
        let number = event.token().0 - TOKENS_FROM;
        let Some(waiting) = self.waiting.get_mut(&number) else { return };
        waiting.finished |= event.is_read_closed() || event.is_error();
        if !waiting.queued {
            waiting.queued = true;
            self.ready.push_back(number);
        }
    }

    /// Looks at the next. If its header is whole, it is not registered with the poll any more; its first byte is the client's.
    pub(super) fn next(
        &mut self,
        area: &mut [u8],
        now: Instant,
        registry: &Registry,
    ) -> Option<(TcpStream, SocketAddr)> {
        let number = self.ready.pop_front()?;
        let waiting = self.waiting.get_mut(&number)?;
        waiting.queued = false;
        let look = waiting.look(area);
        if matches!(look, Look::Partial) {
            return None;
        }
        let Waiting { mut stream, peer: proxy, .. } = self.waiting.remove(&number)?;
        match look {
            Look::Whole(peer) => {
                log::debug!("the proxy {proxy} brings {peer}");
                registry.deregister(&mut stream).ok().map(|()| (stream, peer))
            }
            Look::Refused(why) => {
                self.refuse(proxy, &why, now);
                None
            }
            Look::Partial | Look::Gone => None,
        }
    }

    /// Closes those whose time is over.
    pub(super) fn close_late(&mut self, now: Instant) {
        while let Some(first) = self.waiting.first_entry().filter(|first| first.get().due <= now) {
            let Waiting { peer, queued, .. } = first.remove();
            // Whoever is still to be looked at waits for a place, as others do in the backlog.
            let why = match queued {
                true => "the server had no place for it within tls_handshake_timeout",
                false => "the header of the PROXY protocol did not come within tls_handshake_timeout",
            };
            self.refuse(peer, why, now);
        }
    }

    /// Closes all of them: nobody is taken in any more.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.ready.clear();
    }

    fn refuse(&mut self, proxy: SocketAddr, why: &str, now: Instant) {
        self.refused += 1;
        if self.warn_at > now {
            return log::debug!("closed a connection of the proxy {proxy}: {why}");
        }
        self.warn_at = now + WARN_PAUSE;
        let refused = self.refused;
        log::warn!("closed a connection of the proxy {proxy}: {why}; {refused} so far (proxy_protocol)");
    }
}

impl Waiting {
    /// Takes the header out if it is whole.
    fn look(&mut self, area: &mut [u8]) -> Look {
        let known = &mut area[..HEADER_BYTES_MAX];
        let count = match retry(|| self.stream.peek(known)) {
            Ok(0) => return Look::Gone,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock && !self.finished => return Look::Partial,
            Err(_) => return Look::Gone,
        };
        let header = match proxy::parse(&known[..count]) {
            Ok(Some(header)) => header,
            Ok(None) if self.finished => return Look::Gone,
            Ok(None) => return Look::Partial,
            Err(flaw) => return Look::Refused(flaw.to_string()),
        };
        // All of it is there: it has been seen.
        match retry(|| self.stream.read(&mut known[..header.length])) {
            Ok(count) if count == header.length => {}
            _ => return Look::Gone,
        }
        Look::Whole(match header.origin {
            Origin::Client(peer) => peer,
            Origin::Proxy => self.peer,
            Origin::Unknown => NOWHERE,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll};
    use std::io::Write;
    use std::net::{TcpListener, TcpStream as Peer};

    struct World {
        poll: Poll,
        listener: TcpListener,
        introductions: Introductions,
    }

    fn at(millis: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(millis))
    }

    /// A client at 192.0.2.7, port 258, and an extension.
    const HEADER: &[u8] =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x11\xc0\0\x02\x07\x7f\0\0\x01\x01\x02\x01\xbb\xea\0\x02hi";

    impl World {
        fn new() -> Self {
            let config = Config {
                proxy_protocol: ProxyProtocol::V2,
                trusted_proxies: "127.0.0.0/8 ::1".into(),
                tls_handshake_timeout: Duration::from_millis(100),
                ..Config::default()
            };
            Self {
                poll: Poll::new().unwrap(),
                listener: TcpListener::bind("127.0.0.1:0").unwrap(),
                introductions: Introductions::new(&config),
            }
        }

        fn connect(&mut self, now: Instant) -> Peer {
            let peer = Peer::connect(self.listener.local_addr().unwrap()).unwrap();
            let (ours, from) = self.listener.accept().unwrap();
            ours.set_nonblocking(true).unwrap();
            self.introductions.push(TcpStream::from_std(ours), from, now, self.poll.registry());
            peer
        }

        fn look(&mut self) -> Option<(TcpStream, SocketAddr)> {
            let mut area = [0; HEADER_BYTES_MAX];
            self.introductions.next(&mut area, at(0), self.poll.registry())
        }

        /// Polls until somebody is to be looked at.
        fn wait(&mut self) {
            let mut events = Events::with_capacity(16);
            while self.introductions.ready() == 0 {
                self.poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
                assert!(!events.is_empty(), "nothing came within the deadline");
                events.iter().for_each(|event| self.introductions.on_event(event));
            }
        }
    }

    #[test]
    fn only_trusted_peers_are_asked_for_a_header() {
        let world = World::new();
        for peer in ["127.0.0.9", "::1", "::ffff:127.0.0.9"] {
            assert!(world.introductions.expects(peer.parse().unwrap()), "{peer}");
        }
        assert!(!world.introductions.expects("128.0.0.1".parse().unwrap()));
        let off = Introductions::new(&Config { trusted_proxies: "127.0.0.9".into(), ..Config::default() });
        assert!(!off.expects("127.0.0.9".parse().unwrap()));
    }

    #[test]
    fn a_header_byte_by_byte_gives_the_address_and_leaves_what_follows() {
        let mut world = World::new();
        let mut peer = world.connect(at(0));
        assert!(world.look().is_none());
        let (last, before) = HEADER.split_last().unwrap();
        for byte in before {
            peer.write_all(&[*byte]).unwrap();
            world.wait();
            assert!(world.look().is_none());
        }
        peer.write_all(&[*last, b'G', b'E']).unwrap();
        world.wait();
        let (mut stream, from) = world.look().expect("it is whole");
        assert_eq!(from, "192.0.2.7:258".parse().unwrap());
        let mut rest = [0; 8];
        assert_eq!((stream.read(&mut rest).unwrap(), &rest[..2]), (2, &b"GE"[..]));
        assert_eq!(world.introductions.len(), 0);
    }

    #[test]
    fn who_is_late_or_leaves_in_the_middle_is_gone() {
        let mut world = World::new();
        let mut late = world.connect(at(0));
        let mut left = world.connect(at(50));
        late.write_all(&HEADER[..20]).unwrap();
        left.write_all(&HEADER[..20]).unwrap();
        assert!(world.look().is_none() && world.look().is_none());
        assert_eq!(world.introductions.due(), Some(at(100)));
        world.introductions.close_late(at(99));
        assert_eq!(world.introductions.len(), 2);
        world.introductions.close_late(at(100));
        assert_eq!((world.introductions.len(), world.introductions.refused()), (1, 1));
        drop(left);
        while world.introductions.len() > 0 {
            world.wait();
            assert!(world.look().is_none());
        }
        assert_eq!(world.introductions.refused(), 1, "to leave is no fault");
    }

    #[test]
    fn when_many_wait_the_one_that_waited_longest_makes_room() {
        let mut world = World::new();
        let mut peers: VecDeque<_> = (0..WAITING_MAX).map(|_| world.connect(at(0))).collect();
        let oldest = peers.pop_front().unwrap();
        peers.push_back(world.connect(at(1)));
        assert_eq!((world.introductions.len(), world.introductions.refused()), (WAITING_MAX, 1));
        oldest.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(matches!((&oldest).read(&mut [0]), Ok(0)), "it is closed");
        peers.back_mut().unwrap().write_all(HEADER).unwrap();
        let found = (0..=WAITING_MAX).find_map(|_| world.look());
        assert!(found.is_some(), "the newcomer is served");
    }
}
