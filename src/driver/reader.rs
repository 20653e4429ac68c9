//! The thread that reads the file of credentials: disks are slow, and the loop has no time for them.
//!
//! At the start it is read by whoever starts the server, so that a server that nobody could use does not start.

use super::doorbell::Doorbell;
use crate::auth::Keyring;
use crate::config::{Config, OpenAccess};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// What the file says, or why it cannot be used.
type Answer = Result<Box<Keyring>, String>;

/// The reader, as the loop sees it.
pub(super) struct CredentialsReader {
    asks: Sender<()>,
    answers: Receiver<Answer>,
}

impl CredentialsReader {
    /// Reads the file, which the loop finds as the first answer, and starts the thread; None without a file.
    ///
    /// # Errors
    /// The file cannot be used; or there is none, and the network reaches the address.
    pub(super) fn start(config: &Config, addr: SocketAddr, bell: &Arc<Doorbell>) -> io::Result<Option<Self>> {
        let refuse = |message: String| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        if config.credentials_file.is_empty() {
            let reached = !addr.ip().to_canonical().is_loopback();
            return match reached && config.open_access == OpenAccess::Local {
                true => refuse(format!(
                    "{addr} is reached by the network and nobody would need credentials; set credentials_file, or \
                     open_access = \"anywhere\" if everybody may use this server"
                )),
                false => Ok(None),
            };
        }
        let path = PathBuf::from(&config.credentials_file);
        let first = match Keyring::load(&path) {
            Ok(keyring) => Ok(Box::new(keyring)),
            Err(problem) => return refuse(format!("the credentials cannot be used: {problem}")),
        };
        // One question at a time: to ask again while one waits would only read the same again.
        let (asks, asked) = bounded::<()>(1);
        let (tell, answers) = bounded(2);
        tell.send(first).map_err(io::Error::other)?;
        let bell = Arc::clone(bell);
        let work = move || {
            while asked.recv().is_ok() {
                if tell.send(Keyring::load(&path).map(Box::new)).is_err() {
                    return;
                }
                bell.ring();
            }
        };
        std::thread::Builder::new().name("suzu-credentials".into()).spawn(work)?;
        Ok(Some(Self { asks, answers }))
    }

    /// Asks for the file to be read again; the answer comes by [`CredentialsReader::poll`].
    pub(super) fn ask(&self) {
        // Full: it will be read after this moment anyway.
        let _ = self.asks.try_send(());
    }

    /// Takes an answer.
    pub(super) fn poll(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}
