//! Where chunks of damaged packs lie besides.
use std::collections::{BTreeSet, HashMap};

use crate::commit::Repository;
use crate::error::Result;
use crate::id::{ChunkId, TransactionId};
use crate::ledger::State;
use crate::pack::{ChunkAt, FrameAt};
use crate::relocate::{each_segment, open};

/// A place for each of the chunks that lies in a usable pack, and was read there to make sure.
pub(super) async fn elsewhere(
    repository: &Repository,
    state: &State,
    wanted: &BTreeSet<ChunkId>,
) -> Result<HashMap<ChunkId, ChunkAt>> {
    let transactions: BTreeSet<TransactionId> = state.committed().writers().map(|(id, _)| id).collect();
    let mut said: HashMap<ChunkId, ChunkAt> = HashMap::new();
    for transaction in transactions {
        each_segment(repository, transaction, |summary| {
            if state.usable(&summary.pack) {
                said.extend(summary.chunks().filter(|(id, _)| wanted.contains(id)));
            }
        })
        .await?;
    }
    let mut by_frame: HashMap<FrameAt, Vec<(ChunkId, ChunkAt)>> = HashMap::new();
    for (id, at) in said {
        by_frame.entry(at.frame).or_default().push((id, at));
    }
    let mut found = HashMap::new();
    for (frame, chunks) in by_frame {
        let Some(plain) = open(repository, &frame).await? else { continue };
        for (id, at) in chunks {
            let bytes = plain.get(at.start as usize..(at.start + at.len) as usize);
            if bytes.is_some_and(|bytes| repository.keys().chunk_id(bytes) == id) {
                found.insert(id, at);
            }
        }
    }
    Ok(found)
}
