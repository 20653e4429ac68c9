//! Tests of TLS on bytes in memory: against the client of rustls, with the bytes cut at random.

use super::*;
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io::{Read, Write};
use std::sync::LazyLock;

/// The area of the loop.
const AREA_BYTES: usize = 64 * 1024;

/// Files of a server, and what its clients trust.
struct Made {
    folder: tempfile::TempDir,
    roots: RootCertStore,
}

impl Made {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &authority).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("chain.pem"), leaf.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        Self { folder, roots }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn config(&self) -> Config {
        Config { tls_certificate: self.path("chain.pem"), tls_key: self.path("key.pem"), ..Config::default() }
    }

    fn acceptor(&self) -> Acceptor {
        Acceptor::open(&self.config()).unwrap().expect("TLS is asked for")
    }

    fn client(&self, tls12: bool) -> ClientConnection {
        let versions: &[_] = if tls12 { &[&rustls::version::TLS12] } else { rustls::DEFAULT_VERSIONS };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
    }
}

static MADE: LazyLock<Made> = LazyLock::new(Made::new);

/// A client and a server, and the bytes between them.
struct Pair {
    acceptor: Acceptor,
    client: ClientConnection,
    server: Box<Tls>,
    area: Vec<u8>,
    /// On the way to the server, and to the client.
    up: Vec<u8>,
    down: Vec<u8>,
    heard_by_server: Vec<u8>,
    heard_by_client: Vec<u8>,
    /// Of the core: to be written, of which so much is told as sent.
    outgoing: Vec<u8>,
    sent: usize,
    fault: Option<String>,
}

impl Pair {
    fn new(tls12: bool) -> Self {
        let acceptor = MADE.acceptor();
        let server = acceptor.accept().unwrap();
        Self {
            acceptor,
            client: MADE.client(tls12),
            server,
            area: vec![0; AREA_BYTES],
            up: Vec::new(),
            down: Vec::new(),
            heard_by_server: Vec::new(),
            heard_by_client: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            fault: None,
        }
    }

    /// After the handshake, with nothing on the way.
    fn greeted(tls12: bool) -> Self {
        let mut pair = Self::new(tls12);
        pair.settle(|| usize::MAX);
        assert!(!pair.server.is_greeting() && !pair.client.is_handshaking());
        pair
    }

    /// Moves bytes until nothing moves any more, each time so many at most.
    fn settle(&mut self, mut cut: impl FnMut() -> usize) {
        loop {
            let before = (self.up.len(), self.down.len(), self.sent, self.server.unsent().len());
            self.client_writes();
            let moved = self.reach_server(cut()) | self.leave_server(cut()) | self.reach_client(cut());
            let after = (self.up.len(), self.down.len(), self.sent, self.server.unsent().len());
            if !moved && before == after && !self.client.wants_write() {
                return;
            }
        }
    }

    fn client_writes(&mut self) {
        while self.client.wants_write() {
            self.client.write_tls(&mut self.up).unwrap();
        }
    }

    fn reach_server(&mut self, count: usize) -> bool {
        if self.up.is_empty() || self.fault.is_some() {
            return false;
        }
        let room = self.server.room(&mut self.area).expect("the area is large enough");
        let count = count.min(self.up.len()).min(room.len());
        room[..count].copy_from_slice(&self.up[..count]);
        self.up.drain(..count);
        let opened = self.server.open(&mut self.area, count);
        self.heard_by_server.extend_from_slice(&self.area[..opened.bytes]);
        self.fault = opened.fault;
        true
    }

    /// As a socket does that takes so many bytes at a time.
    fn leave_server(&mut self, count: usize) -> bool {
        let before = self.down.len();
        if self.server.unsent().is_empty() && !self.server.is_greeting() && self.sent < self.outgoing.len() {
            self.server.seal(&self.outgoing[self.sent..]).unwrap();
        }
        let count = count.min(self.server.unsent().len());
        if count > 0 {
            self.down.extend_from_slice(&self.server.unsent()[..count]);
            self.sent += self.server.on_sent(count);
        }
        self.down.len() > before
    }

