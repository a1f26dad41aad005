//! Counts what is asked of a store: what a backup costs is measured, and asserted in tests.
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Object, Storage};
use crate::error::Result;

#[derive(Debug)]
pub struct Counted {
    inner: Arc<dyn Storage>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    puts: AtomicU64,
    gets: AtomicU64,
    sizes: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    bytes_put: AtomicU64,
    bytes_got: AtomicU64,
}

/// Requests so far, failed ones too; bytes only of those that succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    pub puts: u64,
    pub gets: u64,
    pub sizes: u64,
    pub lists: u64,
    /// Objects, not calls.
    pub deletes: u64,
    pub bytes_put: u64,
    pub bytes_got: u64,
}

impl Requests {
    /// What has been asked since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Requests) -> Requests {
        Requests {
            puts: self.puts - earlier.puts,
            gets: self.gets - earlier.gets,
            sizes: self.sizes - earlier.sizes,
            lists: self.lists - earlier.lists,
            deletes: self.deletes - earlier.deletes,
            bytes_put: self.bytes_put - earlier.bytes_put,
            bytes_got: self.bytes_got - earlier.bytes_got,
        }
    }

    pub fn total(&self) -> u64 {
        self.puts + self.gets + self.sizes + self.lists + self.deletes
    }
}

impl Counted {
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, counts: Counts::default() }
    }

    pub fn requests(&self) -> Requests {
        let counts = &self.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Requests {
            puts: read(&counts.puts),
            gets: read(&counts.gets),
            sizes: read(&counts.sizes),
            lists: read(&counts.lists),
            deletes: read(&counts.deletes),
            bytes_put: read(&counts.bytes_put),
            bytes_got: read(&counts.bytes_got),
        }
    }
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

#[async_trait]
impl Storage for Counted {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        add(&self.counts.puts, 1);
        let length = body.len() as u64;
        self.inner.put_new(key, body).await?;
        add(&self.counts.bytes_put, length);
        Ok(())
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        add(&self.counts.puts, 1);
        let length = body.len() as u64;
        self.inner.put(key, body).await?;
        add(&self.counts.bytes_put, length);
        Ok(())
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        add(&self.counts.gets, 1);
        let body = self.inner.get(key, range).await?;
        add(&self.counts.bytes_got, body.len() as u64);
        Ok(body)
    }

    async fn size(&self, key: &str) -> Result<u64> {
        add(&self.counts.sizes, 1);
        self.inner.size(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        add(&self.counts.lists, 1);
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        add(&self.counts.deletes, keys.len() as u64);
        self.inner.delete(keys).await
    }

    async fn tidy(&self) -> Result<u64> {
        self.inner.tidy().await
    }
}
