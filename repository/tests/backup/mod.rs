//! Writes and reads small backups with nothing but the crate's public parts: a client in two hundred lines.
#![allow(dead_code, reason = "each test binary uses its own half")]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use palinurus_repository::chunk::{EXTENT, SMALL};
use palinurus_repository::clock::Timestamp;
use palinurus_repository::entropy::{Entropy, SeededEntropy};
use palinurus_repository::fetch::{self, Limits};
use palinurus_repository::index::IndexSegment;
use palinurus_repository::ledger::{NodeCommit, PackSet, Purpose};
use palinurus_repository::manifest::entry::{Content, Entry, Kind, Meta, PageMaps, Piece};
use palinurus_repository::manifest::{ManifestReader, ManifestWriter, Warnings};
use palinurus_repository::pack::{ChunkAt, FRAME_MAX, FrameAt, FrameReader, PackSummary, PackWriter};
use palinurus_repository::{ChunkId, Epoch, Keys, Repository, Storage, TransactionId, WriterId, page};

pub(crate) const EPOCH: Epoch = Epoch(1);

/// One name below a data directory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Source {
    pub(crate) path: Vec<u8>,
    pub(crate) meta: Meta,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    Directory,
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
    File(Vec<Run>),
    /// One extent at most; `base` is what an earlier backup holds of it.
    Paged {
        page_size: u32,
        bytes: Vec<u8>,
        base: Option<Vec<u8>>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Run {
    Bytes(Vec<u8>),
    Hole(u64),
}

/// Where every chunk lies that was ever written.
pub(crate) type Known = HashMap<ChunkId, ChunkAt>;

pub(crate) struct Writing<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) transaction: TransactionId,
    pub(crate) known: &'a mut Known,
    /// Small, for manifests of several parts.
    pub(crate) part_max: usize,
}

impl Writing<'_> {
    /// Puts the chunks that are not known yet, and an index segment of them.
    pub(crate) async fn chunks(
        &mut self,
        keys: &Keys,
        writer: WriterId,
        sources: &[Source],
    ) -> Vec<PackSummary> {
        let storage = self.repository.storage().clone();
        let packs = self.packs(keys, writer, sources, &storage).await;
        if !packs.is_empty() {
            let (key, body) = IndexSegment::seal(keys, self.transaction, writer, 0, &packs).unwrap();
            storage.put_new(&key, body).await.unwrap();
        }
        packs
    }

    /// Puts packs, index segment and manifest of one node, in this order.
    pub(crate) async fn node(
        &mut self,
        node: &str,
        writer: WriterId,
        sources: &[Source],
    ) -> (NodeCommit, PackSet) {
        let keys = self.repository.keys().clone();
        let storage = self.repository.storage().clone();
        let packs = self.chunks(&keys, writer, &with_maps(&keys, sources)).await;
        let mut manifest =
            ManifestWriter::new(&keys, self.transaction, node, writer, Timestamp(1_700_000_000_000))
                .unwrap()
                .with_part_max(self.part_max);
        for source in sources {
            manifest.push(&entry(&keys, self.known, source)).unwrap();
            while let Some((key, body)) = manifest.full_part() {
                storage.put_new(&key, body).await.unwrap();
            }
        }
        let mut warnings = Warnings::default();
        warnings.push(b"run/control", "a socket is not backed up");
        let finished = manifest.finish(warnings).unwrap();
        for (key, body) in finished.parts {
            storage.put_new(&key, body).await.unwrap();
        }
        let commit = NodeCommit {
            node: node.to_owned(),
            manifest: finished.reference,
            files: finished.files,
            bytes: finished.bytes,
            bytes_read: finished.bytes,
            bytes_new: packs.iter().flat_map(|pack| &pack.frames).map(|frame| u64::from(frame.plain)).sum(),
            bytes_stored: packs.iter().map(|pack| pack.size).sum(),
            warnings: 1,
            unchanged: false,
            log: None,
            cut: None,
        };
        (commit, finished.packs)
    }

    /// New chunks, small ones together in a frame, two frames in a pack so that there are several.
    async fn packs(
        &mut self,
        keys: &Keys,
        writer: WriterId,
        sources: &[Source],
        storage: &Arc<dyn Storage>,
    ) -> Vec<PackSummary> {
        let mut frames: Vec<Vec<Vec<u8>>> = Vec::new();
        let mut small: Vec<Vec<u8>> = Vec::new();
        let mut seen = BTreeMap::new();
        for chunk in sources.iter().flat_map(chunks) {
            let id = keys.chunk_id(&chunk);
            if self.known.contains_key(&id) || seen.insert(id, ()).is_some() {
                continue;
            }
            if chunk.len() as u64 >= SMALL {
                frames.push(vec![chunk]);
                continue;
            }
            if small.iter().map(Vec::len).sum::<usize>() + chunk.len() > FRAME_MAX {
                frames.push(std::mem::take(&mut small));
            }
            small.push(chunk);
        }
        // Small files in packs of their own: a sweep then has something to take while they stay.
        let large: Vec<&[Vec<Vec<u8>>]> = frames.chunks(2).collect();
        let small = [small];
        let packs = large.into_iter().chain((!small[0].is_empty()).then_some(&small[..]));
        let transaction = keys.transaction(self.transaction).unwrap();
        let mut summaries = Vec::new();
        for (counter, frames) in (0..).zip(packs) {
            let mut pack = PackWriter::new(keys, &transaction, writer, counter, 1, Vec::new()).unwrap();
            for frame in frames {
                let chunks = frame.iter().map(|chunk| (keys.chunk_id(chunk), chunk.len() as u32)).collect();
                pack.append(&frame.concat(), chunks).unwrap();
            }
            let mut sealed = pack.finish().unwrap();
            sealed.buffer.truncate(sealed.len);
            storage.put_new(&sealed.summary.pack.key(), sealed.buffer.into()).await.unwrap();
            self.known.extend(sealed.summary.chunks());
            summaries.push(sealed.summary);
        }
        summaries
    }

    pub(crate) async fn commit(self, nodes: Vec<(NodeCommit, PackSet)>) {
        let mut packs = PackSet::new();
        nodes.iter().for_each(|(_, used)| packs.extend(used));
        let nodes = nodes.into_iter().map(|(node, _)| node).collect();
        self.repository.commit(EPOCH, self.transaction, nodes, Vec::new(), packs).await.unwrap();
    }
}

