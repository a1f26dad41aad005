//! The state store: what is alive. Services, operations, nodes. Never the only place that knows of a backup.
//!
//! Anybody may read. Only who leads may write: a [`Lease`] comes with a handle that writes as that leader, under its
//! epoch, guards every write with it, and answers `Fenced` once it is lost.
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use palinurus_repository::{Epoch, Error, Result};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod embedded;
mod etcd;
#[cfg(any(test, feature = "suite"))]
mod memory;
mod records;
#[cfg(test)]
pub(crate) mod suite;

pub(crate) use embedded::{EmbeddedElection, EmbeddedState};
pub(crate) use etcd::EtcdElection;
#[cfg(any(test, feature = "suite"))]
pub use memory::{Link, MemoryElection, MemoryStore};
pub(crate) use records::{Key, Records, Versioned, decode};

/// What must be true of a record for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Any,
    Absent,
    /// The revision that was read.
    At(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub value: Bytes,
    /// Greater after each write of the record.
    pub revision: u64,
}

/// What a follower is told.
#[derive(Debug)]
pub enum Change {
    /// All records there are: what was told before is void.
    All(Vec<(String, Record)>),
    Put(String, Record),
    Gone(String),
    /// The store cannot be reached; `All` follows when it can.
    Away(Error),
}

/// Small named records. A call that ends in `Unavailable` may have been carried out.
#[async_trait]
pub trait Reader: Send + Sync + fmt::Debug {
    async fn get(&self, key: &str) -> Result<Option<Record>>;

    /// Every record whose key begins with `prefix`, in the order of keys, as of one moment.
    async fn list(&self, prefix: &str) -> Result<Vec<(String, Record)>>;

    /// First `All`, then each change in order; never ends by itself. Several changes of one record may come as the
    /// last of them.
    fn follow(&self, prefix: &str) -> BoxStream<'static, Change>;
}

#[async_trait]
pub trait State: Reader {
    /// Of the leader that this handle writes as: greater than that of every leader before.
    fn epoch(&self) -> Epoch;

    /// Durable when it returns the new revision. `Conflict` when `expect` does not hold.
    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64>;

    /// `Conflict` when `expect` does not hold. Absent already is no error with `Any`.
    async fn delete(&self, key: &str, expect: Expect) -> Result<()>;
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leader {
    pub name: String,
    /// Where agents and operators reach it.
    pub address: String,
    pub epoch: Epoch,
}

/// How coordinators agree on who leads.
#[async_trait]
pub trait Election: Send + Sync + fmt::Debug {
    /// Waits until this coordinator leads. `address` is told to whoever looks for the leader. May be dropped at any
    /// await: what was begun is then given up. An error is final for this try: the caller pauses and tries again.
    async fn campaign(&self, address: &str) -> Result<Lease>;

    /// For everybody, leading or not.
    fn reader(&self) -> Arc<dyn Reader>;

    /// Who leads, as far as is known here. Followed from the start on.
    fn leader(&self) -> watch::Receiver<Option<Leader>>;

    /// "embedded" or "etcd".
    fn kind(&self) -> &'static str;
}

/// The right to lead until it is over.
#[derive(Debug)]
pub struct Lease {
    pub state: Arc<dyn State>,
    /// Cancelled before anybody else can lead, on whatever clock: from then on nothing may be done in its name.
    pub over: CancellationToken,
    pub resign: Box<dyn Resign>,
}

#[async_trait]
pub trait Resign: Send + Sync + fmt::Debug {
    /// Gives the lease back, so that the next leader need not wait for its time to pass. Only when nothing acts under
    /// it any more.
    async fn resign(self: Box<Self>);
}
