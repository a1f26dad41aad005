//! What a database must offer to be backed up. Everything that only one engine knows is in its own folder here;
//! hashing, dedupe, encryption, upload and retention are never an engine's business.
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use palinurus_proto::Choice;
use palinurus_repository::{Clock, Entropy, Error, Result, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::progress::Counters;
use crate::source::{Totals, Tree};
use crate::warning::Warnings;

pub mod clickhouse;
mod command;
pub mod files;
mod logs;
pub mod postgresql;
mod proof;
mod settings;
#[cfg(test)]
mod suite;

pub use logs::{
    Fork, History, LogFile, LogStream, Logs, Mark, Marked, Next, Plan, Pushed, ServerEnd, Span, Target,
    Wanted,
};

/// Every engine there is. A new one is a folder and a line here.
const ENGINES: &[(&str, Open)] =
    &[("clickhouse", clickhouse::open), ("files", files::open), ("postgresql", postgresql::open)];

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

    /// Asked while all nodes have their snapshots: what of that which the service's nodes share, such as a schema, is not as
    /// this one's snapshot has it. None: all is, or nodes share nothing.
    async fn changed_since(&self, _operation: &str) -> Result<Option<String>> {
        Ok(None)
    }

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

    /// Which files of a backup say what it holds, and whether the engine that is installed here can use it.
    fn telling(&self) -> &'static [&'static str] {
        &[]
    }

    /// Before a fork is restored onto a machine that the backup is not of: `place` has those files.
    async fn check_fits(&self, _place: &Path) -> Result<()> {
        Ok(())
    }

    /// Some of a backup beside what is there. `place` has the telling files: says which more are needed, and where they go.
    /// Refuses what could not be brought into use.
    async fn choose(&self, _place: &Path, _choosing: Choosing) -> Result<Portion> {
        Err(Error::invalid(format!("the {} engine cannot restore some of a backup", self.name()))
            .with_hint("restore without --tables"))
    }

    /// Brings into use what was restored to the place that `choose` said.
    async fn restore_chosen(&self, _target: &Path) -> Result<()> {
        Err(Error::invalid(format!("the {} engine cannot restore some of a backup", self.name())))
    }

    /// Whether that place is the engine's own, and not where the data lies: then a restore may overwrite what is there.
    fn restores_aside(&self) -> bool {
        false
    }

    /// When all of it is on the disk and before it can be taken for whole: takes out what a backup says of recoveries
    /// that are over.
    async fn restore_settle(&self) -> Result<()> {
        Ok(())
    }

    /// Before what was restored to `target` is brought into use: each of `places` has the telling files of a node that is
    /// restored at once and has the same data.
    async fn know_peers(&self, _target: &Path, _places: Vec<PathBuf>) -> Result<()> {
        Ok(())
    }

    /// Which of a backup's files no node that is in use has, and are to be fetched, where such nodes give the rest. `place` has the
    /// telling files. None: all.
    async fn left_by_peers(&self, _place: &Path) -> Result<Option<Vec<String>>> {
        Ok(None)
    }

    /// Brings what was restored into use.
    async fn restore_finish(&self) -> Result<()>;

    /// What is left to be done by hand before what was restored is in use; empty: nothing.
    fn left_to_do(&self) -> String {
        String::new()
    }

    /// Waits until what was restored is in use, as a replica if it `follows`; does itself what its settings let it.
    async fn bring_into_use(&self, _follows: bool, _cancel: &CancellationToken) -> Result<()> {
        Ok(())
    }

    /// Asked every few seconds.
    async fn probe(&self) -> Result<Health>;

    /// After a restore: sees that the data is in use again, or fit to be, and says what it saw.
    async fn check_in_use(&self, operation: &str, cancel: &CancellationToken) -> Result<String>;

    /// Brings what was restored beside the data into use and looks at all of it, with the data untouched. None: it has no proof
    /// of its own, and each byte is to be held against the backup. What says something about the backup is `Corrupt`
    /// or a check's finding; anything else is an error of another kind. May be dropped.
    async fn prove(&self, _order: ProofOrder) -> Result<Option<Proof>> {
        Ok(None)
    }

    /// Ends what a proof in that place has left running, of this process or one before.
    async fn end_proof(&self, _place: &Path) -> Result<()> {
        Ok(())
    }

    /// Where the engine has one.
    fn logs(&self) -> Option<Arc<dyn Logs>> {
        None
    }

    /// Last of all before a clean end: nothing stays frozen, nothing is held.
    async fn close(&self) -> Result<()>;
}

#[derive(Clone, Debug)]
pub struct Choosing {
    pub choice: Choice,
    /// The same on every node.
    pub backup: String,
}

/// Of a backup: paths and what is below them, as patterns, and where they go.
#[derive(Clone, Debug)]
pub struct Portion {
    pub target: PathBuf,
    pub include: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    pub data_empty: bool,
    /// Where the data lies.
    pub free_bytes: u64,
    /// For the engine's own part in the coordinator.
    pub facts: Vec<u8>,
    pub share: Share,
    /// Nodes of one shard hold the same; empty: nobody else has this node's data.
    pub shard: String,
}

/// What of the service's data a node brings into a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Share {
    /// Its own, beside that of others.
    #[default]
    Own,
    /// All of the service's: no other node may say so.
    Whole,
    /// All of the service's, as another node has it, which this one may spare.
    Copy,
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
    /// When the last of it was held; where that takes long, what is held has moments of its own in between.
    pub taken_to: Timestamp,
}

pub use proof::{Check, Proof, ProofOrder};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub data_empty: bool,
    /// The database here is written, and other nodes' follow it.
    pub primary: bool,
    /// The operation whose restored data has recovered along its log, the last one: the session says so, not an engine.
    pub recovered: String,
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
