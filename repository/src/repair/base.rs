//! Whatever stands in the way of opening a repository, from a copy: its header, wrapped keys and masters, its ledger.
use std::collections::BTreeSet;
use std::sync::Arc;

use super::put_back::replace;
use crate::commit::{Repository, header_id, operator_of, prove_header, prove_operator};
use crate::error::{Error, ErrorKind, Result};
use crate::id::KeyId;
use crate::keyfile::KeyFile;
use crate::ledger::{Ledger, Record, record_key, record_link};
use crate::masters;
use crate::storage::{Storage, list_all};

/// Says what was, or would be, put back. Of operator keys, what those that opened the copy need here; those of others are
/// found by a check.
pub async fn put_back_base(storage: &Arc<dyn Storage>, copy: &Repository, act: bool) -> Result<Vec<String>> {
    let mut back = Vec::new();
    match storage.get("repo", None).await {
        Ok(there) => match header_id(&there) {
            Ok(id) if id != copy.id() => {
                return Err(Error::conflict(format!(
                    "{storage:?} holds repository {id}, and the copy is of {}",
                    copy.id()
                ))
                .with_hint("name the copy of this repository"));
            }
            _ if prove_header(copy.keys(), &there).is_ok() => {}
            _ => back.push("repo".to_owned()),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => back.push("repo".to_owned()),
        Err(e) => return Err(e),
    }
    back.append(&mut operators(storage, copy).await?);
    if act {
        for key in &back {
            replace(&**storage, key, copy.storage().get(key, None).await?).await?;
        }
    }
    back.append(&mut put_back_ledger(&**storage, copy, act).await?);
    Ok(back)
}

/// Nothing as long as one of the keys at hand opens the repository: more than is needed could bring back a key that was
/// removed since the copy was made.
async fn operators(storage: &Arc<dyn Storage>, copy: &Repository) -> Result<Vec<String>> {
    let held = copy.keys().epochs().held();
    for key in held.iter() {
        if opens(storage, copy, key).await? {
            return Ok(Vec::new());
        }
    }
    // As far as it can be read; with keys of its own, for what it says is not proved.
    let (ledger, _) = Ledger::examine(storage.clone(), &copy.keys().fork()).await;
    let mut wanted: BTreeSet<KeyId> = held.iter().map(|key| key.id).collect();
    if !any_whole(storage, copy).await? {
        wanted.extend(copy.key_ids().await?);
    }
    if let Some(removed) = wanted.iter().find(|id| ledger.state().is_removed(**id) && wanted.len() == 1) {
        return Err(Error::denied(format!("key {removed} was removed since the copy was made"))
            .with_hint("use a key that stayed"));
    }
    wanted.retain(|id| !ledger.state().is_removed(*id));
    let mut back = Vec::new();
    for prefix in [masters::PREFIX, "keys/"] {
        for object in list_all(&**copy.storage(), prefix).await? {
            if operator_of(&object.key).is_some_and(|id| wanted.contains(&id))
                && !is_whole(storage, copy, &object.key).await?
                && is_whole(copy.storage(), copy, &object.key).await?
            {
                back.push(object.key);
            }
        }
    }
    Ok(back)
}

async fn opens(storage: &Arc<dyn Storage>, copy: &Repository, key: &KeyFile) -> Result<bool> {
    if !is_whole(storage, copy, &format!("keys/{}", key.id)).await? {
        return Ok(false);
    }
    let Some(epoch) = copy.read(|state| state.key_epoch()).await else { return Ok(true) };
    match masters::read(&**storage, key, copy.id(), epoch).await {
        Err(e) if e.kind() == ErrorKind::Unavailable => Err(e),
        read => Ok(matches!(read, Ok(Some(_)))),
    }
}

async fn any_whole(storage: &Arc<dyn Storage>, copy: &Repository) -> Result<bool> {
    for object in list_all(&**storage, "keys/").await? {
        if is_whole(storage, copy, &object.key).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn is_whole(storage: &Arc<dyn Storage>, copy: &Repository, object: &str) -> Result<bool> {
    match storage.get(object, None).await {
        Ok(body) => Ok(prove_operator(copy.keys(), object, &body).is_ok()),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The ledger of `storage`, which may be too damaged to be opened, from that of `copy`: records that are missing or do
/// not open. A record that opens and is another than the copy's means that these are two histories: refused.
pub async fn put_back_ledger(storage: &dyn Storage, copy: &Repository, act: bool) -> Result<Vec<String>> {
    let mut back = Vec::new();
    let mut previous = None;
    let Some((last, _)) = copy.head().await else { return Ok(back) };
    for number in 0..=last {
        let key = record_key(number);
        let whole = copy.storage().get(&key, None).await?;
        let there = match storage.get(&key, None).await {
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            other => Some(other?),
        };
        if there.as_ref() != Some(&whole) {
            let opens = there.map(|there| Record::open(copy.keys(), number, previous.as_ref(), &there));
            if let Some(Ok(_)) = opens {
                return Err(Error::conflict(format!(
                    "record {number} of the ledger is whole, and another than the copy's: these are two histories"
                ))
                .with_hint("one of the two was written to after it was rolled back or copied: nothing was changed"));
            }
            back.push(key);
        }
        previous = Some(record_link(&whole));
    }
    if act {
        for key in &back {
            let whole = copy.storage().get(key, None).await?;
            replace(storage, key, whole).await?;
        }
    }
    Ok(back)
}
