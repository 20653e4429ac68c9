//! The models that are served: which version newcomers get, who still uses an older one, and how each fares.
//!
//! Owns each version from its loading until nobody uses it any more, its circuit breaker and its figures. Never loads
//! a model itself and knows no queue, stream or request.
//!
//! Invariants: of each name at most one version is current; a version that is not current has users.

use crate::id::ModelId;
use crate::model::{Served, not_found};
use crate::reason::{Fault, Reason};
use crate::server::capacity::StreamCost;
use crate::server::stats::ModelStats;
use crate::server::table::Table;
use crate::time::Instant;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One version of a model.
pub struct Entry {
    /// The model.
    pub served: Served,
    /// Whether it comes from the folder of models, so that it can be unloaded and replaced.
    pub loaded: bool,
    /// Streams, requests and sequences that use it.
    users: usize,
    /// Whether newcomers get it.
    current: bool,
    /// Whether it can be trusted with newcomers.
    pub breaker: Breaker,
    /// Figures for its clients.
    pub stats: ModelStats,
    /// What a second of a stream takes of the workers.
    pub cost: StreamCost,
}

/// All versions of all models.
pub struct Catalog {
    entries: Table<ModelId, Entry>,
    current: BTreeMap<Arc<str>, ModelId>,
}

impl Catalog {
    /// Without models.
    pub fn new() -> Self {
        Self { entries: Table::new(), current: BTreeMap::new() }
    }

    /// Serves a model from now on, with what a second of a stream is expected to cost (0: not known). Gives its id, and that of the version it displaces if nobody uses that one.
    pub fn insert(&mut self, served: Served, loaded: bool, cost: f64) -> (ModelId, Option<ModelId>) {
        let name = Arc::clone(served.name());
        let entry = Entry {
            served,
            loaded,
            users: 0,
            current: true,
            breaker: Breaker::default(),
            stats: ModelStats::default(),
            cost: StreamCost::expected(cost),
        };
        let id = self.entries.insert(entry);
        let displaced = self.current.insert(name, id).and_then(|old| self.retire(old));
        (id, displaced)
    }

    /// Newcomers do not get the model any more. Gives its id if nobody uses it.
    pub fn withdraw(&mut self, name: &str) -> Option<ModelId> {
        let id = self.current.remove(name)?;
        self.retire(id)
    }

    fn retire(&mut self, id: ModelId) -> Option<ModelId> {
        self.entries.get_mut(id)?.current = false;
        self.is_unused(id).then_some(id)
    }

    fn is_unused(&self, id: ModelId) -> bool {
        self.entries.get(id).is_some_and(|entry| !entry.current && entry.users == 0)
    }

    /// Forgets a version that nobody uses any more.
    pub fn remove(&mut self, id: ModelId) {
        debug_assert!(self.is_unused(id), "a version is kept for its users");
        self.entries.remove(id);
    }

    /// Somebody uses this version until [`Catalog::release`].
    pub fn acquire(&mut self, id: ModelId) {
        self.entries.get_mut(id).expect("a version is there as long as it is named").users += 1;
    }

    /// Somebody does not use it any more. True if it was the last who held it: it can be removed.
    pub fn release(&mut self, id: ModelId) -> bool {
        let entry = self.entries.get_mut(id).expect("a version is there as long as it is used");
        entry.users -= 1;
        self.is_unused(id)
    }

    /// What a second of a stream costs in the mean of those there are; None without any.
    pub fn usual_cost(&self) -> Option<f64> {
        let heard = self.entries.iter().filter(|(_, entry)| entry.served.audio().is_some());
        let sum = |(users, cost), (_, entry): (_, &Entry)| {
            (users + entry.users, cost + entry.users as f64 * entry.cost.cost())
        };
        let (users, cost) = heard.fold((0, 0.0), sum);
        (users > 0).then(|| cost / users as f64)
    }

    /// A version that is current or used.
    pub fn get(&self, id: ModelId) -> &Entry {
        self.entries.get(id).expect("a version is there as long as it is used")
    }

    /// The same for change.
    pub fn get_mut(&mut self, id: ModelId) -> &mut Entry {
        self.entries.get_mut(id).expect("a version is there as long as it is used")
    }

    /// What newcomers get under this name.
    ///
    /// # Errors
    /// `model_not_found` tells what there is, and what may have been meant.
    pub fn find(&self, name: &str) -> Result<ModelId, Fault> {
        self.current.get(name).copied().ok_or_else(|| not_found(name, self.names()))
    }

