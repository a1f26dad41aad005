use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering::Relaxed;

use palinurus_repository::ErrorKind;
use proptest::prelude::*;

use super::forest::grow;
use super::view::*;
use super::world::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back_as_it_was(seed: u64) {
        let mut world = World::new(seed);
        let tree = grow(&Dice::new(seed));
        let manifest = world.backup(&tree);
        let target = scratch();
        let result = world.restore(&manifest, target.path()).unwrap();
        assert_same(&look(target.path()), &expected(&tree));
        let files = tree.iter().filter(|(.., node)| matches!(node, Node::File { .. })).count();
        prop_assert_eq!(result.files, files as u64);
        prop_assert!(result.warnings.is_empty(), "{:?}", result.warnings);
    }
}

#[test]
fn a_file_of_many_blocks_is_proven_whole() {
    let mut world = World::new(1);
    let rng = Dice::new(1);
    // Pieces of five bytes, and pages out of two frames in turn: more than a block of the manifest holds.
    let segments: Vec<Segment> = (0..70_000)
        .flat_map(|n| [Segment::Data(rng.bytes(5)), Segment::Hole(u64::from(n % 3 == 0))])
        .collect();
    let segments: Vec<Segment> =
        segments.into_iter().filter(|segment| *segment != Segment::Hole(0)).collect();
    let paged = Node::File { segments: vec![Segment::Data(rng.bytes(512 * 90_000 + 17))], paged: Some(512) };
    let tree =
        tree([("a/long", Node::File { segments, paged: None }), ("a/paged", paged), ("b", file("after"))]);
    let manifest = world.backup(&tree);
    let target = tempfile::tempdir().unwrap();
    world.restore(&manifest, target.path()).unwrap();
    assert_same(&look(target.path()), &expected(&tree));

    // Found as they are: nothing is fetched but the manifest and the maps.
    let mut request = world.request(&manifest, target.path());
    request.delta = true;
    let result = restore(request.clone()).unwrap();
    assert_eq!((result.files, result.bytes_written), (3, 0));
    assert_same(&look(target.path()), &expected(&tree));

    // One byte of each is wrong.
    for (name, at) in [("a/long", 300_000u64), ("a/paged", 40_000_000)] {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().read(true).write(true).open(target.path().join(name)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[!byte[0]], at).unwrap();
    }
    let result = restore(request).unwrap();
    assert!(result.bytes_written < 500_000, "only the one file and the one page: {}", result.bytes_written);
    assert_same(&look(target.path()), &expected(&tree));
}

#[test]
fn holes_take_no_room_and_chunks_are_fetched_once() {
    let mut world = World::new(2);
    world.chunk = Some(60_000);
    let rng = Dice::new(2);
    let shared = rng.bytes(60_000);
    let hole =
        Node::File { segments: vec![Segment::Hole(1 << 30), Segment::Data(b"end".to_vec())], paged: None };
    let only = Node::File { segments: vec![Segment::Hole(1 << 20)], paged: None };
    let mut tree = tree([("hole", hole), ("only", only)]);
    for n in 0..50 {
        tree.push((format!("same{n:02}").into_bytes(), meta(0o600), file(shared.clone())));
    }
    tree.sort_by(|a, b| a.0.cmp(&b.0));
    let manifest = world.backup(&tree);
    let target = tempfile::tempdir().unwrap();
    let request = world.request(&manifest, target.path());
    let result = restore(request.clone()).unwrap();
    assert!(std::fs::metadata(target.path().join("hole")).unwrap().blocks() < 100);
    assert_eq!(std::fs::metadata(target.path().join("hole")).unwrap().len(), (1 << 30) + 3);
    assert_eq!(std::fs::metadata(target.path().join("only")).unwrap().blocks(), 0);
    assert!(result.bytes_fetched < 80_000, "{result:?}");
    assert!(result.gets <= 2, "a manifest and a pack: {result:?}");
    assert_eq!(result.bytes_written, 50 * 60_000 + 3);
    let progress = request.progress.snapshot();
    assert_eq!((progress.files_done, progress.files_total), (52, 52));
    assert_eq!(progress.bytes_done, progress.bytes_total);
    assert_eq!(request.progress.bytes_done.load(Relaxed), (1 << 30) + (1 << 20) + result.bytes_written);
}

#[test]
fn a_selection_brings_the_way_to_it_and_its_hard_links() {
    let mut world = World::new(3);
    let big = Node::File { segments: vec![Segment::Data(vec![7; 200_000])], paged: None };
    let all = tree([
        ("a/b/one", file("one")),
        ("a/b/two", file("two")),
        ("a/other", file("other")),
        ("a.txt", file("text")),
        ("big", big.clone()),
        ("small", file("small")),
        ("y/away", file("away")),
        ("z/b", Node::Hardlink(b"big".to_vec())),
        ("z/b2", Node::Hardlink(b"big".to_vec())),
        ("z/l", Node::Symlink(b"../a".to_vec())),
        ("z/s", Node::Hardlink(b"small".to_vec())),
    ]);
    let manifest = world.backup(&all);
    let target = scratch();
    let mut request = world.request(&manifest, target.path());
    request.include = vec!["a/b".into(), "*.txt".into(), "z/".into()];
    restore(request).unwrap();
    let wanted = tree([
        ("a/b/one", file("one")),
        ("a/b/two", file("two")),
        ("a.txt", file("text")),
        ("z/b", big),
        ("z/b2", Node::Hardlink(b"z/b".to_vec())),
        ("z/l", Node::Symlink(b"../a".to_vec())),
        ("z/s", file("small")),
    ]);
    assert_same(&look(target.path()), &expected(&wanted));
}

#[test]
fn a_target_with_data_is_refused_and_left_alone() {
    let mut world = World::new(4);
    let manifest = world.backup(&tree([("f", file("new"))]));
    let target = scratch();
    std::fs::write(target.path().join("mine"), b"old").unwrap();
    let before = look(target.path());
    let error = world.restore(&manifest, target.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.hint().unwrap().contains("--delta"));
    assert_same(&look(target.path()), &before);
}

#[test]
fn a_wrong_key_or_pattern_leaves_no_trace() {
    let mut world = World::new(5);
    let manifest = world.backup(&tree([("f", file("new"))]));
    let dir = scratch();
    let mut request = world.request(&manifest, &dir.path().join("target"));
    request.keys = keys(2);
    assert_eq!(restore(request.clone()).unwrap_err().kind(), ErrorKind::Corrupt);
    request.include = vec!["[".into()];
    assert_eq!(restore(request).unwrap_err().kind(), ErrorKind::Invalid);
    let mut absent = manifest;
    absent.writer = palinurus_repository::WriterId([0xaa; 8]);
    assert_eq!(world.restore(&absent, &dir.path().join("target")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