pub(crate) async fn begin<'a>(
    repository: &'a Repository,
    id: u8,
    known: &'a mut Known,
    part_max: usize,
) -> Writing<'a> {
    let transaction = TransactionId([id; 16]);
    repository.begin(EPOCH, transaction, Purpose::Backup).await.unwrap();
    Writing { repository, transaction, known, part_max }
}

/// The chunks of a source that are uploaded unless they are known.
fn chunks(source: &Source) -> Vec<Vec<u8>> {
    match &source.what {
        What::File(runs) => runs.iter().flat_map(extents).map(<[u8]>::to_vec).collect(),
        What::Paged { page_size, bytes, base } => {
            let overlay: Vec<u8> = match base {
                None => bytes.clone(),
                Some(base) => pages(*page_size, bytes)
                    .zip(pages(*page_size, base))
                    .filter(|(a, b)| a != b)
                    .flat_map(|(a, _)| a.to_vec())
                    .collect(),
            };
            vec![overlay]
        }
        What::Directory | What::Symlink(_) | What::Hardlink(_) => Vec::new(),
    }
    .into_iter()
    .filter(|chunk| !chunk.is_empty())
    .collect()
}

fn extents(run: &Run) -> impl Iterator<Item = &[u8]> {
    let bytes = match run {
        Run::Bytes(bytes) => &bytes[..],
        Run::Hole(_) => &[],
    };
    bytes.chunks(EXTENT)
}

fn pages(page_size: u32, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.chunks(page_size as usize)
}

fn entry(keys: &Keys, known: &mut Known, source: &Source) -> Entry {
    let kind = match &source.what {
        What::Directory => Kind::Directory,
        What::Symlink(target) => Kind::Symlink { target: target.clone() },
        What::Hardlink(target) => Kind::Hardlink { target: target.clone() },
        What::File(runs) => {
            let mut pieces = Vec::new();
            let mut ids = Vec::new();
            for run in runs {
                if let Run::Hole(len) = run {
                    pieces.push(Piece::Hole(*len));
                }
                for chunk in extents(run) {
                    ids.push(keys.chunk_id(chunk));
                    pieces.push(Piece::Data(known[&keys.chunk_id(chunk)]));
                }
            }
            let size = pieces.iter().map(Piece::len).sum();
            Kind::File(Content { size, id: keys.file_id(size, ids), pieces, pages: None })
        }
        What::Paged { page_size, bytes, base } => {
            Kind::File(paged(keys, known, *page_size, bytes, base.as_deref()))
        }
    };
    Entry { path: source.path.clone(), meta: source.meta.clone(), kind }
}

