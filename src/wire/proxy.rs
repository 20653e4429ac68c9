//! The header that a proxy sends ahead of a connection: version 2 of the PROXY protocol (haproxy, `proxy-protocol.txt`,
//! section 2.2).
//!
//! Pure: bytes to [`Header`]. It keeps nothing, so it is asked again with more bytes until it knows, and it never looks
//! beyond the header: what follows belongs to the client. Whether whoever sends a header is believed is the caller's matter.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header that is taken. The addresses need 232 bytes at the most; common proxies add some ten to a few hundred
/// bytes of extensions, a certificate of a client a few thousand.
pub const HEADER_BYTES_MAX: usize = 4096;

/// No text protocol begins like this.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What version 1 begins with, which is text.
const SIGNATURE_V1: &[u8; 6] = b"PROXY ";
/// Signature, version and command, family and transport, and the length of the rest.
const FIXED_BYTES: usize = 16;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client's at that address.
    Client(SocketAddr),
    /// A client's, and the proxy cannot say where it is: it came by no network, or by one of another kind.
    Unknown,
    /// The proxy's own, to see whether the server lives.
    Proxy,
}

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// So many bytes it has; what follows is the client's.
    pub length: usize,
    /// Whose connection it is.
    pub origin: Origin,
}

/// Why there is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It begins with something else.
    Missing,
    /// It is one of version 1.
    Version1,
    /// It is of a version that does not exist yet.
    Version(u8),
    /// It asks for something that version 2 does not know.
    Command(u8),
    /// Its addresses are of a kind that version 2 does not know.
    Family(u8),
    /// It is too short for its addresses.
    Short,
    /// It is longer than [`HEADER_BYTES_MAX`].
    Long(usize),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Missing => f.write_str("the connection does not begin with a header of the PROXY protocol"),
            Flaw::Version1 => f.write_str(
                "the header of the PROXY protocol is of version 1, and only version 2 is taken: let the proxy send that \
                 (`send-proxy-v2` for haproxy)",
            ),
            Flaw::Version(version) => {
                write!(f, "the header of the PROXY protocol is of version {version}, not 2")
            }
            Flaw::Command(command) => {
                write!(f, "the header of the PROXY protocol has an unknown command, {command:#x}")
            }
            Flaw::Family(family) => {
                write!(f, "the header of the PROXY protocol has addresses of an unknown kind, {family:#04x}")
            }
            Flaw::Short => f.write_str("the header of the PROXY protocol is too short for its addresses"),
            Flaw::Long(length) => {
                write!(f, "the header of the PROXY protocol has {length} bytes, more than {HEADER_BYTES_MAX}")
            }
        }
    }
}

/// Looks for a header at the beginning of what has come; none as long as it may still become one.
///
/// # Errors
/// It cannot become one any more, which is told as early as it shows.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Flaw> {
    if !is_begun(bytes, SIGNATURE) {
        return match is_begun(bytes, SIGNATURE_V1) {
            true if bytes.len() < SIGNATURE_V1.len() => Ok(None),
            true => Err(Flaw::Version1),
            false => Err(Flaw::Missing),
        };
    }
    let Some(&command) = bytes.get(SIGNATURE.len()) else { return Ok(None) };
    let is_local = match (command >> 4, command & 0xf) {
        (2, 0) => true,
        (2, 1) => false,
        (2, command) => return Err(Flaw::Command(command)),
        (version, _) => return Err(Flaw::Version(version)),
    };
    let Some(&family) = bytes.get(SIGNATURE.len() + 1) else { return Ok(None) };
    let needed = address_bytes(family)?;
    let Some(&[high, low]) = bytes.get(SIGNATURE.len() + 2..FIXED_BYTES) else { return Ok(None) };
    let rest = usize::from(u16::from_be_bytes([high, low]));
    let length = FIXED_BYTES + rest;
    if length > HEADER_BYTES_MAX {
        return Err(Flaw::Long(length));
    }
    // The addresses of a proxy's own connection say nothing, so they need not be there.
    if rest < needed && !is_local {
        return Err(Flaw::Short);
    }
    let Some(block) = bytes.get(FIXED_BYTES..length) else { return Ok(None) };
    let origin = if is_local { Origin::Proxy } else { source(family, block) };
    Ok(Some(Header { length, origin }))
}

/// Whether the bytes are the beginning of what begins so, or begin so.
fn is_begun(bytes: &[u8], signature: &[u8]) -> bool {
    let known = bytes.len().min(signature.len());
    bytes[..known] == signature[..known]
}

/// How many bytes both addresses of that family have together.
fn address_bytes(family: u8) -> Result<usize, Flaw> {
    // Below stands the transport: none, stream or datagram. A connection is a stream whatever it says.
    match (family >> 4, family & 0xf) {
        (0, 0..=2) => Ok(0),
        (1, 0..=2) => Ok(12),
        (2, 0..=2) => Ok(36),
        (3, 0..=2) => Ok(216),
        _ => Err(Flaw::Family(family)),
    }
}

