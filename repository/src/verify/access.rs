//! What opens the repository: the header, the wrapped keys, and the masters of the newest key epoch.
use super::{Check, DamageKind};
use crate::commit::{OPERATOR_OBJECT_MAX, operator_of, prove_operator};
use crate::error::{Error, Result};
use crate::id::KeyId;
use crate::masters;
use crate::storage::list_all;

impl Check<'_> {
    pub(super) async fn header(&mut self) {
        if let Err(error) = self.repository.check_header().await {
            let all = self.all();
            self.found.error("repo", &error, all);
        }
    }

    /// Those that are there, and those whose label is, and that nobody removed: says for which operator keys.
    pub(super) async fn wrappers(&mut self) -> Vec<KeyId> {
        let storage = self.repository.storage();
        let (keys, labels) =
            match (list_all(&**storage, "keys/").await, list_all(&**storage, "labels/").await) {
                (Ok(keys), Ok(labels)) => (keys, labels),
                (Err(error), _) | (_, Err(error)) => {
                    let all = self.all();
                    self.found.error("keys/", &error, all);
                    return Vec::new();
                }
            };
        let mut damaged = Vec::new();
        let mut ids: Vec<KeyId> = keys.iter().filter_map(|object| operator_of(&object.key)).collect();
        let mut whole = 0;
        for object in &keys {
            match self.prove(&object.key).await {
                Ok(()) => whole += 1,
                Err(error) => damaged.push((object.key.clone(), error)),
            }
        }
        let removed = self.repository.read(|state| state.removed().clone()).await;
        for label in labels {
            let Some(id) = operator_of(&label.key) else { continue };
            if !removed.contains(&id) && !ids.contains(&id) {
                let error = Error::not_found("it is gone, and nobody removed that operator key");
                damaged.push((format!("keys/{id}"), error));
                ids.push(id);
            }
        }
        // As long as one key is whole, somebody can open the repository.
        let lost = if whole == 0 { self.all() } else { Vec::new() };
        if keys.is_empty() {
            let what = "no key is left: nobody can open this repository";
            self.found.add("keys/", DamageKind::Missing, what, lost.clone());
        }
        for (key, error) in damaged.into_iter().filter(|_| !keys.is_empty()) {
            self.found.error(&key, &error, lost.clone());
        }
        ids
    }

    /// Of these operator keys.
    pub(super) async fn masters(&mut self, keys: &[KeyId]) {
        let Some(epoch) = self.repository.read(|state| state.key_epoch()).await else { return };
        let mut damaged = Vec::new();
        let mut whole = 0;
        for key in keys {
            let object = masters::object(epoch, *key);
            match self.prove(&object).await {
                Ok(()) => whole += 1,
                Err(error) => damaged.push((object, error)),
            }
        }
        // Without them nobody gets past the KEYEPOCH in the ledger.
        let lost = if whole == 0 { self.all() } else { Vec::new() };
        for (object, error) in damaged {
            self.found.error(&object, &error, lost.clone());
        }
    }

    async fn prove(&self, object: &str) -> Result<()> {
        let storage = self.repository.storage();
        let size = storage.size(object).await?;
        if size > OPERATOR_OBJECT_MAX {
            return Err(Error::corrupt(format!("it has {size} bytes")));
        }
        prove_operator(self.repository.keys(), object, &storage.get(object, None).await?)
    }
}
