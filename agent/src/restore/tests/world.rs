//! Small repositories made by hand.
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use futures::executor::block_on;
use palinurus_repository::entropy::SeededEntropy;
use palinurus_repository::manifest::entry::{Content, Entry, Kind, Meta, PageMaps, Piece, compare_paths};
use palinurus_repository::manifest::{ManifestRef, ManifestWriter, Warnings};
use palinurus_repository::pack::{ChunkAt, FRAME_MAX, PackWriter};
use palinurus_repository::page::{self, UNIT_PAGES};
use palinurus_repository::storage::{MemoryStorage, Storage};
use palinurus_repository::{
    ChunkId, Entropy, Keys, RepositoryId, RootKey, Timestamp, TransactionId, WriterId,
};

use super::super::{Request, RestoreResult, run};
use crate::progress::Counters;
use tokio_util::sync::CancellationToken;

pub(super) struct Dice(SeededEntropy);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(SeededEntropy::new(seed))
    }

    pub(super) fn below(&self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes) % limit
    }

    pub(super) fn bytes(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.fill(&mut bytes).unwrap();
        bytes
    }

    pub(super) fn one_in(&self, of: u64) -> bool {
        self.below(of) == 0
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Segment {
    Data(Vec<u8>),
    Hole(u64),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Directory,
    File { segments: Vec<Segment>, paged: Option<u32> },
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
}

pub(super) type Tree = Vec<(Vec<u8>, Meta, Node)>;

pub(super) fn file(bytes: impl Into<Vec<u8>>) -> Node {
    Node::File { segments: vec![Segment::Data(bytes.into())], paged: None }
}

pub(super) fn meta(mode: u32) -> Meta {
    Meta {
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime_seconds: 1_600_000_000,
        mtime_nanos: 123_456_789,
        ..Meta::default()
    }
}

/// A tree from names and nodes, with the directories on their way.
pub(super) fn tree(nodes: impl IntoIterator<Item = (&'static str, Node)>) -> Tree {
    let mut tree: Tree = vec![(b".".to_vec(), meta(0o755), Node::Directory)];
    for (path, node) in nodes {
        for (slash, _) in path.match_indices('/') {
            let parent = &path.as_bytes()[..slash];
            if !tree.iter().any(|(known, ..)| known == parent) {
                tree.push((parent.to_vec(), meta(0o750), Node::Directory));
            }
        }
        let mode = if node == Node::Directory { 0o711 } else { 0o640 };
        tree.push((path.as_bytes().to_vec(), meta(mode), node));
    }
    tree.sort_by(|a, b| compare_paths(&a.0, &b.0));
    tree
}

pub(super) struct World {
    pub(super) storage: Arc<MemoryStorage>,
    pub(super) keys: Keys,
    rng: Dice,
    writers: u8,
    /// Frames are cut here, to have many of them without many bytes.
    pub(super) frame_max: usize,
    pub(super) frames_in_pack: usize,
    /// Chunks are of this length, not of random ones.
    pub(super) chunk: Option<u64>,
    buffer: Vec<u8>,
}

pub(super) fn keys(seed: u64) -> Keys {
    Keys::derive(&RootKey::generate(&SeededEntropy::new(seed)).unwrap(), RepositoryId([5; 16])).unwrap()
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            storage: Arc::default(),
            keys: keys(1),
            rng: Dice::new(seed),
            writers: 0,
            frame_max: 64 << 10,
            frames_in_pack: 9,
            chunk: None,
            buffer: Vec::new(),
        }
    }

    /// Packs the content of a tree and writes its manifest.
    pub(super) fn backup(&mut self, tree: &Tree) -> ManifestRef {
        let entries = self.entries(tree);
        self.manifest(&entries)
    }

    pub(super) fn manifest(&mut self, entries: &[Entry]) -> ManifestRef {
        self.writers += 1;
        let writer = WriterId([self.writers; 8]);
        let mut manifest =
            ManifestWriter::new(&self.keys, TransactionId([9; 16]), "n1", writer, Timestamp(0))
                .unwrap()
                .with_part_max(200_000);
        for entry in entries {
            manifest.push(entry).unwrap();
        }
        let finished = manifest.finish(Warnings::default()).unwrap();
        for (key, part) in finished.parts {
            block_on(self.storage.put_new(&key, part)).unwrap();
        }
        finished.reference
    }

    pub(super) fn entries(&mut self, tree: &Tree) -> Vec<Entry> {
        let mut chunks = Chunks::default();
        let plans: Vec<_> = tree
            .iter()
            .map(|(_, _, node)| match node {
                Node::File { segments, paged: None } => Some(self.cut(segments, &mut chunks)),
                Node::File { segments, paged: Some(size) } => {
                    Some(self.cut_pages(segments, *size, &mut chunks))
                }
                _ => None,
            })
            .collect();
        let places = self.pack(&chunks);
        let entry = |((path, meta, node), plan): (&(Vec<u8>, Meta, Node), Option<Cut>)| Entry {
            path: path.clone(),
            meta: meta.clone(),
            kind: match (node, plan) {
                (Node::Symlink(target), _) => Kind::Symlink { target: target.clone() },
                (Node::Hardlink(target), _) => Kind::Hardlink { target: target.clone() },
                (_, Some(cut)) => Kind::File(self.content(cut, &places)),
                _ => Kind::Directory,
            },
        };
        tree.iter().zip(plans).map(entry).collect()
    }

    fn content(&self, cut: Cut, places: &HashMap<ChunkId, ChunkAt>) -> Content {
        let piece = |(chunk, start, len): &(Option<ChunkId>, u32, u64)| match chunk {
            None => Piece::Hole(*len),
            Some(id) => {
                let at = places[id];
                Piece::Data(ChunkAt { frame: at.frame, start: at.start + start, len: *len as u32 })
            }
        };
        let data = cut.pieces.iter().filter_map(|(id, ..)| *id);
        let id = match cut.page_size {
            None => self.keys.file_id(cut.size, data),
            Some(_) => self.keys.file_id(cut.size, cut.maps.iter().copied()),
        };
        Content {
            size: cut.size,
            id,
            pieces: cut.pieces.iter().map(piece).collect(),
            pages: cut.page_size.map(|page_size| PageMaps {
                page_size,
                maps: cut.maps.iter().map(|id| places[id]).collect(),
            }),
        }
    }

    fn cut(&self, segments: &[Segment], chunks: &mut Chunks) -> Cut {
        let mut cut = Cut::default();
        for segment in segments {
            match segment {
                Segment::Hole(len) => cut.pieces.push((None, 0, *len)),
                Segment::Data(bytes) => {
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let limit = self
                            .chunk
                            .unwrap_or_else(|| 1 + self.rng.below(80_000))
                            .min(self.frame_max as u64);
                        let (chunk, after) = rest.split_at(rest.len().min(limit as usize));
                        cut.pieces.push((Some(chunks.add(&self.keys, chunk)), 0, chunk.len() as u64));
                        rest = after;
                    }
                }
            }
        }
        cut.size = cut.pieces.iter().map(|(.., len)| len).sum();
        cut
    }

    /// Extents of sixteen pages, some of whose pages were changed later and lie in frames of their own.
    fn cut_pages(&self, segments: &[Segment], page_size: u32, chunks: &mut Chunks) -> Cut {
        let bytes = content(segments);
        let mut cut = Cut { size: bytes.len() as u64, page_size: Some(page_size), ..Cut::default() };
        let page = page_size as usize;
        for unit in bytes.chunks(page * UNIT_PAGES) {
            for extent in unit.chunks((page * 16).min(self.frame_max / page * page)) {
                if extent.iter().all(|byte| *byte == 0) {
                    cut.pieces.push((None, 0, extent.len() as u64));
                    continue;
                }
                let mut old = extent.to_vec();
                let mut overlay = Vec::new();
                let changed: Vec<bool> = extent.chunks(page).map(|_| self.rng.one_in(4)).collect();
                for (number, bytes) in extent.chunks(page).enumerate().filter(|(number, _)| changed[*number])
                {
                    overlay.extend_from_slice(bytes);
                    old[number * page..][..bytes.len()].fill(0xee);
                }
                let (old, overlay) = (chunks.add(&self.keys, &old), chunks.add(&self.keys, &overlay));
                let mut in_overlay = 0;
                for (number, bytes) in extent.chunks(page).enumerate() {
                    let (id, start) =
                        if changed[number] { (overlay, in_overlay) } else { (old, number * page) };
                    in_overlay += if changed[number] { bytes.len() } else { 0 };
                    cut.pieces.push((Some(id), start as u32, bytes.len() as u64));
                }
            }
            let map: Vec<u8> = unit.chunks(page).flat_map(|bytes| page::entry(&self.keys, bytes)).collect();
            cut.maps.push(chunks.add(&self.keys, &map));
        }
        cut
    }

    /// Puts the chunks into frames and packs, now and then not in order.
    fn pack(&mut self, chunks: &Chunks) -> HashMap<ChunkId, ChunkAt> {
        let mut order: Vec<usize> = (0..chunks.order.len()).collect();
        for at in 1..order.len() {
            if self.rng.one_in(5) {
                order.swap(at, self.rng.below(at as u64) as usize);
            }
        }
        let mut frames: Vec<Vec<&(ChunkId, Vec<u8>)>> = vec![Vec::new()];
        let mut filled = 0;
        for index in order {
            let chunk = &chunks.order[index];
            if filled + chunk.1.len() > self.frame_max.min(FRAME_MAX) && filled > 0 {
                frames.push(Vec::new());
                filled = 0;
            }
            filled += chunk.1.len();
            frames.last_mut().unwrap().push(chunk);
        }
        self.writers += 1;
        let transaction = self.keys.transaction(TransactionId([9; 16])).unwrap();
        let mut places = HashMap::new();
        for (counter, frames) in (0..).zip(frames.chunks(self.frames_in_pack)) {
            let buffer = std::mem::take(&mut self.buffer);
            let mut pack =
                PackWriter::new(&self.keys, &transaction, WriterId([self.writers; 8]), counter, 1, buffer)
                    .unwrap();
            for frame in frames {
                let plain: Vec<u8> = frame.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
                let held = frame.iter().map(|(id, bytes)| (*id, bytes.len() as u32)).collect();
                let at = pack.append(&plain, held).unwrap();
                let mut start = 0;
                for (id, bytes) in frame {
                    places.insert(*id, ChunkAt { frame: at, start, len: bytes.len() as u32 });
                    start += bytes.len() as u32;
                }
            }
            let sealed = pack.finish().unwrap();
            let object = sealed.buffer[..sealed.len].to_vec();
            block_on(self.storage.put_new(&sealed.summary.pack.key(), object.into())).unwrap();
            self.buffer = sealed.buffer;
        }
        places
    }

    pub(super) fn request(&self, manifest: &ManifestRef, target: &Path) -> Request {
        Request {
            storage: self.storage.clone(),
            keys: self.keys.clone(),
            manifest: manifest.clone(),
            target: target.to_owned(),
            delta: false,
            include: Vec::new(),
            workers: 2,
            progress: Arc::new(Counters::default()),
            pace: Arc::default(),
            settle: None,
        }
    }

    pub(super) fn restore(
        &self,
        manifest: &ManifestRef,
        target: &Path,
    ) -> palinurus_repository::Result<RestoreResult> {
        restore(self.request(manifest, target))
    }

    pub(super) fn packs(&self) -> Vec<String> {
        let all = block_on(palinurus_repository::storage::list_all(&*self.storage, "t/")).unwrap();
        all.into_iter().map(|object| object.key).filter(|key| key.contains("/p/")).collect()
    }

    pub(super) fn read(&self, key: &str) -> Vec<u8> {
        block_on(self.storage.get(key, None)).unwrap().to_vec()
    }

    /// As a broken store would have it.
    pub(super) fn overwrite(&self, key: &str, body: Option<Vec<u8>>) {
        block_on(self.storage.delete(&[key.to_owned()])).unwrap();
        if let Some(body) = body {
            block_on(self.storage.put_new(key, body.into())).unwrap();
        }
    }
}

