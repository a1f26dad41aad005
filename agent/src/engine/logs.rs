//! What a database writes between two backups, where its engine gives that out: bytes at positions that only grow. WAL
//! is the first; a binlog or an oplog fits as well. Cutting, sealing and storing are never an engine's business.
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use palinurus_repository::Result;

#[async_trait]
pub trait Logs: Send + Sync + fmt::Debug {
    /// What a lineage of these says it holds.
    fn kind(&self) -> &'static str;

    /// The longest that what was written waits to be stored.
    fn interval(&self) -> Duration;

    /// The history that the database here writes now, and from now on keeps until it is released. None: this node has none
    /// to give, as a standby or while empty.
    async fn look(&self) -> Result<Option<History>>;

    /// The bytes of the history `identity`, the present one or a parent of it, from `position` on, which is a multiple
    /// of [`History::segment`]. `Gone` when the database no longer has them.
    async fn open(&self, identity: &[u8], position: u64) -> Result<Box<dyn LogStream>>;
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Equal for two histories only if one is the other.
    pub identity: Vec<u8>,
    /// The engine's own account of the parents, as the database keeps it; empty: there are none.
    pub account: Vec<u8>,
    /// Positions of whole log files are multiples of it.
    pub segment: u64,
    /// From where the database has it: a multiple of `segment`.
    pub position: u64,
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
