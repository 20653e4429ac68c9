//! The thread that asks the folder of models: loading one takes seconds, which the loop does not have.
//!
//! One question at a time, in order. The number of open questions is the core's to limit; an answer that the core has
//! given up is thrown away there.

use super::doorbell::Doorbell;
use crate::model::{Repository, panic_message};
use crate::server::{AskId, Found, RepositoryAnswer, RepositoryAsk};
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The loader, as the loop sees it.
pub(super) struct Loader {
    asks: Sender<(AskId, RepositoryAsk)>,
    answers: Receiver<(AskId, RepositoryAnswer)>,
}

impl Loader {
    /// Starts the thread. It ends when the loader is dropped and its last question answered.
    pub(super) fn start(repository: Repository, bell: Arc<Doorbell>) -> io::Result<Self> {
        let (asks, ask_queue) = unbounded::<(AskId, RepositoryAsk)>();
        let (answer_queue, answers) = unbounded();
        let work = move || {
            for (id, ask) in ask_queue {
                if answer_queue.send((id, answer(&repository, &ask))).is_err() {
                    return;
                }
                bell.ring();
            }
        };
        std::thread::Builder::new().name("suzu-loader".into()).spawn(work)?;
        Ok(Self { asks, answers })
    }

    /// Asks; the answer comes by [`Loader::poll`].
    pub(super) fn ask(&self, id: AskId, ask: RepositoryAsk) {
        if self.asks.send((id, ask)).is_err() {
            log::error!("the thread that loads models has ended");
        }
    }

    /// Takes an answer.
    pub(super) fn poll(&self) -> Option<(AskId, RepositoryAnswer)> {
        self.answers.try_recv().ok()
    }
}

fn answer(repository: &Repository, ask: &RepositoryAsk) -> RepositoryAnswer {
    match ask {
        RepositoryAsk::Load(name) => {
            let load = || repository.load(name).map_err(|error| error.to_string());
            RepositoryAnswer::Loaded(
                catch_unwind(AssertUnwindSafe(load))
                    .unwrap_or_else(|panic| Err(format!("loading it panicked: {}", panic_message(&*panic)))),
            )
        }
        RepositoryAsk::Index => {
            let found = repository.index().map_err(|error| error.to_string());
            let found = found.map(|entries| {
                entries.into_iter().map(|entry| Found { name: entry.name, version: entry.version }).collect()
            });
            RepositoryAnswer::Index(found)
        }
    }
}
