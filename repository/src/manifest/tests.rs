use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::block::Builder;
use super::columns::decode;
use super::entry::{Content, Entry, Kind, Meta, PageMaps, Piece, compare_paths};
use super::writer::slices;
use super::*;
use crate::ErrorKind;
use crate::clock::Timestamp;
use crate::entropy::{Entropy, SeededEntropy};
use crate::id::{FileId, RepositoryId};
use crate::keys::{Keys, RootKey};
use crate::pack::{ChunkAt, Codec, FRAME_MAX, FrameAt, HEADER_LEN, PackId};
use crate::page::UNIT_PAGES;
use crate::storage::{MemoryStorage, Storage};

const TRANSACTION: TransactionId = TransactionId([0xab; 16]);
const WRITER: WriterId = WriterId([0xcd; 8]);

fn keys() -> Keys {
    Keys::derive(&RootKey::generate(&SeededEntropy::new(1)).unwrap(), RepositoryId([1; 16])).unwrap()
}

fn writer() -> ManifestWriter {
    ManifestWriter::new(&keys(), TRANSACTION, "n1", WRITER, Timestamp(77)).unwrap()
}

fn pack(counter: u32) -> PackId {
    PackId { transaction: TRANSACTION, writer: WRITER, counter }
}

fn directory(path: &str) -> Entry {
    Entry { path: path.into(), meta: Meta { mode: 0o755, ..Meta::default() }, kind: Kind::Directory }
}

fn file(path: &str, pieces: Vec<Piece>) -> Entry {
    let size = pieces.iter().map(Piece::len).sum();
    let content = Content { size, id: FileId([3; 16]), pieces, pages: None };
    Entry { path: path.into(), meta: Meta { mode: 0o644, ..Meta::default() }, kind: Kind::File(content) }
}

fn symlink(path: &str) -> Entry {
    Entry { path: path.into(), meta: Meta::default(), kind: Kind::Symlink { target: b"/etc".to_vec() } }
}

/// `count` whole frames, as a large file has them.
fn extents(count: u32) -> Vec<Piece> {
    let mut offset = HEADER_LEN as u32;
    let mut at = (0, 0);
    (0..count)
        .map(|i| {
            let stored = 300_000 + i.wrapping_mul(7919) % 50_000;
            if offset > 32 << 20 {
                (offset, at) = (HEADER_LEN as u32, (at.0 + 1, 0));
            }
            let frame = FrameAt {
                pack: pack(at.0),
                ordinal: at.1,
                offset,
                stored,
                plain: FRAME_MAX as u32,
                codec: Codec::Zstd,
            };
            (offset, at.1) = (offset + stored, at.1 + 1);
            Piece::Data(ChunkAt { frame, start: 0, len: FRAME_MAX as u32 })
        })
        .collect()
}

/// Many files of a few KiB that share frames, named as a database names them.
fn small_files(count: u32) -> Vec<Entry> {
    let mut random = blake3::Hasher::new().finalize_xof();
    let mut entries = vec![directory("."), directory("data")];
    let (mut frame, mut start, mut offset) = (0u32, 0u32, HEADER_LEN as u32);
    for i in 0..count {
        let mut noise = [0; 24];
        random.fill(&mut noise);
        let len = 1000 + u32::from(noise[0]) * 20;
        if start + len > FRAME_MAX as u32 {
            (frame, start, offset) = (frame + 1, 0, offset + 400_000);
        }
        let at = FrameAt {
            pack: pack(0),
            ordinal: frame,
            offset,
            stored: 400_000,
            plain: FRAME_MAX as u32,
            codec: Codec::Zstd,
        };
        let mut entry = file(
            &format!("data/me-{i:06}-big-Data.db"),
            vec![Piece::Data(ChunkAt { frame: at, start, len })],
        );
        start += len;
        entry.meta.mtime_seconds = 1_700_000_000 + i64::from(i);
        entry.meta.mtime_nanos = u32::from_le_bytes([noise[1], noise[2], noise[3], noise[4]]) % 1_000_000_000;
        entry.meta.inode = 1_000_000 + u64::from(i);
        if let Kind::File(content) = &mut entry.kind {
            content.id.0.copy_from_slice(&noise[8..24]);
        }
        entries.push(entry);
    }
    entries
}

