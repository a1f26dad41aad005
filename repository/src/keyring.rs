//! The operator keys of a process that runs for long. Any of them opens a repository; when none does, their sources
//! are read again, so that a key that was rotated needs no restart.
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;

use crate::commit::Repository;
use crate::epochs::Operators;
use crate::error::{Error, ErrorKind, Result};
use crate::keyfile::KeyFile;
use crate::keys::Keys;
use crate::keysource::KeySource;
use crate::storage::Storage;

#[derive(Clone, Debug, Default)]
pub struct Keyring(Arc<Ring>);

#[derive(Debug, Default)]
struct Ring {
    sources: Vec<KeySource>,
    keys: RwLock<Arc<[KeyFile]>>,
}

impl Keyring {
    /// Reads all sources. Those that give no key are warned of, as long as one does.
    pub async fn load(sources: Vec<KeySource>) -> Result<Self> {
        let keys = read(&sources).await?;
        Ok(Self(Arc::new(Ring { sources, keys: RwLock::new(keys) })))
    }

    /// As they were last read, in the order of the sources.
    pub fn keys(&self) -> Arc<[KeyFile]> {
        self.0.keys()
    }

    /// What new repositories are made with.
    pub fn first(&self) -> Result<KeyFile> {
        self.keys().first().cloned().ok_or_else(none)
    }

    pub async fn open(&self, storage: Arc<dyn Storage>) -> Result<Repository> {
        match Repository::open_by(storage.clone(), self.0.clone()).await {
            Err(refused) if refused.kind() == ErrorKind::Denied && self.0.renew().await => {
                Repository::open_by(storage, self.0.clone()).await
            }
            other => other,
        }
    }

    /// The keys alone, see [`Repository::unlock`].
    pub async fn unlock(&self, storage: &dyn Storage) -> Result<Keys> {
        match Repository::unlock_by(storage, self.0.clone()).await {
            Err(refused) if refused.kind() == ErrorKind::Denied && self.0.renew().await => {
                Repository::unlock_by(storage, self.0.clone()).await
            }
            other => other,
        }
    }
}

#[async_trait]
impl Operators for Ring {
    fn keys(&self) -> Arc<[KeyFile]> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn renew(&self) -> bool {
        if self.sources.is_empty() {
            return false;
        }
        match read(&self.sources).await {
            Ok(keys) => {
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
                true
            }
            Err(error) => {
                tracing::warn!(error = error.chain(), "no key source gives a key any more");
                false
            }
        }
    }
}

fn none() -> Error {
    Error::invalid("no operator key is configured").with_hint("keys = [\"/etc/palinurus/operator.key\"]")
}

async fn read(sources: &[KeySource]) -> Result<Arc<[KeyFile]>> {
    let mut keys = Vec::with_capacity(sources.len());
    let mut failures = Vec::new();
    for source in sources {
        match source.read().await {
            Ok((key, warning)) => {
                if let Some(warning) = warning {
                    tracing::warn!("{warning}");
                }
                keys.push(key);
            }
            Err(error) => failures.push(error),
        }
    }
    if keys.is_empty() {
        return Err(failures.into_iter().next().unwrap_or_else(none));
    }
    for error in failures {
        tracing::warn!(error = error.chain(), hint = error.hint(), "a key is not there; the others are used");
    }
    Ok(keys.into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::clock::SystemClock;
    use crate::entropy::SystemEntropy;
    use crate::storage::MemoryStorage;

    #[tokio::test]
    async fn a_key_that_was_rotated_needs_no_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let entropy = SystemEntropy::new();
        let made = |name: &str| {
            let key = KeyFile::generate(&entropy).unwrap();
            key.write(&path(name)).unwrap();
            key
        };
        let (_, new) = (made("key"), made("new"));
        let ring = Keyring::load(vec![path("key").into(), path("gone").into()]).await.unwrap();
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
        let first = ring.first().unwrap();
        let repository =
            Repository::create(storage.clone(), &first, &entropy, Arc::new(SystemClock)).await.unwrap();
        repository.rotate_key(&new, "", false, &entropy).await.unwrap();
        let refused = ring.open(storage.clone()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied);

        fs::rename(path("new"), path("key")).unwrap();
        ring.unlock(&*storage).await.unwrap();
        assert_eq!(ring.open(storage.clone()).await.unwrap().opened_by(), new.id);
        // The file is gone: what was read is kept.
        fs::remove_file(path("key")).unwrap();
        ring.open(storage.clone()).await.unwrap();
        let empty: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
        assert_eq!(ring.open(empty).await.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn without_any_key_the_first_failure_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let sources = ["one", "two"].map(|name| directory.path().join(name).into()).to_vec();
        let error = Keyring::load(sources).await.unwrap_err();
        assert!(error.kind() == ErrorKind::NotFound && error.what().contains("one"), "{error:?}");
        let error = Keyring::load(Vec::new()).await.unwrap_err();
        assert!(error.what().contains("no operator key"), "{error:?}");
    }
}
