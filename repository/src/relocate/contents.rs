//! What lies in packs that chunks are moved out of.
use std::collections::{BTreeSet, HashMap};

use super::is_damage;
use crate::commit::Repository;
use crate::error::Result;
use crate::id::{ChunkId, TransactionId};
use crate::index::IndexSegment;
use crate::ledger::PackSet;
use crate::pack::{FrameAt, FrameReader, PackId, PackSummary};
use crate::storage::list_all;
use crate::verify::read_trailer;

/// What packs hold, or held where they are damaged.
#[derive(Debug, Default)]
pub(crate) struct Contents(pub(crate) HashMap<PackId, PackSummary>);

impl Contents {
    /// By the packs' own trailers, or else by the index segments of their transaction.
    pub(crate) async fn of(repository: &Repository, packs: &PackSet) -> Result<Self> {
        let mut contents = Self::default();
        let storage = repository.storage();
        for pack in packs.iter() {
            let read = async {
                let size = storage.size(&pack.key()).await?;
                read_trailer(&**storage, repository.keys(), pack, size).await
            };
            match read.await {
                Ok((summary, _)) => drop(contents.0.insert(pack, summary)),
                Err(e) if is_damage(&e) => {}
                Err(e) => return Err(e),
            }
        }
        let left: PackSet = packs.iter().filter(|pack| !contents.0.contains_key(pack)).collect();
        let transactions: BTreeSet<TransactionId> = left.writers().map(|(id, _)| id).collect();
        for transaction in transactions {
            each_segment(repository, transaction, |summary| {
                if left.contains(&summary.pack) {
                    contents.0.insert(summary.pack, summary);
                }
            })
            .await?;
        }
        Ok(contents)
    }

    pub(crate) fn ids(&self) -> BTreeSet<ChunkId> {
        self.0.values().flat_map(PackSummary::chunks).map(|(id, _)| id).collect()
    }

    /// The chunk that these bytes of a frame are, or are part of, and where in it they begin.
    pub(crate) fn chunk(&self, at: &FrameAt, start: u32, len: u32) -> Option<(ChunkId, u32)> {
        let frame = self.0.get(&at.pack)?.frames.get(at.ordinal as usize)?;
        let mut begin = 0u32;
        for (id, whole) in &frame.chunks {
            let within = start
                .checked_sub(begin)
                .filter(|within| u64::from(*within) + u64::from(len) <= u64::from(*whole));
            if let Some(within) = within {
                return Some((*id, within));
            }
            begin = begin.checked_add(*whole)?;
        }
        None
    }
}

/// A segment that cannot be read knows nothing.
pub(crate) async fn each_segment(
    repository: &Repository,
    transaction: TransactionId,
    mut take: impl FnMut(PackSummary),
) -> Result<()> {
    for segment in list_all(&**repository.storage(), &format!("t/{transaction}/x/")).await? {
        let read = async {
            let object = repository.storage().get(&segment.key, None).await?;
            let (keys, key) = (repository.keys().clone(), segment.key.clone());
            repository.blocking().run(move || IndexSegment::open(&keys, &key, &object)).await
        };
        match read.await {
            Ok(packs) => packs.into_iter().for_each(&mut take),
            Err(e) if is_damage(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// What a frame holds; `None` where it is damaged.
pub(crate) async fn open(repository: &Repository, frame: &FrameAt) -> Result<Option<Vec<u8>>> {
    let (keys, at) = (repository.keys().clone(), *frame);
    let read = async {
        let bytes = repository.storage().get(&at.pack.key(), Some(at.range())).await?;
        let open = move || {
            let mut plain = Vec::new();
            FrameReader::new(&keys)?.open(&at, &mut bytes.to_vec(), &mut plain)?;
            Ok(plain)
        };
        repository.blocking().run(open).await
    };
    match read.await {
        Ok(plain) => Ok(Some(plain)),
        Err(e) if is_damage(&e) => Ok(None),
        Err(e) => Err(e),
    }
}
