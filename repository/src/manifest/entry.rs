//! One entry of a manifest: a name below the data directory, and how to make it again.
use std::cmp::Ordering;

use crate::error::{Error, Result};
use crate::id::FileId;
use crate::pack::{ChunkAt, FrameAt};
use crate::page::{self, UNIT_PAGES};

/// The longest path an entry may have, as the kernel's PATH_MAX.
pub const PATH_MAX: usize = 4096;
const NAME_MAX: usize = 255;
/// The most bytes that the names and values of one entry's extended attributes may have together.
pub const XATTRS_MAX: usize = 8 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the data directory, `/` between the parts, any bytes but NUL; `b"."` is the directory itself.
    pub path: Vec<u8>,
    pub meta: Meta,
    pub kind: Kind,
}

/// What `lstat` and `llistxattr` said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, with setuid, setgid and sticky; the type is in [`Kind`].
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime_seconds: i64,
    pub mtime_nanos: u32,
    /// With the inode and mtime, recognises an unchanged file. No meaning on another machine.
    pub device: u64,
    pub inode: u64,
    /// Sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File(Content),
    Symlink {
        target: Vec<u8>,
    },
    /// Another name of a file that comes earlier in the manifest. Whoever makes the link resolves the target
    /// without following symlinks: nothing here proves that no symlink lies on its way.
    Hardlink {
        target: Vec<u8>,
    },
}

/// A file's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub size: u64,
    /// Over the ids of the chunks (or, of a paged file, of the page maps) in order: proves the restored file.
    pub id: FileId,
    /// In file order, without gap or overlap, none empty: together they are `size` bytes.
    pub pieces: Vec<Piece>,
    /// Only of paged files.
    pub pages: Option<PageMaps>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of a frame. In a file that is not paged, always one whole chunk.
    Data(ChunkAt),
    /// A hole: zeros that take no room.
    Hole(u64),
}

impl Piece {
    pub fn len(&self) -> u64 {
        match self {
            Piece::Data(at) => u64::from(at.len),
            Piece::Hole(len) => *len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn frame(&self) -> Option<&FrameAt> {
        match self {
            Piece::Data(at) => Some(&at.frame),
            Piece::Hole(_) => None,
        }
    }
}

/// The short hashes of a paged file's pages, in chunks of their own: one for each [`crate::page::UNIT_PAGES`]
/// pages, which prove the pages on restore and find the changed ones at the next backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageMaps {
    pub page_size: u32,
    pub maps: Vec<ChunkAt>,
}

impl PageMaps {
    /// How many bytes of the file one map stands for.
    pub fn unit(&self) -> u64 {
        u64::from(self.page_size) * UNIT_PAGES as u64
    }

    /// How many maps a file of `size` bytes has.
    pub fn wanted(&self, size: u64) -> u64 {
        size.div_ceil(self.unit().max(1))
    }
}

impl Meta {
    /// The bytes that the extended attributes take.
    pub fn xattrs_len(&self) -> usize {
        self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.mode > 0o7777 {
            return Err("the mode has more than permission bits");
        }
        if self.mtime_nanos > 999_999_999 {
            return Err("the mtime has more than a second of nanoseconds");
        }
        if !self.xattrs.is_sorted_by(|a, b| a.0 < b.0) {
            return Err("extended attributes are out of order or named twice");
        }
        if self.xattrs.iter().any(|(name, _)| !(1..=NAME_MAX).contains(&name.len()) || name.contains(&0)) {
            return Err("an extended attribute's name is empty, too long or holds a NUL");
        }
        if self.xattrs_len() > XATTRS_MAX {
            return Err("the extended attributes are too large");
        }
        Ok(())
    }
}

impl Entry {
    pub fn content(&self) -> Option<&Content> {
        match &self.kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }

    /// Every frame that the entry names, for its bytes or its page maps; one may come more than once.
    pub fn frames(&self) -> impl Iterator<Item = &FrameAt> {
        let content = self.content();
        let maps = content.and_then(|content| content.pages.as_ref()).map_or(&[][..], |pages| &pages.maps);
        content
            .map_or(&[][..], |content| &content.pieces)
            .iter()
            .filter_map(Piece::frame)
            .chain(maps.iter().map(|map| &map.frame))
    }

