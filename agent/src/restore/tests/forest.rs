//! Random trees with all that file systems hold, and random changes to them.
use palinurus_repository::manifest::entry::{Meta, compare_paths};

use super::world::{Dice, Node, Segment, Tree, meta};

const NAMES: &[&[u8]] = &[
    b"a",
    b"a.b",
    b"b",
    b"base",
    b"\xff\xfe",
    b"\xc3\xa9t\xc3\xa9",
    b"with space",
    b"new\nline",
    b"-x",
    b"...",
    b"z",
];

pub(super) fn grow(rng: &Dice) -> Tree {
    let mut tree: Tree = vec![(b".".to_vec(), random_meta(rng, true), Node::Directory)];
    let mut directories: Vec<Vec<u8>> = vec![Vec::new()];
    for _ in 0..rng.below(40) {
        let parent = &directories[rng.below(directories.len() as u64) as usize];
        let name = NAMES[rng.below(NAMES.len() as u64) as usize];
        let path = if parent.is_empty() { name.to_vec() } else { [parent, &b"/"[..], name].concat() };
        if tree.iter().any(|(known, ..)| *known == path) {
            continue;
        }
        let node = node(rng, &tree, &path);
        if node == Node::Directory {
            directories.push(path.clone());
        }
        let is_directory = node == Node::Directory;
        tree.push((path, random_meta(rng, is_directory), node));
    }
    settle(tree)
}

/// In order, with the links whose targets are there and come before them.
fn settle(mut tree: Tree) -> Tree {
    tree.sort_by(|a, b| compare_paths(&a.0, &b.0));
    // The system gives symlinks no attributes of users.
    tree.iter_mut()
        .filter(|(.., node)| matches!(node, Node::Symlink(_)))
        .for_each(|(_, meta, _)| meta.xattrs.clear());
    let files: Vec<Vec<u8>> = tree
        .iter()
        .filter(|(.., node)| matches!(node, Node::File { .. }))
        .map(|(path, ..)| path.clone())
        .collect();
    tree.retain(|(path, _, node)| match node {
        Node::Hardlink(target) => files.contains(target) && compare_paths(target, path).is_lt(),
        _ => true,
    });
    tree
}

fn node(rng: &Dice, tree: &Tree, path: &[u8]) -> Node {
    match rng.below(12) {
        0..3 => Node::Directory,
        3 => Node::Symlink([&b"../"[..], NAMES[rng.below(11) as usize]].concat()),
        4 => {
            let files = tree.iter().filter(|(known, _, node)| {
                matches!(node, Node::File { .. }) && compare_paths(known, path).is_lt()
            });
            let files: Vec<_> = files.map(|(path, ..)| path.clone()).collect();
            match files.len() {
                0 => Node::Directory,
                count => Node::Hardlink(files[rng.below(count as u64) as usize].clone()),
            }
        }
        5 => paged(rng),
        6 => Node::File { segments: vec![], paged: None },
        7 => Node::File { segments: sparse(rng), paged: None },
        8 => Node::File { segments: vec![Segment::Data(data(rng, 300_000))], paged: None },
        _ => Node::File { segments: vec![Segment::Data(data(rng, 5_000))], paged: None },
    }
}

fn data(rng: &Dice, limit: u64) -> Vec<u8> {
    let len = 1 + rng.below(limit) as usize;
    // Few contents are small ones: many files are the same.
    if rng.one_in(3) { vec![b'x'; len % 7 + 1] } else { rng.bytes(len) }
}

fn sparse(rng: &Dice) -> Vec<Segment> {
    let mut segments = Vec::new();
    for _ in 0..1 + rng.below(4) {
        segments.push(Segment::Hole(1 + rng.below(500_000)));
        if !rng.one_in(3) {
            segments.push(Segment::Data(data(rng, 60_000)));
        }
    }
    segments
}

fn paged(rng: &Dice) -> Node {
    let size = 512 << rng.below(5);
    let mut bytes = Vec::new();
    for _ in 0..rng.below(60) {
        if rng.one_in(4) { bytes.resize(bytes.len() + size * 16, 0) } else { bytes.extend(rng.bytes(size)) }
    }
    if rng.one_in(2) {
        bytes.extend(rng.bytes(100));
    }
    Node::File { segments: vec![Segment::Data(bytes)], paged: Some(size as u32) }
}

fn random_meta(rng: &Dice, directory: bool) -> Meta {
    let root = rustix::process::geteuid().is_root();
    let modes: &[u32] = if directory {
        &[0o755, 0o700, 0o2775, 0o1777, 0o500]
    } else {
        &[0o644, 0o400, 0o4755, 0o6711, 0o000]
    };
    // Others than root cannot look into what they may not read.
    let count = if root { 5 } else { 2 };
    let mut meta = meta(modes[rng.below(count) as usize]);
    if root && rng.one_in(2) {
        (meta.uid, meta.gid) = (rng.below(70_000) as u32, rng.below(70_000) as u32);
    }
    meta.mtime_seconds = rng.below(4_000_000_000) as i64 - 1_000_000_000;
    meta.mtime_nanos = rng.below(1_000_000_000) as u32;
    if rng.one_in(3) {
        meta.xattrs.push((b"user.a".to_vec(), rng.bytes(rng.below(100) as usize)));
    }
    if rng.one_in(5) {
        meta.xattrs.push((b"user.\xffname".to_vec(), b"value".to_vec()));
    }
    meta
}

/// The tree some time later: names gone, come, replaced by others, contents and attributes changed.
pub(super) fn change(rng: &Dice, tree: &Tree) -> Tree {
    let mut changed: Tree = Vec::new();
    let mut gone: Vec<Vec<u8>> = Vec::new();
    for (path, meta, node) in tree {
        if gone.iter().any(|gone| path.starts_with(gone) && path.get(gone.len()) == Some(&b'/')) {
            continue;
        }
        let (mut meta, mut node) = (meta.clone(), node.clone());
        if path != b"." && rng.one_in(6) {
            gone.push(path.clone());
            if rng.one_in(2) {
                continue;
            }
            node = self::node(rng, tree, path);
            meta = random_meta(rng, node == Node::Directory);
        }
        if let Node::File { segments, .. } = &mut node
            && rng.one_in(2)
        {
            for segment in segments {
                if let Segment::Data(bytes) = segment
                    && !bytes.is_empty()
                {
                    let at = rng.below(bytes.len() as u64) as usize;
                    bytes[at] ^= 1;
                }
            }
        }
        if rng.one_in(4) {
            meta = random_meta(rng, node == Node::Directory);
        }
        changed.push((path.clone(), meta, node));
    }
    let mut more = grow(rng);
    more.retain(|(path, ..)| {
        let inside =
            |directory: &[u8]| path.starts_with(directory) && path.get(directory.len()) == Some(&b'/');
        !changed.iter().any(|(known, _, node)| known == path || (*node != Node::Directory && inside(known)))
    });
    for (path, meta, node) in more {
        let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&b"."[..], |slash| &path[..slash]);
        if changed.iter().any(|(known, _, node)| known == parent && *node == Node::Directory) {
            changed.push((path, meta, node));
        }
    }
    settle(changed)
}
