//! Reads a manifest block by block: memory holds one read of a few MiB and one block, however long the manifest.
use std::sync::Arc;

use bytes::Bytes;

use super::columns;
use super::entry::{Content, Entry, Kind};
use super::footer::{self, Footer};
use super::order::Order;
use super::seal::{FOOTER, Seal};
use super::{BLOCK_HEADER, Block, ManifestRef, TRAILER_LEN, TRAILER_MAGIC, hash_block, lengths};
use crate::error::{Error, ErrorKind, Result};
use crate::keys::Keys;
use crate::storage::Storage;

/// A manifest of one part and at most this size is fetched in one request.
const WHOLE_MAX: u64 = 8 << 20;
/// How much is fetched at once otherwise, a longer block excepted.
const READ: u64 = 4 << 20;

/// Gives the blocks of one manifest in order. What it gives is authentic, ordered, below the data directory, and
/// each entry lies in a directory that came before; anything else ends in `Corrupt`, naming the object.
#[derive(Debug)]
pub struct ManifestReader {
    storage: Arc<dyn Storage>,
    seal: Seal,
    reference: ManifestRef,
    footer: Footer,
    next: usize,
    order: Order,
    /// Where in which part the bytes at hand begin.
    at_hand: Option<(u32, u64, Bytes)>,
    progress: Progress,
    /// Everything from the first block on, as long as no block was skipped.
    seen: Option<Seen>,
}

/// What the blocks read so far have of a file that continues.
#[derive(Debug)]
enum Progress {
    Between,
    /// After a seek, the beginning was not seen.
    Unseen,
    Within {
        entry: Box<Entry>,
        bytes: u64,
        maps: u64,
    },
}

#[derive(Debug, Default)]
struct Seen {
    root: blake3::Hasher,
    entries: u64,
    files: u64,
    directories: u64,
    bytes: u64,
}

impl ManifestReader {
    pub async fn open(storage: Arc<dyn Storage>, keys: &Keys, reference: &ManifestRef) -> Result<Self> {
        let last = reference.parts.saturating_sub(1);
        let key = reference.key(last);
        let tail = reference.tail as usize;
        let (at_hand, end) = if reference.parts == 1 && reference.size <= WHOLE_MAX {
            let whole = storage.get(&key, None).await?;
            if whole.len() as u64 != reference.size {
                return Err(Error::corrupt(format!(
                    "{key} has {} bytes, want {}",
                    whole.len(),
                    reference.size
                )));
            }
            let end = whole.slice(whole.len().saturating_sub(tail)..);
            (Some((last, 0, whole)), end)
        } else {
            (None, tail_of(&*storage, reference).await?)
        };
        let seal = Seal::of(keys, reference)?;
        let footer = open_footer(&seal, &end, reference).map_err(|e| damaged(&key, e))?;
        Ok(Self {
            storage,
            seal,
            reference: reference.clone(),
            footer,
            next: 0,
            order: Order::default(),
            at_hand,
            progress: Progress::Between,
            seen: Some(Seen::default()),
        })
    }

    /// Only the footer, in two small requests: what a COMMIT needs to know of a manifest.
    pub async fn read_footer(storage: &dyn Storage, keys: &Keys, reference: &ManifestRef) -> Result<Footer> {
        let end = tail_of(storage, reference).await?;
        let key = reference.key(reference.parts.saturating_sub(1));
        open_footer(&Seal::of(keys, reference)?, &end, reference).map_err(|e| damaged(&key, e))
    }

    pub fn reference(&self) -> &ManifestRef {
        &self.reference
    }

    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Continues at the block where `path` is if it is anywhere. The way to the first entry of that block is then
    /// taken for granted, and root and counts are not compared at the end.
    pub fn seek(&mut self, path: &[u8]) {
        let blocks = &self.footer.blocks;
        let after = blocks.partition_point(|at| super::entry::compare_paths(&at.first, path).is_lt());
        let exact = blocks.get(after).is_some_and(|at| at.first == path && !at.continued);
        self.go_to(if exact { after } else { after.saturating_sub(1) });
    }

    fn go_to(&mut self, next: usize) {
        self.next = next;
        self.seen = (next == 0).then(Seen::default);
        let first = self.footer.blocks.get(next).filter(|_| next > 0);
        self.order = first.map_or_else(Order::default, |at| Order::begin_at(&at.first, at.continued));
        let continued = first.is_some_and(|at| at.continued);
        self.progress = if continued { Progress::Unseen } else { Progress::Between };
    }

