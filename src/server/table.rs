//! A slab whose keys carry a generation, so that a late event for a reused slot finds nothing.
//!
//! Owns the places of connections and sessions. Iterates in the order of slots, which is the same in every run.

use crate::id::{CallId, ConnId, ModelId, SessionId};
use slab::Slab;
use std::marker::PhantomData;

/// An id that a [`Table`] can issue.
pub trait Key: Copy {
    /// Makes the id.
    fn new(slot: u32, generation: u32) -> Self;
    /// Its place.
    fn slot(self) -> u32;
    /// Its holder's number.
    fn generation(self) -> u32;
}

macro_rules! key {
    ($id:ident) => {
        impl Key for $id {
            fn new(slot: u32, generation: u32) -> Self {
                Self { slot, generation }
            }
            fn slot(self) -> u32 {
                self.slot
            }
            fn generation(self) -> u32 {
                self.generation
            }
        }
    };
}
key!(ConnId);
key!(SessionId);
key!(CallId);
key!(ModelId);

/// Values by generational id.
pub struct Table<K, V> {
    slots: Slab<(u32, V)>,
    generation: u32,
    key: PhantomData<K>,
}

impl<K: Key, V> Table<K, V> {
    /// An empty table; allocates nothing.
    pub fn new() -> Self {
        Self { slots: Slab::new(), generation: 0, key: PhantomData }
    }

    /// How many values it holds.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Puts a value in a free place under a fresh id.
    pub fn insert(&mut self, value: V) -> K {
        self.generation = self.generation.wrapping_add(1);
        let slot = self.slots.insert((self.generation, value));
        K::new(u32::try_from(slot).expect("fewer than 2^32 places"), self.generation)
    }

    /// The value, if this very holder is still there.
    pub fn get(&self, key: K) -> Option<&V> {
        let (generation, value) = self.slots.get(key.slot() as usize)?;
        (*generation == key.generation()).then_some(value)
    }

    /// The value for change, if this very holder is still there.
    pub fn get_mut(&mut self, key: K) -> Option<&mut V> {
        let (generation, value) = self.slots.get_mut(key.slot() as usize)?;
        (*generation == key.generation()).then_some(value)
    }

    /// Takes the value out, if this very holder is still there.
    pub fn remove(&mut self, key: K) -> Option<V> {
        self.get(key)?;
        Some(self.slots.remove(key.slot() as usize).1)
    }

    /// Every value with its id, in the order of places.
    pub fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.slots.iter().map(|(slot, (generation, value))| (K::new(slot as u32, *generation), value))
    }

    /// Every id, in the order of places, as a snapshot to loop over while the table changes.
    pub fn keys(&self) -> Vec<K> {
        self.iter().map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_key_misses_the_new_holder_of_its_place() {
        let mut table: Table<ConnId, &str> = Table::new();
        let first = table.insert("first");
        assert_eq!(table.remove(first), Some("first"));
        let second = table.insert("second");
        assert_eq!(first.slot, second.slot);
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&"second"));
    }
}
