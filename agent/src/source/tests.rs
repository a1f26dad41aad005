use super::*;

fn entry(n: u64) -> SourceEntry {
    let kind = match n % 5 {
        0 => SourceKind::Directory,
        1 => SourceKind::Symlink { target: vec![0xff, b'/', n as u8] },
        2 => SourceKind::Hardlink { target: format!("f{n}").into_bytes() },
        3 => SourceKind::File {
            size: n,
            class: if n.is_multiple_of(2) { Class::Paged(8192) } else { Class::Logged(8192) },
            snapshot: false,
            nlink: 1,
        },
        _ => SourceKind::File { size: n, class: Class::AppendOnly, snapshot: true, nlink: 3 },
    };
    let meta = Meta {
        mode: 0o4755,
        uid: 1,
        gid: 2,
        mtime_seconds: -5,
        mtime_nanos: 999_999_999,
        device: 7,
        inode: n,
        xattrs: vec![(b"user.a".to_vec(), vec![0; (n % 3000) as usize])],
    };
    SourceEntry { path: format!("d/{n:08}").into_bytes(), meta, kind }
}

fn write_list(path: &Path, count: u64) -> Totals {
    let mut writer = SourceListWriter::create(path, Timestamp(42)).unwrap();
    (0..count).for_each(|n| writer.push(&entry(n)).unwrap());
    let mut warnings = Warnings::default();
    warnings.push(b"\xfe", "odd");
    writer.finish(&warnings).unwrap()
}

#[test]
fn reads_back_from_any_entry() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("walk");
    let totals = write_list(&path, 2500);
    let mut reader = SourceListReader::open(&path).unwrap();
    assert_eq!(reader.totals(), totals);
    assert_eq!((reader.len(), reader.scan_started()), (2500, Timestamp(42)));
    for k in [0, 1, 1023, 1024, 1025, 2048, 2499] {
        reader.seek_to_entry(k).unwrap();
        assert_eq!(reader.position(), k);
        assert_eq!(reader.next_entry().unwrap(), Some(entry(k)));
    }
    assert_eq!(reader.next_entry().unwrap(), None);
    reader.seek_to_entry(9999).unwrap();
    assert_eq!(reader.next_entry().unwrap(), None);
    reader.seek_to_entry(0).unwrap();
    let all: Vec<_> = reader.map(Result::unwrap).collect();
    assert_eq!(all, (0..2500).map(entry).collect::<Vec<_>>());
}

#[test]
fn keeps_the_warnings_and_may_be_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("walk");
    write_list(&path, 0);
    let mut reader = SourceListReader::open(&path).unwrap();
    assert_eq!(reader.next_entry().unwrap(), None);
    let warnings = reader.warnings().unwrap();
    assert_eq!((warnings.count(), warnings.kept()[0].path.as_slice()), (1, &b"\xfe"[..]));
}

#[test]
fn a_list_is_there_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("walk");
    let mut writer = SourceListWriter::create(&path, Timestamp(1)).unwrap();
    writer.push(&entry(3)).unwrap();
    drop(writer);
    assert!(SourceListReader::open(&path).is_err());
    write_list(&path, 1);
    SourceListReader::open(&path).unwrap();
    assert_eq!(dir.path().read_dir().unwrap().count(), 1);
}

#[test]
fn damage_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("walk");
    write_list(&path, 40);
    let whole = std::fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(reader) = SourceListReader::open(&path) {
            let _ = reader.take(100).collect::<Vec<_>>();
        }
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(SourceListReader::open(&path).is_err());
    }
}

#[test]
fn a_tree_reads_the_link_where_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let (root, links) = (dir.path().join("root"), dir.path().join("links"));
    std::fs::create_dir_all(root.join("d")).unwrap();
    let mut found = entry(4);
    let link = links.join(tree::link_name(found.meta.inode));
    std::fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::fs::write(&link, b"linked").unwrap();
    std::fs::write(root.join("d/00000003"), b"named").unwrap();
    let tree = Tree::open(&root, Some(&links)).unwrap();
    let read = |entry: &SourceEntry| {
        let mut text = String::new();
        tree.open_file(entry).unwrap().read_to_string(&mut text).unwrap();
        text
    };
    assert_eq!(read(&found), "linked");
    assert_eq!(read(&entry(3)), "named");
    assert!(tree.open_file(&entry(0)).is_err());
    found.meta.inode += 1;
    assert_eq!(tree.open_file(&found).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(Tree::open(&root, None).unwrap().open_file(&entry(4)).is_err());
}

#[test]
fn a_name_that_became_a_fifo_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let entry = SourceEntry { path: b"pipe".to_vec(), ..entry(3) };
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert!(Tree::open(dir.path(), None).unwrap().open_file(&entry).is_err());
}
