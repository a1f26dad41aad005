//! How a repository is made and who may open it: the probe of the store, and the wrapped root keys under `keys/`.
use bytes::Bytes;

use crate::entropy::Entropy;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{KeyId, RepositoryId};
use crate::keyfile::KeyFile;
use crate::keys::RootKey;
use crate::storage::{Storage, list_all};
use crate::wrapper::wrapped_for;

pub(super) fn key_object(id: KeyId) -> String {
    format!("keys/{id}")
}

pub(super) async fn key_ids(storage: &dyn Storage) -> Result<Vec<KeyId>> {
    let objects = list_all(storage, "keys/").await?;
    Ok(objects.iter().filter_map(|object| object.key.strip_prefix("keys/")?.parse().ok()).collect())
}

/// Named in messages; a repository has a handful.
const NAMED: usize = 8;

pub(super) fn join(ids: &[KeyId]) -> String {
    let named: Vec<_> = ids.iter().take(NAMED).map(ToString::to_string).collect();
    match ids.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// The root key, and which of the keys opened it. One that fails does not keep another from being tried.
pub(super) async fn unwrap_root(
    storage: &dyn Storage,
    keys: &[KeyFile],
    id: RepositoryId,
) -> Result<(KeyFile, RootKey)> {
    let wrapped_for = key_ids(storage).await?;
    let mut failure = None;
    for key in keys.iter().filter(|key| wrapped_for.contains(&key.id)) {
        let wrapped = storage.get(&key_object(key.id), None).await;
        match wrapped.and_then(|wrapped| key.unwrap(&wrapped, id)) {
            Ok(root) => return Ok((key.clone(), root)),
            // Removed since it was listed.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => drop(failure.get_or_insert(e)),
        }
    }
    Err(failure.unwrap_or_else(|| none_opens(keys, &wrapped_for)))
}

fn none_opens(keys: &[KeyFile], wrapped_for: &[KeyId]) -> Error {
    let mut given: Vec<_> = keys.iter().map(|key| key.id).collect();
    given.sort();
    given.dedup();
    let tried = match given.as_slice() {
        [] => "no key was given, and without one this repository does not open".to_owned(),
        [one] => format!("the key given, {one}, does not open this repository"),
        more => format!("none of the {} keys given ({}) opens this repository", more.len(), join(more)),
    };
    let (wrapped, hint) = match wrapped_for {
        [] => (
            "it is wrapped for no key any more".to_owned(),
            "the objects under keys/ are gone: bring them back from the store's older versions",
        ),
        [one] => (format!("it is wrapped for key {one}"), NAME_IT),
        more => (format!("it is wrapped for keys {}", join(more)), NAME_IT),
    };
    Error::denied(format!("{tried}: {wrapped}")).with_hint(hint)
}

const NAME_IT: &str = "name that key's file; its first line has the id. A key that was rotated away opens nothing, and \
                       when every copy of the others is lost, so are the backups";

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
