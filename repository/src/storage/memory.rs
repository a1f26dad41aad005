//! A store that lives as long as the process: for tests, and for trying things out.
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, Range};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Object, Storage, check_key, check_prefix, ends_early};
use crate::error::{Error, Result};

#[derive(Default)]
pub struct MemoryStorage(Mutex<BTreeMap<String, Bytes>>);

impl MemoryStorage {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory:") // messages name the store
    }
}

fn absent(key: &str) -> Error {
    Error::not_found(format!("{key} does not exist"))
}

#[async_trait]
impl Storage for MemoryStorage {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        check_key(key)?;
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Err(Error::conflict(format!("{key} exists already")));
        }
        objects.insert(key.to_owned(), Bytes::copy_from_slice(&body));
        Ok(())
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        check_key(key)?;
        self.objects().insert(key.to_owned(), Bytes::copy_from_slice(&body));
        Ok(())
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        check_key(key)?;
        let body = self.objects().get(key).cloned().ok_or_else(|| absent(key))?;
        let Some(range) = range else { return Ok(body) };
        let size = body.len() as u64;
        if range.start > range.end {
            return Err(Error::invalid(format!("range {}..{} of {key}", range.start, range.end)));
        }
        if range.end > size {
            return Err(ends_early(key, &range, size));
        }
        Ok(body.slice(range.start as usize..range.end as usize))
    }

    async fn size(&self, key: &str) -> Result<u64> {
        check_key(key)?;
        self.objects().get(key).map(|body| body.len() as u64).ok_or_else(|| absent(key))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        check_prefix(prefix)?;
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let objects = self.objects();
        let matching =
            objects.range::<str, _>((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
        Ok(matching
            .take(limit)
            .map(|(key, body)| Object { key: key.clone(), size: body.len() as u64 })
            .collect())
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        keys.iter().try_for_each(|key| check_key(key))?;
        let mut objects = self.objects();
        for key in keys {
            objects.remove(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::storage::{Counted, suite};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn conforms() {
        suite::run(Arc::new(MemoryStorage::default()), "memory").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn counting_changes_nothing() {
        let counted = Arc::new(Counted::new(Arc::new(MemoryStorage::default())));
        suite::run(counted.clone(), "counted").await;
        let before = counted.requests();
        counted.put_new("a", Bytes::from_static(b"abc")).await.unwrap();
        counted.put_new("a", Bytes::from_static(b"abc")).await.unwrap_err();
        counted.get("a", Some(1..3)).await.unwrap();
        counted.size("a").await.unwrap();
        counted.delete(&["a".into(), "b".into()]).await.unwrap();
        let asked = counted.requests().since(&before);
        assert_eq!((asked.puts, asked.gets, asked.sizes, asked.deletes, asked.lists), (2, 1, 1, 1, 0));
        assert_eq!((asked.deleted, asked.bytes_put, asked.bytes_got, asked.total()), (2, 3, 2, 5));
    }
}
