//! Certificates made for a test, and a bridge by which clients without TLS reach a server with it.
//!
//! With `TEST_TLS=1` in the environment every [`crate::support::TestServer`] stands behind such a bridge, so that
//! the tests of everything else are tests of TLS too: `TEST_TLS=1 cargo test --test it`. The bridge goes on listening and has
//! descriptors of its own, so tests that wait for a closed port or count descriptors fail then: `draining_ends`,
//! `a_draining_server`, `after_a_restart`, `goes_on_trying` and `without_descriptors`.

use crate::support::DEADLINE;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use suzu::config::Config;

static AUTHORITIES: AtomicUsize = AtomicUsize::new(1);

/// A stream that speaks TLS.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// An authority and the certificate that it gave to `localhost` and 127.0.0.1, in files.
pub struct Certificates {
    folder: tempfile::TempDir,
    roots: RootCertStore,
}

impl Certificates {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut made = Self { folder, roots: RootCertStore::empty() };
        made.replace();
        made
    }

    /// Another authority, certificate and key, in the same files.
    pub fn replace(&mut self) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // No two of the same name, or a certificate seems to be of another's making with a wrong signature.
        let number = AUTHORITIES.fetch_add(1, Ordering::Relaxed);
        params.distinguished_name.push(DnType::CommonName, format!("authority {number}"));
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &authority).unwrap();
        for (name, text) in
            [("ca.pem", authority.pem()), ("chain.pem", leaf.pem()), ("key.pem", key.serialize_pem())]
        {
            std::fs::write(self.path(name), text).unwrap();
        }
        self.roots = RootCertStore::empty();
        self.roots.add(authority.der().clone()).unwrap();
    }

    /// `ca.pem`, `chain.pem` or `key.pem`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same configuration with TLS.
    pub fn on(&self, config: Config) -> Config {
        Config {
            tls_certificate: self.path("chain.pem").display().to_string(),
            tls_key: self.path("key.pem").display().to_string(),
            ..config
        }
    }

    /// A session that trusts the authority and offers these protocols.
    pub fn session(&self, protocols: &[&str]) -> ClientConnection {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
    }

    /// Connects, greets, and gives the stream; or why it cannot.
    pub fn connect(&self, addr: SocketAddr) -> io::Result<TlsStream> {
        self.connect_as(addr, &["http/1.1"])
    }

    /// The same, offering these protocols.
    pub fn connect_as(&self, addr: SocketAddr, protocols: &[&str]) -> io::Result<TlsStream> {
        let mut tcp = connect(addr)?;
        let mut session = self.session(protocols);
        while session.is_handshaking() {
            session.complete_io(&mut tcp)?;
        }
        Ok(StreamOwned::new(session, tcp))
    }

    /// Where clients without TLS reach `server`, until the test process ends.
    pub fn bridge(&self, server: SocketAddr) -> SocketAddr {
        self.bridge_with(server, |_| {})
    }

    /// The same with something done to each connection to the server first.
    pub fn bridge_with(
        &self,
        server: SocketAddr,
        prepare: impl Fn(&TcpStream) + Send + Sync + 'static,
    ) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let sessions = Self { folder: tempfile::tempdir().unwrap(), roots: self.roots.clone() };
        let carry = move |local: TcpStream| {
            // A server that refuses shows as an end.
            let Ok(remote) = connect(server) else { return };
            prepare(&remote);
            let session = sessions.session(&["http/1.1"]);
            std::thread::spawn(move || carry_both(local, remote, session));
        };
        std::thread::spawn(move || listener.incoming().flatten().for_each(carry));
        addr
    }
}

fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect_timeout(&addr, DEADLINE)?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(DEADLINE))?;
    tcp.set_write_timeout(Some(DEADLINE))?;
    Ok(tcp)
}

/// Carries bytes between a plain and a TLS connection until both sides are done.
fn carry_both(local: TcpStream, mut remote: TcpStream, mut session: ClientConnection) {
    while session.is_handshaking() {
        if session.complete_io(&mut remote).is_err() {
            return reset(&local);
        }
    }
    session.set_buffer_limit(None);
    remote.set_read_timeout(None).unwrap();
    local.set_nodelay(true).unwrap();
    let session = Arc::new(Mutex::new(session));
    let up = {
        let (local, remote) = (local.try_clone().unwrap(), remote.try_clone().unwrap());
        let session = Arc::clone(&session);
        std::thread::spawn(move || carry_up(local, remote, &session))
    };
    if carry_down(&local, remote, &session).is_err() {
        reset(&local);
    }
    let _ = up.join();
}

fn carry_up(mut local: TcpStream, mut remote: TcpStream, session: &Mutex<ClientConnection>) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let count = local.read(&mut bytes);
        let mut sealed = Vec::new();
        {
            let mut session = session.lock().unwrap();
            match count {
                Ok(0) => session.send_close_notify(),
                Ok(count) => session.writer().write_all(&bytes[..count]).unwrap(),
                // The client reset the connection: so do we.
                Err(_) => return reset(&remote),
            }
            while session.wants_write() {
                session.write_tls(&mut sealed).unwrap();
            }
        }
        if remote.write_all(&sealed).is_err() || matches!(count, Ok(0)) {
            return;
        }
    }
}

fn carry_down(
    mut local: &TcpStream,
    mut remote: TcpStream,
    session: &Mutex<ClientConnection>,
) -> io::Result<()> {
    let mut sealed = vec![0; 16 * 1024];
    loop {
        let count = remote.read(&mut sealed)?;
        let mut rest = &sealed[..count];
        while !rest.is_empty() {
            let mut plain = Vec::new();
            let closed = {
                let mut session = session.lock().unwrap();
                session.read_tls(&mut rest)?;
                let state = session.process_new_packets().map_err(io::Error::other)?;
                plain.resize(state.plaintext_bytes_to_read(), 0);
                session.reader().read_exact(&mut plain)?;
                state.peer_has_closed()
            };
            local.write_all(&plain)?;
            if closed {
                local.shutdown(Shutdown::Write)?;
                // Whoever read to the end may still be sending, to a server that is gone by now.
                return Ok(());
            }
        }
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    let _ = stream.shutdown(Shutdown::Both);
}
