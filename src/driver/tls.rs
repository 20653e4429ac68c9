//! TLS of one connection: the socket's bytes on one side, the core's on the other.
//!
//! Owns the session, the beginning of a record whose end has not come, and what is encrypted but not yet with the
//! kernel. It touches no socket and no clock: [`super::socket`] reads into the room that it is given here and writes
//! what is left here, so all of it is tested on bytes in memory.
//!
//! Invariants: no plaintext stays behind in here, in neither direction. Whatever a read brought is decrypted into the
//! loop's receive area at once; bytes of the core are told as sent when the record around them is with the kernel, so
//! closing never loses one. An idle connection holds no buffer. What all connections hold together has a limit, each way
//! ([`Common`]); nobody is cut off for what others hold.

use crate::config::Config;
use crate::pem;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError};
use rustls::{Error, InconsistentKeys, ServerConfig};
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The longest record, with its head (RFC 8446 and, for older peers, RFC 5246).
const RECORD_BYTES_MAX: usize = HEAD_BYTES + (16 << 10) + 2048;
/// The most plaintext that goes into one record.
const PIECE_BYTES: usize = 16 << 10;
/// The same while all connections together hold too much: each goes on, in small steps.
const PIECE_BYTES_SCARCE: usize = 256;
/// The head of a record: its type, a version, and the length of the rest.
const HEAD_BYTES: usize = 5;
/// What a record is longer than its plaintext, generously; a key update may go along.
const OVERHEAD_BYTES: usize = 128;

/// What a client hears that speaks HTTP without TLS.
const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\
    Content-Length: 50\r\n\r\nThis port speaks TLS: ask by https:// or wss://.\r\n";

/// What makes new connections speak TLS.
pub(super) struct Acceptor {
    sessions: Sessions,
    identity: Identity,
    common: Arc<Common>,
}

/// What new connections begin with: the certificate, and what else they share.
pub(super) type Sessions = Arc<ServerConfig>;

/// Where certificate and key stand.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    certificate: PathBuf,
    key: PathBuf,
}

/// What all connections share.
#[derive(Debug, Default)]
struct Common {
    /// Bytes of records that are half received. Near the limit the rest of them stays with the kernel until they are whole.
    partial: AtomicUsize,
    /// Bytes of records that are half sent. Beyond the limit records get small.
    sealed: AtomicUsize,
    /// For each of the two: `tls_bytes_total_max`.
    held_max: usize,
    greeted: AtomicU64,
    failed: AtomicU64,
}

impl Acceptor {
    /// Reads certificate and key; none if the configuration asks for no TLS.
    ///
    /// # Errors
    /// Names the setting, the file and what to do.
    pub(super) fn open(config: &Config) -> io::Result<Option<Self>> {
        if config.tls_certificate.is_empty() {
            return Ok(None);
        }
        let identity = Identity {
            certificate: PathBuf::from(&config.tls_certificate),
            key: PathBuf::from(&config.tls_key),
        };
        let sessions = identity.read().map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
        let common = Common { held_max: config.tls_bytes_total_max, ..Common::default() };
        Ok(Some(Self { sessions, identity, common: Arc::new(common) }))
    }

    /// What another thread can read again.
    pub(super) fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// New connections get the certificate that was read again. If it cannot be used, the one before stays.
    pub(super) fn renew(&mut self, read: Result<Sessions, String>) {
        match read {
            Ok(sessions) => {
                self.sessions = sessions;
                let path = self.identity.certificate.display();
                log::info!("new connections get the certificate in {path} as it is now");
            }
            Err(why) => log::error!("the certificate in use stays: {why}; mend it and reload again"),
        }
    }

    /// The TLS of a connection just accepted.
    ///
    /// # Errors
    /// If the settings of rustls contradict each other.
    pub(super) fn accept(&self) -> io::Result<Box<Tls>> {
        let session =
            UnbufferedServerConnection::new(Arc::clone(&self.sessions)).map_err(io::Error::other)?;
        Ok(Box::new(Tls {
            session,
            common: Arc::clone(&self.common),
            partial: Vec::new(),
            sealed: Vec::new(),
            written: 0,
            taken: 0,
            counted: (0, 0),
            stage: Stage::Greeting,
        }))
    }

