//! Gives backups that need damaged packs manifests that name the same chunks where they lie whole.
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::salvage::salvage;
use super::sources::{Contents, elsewhere};
use crate::commit::Repository;
use crate::entropy::Entropy;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ChunkId, Epoch, TransactionId, WriterId};
use crate::ledger::{BackupRecord, Body, NodeCommit, PackSet, Purpose, Rewritten};
use crate::manifest::entry::{Entry, Kind, Piece};
use crate::manifest::{ManifestReader, ManifestRef, ManifestWriter};
use crate::pack::ChunkAt;

/// Damaged packs in one go: their lists of chunks are held.
const PACKS_AT_ONCE: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrote {
    pub backups: u64,
    pub manifests: u64,
    /// Chunks of damaged packs that lie whole elsewhere now, and those that nobody has any more.
    pub chunks: u64,
    pub chunks_lost: u64,
    /// Backups that need something damaged still.
    pub spoiled: u64,
}

/// Mends what can be mended without a copy. Done again it goes on, or finds nothing to do. Each step ends in one REWRITE.
pub async fn rewrite(repository: &Repository, epoch: Epoch, entropy: &dyn Entropy) -> Result<Rewrote> {
    let mut done = Rewrote::default();
    repository.refresh().await?;
    let damaged = repository.read(|state| state.damaged().packs).await;
    let packs: Vec<_> = damaged.iter().collect();
    let mut backups = BTreeSet::new();
    for some in packs.chunks(PACKS_AT_ONCE) {
        let some: PackSet = some.iter().copied().collect();
        backups.extend(step(repository, epoch, entropy, &some, &mut done).await?);
    }
    done.backups = backups.len() as u64;
    done.spoiled = repository
        .read(|state| state.backups().filter(|backup| state.is_spoiled(backup)).count() as u64)
        .await;
    Ok(done)
}

async fn step(
    repository: &Repository,
    epoch: Epoch,
    entropy: &dyn Entropy,
    damaged: &PackSet,
    done: &mut Rewrote,
) -> Result<Vec<TransactionId>> {
    let users = |backups: Vec<Arc<BackupRecord>>| -> Vec<Arc<BackupRecord>> {
        backups.into_iter().filter(|backup| backup.packs.intersects(damaged)).collect()
    };
    if users(repository.backups().await).is_empty() {
        return Ok(Vec::new());
    }
    let contents = Contents::of(repository, damaged).await?;
    let wanted = contents.ids();
    let transaction = TransactionId(entropy.array()?);
    repository.begin(epoch, transaction, Purpose::Rewrite).await?;
    // Read after the BEGIN: what this state calls usable stays until the transaction ends.
    let state = repository.read(Clone::clone).await;
    let moved = async {
        let mut places = elsewhere(repository, &state, &wanted).await?;
        let missing: BTreeSet<ChunkId> =
            wanted.iter().filter(|id| !places.contains_key(*id)).copied().collect();
        let writer = WriterId(entropy.array()?);
        places.extend(salvage(repository, transaction, writer, &contents, &missing).await?);
        done.chunks += places.len() as u64;
        done.chunks_lost += (wanted.len() - places.len()) as u64;
        let mut moving = Moving {
            repository,
            entropy,
            transaction,
            damaged,
            contents: &contents,
            places,
            moved: HashMap::new(),
        };
        let mut rewritten = Vec::new();
        for backup in users(state.backups().cloned().collect()) {
            rewritten.extend(moving.backup(&backup).await?);
        }
        done.manifests += moving.moved.values().flatten().count() as u64;
        Ok::<_, Error>(rewritten)
    };
    match moved.await {
        Ok(backups) if !backups.is_empty() => {
            let ids = backups.iter().map(|backup| backup.backup).collect();
            repository.append(epoch, Body::Rewrite { transaction, backups }).await?;
            Ok(ids)
        }
        other => {
            repository.abort(epoch, transaction).await?;
            other.map(|_| Vec::new())
        }
    }
}

struct Moving<'a> {
    repository: &'a Repository,
    entropy: &'a dyn Entropy,
    transaction: TransactionId,
    damaged: &'a PackSet,
    contents: &'a Contents,
    places: HashMap<ChunkId, ChunkAt>,
    /// By the old one, encoded: several backups may name it. `None` where nothing of it could be moved.
    moved: HashMap<Vec<u8>, Option<(ManifestRef, PackSet)>>,
}

