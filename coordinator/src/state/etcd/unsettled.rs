//! Writes that were given up on without their end being known. They may have landed since.
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Records, and of each so many writes; beyond that the oldest knowledge is dropped, and costs a conflict.
const RECORDS: usize = 64;
const EACH: usize = 4;

/// What such a write replaced, and what it wrote. Nothing followed from it, since whoever made it was not told that it
/// was made: who comes again with the revision from before may replace it too.
#[derive(Debug, Default)]
pub(super) struct Unsettled(Mutex<BTreeMap<String, (u64, Vec<Bytes>)>>);

impl Unsettled {
    pub(super) fn add(&self, name: &str, replaces: u64, value: &Bytes) {
        let mut all = self.all();
        if all.len() >= RECORDS && !all.contains_key(name) {
            all.pop_first();
        }
        let (replaced, values) = all.entry(name.to_owned()).or_default();
        if *replaced != replaces {
            (*replaced, *values) = (replaces, Vec::new());
        }
        if values.len() >= EACH {
            values.remove(0);
        }
        values.push(value.clone());
    }

    /// Whether what is there now is such a write that replaced the same.
    pub(super) fn wrote(&self, name: &str, replaces: u64, value: &[u8]) -> bool {
        let all = self.all();
        let known = all.get(name).filter(|(replaced, _)| *replaced == replaces);
        known.is_some_and(|(_, values)| values.iter().any(|known| known == value))
    }

    pub(super) fn settle(&self, name: &str) {
        self.all().remove(name);
    }

    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (u64, Vec<Bytes>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
