//! Pieces of logs, and the accounts of histories, as a copy has them.
use std::sync::Arc;

use bytes::Bytes;

use super::put_back::replace;
use crate::commit::Repository;
use crate::error::{Error, ErrorKind, Result};
use crate::id::LineageId;
use crate::log::{self, Coverage, LogStore, Pages, Piece, history_key};
use crate::storage::Storage;

/// A damaged object's bytes, where those in the copy prove themselves.
pub(super) async fn proven(repository: &Repository, copy: &Arc<dyn Storage>, object: &str) -> Result<Bytes> {
    let there = LogStore::new(copy.clone(), repository.keys().clone());
    if let Ok(piece) = Piece::from_key(object) {
        let lineage = repository.lineage(piece.lineage).await?;
        let key_epoch = lineage.grant(piece.epoch).and_then(|grant| grant.key_epoch);
        there.learn(key_epoch).await?;
        let body = copy.get(object, None).await?;
        let (keys, checked) = (repository.keys().clone(), body.clone());
        let opened = repository.blocking().run(move || log::open(&keys, key_epoch, &piece, &checked));
        return opened.await.map(|_| body);
    }
    let lineages = repository.read(|state| state.lineages().clone()).await;
    let of = lineages.into_values().find(|lineage| history_key(lineage.id) == object);
    let of =
        of.ok_or_else(|| Error::invalid(format!("{object} is of no kind that is put back from a copy")))?;
    match there.history(&of).await? {
        Some(_) => copy.get(object, None).await,
        None => Err(Error::not_found(format!("the copy has no {object}"))),
    }
}

/// The pieces that the copy has of what is not covered here, one after the other: the names that were put back, or would be.
pub(super) async fn missing(
    repository: &Repository,
    copy: &Arc<dyn Storage>,
    lineage: LineageId,
    act: bool,
) -> Result<Vec<String>> {
    let storage = repository.storage();
    let lineage = repository.lineage(lineage).await?;
    let covered = repository.logs().coverage(&lineage, 0).await?;
    let (mut found, mut pages) = (Vec::new(), Pages::all(lineage.id, false));
    while let Some(page) = pages.next(&**copy).await? {
        for piece in page.iter().map(|stored| stored.piece) {
            let part = Coverage::of(&lineage, [piece]).stretches().first().copied();
            let Some((from, to)) = part.filter(|(from, to)| !covered.covers(*from, *to)) else { continue };
            let key = piece.key();
            // One that is there and damaged has a finding of its own.
            let gone = storage.size(&key).await.is_err_and(|e| e.kind() == ErrorKind::NotFound);
            if !gone {
                continue;
            }
            let body = proven(repository, copy, &key).await?;
            tracing::debug!(from, to, "a part of the log that the copy has");
            if act {
                replace(&**storage, &key, body).await?;
            }
            found.push(key);
        }
    }
    match found.is_empty() {
        true => Err(Error::not_found(format!("the copy has no more of the log of {}", lineage.id))),
        false => Ok(found),
    }
}
