//! The state store: what is alive. Services, operations, nodes. Never the only place that knows of a backup.
//!
//! A handle writes as one leader, under one epoch: an implementation that can lose its leadership guards every
//! write with it and answers `Fenced` from then on.
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use palinurus_repository::{Epoch, Result};

mod embedded;
mod records;
#[cfg(test)]
pub(crate) mod suite;

pub(crate) use embedded::EmbeddedState;
pub(crate) use records::{Records, Versioned};

/// What must be true of a record for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    Any,
    Absent,
    /// The revision that was read.
    At(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) value: Bytes,
    /// Greater after each write of the record.
    pub(crate) revision: u64,
}

/// Small named records, each written whole. A call that ends in `Unavailable` may have been carried out.
#[async_trait]
pub(crate) trait State: Send + Sync + fmt::Debug {
    /// Of the leader that this handle writes as: greater than that of every leader before.
    fn epoch(&self) -> Epoch;

    async fn get(&self, key: &str) -> Result<Option<Record>>;

    /// Every record whose key begins with `prefix`, in the order of keys.
    async fn list(&self, prefix: &str) -> Result<Vec<(String, Record)>>;

    /// Durable when it returns the new revision. `Conflict` when `expect` does not hold.
    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64>;

    /// `Conflict` when `expect` does not hold. Absent already is no error with `Any`.
    async fn delete(&self, key: &str, expect: Expect) -> Result<()>;
}