    fn reach_client(&mut self, count: usize) -> bool {
        let count = count.min(self.down.len());
        let mut bytes = &self.down[..count];
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).unwrap();
            let plain = self.client.process_new_packets().unwrap().plaintext_bytes_to_read();
            let start = self.heard_by_client.len();
            self.heard_by_client.resize(start + plain, 0);
            self.client.reader().read_exact(&mut self.heard_by_client[start..]).unwrap();
        }
        self.down.drain(..count);
        count > 0
    }

    fn held(&self) -> usize {
        self.acceptor.common.partial.load(Relaxed) + self.acceptor.common.sealed.load(Relaxed)
    }
}

/// Numbers of no pattern, the same for the same seed.
fn random(seed: u64) -> impl FnMut() -> usize {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize
    }
}

fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut random = random(seed);
    (0..count).map(|_| random() as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn whatever_the_cuts_each_hears_what_the_other_said(
        seed: u64,
        tls12: bool,
        most in prop::sample::select(vec![1usize, 7, 100, 5_000, 100_000]),
        lengths in prop::collection::vec((0usize..40_000, 0usize..40_000), 1..4),
    ) {
        let mut pair = Pair::new(tls12);
        let mut number = random(seed);
        let mut cut = || 1 + number() % most;
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for (index, (of_client, of_server)) in lengths.into_iter().enumerate() {
            let scale = if most < 100 { 50 } else { 1 };
            let said = bytes(of_client / scale, seed ^ index as u64);
            pair.client.writer().write_all(&said).unwrap();
            up.extend(said);
            let said = bytes(of_server / scale, !seed ^ index as u64);
            pair.outgoing.extend_from_slice(&said);
            down.extend(said);
            if index == 1 && !tls12 && !pair.client.is_handshaking() {
                pair.client.refresh_traffic_keys().unwrap();
            }
            pair.settle(&mut cut);
        }
        prop_assert!(pair.fault.is_none(), "{:?}", pair.fault);
        prop_assert!(pair.heard_by_server == up);
        prop_assert!(pair.heard_by_client == down);
        prop_assert_eq!(pair.sent, pair.outgoing.len());
        prop_assert_eq!(pair.held(), 0);
        prop_assert_eq!(pair.acceptor.handshakes(), (1, 0));
        prop_assert_eq!(pair.client.alpn_protocol(), Some(&b"http/1.1"[..]));
    }

    #[test]
    fn no_bytes_make_it_panic(seed: u64, count in 0usize..3_000, damage in prop::option::of(0usize..600)) {
        let mut pair = Pair::new(false);
        match damage {
            // A handshake with one byte that is not right.
            Some(place) => {
                pair.client_writes();
                let place = place.min(pair.up.len() - 1);
                pair.up[place] ^= 1 << (seed % 8);
            }
            None => pair.up = bytes(count, seed),
        }
        let mut number = random(seed);
        while pair.reach_server(1 + number() % 500) {}
        pair.server.say_goodbye();
    }
}

#[test]
fn bytes_count_as_sent_only_when_their_record_is_away() {
    let mut pair = Pair::greeted(false);
    pair.outgoing = bytes(40_000, 1);
    pair.server.seal(&pair.outgoing).unwrap();
    let whole = pair.server.unsent().len();
    assert!((PIECE_BYTES..PIECE_BYTES + OVERHEAD_BYTES).contains(&whole), "{whole}");
    assert_eq!(pair.held(), whole, "it is counted while it waits");
    assert_eq!(pair.server.on_sent(whole - 1), 0);
    assert_eq!(pair.server.on_sent(1), PIECE_BYTES);
    assert_eq!(pair.held(), 0);
}

#[test]
fn the_goodbye_of_the_peer_is_the_end_and_it_may_still_be_answered() {
    let mut pair = Pair::greeted(false);
    pair.client.writer().write_all(b"that was all").unwrap();
    pair.client.send_close_notify();
    pair.outgoing = b"an answer".to_vec();
    pair.settle(|| usize::MAX);
    assert_eq!((pair.heard_by_server, pair.fault), (b"that was all".to_vec(), None));
    assert!(pair.server.is_finished());
    assert_eq!(pair.heard_by_client, b"an answer");
}

