//! A store that is another's: read, and never written, whatever asks.
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Object, Requests, Storage};
use crate::error::{Error, Result};

pub struct ReadOnly(Arc<dyn Storage>);

impl ReadOnly {
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self(storage)
    }
}

impl fmt::Debug for ReadOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f) // messages name the store
    }
}

#[async_trait]
impl Storage for ReadOnly {
    async fn put_new(&self, key: &str, _: Bytes) -> Result<()> {
        Err(refused(key))
    }

    async fn put(&self, key: &str, _: Bytes) -> Result<()> {
        Err(refused(key))
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.0.get(key, range).await
    }

    async fn size(&self, key: &str) -> Result<u64> {
        self.0.size(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        self.0.list(prefix, after, limit).await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        match keys {
            [] => Ok(()),
            [key, ..] => Err(refused(key)),
        }
    }

    fn sent(&self) -> Option<Requests> {
        self.0.sent()
    }
}

fn refused(key: &str) -> Error {
    Error::denied(format!("{key} is another service's: it is read only"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::storage::{Mark, MemoryStorage};

    #[tokio::test]
    async fn it_gives_and_takes_nothing() {
        let behind = Arc::new(MemoryStorage::default());
        behind.put_new("p/1", Bytes::from_static(b"abc")).await.unwrap();
        let storage = ReadOnly::new(behind.clone());
        assert_eq!(storage.get("p/1", Some(1..3)).await.unwrap(), "bc");
        assert_eq!(storage.size("p/1").await.unwrap(), 3);
        assert_eq!(storage.list("p/", None, 10).await.unwrap().len(), 1);
        let body = Bytes::from_static(b"x");
        let refused = [
            storage.put_new("p/2", body.clone()).await,
            storage.put_marked("p/2", body.clone(), &Mark::draw(&crate::SystemEntropy::new()).unwrap()).await,
            storage.put("keys/1", body).await,
            storage.delete(&["p/1".to_owned()]).await,
        ];
        for refused in refused {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Denied);
        }
        assert_eq!(behind.list("", None, 10).await.unwrap().len(), 1);
    }
}