    /// Handshakes done and failed so far. Whoever left in the middle of one failed.
    pub(super) fn handshakes(&self) -> (u64, u64) {
        (self.common.greeted.load(Relaxed), self.common.failed.load(Relaxed))
    }
}

impl Identity {
    /// Reads both files. Blocks: once it runs, not for the loop's thread.
    pub(super) fn read(&self) -> Result<Sessions, String> {
        let of = |setting: &str, path: &Path, why: String| format!("{setting} = {path:?}: {why}");
        let chain = pem::certificates(&self.certificate);
        let chain = chain.map_err(|why| of("tls_certificate", &self.certificate, why))?;
        let key = pem::private_key(&self.key).map_err(|why| of("tls_key", &self.key, why))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let refused = |error: Error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => of(
                "tls_key",
                &self.key,
                format!(
                    "it is not the key of the first certificate in {}; give the two that were made together",
                    self.certificate.display()
                ),
            ),
            error => {
                of("tls_certificate", &self.certificate, format!("cannot be used with its key: {error}"))
            }
        };
        let mut sessions = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(refused)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(refused)?;
        sessions.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Whoever comes again skips the signature, and the server remembers nothing of anybody: the client keeps it,
        // sealed. Each reading makes new keys for that, so a new certificate holds for everybody.
        sessions.ticketer = rustls::crypto::ring::Ticketer::new().map_err(refused)?;
        Ok(Arc::new(sessions))
    }
}

/// The TLS of one connection.
pub(super) struct Tls {
    session: UnbufferedServerConnection,
    common: Arc<Common>,
    /// The beginning of a record whose end has not come.
    partial: Vec<u8>,
    /// Records of which the first `written` bytes are with the kernel.
    sealed: Vec<u8>,
    written: usize,
    /// So many of the core's bytes are in `sealed`.
    taken: usize,
    /// Bytes counted in [`Common::partial`] and [`Common::sealed`].
    counted: (usize, usize),
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The handshake is under way.
    Greeting,
    /// Both sides may speak.
    Open,
    /// The peer said that it sends no more.
    Finished,
}

/// What [`Tls::open`] gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opened {
    /// So many bytes stand at the beginning of the area.
    pub(super) bytes: usize,
    /// What the peer did wrong. An alert waits to be written; nothing else can be done.
    pub(super) fault: Option<String>,
}

/// What is wanted of the session beside taking in what came.
#[derive(Clone, Copy)]
enum Wish<'a> {
    Nothing,
    Seal(&'a [u8]),
    Goodbye,
}

/// One step of the session.
struct Step {
    /// Bytes of what came that are done with.
    used: usize,
    /// Bytes of plaintext.
    opened: usize,
    /// It may have more to tell.
    again: bool,
}

impl Tls {
    /// Whether the handshake is under way.
    pub(super) fn is_greeting(&self) -> bool {
        self.stage == Stage::Greeting
    }

    /// Whether the peer said that it sends no more.
    pub(super) fn is_finished(&self) -> bool {
        self.stage == Stage::Finished
    }

