//! The state in this process's memory, for tests and the simulation: several coordinators, each with an election of its
//! own over one store, which it reaches over a link that can be cut. Time is tokio's, so it may be paused.
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use palinurus_repository::{Epoch, ErrorKind, Result};
use tokio_util::sync::CancellationToken;

use super::{Change, Expect, Reader, Record, State};

mod election;
mod follower;
mod link;
mod store;

pub use election::MemoryElection;
use follower::Follower;
pub use link::Link;
pub use store::MemoryStore;

/// The store, over one coordinator's link.
#[derive(Clone, Debug)]
struct Access {
    store: Arc<MemoryStore>,
    link: Link,
}

#[async_trait]
impl Reader for Access {
    async fn get(&self, key: &str) -> Result<Option<Record>> {
        self.link.call("read a record", || self.store.get(key))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Record)>> {
        self.link.call("list records", || self.store.list(prefix).into_iter().collect())
    }

    fn follow(&self, prefix: &str) -> BoxStream<'static, Change> {
        let follower = Follower::new(self.clone(), prefix);
        futures::stream::unfold(follower, async |mut follower| Some((follower.next().await, follower)))
            .boxed()
    }
}

/// Writes as one leader.
#[derive(Debug)]
struct MemoryState {
    access: Access,
    epoch: Epoch,
    over: CancellationToken,
}

impl MemoryState {
    fn write(&self, key: &str, value: Option<Bytes>, expect: Expect) -> Result<u64> {
        let Access { store, link } = &self.access;
        let written = link.call("write a record", || store.write(self.epoch, key, value, expect))?;
        if written.as_ref().is_err_and(|e| e.kind() == ErrorKind::Fenced) {
            self.over.cancel();
        }
        written
    }
}

#[async_trait]
impl Reader for MemoryState {
    async fn get(&self, key: &str) -> Result<Option<Record>> {
        self.access.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Record)>> {
        self.access.list(prefix).await
    }

    fn follow(&self, prefix: &str) -> BoxStream<'static, Change> {
        self.access.follow(prefix)
    }
}

#[async_trait]
impl State for MemoryState {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<u64> {
        self.write(key, Some(value), expect)
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<()> {
        self.write(key, None, expect).map(drop)
    }
}

#[cfg(test)]
mod tests;
