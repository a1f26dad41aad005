//! What a simulated node pretends to hold: files and chunks by number, made from nothing but numbers, so that ten
//! million of them need no room. Where a chunk lies is as real as an upload's.
use palinurus_repository::manifest::entry::{Content, Entry, Kind, Meta, Piece};
use palinurus_repository::pack::{ChunkAt, Codec, FrameSummary, HEADER_LEN, PackId, PackSummary};
use palinurus_repository::{ChunkId, FileId, TransactionId, WriterId};

/// Of every chunk, before compression and after it.
pub(super) const CHUNK: u32 = 64 << 10;
const STORED: u32 = 32 << 10;
const FRAME_CHUNKS: usize = 16;
/// A pack of 32 MiB has so many of them.
pub(super) const PACK_CHUNKS: usize = 1024;
const FILES_IN_DIRECTORY: u64 = 1000;

/// One node's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) seed: u64,
    pub(super) files: u64,
    pub(super) chunks: u64,
}

/// Steele, Lea and Flood's SplitMix64: spreads as real ids are spread.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

impl Held {
    pub(super) fn bytes(&self) -> u64 {
        (0..self.files).map(|file| self.chunks_of(file).count() as u64 * u64::from(CHUNK)).sum()
    }

    /// One of a hundred is another one in each version.
    pub(super) fn id(&self, chunk: u64, version: u64) -> ChunkId {
        let version = if chunk.is_multiple_of(100) { version } else { 0 };
        let begin = mix(mix(mix(self.seed) ^ chunk) ^ version);
        let mut id = [0; ChunkId::LEN];
        for (n, word) in (0u64..).zip(id.chunks_exact_mut(8)) {
            word.copy_from_slice(&mix(begin.wrapping_add(n)).to_le_bytes());
        }
        ChunkId(id)
    }

    /// With fewer chunks than files, neighbours share one.
    fn chunks_of(&self, file: u64) -> std::ops::Range<u64> {
        let at = |file: u64| (u128::from(file) * u128::from(self.chunks) / u128::from(self.files)) as u64;
        at(file)..at(file + 1).max(at(file) + 1)
    }

    /// The manifest's entries, in its order.
    pub(super) fn entries<'a>(&'a self, places: &'a [ChunkAt]) -> impl Iterator<Item = Entry> + 'a {
        let meta = |mode, inode| Meta { mode, inode, mtime_seconds: 1_700_000_000, ..Meta::default() };
        let directory = move |path: String, inode| Entry {
            path: path.into_bytes(),
            meta: meta(0o755, inode),
            kind: Kind::Directory,
        };
        let file = move |file: u64| {
            let pieces: Vec<Piece> =
                self.chunks_of(file).map(|chunk| Piece::Data(places[chunk as usize])).collect();
            let size = pieces.iter().map(Piece::len).sum();
            let mut id = [0; FileId::LEN];
            id[..8].copy_from_slice(&mix(self.seed ^ file).to_le_bytes());
            Entry {
                path: format!("d{:07}/f{:03}", file / FILES_IN_DIRECTORY, file % FILES_IN_DIRECTORY).into(),
                meta: meta(0o600, file + 1),
                kind: Kind::File(Content { size, id: FileId(id), pieces, pages: None }),
            }
        };
        let files = (0..self.files).flat_map(move |number| {
            let first = number.is_multiple_of(FILES_IN_DIRECTORY);
            let parent = first.then(|| directory(format!("d{:07}", number / FILES_IN_DIRECTORY), number));
            parent.into_iter().chain([file(number)])
        });
        std::iter::once(directory(".".to_owned(), 0)).chain(files)
    }
}

/// Fills packs with chunks in the order in which they come.
#[derive(Debug)]
pub(super) struct Packer {
    transaction: TransactionId,
    writer: WriterId,
    counter: u32,
    held: Vec<(ChunkId, u64)>,
}

impl Packer {
    pub(super) fn new(transaction: TransactionId, writer: WriterId) -> Self {
        Self { transaction, writer, counter: 0, held: Vec::with_capacity(PACK_CHUNKS) }
    }

    /// A pack that this chunk has filled.
    pub(super) fn add(&mut self, id: ChunkId, chunk: u64) -> Option<(PackSummary, Vec<u64>)> {
        self.held.push((id, chunk));
        if self.held.len() < PACK_CHUNKS { None } else { self.close() }
    }

    /// The last one; with the number of each of its chunks.
    pub(super) fn close(&mut self) -> Option<(PackSummary, Vec<u64>)> {
        if self.held.is_empty() {
            return None;
        }
        let pack = PackId { transaction: self.transaction, writer: self.writer, counter: self.counter };
        self.counter += 1;
        let mut offset = HEADER_LEN as u32;
        let mut frames = Vec::new();
        for chunks in self.held.chunks(FRAME_CHUNKS) {
            let count = chunks.len() as u32;
            let chunks = chunks.iter().map(|(id, _)| (*id, CHUNK)).collect();
            let (stored, plain) = (STORED * count, CHUNK * count);
            frames.push(FrameSummary { offset, stored, plain, codec: Codec::Zstd, chunks });
            offset += stored;
        }
        let numbers = self.held.drain(..).map(|(_, chunk)| chunk).collect();
        Some((PackSummary { pack, size: u64::from(offset), frames }, numbers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_has_one_place_and_every_file_its_chunks() {
        for (files, chunks) in [(2500, 2500), (1000, 4321), (4321, 1000), (1, 1)] {
            let held = Held { seed: 7, files, chunks };
            let mut packer = Packer::new(TransactionId([1; 16]), WriterId([2; 8]));
            let mut places = vec![None; chunks as usize];
            let mut take = |packed: Option<(PackSummary, Vec<u64>)>| {
                let Some((summary, numbers)) = packed else { return };
                for ((id, at), number) in summary.chunks().zip(numbers) {
                    assert_eq!(id, held.id(number, 0));
                    at.check().unwrap();
                    assert!(places[number as usize].replace(at).is_none());
                }
            };
            (0..chunks).for_each(|chunk| take(packer.add(held.id(chunk, 0), chunk)));
            take(packer.close());
            let places: Vec<ChunkAt> = places.into_iter().map(Option::unwrap).collect();
            let entries: Vec<Entry> = held.entries(&places).collect();
            entries.iter().for_each(|entry| entry.check().unwrap());
            let listed = entries.iter().filter_map(Entry::content);
            assert_eq!(listed.clone().count() as u64, files);
            assert_eq!(listed.map(|content| content.size).sum::<u64>(), held.bytes());
        }
    }
}
