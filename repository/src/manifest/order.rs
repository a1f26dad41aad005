//! The order of a manifest, checked entry by entry: paths rise, and every entry lies in a directory that is an
//! entry too. So nothing can be written through a symlink, or into what was never made.
use std::cmp::Ordering;

use super::entry::compare_paths;
use crate::error::{Error, Result};

#[derive(Debug, Default)]
pub(super) struct Order {
    last: Option<Vec<u8>>,
    /// The innermost open directory; every open directory is a prefix of it, of one of these lengths.
    directory: Vec<u8>,
    open: Vec<usize>,
}

impl Order {
    pub(super) fn step(&mut self, path: &[u8], is_directory: bool) -> Result<()> {
        if let Some(last) = &self.last
            && compare_paths(last, path) != Ordering::Less
        {
            return Err(wrong(path, &format!("does not come after {:?}", String::from_utf8_lossy(last))));
        }
        if path == b"." {
            self.open.push(0);
        } else {
            let parent = parent(path);
            while self.open.pop_if(|length| *length > parent.len()).is_some() {}
            if self.open.last() != Some(&parent.len()) || !self.directory.starts_with(parent) {
                return Err(wrong(path, "lies in no directory of this manifest"));
            }
            if is_directory {
                self.directory.clear();
                self.directory.extend_from_slice(path);
                self.open.push(path.len());
            }
        }
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(path);
        Ok(())
    }

    /// Begins in the middle: the directories that lead to `path` are taken for granted. `passed` says that
    /// `path` itself is behind.
    pub(super) fn begin_at(path: &[u8], passed: bool) -> Self {
        let directory = parent(path).to_vec();
        let mut open = vec![0];
        open.extend(directory.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at));
        if !directory.is_empty() {
            open.push(directory.len());
        }
        Self { last: passed.then(|| path.to_vec()), directory, open }
    }
}

/// The directory that holds `path`; empty for the data directory.
fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |at| &path[..at])
}

fn wrong(path: &[u8], why: &str) -> Error {
    Error::corrupt(format!("entry {:?} {why}", String::from_utf8_lossy(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(order: &mut Order, entries: &[(&str, bool)]) -> Result<()> {
        entries.iter().try_for_each(|(path, is_directory)| order.step(path.as_bytes(), *is_directory))
    }

    #[test]
    fn a_tree_in_order_passes() {
        let tree = [
            (".", true),
            ("a", true),
            ("a/b", true),
            ("a/b/c", false),
            ("a/c", false),
            ("a.b", false),
            ("b", true),
        ];
        run(&mut Order::default(), &tree).unwrap();
    }

    #[test]
    fn entries_without_a_directory_are_refused() {
        let bad: [&[(&str, bool)]; 8] = [
            &[("a", true)],
            &[(".", true), ("a/b", false)],
            &[(".", true), ("a", false), ("a/b", false)],
            &[(".", true), ("a", true), ("a/l", false), ("a/l/x", false)],
            &[(".", true), ("ab", true), ("ac/x", false)],
            &[(".", true), ("a", true), ("a/b/c", false)],
            &[(".", true), ("b", false), ("a", false)],
            &[(".", true), ("a", false), ("a", false)],
        ];
        for entries in bad {
            assert!(run(&mut Order::default(), entries).is_err(), "{entries:?}");
        }
    }

    #[test]
    fn beginning_in_the_middle_trusts_only_the_way_there() {
        run(&mut Order::begin_at(b"a/b/c", false), &[("a/b/c", false), ("a/d", false), ("e", true)]).unwrap();
        assert!(run(&mut Order::begin_at(b"a/b/c", false), &[("a/b/c", false), ("a/d/e", false)]).is_err());
        run(&mut Order::begin_at(b"a", false), &[("a", false), ("b", false)]).unwrap();
        run(&mut Order::begin_at(b"a", true), &[("b", false)]).unwrap();
        assert!(run(&mut Order::begin_at(b"a", true), &[("a", false)]).is_err());
    }
}