/// Changed pages from the overlay, the others from the base's extent.
fn paged(keys: &Keys, known: &mut Known, page_size: u32, bytes: &[u8], base: Option<&[u8]>) -> Content {
    let whole = known.get(&keys.chunk_id(base.unwrap_or(bytes))).copied().unwrap();
    let changed = |at: usize| {
        base.is_some_and(|base| {
            base[at..].chunks(page_size as usize).next() != pages(page_size, &bytes[at..]).next()
        })
    };
    let mut overlay: Vec<u8> = Vec::new();
    for (index, page) in pages(page_size, bytes).enumerate() {
        if changed(index * page_size as usize) {
            overlay.extend_from_slice(page);
        }
    }
    let over = known.get(&keys.chunk_id(&overlay)).copied();
    let (mut pieces, mut taken) = (Vec::new(), 0);
    for (index, page) in pages(page_size, bytes).enumerate() {
        let start = (index * page_size as usize) as u32;
        let len = page.len() as u32;
        pieces.push(Piece::Data(if changed(start as usize) {
            let over = over.unwrap();
            taken += len;
            ChunkAt { frame: over.frame, start: over.start + taken - len, len }
        } else {
            ChunkAt { frame: whole.frame, start: whole.start + start, len }
        }));
    }
    let map = map(keys, page_size, bytes);
    let size = bytes.len() as u64;
    let maps = vec![known[&keys.chunk_id(&map)]];
    Content {
        size,
        id: keys.file_id(size, [keys.chunk_id(&map)]),
        pieces,
        pages: Some(PageMaps { page_size, maps }),
    }
}

pub(crate) fn map(keys: &Keys, page_size: u32, bytes: &[u8]) -> Vec<u8> {
    pages(page_size, bytes).flat_map(|page| page::entry(keys, page)).collect()
}

/// Page maps are chunks too: each paged file's comes before it as a source of its own, as far as chunks go.
pub(crate) fn with_maps(keys: &Keys, sources: &[Source]) -> Vec<Source> {
    let maps = sources.iter().filter_map(|source| match &source.what {
        What::Paged { page_size, bytes, .. } => Some(map(keys, *page_size, bytes)),
        _ => None,
    });
    maps.map(|map| Source {
        path: Vec::new(),
        meta: Meta::default(),
        what: What::File(vec![Run::Bytes(map)]),
    })
    .chain(sources.iter().cloned())
    .collect()
}

/// Every entry of a manifest, with the bytes of its file, proven by its file id.
pub(crate) async fn restore(repository: &Repository, node: &NodeCommit) -> Vec<(Entry, Vec<u8>)> {
    let storage = repository.storage().clone();
    let mut reader = ManifestReader::open(storage, repository.keys(), &node.manifest).await.unwrap();
    assert_eq!(reader.footer().warnings.kept()[0].path, b"run/control");
    let mut restored = Vec::new();
    while let Some(block) = reader.next_block().await.unwrap() {
        assert!(!block.continues && !block.continued_from_previous);
        let frames = fetch_frames(repository, block.entries.iter().flat_map(Entry::frames).copied()).await;
        for entry in block.entries {
            let bytes =
                entry.content().map(|content| file(repository.keys(), content, &frames)).unwrap_or_default();
            restored.push((entry, bytes));
        }
    }
    restored
}

async fn fetch_frames(
    repository: &Repository,
    wanted: impl Iterator<Item = FrameAt>,
) -> HashMap<FrameAt, Vec<u8>> {
    let mut frames = HashMap::new();
    let mut reader = FrameReader::new(repository.keys()).unwrap();
    for range in fetch::plan(wanted, Limits::default()) {
        let bytes = repository.storage().get(&range.pack.key(), Some(range.range.clone())).await.unwrap();
        for frame in &range.frames {
            let mut plain = Vec::new();
            reader.open(frame, &mut bytes[range.within(frame)].to_vec(), &mut plain).unwrap();
            frames.insert(*frame, plain);
        }
    }
    frames
}

