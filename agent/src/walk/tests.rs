use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use palinurus_repository::Timestamp;
use palinurus_repository::manifest::entry::compare_paths;
use rustix::fs::Mode;

use super::*;
use crate::source::{SourceListReader, Tree};

struct World {
    dir: tempfile::TempDir,
    root: PathBuf,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        Self { dir, root }
    }

    fn file(&self, path: &str, content: &[u8]) -> PathBuf {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn walk<'a>(&'a self, rules: &'a Rules) -> Walk<'a> {
        Walk {
            root: &self.root,
            rules,
            cross_file_systems: false,
            strict: false,
            links: None,
            links_elsewhere: false,
            skip: Vec::new(),
            counters: Arc::default(),
            cancel: CancellationToken::new(),
        }
    }

    fn list(&self, walk: Walk<'_>) -> (Vec<SourceEntry>, Warnings) {
        let path = self.dir.path().join("walk");
        let (totals, warnings) = walk.run(SourceListWriter::create(&path, Timestamp(7)).unwrap()).unwrap();
        let reader = SourceListReader::open(&path).unwrap();
        assert_eq!(reader.totals(), totals);
        assert_eq!(reader.warnings().unwrap(), warnings);
        let entries: Vec<_> = reader.map(Result::unwrap).collect();
        assert_eq!(entries[0].path, b".");
        for pair in entries.windows(2) {
            assert!(compare_paths(&pair[0].path, &pair[1].path).is_lt(), "{:?}", pair);
        }
        (entries, warnings)
    }
}

fn everything() -> Rules {
    Rules::new(&[], &[]).unwrap()
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn paths(entries: &[SourceEntry]) -> Vec<String> {
    entries.iter().map(|entry| String::from_utf8_lossy(&entry.path).into_owned()).collect()
}

fn find<'a>(entries: &'a [SourceEntry], path: &str) -> &'a SourceEntry {
    entries.iter().find(|entry| entry.path == path.as_bytes()).unwrap_or_else(|| panic!("{path} not listed"))
}

#[test]
fn lists_what_is_there_with_what_a_restore_needs() {
    let world = World::new();
    let file = world.file("a/file", b"12345");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4711)).unwrap();
    symlink("/nowhere/at all", world.root.join("a.link")).unwrap();
    symlink("..", world.root.join("a/loop")).unwrap();
    fs::create_dir(world.root.join("empty")).unwrap();
    let (entries, warnings) = world.list(world.walk(&everything()));
    assert_eq!(paths(&entries), [".", "a", "a/file", "a/loop", "a.link", "empty"]);
    assert!(warnings.is_empty());
    let entry = find(&entries, "a/file");
    let stat = file.metadata().unwrap();
    assert_eq!(entry.kind, SourceKind::File { size: 5, class: Class::Mutable, snapshot: false, nlink: 1 });
    assert_eq!((entry.meta.mode, entry.meta.uid, entry.meta.gid), (0o4711, stat.uid(), stat.gid()));
    assert_eq!(
        (entry.meta.mtime_seconds, i64::from(entry.meta.mtime_nanos)),
        (stat.mtime(), stat.mtime_nsec())
    );
    assert_eq!((entry.meta.device, entry.meta.inode), (stat.dev(), stat.ino()));
    assert_eq!(find(&entries, "a.link").kind, SourceKind::Symlink { target: b"/nowhere/at all".to_vec() });
}

#[test]
fn names_that_are_no_text() {
    let world = World::new();
    for name in [
        &b"\xff\xfe\x80"[..],
        b"line\nbreak",
        b" ",
        b"-rf",
        b"\x01\x7f",
        "\u{202e}x".as_bytes(),
        &[b'x'; 255],
    ] {
        fs::write(world.root.join(OsStr::from_bytes(name)), b"").unwrap();
    }
    let (entries, warnings) = world.list(world.walk(&everything()));
    assert_eq!(entries.len(), 8);
    assert!(warnings.is_empty());
    assert!(entries.iter().any(|entry| entry.path == b"\xff\xfe\x80"));
}