/// The client's address, which stands first; its port behind both addresses.
fn source(family: u8, block: &[u8]) -> Origin {
    let address: Option<(IpAddr, &[u8])> = match family >> 4 {
        1 => block.first_chunk::<4>().map(|octets| (Ipv4Addr::from(*octets).into(), &block[8..])),
        2 => block.first_chunk::<16>().map(|octets| (Ipv6Addr::from(*octets).into(), &block[32..])),
        _ => None,
    };
    match address {
        Some((ip, [high, low, ..])) => Origin::Client(SocketAddr::new(ip, u16::from_be_bytes([*high, *low]))),
        _ => Origin::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ppp::v2::{Addresses, Builder, Command, Protocol, Unix, Version};
    use proptest::prelude::*;

    /// What another's code writes.
    fn written(command: Command, addresses: Addresses, extensions: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let builder = Builder::with_addresses(Version::Two | command, Protocol::Stream, addresses);
        let add = |builder: Builder, (kind, value): &(u8, Vec<u8>)| builder.write_tlv(*kind, value).unwrap();
        extensions.iter().fold(builder, add).build().unwrap()
    }

    fn header(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, block].concat()
    }

    fn extensions() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
        prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..200)), 0..8)
    }

    fn check(bytes: &[u8], origin: Origin, behind: &[u8]) {
        let known = Ok(Some(Header { length: bytes.len(), origin }));
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Ok(None), "{end} of {} bytes", bytes.len());
        }
        assert_eq!(parse(bytes), known);
        assert_eq!(parse(&[bytes, behind].concat()), known);
    }

    proptest! {
        #[test]
        fn what_another_writes_is_read_wherever_it_is_cut(
            source: SocketAddr,
            target: SocketAddr,
            extensions in extensions(),
            behind: Vec<u8>,
        ) {
            let target = match source {
                SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), target.port()),
                SocketAddr::V6(_) => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), target.port()),
            };
            let addresses = Addresses::from((source, target));
            let plain = SocketAddr::new(source.ip(), source.port());
            check(&written(Command::Proxy, addresses, &extensions), Origin::Client(plain), &behind);
            check(&written(Command::Local, addresses, &extensions), Origin::Proxy, &behind);
        }

        #[test]
        fn who_came_by_no_network_is_unknown(extensions in extensions(), behind: Vec<u8>, path: [u8; 32]) {
            let mut name = [0; 108];
            name[..32].copy_from_slice(&path);
            for addresses in [Addresses::Unspecified, Unix::new(name, [1; 108]).into()] {
                check(&written(Command::Proxy, addresses, &extensions), Origin::Unknown, &behind);
            }
        }

        #[test]
        fn another_reader_takes_whatever_is_taken(command: u8, family: u8, block in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = header(command, family, &block);
            let theirs = ppp::v2::Header::try_from(&bytes[..]);
            match parse(&bytes) {
                Ok(Some(header)) => {
                    prop_assert_eq!(header.length, bytes.len());
                    // The other looks at the addresses of a proxy's own connections too.
                    prop_assert!(theirs.is_ok() || header.origin == Origin::Proxy, "{theirs:?}");
                }
                other => prop_assert!(theirs.is_err(), "{other:?}"),
            }
        }

        #[test]
        fn more_bytes_never_change_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..40), cut: prop::sample::Index) {
            let bytes = [&SIGNATURE[..], &bytes].concat();
            let early = parse(&bytes[..cut.index(bytes.len())]);
            prop_assert!(early == Ok(None) || early == parse(&bytes));
        }
    }

    #[test]
    fn what_is_no_header_is_named_as_early_as_it_shows() {
        assert_eq!(parse(b"G"), Err(Flaw::Missing));
        assert_eq!(parse(b"\r\n\r\n\0\r\nQUIX"), Err(Flaw::Missing));
        assert_eq!(parse(b"\x16\x03\x01"), Err(Flaw::Missing));
        assert_eq!(parse(b"PROX"), Ok(None));
        assert_eq!(parse(b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n"), Err(Flaw::Version1));
        assert_eq!(parse(b"PROPFIND"), Err(Flaw::Missing));
        assert_eq!(parse(&header(0x11, 0x11, &[0; 12])[..13]), Err(Flaw::Version(1)));
        assert_eq!(parse(&header(0x22, 0x11, &[0; 12])[..13]), Err(Flaw::Command(2)));
        assert_eq!(parse(&header(0x21, 0x41, &[0; 12])[..14]), Err(Flaw::Family(0x41)));
        assert_eq!(parse(&header(0x21, 0x13, &[0; 12])[..14]), Err(Flaw::Family(0x13)));
        assert_eq!(parse(&header(0x21, 0x21, &[0; 35])[..16]), Err(Flaw::Short));
        assert_eq!(parse(&header(0x21, 0x00, &[0; 4081])[..16]), Err(Flaw::Long(4097)));
        assert!(matches!(parse(&header(0x21, 0x00, &[0; 4080])), Ok(Some(Header { length: 4096, .. }))));
    }

    #[test]
    fn a_proxys_own_connection_needs_no_addresses() {
        check(&header(0x20, 0x11, &[]), Origin::Proxy, b"GET");
        check(&header(0x20, 0x00, &[1, 2, 3]), Origin::Proxy, b"GET");
    }
}
