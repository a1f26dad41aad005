//! Fresh masters: how a key epoch begins.
//!
//! 1. The masters so far and a fresh one are sealed for every key that stays, and each is proved.
//! 2. `KEYEPOCH` is appended: from that conditional put on the fresh one counts.
//! 3. The other keys' objects are deleted.
//!
//! Nothing looks at a draw that no record names, so what dies before 2 leaves the old state, and what dies behind it the
//! new one. Of two that draw at the same moment, the ledger takes one. Nothing is ever overwritten.
use super::Repository;
use super::access::join;
use crate::entropy::Entropy;
use crate::epochs::KeyEpoch;
use crate::error::{Error, Result};
use crate::id::{KeyId, TransactionId};
use crate::keyfile::KeyFile;
use crate::ledger::{Body, State};
use crate::masters::{self, Master};
use crate::storage::list_all;

/// A key epoch that has begun.
#[derive(Debug, PartialEq, Eq)]
pub struct Begun {
    pub epoch: KeyEpoch,
    /// False: it had begun before, and only what was left to do behind it was done.
    pub fresh: bool,
    /// Keys that were added at the same moment, and do not reach it.
    pub left_out: Vec<KeyId>,
    /// Transactions that began before, and end under the master before.
    pub open: Vec<TransactionId>,
}

impl Repository {
    /// From now on all that begins is sealed under a fresh master, which only the keys in `stay` open, and `new` with its
    /// label; those in `drop` are cut off from it, and open nothing here any more. Every key of the repository must stay
    /// or be dropped: nothing is done otherwise.
    pub async fn begin_key_epoch(
        &self,
        stay: &[KeyFile],
        new: Option<(&KeyFile, &str)>,
        drop: &[KeyId],
        entropy: &dyn Entropy,
    ) -> Result<Begun> {
        self.refresh().await?;
        let mut stay = stay.to_vec();
        stay.extend(new.map(|(key, _)| key.clone()));
        let stay = &stay[..];
        all_named(&self.key_ids().await?, stay, drop)?;
        if let Some((key, label)) = new {
            self.add_key(key, label, entropy).await?;
        }
        let ids = self.key_ids().await?;
        for key in stay {
            self.prove(key).await?;
            if self.read(|state| state.is_removed(key.id)).await {
                return Err(Error::denied(format!("key {} was removed", key.id))
                    .with_hint("remove it again to end that, or add it again"));
            }
        }
        let (before, open) =
            self.read(|state| (state.key_epoch(), state.open_transactions().keys().copied().collect())).await;
        let reaches = self.reaches(before).await?;
        let cut = !drop.is_empty() && drop.iter().all(|id| !reaches.contains(id));
        if let Some(epoch) = before.filter(|_| cut && stay.iter().all(|key| reaches.contains(&key.id))) {
            self.finish(epoch, stay, drop).await?;
            return Ok(Begun { epoch, fresh: false, left_out: Vec::new(), open });
        }
        let epoch = self.seal_fresh(stay, entropy).await?;
        let listed = self.key_ids().await?;
        if let Some(new) = listed.iter().find(|id| !ids.contains(id)) {
            self.discard(epoch, stay).await;
            return Err(Error::conflict(format!("key {new} was added by somebody at the same moment"))
                .with_hint("nothing was changed: do it again, with that key given or dropped"));
        }
        self.append_key_epoch(epoch, stay).await?;
        let left_out = self.finish(epoch, stay, drop).await?;
        Ok(Begun { epoch, fresh: true, left_out, open })
    }

    /// Step 1.
    async fn seal_fresh(&self, stay: &[KeyFile], entropy: &dyn Entropy) -> Result<KeyEpoch> {
        let draws = self.read(|state| state.draws().to_vec()).await;
        let mut masters = self.keys.epochs().masters(&draws)?;
        let fresh = Master::draw(entropy)?;
        let epoch = KeyEpoch { number: masters.len() as u32 + 1, draw: fresh.draw };
        masters.push(fresh.clone());
        for key in stay {
            let (object, sealed) = masters::seal(&masters, key, self.id)?;
            self.storage.put_new(&object, sealed).await?;
            // What the store has is what counts from here on, and nobody could draw it again.
            if masters::read(&*self.storage, key, self.id, epoch).await?.as_deref() != Some(&masters[..]) {
                return Err(Error::corrupt(format!("{object} is not what was written")));
            }
        }
        self.keys.hold(fresh)?;
        Ok(epoch)
    }

