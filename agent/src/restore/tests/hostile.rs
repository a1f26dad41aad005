//! Manifests and targets that try to lead a restore out of its directory.
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use palinurus_repository::manifest::Block;
use palinurus_repository::manifest::entry::{Content, Entry, Kind, Piece};
use palinurus_repository::{ErrorKind, FileId, Result};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::epilogue::Sequence;
use super::super::marker::Marker;
use super::super::metadata::Attributes;
use super::super::report::Report;
use super::super::selection::Selection;
use super::super::target::Target;
use super::super::{Context, end, move_all};
use super::view::*;
use super::world::*;
use crate::pace::Pacer;

/// Restores blocks that no reader would let through.
fn restore_blocks(world: &mut World, target: &Path, delta: bool, blocks: Vec<Block>) -> Result<()> {
    let manifest = world.backup(&tree([]));
    let runtime = runtime();
    let context = Arc::new(Context {
        target: Target::claim(target, &Marker::new(&manifest, delta, &[]))?,
        keys: world.keys.clone(),
        attributes: Attributes::new(),
        report: Report::new(Arc::default(), CancellationToken::new()),
        selection: Arc::new(Selection::new(&[])?),
        storage: world.storage.clone(),
        pacer: Pacer { pace: Arc::default(), runtime: runtime.handle().clone() },
        handle: runtime.handle().clone(),
        sequence: Sequence::default(),
    });
    let (send, receive) = mpsc::channel(blocks.len() + 1);
    for block in blocks {
        send.try_send(Ok(block)).unwrap();
    }
    drop(send);
    let root = move_all(&context, receive, manifest, 2)?;
    end(&context, root.as_ref(), None)
}

fn block(entries: Vec<Entry>) -> Vec<Block> {
    vec![Block { entries, continued_from_previous: false, continues: false }]
}

fn entry(path: &str, kind: Kind) -> Entry {
    Entry { path: path.into(), meta: meta(0o755), kind }
}

fn inside(path: &str) -> Entry {
    entry(path, Kind::Symlink { target: b"nowhere".to_vec() })
}

#[test]
fn no_manifest_writes_outside() {
    let outer = scratch();
    let outside = outer.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("victim"), b"precious").unwrap();
    let out = || Kind::Symlink { target: outside.as_os_str().as_encoded_bytes().to_vec() };
    let root = || entry(".", Kind::Directory);
    let mut world = World::new(1);
    let contents = world.entries(&tree([("f", file("evil"))]));
    let evil = || contents.last().unwrap().kind.clone();
    let absolute = format!("{}/new", outside.display());
    let cases: Vec<(&str, Vec<Entry>)> = vec![
        ("climbing", vec![root(), entry("../outside/new", evil())]),
        ("absolute", vec![root(), entry(&absolute, evil())]),
        ("through a symlink", vec![root(), entry("s", out()), entry("s/new", evil())]),
        (
            "a symlink taken for a directory",
            vec![root(), entry("s", out()), entry("s", Kind::Directory), entry("s/new", evil())],
        ),
        ("twice, first a symlink", vec![root(), entry("s", out()), entry("s", evil())]),
        (
            "a directory, then a symlink",
            vec![root(), entry("s", Kind::Directory), entry("s", out()), entry("s/new", evil())],
        ),
        ("no root", vec![entry("s", out()), entry("s/new", evil())]),
        ("a root that is a symlink", vec![entry(".", out()), entry("new", evil())]),
        (
            "a hard link out",
            vec![root(), entry("s", out()), entry("t", Kind::Hardlink { target: b"s/victim".to_vec() })],
        ),
        (
            "a hard link up",
            vec![root(), entry("t", Kind::Hardlink { target: b"../outside/victim".to_vec() })],
        ),
        ("a directory through a symlink", vec![root(), entry("s", out()), entry("s/d", Kind::Directory)]),
        ("a symlink in a symlink", vec![root(), entry("s", out()), inside("s/l")]),
        ("a NUL", vec![root(), entry("a\0b", evil())]),
    ];
    for (what, entries) in cases {
        for delta in [false, true] {
            let target = outer.path().join("target");
            std::fs::create_dir(&target).unwrap();
            let error = restore_blocks(&mut world, &target, delta, block(entries.clone())).unwrap_err();
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::Corrupt | ErrorKind::Conflict | ErrorKind::Unavailable | ErrorKind::Invalid
                ),
                "{what}: {error:?}"
            );
            let found = look(&outside);
            assert_eq!(found.len(), 2, "{what}: {found:?}");
            assert_eq!(std::fs::read(outside.join("victim")).unwrap(), b"precious", "{what}");
            assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 2, "{what}");
            std::fs::remove_dir_all(&target).unwrap();
        }
    }
}

