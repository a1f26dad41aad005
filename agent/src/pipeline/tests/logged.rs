//! Files that an engine's log makes whole, what it says while they are read, and what it adds in the end.
use std::io;

use super::*;
use crate::source::Judge;

/// Calls pages that begin with `bad` damaged, and mends those that begin with `torn`.
#[derive(Debug)]
struct Watching;

impl Judge for Watching {
    fn bytes(
        &self,
        _: &SourceEntry,
        _: &fs::File,
        offset: u64,
        bytes: &mut [u8],
    ) -> palinurus_repository::Result<Vec<String>> {
        let mut notes = Vec::new();
        for (index, page) in bytes.chunks_mut(8192).enumerate() {
            if page.starts_with(b"torn") {
                page[..4].copy_from_slice(b"tidy");
            }
            if page.starts_with(b"bad") {
                notes.push(format!("page {} is bad", offset / 8192 + index as u64));
            }
        }
        Ok(notes)
    }

    fn unread(&self, _: &SourceEntry, error: &io::Error) -> palinurus_repository::Result<Option<String>> {
        match error.kind() {
            io::ErrorKind::NotFound => Ok(None),
            _ => Err(palinurus_repository::Error::conflict("not held any more")),
        }
    }
}

fn logged(world: &World, transaction: u8) -> Context {
    let context = world.context("n1", transaction, None, |_| Class::Logged(8192));
    let tree = Tree::open(&world.data("n1"), None).unwrap().judged_by(Arc::new(Watching));
    Context { tree: Arc::new(tree), ..context }
}

#[tokio::test]
async fn what_happens_to_logged_files_while_they_are_read_does_not_count() {
    let world = World::new(31).await;
    let data = world.data("n1");
    let mut large = text(1, 50 * 8192);
    large[3 * 8192..][..4].copy_from_slice(b"torn");
    large[40 * 8192..][..3].copy_from_slice(b"bad");
    for (name, bytes) in
        [("grows", &large[..]), ("large", &large), ("shrinks", &large), ("small", b"bad"), ("gone", b"x")]
    {
        fs::write(data.join(name), bytes).unwrap();
    }
    fs::write(data.join("little"), text(2, 20_000)).unwrap();
    let context = logged(&world, 1);
    fs::remove_file(data.join("gone")).unwrap();
    fs::File::options().write(true).open(data.join("shrinks")).unwrap().set_len(8192).unwrap();
    fs::File::options().write(true).open(data.join("little")).unwrap().set_len(8192).unwrap();
    fs::File::options().append(true).open(data.join("grows")).unwrap().set_len(1 << 20).unwrap();
    let uploaded = upload(context.clone(), CancellationToken::new()).await.unwrap();
    let mut told: Vec<_> = uploaded
        .warnings
        .iter()
        .map(|w| (String::from_utf8_lossy(&w.path).into_owned(), w.message.as_str()))
        .collect();
    told.sort();
    let bad = "page 40 is bad";
    assert_eq!(told, [("grows".into(), bad), ("large".into(), bad), ("small".into(), "page 0 is bad")]);
    let result = manifest(context, CancellationToken::new()).await.unwrap();
    assert_eq!(result.warning_count, 3, "nothing was read again");
    large[3 * 8192..][..4].copy_from_slice(b"tidy");
    let cut = |bytes: &[u8]| [&bytes[..8192], &vec![0; bytes.len() - 8192]].concat();
    for entry in world.entries(&ManifestRef::decode(&result.manifest).unwrap()).await {
        let want = match entry.path.as_slice() {
            b"." => continue,
            b"grows" | b"large" => large.clone(),
            b"shrinks" => cut(&large),
            b"little" => cut(&text(2, 20_000)),
            b"small" => b"bad".to_vec(),
            other => panic!("{}", String::from_utf8_lossy(other)),
        };
        assert_eq!(entry.content().unwrap().pages.is_some(), want.len() >= 128 << 10);
        assert!(world.bytes(&entry).await == want, "{}", String::from_utf8_lossy(&entry.path));
    }
}

#[tokio::test]
async fn what_an_engine_adds_is_part_of_the_manifest_and_nothing_is_read_again() {
    let world = World::new(32).await;
    for name in ["b", "d"] {
        fs::write(world.data("n1").join(name), name).unwrap();
    }
    let context = logged(&world, 1);
    upload(context.clone(), CancellationToken::new()).await.unwrap();
    fs::write(world.data("n1").join("b"), "of another moment").unwrap();

    let added = world.dir.path().join("added");
    fs::create_dir(&added).unwrap();
    let source = context.spool.join("walk-added");
    let mut list = SourceListWriter::create(&source, Timestamp(1)).unwrap();
    for name in ["a", "c", "e"] {
        fs::write(added.join(name), format!("added {name}")).unwrap();
        list.push(&entry_of(&added, name, Class::Immutable)).unwrap();
    }
    list.finish(&Warnings::default()).unwrap();
    let more = Context { source, tree: Arc::new(Tree::open(&added, None).unwrap()), ..context.clone() };
    for _ in 0..2 {
        append(more.clone(), CancellationToken::new()).await.unwrap();
    }
    let closed = Arc::new(Tree::closed().judged_by(Arc::new(Watching)));
    let closed = Context { tree: closed, ..context };
    let result = manifest(closed.clone(), CancellationToken::new()).await.unwrap();
    let entries = world.entries(&ManifestRef::decode(&result.manifest).unwrap()).await;
    let names: Vec<_> = entries.iter().map(|entry| String::from_utf8_lossy(&entry.path)).collect();
    assert_eq!(names, [".", "a", "b", "c", "d", "e"]);
    for (entry, want) in entries[1..].iter().zip(["added a", "b", "added c", "d", "added e"]) {
        assert_eq!(world.bytes(entry).await, want.as_bytes());
    }
    let error = upload(closed, CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "a closed tree is not read: {error:?}");
}

#[tokio::test]
async fn a_joined_directory_is_read_where_it_lies() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    for path in ["root/in", "elsewhere/sub"] {
        fs::create_dir_all(at(path)).unwrap();
    }
    fs::write(at("elsewhere/sub/file"), "there").unwrap();
    fs::write(at("secret"), "no").unwrap();
    let tree = Tree::open(&at("root"), None).unwrap().join(b"in/7", &at("elsewhere")).unwrap();
    let entry = |path: &str| {
        let entry = entry_of(dir.path(), "secret", Class::Mutable);
        SourceEntry { path: path.into(), ..entry }
    };
    let read = |path: &str| tree.open_file(&entry(path)).and_then(io::read_to_string);
    assert_eq!(read("in/7/sub/file").unwrap(), "there");
    for bad in ["in/7", "in/77/sub/file", "in/7/../secret", "in/7/sub/../../secret"] {
        assert!(read(bad).is_err(), "{bad}");
    }
}
