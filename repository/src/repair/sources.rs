//! Where chunks of damaged packs lie besides.
use std::collections::{BTreeSet, HashMap};

use crate::commit::Repository;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ChunkId, TransactionId};
use crate::index::IndexSegment;
use crate::ledger::{PackSet, State};
use crate::pack::{ChunkAt, FrameAt, FrameReader, PackId, PackSummary};
use crate::storage::list_all;
use crate::verify::read_trailer;

/// What damaged packs hold, or held.
#[derive(Debug, Default)]
pub(super) struct Contents(pub(super) HashMap<PackId, PackSummary>);

impl Contents {
    /// By the packs' own trailers, or else by the index segments of their transaction.
    pub(super) async fn of(repository: &Repository, packs: &PackSet) -> Result<Self> {
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

    pub(super) fn ids(&self) -> BTreeSet<ChunkId> {
        self.0.values().flat_map(PackSummary::chunks).map(|(id, _)| id).collect()
    }

    /// The chunk that these bytes of a frame are, or are part of, and where in it they begin.
    pub(super) fn chunk(&self, at: &FrameAt, start: u32, len: u32) -> Option<(ChunkId, u32)> {
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

fn is_damage(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt | ErrorKind::Invalid)
}

/// A segment that cannot be read knows nothing.
async fn each_segment(
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

/// What a frame holds; `None` where it is damaged.
pub(super) async fn open(repository: &Repository, frame: &FrameAt) -> Result<Option<Vec<u8>>> {
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
