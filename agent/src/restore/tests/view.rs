//! An independent look at what came of a restore.
use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use palinurus_repository::manifest::entry::compare_paths;

use super::world::{Node, Tree, content, keys};

/// A name as seen from outside. Content is kept as a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) kind: String,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name of the same file.
    first: Vec<u8>,
}

pub(super) type View = BTreeMap<Vec<u8>, Seen>;

fn file_kind(bytes: &[u8]) -> String {
    format!("file of {} bytes, {:?}", bytes.len(), keys(0).chunk_id(bytes))
}

/// What the tree should look like once restored.
pub(super) fn expected(tree: &Tree) -> View {
    let mut view = View::new();
    for (path, meta, node) in tree {
        let seen = match node {
            Node::Hardlink(target) => view[target].clone(),
            _ => Seen {
                kind: match node {
                    Node::File { segments, .. } => file_kind(&content(segments)),
                    Node::Symlink(target) => format!("symlink to {target:?}"),
                    _ => "directory".into(),
                },
                mode: if matches!(node, Node::Symlink(_)) { 0o777 } else { meta.mode },
                owner: (meta.uid, meta.gid),
                mtime: (meta.mtime_seconds, i64::from(meta.mtime_nanos)),
                xattrs: meta.xattrs.iter().cloned().collect(),
                first: path.clone(),
            },
        };
        view.insert(path.clone(), seen);
    }
    view
}

/// What is there. Walks with the standard library only.
pub(super) fn look(root: &Path) -> View {
    let mut view = View::new();
    let mut inodes = HashMap::new();
    let mut open = vec![(b".".to_vec(), root.to_owned())];
    while let Some((path, at)) = open.pop() {
        let found = std::fs::symlink_metadata(&at).unwrap();
        let kind = if found.is_symlink() {
            format!("symlink to {:?}", std::fs::read_link(&at).unwrap().into_os_string().into_vec())
        } else if found.is_file() {
            file_kind(&std::fs::read(&at).unwrap())
        } else if found.is_dir() {
            for entry in std::fs::read_dir(&at).unwrap() {
                let name = entry.unwrap().file_name();
                let below = if path == b"." {
                    name.as_bytes().to_vec()
                } else {
                    [&path, &b"/"[..], name.as_bytes()].concat()
                };
                open.push((below, at.join(name)));
            }
            "directory".into()
        } else {
            "something else".into()
        };
        let xattrs = if found.is_symlink() { None } else { xattr::list(&at).ok() };
        let xattrs = xattrs.into_iter().flatten().filter(|name| name.as_bytes().starts_with(b"user."));
        let first = inodes.entry(found.ino()).or_insert_with(|| path.clone());
        if compare_paths(&path, first).is_lt() {
            first.clone_from(&path);
        }
        let seen = Seen {
            kind,
            mode: found.mode() & 0o7777,
            owner: (found.uid(), found.gid()),
            mtime: (found.mtime(), found.mtime_nsec()),
            xattrs: xattrs
                .map(|name| (name.as_bytes().to_vec(), xattr::get(&at, &name).unwrap().unwrap()))
                .collect(),
            first: found.ino().to_le_bytes().to_vec(),
        };
        view.insert(path, seen);
    }
    for seen in view.values_mut() {
        let mut inode = [0; 8];
        inode.copy_from_slice(&seen.first);
        seen.first.clone_from(&inodes[&u64::from_le_bytes(inode)]);
    }
    view
}

#[track_caller]
pub(super) fn assert_same(found: &View, wanted: &View) {
    for (path, seen) in wanted {
        assert_eq!(found.get(path), Some(seen), "{:?}", String::from_utf8_lossy(path));
    }
    let extra: Vec<_> = found.keys().filter(|path| !wanted.contains_key(*path)).collect();
    assert!(extra.is_empty(), "not in the backup: {extra:?}");
}
