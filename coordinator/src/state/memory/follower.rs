//! What changes, told in order and one at a time, with a word of when the store is away.
use std::collections::BTreeMap;

use tokio::sync::watch;

use super::Access;
use super::link::{Reach, away};
use crate::state::{Change, Record};

pub(super) struct Follower {
    access: Access,
    prefix: String,
    written: watch::Receiver<u64>,
    reach: watch::Receiver<Reach>,
    told: Told,
}

enum Told {
    Nothing,
    Away,
    Records(BTreeMap<String, Record>),
}

impl Follower {
    pub(super) fn new(access: Access, prefix: &str) -> Self {
        Self {
            written: access.store.written.subscribe(),
            reach: access.link.reach.subscribe(),
            access,
            prefix: prefix.to_owned(),
            told: Told::Nothing,
        }
    }

    pub(super) async fn next(&mut self) -> Change {
        loop {
            self.written.borrow_and_update();
            let whole = *self.reach.borrow_and_update() == Reach::Whole;
            match &mut self.told {
                Told::Away if !whole => {}
                _ if !whole => {
                    self.told = Told::Away;
                    return Change::Away(away("follow the records"));
                }
                Told::Records(told) => {
                    if let Some(change) = difference(told, self.access.store.list(&self.prefix)) {
                        return change;
                    }
                }
                Told::Nothing | Told::Away => {
                    let all = self.access.store.list(&self.prefix);
                    self.told = Told::Records(all.clone());
                    return Change::All(all.into_iter().collect());
                }
            }
            tokio::select! {
                biased;
                _ = self.written.changed() => {}
                _ = self.reach.changed() => {}
            }
        }
    }
}

/// One step from what was told to what there is.
fn difference(told: &mut BTreeMap<String, Record>, mut now: BTreeMap<String, Record>) -> Option<Change> {
    if let Some(gone) = told.keys().find(|key| !now.contains_key(*key)).cloned() {
        told.remove(&gone);
        return Some(Change::Gone(gone));
    }
    let new = now.iter().find(|(key, record)| told.get(*key) != Some(record)).map(|(key, _)| key.clone())?;
    let record = now.remove(&new)?;
    told.insert(new.clone(), record.clone());
    Some(Change::Put(new, record))
}