impl Moving<'_> {
    async fn backup(&mut self, backup: &BackupRecord) -> Result<Option<Rewritten>> {
        let (mut nodes, mut packs) = (Vec::new(), PackSet::new());
        let mut any = false;
        for node in &backup.nodes {
            let (storage, keys) = (self.repository.storage(), self.repository.keys());
            let footer = match ManifestReader::read_footer(&**storage, keys, &node.manifest).await {
                Ok(footer) => footer,
                // What it needs is not known, so nothing may be let go.
                Err(e) if is_damage(&e) => {
                    tracing::warn!(node = node.node, backup = %backup.id, error = e.chain(), "not mended: its manifest is damaged");
                    return Ok(None);
                }
                Err(e) => return Err(e),
            };
            let moved = match footer.packs.intersects(self.damaged) {
                true => self.manifest(&node.manifest).await?,
                false => None,
            };
            match moved {
                Some((manifest, needs)) => {
                    any = true;
                    packs.extend(&needs);
                    nodes.push(NodeCommit { manifest, ..node.clone() });
                }
                None => {
                    packs.extend(&footer.packs);
                    nodes.push(node.clone());
                }
            }
        }
        Ok(any.then_some(Rewritten { backup: backup.id, nodes, packs }))
    }

    async fn manifest(&mut self, old: &ManifestRef) -> Result<Option<(ManifestRef, PackSet)>> {
        let name = old.encode();
        if let Some(moved) = self.moved.get(&name) {
            return Ok(moved.clone());
        }
        let moved = match self.write(old).await {
            Err(e) if is_damage(&e) => {
                tracing::warn!(manifest = old.key(0), error = e.chain(), "not mended: it is damaged");
                None
            }
            other => other?,
        };
        self.moved.insert(name, moved.clone());
        Ok(moved)
    }

    async fn write(&self, old: &ManifestRef) -> Result<Option<(ManifestRef, PackSet)>> {
        let (storage, keys) = (self.repository.storage(), self.repository.keys());
        let mut reader = ManifestReader::open(storage.clone(), keys, old).await?;
        let writer = WriterId(self.entropy.array()?);
        let scan = reader.footer().scan_started;
        let mut new = ManifestWriter::new(keys, self.transaction, &old.node, writer, scan)?;
        let mut held: Option<Entry> = None;
        let mut any = false;
        while let Some(block) = reader.next_block().await? {
            let mut entries = block.entries.into_iter();
            if block.continued_from_previous
                && let (Some(held), Some(more)) = (&mut held, entries.next())
            {
                join(held, more);
            }
            for entry in entries {
                if let Some(before) = held.replace(entry) {
                    any |= self.push(&mut new, before)?;
                }
            }
            if !block.continues
                && let Some(last) = held.take()
            {
                any |= self.push(&mut new, last)?;
            }
            while let Some((key, body)) = new.full_part() {
                storage.put_new(&key, body).await?;
            }
        }
        if let Some(last) = held.take() {
            any |= self.push(&mut new, last)?;
        }
        if !any {
            return Ok(None);
        }
        let finished = new.finish(reader.footer().warnings.clone())?;
        for (key, body) in finished.parts {
            storage.put_new(&key, body).await?;
        }
        Ok(Some((finished.reference, finished.packs)))
    }

    /// True when something of it lies elsewhere now.
    fn push(&self, new: &mut ManifestWriter, mut entry: Entry) -> Result<bool> {
        let mut any = false;
        if let Kind::File(content) = &mut entry.kind {
            let pieces = content.pieces.iter_mut().filter_map(|piece| match piece {
                Piece::Data(at) => Some(at),
                Piece::Hole(_) => None,
            });
            let maps = content.pages.iter_mut().flat_map(|pages| &mut pages.maps);
            for at in pieces.chain(maps) {
                any |= self.locate(at);
            }
        }
        new.push(&entry)?;
        Ok(any)
    }

    fn locate(&self, at: &mut ChunkAt) -> bool {
        if !self.damaged.contains(&at.frame.pack) {
            return false;
        }
        let found = self.contents.chunk(&at.frame, at.start, at.len);
        let place = found.and_then(|(id, within)| Some((self.places.get(&id)?, within)));
        let Some((place, within)) = place else { return false };
        *at = ChunkAt { frame: place.frame, start: place.start + within, len: at.len };
        true
    }
}

fn is_damage(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt | ErrorKind::Invalid)
}

/// The next slice of a file that spans blocks.
fn join(entry: &mut Entry, more: Entry) {
    if let (Kind::File(content), Kind::File(more)) = (&mut entry.kind, more.kind) {
        content.pieces.extend(more.pieces);
        if let (Some(pages), Some(more)) = (&mut content.pages, more.pages) {
            pages.maps.extend(more.maps);
        }
    }
}
