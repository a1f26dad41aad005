//! The base backup's manifest beside the source list, both in the same order: finds what has not changed.
use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use palinurus_repository::ledger::PackSet;
use palinurus_repository::manifest::entry::{Content, Entry, Kind, Piece, compare_paths};
use palinurus_repository::manifest::{ManifestReader, ManifestRef};
use palinurus_repository::pack::ChunkAt;
use palinurus_repository::{ErrorKind, Keys, Result, Storage, Timestamp};
use tokio::runtime::Handle;

use crate::source::{Class, SourceEntry, SourceKind};

/// A file changed this shortly before the base's scan began may have changed again with the same mtime.
const RACY: Duration = Duration::from_secs(2);

pub(crate) struct Base {
    runtime: Handle,
    reader: ManifestReader,
    scan_started: Timestamp,
    /// Nothing that lies there is taken over: it is read and stored again.
    damaged: Arc<PackSet>,
    block: std::vec::IntoIter<Entry>,
    /// The last entry of the block at hand goes on in the next.
    continues: bool,
    next: Option<Entry>,
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Base({:?})", self.reader.reference())
    }
}

impl Base {
    /// At the first entry. Blocks; not to be called on the runtime.
    pub(crate) fn open(
        runtime: Handle,
        storage: Arc<dyn Storage>,
        keys: &Keys,
        reference: &ManifestRef,
        damaged: Arc<PackSet>,
    ) -> Result<Self> {
        let reader = runtime.block_on(ManifestReader::open(storage, keys, reference))?;
        let scan_started = reader.footer().scan_started;
        let mut base = Self {
            runtime,
            reader,
            scan_started,
            damaged,
            block: Vec::new().into_iter(),
            continues: false,
            next: None,
        };
        base.next = base.read()?;
        Ok(base)
    }

    pub(crate) fn entries(&self) -> u64 {
        self.reader.footer().entries
    }

    pub(crate) fn has_warnings(&self) -> bool {
        self.reader.footer().warnings.total() > 0
    }

    /// Goes to the first entry that is not before `path`, forward or back.
    pub(crate) fn seek(&mut self, path: &[u8]) -> Result<()> {
        self.reader.seek(path);
        (self.block, self.continues) = (Vec::new().into_iter(), false);
        self.next = self.read()?;
        while self.next.as_ref().is_some_and(|entry| compare_paths(&entry.path, path).is_lt()) {
            self.next = self.read()?;
        }
        Ok(())
    }

    /// The base's entry of this path. Paths must rise from call to call.
    pub(crate) fn entry(&mut self, path: &[u8]) -> Result<Option<Entry>> {
        loop {
            let order = self.next.as_ref().map(|entry| compare_paths(&entry.path, path));
            match order {
                Some(Ordering::Less) => self.next = self.read()?,
                Some(Ordering::Equal) => {
                    let after = self.read()?;
                    return Ok(std::mem::replace(&mut self.next, after));
                }
                Some(Ordering::Greater) | None => return Ok(None),
            }
        }
    }

    /// Whether the entry is the same file with the same bytes, as far as can be told without reading it.
    pub(crate) fn unchanged<'a>(&self, source: &SourceEntry, base: &'a Entry) -> Option<&'a Content> {
        let (SourceKind::File { size, class, .. }, Kind::File(content)) = (&source.kind, &base.kind) else {
            return None;
        };
        if matches!(class, Class::Paged(_)) || content.pages.is_some() {
            return None;
        }
        let identity = |meta: &palinurus_repository::manifest::entry::Meta| {
            (meta.device, meta.inode, meta.mtime_seconds, meta.mtime_nanos)
        };
        let same = *size == content.size && identity(&source.meta) == identity(&base.meta);
        (same && !self.is_racy(base) && self.is_whole(&content.pieces, &[])).then_some(content)
    }

    /// Nothing of it is known to be damaged.
    pub(crate) fn is_whole<'a>(
        &self,
        pieces: impl IntoIterator<Item = &'a Piece>,
        maps: impl IntoIterator<Item = &'a ChunkAt>,
    ) -> bool {
        if self.damaged.is_empty() {
            return true;
        }
        let frames =
            pieces.into_iter().filter_map(Piece::frame).chain(maps.into_iter().map(|map| &map.frame));
        !frames.into_iter().any(|frame| self.damaged.contains(&frame.pack))
    }

    fn is_racy(&self, entry: &Entry) -> bool {
        let millis =
            entry.meta.mtime_seconds.saturating_mul(1000) + i64::from(entry.meta.mtime_nanos / 1_000_000);
        let Ok(millis) = u64::try_from(millis) else { return false };
        Timestamp(millis).plus(RACY) > self.scan_started
    }

    /// The next whole entry; slices of a file that spans blocks are joined.
    fn read(&mut self) -> Result<Option<Entry>> {
        let Some(mut entry) = self.slice()? else { return Ok(None) };
        while self.continues && self.block.len() == 0 {
            let Some(more) = self.slice()? else { break };
            if let (Kind::File(content), Kind::File(more)) = (&mut entry.kind, more.kind) {
                content.pieces.extend(more.pieces);
                if let (Some(pages), Some(more)) = (&mut content.pages, more.pages) {
                    pages.maps.extend(more.maps);
                }
            }
        }
        Ok(Some(entry))
    }

    fn slice(&mut self) -> Result<Option<Entry>> {
        let fresh = self.block.len() == 0 && !self.continues;
        while self.block.len() == 0 {
            let Some(block) = self.runtime.block_on(self.reader.next_block())? else {
                self.continues = false;
                return Ok(None);
            };
            // The rest of a file whose beginning a seek has skipped.
            let skip = usize::from(fresh && block.continued_from_previous);
            self.continues = block.continues;
            let mut entries = block.entries;
            entries.drain(..skip);
            if entries.is_empty() {
                self.continues = false;
            }
            self.block = entries.into_iter();
        }
        Ok(self.block.next())
    }
}

/// A base that cannot be read costs reading, not the backup: `None`. Damage is for a check to report.
pub(crate) fn if_readable<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
            tracing::warn!(error = %e.chain(), "the base backup's manifest cannot be read: every file is read again");
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// Whether the directory is as the base backup has it, to the last attribute, with nothing that must be read to
/// know. Ends at the first difference.
pub(crate) fn is_unchanged(
    base: &mut Base,
    mut list: impl FnMut() -> Result<Option<SourceEntry>>,
    entries: u64,
) -> Result<bool> {
    if base.entries() != entries || base.has_warnings() {
        return Ok(false);
    }
    while let Some(source) = list()? {
        let Some(entry) = base.entry(&source.path)? else { return Ok(false) };
        let same = entry.meta == source.meta
            && match (&source.kind, &entry.kind) {
                (SourceKind::Directory, Kind::Directory) => true,
                (SourceKind::Symlink { target }, Kind::Symlink { target: old })
                | (SourceKind::Hardlink { target }, Kind::Hardlink { target: old }) => target == old,
                _ => base.unchanged(&source, &entry).is_some(),
            };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}
