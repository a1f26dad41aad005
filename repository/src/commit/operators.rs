//! Whose keys open a repository, and how that changes. Only `keys/*`, `labels/*` and `masters/*` are written: root and
//! masters stay what they are, so nothing else has to be sealed anew. Fresh masters are [`super::key_epoch`]'s.
//!
//! Whatever dies on the way leaves a key that works: a new wrapper is proved before an old one goes, nobody removes the
//! key that they themselves came in with, and a record in the ledger says so first: of two that remove each other's key
//! one is refused.
use std::sync::Arc;

use bytes::Bytes;

use super::Repository;
use super::access::{join, key_ids, key_object};
use super::open::unlock;
use crate::entropy::Entropy;
use crate::epochs::{Given, KeyEpoch};
use crate::error::{Error, ErrorKind, Result};
use crate::id::KeyId;
use crate::keyfile::KeyFile;
use crate::label::{self, Label};
use crate::ledger::{Body, State};
use crate::masters;
use crate::storage::list_all;
use crate::wrapper::wrapped_for;

/// How often a record is tried when somebody else takes the lead.
const ATTEMPTS: usize = 8;

/// One operator key that the root key is wrapped for.
#[derive(Debug)]
pub struct WrappedKey {
    pub id: KeyId,
    /// None where nobody gave it one, or it cannot be read: nothing hangs on it.
    pub label: Option<Label>,
    /// Why nobody can use this wrapper.
    pub damage: Option<Error>,
    opened: Vec<KeyId>,
}

impl WrappedKey {
    /// Of the keys asked about, whether this one opens the wrapper.
    pub fn opens_with(&self, key: &KeyFile) -> bool {
        self.opened.contains(&key.id)
    }
}

fn label_object(id: KeyId) -> String {
    format!("labels/{id}")
}

impl Repository {
    /// Which of the keys given opened this repository.
    pub fn opened_by(&self) -> KeyId {
        self.opened_by.id
    }

    /// The ids of the operator keys that open this repository.
    pub async fn key_ids(&self) -> Result<Vec<KeyId>> {
        key_ids(&*self.storage).await
    }

