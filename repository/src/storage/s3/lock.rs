//! Object Lock: until when the store keeps an object.
use futures::stream::{self, StreamExt, TryStreamExt};

use super::S3Storage;
use crate::clock::Timestamp;
use crate::error::{ErrorKind, Result};
use crate::storage::Locked;

const AT_ONCE: usize = 8;

/// What an object's head says.
enum Lock {
    Absent,
    None,
    Until(Option<Timestamp>),
}

impl S3Storage {
    pub(super) async fn locked_of(&self, keys: &[String]) -> Result<Vec<Locked>> {
        // Retention is the bucket's: where the first object that is there has none, none has.
        let mut rest = keys;
        loop {
            let Some((first, more)) = rest.split_first() else { return Ok(Vec::new()) };
            match self.lock(first).await? {
                Lock::Absent => rest = more,
                Lock::None => return Ok(Vec::new()),
                Lock::Until(_) => break,
            }
        }
        let now = self.clock.now();
        let looks: Vec<_> = rest.iter().map(|key| async move { Ok((key, self.lock(key).await?)) }).collect();
        let found: Vec<_> = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
        let locked = found.into_iter().filter_map(|(key, lock)| match lock {
            Lock::Until(until) if until.is_none_or(|until| until > now) => {
                Some(Locked { key: key.clone(), until })
            }
            _ => None,
        });
        Ok(locked.collect())
    }

    async fn lock(&self, key: &str) -> Result<Lock> {
        let call = self.call("s3:GetObject", key);
        self.sent.sizes.add(1);
        let request = self.client().await?.head_object().bucket(&self.settings.bucket).key(self.name(key));
        let head = match self.ask(&call, 0, request.send()).await {
            Ok(head) => head,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Lock::Absent),
            Err(e) => return Err(e),
        };
        let held = head.object_lock_legal_hold_status().is_some_and(|status| status.as_str() == "ON");
        let until = head.object_lock_retain_until_date().and_then(|at| at.to_millis().ok());
        let until = until.and_then(|at| at.try_into().ok()).map(Timestamp);
        Ok(match until {
            _ if held => Lock::Until(None),
            Some(until) => Lock::Until(Some(until)),
            None => Lock::None,
        })
    }
}
