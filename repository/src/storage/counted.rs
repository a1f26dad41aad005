//! Counts what is asked of a store: what a backup costs is measured, and asserted in tests.
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Locked, Mark, Object, Storage};
use crate::error::Result;

/// Counts one user's calls; [`Storage::sent`] counts what all users' calls became on the wire.
pub struct Counted {
    inner: Arc<dyn Storage>,
    counts: Counts,
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f) // messages name the store
    }
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) puts: Count,
    pub(super) gets: Count,
    pub(super) sizes: Count,
    pub(super) lists: Count,
    pub(super) deletes: Count,
    pub(super) deleted: Count,
    pub(super) retries: Count,
    pub(super) bytes_put: Count,
    pub(super) bytes_got: Count,
}

#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Requests so far, failed ones too; bytes only of those that succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    pub puts: u64,
    pub gets: u64,
    pub sizes: u64,
    pub lists: u64,
    pub deletes: u64,
    /// Objects that the deletes named.
    pub deleted: u64,
    /// How many of the others were second and later tries.
    pub retries: u64,
    pub bytes_put: u64,
    pub bytes_got: u64,
}

impl Requests {
    /// What has been asked since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Requests) -> Requests {
        Requests {
            puts: self.puts.saturating_sub(earlier.puts),
            gets: self.gets.saturating_sub(earlier.gets),
            sizes: self.sizes.saturating_sub(earlier.sizes),
            lists: self.lists.saturating_sub(earlier.lists),
            deletes: self.deletes.saturating_sub(earlier.deletes),
            deleted: self.deleted.saturating_sub(earlier.deleted),
            retries: self.retries.saturating_sub(earlier.retries),
            bytes_put: self.bytes_put.saturating_sub(earlier.bytes_put),
            bytes_got: self.bytes_got.saturating_sub(earlier.bytes_got),
        }
    }

    #[must_use]
    pub fn plus(self, more: Requests) -> Requests {
        Requests {
            puts: self.puts + more.puts,
            gets: self.gets + more.gets,
            sizes: self.sizes + more.sizes,
            lists: self.lists + more.lists,
            deletes: self.deletes + more.deletes,
            deleted: self.deleted + more.deleted,
            retries: self.retries + more.retries,
            bytes_put: self.bytes_put + more.bytes_put,
            bytes_got: self.bytes_got + more.bytes_got,
        }
    }

    pub fn total(&self) -> u64 {
        self.puts + self.gets + self.sizes + self.lists + self.deletes
    }
}

impl Counts {
    pub(super) fn requests(&self) -> Requests {
        Requests {
            puts: self.puts.read(),
            gets: self.gets.read(),
            sizes: self.sizes.read(),
            lists: self.lists.read(),
            deletes: self.deletes.read(),
            deleted: self.deleted.read(),
            retries: self.retries.read(),
            bytes_put: self.bytes_put.read(),
            bytes_got: self.bytes_got.read(),
        }
    }
}

impl Counted {
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, counts: Counts::default() }
    }

    pub fn requests(&self) -> Requests {
        self.counts.requests()
    }
}

#[async_trait]
impl Storage for Counted {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        self.counts.puts.add(1);
        let length = body.len() as u64;
        self.inner.put_new(key, body).await?;
        self.counts.bytes_put.add(length);
        Ok(())
    }

    async fn put_marked(&self, key: &str, body: Bytes, mark: &Mark) -> Result<()> {
        self.counts.puts.add(1);
        let length = body.len() as u64;
        self.inner.put_marked(key, body, mark).await?;
        self.counts.bytes_put.add(length);
        Ok(())
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.counts.puts.add(1);
        let length = body.len() as u64;
        self.inner.put(key, body).await?;
        self.counts.bytes_put.add(length);
        Ok(())
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.counts.gets.add(1);
        let body = self.inner.get(key, range).await?;
        self.counts.bytes_got.add(body.len() as u64);
        Ok(body)
    }

    async fn size(&self, key: &str) -> Result<u64> {
        self.counts.sizes.add(1);
        self.inner.size(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        self.counts.lists.add(1);
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        self.counts.deletes.add(1);
        self.counts.deleted.add(keys.len() as u64);
        self.inner.delete(keys).await
    }

    async fn locked(&self, keys: &[String]) -> Result<Vec<Locked>> {
        self.inner.locked(keys).await
    }

    async fn tidy(&self) -> Result<u64> {
        self.inner.tidy().await
    }

    fn sent(&self) -> Option<Requests> {
        Some(self.inner.sent().unwrap_or_else(|| self.requests()))
    }
}
