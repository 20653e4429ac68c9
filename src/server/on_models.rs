//! Models that come, go and fail: loading at run time, who may begin with which, and what they are blamed for.

use crate::batch::CallTimes;
use crate::id::{ConnId, ModelId, SessionId};
use crate::model::{Outcome, Served};
use crate::reason::{Fault, Reason};
use crate::server::batcher::{BatchPolicy, Queue};
use crate::server::catalog::Entry;
use crate::server::contract::{AskId, Found, RepositoryAnswer, RepositoryAsk};
use crate::server::on_batch::BatchFacts;
use crate::server::session::RunInFlight;
use crate::server::{Output, Server, limits};
use crate::time::Instant;
use crate::wire::oip::{self, IndexEntry, ModelState};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Questions to the folder of models that may be open at a time.
const ASKS_MAX: usize = 16;
/// Requests read by one worker in one go: few, so that several workers share them.
const READ_BATCH_MAX: usize = 8;
/// Runs are never cut to less audio than clients usually send at once, microseconds: more of them would cost more than they spare
/// the others.
const CHUNK_US: u64 = 100_000;

/// A question to the folder of models that has not been answered.
pub struct OpenAsk {
    ask: RepositoryAsk,
    /// Who waits for the answer; None if the server itself asked.
    conn: Option<ConnId>,
    deadline: Instant,
}

impl Server {
    /// Serves a model to newcomers from now on. `cost` is what a second of a stream is expected to take of a worker, seconds;
    /// 0 if that is not known yet.
    pub(super) fn serve_model(&mut self, served: Served, loaded: bool, cost: f64) {
        let queues = queues(&served);
        let (name, version) = (Arc::clone(served.name()), served.version());
        let policy = self.batch_policy(&served);
        let (id, displaced) = self.catalog.insert(served, loaded, cost);
        for queue in queues.map(|queue| queue(id)) {
            let policy = match queue {
                Queue::Unread(_) => self.read_policy(),
                _ => policy.clone(),
            };
            self.batcher.open(queue, policy);
        }
        if loaded {
            log::info!("model {name} is served in version {version}");
        }
        if let Some(displaced) = displaced {
            self.drop_model(displaced);
        }
    }

    fn batch_policy(&self, served: &Served) -> BatchPolicy {
        let (limits, config) = (served.limits(), &self.config);
        BatchPolicy {
            batch_max: limits.batch_max.unwrap_or(config.batch_max).min(config.batch_max),
            queue_delay_max: limits.queue_delay_max.unwrap_or(config.queue_delay_max),
            preferred: limits.preferred.clone(),
            infer_timeout: limits.infer_timeout.unwrap_or(config.infer_timeout),
            concurrency_max: limits.concurrency_max.unwrap_or(usize::MAX),
            member_min: if served.audio().is_some() { CHUNK_US } else { 1 },
        }
    }

    fn read_policy(&self) -> BatchPolicy {
        BatchPolicy {
            batch_max: READ_BATCH_MAX,
            queue_delay_max: Duration::ZERO,
            preferred: Vec::new(),
            infer_timeout: self.config.infer_timeout,
            concurrency_max: usize::MAX,
            member_min: 1,
        }
    }

    fn drop_model(&mut self, id: ModelId) {
        for queue in queues(&self.catalog.get(id).served).map(|queue| queue(id)) {
            self.batcher.close(queue);
        }
        self.catalog.remove(id);
    }

    /// Somebody does not use the model any more.
    pub(super) fn leave_model(&mut self, id: ModelId) {
        if self.catalog.release(id) {
            self.drop_model(id);
        }
    }

    /// Whether a newcomer may begin with this model now.
    ///
    /// # Errors
    /// `model_unavailable` while its circuit is open.
    pub(super) fn admit_to(&mut self, id: ModelId) -> Result<(), Fault> {
        let cooldown = self.config.model_retry_after;
        let entry = self.catalog.get_mut(id);
        entry.breaker.admit(self.now.instant, cooldown).map_err(|_| {
            let name = entry.served.name();
            Fault::new(Reason::ModelUnavailable, format!("model `{name}` keeps failing; try again later"))
        })
    }

    /// A run of a stream is home: its model did its work.
    pub(super) fn note_run(
        &mut self,
        id: SessionId,
        outcome: &Outcome,
        flight: RunInFlight,
        facts: BatchFacts,
    ) {
        let Some(session) = self.sessions.get(id) else { return };
        let times = CallTimes { infer: facts.infer_time, ..CallTimes::default() };
        let queued = flight.departed - flight.newest;
        self.note_success(session.model_id, outcome.windows as u64, queued, times, facts.size);
    }

