//! Forgets what a policy gives up, however many decide at once.
use crate::commit::Repository;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BackupId, Epoch};
use crate::ledger::State;

use super::Verdict;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgot {
    /// Are gone now, whoever did it.
    pub gone: Vec<BackupId>,
    /// What stays after all, and why.
    pub kept: Vec<(BackupId, String)>,
}

/// Of those that were decided to go. Each is decided again on the very state that its FORGET follows: pins and other backups
/// may have come since, or somebody else may have forgotten what was to stay.
pub async fn forget(
    repository: &Repository,
    epoch: Epoch,
    wanted: &[BackupId],
    decide: &(dyn Fn(&State) -> Vec<Verdict> + Send + Sync),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Forgot> {
    let mut done = Forgot::default();
    for id in wanted {
        if stop() {
            break;
        }
        let still = |state: &State| match decide(state).iter().find(|verdict| verdict.backup == *id) {
            None => Err(Error::not_found("it was forgotten already")),
            Some(verdict) if verdict.keeps() => {
                let reasons: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
                Err(Error::conflict(reasons.join(", ")))
            }
            Some(_) => Ok(()),
        };
        match repository.forget_if(epoch, *id, &still).await {
            Ok(()) => done.gone.push(*id),
            Err(e) if e.kind() == ErrorKind::NotFound => done.gone.push(*id),
            Err(e) if e.kind() == ErrorKind::Conflict => done.kept.push((*id, e.what().to_owned())),
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;
    use bytes::Bytes;

    use super::*;
    use crate::clock::{ManualClock, Timestamp};
    use crate::entropy::SeededEntropy;
    use crate::keyfile::KeyFile;
    use crate::ledger::fixture::{begin, commit, pin, txn};
    use crate::retention::{Candidate, Policy, decide};
    use crate::storage::front::Front;
    use crate::storage::{MemoryStorage, Storage};

    const E: Epoch = Epoch(0);

    /// Somebody else's FORGET takes the place in the ledger that the first record was meant for.
    #[derive(Debug)]
    struct Overtaken {
        inner: Arc<dyn Storage>,
        by: Mutex<Option<(Arc<Repository>, BackupId)>>,
    }

    #[async_trait]
    impl Front for Overtaken {
        fn behind(&self) -> &dyn Storage {
            &*self.inner
        }

        async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
            let other = if key.starts_with("ledger/") { self.by.lock().unwrap().take() } else { None };
            if let Some((other, id)) = other {
                other.forget(E, id).await.unwrap();
            }
            self.inner.put_new(key, body).await
        }
    }

    fn last_one(state: &State) -> Vec<Verdict> {
        let settings = HashMap::from([("keep_last".to_owned(), "1".to_owned())]);
        let candidates = state.backups().map(|backup| Candidate::of(backup, Timestamp(5_000)));
        decide(&candidates.collect::<Vec<_>>(), &Policy::read(&settings).unwrap())
    }

    async fn two() -> (Arc<dyn Storage>, KeyFile, Repository) {
        let key = KeyFile::generate(&SeededEntropy::new(1)).unwrap();
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
        let clock = Arc::new(ManualClock::at(Timestamp(5_000)));
        let repository =
            Repository::create(storage.clone(), &key, &SeededEntropy::new(2), clock).await.unwrap();
        for n in [1, 2] {
            repository.append(E, begin(n)).await.unwrap();
            repository.append(E, commit(n, &[])).await.unwrap();
        }
        (storage, key, repository)
    }

    /// What this one would keep goes in the moment before its FORGET of the other: one of the two must stay.
    #[tokio::test]
    async fn two_who_forget_at_once_leave_what_the_policy_keeps() {
        let (storage, key, other) = two().await;
        let by = Mutex::new(Some((Arc::new(other), txn(2))));
        let storage: Arc<dyn Storage> = Arc::new(Overtaken { inner: storage, by });
        let repository = Repository::open(storage, &[key]).await.unwrap();
        let done = forget(&repository, E, &[txn(1)], &last_one, &|| false).await.unwrap();
        assert_eq!((done.gone.len(), done.kept.len()), (0, 1), "{done:?}");
        assert!(done.kept[0].1.contains("never forgotten"), "{done:?}");
        assert_eq!(repository.backups().await.iter().map(|backup| backup.id).collect::<Vec<_>>(), [txn(1)]);
    }

    #[tokio::test]
    async fn what_was_pinned_since_stays_and_what_is_gone_is_gone() {
        let (_, _, repository) = two().await;
        repository.append(E, pin(1, "release 7")).await.unwrap();
        let done = forget(&repository, E, &[txn(1), txn(9)], &last_one, &|| false).await.unwrap();
        assert_eq!(done, Forgot { gone: vec![txn(9)], kept: vec![(txn(1), "pin: release 7".to_owned())] });
        let nothing = forget(&repository, E, &[txn(1)], &last_one, &|| true).await.unwrap();
        assert_eq!(nothing, Forgot::default());
    }
}
