//! Places that are counted: so many for each address or holder, so many in all.
use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Debug)]
pub(super) struct Places<K> {
    total: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

/// Given back when dropped.
#[derive(Debug)]
pub(super) struct Turn<K: Eq + Hash> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    of: K,
}

impl<K: Clone + Eq + Hash> Places<K> {
    pub(super) fn new(total: usize) -> Self {
        Self { total, taken: Arc::default() }
    }

    /// None: there is no room in all, or `each` are its already.
    pub(super) fn take(&self, of: K, each: usize) -> Option<Turn<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = taken.values().sum();
        let mine = taken.get(&of).copied().unwrap_or_default();
        if total >= self.total || mine >= each {
            return None;
        }
        taken.insert(of.clone(), mine + 1);
        Some(Turn { taken: self.taken.clone(), of })
    }
}

impl<K: Eq + Hash> Drop for Turn<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = taken.get_mut(&self.of) {
            *mine -= 1;
            if *mine == 0 {
                taken.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_places_and_all_have_theirs() {
        let places = Places::new(3);
        let held = [places.take('a', 2).unwrap(), places.take('a', 2).unwrap()];
        assert!(places.take('a', 2).is_none());
        let other = places.take('b', 2).unwrap();
        assert!(places.take('c', 2).is_none(), "three in all");
        drop(other);
        drop(held);
        assert!(places.take('a', 1).is_some() && places.taken.lock().unwrap().is_empty());
    }
}