    /// The next block; `None` after the last, once root and counts are right.
    pub async fn next_block(&mut self) -> Result<Option<Block>> {
        let Some(at) = self.footer.blocks.get(self.next) else {
            self.check_end()?;
            return Ok(None);
        };
        let (part, stored, plain_len) = (at.part, at.stored, at.plain);
        let bytes = self.fetch().await?;
        let key = self.reference.key(part);
        let read = || {
            if lengths(&bytes) != (plain_len, stored) {
                return Err(Error::corrupt("a block's lengths are not those of the directory"));
            }
            let plain = self.seal.open(self.next as u64, plain_len, &bytes[BLOCK_HEADER..])?;
            let block = columns::decode(&plain)?;
            Ok((plain, block))
        };
        let (plain, block) = read().map_err(|e| damaged(&format!("{key} block {}", self.next), e))?;
        self.check_block(&block).map_err(|e| damaged(&format!("{key} block {}", self.next), e))?;
        if let Some(seen) = &mut self.seen {
            hash_block(&mut seen.root, &plain);
        }
        self.next += 1;
        if self.next == self.footer.blocks.len() {
            self.check_end()?;
        }
        Ok(Some(block))
    }

    /// How long a part is, by the directory.
    pub(crate) fn part_size(&self, part: u32) -> u64 {
        let blocks =
            self.footer.blocks.iter().rev().find(|at| at.part == part).map_or(0, footer::BlockAt::end);
        blocks + if part + 1 == self.reference.parts { u64::from(self.reference.tail) } else { 0 }
    }

    /// The part that the next block is in.
    pub(crate) fn next_part(&self) -> Option<u32> {
        self.footer.blocks.get(self.next).map(|at| at.part)
    }

    /// Leaves the next block out, as after a seek.
    pub(crate) fn skip(&mut self) {
        self.go_to((self.next + 1).min(self.footer.blocks.len()));
    }

    /// The header and sealed bytes of the next block, read with those that follow it.
    async fn fetch(&mut self) -> Result<Bytes> {
        let rest = &self.footer.blocks[self.next..];
        let (part, start, end) = (rest[0].part, u64::from(rest[0].offset), rest[0].end());
        if let Some((have, base, bytes)) = &self.at_hand
            && *have == part
            && *base <= start
            && end <= base + bytes.len() as u64
        {
            return Ok(bytes.slice((start - base) as usize..(end - base) as usize));
        }
        let fits = rest.iter().take_while(|at| at.part == part && at.end() - start <= READ).last();
        let upto = fits.map_or(end, footer::BlockAt::end);
        let bytes = self.storage.get(&self.reference.key(part), Some(start..upto)).await?;
        if bytes.len() as u64 != upto - start {
            return Err(Error::corrupt(format!("{} ends too soon", self.reference.key(part))));
        }
        let block = bytes.slice(..(end - start) as usize);
        self.at_hand = Some((part, start, bytes));
        Ok(block)
    }

    fn check_block(&mut self, block: &Block) -> Result<()> {
        let at = &self.footer.blocks[self.next];
        if block.entries.first().is_none_or(|entry| entry.path != at.first)
            || block.continued_from_previous != at.continued
        {
            return Err(Error::corrupt("a block does not begin as the directory says"));
        }
        if block.continued_from_previous != !matches!(self.progress, Progress::Between) {
            return Err(Error::corrupt("a file does not continue where it should"));
        }
        let last = block.entries.len() - 1;
        for (index, entry) in block.entries.iter().enumerate() {
            let begun = index == 0 && block.continued_from_previous;
            let goes_on = index == last && block.continues;
            if !begun {
                self.order.step(&entry.path, entry.kind == Kind::Directory)?;
                self.count(entry);
            }
            if (begun || goes_on)
                && let Some(content) = entry.content()
            {
                self.join(entry, content, goes_on)?;
            }
            if !entry.frames().all(|frame| self.footer.packs.contains(&frame.pack)) {
                return Err(Error::corrupt("an entry names a pack that the footer does not"));
            }
        }
        Ok(())
    }