#[test]
fn our_goodbye_reaches_the_peer() {
    let mut pair = Pair::greeted(false);
    pair.server.say_goodbye();
    pair.down.extend_from_slice(pair.server.unsent());
    pair.client.read_tls(&mut &pair.down[..]).unwrap();
    assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
}

#[test]
fn what_is_no_tls_is_a_fault_and_an_alert_waits() {
    let mut pair = Pair::new(false);
    pair.up = b"SSH-2.0-x\r\n".map(|byte| byte | 0x20).to_vec();
    pair.reach_server(usize::MAX);
    assert!(pair.fault.is_some());
    // An alert: 21, a version, two bytes, of which the first says that it is fatal.
    let alert = pair.server.unsent();
    assert!(alert.len() == 7 && alert[0] == 21 && alert[5] == 2, "{alert:?}");
    let Pair { acceptor, server, .. } = pair;
    drop(server);
    assert_eq!(acceptor.handshakes(), (0, 1));
}

#[test]
fn who_speaks_without_tls_is_told() {
    let mut pair = Pair::new(false);
    pair.up = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    pair.reach_server(usize::MAX);
    assert!(pair.fault.is_some());
    let answer = std::str::from_utf8(pair.server.unsent()).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400 ") && body.contains("https://"), "{answer}");
    assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{answer}");
}

#[test]
fn a_damaged_record_is_a_fault_behind_what_came_before_it() {
    let mut pair = Pair::greeted(false);
    pair.client.writer().write_all(b"sound").unwrap();
    pair.client_writes();
    let sound = pair.up.len();
    pair.client.writer().write_all(b"damaged").unwrap();
    pair.client_writes();
    pair.up[sound + 8] ^= 1;
    pair.reach_server(usize::MAX);
    assert_eq!(pair.heard_by_server, b"sound");
    assert!(pair.fault.is_some() && !pair.server.unsent().is_empty());
}

#[test]
fn a_message_of_the_handshake_without_end_is_a_fault() {
    let mut pair = Pair::new(false);
    // A ClientHello of 60,000 bytes, in records of 16,000.
    let mut hello = vec![1, 0, 0xea, 0x60];
    hello.resize(60_004, 0);
    for part in hello.chunks(16_000) {
        pair.up.extend_from_slice(&[22, 3, 1]);
        pair.up.extend_from_slice(&(part.len() as u16).to_be_bytes());
        pair.up.extend_from_slice(part);
    }
    while pair.reach_server(5_000) {
        assert!(pair.server.partial.len() <= RECORD_BYTES_MAX);
    }
    assert!(pair.fault.as_ref().is_some_and(|fault| fault.contains("longer than")), "{:?}", pair.fault);
}

/// The beginning of the longest record that there is.
fn begun() -> Vec<u8> {
    [&[22, 3, 1, 0x40, 0][..], &[1, 0, 0x3f, 0xfc], &[0; 15_000]].concat()
}

#[test]
fn all_together_hold_no_more_than_the_limit_and_whole_records_pass_all_the_same() {
    let config = Config { tls_bytes_total_max: 1 << 20, ..MADE.config() };
    let mut pair = Pair::new(false);
    pair.acceptor = Acceptor::open(&config).unwrap().unwrap();
    pair.server = pair.acceptor.accept().unwrap();
    let begun = begun();
    let mut area = vec![0; AREA_BYTES];
    let mut others = Vec::new();
    while !pair.server.is_scarce() {
        let mut other = pair.acceptor.accept().unwrap();
        other.room(&mut area).unwrap()[..begun.len()].copy_from_slice(&begun);
        assert_eq!(other.open(&mut area, begun.len()), Opened { bytes: 0, fault: None });
        others.push(other);
    }
    let held = pair.held();
    assert!(held <= 1 << 20 && held + RECORD_BYTES_MAX > 1 << 20, "{held}");
    assert_eq!(pair.server.whole(&begun), 0, "it stays with the kernel");

    // As a socket does: what is whole is taken, the rest when it is.
    let said = bytes(50_000, 1);
    pair.client.writer().write_all(&said).unwrap();
    pair.outgoing = said.clone();
    let mut number = random(5);
    while pair.heard_by_server.len() < said.len() || pair.sent < said.len() {
        pair.client_writes();
        let come = (1 + number() % 30_000).min(pair.up.len());
        pair.reach_server(pair.server.whole(&pair.up[..come]));
        pair.leave_server(usize::MAX);
        pair.reach_client(usize::MAX);
        assert_eq!((pair.held(), &pair.fault), (held, &None));
    }
    pair.settle(|| usize::MAX);
    assert!(pair.heard_by_server == said && pair.heard_by_client == said);
    drop(others);
    assert_eq!(pair.held(), 0);
}

