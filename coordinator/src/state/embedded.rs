//! The state in one redb file, for a single coordinator. The file's lock is the lease, each start is an epoch.
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use palinurus_repository::{Epoch, Error, ErrorKind, Result};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;

use super::{Change, Election, Expect, Leader, Lease, Reader, Record, Resign, State};

const RECORDS: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("records");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
/// All of the state of a thousand services fits; redb's own default is a gigabyte.
const CACHE: usize = 8 << 20;
const CLOSE_POLL: Duration = Duration::from_millis(5);

#[derive(Clone)]
pub(crate) struct EmbeddedState {
    database: Arc<Database>,
    epoch: Epoch,
    /// Counts the writes; carries no data.
    written: Arc<watch::Sender<u64>>,
}

impl fmt::Debug for EmbeddedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EmbeddedState(epoch {})", self.epoch)
    }
}

impl EmbeddedState {
    /// Opens or makes the file and takes the next epoch. Blocks: call it off the runtime.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let opened = Database::builder()
            .set_cache_size(CACHE)
            // The file is small, and damage in it must be an error rather than a panic later.
            .set_check_integrity_on_open(true)
            .create(path);
        let database = opened.map_err(|e| match e {
            DatabaseError::DatabaseAlreadyOpen => {
                Error::conflict(format!("another coordinator has the state file {} open", path.display()))
                    .with_hint("stop it first, or give this one another `state` directory")
            }
            other => failed(&format!("open the state file {}", path.display()), other.into()),
        })?;
        let next = |transaction: &WriteTransaction| -> Result<u64, redb::Error> {
            transaction.open_table(RECORDS)?;
            let mut counters = transaction.open_table(COUNTERS)?;
            let epoch = counters.get("epoch")?.map_or(0, |value| value.value()) + 1;
            counters.insert("epoch", epoch)?;
            Ok(epoch)
        };
        let write = || -> Result<u64, redb::Error> {
            let transaction = database.begin_write()?;
            let epoch = next(&transaction)?;
            transaction.commit()?;
            Ok(epoch)
        };
        let epoch = write().map_err(|e| failed("take the next epoch", e))?;
        let written = Arc::new(watch::Sender::new(0));
        Ok(Self { database: Arc::new(database), epoch: Epoch(epoch), written })
    }

    /// Waits until no other handle is left and no call under way: then the file is free for whoever comes next.
    pub(crate) async fn close(self, within: Duration) -> bool {
        let last = tokio::time::Instant::now() + within;
        let mut database = self.database;
        loop {
            match Arc::try_unwrap(database) {
                Ok(_) => return true,
                Err(_) if tokio::time::Instant::now() >= last => return false,
                Err(shared) => database = shared,
            }
            tokio::time::sleep(CLOSE_POLL).await;
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        what: String,
        work: impl FnOnce(&Database) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T> {
        let database = self.database.clone();
        let done = tokio::task::spawn_blocking(move || work(&database)).await;
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Refusal::Conflict(why))) => Err(Error::conflict(format!("{what}: {why}"))),
            Ok(Err(Refusal::Failed(e))) => Err(failed(&what, e)),
            Err(e) => Err(Error::internal(what).with_source(e)),
        }
    }
}

