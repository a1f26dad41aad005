//! How a repository is made and who may open it: the probe of the store, and the wrapped root keys under `keys/`.
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::entropy::Entropy;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{KeyId, RepositoryId};
use crate::keyfile::{KeyFile, wrapped_for};
use crate::keys::RootKey;
use crate::storage::{Storage, list_all};

pub(super) fn key_object(id: KeyId) -> String {
    format!("keys/{id}")
}

pub(super) async fn key_ids(storage: &dyn Storage) -> Result<Vec<KeyId>> {
    let objects = list_all(storage, "keys/").await?;
    Ok(objects.iter().filter_map(|object| object.key.strip_prefix("keys/")?.parse().ok()).collect())
}

pub(super) fn join(ids: &[KeyId]) -> String {
    if ids.is_empty() {
        return "none".to_owned();
    }
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

pub(super) async fn unwrap_root(
    storage: &dyn Storage,
    keys: &[KeyFile],
    id: RepositoryId,
) -> Result<RootKey> {
    let wanted = key_ids(storage).await?;
    let mut failures = BTreeMap::new();
    for key in keys.iter().filter(|key| wanted.contains(&key.id)) {
        match key.unwrap(&storage.get(&key_object(key.id), None).await?, id) {
            Ok(root) => return Ok(root),
            Err(e) => drop(failures.insert(key.id, e)),
        }
    }
    if let Some((_, failure)) = failures.pop_first() {
        return Err(failure);
    }
    let had: Vec<_> = keys.iter().map(|key| key.id).collect();
    let error = Error::denied(format!(
        "none of your keys opens this repository: it takes one of {}, and you have {}",
        join(&wanted),
        join(&had)
    ));
    Err(if wanted.is_empty() {
        error.with_hint("the objects under keys/ are gone: bring them back from the store's older versions")
    } else {
        error.with_hint("name the key file that this repository was made with")
    })
}

pub(super) fn exists(storage: &dyn Storage) -> Error {
    Error::conflict(format!("there is a repository in {storage:?} already"))
        .with_hint("open it with its key, or choose another place")
}

/// A store that lets the same name be created twice would let two leaders write the same ledger record.
pub(super) async fn probe(storage: &dyn Storage, entropy: &dyn Entropy) -> Result<()> {
    let key = format!("probe/{:016x}", u64::from_le_bytes(entropy.array()?));
    let first = Bytes::from_static(b"first");
    storage.put_new(&key, first.clone()).await?;
    let second = storage.put_new(&key, Bytes::from_static(b"second")).await;
    let kept = storage.get(&key, None).await;
    let removed = storage.delete(std::slice::from_ref(&key)).await;
    let exclusive = second.as_ref().is_err_and(|e| e.kind() == ErrorKind::Conflict);
    if !exclusive && let Err(e) = second {
        return Err(e);
    }
    if !exclusive || kept? != first {
        return Err(Error::invalid(format!(
            "{storage:?} lets an object be created twice: two coordinators would overwrite each other"
        ))
        .with_hint("palinurus needs a store with conditional puts (If-None-Match); this one ignores them"));
    }
    if let Err(e) = removed {
        // A store may well forbid deletion; the probe is five bytes.
        tracing::debug!(key, error = e.chain(), "the probe stays");
    }
    Ok(())
}

/// Puts the wrapped root key of a repository to be. An earlier creation with this key that died before its header
/// is taken up: nothing that is there is ever replaced.
pub(super) async fn place_key(
    storage: &dyn Storage,
    key: &KeyFile,
    entropy: &dyn Entropy,
) -> Result<(RepositoryId, RootKey)> {
    if !storage.list("ledger/", None, 1).await?.is_empty() {
        return Err(Error::conflict(format!(
            "{storage:?} holds the ledger of a repository whose header \"repo\" is gone"
        ))
        .with_hint("bring the object back from the store's older versions, or choose another place"));
    }
    let id = RepositoryId(entropy.array()?);
    let root = RootKey::generate(entropy)?;
    let object = key_object(key.id);
    match storage.put_new(&object, key.wrap(&root, id)?).await {
        Ok(()) => Ok((id, root)),
        Err(e) if e.kind() == ErrorKind::Conflict => {
            let there = storage.get(&object, None).await?;
            let id = wrapped_for(&there)?;
            Ok((id, key.unwrap(&there, id)?))
        }
        Err(e) => Err(e),
    }
}
