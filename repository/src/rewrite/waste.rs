//! How much of a pack is used: by the manifests, which alone know.
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::choice::{Limits, Used};
use crate::commit::Repository;
use crate::error::Result;
use crate::id::{ChunkId, TransactionId};
use crate::ledger::{BackupRecord, PackSet};
use crate::manifest::entry::{Kind, Piece as Part};
use crate::manifest::{Block, ManifestReader, ManifestRef};
use crate::pack::{ChunkAt, FrameAt, PackId};
use crate::relocate::{Contents, PACKS_AT_ONCE, Pausing, is_damage};
use crate::storage::list_all;

/// Packs counted in one pass over the manifests: what they have in use is held.
const PACKS_IN_PASS: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Over the limit, and within the budget.
    pub(super) used: Vec<Used>,
    /// What of these is in use.
    pub(super) chunks: HashMap<PackId, BTreeSet<ChunkId>>,
    /// By all that are over the limit.
    pub(super) wasted: u64,
    /// Bytes of all packs that backups need.
    pub(super) total: u64,
    /// There are more over the limit than the budget allows.
    pub(super) more: bool,
}

impl Measured {
    /// A chunk moves as a whole, so one of which a page is used counts as a whole: else what was moved would seem wasted again.
    async fn add(
        &mut self,
        repository: &Repository,
        packs: &[(PackId, HashSet<ChunkAt>)],
        sizes: &BTreeMap<PackId, u64>,
        limits: &Limits,
    ) -> Result<()> {
        let contents = Contents::of(repository, &packs.iter().map(|(pack, _)| *pack).collect()).await?;
        for (pack, pieces) in packs {
            let Some(summary) = contents.0.get(pack) else { continue }; // damaged: a repair's
            let found = pieces.iter().map(|at| contents.chunk(&at.frame, at.start, at.len));
            let Some(chunks) = found.map(|found| found.map(|(id, _)| id)).collect::<Option<BTreeSet<_>>>()
            else {
                continue; // a manifest names what the pack does not have
            };
            let used = |(id, at): (ChunkId, ChunkAt)| chunks.contains(&id).then(|| stored(&at));
            let (size, live) = (sizes[pack], summary.chunks().filter_map(used).sum());
            if !limits.spares(size, live) {
                let used = Used { pack: *pack, size, live: live.min(size) };
                self.wasted += used.waste();
                self.used.push(used);
                self.chunks.insert(*pack, chunks);
            }
        }
        Ok(())
    }
}

/// Its share of the frame, rounded up.
fn stored(at: &ChunkAt) -> u64 {
    let FrameAt { stored, plain, .. } = at.frame;
    (u64::from(at.len) * u64::from(stored)).div_ceil(u64::from(plain.max(1)))
}

/// Reads manifests of backups that need these packs, each once a pass. A pack that is found used enough is counted no more, and
/// a manifest that names none of the rest is passed over: as the newest are read first, most packs are settled soon.
pub(super) async fn measure(
    repository: &Repository,
    packs: &PackSet,
    limits: &Limits,
    pausing: Pausing<'_>,
) -> Result<Measured> {
    let mut measured = Measured::default();
    if limits.pack.is_none() {
        return Ok(measured);
    }
    let backups = repository.backups().await;
    let needed = backups.iter().fold(PackSet::new(), |all, backup| all.union(&backup.packs));
    let sizes = sizes(repository, &needed).await?;
    measured.total = sizes.values().sum();
    let packs: Vec<PackId> = packs.iter().filter(|pack| sizes.contains_key(pack)).collect();
    for some in packs.chunks(PACKS_IN_PASS) {
        let mut pass = Pass {
            limits,
            sizes: &sizes,
            open: some.iter().map(|pack| (*pack, Counted::default())).collect(),
        };
        pass.run(repository, &backups, pausing).await?;
        let over: Vec<(PackId, HashSet<ChunkAt>)> =
            pass.open.into_iter().map(|(pack, counted)| (pack, counted.pieces)).collect();
        for some in over.chunks(PACKS_AT_ONCE) {
            measured.add(repository, some, &sizes, limits).await?;
        }
        let within = limits.within_budget(&measured.used);
        measured.more |= within.len() < measured.used.len();
        measured.chunks.retain(|pack, _| within.iter().any(|used| used.pack == *pack));
        measured.used = within;
    }
    Ok(measured)
}

