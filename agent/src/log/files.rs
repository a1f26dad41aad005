//! Log files put together from what is stored, for a database that recovers.
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use futures::StreamExt;
use palinurus_repository::log::{LogReader, LogStore};
use palinurus_repository::{Error, Result};
use tokio::sync::{Mutex, watch};
use tokio_util::task::AbortOnDropHandle;

use super::push::push;
use super::recovery::Recovery;
use crate::durable;
use crate::engine::{LogFile, Logs, Plan, Wanted};
use crate::host::Host;

const AHEAD: &str = "ahead";
/// So much is fetched ahead at the same time, which lies in memory; one file at least.
const AT_ONCE: u64 = 32 << 20;
/// A database may say that its segments are larger.
const FILE_MAX: u64 = 1 << 30;

#[derive(Debug)]
pub(super) struct Files {
    host: Arc<Host>,
    logs: Arc<dyn Logs>,
    /// Where the recovery is kept, and what is fetched ahead.
    state: PathBuf,
    /// The last recovery asked for: listing it again for every file would cost more than the files.
    open: Mutex<Option<Arc<Open>>>,
    ahead: Mutex<Option<Run>>,
    /// Why a file was not given, the last time.
    failure: std::sync::Mutex<Option<Error>>,
}

/// Fetches the files that follow, in the order in which they will be asked for.
#[derive(Debug)]
struct Run {
    task: AbortOnDropHandle<()>,
    /// What has not come yet.
    left: watch::Receiver<VecDeque<String>>,
}

#[derive(Debug)]
struct Open {
    recovery: Recovery,
    plan: Plan,
    store: LogStore,
    reader: Mutex<Option<LogReader>>,
    ahead: PathBuf,
}

impl Files {
    pub(super) fn new(host: Arc<Host>, logs: Arc<dyn Logs>, state: PathBuf) -> Self {
        let failure = std::sync::Mutex::default();
        Self { host, logs, state, open: Mutex::default(), ahead: Mutex::default(), failure }
    }

    pub(super) fn failed(&self, error: Error) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// None: it is known not to exist. That is never remembered.
    pub(super) async fn get(self: &Arc<Self>, name: &str) -> Result<Option<Vec<u8>>> {
        let open = self.open().await?;
        let file = match self.logs.wanted(name, &open.plan) {
            Wanted::Absent => return Ok(None),
            Wanted::Text(text) => text.into_bytes(),
            Wanted::Account(at) => open.account(at).await?,
            Wanted::Bytes { from, to, len } => {
                self.comes(name, at_once(len)).await;
                let path = open.ahead.join(name);
                // It is asked for again only after a restart of the database.
                let take = move || {
                    let file = std::fs::read(&path).ok();
                    let _ = std::fs::remove_file(&path);
                    Ok(file)
                };
                let file = match self.host.seams.blocking.run(take).await? {
                    Some(file) if file.len() as u64 == len => file,
                    _ => open.bytes(from, to, len).await?,
                };
                self.fetch_ahead(&open, name, at_once(len)).await;
                file
            }
        };
        Ok(Some(file))
    }

    /// Comes back when it is stored.
    pub(super) async fn push(&self, file: &LogFile) -> Result<()> {
        push(&self.host, &self.logs, file).await
    }

    async fn open(&self) -> Result<Arc<Open>> {
        let state = &self.state;
        let recovery = Recovery::read(state)?.ok_or_else(|| {
            Error::not_found("no restore with a log has been prepared here")
                .with_hint("the database has a restore_command of an earlier restore: remove recovery.signal")
        })?;
        let mut known = self.open.lock().await;
        if let Some(open) = known.as_ref().filter(|open| open.recovery == recovery) {
            return Ok(Arc::clone(open));
        }
        let plan = recovery.plan()?;
        let unlocked = recovery.unlock(&self.host).await?;
        let store = LogStore::new(unlocked.storage, unlocked.keys).with_blocking(self.host.seams.blocking);
        let last = plan.chain.last().map(|section| section.lineage.id.to_string());
        let ahead = state.join(AHEAD).join(last.unwrap_or_default());
        // Of another recovery: what is under the same name may be other bytes.
        durable::remove_dir(&state.join(AHEAD))?;
        durable::create_dir(&ahead)?;
        let open = Arc::new(Open { recovery, plan, store, reader: Mutex::default(), ahead });
        *known = Some(Arc::clone(&open));
        Ok(open)
    }

