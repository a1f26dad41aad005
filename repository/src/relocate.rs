//! Moves backups away from packs: new manifests that name the same chunks where they lie by now, ended by one REWRITE.
//! What has no other place stays where it is, and its pack stays needed: so it is safe to leave anything out.
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::commit::Repository;
use crate::entropy::Entropy;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ChunkId, Epoch, TransactionId, WriterId};
use crate::ledger::{BackupRecord, Body, NodeCommit, PackSet, Purpose, Rewritten, State};
use crate::manifest::entry::{Entry, Kind, Piece};
use crate::manifest::{ManifestReader, ManifestRef, ManifestWriter};
use crate::pack::ChunkAt;

mod carry;
mod contents;

pub(crate) use carry::carry;
pub(crate) use contents::{Contents, each_segment, open};

/// Packs in one go: their lists of chunks are held.
pub(crate) const PACKS_AT_ONCE: usize = 64;

/// Whether something more urgent waits.
#[derive(Clone, Copy)]
pub(crate) struct Pausing<'a>(pub(crate) &'a (dyn Fn() -> bool + Sync));

impl Pausing<'_> {
    pub(crate) const NEVER: Pausing<'static> = Pausing(&|| false);

    /// The error only unwinds: whoever began asks [`Self::now`] again.
    pub(crate) fn check(&self) -> Result<()> {
        if self.now() { Err(Error::conflict("something more urgent waits")) } else { Ok(()) }
    }

    pub(crate) fn now(&self) -> bool {
        (self.0)()
    }
}

/// One bounded step, from BEGIN to REWRITE or ABORT.
pub(crate) struct Relocation<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) transaction: TransactionId,
    /// Read after the BEGIN: what it calls usable stays until the transaction ends.
    pub(crate) state: State,
    pub(crate) contents: Contents,
    pub(crate) manifests: u64,
    epoch: Epoch,
    entropy: &'a dyn Entropy,
    away: &'a PackSet,
    pausing: Pausing<'a>,
    places: HashMap<ChunkId, ChunkAt>,
    /// By the old one, encoded: several backups may name it. `None` where nothing of it could be moved.
    moved: HashMap<Vec<u8>, Option<(ManifestRef, PackSet)>>,
}

impl<'a> Relocation<'a> {
    /// `None` where no backup needs any of these packs.
    pub(crate) async fn begin(
        repository: &'a Repository,
        epoch: Epoch,
        entropy: &'a dyn Entropy,
        away: &'a PackSet,
        pausing: Pausing<'a>,
    ) -> Result<Option<Self>> {
        if !repository.read(|state| state.backups().any(|backup| backup.packs.intersects(away))).await {
            return Ok(None);
        }
        let contents = Contents::of(repository, away).await?;
        let transaction = TransactionId(entropy.array()?);
        repository.begin(epoch, transaction, Purpose::Rewrite).await?;
        Ok(Some(Self {
            repository,
            transaction,
            state: repository.read(Clone::clone).await,
            contents,
            manifests: 0,
            epoch,
            entropy,
            away,
            pausing,
            places: HashMap::new(),
            moved: HashMap::new(),
        }))
    }

    /// Chunks that are stored by this transaction from now on.
    pub(crate) async fn carry(&self, wanted: &BTreeSet<ChunkId>) -> Result<HashMap<ChunkId, ChunkAt>> {
        let writer = WriterId(self.entropy.array()?);
        carry(self.repository, self.transaction, writer, &self.contents, wanted, self.pausing).await
    }

    /// Writes the manifests of every backup that needs the packs. Each place must have been read, or written by the transaction.
    pub(crate) async fn backups(&mut self, places: HashMap<ChunkId, ChunkAt>) -> Result<Vec<Rewritten>> {
        self.places = places;
        let users: Vec<Arc<BackupRecord>> = self.state.backups().cloned().collect();
        let mut rewritten = Vec::new();
        for backup in users.iter().filter(|backup| backup.packs.intersects(self.away)) {
            rewritten.extend(self.backup(backup).await?);
        }
        self.manifests = self.moved.values().flatten().count() as u64;
        Ok(rewritten)
    }

    /// Says which backups have moved: none when there was nothing to say.
    pub(crate) async fn end(self, moved: Result<Vec<Rewritten>>) -> Result<Vec<TransactionId>> {
        let Self { repository, epoch, transaction, .. } = self;
        match moved {
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

    async fn backup(&mut self, backup: &BackupRecord) -> Result<Option<Rewritten>> {
        let (mut nodes, mut packs) = (Vec::new(), PackSet::new());
        let mut any = false;
        for node in &backup.nodes {
            let (storage, keys) = (self.repository.storage(), self.repository.keys());
            let footer = match ManifestReader::read_footer(&**storage, keys, &node.manifest).await {
                Ok(footer) => footer,
                // What it needs is not known, so nothing may be let go.
                Err(e) if is_damage(&e) => {
                    tracing::warn!(node = node.node, backup = %backup.id, error = e.chain(), "not rewritten: its manifest is damaged");
                    return Ok(None);
                }
                Err(e) => return Err(e),
            };
            let moved = match footer.packs.intersects(self.away) {
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
                tracing::warn!(manifest = old.key(0), error = e.chain(), "not rewritten: it is damaged");
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
            self.pausing.check()?;
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
        if !self.away.contains(&at.frame.pack) {
            return false;
        }
        let found = self.contents.chunk(&at.frame, at.start, at.len);
        let place = found.and_then(|(id, within)| Some((self.places.get(&id)?, within)));
        let Some((place, within)) = place else { return false };
        *at = ChunkAt { frame: place.frame, start: place.start + within, len: at.len };
        true
    }
}

pub(crate) fn is_damage(e: &Error) -> bool {
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
