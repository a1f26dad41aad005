//! A store of which no more is read in a second than the limit allows. What is put waits where it is put, outside of all
//! tries: a limit must not look like a store that does not answer.
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use palinurus_repository::storage::{Locked, Mark, Object, Requests};
use palinurus_repository::{Result, Storage};

use super::Pace;

pub(crate) struct Received {
    storage: Arc<dyn Storage>,
    pace: Arc<Pace>,
}

impl Received {
    pub(crate) fn new(storage: Arc<dyn Storage>, pace: Arc<Pace>) -> Self {
        Self { storage, pace }
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.storage.fmt(f) // messages name the store
    }
}

#[async_trait]
impl Storage for Received {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        self.storage.put_new(key, body).await
    }

    async fn put_marked(&self, key: &str, body: Bytes, mark: &Mark) -> Result<()> {
        self.storage.put_marked(key, body, mark).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.storage.put(key, body).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        let gate = &self.pace.receive;
        let known = range.as_ref().map(|range| range.end.saturating_sub(range.start));
        gate.take(known.unwrap_or(0)).await;
        let bytes = self.storage.get(key, range).await?;
        if known.is_none() {
            gate.take(bytes.len() as u64).await;
        }
        Ok(bytes)
    }

    async fn size(&self, key: &str) -> Result<u64> {
        self.storage.size(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        self.storage.list(prefix, after, limit).await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        self.storage.delete(keys).await
    }

    async fn locked(&self, keys: &[String]) -> Result<Vec<Locked>> {
        self.storage.locked(keys).await
    }

    async fn tidy(&self) -> Result<u64> {
        self.storage.tidy().await
    }

    fn sent(&self) -> Option<Requests> {
        self.storage.sent()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use palinurus_repository::storage::MemoryStorage;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_read_is_paid_for_whether_its_length_is_known_or_not() {
        let pace = Arc::new(Pace::default());
        let storage = Received::new(Arc::new(MemoryStorage::default()), pace.clone());
        storage.put_new("p/1", Bytes::from(vec![7; 10_000])).await.unwrap();
        pace.receive.set(1000);
        let began = Instant::now();
        assert_eq!(storage.get("p/1", Some(10..5010)).await.unwrap().len(), 5000);
        assert_eq!(began.elapsed(), Duration::ZERO);
        storage.put_new("p/2", Bytes::from(vec![7; 1 << 20])).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO, "what is put waits elsewhere");
        assert_eq!(storage.get("p/1", None).await.unwrap().len(), 10_000);
        assert_eq!(storage.get("p/1", Some(0..1)).await.unwrap().len(), 1);
        let time = began.elapsed();
        assert!((Duration::from_millis(14_800)..Duration::from_millis(15_100)).contains(&time), "{time:?}");
    }
}