    /// Waits for a file that is being fetched: to fetch it here as well would be twice the work, when time is short.
    async fn comes(&self, name: &str, at_once: usize) {
        let left = self.ahead.lock().await.as_ref().map(|run| run.left.clone());
        if let Some(mut left) = left {
            // An error: the run is over, and what it did not bring is fetched here.
            let _ = left.wait_for(|left| !left.iter().take(at_once).any(|coming| coming == name)).await;
        }
    }

    /// The next files, into a directory: at most so many as the engine names, and one run at a time.
    async fn fetch_ahead(self: &Arc<Self>, open: &Arc<Open>, name: &str, at_once: usize) {
        let mut running = self.ahead.lock().await;
        if running.as_ref().is_some_and(|run| !run.task.is_finished()) {
            return;
        }
        let names: VecDeque<String> = self.logs.following(name, &open.plan).into();
        let (told, left) = watch::channel(names.clone());
        let (files, open) = (Arc::clone(self), Arc::clone(open));
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let fetched = names.into_iter().map(|name| files.fetch(&open, name));
            let mut fetched = futures::stream::iter(fetched).buffered(at_once);
            while let Some(Ok(true)) = fetched.next().await {
                told.send_modify(|left| {
                    left.pop_front();
                });
            }
        }));
        *running = Some(Run { task, left });
    }

    /// Into the directory; false where the log has no such file.
    async fn fetch(&self, open: &Open, name: String) -> Result<bool> {
        let path = open.ahead.join(&name);
        let Wanted::Bytes { from, to, len } = self.logs.wanted(&name, &open.plan) else { return Ok(false) };
        if !tokio::fs::try_exists(&path).await.unwrap_or(false) {
            let file = open.bytes(from, to, len).await?;
            self.host.seams.blocking.run(move || keep(&path, &file)).await?;
        }
        Ok(true)
    }
}

fn at_once(len: u64) -> usize {
    (AT_ONCE / len.max(1)).max(1) as usize
}

/// Whole or not there, and no more than that: the next process begins with an empty directory.
fn keep(path: &Path, file: &[u8]) -> Result<()> {
    let partial = path.with_extension(durable::PARTIAL);
    let kept = std::fs::write(&partial, file).and_then(|()| std::fs::rename(&partial, path));
    kept.map_err(|e| Error::io(format!("write {}", path.display()), e))
}

impl Open {
    async fn account(&self, at: usize) -> Result<Vec<u8>> {
        let section = self.plan.chain.get(at).ok_or_else(|| Error::internal("no such lineage"))?;
        let account = self.store.history(&section.lineage).await?;
        account.ok_or_else(|| {
            Error::corrupt(format!("the history of lineage {} is missing", section.lineage.id))
        })
    }

    /// Everything up to the plan's end is known to be stored: what is not found is no end, but a loss.
    async fn bytes(&self, from: u64, to: u64, len: u64) -> Result<Vec<u8>> {
        if len > FILE_MAX || to.saturating_sub(from) > len {
            return Err(Error::invalid(format!("a log file of {len} bytes")));
        }
        let mut reader = self.reader().await?;
        let mut file = Vec::new();
        let mut at = from;
        while at < to {
            let end = to.min(at + palinurus_repository::log::READ_MAX);
            file.extend(reader.read(at..end).await?);
            at = end;
        }
        file.resize(len as usize, 0);
        Ok(file)
    }

    async fn reader(&self) -> Result<LogReader> {
        let mut known = self.reader.lock().await;
        if let Some(reader) = known.as_ref() {
            return Ok(reader.clone());
        }
        let segment = self.plan.chain.first().map_or(1, |section| u64::from(section.lineage.segment));
        let first = self.plan.first - self.plan.first % segment.max(1);
        let reader = LogReader::open(self.store.clone(), self.plan.chain.clone(), first).await?;
        Ok(known.insert(reader).clone())
    }
}
