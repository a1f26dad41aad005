//! The ledger: the linear history of a repository, its truth and its fence.
//!
//! Record `n` is the object `ledger/<n>`, created only if absent. That one conditional put orders all writers: who
//! loses a place reads what won it, asks [`State::check`] again, and tries the next place. No lock, no clock. No
//! record is ever deleted: a paused writer could fill the gap.
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, ErrorKind, Result};
use crate::keys::Keys;
use crate::mutant::{self, Mutant};
use crate::storage::{Object, Storage};

mod checkpoint;
mod damage;
mod drill;
mod history;
mod pack_set;
mod record;
mod state;

pub use damage::Objects;
pub(crate) use damage::manifest_stem;
pub use drill::{Drilled, Proof};
pub use history::history;
pub use pack_set::PackSet;
pub use record::{Body, Cut, MissingNode, NodeCommit, Purpose, Record, Rewritten};
pub use state::{BackupRecord, Hold, OpenTransaction, Pin, State};

pub(crate) use checkpoint::{PREFIX as CHECKPOINTS, newest_below as newest_checkpoint};
pub(crate) use record::{key as record_key, link as record_link};

use record::Link;

const PAGE: usize = 1000;
/// How many records are fetched at once when catching up.
const AHEAD: usize = 16;
/// How often one append is tried when the store does not answer.
const ATTEMPTS: u32 = 4;
/// The first pause between two attempts; doubled at each.
const PAUSE: Duration = Duration::from_millis(100);

/// The ledger as far as this process has read it.
pub struct Ledger {
    storage: Arc<dyn Storage>,
    keys: Keys,
    state: State,
    next: u64,
    /// Of the record before `next`.
    link: Option<Link>,
    voids: Vec<u64>,
    checkpointed: checkpoint::Newest,
    /// A KEYEPOCH was read, even a void one, since the checkpoint.
    crossed: bool,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({} records in {:?})", self.next, self.storage)
    }
}

impl Ledger {
    /// Reads it from its newest checkpoint, or from its beginning where there is none to be believed.
    pub async fn open(storage: Arc<dyn Storage>, keys: &Keys) -> Result<Self> {
        if let Some(loaded) = checkpoint::newest(&*storage, keys).await {
            match Self::resume(storage.clone(), keys, loaded).await {
                Ok(Some(ledger)) => return Ok(ledger),
                Ok(None) => tracing::debug!("the checkpoint is of an earlier key epoch: not used"),
                Err(e) if e.kind() == ErrorKind::Unavailable => return Err(e),
                Err(e) => {
                    tracing::warn!(error = e.chain(), "what follows the checkpoint does not fit: not used")
                }
            }
        }
        let mut ledger = Self::empty(storage, keys);
        ledger.refresh().await?;
        Ok(ledger)
    }

    /// None when a key epoch begins behind the checkpoint.
    async fn resume(
        storage: Arc<dyn Storage>,
        keys: &Keys,
        loaded: checkpoint::Loaded,
    ) -> Result<Option<Self>> {
        let mut ledger = Self {
            next: loaded.next,
            link: Some(loaded.link),
            checkpointed: checkpoint::Newest { next: loaded.next, key_epoch: loaded.state.key_epoch() },
            state: loaded.state,
            voids: loaded.voids,
            ..Self::empty(storage, &loaded.keys)
        };
        ledger.refresh().await?;
        if ledger.crossed {
            return Ok(None);
        }
        let mut keys = keys.clone();
        keys.join(&ledger.keys)?;
        ledger.keys = keys;
        Ok(Some(ledger))
    }

    /// Reads it from its beginning as far as that goes, and says what stood in the way of more.
    pub(crate) async fn examine(storage: Arc<dyn Storage>, keys: &Keys) -> (Self, Result<()>) {
        let mut ledger = Self::empty(storage, keys);
        let read = ledger.refresh().await;
        (ledger, read)
    }