    /// Refuses what no writer of ours produces and what could lead a restore out of its directory.
    pub fn check(&self) -> Result<()> {
        let held = self.check_slice()?;
        let Kind::File(content) = &self.kind else { return Ok(()) };
        if held != content.size {
            return Err(self.wrong("the pieces do not add up to the size"));
        }
        let Some(pages) = &content.pages else { return Ok(()) };
        if pages.maps.len() as u64 != pages.wanted(content.size) {
            return Err(self.wrong("the page maps are not one for each unit"));
        }
        Ok(())
    }

    /// The same for an entry whose content may be only some of the file's pieces; says how many bytes these are.
    pub(crate) fn check_slice(&self) -> Result<u64> {
        check_path(&self.path)?;
        self.meta.check().map_err(|why| self.wrong(why))?;
        match &self.kind {
            Kind::Directory => Ok(0),
            _ if self.path == b"." => Err(self.wrong("the data directory is no directory")),
            Kind::Symlink { target } => {
                if target.is_empty() || target.len() > PATH_MAX || target.contains(&0) {
                    return Err(self.wrong("a symlink's target is empty, too long or holds a NUL"));
                }
                Ok(0)
            }
            Kind::Hardlink { target } => {
                check_path(target)?;
                if target == b"." || compare_paths(target, &self.path) != Ordering::Less {
                    return Err(self.wrong("a hard link's target is no file that comes before it"));
                }
                Ok(0)
            }
            Kind::File(content) => self.check_content(content),
        }
    }

    fn check_content(&self, content: &Content) -> Result<u64> {
        let mut held = 0u64;
        for piece in &content.pieces {
            if let Piece::Data(at) = piece {
                at.check()?;
            }
            if piece.is_empty() {
                return Err(self.wrong("a piece is empty"));
            }
            held = held.checked_add(piece.len()).ok_or_else(|| self.wrong("pieces too long"))?;
        }
        if held > content.size || content.size > i64::MAX as u64 {
            return Err(self.wrong("the pieces do not add up to the size"));
        }
        if let Some(pages) = &content.pages {
            page::check_page_size(pages.page_size).map_err(|e| self.wrong(e.what()))?;
            for map in &pages.maps {
                map.check()?;
                if !(map.len as usize).is_multiple_of(page::ENTRY)
                    || map.len as usize > UNIT_PAGES * page::ENTRY
                    || map.len == 0
                {
                    return Err(self.wrong("a page map is too long, empty or cut off"));
                }
            }
        }
        Ok(held)
    }

    fn wrong(&self, why: &str) -> Error {
        Error::corrupt(format!("entry {:?}: {why}", String::from_utf8_lossy(&self.path)))
    }
}

/// `.`, or parts that are neither empty, `.`, `..`, too long, nor hold a NUL.
pub fn check_path(path: &[u8]) -> Result<()> {
    let fits = path == b"."
        || (path.len() < PATH_MAX
            && path.split(|b| *b == b'/').all(|part| {
                (1..=NAME_MAX).contains(&part.len()) && part != b"." && part != b".." && !part.contains(&0)
            }));
    if fits {
        return Ok(());
    }
    let shown: String = String::from_utf8_lossy(path).chars().take(120).collect();
    Err(Error::corrupt(format!("path {shown:?} is not inside the data directory")).with_hint(
        "this manifest was not written by palinurus, or by a broken one: nothing was written from it",
    ))
}

/// The order of entries: a directory before what it holds, names bytewise. `.` comes first.
pub fn compare_paths(a: &[u8], b: &[u8]) -> Ordering {
    match (a == b".", b == b".") {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => a.split(|c| *c == b'/').cmp(b.split(|c| *c == b'/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_climb_are_refused() {
        for bad in [
            &b""[..],
            b"/",
            b"/etc/passwd",
            b"..",
            b"a/..",
            b"../x",
            b"a//b",
            b"./a",
            b"a/",
            b"a\0b",
            &[b'a'; 256],
        ] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
        for good in [&b"."[..], b"a", b"a/b", b"...", b"\xff\xfe", &[b'a'; 255]] {
            check_path(good).unwrap();
        }
    }

    #[test]
    fn a_directory_comes_right_before_what_it_holds() {
        let mut paths: Vec<&[u8]> = vec![b"a.b", b"a/z", b"a", b"a/b/c", b"a/b", b".", b"b", b".hidden"];
        paths.sort_by(|a, b| compare_paths(a, b));
        assert_eq!(paths, [&b"."[..], b".hidden", b"a", b"a/b", b"a/b/c", b"a/z", b"a.b", b"b"]);
    }
}