    /// A model did its work for one client.
    pub(super) fn note_success(
        &mut self,
        id: ModelId,
        rows: u64,
        queued: Duration,
        times: CallTimes,
        batch_size: usize,
    ) {
        let unix_ms = self.now.unix_ms;
        let entry = self.catalog.get_mut(id);
        entry.breaker.succeeded();
        entry.stats.note_success(rows, queued, times, batch_size, unix_ms);
    }

    /// A model failed one client.
    pub(super) fn note_failure(&mut self, id: ModelId) {
        let (failures_max, cooldown) = (self.config.model_failures_max, self.config.model_retry_after);
        let now = self.now;
        let entry = self.catalog.get_mut(id);
        entry.stats.note_failure(now.unix_ms);
        if entry.breaker.failed(now.instant, failures_max, cooldown) {
            let name = entry.served.name();
            log::error!(
                "model {name} failed {failures_max} times in a row: newcomers are refused for {cooldown:?}"
            );
            self.metrics.counters.circuits_opened += 1;
        }
    }

    /// Asks the folder of models.
    ///
    /// # Errors
    /// `not_supported` without such a folder, `overloaded` if too many questions are open.
    pub(super) fn ask_repository(
        &mut self,
        ask: RepositoryAsk,
        conn: Option<ConnId>,
    ) -> Result<AskId, Fault> {
        if self.config.models_dir.is_empty() {
            let message = "this server has no folder of models: start it with --models-dir";
            return Err(Fault::new(Reason::NotSupported, message));
        }
        // Those of the server itself are as many as there are models in the folder.
        if conn.is_some() && self.asks.len() >= ASKS_MAX {
            let message = "too many models are being loaded; try again later";
            return Err(Fault::new(Reason::Overloaded, message));
        }
        let id = AskId(self.next_ask);
        self.next_ask += 1;
        let deadline = self.now.instant + self.config.load_timeout;
        self.asks.insert(id, OpenAsk { ask: ask.clone(), conn, deadline });
        self.outputs.push_back(Output::Repository { id, ask });
        Ok(id)
    }

    /// Every model is to be loaded again, and those that are gone from the folder withdrawn; the other files are to be read
    /// again.
    pub(super) fn on_reload(&mut self) {
        self.outputs.push_back(Output::ReadFiles);
        if let Err(fault) = self.ask_repository(RepositoryAsk::Index, None) {
            log::warn!("the models are not loaded again: {fault}");
        }
    }

    /// The folder of models has answered.
    pub(super) fn on_repository(&mut self, id: AskId, answer: RepositoryAnswer) {
        let Some(OpenAsk { ask, conn, .. }) = self.asks.remove(&id) else {
            log::warn!("an answer of the folder of models came too late and is left out");
            return;
        };
        match (ask, answer) {
            (RepositoryAsk::Load(name), RepositoryAnswer::Loaded(result)) => {
                let result = result.map_err(|message| load_failed(&name, &message));
                let result = result.and_then(|loaded| self.on_loaded(&name, loaded));
                if let Err(fault) = &result {
                    log::error!("{}", fault.message);
                }
                self.load_errors.retain(|(failed, _)| *failed != name);
                if let Err(fault) = &result
                    && self.load_errors.len() < ASKS_MAX
                {
                    self.load_errors.push((name, fault.message.clone()));
                }
                self.answer_ask(conn, result.map(|()| Vec::new()));
            }
            (RepositoryAsk::Index, RepositoryAnswer::Index(result)) => self.on_index(conn, result),
            (ask, _) => log::error!("the folder of models answered {ask:?} with something else"),
        }
    }

    fn on_loaded(&mut self, name: &str, served: Served) -> Result<(), Fault> {
        self.check_name(name)?;
        let all = self.catalog.versions().map(|entry| &entry.served).chain([&served]);
        let bound = limits::memory_bound(&self.config, all);
        bound.check(&self.config).map_err(|error| load_failed(name, &error.to_string()))?;
        self.bound = bound;
        self.serve_model(served, true, 0.0);
        Ok(())
    }

    /// Whether a model of the folder may have that name.
    ///
    /// # Errors
    /// `invalid_state` if a model inside the binary has it.
    pub(super) fn check_name(&self, name: &str) -> Result<(), Fault> {
        match self.catalog.find(name).map(|id| self.catalog.get(id)) {
            Ok(entry) if !entry.loaded => {
                let message =
                    format!("`{name}` is a model inside the server: it is neither loaded nor unloaded");
                Err(Fault::new(Reason::InvalidState, message).at("model"))
            }
            _ => Ok(()),
        }
    }