fn finished(entries: &[Entry], part_max: usize, check: bool) -> Finished {
    let mut writer = writer().with_part_max(part_max);
    let mut parts = Vec::new();
    for entry in entries {
        if check {
            writer.push(entry).unwrap()
        } else {
            writer.append(entry).unwrap()
        }
        parts.extend(std::iter::from_fn(|| writer.full_part()));
    }
    let mut finished = writer.finish(vec![(b"sock".to_vec(), "is a socket".to_owned())]).unwrap();
    parts.append(&mut finished.parts);
    finished.parts = parts;
    finished
}

async fn stored(parts: &[(String, Bytes)]) -> Arc<dyn Storage> {
    let storage = MemoryStorage::default();
    for (key, body) in parts {
        storage.put_new(key, body.clone()).await.unwrap();
    }
    Arc::new(storage)
}

async fn read_blocks(storage: &Arc<dyn Storage>, reference: &ManifestRef) -> Result<Vec<Block>> {
    let mut reader = ManifestReader::open(storage.clone(), &keys(), reference).await?;
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block().await? {
        blocks.push(block);
    }
    Ok(blocks)
}

/// The entries of all blocks, continued files put together.
fn joined(blocks: Vec<Block>) -> Vec<Entry> {
    let mut all: Vec<Entry> = Vec::new();
    for block in blocks {
        let mut entries = block.entries.into_iter();
        if block.continued_from_previous {
            let more = entries.next().unwrap();
            let (Kind::File(content), Kind::File(more)) = (&mut all.last_mut().unwrap().kind, more.kind)
            else {
                panic!()
            };
            content.pieces.extend(more.pieces);
            if let (Some(pages), Some(more)) = (&mut content.pages, more.pages) {
                pages.maps.extend(more.maps);
            }
        }
        all.extend(entries);
    }
    all
}

#[tokio::test]
async fn entries_come_back_in_parts_large_and_small() {
    let mut entries = small_files(20_000);
    entries.push(file("huge", extents(200_000)));
    entries.push(symlink("link"));
    for part_max in [PART_MAX, 100_000] {
        let finished = finished(&entries, part_max, true);
        assert_eq!(finished.parts.len() > 5, part_max < PART_MAX);
        let reference = ManifestRef::decode(&finished.reference.encode()).unwrap();
        assert_eq!(reference, finished.reference);
        let names: Vec<_> = finished.parts.iter().map(|(key, _)| key.clone()).collect();
        assert_eq!(names, reference.keys());
        let storage = stored(&finished.parts).await;
        let reader = ManifestReader::open(storage.clone(), &keys(), &reference).await.unwrap();
        let footer = reader.footer();
        assert_eq!((footer.files, footer.directories, footer.entries), (20_001, 2, 20_004));
        assert_eq!((footer.scan_started, footer.bytes), (Timestamp(77), finished.bytes));
        assert_eq!(footer.warnings.kept()[0].path, b"sock");
        assert_eq!(footer.packs, finished.packs);
        let blocks = read_blocks(&storage, &reference).await.unwrap();
        assert!(blocks.iter().filter(|block| block.continues).count() >= 3);
        assert!(joined(blocks) == entries);
    }
}

#[tokio::test]
async fn an_empty_manifest_is_one() {
    let finished = finished(&[], PART_MAX, true);
    let storage = stored(&finished.parts).await;
    assert!(read_blocks(&storage, &finished.reference).await.unwrap().is_empty());
}

#[test]
fn likely_entries_cost_little() {
    let small = finished(&small_files(20_000), PART_MAX, true);
    let per_file = small.reference.size / 20_000;
    assert!(per_file <= 32, "{per_file} bytes a small file");
    let large = finished(&[directory("."), file("x", extents(50_000))], PART_MAX, true);
    let per_piece = large.reference.size / 50_000;
    assert!(per_piece <= 5, "{per_piece} bytes an extent");
}

#[test]
fn equal_contents_have_equal_roots_whoever_wrote_them() {
    let entries = small_files(5000);
    let mut other =
        ManifestWriter::new(&keys(), TransactionId([7; 16]), "n2", WriterId([8; 8]), Timestamp(1))
            .unwrap()
            .with_part_max(9999);
    entries.iter().for_each(|entry| other.push(entry).unwrap());
    let one = finished(&entries, PART_MAX, true);
    assert_eq!(other.finish(Warnings::default()).unwrap().reference.root, one.reference.root);
    assert_ne!(finished(&entries[..4999], PART_MAX, true).reference.root, one.reference.root);
}