    /// Step 2.
    async fn append_key_epoch(&self, epoch: KeyEpoch, stay: &[KeyFile]) -> Result<()> {
        let drawn = |state: &State| state.draws().contains(&epoch.draw);
        let appended = self.append_beside(Body::KeyEpoch(epoch), drawn).await;
        if appended.is_err() && self.refresh().await.is_ok() {
            // Only where it cannot count any more: an answer may have been lost.
            let passed = self.read(|state| state.draws().len() as u32 >= epoch.number && !drawn(state)).await;
            if passed {
                self.discard(epoch, stay).await;
            }
        }
        appended
    }

    /// Step 3. Says which keys the epoch goes without that nobody dropped.
    async fn finish(&self, epoch: KeyEpoch, stay: &[KeyFile], drop: &[KeyId]) -> Result<Vec<KeyId>> {
        let by = stay.first().ok_or_else(|| Error::internal("a key epoch without a key"))?;
        let there = self.key_ids().await?;
        for id in drop.iter().filter(|id| there.contains(id)) {
            self.remove(*id, by).await?;
        }
        self.tidy(epoch).await;
        let (there, reaches) = (self.key_ids().await?, self.reaches(Some(epoch)).await?);
        Ok(there.into_iter().filter(|id| !reaches.contains(id)).collect())
    }

    /// Draws that the ledger has passed over, and lists that a newer one contains.
    async fn tidy(&self, epoch: KeyEpoch) {
        let tidied = async {
            let objects = list_all(&*self.storage, masters::PREFIX).await?;
            let all: Vec<_> = objects.iter().filter_map(|object| masters::parse(&object.key)).collect();
            // Who does not reach the newest keeps what they have.
            let reaches = |key: KeyId| all.contains(&(epoch, key));
            let passed = |of: KeyEpoch| of != epoch && of.number <= epoch.number;
            let old = all.iter().filter(|(of, key)| passed(*of) && reaches(*key));
            let old: Vec<String> = old.map(|(of, key)| masters::object(*of, *key)).collect();
            if old.is_empty() { Ok(()) } else { self.storage.delete(&old).await }
        };
        if let Err(e) = tidied.await {
            tracing::debug!(error = e.chain(), "masters of earlier key epochs stay");
        }
    }

    async fn discard(&self, epoch: KeyEpoch, stay: &[KeyFile]) {
        let objects: Vec<String> = stay.iter().map(|key| masters::object(epoch, key.id)).collect();
        if let Err(e) = self.storage.delete(&objects).await {
            tracing::debug!(error = e.chain(), "masters that were drawn in vain stay");
        }
    }
}

/// Who is cut off is said by its id, never by being forgotten.
fn all_named(ids: &[KeyId], stay: &[KeyFile], drop: &[KeyId]) -> Result<()> {
    if let Some(key) = stay.iter().find(|key| drop.contains(&key.id)) {
        return Err(Error::invalid(format!("key {} is to stay and to be dropped", key.id)));
    }
    if stay.is_empty() {
        return Err(Error::invalid("no key would be left").with_hint("give a key that stays, or a new one"));
    }
    let known = |id: &&KeyId| !stay.iter().any(|key| key.id == **id) && !drop.contains(id);
    let unnamed: Vec<KeyId> = ids.iter().filter(known).copied().collect();
    if unnamed.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a fresh master can be sealed for a key only with that key: {} of this repository are not given",
        join(&unnamed)
    ))
    .with_hint("give them all with --keys or --key-command; who is to be cut off is named with --drop"))
}

#[cfg(test)]
mod tests;