fn file(keys: &Keys, content: &Content, frames: &HashMap<FrameAt, Vec<u8>>) -> Vec<u8> {
    let of = |at: &ChunkAt| &frames[&at.frame][at.start as usize..(at.start + at.len) as usize];
    let mut bytes = Vec::new();
    let mut ids = Vec::new();
    for piece in &content.pieces {
        match piece {
            Piece::Hole(len) => bytes.resize(bytes.len() + *len as usize, 0),
            Piece::Data(at) => {
                ids.push(keys.chunk_id(of(at)));
                bytes.extend_from_slice(of(at));
            }
        }
    }
    if let Some(maps) = &content.pages {
        ids = maps.maps.iter().map(|map| keys.chunk_id(of(map))).collect();
        let stored: Vec<u8> = maps.maps.iter().flat_map(|map| of(map).to_vec()).collect();
        assert_eq!(stored, map(keys, maps.page_size, &bytes));
    }
    assert_eq!(content.id, keys.file_id(content.size, ids));
    bytes
}

/// What a source's file holds.
pub(crate) fn bytes_of(source: &Source) -> Vec<u8> {
    match &source.what {
        What::File(runs) => runs
            .iter()
            .flat_map(|run| match run {
                Run::Bytes(bytes) => bytes.clone(),
                Run::Hole(len) => vec![0; *len as usize],
            })
            .collect(),
        What::Paged { bytes, .. } => bytes.clone(),
        What::Directory | What::Symlink(_) | What::Hardlink(_) => Vec::new(),
    }
}

/// Text that compresses, and differs for each seed.
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    (0..len)
        .step_by(16)
        .flat_map(|at| format!("{seed:5}{:10}\n", at % 99_991).into_bytes())
        .take(len)
        .collect()
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SeededEntropy::new(1).fill(&mut bytes).unwrap();
    bytes
}

pub(crate) fn source(path: impl Into<Vec<u8>>, what: What) -> Source {
    let path = path.into();
    let length = path.len() as u64;
    let mode = if what == What::Directory { 0o750 } else { 0o640 };
    let meta = Meta {
        mode,
        uid: 999,
        gid: 100,
        mtime_seconds: 1_690_000_000 + length as i64 * 1000,
        mtime_nanos: 123_456_789,
        device: 64_769,
        inode: 4242 + length,
        xattrs: Vec::new(),
    };
    Source { path, meta, what }
}

/// A data directory with one of everything. `age` says how often it was changed.
pub(crate) fn tree(age: u64) -> Vec<Source> {
    let page_size = 8192;
    let database = text(5, 40 * page_size as usize - 100);
    let mut newer = database.clone();
    newer[9 * page_size as usize..][..100].fill(b'#');
    newer[30 * page_size as usize..][..9000].fill(b'$');
    let mut sources = vec![
        source(".", What::Directory),
        source("a file of one line", What::File(vec![Run::Bytes(b"one line\n".to_vec())])),
        source("base", What::Directory),
        source("base/empty", What::File(Vec::new())),
        source("base/large", What::File(vec![Run::Bytes(text(1, 2 * EXTENT + 4567))])),
        source(
            "base/sparse",
            What::File(vec![Run::Hole(1 << 20), Run::Bytes(noise(140_000)), Run::Hole(70_000)]),
        ),
        source("base/twin", What::Hardlink(b"base/large".to_vec())),
        source("empty directory", What::Directory),
        source("link", What::Symlink(b"/elsewhere/../x".to_vec())),
        source("log", What::File(vec![Run::Bytes(text(3, 150_000 + 700 * age as usize))])),
        source(&b"not \xff utf-8"[..], What::File(vec![Run::Bytes(b"\0\x01\x02".to_vec())])),
        match age {
            0 => source("table", What::Paged { page_size, bytes: database, base: None }),
            _ => source("table", What::Paged { page_size, bytes: newer, base: Some(database) }),
        },
    ];
    sources[1].meta.xattrs = vec![(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), Vec::new())];
    sources[1].meta.mode = 0o4755;
    sources[8].meta.mode = 0o777;
    sources
}