    /// Where in the area the socket is to be read to; none if there is not room for the longest record, so that whatever
    /// is there can become whole.
    pub(super) fn room<'a>(&self, area: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let start = RECORD_BYTES_MAX + self.partial.len();
        if area.len() < start + RECORD_BYTES_MAX {
            return None;
        }
        area[RECORD_BYTES_MAX..start].copy_from_slice(&self.partial);
        Some(&mut area[start..])
    }

    /// Whether so much is held that only whole records are to be taken in.
    pub(super) fn is_scarce(&self) -> bool {
        self.common.partial.load(Relaxed) + RECORD_BYTES_MAX > self.common.held_max
    }

    /// How many of the bytes that come next belong to whole records.
    pub(super) fn whole(&self, next: &[u8]) -> usize {
        let held = self.partial.len();
        let byte = |place: usize| self.partial.get(place).or_else(|| next.get(place - held)).copied();
        let mut end = 0;
        while let (Some(high), Some(low)) = (byte(end + 3), byte(end + 4)) {
            let following = end + HEAD_BYTES + usize::from(u16::from_be_bytes([high, low]));
            // Whatever is longer is no record, and is told so.
            if following > held + next.len() && following - end <= RECORD_BYTES_MAX {
                break;
            }
            end = following.min(held + next.len());
        }
        end.saturating_sub(held)
    }

    /// Decrypts `count` bytes that were read into [`Tls::room`] to the beginning of the same area.
    ///
    /// The gap in front is one record long, and plaintext is shorter than its record, so it never catches up.
    pub(super) fn open(&mut self, area: &mut [u8], count: usize) -> Opened {
        let end = RECORD_BYTES_MAX + self.partial.len() + count;
        self.partial = Vec::new();
        let (mut start, mut bytes) = (RECORD_BYTES_MAX, 0);
        let fault = loop {
            let (plain, incoming) = area[..end].split_at_mut(start);
            match self.step(incoming, &mut plain[bytes..], Wish::Nothing) {
                Ok(step) => {
                    start += step.used;
                    bytes += step.opened;
                    if !step.again {
                        break self.keep(&area[start..end]).err();
                    }
                }
                // No record begins with a letter, and every request does.
                Err(_) if self.is_greeting() && incoming.first().is_some_and(u8::is_ascii_uppercase) => {
                    self.sealed = PLAIN_ANSWER.to_vec();
                    break Some("it speaks without TLS".into());
                }
                Err(error) => {
                    self.seal_alert(incoming);
                    break Some(error.to_string());
                }
            }
        };
        if self.stage == Stage::Greeting && !self.session.is_handshaking() {
            self.stage = Stage::Open;
            self.common.greeted.fetch_add(1, Relaxed);
        }
        self.count_held();
        Opened { bytes, fault }
    }

    /// Encrypts the first of `bytes`, when nothing is unsent and the handshake is done.
    ///
    /// # Errors
    /// If the session can encrypt nothing any more.
    pub(super) fn seal(&mut self, bytes: &[u8]) -> Result<(), String> {
        debug_assert!(self.unsent().is_empty() && !self.is_greeting());
        let scarce = self.common.sealed.load(Relaxed) + PIECE_BYTES > self.common.held_max;
        let piece = if scarce { PIECE_BYTES_SCARCE } else { PIECE_BYTES };
        let piece = &bytes[..bytes.len().min(piece)];
        self.wish(Wish::Seal(piece))?;
        if self.unsent().is_empty() {
            return Err("the session ended".into());
        }
        self.taken = piece.len();
        Ok(())
    }

    /// Encrypts the goodbye, so that the peer knows that nothing was cut off.
    pub(super) fn say_goodbye(&mut self) {
        if !self.is_greeting() {
            // If the session ended already, so did the need.
            let _ = self.wish(Wish::Goodbye);
        }
    }

    /// What is to be written to the socket.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.sealed[self.written..]
    }

    /// The first `count` bytes of [`Tls::unsent`] are with the kernel. Gives how many of the core's bytes are by that.
    pub(super) fn on_sent(&mut self, count: usize) -> usize {
        self.written += count;
        if self.written < self.sealed.len() {
            return 0;
        }
        self.sealed = Vec::new();
        self.written = 0;
        self.count_held();
        mem::take(&mut self.taken)
    }

    /// Does something that nothing new from the peer is needed for.
    fn wish(&mut self, wish: Wish<'_>) -> Result<(), String> {
        let mut partial = mem::take(&mut self.partial);
        let result = loop {
            match self.step(&mut partial, &mut [], wish) {
                Ok(step) => {
                    partial.drain(..step.used);
                    if !step.again {
                        break Ok(());
                    }
                }
                Err(error) => break Err(error.to_string()),
            }
        };
        self.partial = partial;
        self.count_held();
        result
    }

    fn step(&mut self, incoming: &mut [u8], plain: &mut [u8], wish: Wish<'_>) -> Result<Step, Error> {
        let status = self.session.process_tls_records(incoming);
        let mut step = Step { used: status.discard, opened: 0, again: true };
        match status.state? {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    plain[step.opened..][..record.payload.len()].copy_from_slice(record.payload);
                    step.opened += record.payload.len();
                    step.used += record.discard;
                }
            }
            ConnectionState::EncodeTlsData(mut data) => {
                append(&mut self.sealed, OVERHEAD_BYTES, |room| data.encode(room).map_err(encode_room))?;
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed => {
                if self.stage == Stage::Greeting {
                    self.common.greeted.fetch_add(1, Relaxed);
                }
                self.stage = Stage::Finished;
            }
            ConnectionState::WriteTraffic(mut traffic) => {
                step.again = false;
                match wish {
                    Wish::Nothing => {}
                    Wish::Seal(piece) => append(&mut self.sealed, piece.len() + OVERHEAD_BYTES, |room| {
                        traffic.encrypt(piece, room).map_err(encrypt_room)
                    })?,
                    Wish::Goodbye => append(&mut self.sealed, OVERHEAD_BYTES, |room| {
                        traffic.queue_close_notify(room).map_err(encrypt_room)
                    })?,
                }
            }
            // It waits for the peer, or is over. Early data is not taken.
            _ => step.again = false,
        }
        Ok(step)
    }

    /// Puts the alert that the session has ready behind what is unsent.
    fn seal_alert(&mut self, incoming: &mut [u8]) {
        while self.session.wants_write() {
            match self.session.process_tls_records(incoming).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    let encode = |room: &mut [u8]| data.encode(room).map_err(encode_room);
                    if append(&mut self.sealed, OVERHEAD_BYTES, encode).is_err() {
                        return;
                    }
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => while traffic.next_record().is_some() {},
                _ => return,
            }
        }
    }

    /// Keeps the beginning of a record for the next read.
    fn keep(&mut self, rest: &[u8]) -> Result<(), String> {
        if self.stage == Stage::Finished {
            // Nothing counts behind the peer's goodbye.
            return Ok(());
        }
        if rest.len() > RECORD_BYTES_MAX {
            return Err(format!("a message of the handshake is longer than {RECORD_BYTES_MAX} bytes"));
        }
        let others = self.common.partial.load(Relaxed) - self.counted.0;
        // While bytes are scarce only whole records are taken in; but a message of the handshake may be cut into many.
        if !rest.is_empty() && others + rest.len() > self.common.held_max {
            return Err("all connections together hold tls_bytes_total_max of half records".into());
        }
        self.partial = rest.to_vec();
        Ok(())
    }

    fn count_held(&mut self) {
        let now = (self.partial.len(), self.sealed.len());
        // Only the loop's thread counts; it is atomic because a loop may be made on one thread and run on another.
        self.common.partial.fetch_add(now.0, Relaxed);
        self.common.sealed.fetch_add(now.1, Relaxed);
        self.common.partial.fetch_sub(self.counted.0, Relaxed);
        self.common.sealed.fetch_sub(self.counted.1, Relaxed);
        self.counted = now;
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.common.partial.fetch_sub(self.counted.0, Relaxed);
        self.common.sealed.fetch_sub(self.counted.1, Relaxed);
        if self.is_greeting() {
            self.common.failed.fetch_add(1, Relaxed);
        }
    }
}

/// Appends what `encode` writes. It says how much room it wants if there is too little.
fn append(
    sealed: &mut Vec<u8>,
    room: usize,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), Error> {
    let start = sealed.len();
    let mut room = room;
    loop {
        sealed.resize(start + room, 0);
        match encode(&mut sealed[start..]) {
            Ok(count) => {
                sealed.truncate(start + count);
                return Ok(());
            }
            Err(Some(wanted)) if wanted > room => room = wanted,
            Err(_) => {
                sealed.truncate(start);
                return Err(Error::EncryptError);
            }
        }
    }
}

fn encode_room(error: EncodeError) -> Option<usize> {
    match error {
        EncodeError::InsufficientSize(size) => Some(size.required_size),
        EncodeError::AlreadyEncoded => None,
    }
}

fn encrypt_room(error: EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(size) => Some(size.required_size),
        EncryptError::EncryptExhausted => None,
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
