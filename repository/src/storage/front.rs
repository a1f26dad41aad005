//! A store in front of another, for tests: it says only what it does differently.
use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Object, Storage};
use crate::error::Result;

#[async_trait]
pub(crate) trait Front: Send + Sync + fmt::Debug {
    fn behind(&self) -> &dyn Storage;

    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        self.behind().put_new(key, body).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        self.behind().put(key, body).await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        self.behind().delete(keys).await
    }
}

#[async_trait]
impl<F: Front> Storage for F {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        Front::put_new(self, key, body).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        Front::put(self, key, body).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.behind().get(key, range).await
    }

    async fn size(&self, key: &str) -> Result<u64> {
        self.behind().size(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        self.behind().list(prefix, after, limit).await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        Front::delete(self, keys).await
    }
}