#[test]
fn hard_links_point_to_the_first_name() {
    let world = World::new();
    let first = world.file("b/first", b"x");
    fs::create_dir(world.root.join("c")).unwrap();
    fs::hard_link(&first, world.root.join("c/second")).unwrap();
    fs::hard_link(&first, world.root.join("third")).unwrap();
    let outside = world.file("pair", b"y");
    fs::hard_link(&outside, world.dir.path().join("elsewhere")).unwrap();
    let (entries, _) = world.list(world.walk(&everything()));
    assert!(matches!(find(&entries, "b/first").kind, SourceKind::File { nlink: 3, .. }));
    for other in ["c/second", "third"] {
        assert_eq!(find(&entries, other).kind, SourceKind::Hardlink { target: b"b/first".to_vec() });
    }
    assert!(matches!(find(&entries, "pair").kind, SourceKind::File { nlink: 2, .. }));
}

#[test]
fn a_farm_of_links_is_walked_without_a_table_of_them() {
    let world = World::new();
    let first = world.file("first", b"x");
    fs::hard_link(&first, world.root.join("second")).unwrap();
    let rules = everything();
    let mut walker = walker(&world, &rules);
    walker.walk.links_elsewhere = true;
    while !walker.levels.is_empty() {
        walker.step();
        assert!(walker.hardlinks.is_empty());
    }
    assert_eq!(files_and_warnings(&walker).0, 2);
}

#[test]
fn an_excluded_first_name_is_no_target() {
    let world = World::new();
    let first = world.file("a.tmp", b"x");
    fs::hard_link(&first, world.root.join("b")).unwrap();
    fs::hard_link(&first, world.root.join("c")).unwrap();
    let rules = Rules::new(&[], &strings(&["*.tmp"])).unwrap();
    let (entries, _) = world.list(world.walk(&rules));
    assert_eq!(paths(&entries), [".", "b", "c"]);
    assert_eq!(find(&entries, "c").kind, SourceKind::Hardlink { target: b"b".to_vec() });
}

#[test]
fn includes_bring_the_directories_above_them_and_no_others() {
    let world = World::new();
    for path in ["db/deep/data/1", "db/deep/data/x.tmp", "db/other/2", "z/data/3", "top"] {
        world.file(path, b"");
    }
    let rules = Rules::new(&strings(&["db/*/data", "top"]), &strings(&["*.tmp"])).unwrap();
    let (entries, warnings) = world.list(world.walk(&rules));
    assert_eq!(paths(&entries), [".", "db", "db/deep", "db/deep/data", "db/deep/data/1", "top"]);
    assert!(warnings.is_empty());
}

#[test]
fn our_own_directories_are_in_no_backup() {
    let world = World::new();
    world.file(".palinurus/op/00/0001", b"");
    world.file(".palinurus-restore", b"");
    world.file("sub/.palinurus/mine", b"");
    world.file("hidden/links/x", b"");
    let links = world.root.join("hidden/links").metadata().unwrap();
    let rules = everything();
    let walk = Walk { skip: vec![(links.dev(), links.ino())], ..world.walk(&rules) };
    let (entries, _) = world.list(walk);
    assert_eq!(paths(&entries), [".", "hidden", "sub", "sub/.palinurus", "sub/.palinurus/mine"]);
}

#[test]
fn special_files_are_left_out_and_said() {
    let world = World::new();
    rustix::fs::mknodat(rustix::fs::CWD, world.root.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(world.root.join("socket")).unwrap();
    let (entries, warnings) = world.list(world.walk(&everything()));
    assert_eq!(paths(&entries), ["."]);
    let said: Vec<_> = warnings.kept().iter().map(|w| (w.path.as_slice(), w.message.as_str())).collect();
    assert_eq!(said, [(&b"pipe"[..], "left out: fifo"), (b"socket", "left out: socket")]);
}

#[test]
fn extended_attributes_of_files_and_directories() {
    let world = World::new();
    let file = world.file("d/file", b"");
    if xattr::set(&file, "user.b", b"\0binary\xff").is_err() {
        return; // this file system has none
    }
    xattr::set(&file, "user.a", b"").unwrap();
    xattr::set(&file, "user.large", &vec![7; 3900]).unwrap_or_default();
    xattr::set(world.root.join("d"), "user.dir", b"1").unwrap();
    xattr::set(&world.root, "user.root", b"2").unwrap();
    symlink("file", world.root.join("d/link")).unwrap();
    let (entries, warnings) = world.list(world.walk(&everything()));
    assert!(warnings.is_empty(), "{warnings:?}");
    let user = |path: &str| -> Vec<(Vec<u8>, Vec<u8>)> {
        let all = find(&entries, path).meta.xattrs.iter();
        all.filter(|(name, _)| name.starts_with(b"user.")).cloned().collect()
    };
    let of_file = user("d/file");
    assert_eq!(of_file[0], (b"user.a".to_vec(), Vec::new()));
    assert_eq!(of_file[1], (b"user.b".to_vec(), b"\0binary\xff".to_vec()));
    assert_eq!(user("d"), [(b"user.dir".to_vec(), b"1".to_vec())]);
    assert_eq!(user("."), [(b"user.root".to_vec(), b"2".to_vec())]);
    assert_eq!(user("d/link"), []);
}

#[test]
fn a_directory_of_ten_thousand_names() {
    let world = World::new();
    for n in 0..10_000 {
        fs::write(world.root.join(format!("{n}")), b"").unwrap();
    }
    let rules = everything();
    let walk = world.walk(&rules);
    let counters = Arc::clone(&walk.counters);
    let (entries, _) = world.list(walk);
    assert_eq!(entries.len(), 10_001);
    assert_eq!(counters.snapshot().files_total, 10_000);
}

/// Makes nested directories relative to each other, past what one path may say.
fn nest(root: &Path, depth: usize, name: &str) -> OwnedFd {
    let mut at = source::open_root(root).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
        at = directory::open(at.as_fd(), name.as_bytes()).unwrap();
    }
    at
}

