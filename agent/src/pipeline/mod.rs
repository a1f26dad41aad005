//! The data path of a backup: one pass over the disk.
//!
//! ```text
//! source list ─► feeder ─ units ─► workers (one a core) ─ full packs ─► uploader ─► store
//!    base ──────────┘ │      read → hash → claim → compress → seal          │
//!                     └── unchanged ──► collector ─► draft                journal, claims
//! ```
//! A worker runs to completion, so a frame's bytes stay in its cache; pack buffers are the only queue, and their
//! number bounds the memory. `upload` ends with a draft; `manifest`, when every node has uploaded, gives the
//! chunks that others uploaded their places, reads again what changed, and writes the manifest. In between, when
//! another node is lost, `take_over` uploads what that one had claimed and not stored; and `append` uploads what an
//! engine adds when all else has been read.
use std::path::PathBuf;
use std::sync::Arc;

use palinurus_proto::v1;
use palinurus_repository::ledger::PackSet;
use palinurus_repository::manifest::ManifestRef;
use palinurus_repository::{Blocking, Entropy, Keys, Storage, TransactionId};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::pace::Pace;
use crate::progress::Counters;
use crate::source::Tree;

mod append;
mod base;
mod claims;
mod collect;
mod disk;
mod draft;
mod feed;
mod fetch;
mod frames;
mod journal;
mod level;
mod packer;
mod pages;
mod pool;
mod read;
mod reread;
mod run;
mod settle;
mod spool;
mod stop;
mod take_over;
mod unit;
mod units;
mod upload;
mod uploader;
mod worker;

#[cfg(test)]
mod tests;

pub(crate) use append::append;
pub use claims::{ASK_MAX, ClaimStream, Claims, How, Request, Verdict};
pub use journal::PackJournal;
pub(crate) use settle::manifest;
pub(crate) use take_over::take_over;
pub(crate) use upload::upload;

/// What bounds a run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Threads that read, compress and seal.
    pub workers: usize,
    /// Each of about 34 MiB: an open one for each worker, the rest on their way to the store.
    pub pack_buffers: usize,
    pub zstd_level: i32,
    /// Where the store is slower than the processors.
    pub zstd_level_most: i32,
    /// Leaves the page cache to the database, where the kernel can.
    pub spare_page_cache: bool,
}

/// One operation's view of one node, for both phases.
#[derive(Clone, Debug)]
pub struct Context {
    pub storage: Arc<dyn Storage>,
    pub keys: Keys,
    pub entropy: Arc<dyn Entropy>,
    pub transaction: TransactionId,
    pub node: String,
    /// The operation's own directory; the packs it has stored are journaled there.
    pub spool: PathBuf,
    /// The source list that the snapshot made.
    pub source: PathBuf,
    pub tree: Arc<Tree>,
    /// This node's manifest in the base backup.
    pub base: Option<ManifestRef>,
    /// Packs that nothing may be taken over from.
    pub damaged: Arc<PackSet>,
    /// This node's place among `nodes`: replicas begin at different places and share the upload.
    pub position: u32,
    pub nodes: u32,
    /// The connection to the leader, while there is one.
    pub leader: watch::Receiver<Option<Channel>>,
    pub claim: v1::ClaimOpen,
    pub limits: Limits,
    pub pace: Arc<Pace>,
    pub blocking: Blocking,
    pub progress: Arc<Counters>,
}