#[test]
fn symlinks_in_the_target_are_replaced_not_followed() {
    let outer = scratch();
    let (outside, target) = (outer.path().join("outside"), outer.path().join("target"));
    std::fs::create_dir(&outside).unwrap();
    std::fs::create_dir(&target).unwrap();
    std::fs::write(outside.join("victim"), b"precious").unwrap();
    let mut world = World::new(2);
    let rng = Dice::new(2);
    let wanted = tree([
        ("dir/victim", file("new")),
        ("file", file("new")),
        ("hard", Node::Hardlink(b"file".to_vec())),
        ("large", file(rng.bytes(200_000))),
        ("paged", Node::File { segments: vec![Segment::Data(rng.bytes(4096 * 9))], paged: Some(4096) }),
        ("same", file("precious")),
        ("soft", Node::Symlink(b"file".to_vec())),
    ]);
    let manifest = world.backup(&wanted);
    symlink(&outside, target.join("dir")).unwrap();
    for name in ["file", "hard", "large", "paged", "same", "soft", "extra"] {
        symlink(outside.join("victim"), target.join(name)).unwrap();
    }
    let before = look(&outside);
    let mut request = world.request(&manifest, &target);
    request.delta = true;
    restore(request.clone()).unwrap();
    assert_same(&look(&target), &expected(&wanted));
    assert_same(&look(&outside), &before);

    // Other names of files outside: what they hold is not touched either.
    for name in ["file", "large", "paged", "same"] {
        std::fs::remove_file(target.join(name)).unwrap();
        std::fs::hard_link(outside.join("victim"), target.join(name)).unwrap();
    }
    let before = look(&outside);
    restore(request).unwrap();
    assert_same(&look(&target), &expected(&wanted));
    assert_same(&look(&outside), &before);
}

#[test]
fn a_file_too_large_for_the_disk_is_reported_and_the_rest_restored() {
    let mut world = World::new(3);
    let good = tree([("a", file("good")), ("z", file("good too"))]);
    let mut entries = world.entries(&good);
    let id = |size| world.keys.file_id(size, []);
    let huge =
        |size: u64| Kind::File(Content { size, id: id(size), pieces: vec![Piece::Hole(size)], pages: None });
    entries.insert(2, entry("huge", huge(1 << 60)));
    entries.insert(3, entry("huger", huge(i64::MAX as u64)));
    let manifest = world.manifest(&entries);
    let target = scratch();
    match world.restore(&manifest, target.path()) {
        // Some file systems hold them.
        Ok(result) => assert_eq!(result.files, 4),
        Err(error) => {
            assert!(error.what().contains("huge"), "{error:?}");
            assert!(!target.path().join("huge").exists() && !target.path().join("huger").exists());
        }
    }
    assert_eq!(std::fs::read(target.path().join("z")).unwrap(), b"good too");
}

#[test]
fn an_entry_named_as_the_marker_does_not_end_the_restore() {
    let mut world = World::new(4);
    let entries = tree([(".palinurus-restore", file("{}")), ("a", file("x"))]);
    let manifest = world.backup(&entries);
    let target = scratch();
    let result = world.restore(&manifest, target.path()).unwrap();
    assert_eq!(result.warnings.count(), 1);
    assert_same(&look(target.path()), &expected(&tree([("a", file("x"))])));
}

#[test]
fn impossible_entries_stop_the_restore_unharmed() {
    let mut world = World::new(5);
    let bad =
        |pieces: Vec<Piece>, size| Kind::File(Content { size, id: FileId([0; 16]), pieces, pages: None });
    for kind in [
        bad(vec![Piece::Hole(5)], 6),
        bad(vec![Piece::Hole(u64::MAX), Piece::Hole(2)], 1),
        bad(vec![Piece::Hole(u64::MAX)], u64::MAX),
        Kind::Hardlink { target: b"later".to_vec() },
        Kind::Symlink { target: Vec::new() },
    ] {
        let target = scratch();
        let entries = vec![entry(".", Kind::Directory), entry("f", kind)];
        let error = restore_blocks(&mut world, target.path(), false, block(entries)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    }
}

#[test]
fn a_hard_link_is_made_to_files_only() {
    let mut world = World::new(6);
    for target in [Node::Symlink(b"/etc/passwd".to_vec()), Node::Directory] {
        let hard = ("m", Node::Hardlink(b"l".to_vec()));
        let manifest = world.backup(&tree([("l", target.clone()), hard]));
        let dir = scratch();
        let error = world.restore(&manifest, dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        assert!(!look(dir.path()).contains_key(&b"m"[..]));
    }
}