    /// The same, if it is of this version (as it was written; `None`: any).
    ///
    /// # Errors
    /// `model_not_found`.
    pub fn find_version(&self, name: &str, version: Option<&str>) -> Result<ModelId, Fault> {
        let id = self.find(name)?;
        let served = self.get(id).served.version();
        match version {
            Some(wanted) if wanted.parse() != Ok(served) => {
                let wanted: String = wanted.chars().take(20).collect();
                let message = format!("model `{name}` is served in version {served}, not {wanted}");
                Err(Fault::new(Reason::ModelNotFound, message).at("version"))
            }
            _ => Ok(id),
        }
    }

    /// The same, if it hears streams.
    ///
    /// # Errors
    /// `model_not_found`, or `invalid_value` for a model of tensors.
    pub fn find_audio(&self, name: &str) -> Result<ModelId, Fault> {
        let id = self.find(name)?;
        if self.get(id).served.audio().is_some() {
            return Ok(id);
        }
        let message = format!(
            "model `{name}` takes tensors, not audio: ask it by POST /v2/models/{name}/infer, or give its model.toml an [audio] section"
        );
        Err(Fault::new(Reason::InvalidValue, message).at("model"))
    }

    /// What newcomers get, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (ModelId, &Entry)> {
        self.current.values().map(|id| (*id, self.get(*id)))
    }

    /// Every version, in use or current.
    pub fn versions(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    /// The names that newcomers may use, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.current.keys().map(|name| &**name)
    }

    /// Asserts the invariants of this module, given how many users there are.
    pub fn check_invariants(&self, users: usize) {
        assert_eq!(self.versions().map(|entry| entry.users).sum::<usize>(), users, "users are counted");
        for (id, entry) in self.entries.iter() {
            let current = self.current.get(entry.served.name()) == Some(&id);
            assert_eq!(entry.current, current);
            assert!(entry.current || entry.users > 0, "a version that nobody uses is gone");
        }
    }
}

/// Keeps newcomers away from a model that fails over and over, and lets one through from time to time to see whether
/// it still does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
}

impl Breaker {
    /// Whether a newcomer may try. While the circuit is open, one may in each `cooldown`.
    ///
    /// # Errors
    /// How long to wait.
    pub fn admit(&mut self, now: Instant, cooldown: Duration) -> Result<(), Duration> {
        match self.open_until {
            Some(until) if now < until => Err(until - now),
            Some(_) => {
                self.open_until = Some(now + cooldown);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Whether newcomers are refused now.
    pub fn is_open(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }

    /// The model did its work.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// The model failed. True if the circuit opens by it.
    pub fn failed(&mut self, now: Instant, failures_max: u32, cooldown: Duration) -> bool {
        self.failures = self.failures.saturating_add(1);
        let opens = self.failures >= failures_max;
        let was_open = self.open_until.is_some();
        if opens {
            self.open_until = Some(now + cooldown);
        }
        opens && !was_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Registry;

    fn vad() -> Served {
        Served::Audio(Registry::builtin().get("vad").unwrap())
    }

    #[test]
    fn a_displaced_version_stays_for_its_users() {
        let mut catalog = Catalog::new();
        let (first, _) = catalog.insert(vad(), true, 0.0);
        catalog.acquire(first);
        let (second, displaced) = catalog.insert(vad(), true, 0.0);
        assert_eq!((catalog.find("vad").unwrap(), displaced), (second, None));
        assert_eq!(&**catalog.get(first).served.name(), "vad");
        assert!(catalog.release(first), "its last user has gone");
        catalog.remove(first);
        catalog.check_invariants(0);
        assert_eq!(catalog.withdraw("vad"), Some(second));
        assert!(catalog.find("vad").is_err());
    }

    #[test]
    fn a_version_that_is_not_served_is_not_found() {
        let mut catalog = Catalog::new();
        catalog.insert(vad(), false, 0.0);
        assert!(catalog.find_version("vad", Some("1")).is_ok());
        let fault = catalog.find_version("vad", Some("2")).unwrap_err();
        assert_eq!(fault.message, "model `vad` is served in version 1, not 2");
    }

    #[test]
    fn the_circuit_opens_lets_one_try_and_closes_by_a_success() {
        let at = |s| Instant::from_origin(Duration::from_secs(s));
        let cooldown = Duration::from_secs(5);
        let mut breaker = Breaker::default();
        assert!(!breaker.failed(at(0), 2, cooldown));
        assert!(breaker.failed(at(0), 2, cooldown), "the second failure in a row opens it");
        assert_eq!(breaker.admit(at(1), cooldown), Err(Duration::from_secs(4)));
        assert_eq!(breaker.admit(at(5), cooldown), Ok(()), "one may try");
        assert!(breaker.admit(at(6), cooldown).is_err(), "and nobody else");
        assert!(!breaker.failed(at(6), 2, cooldown), "it was open already");
        assert!(breaker.is_open(at(10)) && !breaker.is_open(at(11)));
        breaker.succeeded();
        assert_eq!(breaker.admit(at(7), cooldown), Ok(()));
    }
}