    /// Follows a file through its blocks: together they have every byte and page map, once.
    fn join(&mut self, entry: &Entry, content: &Content, goes_on: bool) -> Result<()> {
        let held: u64 = content.pieces.iter().map(super::entry::Piece::len).sum();
        let maps = content.pages.as_ref().map_or(0, |pages| pages.maps.len() as u64);
        let (held, maps) = match std::mem::replace(&mut self.progress, Progress::Between) {
            Progress::Unseen => {
                self.progress = if goes_on { Progress::Unseen } else { Progress::Between };
                return Ok(());
            }
            Progress::Between => (held, maps),
            Progress::Within { entry: before, bytes, maps: maps_before } => {
                if *before != bare(entry, content) {
                    return Err(Error::corrupt("a file continues as another"));
                }
                (bytes.saturating_add(held), maps_before + maps)
            }
        };
        let wanted = content.pages.as_ref().map_or(0, |pages| pages.wanted(content.size));
        if goes_on {
            self.progress = Progress::Within { entry: Box::new(bare(entry, content)), bytes: held, maps };
        } else if (held, maps) != (content.size, wanted) {
            return Err(Error::corrupt("the pieces of a file do not add up over its blocks"));
        }
        Ok(())
    }

    fn count(&mut self, entry: &Entry) {
        let Some(seen) = &mut self.seen else { return };
        seen.entries += 1;
        match &entry.kind {
            Kind::Directory => seen.directories += 1,
            Kind::File(content) => {
                seen.files += 1;
                seen.bytes = seen.bytes.saturating_add(content.size);
            }
            Kind::Symlink { .. } | Kind::Hardlink { .. } => {}
        }
    }

    fn check_end(&mut self) -> Result<()> {
        let key = self.reference.key(self.reference.parts.saturating_sub(1));
        if !matches!(self.progress, Progress::Between) {
            return Err(Error::corrupt(format!("{key}: the last file is cut off")));
        }
        let Some(seen) = &self.seen else { return Ok(()) };
        if <[u8; 32]>::from(seen.root.finalize()) != self.reference.root {
            return Err(Error::corrupt(format!("{key}: the manifest's root is not the committed one")));
        }
        let footer = &self.footer;
        if (seen.entries, seen.files, seen.directories, seen.bytes)
            != (footer.entries, footer.files, footer.directories, footer.bytes)
        {
            return Err(Error::corrupt(format!("{key}: the footer counts other entries than there are")));
        }
        Ok(())
    }
}

/// The entry without pieces and maps, to compare its slices.
fn bare(entry: &Entry, content: &Content) -> Entry {
    let pages = content.pages.as_ref();
    let pages = pages.map(|pages| super::entry::PageMaps { page_size: pages.page_size, maps: Vec::new() });
    Entry {
        path: entry.path.clone(),
        meta: entry.meta.clone(),
        kind: Kind::File(Content { size: content.size, id: content.id, pieces: Vec::new(), pages }),
    }
}

/// The last bytes of the last part.
async fn tail_of(storage: &dyn Storage, reference: &ManifestRef) -> Result<Bytes> {
    let key = reference.key(reference.parts.saturating_sub(1));
    let size = storage.size(&key).await?;
    let start = size.checked_sub(u64::from(reference.tail)).filter(|_| size <= reference.size);
    let start =
        start.ok_or_else(|| Error::corrupt(format!("{key} has {size} bytes: not as it was written")))?;
    storage.get(&key, Some(start..size)).await
}

fn open_footer(seal: &Seal, end: &[u8], reference: &ManifestRef) -> Result<Footer> {
    let sealed = end.len().checked_sub(TRAILER_LEN).filter(|_| end.len() == reference.tail as usize);
    let Some(sealed) = sealed.filter(|at| end[at + 8..] == TRAILER_MAGIC[..]) else {
        return Err(Error::corrupt("does not end as a manifest does: cut off, or something else"));
    };
    let (plain_len, stored) = lengths(&end[sealed..]);
    if stored as usize != sealed || plain_len as usize > footer::PLAIN_MAX {
        return Err(Error::corrupt("the footer's lengths are wrong"));
    }
    let plain = seal.open(FOOTER, plain_len, &end[..sealed])?;
    Footer::decode(&plain, reference)
}

/// Names the object in an error about its content.
fn damaged(object: &str, error: Error) -> Error {
    if error.kind() == ErrorKind::Corrupt || error.kind() == ErrorKind::Invalid {
        return Error::corrupt(object.to_owned()).with_source(error);
    }
    error
}