    /// The same with all that is known of each, and which of `given` opens it.
    pub async fn wrapped_keys(&self, given: &[KeyFile]) -> Result<Vec<WrappedKey>> {
        let mut found = Vec::new();
        let epoch = self.read(|state| state.key_epoch()).await;
        let reaches = self.reaches(epoch).await?;
        for id in self.key_ids().await? {
            let wrapped = match self.storage.get(&key_object(id), None).await {
                Ok(wrapped) => wrapped,
                // Removed since it was listed.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let fits = |key: &&KeyFile| key.id == id && self.opens(key, &wrapped);
            let opened = given.iter().filter(fits).map(|key| key.id).collect();
            let label = self.label(id).await?;
            let removed = self.read(|state| state.is_removed(id)).await;
            let left =
                || removed.then(|| Error::denied("it was removed, and not to the end: remove it again"));
            let damage = self.damage(&wrapped).or_else(left).or_else(|| {
                let left_out = epoch.filter(|_| !reaches.contains(&id))?;
                Some(Error::denied(format!("it is not in key epoch {}, the newest", left_out.number)))
            });
            found.push(WrappedKey { id, label, damage, opened });
        }
        Ok(found)
    }

    /// The keys that have the masters up to that epoch.
    pub(super) async fn reaches(&self, epoch: Option<KeyEpoch>) -> Result<Vec<KeyId>> {
        let Some(epoch) = epoch else { return Ok(Vec::new()) };
        let objects = list_all(&*self.storage, masters::PREFIX).await?;
        let of = objects.iter().filter_map(|object| masters::parse(&object.key));
        Ok(of.filter(|(of, _)| *of == epoch).map(|(_, id)| id).collect())
    }

    fn opens(&self, key: &KeyFile, wrapped: &[u8]) -> bool {
        key.unwrap(wrapped, self.id).is_ok_and(|root| root == self.root)
    }

    fn damage(&self, wrapped: &Bytes) -> Option<Error> {
        match wrapped_for(wrapped) {
            Ok(id) if id == self.id => None,
            Ok(_) => Some(Error::corrupt("it is another repository's")),
            Err(e) => Some(e),
        }
    }

    async fn label(&self, id: KeyId) -> Result<Option<Label>> {
        let object = label_object(id);
        let read = match self.storage.size(&object).await {
            Ok(size) if size <= label::OBJECT_MAX => self.storage.get(&object, None).await,
            Ok(_) => return Ok(None),
            Err(e) => Err(e),
        };
        match read {
            Ok(label) => Ok(Label::open(&label, &self.keys, id).ok()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) async fn put_label(&self, id: KeyId, text: &str, entropy: &dyn Entropy) -> Result<()> {
        let label = Label::new(text, self.clock.now())?.seal(&self.keys, id, entropy)?;
        self.storage.put(&label_object(id), label).await
    }

    /// From now on `key` opens the repository too; proved before this returns. Adding it again changes nothing but the
    /// label, where one is given.
    pub async fn add_key(&self, key: &KeyFile, label: &str, entropy: &dyn Entropy) -> Result<()> {
        Label::new(label, self.clock.now())?;
        self.refresh().await?;
        if self.read(|state| state.is_removed(key.id)).await {
            self.say(key.id, self.opened_by.id, false).await?;
        }
        self.put_masters(key).await?;
        let new = match self.storage.put_new(&key_object(key.id), key.wrap(&self.root, self.id)?).await {
            Ok(()) => true,
            Err(e) if e.kind() == ErrorKind::Conflict => false,
            Err(e) => return Err(e),
        };
        // A key epoch that began meanwhile may not know of it.
        self.refresh().await?;
        self.put_masters(key).await?;
        self.prove(key).await?;
        if new || !label.is_empty() {
            self.put_label(key.id, label, entropy).await?;
        }
        Ok(())
    }

    async fn say(&self, key: KeyId, by: KeyId, removed: bool) -> Result<()> {
        let said = |state: &State| state.is_removed(key) == removed;
        self.append_beside(Body::OperatorKey { key, by, removed }, said).await
    }

    /// Appends in the name of whoever leads, for an operator's command leads nothing. Where the answer is lost, `done`
    /// says whether it is there.
    pub(super) async fn append_beside(&self, body: Body, done: impl Fn(&State) -> bool) -> Result<()> {
        let mut attempt = 1;
        loop {
            let leader = self.read(|state| state.leader().0).await;
            let Err(error) = self.append(leader, body.clone()).await else { return Ok(()) };
            // What could not be read again is told as the append's failure.
            let _ = self.refresh().await;
            let (done, now) = self.read(|state| (done(state), state.leader().0)).await;
            if done {
                return Ok(());
            }
            if now <= leader || attempt == ATTEMPTS {
                return Err(error);
            }
            attempt += 1;
        }
    }

    /// The masters of all key epochs that this process has read of, for that key too.
    async fn put_masters(&self, key: &KeyFile) -> Result<()> {
        let draws = self.read(|state| state.draws().to_vec()).await;
        if draws.is_empty() {
            return Ok(());
        }
        let (object, sealed) = masters::seal(&self.keys.epochs().masters(&draws)?, key, self.id)?;
        match self.storage.put_new(&object, sealed).await {
            Err(e) if e.kind() == ErrorKind::Conflict => Ok(()),
            other => other,
        }
    }

    /// As whoever has only this key will open the repository.
    pub(super) async fn prove(&self, key: &KeyFile) -> Result<()> {
        let refused = |e: Error| match e.kind() {
            ErrorKind::Denied | ErrorKind::Corrupt => Error::conflict(format!(
                "keys/{} is there already, and this key does not open it: {}",
                key.id,
                e.what()
            ))
            .with_hint("make a new key with `palinurus keys generate`, and add that"),
            _ => e,
        };
        let alone = Arc::new(Given(Arc::from([key.clone()])));
        let unlocked = unlock(&*self.storage, alone).await.map_err(refused)?;
        if unlocked.root != self.root {
            return Err(Error::corrupt(format!("keys/{} wraps another root key", key.id)));
        }
        match self.read(|state| state.key_epoch()).await {
            Some(epoch) => unlocked.keys.load(&*self.storage, epoch).await.map_err(refused),
            None => Ok(()),
        }
    }

    /// The key no longer opens the repository, to those who have not kept the root key. Never the one that this
    /// repository was opened with: so one that somebody holds is always left.
    pub async fn remove_key(&self, id: KeyId) -> Result<()> {
        self.remove(id, &self.opened_by).await
    }

    /// Puts `new` in the place of the key that this repository was opened with; says whether that one is gone, which
    /// it is unless it is to be kept. After a failure both may open the repository; doing it again goes on.
    pub async fn rotate_key(
        &self,
        new: &KeyFile,
        label: &str,
        keep: bool,
        entropy: &dyn Entropy,
    ) -> Result<()> {
        if new.id == self.opened_by.id {
            return Err(Error::invalid(format!("the new key is the old one: {}", new.id))
                .with_hint("make a new key with `palinurus keys generate`"));
        }
        self.add_key(new, label, entropy).await?;
        if keep { Ok(()) } else { self.remove(self.opened_by.id, new).await }
    }

    pub(super) async fn remove(&self, id: KeyId, by: &KeyFile) -> Result<()> {
        self.refresh().await?;
        let ids = self.key_ids().await?;
        if !ids.contains(&id) {
            return Err(Error::not_found(format!("no key {id} opens this repository"))
                .with_hint(format!("these do: {}", join(&ids))));
        }
        if id == by.id {
            let last = if ids.len() == 1 { "the last key" } else { "the key that was used to open" };
            return Err(Error::denied(format!("{id} is {last} of this repository"))
                .with_hint("open it with another of its keys to remove this one; `keys add` adds one"));
        }
        self.prove(by).await?;
        let (gone, own) = self.read(|state| (state.is_removed(id), state.is_removed(by.id))).await;
        if !gone || own {
            self.say(id, by.id, true).await?;
        }
        let objects = list_all(&*self.storage, masters::PREFIX).await?.into_iter().map(|object| object.key);
        let mut own: Vec<String> =
            objects.filter(|object| masters::parse(object).is_some_and(|(_, of)| of == id)).collect();
        own.push(key_object(id));
        self.storage.delete(&own).await?;
        if let Err(e) = self.storage.delete(&[label_object(id)]).await {
            tracing::debug!(key = %id, error = e.chain(), "the label of a removed key stays");
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
