//! Wrapped keys, masters and labels of a copy: as the source has them now.
use std::collections::BTreeSet;

use super::Copied;
use crate::commit::{OPERATOR_OBJECT_MAX, OPERATORS, Repository, operator_of, prove_operator};
use crate::epochs::KeyEpoch;
use crate::error::{Error, ErrorKind, Result};
use crate::id::KeyId;
use crate::ledger::State;
use crate::masters;
use crate::storage::{Object, Storage, list_all};

/// What is damaged or lost in the source stays in the copy as it is there: it may be all that is left. What the ledger says
/// was removed goes from the copy too.
pub(super) async fn operators(from: &Repository, to: &dyn Storage, copied: &mut Copied) -> Result<()> {
    for prefix in OPERATORS {
        let listed = list_all(&**from.storage(), prefix).await?;
        // Read behind the list: whoever deletes one has said so in the ledger before.
        from.refresh().await?;
        let state = from.read(Clone::clone).await;
        let removed = |object: &str| operator_of(object).is_none_or(|id| state.is_removed(id));
        let ours: Vec<Object> = listed.into_iter().filter(|object| !removed(&object.key)).collect();
        for object in &ours {
            match bring(from, to, object).await {
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Invalid) => {
                    told(copied, &object.key, e.chain());
                }
                other => other?,
            }
        }
        let names: BTreeSet<&str> = ours.iter().map(|object| &object.key[..]).collect();
        let mut gone = Vec::new();
        for Object { key, .. } in list_all(to, prefix).await? {
            let Some(id) = operator_of(&key).filter(|_| !names.contains(&key[..])) else { continue };
            if state.is_removed(id) || is_passed(&state, &names, &key) {
                gone.push(key);
            } else {
                told(
                    copied,
                    &key,
                    "it is gone from the source, and nobody removed it: the copy keeps it".to_owned(),
                );
            }
        }
        if !gone.is_empty() {
            to.delete(&gone).await?;
        }
    }
    Ok(())
}

/// Nothing hangs on a label.
fn told(copied: &mut Copied, object: &str, what: String) {
    if !object.starts_with("labels/") {
        copied.damaged(object, what);
    }
}

/// Masters that a later list of the same key contains, or of a draw that was never in force.
fn is_passed(state: &State, names: &BTreeSet<&str>, object: &str) -> bool {
    let Some((epoch, id)) = masters::parse(object) else { return false };
    let drawn = state.draws().get(epoch.number as usize - 1);
    drawn != Some(&epoch.draw) || names.iter().any(|name| is_later(name, epoch, id))
}

fn is_later(name: &str, than: KeyEpoch, of: KeyId) -> bool {
    masters::parse(name).is_some_and(|(epoch, id)| id == of && epoch.number > than.number)
}

async fn bring(from: &Repository, to: &dyn Storage, object: &Object) -> Result<()> {
    if object.size > OPERATOR_OBJECT_MAX {
        return Err(Error::corrupt(format!("{} bytes are no object of ours", object.size)));
    }
    let body = match from.storage().get(&object.key, None).await {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()), // removed since it was listed
        other => other?,
    };
    prove_operator(from.keys(), &object.key, &body)?;
    match to.get(&object.key, None).await {
        Ok(there) if there == body => Ok(()),
        Ok(_) => to.put(&object.key, body).await,
        Err(e) if e.kind() == ErrorKind::NotFound => to.put_new(&object.key, body).await,
        Err(e) => Err(e),
    }
}