fn write_at(directory: &OwnedFd, name: &str) {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR).unwrap();
}

#[test]
fn deep_trees_need_few_descriptors_and_end_at_path_max() {
    let world = World::new();
    // One letter each: 2047 directories fit into 4095 bytes. Files on the way need the closed ones again.
    let deepest = nest(&world.root, 2047, "d");
    write_at(&deepest, "e"); // 4095 bytes
    write_at(&deepest, "too-long");
    world.file("d/z", b"");
    world.file("d/d/z", b"");
    let (entries, warnings) = world.list(world.walk(&everything()));
    assert_eq!(entries.len(), 1 + 2047 + 3);
    assert_eq!(entries.iter().map(|entry| entry.path.len()).max(), Some(4095));
    find(&entries, "d/z");
    find(&entries, "d/d/z");
    assert_eq!(warnings.count(), 1);
    assert!(warnings.kept()[0].message.contains("4102 bytes"), "{warnings:?}");
    let tree = Tree::open(&world.root, None).unwrap();
    tree.open_file(entries.iter().find(|entry| entry.path.len() == 4095).unwrap()).unwrap();
}

#[test]
fn what_moves_while_the_walk_is_below_it_is_said_once() {
    let world = World::new();
    nest(&world.root, KEPT_OPEN + 5, "d");
    world.file("d/z", b"");
    let rules = everything();
    let mut walker = walker(&world, &rules);
    while walker.levels.len() <= KEPT_OPEN + 5 {
        walker.step();
    }
    fs::rename(world.root.join("d"), world.root.join("moved")).unwrap();
    world.file("d/z", b"another");
    while !walker.levels.is_empty() {
        walker.step();
    }
    let (_, said) = files_and_warnings(&walker);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("moved during the walk"), "{said:?}");
}

#[test]
fn what_vanishes_between_listing_and_looking_is_said() {
    let world = World::new();
    for name in ["1-file", "2-dir/x", "3-file", "4-link"] {
        world.file(name, b"");
    }
    let rules = everything().class("immutable", &strings(&["3-file"]), Class::Immutable).unwrap();
    let mut walker = walker(&world, &rules);
    walker.walk.links = Some(Links::create(&world.dir.path().join("links")).unwrap());
    fs::remove_file(world.root.join("1-file")).unwrap();
    fs::remove_dir_all(world.root.join("2-dir")).unwrap();
    fs::remove_file(world.root.join("3-file")).unwrap();
    while !walker.levels.is_empty() {
        walker.step();
    }
    assert_eq!(files_and_warnings(&walker), (1, vec!["left out: vanished during the walk"; 3]));
}

/// What it has found and nobody has taken yet.
fn files_and_warnings<'a>(walker: &'a Walker<'_>) -> (usize, Vec<&'a str>) {
    let is_file = |found: &&Found| matches!(found, Found::Entry(found) if matches!(found.entry.kind, SourceKind::File { .. }));
    let said = |found: &'a Found| match found {
        Found::Warning(warning) => Some(warning.message.as_str()),
        Found::Entry(_) => None,
    };
    (walker.found.iter().filter(is_file).count(), walker.found.iter().filter_map(said).collect())
}

