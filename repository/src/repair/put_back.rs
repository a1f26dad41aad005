//! Damaged objects get their bytes back from a copy of the repository.
use std::sync::Arc;

use bytes::Bytes;

use super::logs;
use crate::commit::{Repository, operator_of, prove_operator};
use crate::error::{Error, ErrorKind, Result};
use crate::id::LineageId;
use crate::index::IndexSegment;
use crate::keys::Keys;
use crate::ledger::manifest_stem;
use crate::manifest::{ManifestReader, ManifestRef};
use crate::pack::{PackId, open_whole};
use crate::storage::{Storage, list_all};
use crate::verify::Report;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutBack {
    pub objects: Vec<String>,
    /// What stays damaged, and why the copy did not help.
    pub left: Vec<(String, String)>,
}

/// Of all that a check found, what the copy has whole. With `act` false only says what would be done.
pub async fn put_back(
    repository: &Repository,
    copy: &Arc<dyn Storage>,
    report: &Report,
    act: bool,
    progress: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<PutBack> {
    let mut done = PutBack::default();
    let total = report.damages.len() as u64;
    for (number, damage) in (0u64..).zip(&report.damages) {
        progress(number, total);
        let object = &damage.object;
        if done.objects.contains(object) || done.left.iter().any(|(left, _)| left == object) {
            continue; // damaged in more than one way
        }
        match one(repository, copy, object, act).await {
            Ok(mut objects) => done.objects.append(&mut objects),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt | ErrorKind::Invalid) => {
                done.left.push((object.clone(), e.chain()));
            }
            Err(e) => return Err(e),
        }
    }
    // Packs that no segment lists are listed again once the damaged segment beside them is back.
    let PutBack { objects, left } = &mut done;
    left.retain(|(object, _)| {
        !(object.ends_with("/x/") && objects.iter().any(|back| back.starts_with(object.as_str())))
    });
    progress(total, total);
    Ok(done)
}

/// The names that were put back, or would be.
async fn one(
    repository: &Repository,
    copy: &Arc<dyn Storage>,
    object: &str,
    act: bool,
) -> Result<Vec<String>> {
    let storage = repository.storage();
    let removed = repository.read(|state| state.removed().clone()).await;
    let mut bodies = Vec::new();
    if let Some(lineage) = lineage_of(object) {
        return logs::missing(repository, copy, lineage, act).await;
    }
    if let Some(prefix) = object.strip_suffix('/').filter(|_| object.contains("/x/")) {
        // Segments that are missing have no names but those in the copy.
        for segment in list_all(&**copy, &format!("{prefix}/")).await? {
            if storage.size(&segment.key).await.is_err_and(|e| e.kind() == ErrorKind::NotFound) {
                bodies.push((segment.key.clone(), proven(repository, copy, &segment.key).await?));
            }
        }
        if bodies.is_empty() {
            return Err(Error::not_found(format!("the copy has no more of {object}")));
        }
    } else if object == "keys/" {
        for key in list_all(&**copy, object).await? {
            if operator_of(&key.key).is_some_and(|id| !removed.contains(&id)) {
                bodies.push((key.key.clone(), proven(repository, copy, &key.key).await?));
            }
        }
    } else if operator_of(object).is_some_and(|id| removed.contains(&id)) {
        return Err(Error::invalid("that operator key was removed: remove it again"));
    } else if object.contains("/m/") {
        bodies = manifest(repository, copy, object).await?;
    } else {
        bodies.push((object.to_owned(), proven(repository, copy, object).await?));
    }
    if act {
        for (key, body) in &bodies {
            replace(&**storage, key, body.clone()).await?;
        }
    }
    Ok(bodies.into_iter().map(|(key, _)| key).collect())
}

/// Named where pieces of it are missing.
fn lineage_of(object: &str) -> Option<LineageId> {
    object.strip_prefix("l/")?.strip_suffix('/')?.parse().ok()
}

/// A pack, index segment, header, wrapped key or masters, as the copy has it, where that proves itself.
async fn proven(repository: &Repository, copy: &Arc<dyn Storage>, object: &str) -> Result<Bytes> {
    if object.starts_with("l/") {
        return logs::proven(repository, copy, object).await;
    }
    let body = copy.get(object, None).await?;
    let (keys, key, checked) = (repository.keys().clone(), object.to_owned(), body.clone());
    repository.blocking().run(move || prove(&keys, &key, &checked)).await?;
    Ok(body)
}

fn prove(keys: &Keys, key: &str, body: &[u8]) -> Result<()> {
    if let Ok(pack) = PackId::from_key(key) {
        return open_whole(keys, pack, body).map(drop);
    }
    if key.contains("/x/") {
        return IndexSegment::open(keys, key, body).map(drop);
    }
    if key == "repo" {
        return crate::commit::prove_header(keys, body);
    }
    if operator_of(key).is_some() {
        return prove_operator(keys, key, body);
    }
    Err(Error::invalid(format!("{key} is of no kind that is put back from a copy")))
}

/// The parts that differ of the manifest that the object is a part of; read in full in the copy first.
async fn manifest(
    repository: &Repository,
    copy: &Arc<dyn Storage>,
    object: &str,
) -> Result<Vec<(String, Bytes)>> {
    let stem = object.rsplit_once('-').map(|(stem, _)| stem).unwrap_or_default();
    let named = |reference: &&ManifestRef| manifest_stem(reference) == stem;
    let backups = repository.backups().await;
    let mut references = backups.iter().flat_map(|backup| &backup.nodes).map(|node| &node.manifest);
    let reference = references.find(named).cloned();
    let reference =
        reference.ok_or_else(|| Error::not_found(format!("no backup names {object} any more")))?;
    let mut reader = ManifestReader::open(copy.clone(), repository.keys(), &reference).await?;
    while reader.next_block().await?.is_some() {}
    let mut parts = Vec::new();
    for key in reference.keys() {
        let whole = copy.get(&key, None).await?;
        match repository.storage().get(&key, None).await {
            Ok(there) if there == whole => {}
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => return Err(e),
            _ => parts.push((key, whole)),
        }
    }
    if parts.is_empty() {
        return Err(Error::corrupt(format!("{object} is the same in the copy, and says what is not so")));
    }
    Ok(parts)
}

/// The one place where an object of these kinds is replaced: its bytes were proved, and are those it once had. Cut short
/// in the middle, the object is missing, which is what it was worth before.
pub(super) async fn replace(storage: &dyn Storage, key: &str, body: Bytes) -> Result<()> {
    storage.delete(&[key.to_owned()]).await?;
    match storage.put_new(key, body.clone()).await {
        Err(e) if e.kind() == ErrorKind::Conflict && storage.get(key, None).await? == body => {}
        other => other?,
    }
    tracing::info!(object = key, "put back from a copy");
    Ok(())
}