/// In memory where that can hold all that a tree has: a sync costs nothing there.
pub(super) fn scratch() -> tempfile::TempDir {
    match tempfile::tempdir_in("/dev/shm") {
        Ok(dir) if xattr::set(dir.path(), "user.probe", b"x").is_ok() => {
            xattr::remove(dir.path(), "user.probe").unwrap();
            dir
        }
        _ => tempfile::tempdir().unwrap(),
    }
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

pub(super) fn restore(request: Request) -> palinurus_repository::Result<RestoreResult> {
    runtime().block_on(run(request, CancellationToken::new()))
}

#[derive(Default)]
struct Chunks {
    order: Vec<(ChunkId, Vec<u8>)>,
    known: std::collections::HashSet<ChunkId>,
}

impl Chunks {
    fn add(&mut self, keys: &Keys, bytes: &[u8]) -> ChunkId {
        let id = keys.chunk_id(bytes);
        if self.known.insert(id) {
            self.order.push((id, bytes.to_vec()));
        }
        id
    }
}

#[derive(Default)]
struct Cut {
    size: u64,
    /// Chunk or hole, where in the chunk, how long.
    pieces: Vec<(Option<ChunkId>, u32, u64)>,
    page_size: Option<u32>,
    maps: Vec<ChunkId>,
}

pub(super) fn content(segments: &[Segment]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for segment in segments {
        match segment {
            Segment::Data(data) => bytes.extend_from_slice(data),
            Segment::Hole(len) => bytes.resize(bytes.len() + *len as usize, 0),
        }
    }
    bytes
}