fn walker<'a>(world: &'a World, rules: &'a Rules) -> Walker<'a> {
    let root = source::open_root(&world.root).unwrap();
    let stat = rustix::fs::fstat(&root).unwrap();
    let mut walker = Walker {
        walk: world.walk(rules),
        found: VecDeque::new(),
        hardlinks: Hardlinks::default(),
        root: Arc::new(root),
        device: stat.st_dev,
        levels: Vec::new(),
        path: Vec::new(),
        said_unlinkable: false,
        said_forgotten: false,
        failed: None,
    };
    walker.enter_root(&stat);
    walker
}

#[test]
fn immutable_and_append_only_files_outlive_their_names() {
    let world = World::new();
    let table = world.file("1.sst", b"table");
    let log = world.file("wal", b"12345");
    world.file("live", b"live");
    fs::hard_link(&table, world.root.join("2.sst")).unwrap();
    let rules = everything()
        .class("immutable", &strings(&["*.sst"]), Class::Immutable)
        .and_then(|rules| rules.class("append_only", &strings(&["wal"]), Class::AppendOnly))
        .unwrap();
    let links = world.dir.path().join("links");
    let walk = Walk { links: Some(Links::create(&links).unwrap()), ..world.walk(&rules) };
    let (entries, warnings) = world.list(walk);
    assert!(warnings.is_empty());
    fs::remove_file(&table).unwrap();
    fs::remove_file(world.root.join("2.sst")).unwrap();
    fs::remove_file(&log).unwrap();
    let tree = Tree::open(&world.root, Some(&links)).unwrap();
    for (path, content) in [("1.sst", "table"), ("wal", "12345"), ("live", "live")] {
        let mut text = String::new();
        tree.open_file(find(&entries, path)).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, content);
    }
    assert_eq!(find(&entries, "2.sst").kind, SourceKind::Hardlink { target: b"1.sst".to_vec() });
    assert!(matches!(find(&entries, "live").kind, SourceKind::File { snapshot: false, .. }));
}

#[test]
fn what_cannot_be_linked_is_read_in_place_and_said_once() {
    let world = World::new();
    world.file("1.sst", b"");
    world.file("2.sst", b"");
    let rules = everything().class("immutable", &strings(&["*.sst"]), Class::Immutable).unwrap();
    // Another file system: links across are refused.
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let (here, there) = (world.root.metadata().unwrap().dev(), elsewhere.path().metadata().unwrap().dev());
    if here == there {
        return;
    }
    let walk =
        Walk { links: Some(Links::create(&elsewhere.path().join("l")).unwrap()), ..world.walk(&rules) };
    let (entries, warnings) = world.list(walk);
    assert_eq!(warnings.count(), 1, "{warnings:?}");
    for path in ["1.sst", "2.sst"] {
        let kind = SourceKind::File { size: 0, class: Class::Immutable, snapshot: false, nlink: 1 };
        assert_eq!(find(&entries, path).kind, kind);
    }
}

#[test]
fn a_name_given_to_another_file_is_linked_as_what_it_is_now() {
    let world = World::new();
    let old = world.file("1.sst", b"old");
    let before = rustix::fs::stat(&old).unwrap();
    fs::rename(world.file("new", b"newer"), &old).unwrap();
    let path = world.dir.path().join("links");
    let mut links = Links::create(&path).unwrap();
    let root = source::open_root(&world.root).unwrap();
    let Linked::Yes(stat) = links.link(root.as_fd(), b"1.sst", before) else { panic!("not linked") };
    assert_eq!((stat.st_ino, stat.st_size), (old.metadata().unwrap().ino(), 5));
    assert_eq!(fs::read(path.join(source::link_name(stat.st_ino))).unwrap(), b"newer");
    assert!(!path.join(source::link_name(before.st_ino)).exists());
}

#[test]
fn a_missing_data_directory_is_no_empty_backup() {
    let world = World::new();
    fs::remove_dir(&world.root).unwrap();
    let list = SourceListWriter::create(&world.dir.path().join("walk"), Timestamp(0)).unwrap();
    let error = world.walk(&everything()).run(list).unwrap_err();
    assert_eq!(error.kind(), palinurus_repository::ErrorKind::NotFound);
    assert!(!world.dir.path().join("walk").exists());
}

#[test]
fn ends_when_cancelled() {
    let world = World::new();
    world.file("a", b"");
    let rules = everything();
    let walk = world.walk(&rules);
    walk.cancel.cancel();
    let list = SourceListWriter::create(&world.dir.path().join("walk"), Timestamp(0)).unwrap();
    assert!(walk.run(list).is_err());
}
