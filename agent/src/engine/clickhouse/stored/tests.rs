use palinurus_repository::entropy::SeededEntropy;
use palinurus_repository::manifest::entry::Meta;
use palinurus_repository::{SystemClock, SystemEntropy};

use super::*;
use crate::source::{Class, Tree};

fn opened(url: &str) -> Result<Stores> {
    let config = Config::read(format!("root = '/d'\nobjects.far.url = '{url}'").parse().unwrap())?;
    let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) =
        (Arc::new(SystemClock), Arc::new(SystemEntropy::new()));
    Stores::open(&config, &clock, &entropy)
}

fn listed(path: &str) -> SourceEntry {
    let kind = SourceKind::File { size: 9, class: Class::Immutable, snapshot: false, nlink: 1 };
    let meta = Meta { inode: 1, device: 2, mtime_seconds: 3, ..Meta::default() };
    SourceEntry { path: path.into(), meta, kind }
}

fn text(objects: &[(u64, &str)], names: u8) -> String {
    let sum: u64 = objects.iter().map(|(bytes, _)| bytes).sum();
    let lines: String = objects.iter().map(|(bytes, name)| format!("{bytes}\t{name}\n")).collect();
    format!("5\n{}\t{sum}\n{lines}{names}\n1\n", objects.len())
}

#[test]
fn where_objects_begin_is_what_the_url_says() {
    for (url, want) in [
        ("s3://b/a/b?endpoint=http://127.0.0.1:1/x", "a/b/"),
        ("s3://b/a/?region=x", "a/"),
        ("s3://b/", ""),
        ("s3://b", ""),
        ("file:///a/b", ""),
    ] {
        assert_eq!(prefix(url), want, "{url}");
    }
    let error = opened("ftp://b").unwrap_err();
    assert!(error.chain().contains("engine.objects.far.url"), "{error:?}");
    assert!(opened("s3://b/p?secret_key=x").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_from_their_objects() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for place in ["bucket/aaa", "disk/shadow/f/part"] {
        fs::create_dir_all(at(place)).unwrap();
    }
    // The end of the first is not the end of what is asked for at a time.
    let mut long = vec![0; (2 * WINDOW + 5) as usize];
    SeededEntropy::new(1).fill(&mut long).unwrap();
    let (one, two) = long.split_at(WINDOW as usize - 3);
    fs::write(at("bucket/aaa/one"), one).unwrap();
    fs::write(at("bucket/aaa/two"), two).unwrap();
    fs::write(at("bucket/aaa/count"), "71").unwrap();
    let both = [(one.len() as u64, "aaa/one"), (two.len() as u64, "aaa/two")];
    let write = |name: &str, text: String| fs::write(at("disk/shadow/f/part").join(name), text).unwrap();
    write("long", text(&both, 0));
    write("count.txt", text(&[(2, "aaa/count")], 0));
    write("gone", text(&[(2, "aaa/gone")], 0));
    write("none", text(&[], 0));

    let stores = opened(&format!("file://{}", at("bucket").display())).unwrap();
    let stored = Stored { name: "far".into(), path: at("disk"), store: "far".into() };
    let record = Record { name: "f".into(), disks: Vec::new(), objects: Vec::new(), stores: vec![stored] };
    let shadow = record.shadow(&at("disk"));
    let entry = |stores: &Stores, name: &str| {
        stores.entry("far", &shadow.join("part").join(name), listed(&format!("disks/far/part/{name}")))
    };
    let first = entry(&stores, "long").unwrap();
    assert!(matches!(first.kind, SourceKind::File { size, .. } if size == long.len() as u64));
    // The server counts names in the text: it is the same file.
    write("long", text(&both, 1));
    assert_eq!(entry(&stores, "long").unwrap(), first);
    write("long", text(&[both[1], both[0]], 1));
    assert_ne!(entry(&stores, "long").unwrap(), first);
    write("long", text(&both, 1));
    write("outside", text(&[(1, "../x")], 1));
    assert!(entry(&stores, "outside").unwrap_err().hint().unwrap().contains("endpoint"));
    write("outside", text(&[(2, "aaa/count")], 1));
    let outside = entry(&stores, "outside").unwrap();
    write("outside", text(&[(2, "../x")], 1));

    let reader = stores.reader(&record).unwrap();
    let tree = Tree::open(dir.path(), None).unwrap().with_remote(reader.clone()).judged_by(reader);
    let [small, gone, none] = ["count.txt", "gone", "none"].map(|name| entry(&stores, name).unwrap());
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; 1 << 20];
        let mut all = |entry: &SourceEntry| -> io::Result<Vec<u8>> {
            let (file, mut read) = (tree.read(entry)?, Vec::new());
            loop {
                match file.read_at(&mut bytes, read.len() as u64)? {
                    0 => return Ok(read),
                    len => read.extend_from_slice(&bytes[..len]),
                }
            }
        };
        assert_eq!(all(&first).unwrap(), long);
        assert_eq!(all(&small).unwrap(), b"71");
        assert_eq!(all(&none).unwrap(), b"");
        let lost = all(&gone).unwrap_err();
        let other = all(&outside).unwrap_err();
        // Each file's own reason, whichever was first.
        for (entry, lost, kind) in
            [(&outside, &other, ErrorKind::Invalid), (&gone, &lost, ErrorKind::NotFound)]
        {
            let error = tree.unread(entry, lost).unwrap_err();
            assert_eq!(error.kind(), kind, "{error:?}");
        }
        fs::remove_file(shadow.join("part/outside")).unwrap();
        assert!(tree.unread(&listed("access/x.sql"), &lost).unwrap().is_some());
        // Once read ahead it need not be there.
        tree.ahead([&small, &gone].into_iter());
        fs::remove_file(dir.path().join("bucket/aaa/count")).unwrap();
        assert_eq!(all(&small).unwrap(), b"71");
        assert!(all(&small).is_err());
        fs::write(dir.path().join("bucket/aaa/count"), "71").unwrap();
        stores.measured("far", &shadow).unwrap()
    });
    let size = 2 * WINDOW + 5 + 2 + 2;
    assert_eq!(read.await.unwrap(), [("part".to_owned(), Some(71), size)]);
}