#[tokio::test]
async fn seek_finds_every_path() {
    let mut entries = small_files(9000);
    entries.push(file("huge", extents(140_000)));
    entries.push(file("last", vec![Piece::Hole(5)]));
    let finished = finished(&entries, 100_000, true);
    let storage = stored(&finished.parts).await;
    let mut reader = ManifestReader::open(storage, &keys(), &finished.reference).await.unwrap();
    for (path, whole) in
        [("last", true), ("data/me-005555-big-Data.db", true), ("huge", false), (".", true), ("data", true)]
    {
        reader.seek(path.as_bytes());
        let mut held = 0;
        loop {
            let Some(block) = reader.next_block().await.unwrap() else { panic!("{path} is not there") };
            let found = block.entries.iter().find(|entry| entry.path == path.as_bytes());
            held += found.and_then(Entry::content).map_or(0, |content| content.pieces.len());
            if found.is_some() && (whole || !block.continues) {
                break;
            }
        }
        assert!(whole || held == 140_000, "{held} pieces of {path}");
    }
    reader.seek(b"m");
    while let Some(block) = reader.next_block().await.unwrap() {
        assert!(block.entries.iter().all(|entry| entry.path != b"m"));
    }
}

#[tokio::test]
async fn hostile_entries_are_refused_whoever_sealed_them() {
    let hole = |path: &str| file(path, vec![Piece::Hole(1)]);
    let endless = {
        let mut entry = hole("f");
        if let Kind::File(content) = &mut entry.kind {
            content.pieces = vec![Piece::Hole(1 << 60); 16];
            content.size = 0;
        }
        entry
    };
    let hardlink = |path: &str, target: &str| Entry {
        path: path.into(),
        meta: Meta::default(),
        kind: Kind::Hardlink { target: target.into() },
    };
    let bad: Vec<Vec<Entry>> = vec![
        vec![directory("."), hole("../x")],
        vec![directory("."), hole("/etc/passwd")],
        vec![directory("."), hole("a/../../x")],
        vec![directory("."), hole("a\0b")],
        vec![directory("."), symlink("s"), hole("s/x")],
        vec![directory("."), hole("f"), hole("f/x")],
        vec![directory("."), hole("missing/x")],
        vec![directory("."), hole("b"), hole("a")],
        vec![directory("."), hole("a"), hole("a")],
        vec![hole("a")],
        vec![hole(".")],
        vec![directory("."), hardlink("a", "b")],
        vec![directory("."), hardlink("b", "../a")],
        vec![directory("."), endless],
        vec![directory("."), Entry { meta: Meta { mode: 0o100_644, ..Meta::default() }, ..hole("a") }],
    ];
    for entries in bad {
        let shown: Vec<_> = entries.iter().map(|e| String::from_utf8_lossy(&e.path).into_owned()).collect();
        let mut strict = writer();
        assert!(entries.iter().any(|entry| strict.push(entry).is_err()), "written: {shown:?}");
        let finished = finished(&entries, PART_MAX, false);
        let storage = stored(&finished.parts).await;
        let error = read_blocks(&storage, &finished.reference).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{shown:?}");
        assert!(error.what().contains(&finished.reference.key(0)), "{error:?}");
    }
}