/// Of the objects that are there. One LIST for each thousand packs.
pub(crate) async fn sizes(repository: &Repository, packs: &PackSet) -> Result<BTreeMap<PackId, u64>> {
    let transactions: BTreeSet<TransactionId> = packs.writers().map(|(id, _)| id).collect();
    let mut sizes = BTreeMap::new();
    for transaction in transactions {
        for object in list_all(&**repository.storage(), &format!("t/{transaction}/p/")).await? {
            let pack = PackId::from_key(&object.key).ok().filter(|pack| packs.contains(pack));
            sizes.extend(pack.map(|pack| (pack, object.size)));
        }
    }
    Ok(sizes)
}

#[derive(Default)]
struct Counted {
    /// Stored bytes: at least so many.
    live: u64,
    pieces: HashSet<ChunkAt>,
}

struct Pass<'a> {
    limits: &'a Limits,
    sizes: &'a BTreeMap<PackId, u64>,
    /// Not found used enough so far.
    open: HashMap<PackId, Counted>,
}

impl Pass<'_> {
    async fn run(
        &mut self,
        repository: &Repository,
        backups: &[Arc<BackupRecord>],
        pausing: Pausing<'_>,
    ) -> Result<()> {
        let mut seen = HashSet::new();
        for backup in backups.iter().rev() {
            for node in &backup.nodes {
                if self.names_any(&backup.packs) && seen.insert(node.manifest.encode()) {
                    self.manifest(repository, &node.manifest, backup, pausing).await?;
                }
            }
        }
        Ok(())
    }

    fn names_any(&self, packs: &PackSet) -> bool {
        self.open.keys().any(|pack| packs.contains(pack))
    }

    async fn manifest(
        &mut self,
        repository: &Repository,
        manifest: &ManifestRef,
        backup: &BackupRecord,
        pausing: Pausing<'_>,
    ) -> Result<()> {
        pausing.check()?;
        let (storage, keys) = (repository.storage(), repository.keys());
        let read = async {
            let footer = ManifestReader::read_footer(&**storage, keys, manifest).await?;
            if !self.names_any(&footer.packs) {
                return Ok(());
            }
            let mut reader = ManifestReader::open(storage.clone(), keys, manifest).await?;
            while let Some(block) = reader.next_block().await? {
                pausing.check()?;
                self.block(&block);
                if self.open.is_empty() {
                    break;
                }
            }
            Ok(())
        };
        match read.await {
            // What it needs is not known: all that the backup names is used.
            Err(e) if is_damage(&e) => {
                self.open.retain(|pack, _| !backup.packs.contains(pack));
                Ok(())
            }
            other => other,
        }
    }

    fn block(&mut self, block: &Block) {
        for entry in &block.entries {
            let Kind::File(content) = &entry.kind else { continue };
            let pieces = content.pieces.iter().filter_map(|piece| match piece {
                Part::Data(at) => Some(at),
                Part::Hole(_) => None,
            });
            for at in pieces.chain(content.pages.iter().flat_map(|pages| &pages.maps)) {
                self.count(at);
            }
        }
    }

    fn count(&mut self, at: &ChunkAt) {
        let pack = at.frame.pack;
        let Some(counted) = self.open.get_mut(&pack) else { return };
        if !counted.pieces.insert(*at) {
            return;
        }
        counted.live += stored(at);
        if self.limits.spares(self.sizes[&pack], counted.live) {
            self.open.remove(&pack);
        }
    }
}
