//! Damaged objects get their bytes back from a copy of the repository.
use std::sync::Arc;

use bytes::Bytes;

use crate::commit::Repository;
use crate::error::{Error, ErrorKind, Result};
use crate::index::IndexSegment;
use crate::keys::Keys;
use crate::ledger::{Record, manifest_stem, record_key, record_link};
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
    let mut bodies = Vec::new();
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
            bodies.push((key.key.clone(), proven(repository, copy, &key.key).await?));
        }
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

/// A pack, index segment, header or wrapped key, as the copy has it, where that proves itself.
async fn proven(repository: &Repository, copy: &Arc<dyn Storage>, object: &str) -> Result<Bytes> {
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
    if key.starts_with("keys/") {
        let of = crate::wrapper::wrapped_for(body)?;
        let ours = of == keys.repository();
        return if ours { Ok(()) } else { Err(Error::corrupt("it is another repository's")) };
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
async fn replace(storage: &dyn Storage, key: &str, body: Bytes) -> Result<()> {
    storage.delete(&[key.to_owned()]).await?;
    match storage.put_new(key, body.clone()).await {
        Err(e) if e.kind() == ErrorKind::Conflict && storage.get(key, None).await? == body => {}
        other => other?,
    }
    tracing::info!(object = key, "put back from a copy");
    Ok(())
}

/// Whatever stands in the way of opening the repository in `storage`: its header, its wrapped keys, its ledger. Says what
/// was, or would be, put back.
pub async fn put_back_base(storage: &dyn Storage, copy: &Repository, act: bool) -> Result<Vec<String>> {
    let mut back = Vec::new();
    match storage.get("repo", None).await {
        Ok(there) => match crate::commit::header_id(&there) {
            Ok(id) if id != copy.id() => {
                return Err(Error::conflict(format!(
                    "{storage:?} holds repository {id}, and the copy is of {}",
                    copy.id()
                ))
                .with_hint("name the copy of this repository"));
            }
            _ if crate::commit::prove_header(copy.keys(), &there).is_ok() => {}
            _ => back.push("repo".to_owned()),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => back.push("repo".to_owned()),
        Err(e) => return Err(e),
    }
    let mut usable = false;
    for key in list_all(storage, "keys/").await? {
        usable |=
            storage.get(&key.key, None).await.is_ok_and(|body| prove(copy.keys(), &key.key, &body).is_ok());
    }
    if !usable {
        back.extend(list_all(&**copy.storage(), "keys/").await?.into_iter().map(|object| object.key));
    }
    if act {
        for key in &back {
            replace(storage, key, copy.storage().get(key, None).await?).await?;
        }
    }
    back.append(&mut put_back_ledger(storage, copy, act).await?);
    Ok(back)
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