enum Refusal {
    Conflict(String),
    Failed(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

fn failed(what: &str, error: redb::Error) -> Error {
    let damaged = match &error {
        redb::Error::Io(e) => e.kind() == std::io::ErrorKind::InvalidData,
        redb::Error::Corrupted(_) => true,
        _ => false,
    };
    match error {
        error if damaged => Error::new(ErrorKind::Corrupt, what).with_source(error).with_hint(
            "keep the file; with a new state directory `service apply` finds the backups in the repository again",
        ),
        redb::Error::Io(e) => Error::io(what, e),
        other => Error::unavailable(what).with_source(other),
    }
}

fn check(found: Option<u64>, expect: Expect) -> Result<(), Refusal> {
    let holds = match expect {
        Expect::Any => true,
        Expect::Absent => found.is_none(),
        Expect::At(revision) => found == Some(revision),
    };
    if holds {
        Ok(())
    } else {
        Err(Refusal::Conflict(format!("it is at revision {found:?}, not {expect:?}")))
    }
}

#[async_trait]
impl Reader for EmbeddedState {
    async fn get(&self, key: &str) -> Result<Option<Record>> {
        let name = key.to_owned();
        self.run(format!("read the record {key}"), move |database| {
            let records = database.begin_read()?.open_table(RECORDS)?;
            let found = records.get(name.as_str())?;
            Ok(found.map(|record| to_record(record.value())))
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Record)>> {
        let prefix = prefix.to_owned();
        self.run(format!("list the records {prefix}*"), move |database| {
            let records = database.begin_read()?.open_table(RECORDS)?;
            let mut all = Vec::new();
            for entry in records.range(prefix.as_str()..)? {
                let (key, record) = entry?;
                if !key.value().starts_with(&prefix) {
                    break;
                }
                all.push((key.value().to_owned(), to_record(record.value())));
            }
            Ok(all)
        })
        .await
    }

    /// One process has the file, and its operations are on the board: whoever follows is told everything again.
    fn follow(&self, prefix: &str) -> BoxStream<'static, Change> {
        let (state, prefix) = (self.clone(), prefix.to_owned());
        let changed = WatchStream::new(self.written.subscribe());
        changed
            .then(move |_| {
                let (state, prefix) = (state.clone(), prefix.clone());
                async move { state.list(&prefix).await.map_or_else(Change::Away, Change::All) }
            })
            .boxed()
    }
}

#[async_trait]
impl State for EmbeddedState {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64> {
        let name = key.to_owned();
        let written = self.written.clone();
        self.run(format!("write the record {key}"), move |database| {
            let transaction = database.begin_write()?;
            let revision = {
                let mut records = transaction.open_table(RECORDS)?;
                check(records.get(name.as_str())?.map(|record| record.value().0), expect)?;
                let mut counters = transaction.open_table(COUNTERS)?;
                let revision = counters.get("revision")?.map_or(0, |value| value.value()) + 1;
                counters.insert("revision", revision)?;
                records.insert(name.as_str(), (revision, &value[..]))?;
                revision
            };
            transaction.commit()?;
            written.send_modify(|count| *count += 1);
            Ok(revision)
        })
        .await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<()> {
        let name = key.to_owned();
        let written = self.written.clone();
        self.run(format!("delete the record {key}"), move |database| {
            let transaction = database.begin_write()?;
            {
                let mut records = transaction.open_table(RECORDS)?;
                check(records.get(name.as_str())?.map(|record| record.value().0), expect)?;
                records.remove(name.as_str())?;
            }
            transaction.commit()?;
            written.send_modify(|count| *count += 1);
            Ok(())
        })
        .await
    }
}

/// Who has the file leads, until it ends.
#[derive(Debug)]
pub(crate) struct EmbeddedElection {
    state: EmbeddedState,
    name: String,
    leader: watch::Sender<Option<Leader>>,
}

impl EmbeddedElection {
    pub(crate) fn new(state: EmbeddedState, name: &str) -> Self {
        Self { state, name: name.to_owned(), leader: watch::Sender::new(None) }
    }

    /// Opens the state file in `directory`, or makes it. Blocks.
    pub(crate) fn open(directory: &Path, name: &str) -> Result<Self> {
        Ok(Self::new(EmbeddedState::open(&directory.join("state.redb"))?, name))
    }

    pub(crate) fn state(&self) -> EmbeddedState {
        self.state.clone()
    }
}

#[async_trait]
impl Election for EmbeddedElection {
    async fn campaign(&self, address: &str) -> Result<Lease> {
        let epoch = self.state.epoch;
        self.leader.send_replace(Some(Leader {
            name: self.name.clone(),
            address: address.to_owned(),
            epoch,
        }));
        let state = Arc::new(self.state.clone());
        Ok(Lease { state, over: CancellationToken::new(), resign: Box::new(KeptToTheEnd) })
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(self.state.clone())
    }

    fn leader(&self) -> watch::Receiver<Option<Leader>> {
        self.leader.subscribe()
    }

    fn kind(&self) -> &'static str {
        "embedded"
    }
}

#[derive(Debug)]
struct KeptToTheEnd;

#[async_trait]
impl Resign for KeptToTheEnd {
    async fn resign(self: Box<Self>) {}
}

fn to_record((revision, value): (u64, &[u8])) -> Record {
    Record { value: Bytes::copy_from_slice(value), revision }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::suite;

    #[tokio::test]
    async fn it_is_a_state() {
        let directory = tempfile::tempdir().unwrap();
        let state = EmbeddedState::open(&directory.path().join("state.redb")).unwrap();
        suite::run(Arc::new(state)).await;
    }

    #[tokio::test]
    async fn each_start_is_an_epoch_and_keeps_the_records() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.redb");
        for epoch in 1..4 {
            let state = EmbeddedState::open(&path).unwrap();
            assert_eq!(state.epoch(), Epoch(epoch));
            let before = state.get("a").await.unwrap().map(|record| record.value);
            assert_eq!(before, (epoch > 1).then(|| Bytes::from(format!("{}", epoch - 1))));
            state.put("a", Bytes::from(format!("{epoch}")), Expect::Any).await.unwrap();
        }
    }

    #[test]
    fn a_second_coordinator_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.redb");
        let first = EmbeddedState::open(&path).unwrap();
        let error = EmbeddedState::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.what().contains("another coordinator") && error.hint().is_some());
        drop(first);
        EmbeddedState::open(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_something_else_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.redb");
        std::fs::write(&path, vec![7; 100_000]).unwrap();
        let error = EmbeddedState::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    }
}