    /// Newcomers do not get the model any more; those who use it go on.
    ///
    /// # Errors
    /// `model_not_found`, or `invalid_state` for a model inside the binary.
    pub(super) fn unload(&mut self, name: &str) -> Result<(), Fault> {
        self.catalog.find(name)?;
        self.check_name(name)?;
        log::info!("model {name} is withdrawn");
        if let Some(unused) = self.catalog.withdraw(name) {
            self.drop_model(unused);
        }
        Ok(())
    }

    /// What is in the folder: told to who asked, or the beginning of a reload.
    fn on_index(&mut self, conn: Option<ConnId>, result: Result<Vec<Found>, String>) {
        let found = match result {
            Ok(found) => found,
            Err(message) => {
                log::error!("the folder of models cannot be read: {message}");
                let fault = Fault::new(
                    Reason::InternalError,
                    format!("the folder of models cannot be read: {message}"),
                );
                return self.answer_ask(conn, Err(fault));
            }
        };
        if conn.is_some() {
            let index = self.index(&found);
            return self.answer_ask(conn, Ok(oip::encode_index(&index)));
        }
        let here: BTreeSet<&str> = found.iter().map(|found| found.name.as_str()).collect();
        let loaded = self.catalog.iter().filter(|(_, entry)| entry.loaded);
        let gone: Vec<String> = loaded
            .map(|(_, entry)| entry.served.name().to_string())
            .filter(|name| !here.contains(&**name))
            .collect();
        for name in gone {
            // It was found a moment ago.
            let _ = self.unload(&name);
        }
        for found in found {
            if let Err(fault) = self.ask_repository(RepositoryAsk::Load(found.name), None) {
                log::warn!("a model is not loaded again: {fault}");
            }
        }
    }

    /// The index as the protocol shows it: what is served, and what lies in the folder and is not.
    pub(super) fn index(&self, found: &[Found]) -> Vec<IndexEntry> {
        let now = self.now.instant;
        let served = self.catalog.iter().map(|(_, entry)| IndexEntry {
            name: entry.served.name().to_string(),
            version: entry.served.version(),
            state: ModelState::Ready,
            reason: if entry.breaker.is_open(now) { "it keeps failing".into() } else { String::new() },
        });
        let known: BTreeSet<&str> = self.catalog.names().collect();
        let others = found.iter().filter(|found| !known.contains(found.name.as_str()));
        let others = others.map(|found| IndexEntry {
            name: found.name.clone(),
            version: found.version,
            state: ModelState::Unavailable,
            reason: self.load_error(&found.name),
        });
        served.chain(others).collect()
    }

    fn load_error(&self, name: &str) -> String {
        let failed = self.load_errors.iter().find(|(failed, _)| failed == name);
        failed.map_or_else(|| "it is not loaded".to_owned(), |(_, message)| message.clone())
    }

    /// Questions that were not answered in time.
    pub(super) fn on_late_asks(&mut self) {
        let now = self.now.instant;
        while let Some((&id, _)) = self.asks.iter().find(|(_, ask)| ask.deadline <= now) {
            let Some(OpenAsk { ask, conn, .. }) = self.asks.remove(&id) else { return };
            let message =
                format!("the folder of models did not answer within load_timeout: {ask:?} is given up");
            log::error!("{message}");
            self.answer_ask(conn, Err(Fault::new(Reason::LoadFailed, message)));
        }
    }

    /// The earliest of what this file waits for.
    pub(super) fn asks_due(&self) -> Option<Instant> {
        self.asks.values().map(|ask| ask.deadline).min()
    }

    /// Whether newcomers would be served by this model.
    pub(super) fn is_model_ready(&self, entry: &Entry) -> bool {
        !entry.breaker.is_open(self.now.instant) && !self.batcher.is_stuck() && self.drain.is_none()
    }
}

fn load_failed(name: &str, message: &str) -> Fault {
    Fault::new(Reason::LoadFailed, format!("model `{name}` is not loaded: {message}")).at("model")
}

/// The queues that a model needs.
fn queues(served: &Served) -> impl Iterator<Item = fn(ModelId) -> Queue> + use<> {
    let streams = served.audio().map(|_| Queue::Streams as fn(ModelId) -> Queue);
    let unread = served.is_stateful().then_some(Queue::Unread as fn(ModelId) -> Queue);
    [streams, Some(Queue::Calls as fn(ModelId) -> Queue), unread].into_iter().flatten()
}
