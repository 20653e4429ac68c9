//! The thread that reads the files that may change while the server runs: the credentials, and the certificate with its
//! key. Disks are slow, and the loop has no time for them.
//!
//! At the start they are read by whoever starts the server, so that a server that nobody could use does not start.

use super::doorbell::Doorbell;
use super::tls::{Identity, Sessions};
use crate::auth::Keyring;
use crate::config::{Config, OpenAccess};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// What a file says, or why it cannot be used.
pub(super) enum News {
    Credentials(Result<Box<Keyring>, String>),
    Certificate(Result<Sessions, String>),
}

/// The reader, as the loop sees it.
pub(super) struct Reader {
    asks: Sender<()>,
    answers: Receiver<News>,
}

impl Reader {
    /// Reads the credentials, which the loop finds as the first answer, and starts the thread; None without any such file.
    ///
    /// # Errors
    /// The file cannot be used; or there is none, and the network reaches the address.
    pub(super) fn start(
        config: &Config,
        addr: SocketAddr,
        identity: Option<Identity>,
        bell: &Arc<Doorbell>,
    ) -> io::Result<Option<Self>> {
        let path = (!config.credentials_file.is_empty()).then(|| PathBuf::from(&config.credentials_file));
        if path.is_none() {
            check_openness(config, addr)?;
        }
        if path.is_none() && identity.is_none() {
            return Ok(None);
        }
        // One question at a time: to ask again while one waits would only read the same again.
        let (asks, asked) = bounded::<()>(1);
        let (tell, answers) = bounded(4);
        if let Some(path) = &path {
            let first = Keyring::load(path)
                .map_err(|problem| refusal(format!("the credentials cannot be used: {problem}")))?;
            tell.send(News::Credentials(Ok(Box::new(first)))).map_err(io::Error::other)?;
        }
        let bell = Arc::clone(bell);
        let work = move || {
            while asked.recv().is_ok() {
                let certificate = identity.as_ref().map(|identity| News::Certificate(identity.read()));
                let load = |path: &PathBuf| News::Credentials(Keyring::load(path).map(Box::new));
                for news in certificate.into_iter().chain(path.as_ref().map(load)) {
                    if tell.send(news).is_err() {
                        return;
                    }
                }
                bell.ring();
            }
        };
        std::thread::Builder::new().name("suzu-reader".into()).spawn(work)?;
        Ok(Some(Self { asks, answers }))
    }

    /// Asks for the files to be read again; the answers come by [`Reader::poll`].
    pub(super) fn ask(&self) {
        // Full: they will be read after this moment anyway.
        let _ = self.asks.try_send(());
    }

    /// Takes an answer.
    pub(super) fn poll(&self) -> Option<News> {
        self.answers.try_recv().ok()
    }
}

/// Without credentials the network must not reach the server, unless that is meant.
fn check_openness(config: &Config, addr: SocketAddr) -> io::Result<()> {
    let reached = !addr.ip().to_canonical().is_loopback();
    if reached && config.open_access == OpenAccess::Local {
        return Err(refusal(format!(
            "{addr} is reached by the network and nobody would need credentials; set credentials_file, or \
             open_access = \"anywhere\" if everybody may use this server"
        )));
    }
    Ok(())
}

fn refusal(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