#[tokio::test]
async fn damaged_parts_are_named() {
    let finished = finished(&small_files(9000), 100_000, true);
    let reference = &finished.reference;
    assert!(reference.parts >= 3);
    let mut random = SeededEntropy::new(4);
    for part in 0..finished.parts.len() {
        let (key, body) = finished.parts[part].clone();
        let mut missing = finished.parts.clone();
        missing.remove(part);
        let error = read_blocks(&stored(&missing).await, reference).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.chain().contains(&key), "{error:?}");

        let mut damages: Vec<Vec<u8>> =
            vec![body[..body.len() - 1].to_vec(), body[..body.len() / 2].to_vec(), Vec::new()];
        let mut places: Vec<usize> = (0..20).map(|_| random_below(&mut random, body.len())).collect();
        places.extend([0, 4, 8, body.len() - 1]);
        for at in places {
            let mut flipped = body.to_vec();
            flipped[at] ^= 1 << (at % 8);
            damages.push(flipped);
        }
        for damage in damages {
            let mut parts = finished.parts.clone();
            parts[part].1 = damage.into();
            let error = read_blocks(&stored(&parts).await, reference).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.chain().contains(&key), "{error:?}");
        }
    }
    let mut swapped = finished.parts.clone();
    let first = swapped[0].1.clone();
    swapped[0].1 = std::mem::replace(&mut swapped[1].1, first);
    assert_eq!(read_blocks(&stored(&swapped).await, reference).await.unwrap_err().kind(), ErrorKind::Corrupt);

    for wrong in [
        ManifestRef { root: [0; 32], ..reference.clone() },
        ManifestRef { size: reference.size + 1, ..reference.clone() },
        ManifestRef { tail: reference.tail - 1, ..reference.clone() },
    ] {
        let error = read_blocks(&stored(&finished.parts).await, &wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

fn random_below(random: &mut SeededEntropy, limit: usize) -> usize {
    let mut bytes = [0; 8];
    random.fill(&mut bytes).unwrap();
    (u64::from_le_bytes(bytes) % limit as u64) as usize
}

#[test]
fn long_files_are_cut_between_units() {
    let unit = 512 * UNIT_PAGES as u64;
    let map = |_| {
        let frame = FrameAt {
            pack: pack(1),
            ordinal: 0,
            offset: 8,
            stored: 5000,
            plain: 1 << 17,
            codec: Codec::Zstd,
        };
        ChunkAt { frame, start: 0, len: 1 << 17 }
    };
    let paged = |pieces: Vec<Piece>| {
        let size = pieces.iter().map(Piece::len).sum::<u64>();
        let maps = (0..size.div_ceil(unit)).map(map).collect();
        Content { size, id: FileId([0; 16]), pieces, pages: Some(PageMaps { page_size: 512, maps }) }
    };
    // Ten units of eight extents each.
    let content = paged(vec![Piece::Hole(1 << 20); 80]);
    assert_eq!(
        slices(&content, 20),
        [(0..16, 0..2), (16..32, 2..4), (32..48, 4..6), (48..64, 6..8), (64..80, 8..10)]
    );
    // Units too long to fit: each map goes with the beginning of its unit.
    let content = paged(vec![Piece::Hole(1 << 20); 16]);
    assert_eq!(slices(&content, 5), [(0..4, 0..1), (4..8, 1..1), (8..12, 1..2), (12..16, 2..2)]);
    // One hole over all.
    let content = paged(vec![Piece::Hole(unit * 7)]);
    assert_eq!(slices(&content, 3), [(0..1, 0..2), (1..1, 2..5), (1..1, 5..7)]);
    assert_eq!(slices(&paged(Vec::new()), 3), []);
}

prop_compose! {
    fn a_frame()(pack_n in 0u32..4, writer in 0u8..2, ordinal in 0u32..40, offset in 8u32..40_000_000,
                 stored in 16u32..1_048_592, plain in 0u32..=1_048_576, raw in any::<bool>()) -> FrameAt {
        let pack = PackId { transaction: TRANSACTION, writer: WriterId([writer; 8]), counter: pack_n * 1_000_000_000 };
        FrameAt { pack, ordinal, offset, stored, plain, codec: if raw { Codec::Raw } else { Codec::Zstd } }
    }
}

fn a_piece(frames: Vec<FrameAt>) -> impl Strategy<Value = Piece> {
    let data = (prop::sample::select(frames), any::<u32>(), any::<u32>(), any::<bool>()).prop_filter_map(
        "an empty frame",
        |(frame, a, b, whole)| {
            let plain = frame.plain;
            if plain == 0 {
                return None;
            }
            let start = if whole { 0 } else { a % plain };
            let len = if whole { plain } else { 1 + b % (plain - start) };
            Some(Piece::Data(ChunkAt { frame, start, len }))
        },
    );
    prop_oneof![4 => data, 1 => (1u64..1 << 40).prop_map(Piece::Hole)]
}

fn a_meta() -> impl Strategy<Value = Meta> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..20);
    let xattrs = prop::collection::btree_map("[a-z.]{1,12}".prop_map(String::into_bytes), bytes(), 0..3);
    (
        0u32..=0o7777,
        0u32..3,
        any::<u32>(),
        any::<i64>(),
        0u32..1_000_000_000,
        any::<u64>(),
        any::<u64>(),
        xattrs,
    )
        .prop_map(|(mode, uid, gid, mtime_seconds, mtime_nanos, device, inode, xattrs)| Meta {
            mode,
            uid,
            gid,
            mtime_seconds,
            mtime_nanos,
            device,
            inode,
            xattrs: xattrs.into_iter().collect(),
        })
}

