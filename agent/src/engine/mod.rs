//! What a database must offer to be backed up. Everything that only one engine knows is in its own folder here;
//! hashing, dedupe, encryption, upload and retention are never an engine's business.
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use palinurus_repository::{Clock, Entropy, Error, Result, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::progress::Counters;
use crate::source::{Totals, Tree};
use crate::warning::Warnings;

pub mod files;
mod logs;
pub mod postgresql;
#[cfg(test)]
mod suite;

pub use logs::{Fork, History, LogStream, Logs, Mark, Marked, Next, Plan, ServerEnd, Span, Target, Wanted};

/// Every engine there is. A new one is a folder and a line here.
const ENGINES: &[(&str, Open)] = &[("files", files::open), ("postgresql", postgresql::open)];

type Open = fn(toml::Table, Parts) -> Result<Arc<dyn Engine>>;

/// Every call may be repeated, by a coordinator that lost the answer or an agent that lost its memory, and the
/// second changes nothing. An operation that is not known is nothing to do, never an error.
#[async_trait]
pub trait Engine: Send + Sync + fmt::Debug {
    fn name(&self) -> &'static str;

    /// Whether `path` lies in the data, so that a repository there would be part of its own backups.
    fn holds(&self, path: &Path) -> bool;

    /// First of all after a start: undoes every freeze, and removes what belongs to operations that are not
    /// `known`.
    async fn recover(&self, known: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync)) -> Result<()>;

    /// Whether a backup could begin, and what it would stand on.
    async fn inspect(&self) -> Result<Inspection>;

    /// Makes the data stand still, for `dead_man` at most: then it thaws by itself, whatever became of everybody
    /// else. An engine without a way to do so is done at once.
    async fn freeze(&self, operation: &str, dead_man: Duration, cancel: &CancellationToken) -> Result<()>;

    /// Lists what the backup consists of and holds on to what could go away. Fails if a freeze of this operation
    /// did not last to its end.
    async fn snapshot(&self, operation: &str, order: SnapshotOrder) -> Result<Snapshot>;

    async fn thaw(&self, operation: &str) -> Result<()>;

    /// To read what the snapshot listed.
    fn tree(&self, operation: &str) -> Result<Tree>;

    /// When all of that has been read, which is not read again: lists what the engine adds, and says whether that is
    /// anything. An engine that holds something open for the reading closes it here.
    async fn finish(&self, _operation: &str, _order: FinishOrder) -> Result<bool> {
        Ok(false)
    }

    /// Lets go of everything that was held for the operation, frozen state included.
    async fn release(&self, operation: &str) -> Result<()>;

    /// Sees that nothing uses the place that a restore writes into, and says where it is. Whether it may be
    /// written into is the restore's to decide.
    async fn restore_prepare(&self) -> Result<PathBuf>;

    /// Brings what was restored into use.
    async fn restore_finish(&self) -> Result<()>;

    /// Asked every few seconds.
    async fn probe(&self) -> Result<Health>;

    /// After a restore: sees that the data is in use again, or fit to be, and says what it saw.
    async fn check_in_use(&self, operation: &str, cancel: &CancellationToken) -> Result<String>;

    /// Where the engine has one.
    fn logs(&self) -> Option<Arc<dyn Logs>> {
        None
    }

    /// Last of all before a clean end: nothing stays frozen, nothing is held.
    async fn close(&self) -> Result<()>;
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    pub data_empty: bool,
    /// Where the data lies.
    pub free_bytes: u64,
    /// For the engine's own part in the coordinator.
    pub facts: Vec<u8>,
    pub share: Share,
}

/// What of the service's data a node brings into a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Share {
    /// Its own, beside that of others.
    #[default]
    Own,
    /// All of the service's: no other node may say so.
    Whole,
    /// None: the node that has the whole brings it. And why it is not this one.
    Nothing(String),
}

#[derive(Clone, Debug)]
pub struct SnapshotOrder {
    /// Where the source list goes.
    pub list: PathBuf,
    /// A directory of the engine's own, for what it is to add; there is none yet, or one of an attempt before.
    pub added: PathBuf,
    pub counters: Arc<Counters>,
    pub cancel: CancellationToken,
}

#[derive(Clone, Debug)]
pub struct FinishOrder {
    /// Where the source list of what is added goes.
    pub list: PathBuf,
    /// Where it is written, as JSON, which [`Span`] of its log the backup has.
    pub span: PathBuf,
    /// As it was at the snapshot: what is listed lies below it, under the same paths.
    pub added: PathBuf,
    pub cancel: CancellationToken,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub totals: Totals,
    pub warnings: Warnings,
    /// The moment that the backup stands for.
    pub taken: Timestamp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub data_empty: bool,
}

/// What an engine is given besides its settings.
#[derive(Clone, Debug)]
pub struct Parts {
    pub service: String,
    pub node: String,
    /// The agent's state directory, which is never part of the data.
    pub state: PathBuf,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

/// Opens the engine that `table` names in `type`; the rest of the table is its settings.
pub fn open(mut table: toml::Table, parts: Parts) -> Result<Arc<dyn Engine>> {
    let known = || ENGINES.iter().map(|(name, _)| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    let Some(toml::Value::String(name)) = table.remove("type") else {
        return Err(Error::invalid("engine.type is missing").with_hint(format!("use one of {}", known())));
    };
    let Some((_, open)) = ENGINES.iter().find(|(known, _)| *known == name) else {
        let what = format!("engine.type {name:?} is not known");
        return Err(Error::invalid(what).with_hint(format!("use one of {}", known())));
    };
    open(table, parts)
}
