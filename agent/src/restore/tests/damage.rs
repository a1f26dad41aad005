use std::path::Path;

use palinurus_repository::manifest::entry::{Kind, Piece};
use palinurus_repository::{Error, ErrorKind, FileId};

use super::view::*;
use super::world::*;

/// Files of all kinds, in many packs.
fn sample() -> Tree {
    let rng = Dice::new(77);
    let sparse = vec![Segment::Hole(100_000), Segment::Data(rng.bytes(90_000)), Segment::Hole(5)];
    let mut tree = tree([
        ("d/empty", file("")),
        ("d/large", file(rng.bytes(900_000))),
        ("d/link", Node::Hardlink(b"d/large".to_vec())),
        ("d/paged", Node::File { segments: vec![Segment::Data(rng.bytes(8192 * 40))], paged: Some(8192) }),
        ("d/sparse", Node::File { segments: sparse, paged: None }),
        ("d/symlink", Node::Symlink(b"large".to_vec())),
    ]);
    for n in 0..60u32 {
        tree.push((format!("e{n:02}").into_bytes(), meta(0o644), file(rng.bytes(1 + 300 * n as usize))));
    }
    tree
}

/// Nothing there is wrong; what is missing is named in the error.
#[track_caller]
fn assert_only_good(target: &Path, tree: &Tree, error: &Error) -> usize {
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    let (found, wanted) = (look(target), expected(tree));
    let mut missing = 0;
    for (path, seen) in &wanted {
        match found.get(path) {
            Some(there) if path == b"." => assert_eq!(there.kind, seen.kind),
            Some(there) => assert_eq!(there, seen, "{:?}", String::from_utf8_lossy(path)),
            None => {
                missing += 1;
                let name = String::from_utf8_lossy(path).into_owned();
                assert!(
                    missing > 20 || error.what().contains(&name) || error.what().contains("more"),
                    "{name}: {error:?}"
                );
            }
        }
    }
    missing
}

#[test]
fn a_flipped_bit_in_any_pack_costs_only_the_files_it_is_in() {
    let mut world = World::new(1);
    let tree = sample();
    let manifest = world.backup(&tree);
    let packs = world.packs();
    assert!(packs.len() >= 3, "{packs:?}");
    let mut lost = 0;
    for key in packs {
        let good = world.read(&key);
        for at in [20, good.len() / 3, good.len() * 2 / 3] {
            let mut bad = good.clone();
            bad[at] ^= 4;
            world.overwrite(&key, Some(bad));
            let target = scratch();
            let error = world.restore(&manifest, target.path()).unwrap_err();
            let missing = assert_only_good(target.path(), &tree, &error);
            assert!((1..60).contains(&missing), "{missing}");
            lost += missing;
            // Mended, the same restore brings the rest.
            world.overwrite(&key, Some(good.clone()));
            let result = world.restore(&manifest, target.path()).unwrap();
            assert_same(&look(target.path()), &expected(&tree));
            assert!(result.bytes_written < 3_000_000);
        }
    }
    assert!(lost > 10);
}

#[test]
fn packs_that_are_cut_gone_or_swapped_are_told_apart_from_good_ones() {
    let mut world = World::new(2);
    let tree = sample();
    let manifest = world.backup(&tree);
    let packs = world.packs();
    let (first, second) = (world.read(&packs[0]), world.read(&packs[1]));
    let cases: [(&str, Option<Vec<u8>>); 5] = [
        ("half", Some(first[..first.len() / 2].to_vec())),
        ("nothing of it", Some(Vec::new())),
        ("gone", None),
        ("another pack", Some(second)),
        ("zeros", Some(vec![0; first.len()])),
    ];
    for (what, body) in cases {
        let all_frames_gone = !matches!(&body, Some(half) if half.len() == first.len() / 2);
        world.overwrite(&packs[0], body);
        let target = scratch();
        let error = world.restore(&manifest, target.path()).unwrap_err();
        let missing = assert_only_good(target.path(), &tree, &error);
        assert!(missing > 0 && missing < 66, "{what}: {missing}");
        if !all_frames_gone {
            // What lies before the cut is still read.
            let target = scratch();
            world.overwrite(&packs[0], None);
            world.restore(&manifest, target.path()).unwrap_err();
            assert!(look(target.path()).len() + missing < expected(&tree).len(), "{what}");
        }
        assert!(crate::restore::target::is_empty(target.path()).unwrap(), "{what}: marked as unfinished");
    }
}

#[test]
fn a_damaged_manifest_stops_the_restore() {
    let mut world = World::new(3);
    let tree = sample();
    let manifest = world.backup(&tree);
    for key in manifest.keys() {
        let good = world.read(&key);
        for at in [0, 9, good.len() / 2, good.len() - 40, good.len() - 3] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            world.overwrite(&key, Some(bad));
            let target = scratch();
            let error = world.restore(&manifest, target.path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{at}: {error:?}");
            for (path, seen) in look(target.path()) {
                assert!(
                    path.starts_with(b".") || expected(&tree).get(&path).is_some_and(|e| e.kind == seen.kind),
                    "{path:?}"
                );
            }
        }
        world.overwrite(&key, Some(good[..good.len() - 1].to_vec()));
        let error = world.restore(&manifest, scratch().path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

/// Entries that are well formed and still not what was backed up.
#[test]
fn content_that_proves_wrong_does_not_stay() {
    let mut world = World::new(4);
    let tree = sample();
    let good = world.entries(&tree);
    let names: [&[u8]; 5] = [b"d/large", b"d/paged", b"d/sparse", b"d/empty", b"e30"];
    for name in names {
        let mut entries = good.clone();
        let entry = entries.iter_mut().find(|entry| entry.path == name).unwrap();
        if let Kind::File(content) = &mut entry.kind {
            content.id = FileId([3; 16]);
        }
        let manifest = world.manifest(&entries);
        let target = scratch();
        let error = world.restore(&manifest, target.path()).unwrap_err();
        let missing = assert_only_good(target.path(), &tree, &error);
        // The large file has a second name, which has nothing to be a name of.
        assert_eq!(missing, if name == b"d/large" { 2 } else { 1 }, "{:?}", String::from_utf8_lossy(name));
    }
    // Two pages in each other's place: the maps are right, the pages are not.
    let mut entries = good.clone();
    let entry = entries.iter_mut().find(|entry| entry.path == b"d/paged").unwrap();
    if let Kind::File(content) = &mut entry.kind {
        content.pieces.swap(3, 5);
    }
    let manifest = world.manifest(&entries);
    let target = scratch();
    let error = world.restore(&manifest, target.path()).unwrap_err();
    assert_eq!(assert_only_good(target.path(), &tree, &error), 1);
    // Pieces that are no whole pages.
    let entry = entries.iter_mut().find(|entry| entry.path == b"d/paged").unwrap();
    if let Kind::File(content) = &mut entry.kind {
        content.pieces.swap(3, 5);
        let Piece::Data(mut at) = content.pieces[0] else { panic!() };
        at.len = 100;
        content.pieces[0] = Piece::Data(at);
        content.pieces.insert(1, Piece::Hole(8092));
    }
    let manifest = world.manifest(&entries);
    let target = scratch();
    let error = world.restore(&manifest, target.path()).unwrap_err();
    assert_eq!(assert_only_good(target.path(), &tree, &error), 1);
    assert!(error.what().contains("whole pages"), "{error:?}");
}