fn a_kind(frames: Vec<FrameAt>) -> impl Strategy<Value = Kind> {
    let pieces = prop::collection::vec(a_piece(frames), 0..12);
    let content = (pieces, any::<[u8; 16]>(), prop::option::of(9u32..=16)).prop_map(|(pieces, id, page)| {
        let size = pieces.iter().map(Piece::len).sum();
        let frame =
            FrameAt { pack: pack(9), ordinal: 1, offset: 99, stored: 99, plain: 1 << 17, codec: Codec::Zstd };
        let mut pages = page.map(|bits| PageMaps { page_size: 1 << bits, maps: Vec::new() });
        // Holes can be long; no file here shall have more than a handful of maps.
        pages = pages.filter(|pages| pages.wanted(size) < 50);
        if let Some(pages) = &mut pages {
            pages.maps = vec![ChunkAt { frame, start: 8, len: 16 }; pages.wanted(size) as usize];
        }
        Kind::File(Content { size, id: FileId(id), pieces, pages })
    });
    let target = prop::collection::vec(1u8.., 1..30);
    prop_oneof![
        1 => Just(Kind::Directory),
        4 => content,
        1 => target.prop_map(|target| Kind::Symlink { target }),
        1 => Just(Kind::Hardlink { target: b"!".to_vec() }),
    ]
}

/// A tree, in order; every parent is a directory.
fn a_tree() -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec(a_frame(), 1..8).prop_flat_map(|frames| {
        let name =
            prop_oneof!["[a-c.]{1,3}x".prop_map(String::into_bytes), prop::collection::vec(0x80u8.., 1..4)];
        let path = prop::collection::vec(name, 1..4).prop_map(|names| names.join(&b'/'));
        prop::collection::vec((path, a_meta(), a_kind(frames)), 0..40).prop_map(|list| {
            let mut tree = BTreeMap::from([(b".".to_vec(), (Meta::default(), Kind::Directory))]);
            for (path, meta, kind) in &list {
                tree.insert(path.clone(), (meta.clone(), kind.clone()));
            }
            for (path, meta, _) in &list {
                for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
                    tree.insert(path[..at].to_vec(), (meta.clone(), Kind::Directory));
                }
            }
            let mut entries: Vec<Entry> =
                tree.into_iter().map(|(path, (meta, kind))| Entry { path, meta, kind }).collect();
            entries.sort_by(|a, b| compare_paths(&a.path, &b.path));
            entries
        })
    })
}

fn plain_block(entries: &[Entry]) -> Vec<u8> {
    let mut builder = Builder::default();
    entries.iter().for_each(|entry| builder.push(entry));
    builder.finish(false, false).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_tree_comes_back(entries in a_tree()) {
        let block = decode(&plain_block(&entries)).unwrap();
        prop_assert!(!block.continues && !block.continued_from_previous);
        prop_assert_eq!(block.entries, entries);
    }

    #[test]
    fn any_tree_comes_back_through_a_store(entries in a_tree()) {
        let finished = finished(&entries, 1, true);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let back = runtime.block_on(async {
            let storage = stored(&finished.parts).await;
            joined(read_blocks(&storage, &finished.reference).await.unwrap())
        });
        prop_assert_eq!(back, entries);
    }

    /// Authentic nonsense: what does not fail is valid.
    #[test]
    fn changed_blocks_never_panic(
        entries in a_tree(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut plain = plain_block(&entries);
        for (at, value) in changes {
            let at = at.index(plain.len());
            plain[at] = value;
        }
        if let Some(cut) = cut {
            plain.truncate(cut.index(plain.len()));
        }
        if let Ok(block) = decode(&plain) {
            let last = block.entries.len() - 1;
            for (i, entry) in block.entries.iter().enumerate() {
                let slice = (i == 0 && block.continued_from_previous) || (i == last && block.continues);
                let checked = if slice { entry.check_slice().map(drop) } else { entry.check() };
                prop_assert!(checked.is_ok());
            }
        }
    }

    #[test]
    fn bytes_from_nowhere_never_panic(plain in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&plain);
    }
}
