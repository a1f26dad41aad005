//! What a database writes between two backups, where its engine gives that out: bytes at positions that only grow. WAL
//! is the first; a binlog or an oplog fits as well. Cutting, sealing and storing are never an engine's business.
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use palinurus_repository::log::Section;
use palinurus_repository::{Error, Result};
use serde::{Deserialize, Serialize};

#[async_trait]
pub trait Logs: Send + Sync + fmt::Debug {
    /// What a lineage of these says it holds.
    fn kind(&self) -> &'static str;

    /// The settings ask for it.
    fn is_stored(&self) -> bool;

    /// The longest that what was written waits to be stored.
    fn interval(&self) -> Duration;

    /// The history that the database here writes now, and from now on keeps until it is released. None: this node has none
    /// to give, as a standby or while empty.
    async fn look(&self) -> Result<Option<History>>;

    /// The bytes of the history `identity`, the present one or a parent of it, from `position` on, which is a multiple
    /// of [`History::segment`]. `Gone` when the database no longer has them.
    async fn open(&self, identity: &[u8], position: u64) -> Result<Box<dyn LogStream>>;

    /// What a database that recovers means by the name of a log file. Pure.
    fn wanted(&self, name: &str, plan: &Plan) -> Wanted;

    /// The names that it will ask for after that one, the next first.
    fn following(&self, name: &str, plan: &Plan) -> Vec<String>;

    /// Where the last whole record of those bytes begins, the first of which begin a log file of that length at `from`. None:
    /// it cannot be seen. Pure.
    fn last_record(&self, _from: u64, _len: u64, _bytes: &[u8]) -> Option<u64> {
        None
    }

    /// Makes the data that was restored here, and is not in use yet, recover along `plan` when the database is started.
    /// `command` with the name and the path of a log file behind it puts that file there.
    async fn prepare(&self, plan: &Plan, command: &[String]) -> Result<()>;

    /// What was restored here has not come to the end of its recovery yet. Blocks.
    fn recovers(&self) -> bool;

    /// What of the settings stands against that plan. Pure.
    fn check(&self, _plan: &Plan) -> Result<()> {
        Ok(())
    }

    /// What is in a log file that the database says is whole. From now on the stream gives it.
    async fn pushed(&self, _file: &LogFile) -> Result<Pushed> {
        Err(Error::invalid("this database hands over no log files"))
    }

    /// The digest of a log file as the stream gave it, for the last few.
    fn given(&self, _name: &str) -> Option<blake3::Hash> {
        None
    }

    /// A log file as the database has it, if it still does. Blocks.
    fn content(&self, _name: &str) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// Whose process the database is, by user and group: it may ask for log files.
    fn user(&self) -> Option<(u32, u32)>;
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Equal for two histories only if one is the other.
    pub identity: Vec<u8>,
    /// The oldest first.
    pub parents: Vec<Fork>,
    /// The engine's own account of them, as the database keeps it; empty: there are none.
    pub account: Vec<u8>,
    /// Positions of whole log files are multiples of it.
    pub segment: u64,
    /// From where the database has it: a multiple of `segment`.
    pub position: u64,
    pub end: u64,
}

/// A parent, and where the next one begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fork {
    pub identity: Vec<u8>,
    pub until: u64,
}

#[async_trait]
pub trait LogStream: Send + fmt::Debug {
    /// May be dropped while it waits.
    async fn next(&mut self) -> Result<Next>;

    /// Everything before `position` is safe: the database may let go of it. Also the sign of life that a database may ask
    /// for; not to be dropped.
    async fn release(&mut self, position: u64) -> Result<()>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Those that follow what was given before.
    Bytes { bytes: Bytes, marks: Vec<Mark>, server: ServerEnd },
    /// Nothing was written; `asks`: it wants to hear what is safe now.
    Quiet { server: ServerEnd, asks: bool },
    /// The history ended with the last byte given: another one goes on.
    Ended,
    /// The database has let go of the bytes that follow, and what it says of that.
    Gone(String),
}

/// Along which histories a restored database goes, and how far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Ancestors first; none: no log is needed.
    pub chain: Vec<Section>,
    /// The identities of all histories that there are: the one that begins here is to be none of them.
    pub known: Vec<Vec<u8>>,
    /// What lies before it is in the backup.
    pub first: u64,
    /// Nothing is given beyond it.
    pub end: u64,
    pub target: Target,
    /// It begins a service of its own: nothing of what it comes from may hear of it.
    pub fork: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The end of the plan.
    End,
    /// All that was committed up to then, in µs since 1970.
    Time(i64),
    /// All that lies before it.
    Position(u64),
    Name(String),
    /// The backup alone.
    Immediate,
    /// No end: the database goes on behind another one, which is written.
    Follow,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Those bytes, and zeros behind them up to a length.
    Bytes { from: u64, to: u64, len: u64 },
    /// The account of that one of the chain.
    Account(usize),
    /// This text.
    Text(String),
    /// It is known not to exist.
    Absent,
}

/// A log file that somebody asks to have stored, as that one sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    pub name: String,
    pub length: u64,
    pub digest: blake3::Hash,
    /// Its first bytes.
    pub head: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Those of that history; `whole`: the database has ended the file.
    Bytes { identity: Vec<u8>, from: u64, to: u64, whole: bool },
    /// That history's account of its parents.
    Account { identity: Vec<u8> },
    /// Nothing that a restore needs.
    Nothing,
}

/// Which part of a log belongs to a backup: a recovery may begin where it stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub identity: Vec<u8>,
    pub start: u64,
    pub stop: u64,
    /// Another node gives that log, and this one follows it.
    #[serde(default)]
    pub follows: bool,
}

/// How far the database had written, by its clock in ms since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerEnd {
    pub position: u64,
    pub ms: u64,
}

/// Something in the log that a restore may aim at, known once the byte before `end` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub end: u64,
    pub what: Marked,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marked {
    /// A transaction ended, in µs since 1970 by the database's clock.
    End(i64),
    /// A name that somebody gave this place.
    Name(String),
}
