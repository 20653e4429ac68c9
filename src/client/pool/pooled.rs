//! A connection on loan.

use super::Shared;
use super::places::{Grant, Loss};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A connection of a [`super::Pool`], for as long as this is kept. Dropped, it goes back: to whoever has waited longest,
/// or among the idle ones. It may outlive the pool, and is closed then.
///
/// What is dropped by a panic is taken for broken, for the conversation on it may be half over.
pub struct Pooled<C> {
    shared: Arc<Shared<C>>,
    /// There until it is dropped.
    connection: Option<C>,
    broken: bool,
}

impl<C> Pooled<C> {
    pub(super) fn new(shared: &Arc<Shared<C>>, connection: C) -> Self {
        Self { shared: Arc::clone(shared), connection: Some(connection), broken: false }
    }

    /// Nobody is to get this connection again: dropped, it is closed and another may be opened in its place.
    ///
    /// For whoever met an error on it, or stopped in the middle of a conversation.
    pub fn mark_broken(&mut self) {
        self.broken = true;
    }

    /// Keeps the connection for good; another may be opened in its place.
    pub fn take(mut self) -> C {
        let connection = self.connection.take().expect("it is there until it is dropped");
        self.shared.lock().lose(Loss::Taken);
        connection
    }

    /// Closes the connection and gives what comes in its stead.
    pub(super) fn replace(mut self) -> Option<Grant<C>> {
        drop(self.connection.take());
        self.shared.lock().replace()
    }
}

impl<C> Deref for Pooled<C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.connection.as_ref().expect("it is there until it is dropped")
    }
}

impl<C> DerefMut for Pooled<C> {
    fn deref_mut(&mut self) -> &mut C {
        self.connection.as_mut().expect("it is there until it is dropped")
    }
}

impl<C> Drop for Pooled<C> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if self.broken || std::thread::panicking() {
            // Closed first: the server must never see more connections than there are places.
            drop(connection);
            self.shared.lock().lose(Loss::Broken);
        } else {
            self.shared.put(connection);
        }
    }
}