    fn empty(storage: Arc<dyn Storage>, keys: &Keys) -> Self {
        Self {
            storage,
            keys: keys.clone(),
            state: State::default(),
            next: 0,
            link: None,
            voids: Vec::new(),
            checkpointed: checkpoint::Newest::default(),
            crossed: false,
        }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// How many records have been read: the number of the next one.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The last record's number and hash. Who keeps it elsewhere can prove later that the store was not rolled back.
    pub fn head(&self) -> Option<(u64, [u8; 32])> {
        self.link.map(|link| (self.next - 1, link))
    }

    /// Records that the rules refuse and that therefore count for nothing. There should be none.
    pub fn voids(&self) -> &[u64] {
        &self.voids
    }

    /// Reads what was appended since. On an error the records before the bad one are folded.
    pub async fn refresh(&mut self) -> Result<()> {
        // Listed from our last record on: that one must still be there.
        let mut after = self.next.checked_sub(2).map(record::key);
        let mut seen = self.next.saturating_sub(1);
        loop {
            let page = self.storage.list("ledger/", after.as_deref(), PAGE).await?;
            let end = page.len() < PAGE;
            after = page.last().map(|object| object.key.clone());
            let fresh = self.in_sequence(&page, &mut seen);
            self.fold(fresh).await?;
            if seen_gap(&page, seen) {
                return Err(missing(seen, &page));
            }
            if end {
                break;
            }
        }
        if seen < self.next {
            return Err(missing(seen, &[]));
        }
        Ok(())
    }

    /// The numbers in `page` from `seen` on, as far as none is missing, that are not folded yet.
    fn in_sequence(&self, page: &[Object], seen: &mut u64) -> Vec<u64> {
        let mut fresh = Vec::new();
        for number in page.iter().filter_map(|object| record::number(&object.key)) {
            if number != *seen {
                break;
            }
            *seen += 1;
            if number >= self.next {
                fresh.push(number);
            }
        }
        fresh
    }

    async fn fold(&mut self, numbers: Vec<u64>) -> Result<()> {
        let storage = self.storage.clone();
        let mut objects = stream::iter(numbers)
            .map(|number| {
                let storage = storage.clone();
                async move {
                    let object =
                        storage.get(&record::key(number), None).await.map_err(|e| match e.kind() {
                            ErrorKind::NotFound => missing(number, &[]).with_source(e),
                            _ => e,
                        })?;
                    Ok::<_, Error>((number, object))
                }
            })
            .buffered(AHEAD);
        while let Some((number, object)) = objects.try_next().await? {
            let record = Record::open(&self.keys, number, self.link.as_ref(), &object)?;
            if let Body::KeyEpoch(epoch) = record.body {
                self.crossed = true;
                if self.state.check(&record).is_ok() {
                    self.keys.load(&*self.storage, epoch).await?;
                }
            }
            self.apply(number, &record, &object)?;
        }
        Ok(())
    }

    fn apply(&mut self, number: u64, record: &Record, object: &Bytes) -> Result<()> {
        self.link = Some(record::link(object));
        self.next = number + 1;
        if let Err(e) = self.state.apply(number, record) {
            tracing::warn!(number, writer = record.writer, reason = e.chain(), "a ledger record is void");
            self.voids.push(number);
            return Ok(());
        }
        follow(&mut self.keys, &self.state, record)
    }

    /// Appends the record at the first free place if the rules allow it there, and returns its number.
    ///
    /// After `Unavailable` the record may still arrive: refresh and look before deciding anything.
    pub async fn append(&mut self, record: Record) -> Result<u64> {
        self.refresh().await?;
        self.append_next(record).await
    }

    /// `append` for who has refreshed a moment ago: the conditional put finds out whether anything came since.
    pub(crate) async fn append_next(&mut self, record: Record) -> Result<u64> {
        self.append_if(record, &|_| Ok(())).await
    }

    /// And if `agreed` to by the very state that it follows, whatever came meanwhile.
    pub(crate) async fn append_if(
        &mut self,
        record: Record,
        agreed: &(dyn Fn(&State) -> Result<()> + Send + Sync),
    ) -> Result<u64> {
        let mut pause = PAUSE;
        let mut failures = 0;
        loop {
            agreed(&self.state)?;
            if !mutant::on(Mutant::UnguardedAppend) {
                self.state.check(&record)?;
            }
            let number = self.next;
            let object = record.seal(&self.keys, number, self.link.as_ref())?;
            match self.put(number, &object).await {
                Ok(true) => {
                    self.apply(number, &record, &object)?;
                    self.checkpoint().await;
                    return Ok(number);
                }
                Ok(false) => {} // somebody else has the place
                Err(e) if e.kind() == ErrorKind::Unavailable && failures + 1 < ATTEMPTS => {
                    failures += 1;
                    tracing::debug!(number, error = e.chain(), "appending to the ledger again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(e) => return Err(e),
            }
            self.refresh().await?;
        }
    }

    /// True when the place holds our object, whichever attempt brought it there.
    async fn put(&self, number: u64, object: &Bytes) -> Result<bool> {
        let key = record::key(number);
        let error = match self.storage.put_new(&key, object.clone()).await {
            Ok(()) => return Ok(true),
            Err(e) if matches!(e.kind(), ErrorKind::Conflict | ErrorKind::Unavailable) => e,
            Err(e) => return Err(e),
        };
        match self.storage.get(&key, None).await {
            Ok(there) => Ok(there == *object),
            Err(_) => Err(error),
        }
    }
}

/// The keys know what the record says of key epochs. It counts; the master of one that begins is known.
fn follow(keys: &mut Keys, state: &State, record: &Record) -> Result<()> {
    match (&record.body, state.key_epoch()) {
        (Body::KeyEpoch(epoch), _) => keys.enter(*epoch),
        (Body::Begin { transaction, .. }, Some(epoch)) => keys.epochs().assign(*transaction, epoch.draw),
        _ => Ok(()),
    }
}

fn seen_gap(page: &[Object], seen: u64) -> bool {
    page.iter().filter_map(|object| record::number(&object.key)).any(|number| number >= seen)
}

fn missing(number: u64, page: &[Object]) -> Error {
    let later = page.iter().filter_map(|object| record::number(&object.key)).find(|later| *later > number);
    let what = match later {
        Some(later) => format!("ledger record {number} is missing, although record {later} exists"),
        None => format!("ledger record {number} is missing, although it was there"),
    };
    Error::corrupt(what)
        .with_hint("records are never deleted: bring the object back from the store's older versions")
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod model;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod tests;
