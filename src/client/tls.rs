//! The client's side of TLS: whom it trusts, the greeting, and records in and out.

use super::{Error, Options, Url};
use crate::pem;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A session after the greeting.
pub(super) struct Session {
    state: Mutex<State>,
}

struct State {
    connection: ClientConnection,
    /// Received; from `start` on not yet with the session, which takes no more than it can decrypt.
    incoming: Vec<u8>,
    start: usize,
}

impl Session {
    /// Greets the server and checks its certificate. Waits as long as the socket does, for each step.
    pub(super) fn greet(mut tcp: &TcpStream, url: &Url, options: &Options) -> Result<Session, Error> {
        let fail = |why: String| Error::Tls { address: url.authority(), why };
        let roots = roots(options.ca_file.as_deref()).map_err(fail)?;
        let name = name(url).map_err(fail)?;
        let config = config(roots).map_err(|error| fail(error.to_string()))?;
        let mut connection =
            ClientConnection::new(Arc::new(config), name).map_err(|error| fail(error.to_string()))?;
        // Whoever seals writes everything at once; the limit is what is given to be sealed.
        connection.set_buffer_limit(None);
        while connection.is_handshaking() {
            connection.complete_io(&mut tcp).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => fail(explain(&error)),
                io::ErrorKind::UnexpectedEof => Error::Disconnected,
                _ => Error::from_io(error, "greeting the server by TLS"),
            })?;
        }
        Ok(Session { state: Mutex::new(State { connection, incoming: Vec::new(), start: 0 }) })
    }

    /// Gives bytes that were received to the session.
    pub(super) fn put(&self, sealed: &[u8]) {
        self.lock().incoming.extend_from_slice(sealed);
    }

    /// Takes what is decrypted; none if more must be received first, nothing at the end.
    pub(super) fn take(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let state = &mut *self.lock();
        loop {
            match state.connection.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result.map(Some),
            }
            let mut rest = &state.incoming[state.start..];
            if rest.is_empty() {
                state.incoming.clear();
                state.start = 0;
                return Ok(None);
            }
            state.start += state.connection.read_tls(&mut rest)?;
            state.connection.process_new_packets().map_err(io::Error::other)?;
        }
    }

    /// Appends `bytes` to `sealed` as records, behind what the session itself has to say.
    pub(super) fn seal(&self, bytes: &[u8], sealed: &mut Vec<u8>) {
        let state = &mut *self.lock();
        // A session that failed takes nothing, and the receiver learns why; neither can fail otherwise, in memory.
        let _ = state.connection.writer().write_all(bytes);
        while state.connection.wants_write() && state.connection.write_tls(sealed).is_ok() {}
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins sessions for whoever has many connections on a poll and feeds them itself. Each is of a client that comes for the first
/// time: none goes on where another left off.
#[cfg(feature = "tools")]
pub(crate) struct Greeter {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

#[cfg(feature = "tools")]
impl Greeter {
    /// For the server of that URL, trusting whom the file names, or those that browsers trust.
    pub(crate) fn new(url: &Url, ca_file: Option<&Path>) -> Result<Self, Error> {
        let fail = |why: String| Error::Tls { address: url.authority(), why };
        let name = name(url).map_err(fail)?;
        let mut config = config(roots(ca_file).map_err(fail)?).map_err(|error| fail(error.to_string()))?;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { config: Arc::new(config), name })
    }

    /// The session of a new connection.
    pub(crate) fn begin(&self) -> io::Result<Records> {
        let session = ClientConnection::new(Arc::clone(&self.config), self.name.clone());
        let mut session = session.map_err(io::Error::other)?;
        session.set_buffer_limit(None);
        Ok(Records { session })
    }
}

/// A session on a socket that does not wait: each step goes as far as the socket does, and says `WouldBlock` then.
#[cfg(feature = "tools")]
pub(crate) struct Records {
    session: ClientConnection,
}

#[cfg(feature = "tools")]
impl Records {
    /// Reads what is decrypted; nothing at the end, whether or not that was said.
    pub(crate) fn read(&mut self, from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                result => return result,
            }
            self.session.read_tls(from)?;
            let taken = self.session.process_new_packets().map_err(io::Error::other);
            taken.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, explain(&error)))?;
        }
    }

    /// Writes records, first those that wait and then those of `plain`, which is empty once they are on their way.
    pub(crate) fn write(&mut self, to: &mut impl Write, plain: &mut Vec<u8>) -> io::Result<()> {
        loop {
            while self.session.wants_write() {
                self.session.write_tls(to)?;
            }
            if self.session.is_handshaking() || plain.is_empty() {
                return Ok(());
            }
            self.session.writer().write_all(plain)?;
            plain.clear();
        }
    }
}

fn name(url: &Url) -> Result<ServerName<'static>, String> {
    ServerName::try_from(url.host.clone())
        .map_err(|_| "a certificate cannot be for a host of that name".into())
}

fn config(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Those whom the file names, or those that browsers trust.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let Some(path) = ca_file else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let of = |why: String| format!("the file of authorities {}: {why}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in pem::certificates(path).map_err(of)? {
        roots.add(certificate).map_err(|error| of(error.to_string()))?;
    }
    Ok(roots)
}

/// What the greeting failed of, and what to do.
fn explain(error: &io::Error) -> String {
    use rustls::Error as Tls;
    let Some(cause) = error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>()) else {
        return error.to_string();
    };
    let advice = match cause {
        Tls::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "; if you know who issued it, give their certificate as the file of authorities (--ca-file)"
        }
        Tls::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "; use the name that is in the certificate",
        Tls::InvalidCertificate(CertificateError::Other(other))
            if other.to_string().contains("CaUsedAsEnd") =>
        {
            "; it is the certificate of an authority, which no server may show: make one with basicConstraints=CA:FALSE"
        }
        Tls::InvalidMessage(_) => "; does it speak TLS on that port? Without TLS the URL begins with ws://",
        _ => "",
    };
    format!("{cause}{advice}")
}