#[test]
fn records_get_small_while_many_wait_to_be_sent() {
    let mut pair = Pair::greeted(false);
    pair.acceptor.common.sealed.store(usize::MAX / 2, Relaxed);
    pair.server.seal(&[7; 40_000]).unwrap();
    assert!(pair.server.unsent().len() < PIECE_BYTES_SCARCE + OVERHEAD_BYTES);
}

#[test]
fn what_is_whole_is_told_by_the_heads_of_records() {
    let mut pair = Pair::greeted(false);
    for count in [1, 100, 16_384] {
        pair.client.writer().write_all(&vec![1; count]).unwrap();
        pair.client_writes();
    }
    let up = pair.up.clone();
    let mut ends = Vec::new();
    for count in 0..=up.len() {
        let whole = pair.server.whole(&up[..count]);
        assert!(whole <= count);
        if ends.last() != Some(&whole) {
            ends.push(whole);
        }
    }
    assert_eq!((ends.len(), ends.last()), (4, Some(&up.len())));
    // With the beginning in hand, what is missing of it counts.
    pair.reach_server(3);
    assert_eq!(pair.server.whole(&up[3..ends[1] - 1]), 0);
    assert_eq!(pair.server.whole(&up[3..ends[1]]), ends[1] - 3);
    // What is no record is taken, so that it is found out.
    let other = pair.acceptor.accept().unwrap();
    assert_eq!(other.whole(&[255; 100]), 100);
}

#[test]
fn files_that_cannot_be_used_are_named_with_what_to_do() {
    let other = Made::new();
    let refused = |certificate: String, key: String| {
        let config = Config { tls_certificate: certificate, tls_key: key, ..Config::default() };
        Acceptor::open(&config).err().expect("it cannot be used").to_string()
    };
    let chain = MADE.path("chain.pem");
    let missing = refused(MADE.path("none.pem"), MADE.path("key.pem"));
    assert!(missing.contains("tls_certificate = ") && missing.contains("none.pem"), "{missing}");
    let swapped = refused(MADE.path("key.pem"), MADE.path("key.pem"));
    assert!(swapped.contains("BEGIN CERTIFICATE"), "{swapped}");
    let swapped = refused(chain.clone(), chain.clone());
    assert!(swapped.contains("tls_key = ") && swapped.contains("BEGIN PRIVATE KEY"), "{swapped}");
    let mixed = refused(chain, other.path("key.pem"));
    assert!(mixed.contains("it is not the key of"), "{mixed}");
}

#[test]
fn a_new_certificate_is_taken_and_a_faulty_one_is_not() {
    let made = Made::new();
    let mut acceptor = made.acceptor();
    let before = Arc::clone(&acceptor.sessions);
    std::fs::write(made.path("chain.pem"), "half a fi").unwrap();
    acceptor.renew(acceptor.identity().read());
    assert!(Arc::ptr_eq(&before, &acceptor.sessions), "what works stays");
    let other = Made::new();
    for name in ["chain.pem", "key.pem"] {
        std::fs::copy(other.path(name), made.path(name)).unwrap();
    }
    acceptor.renew(acceptor.identity().read());
    assert!(!Arc::ptr_eq(&before, &acceptor.sessions));
}
