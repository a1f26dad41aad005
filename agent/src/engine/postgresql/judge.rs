//! Looks at every page of a relation as it is read, and at whether the backup still stands.
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use palinurus_repository::{Error, Result};

use super::broken::Broken;
use super::lsn::Lsn;
use super::names::relation;
use super::page::{Mismatch, check};
use crate::source::{Judge, SourceEntry};

#[derive(Debug)]
pub(super) struct Reading {
    pub(super) broken: Arc<Broken>,
    /// None where the cluster has no checksums.
    pub(super) pages: Option<Pages>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Pages {
    pub(super) size: u32,
    /// In one file of a relation.
    pub(super) in_a_file: u32,
    /// Where the backup began: what was written later is in the WAL.
    pub(super) start: Lsn,
}

impl Judge for Reading {
    fn bytes(&self, entry: &SourceEntry, file: &File, offset: u64, bytes: &mut [u8]) -> Result<Vec<String>> {
        self.broken.check()?;
        match (self.pages, relation(&entry.path)) {
            (Some(pages), Some(relation)) => Ok(pages.check(relation.segment, file, offset, bytes)),
            _ => Ok(Vec::new()),
        }
    }

    /// A relation that was dropped is no loss: the WAL says so too. Anything else must not be missing unnoticed.
    fn unread(&self, entry: &SourceEntry, error: &io::Error) -> Result<Option<String>> {
        self.broken.check()?;
        if error.kind() == io::ErrorKind::NotFound {
            return Ok(None);
        }
        let path = String::from_utf8_lossy(&entry.path);
        Err(Error::corrupt(format!("{path} cannot be read: a backup without it would be none"))
            .with_source(error.to_string())
            .with_hint("see the kernel's log for errors of the disk, and the file's owner and mode"))
    }
}

impl Pages {
    fn check(&self, segment: u32, file: &File, offset: u64, bytes: &mut [u8]) -> Vec<String> {
        let size = self.size as usize;
        let first = (offset / u64::from(self.size)) as u32;
        let mut notes = Vec::new();
        for (index, page) in bytes.chunks_exact_mut(size).enumerate() {
            let in_file = first + index as u32;
            let block = segment.wrapping_mul(self.in_a_file).wrapping_add(in_file);
            if check(page, block, self.start).is_ok() {
                continue;
            }
            if let Some(Mismatch { stored, computed }) = self.again(file, u64::from(in_file), page, block) {
                notes.push(format!(
                    "page {block} is damaged on the server's disk: its checksum is {stored:04x} and should be {computed:04x}; kept as it is"
                ));
            }
        }
        notes
    }

    /// A page that the server was just writing is another one now, and in the WAL.
    fn again(&self, file: &File, in_file: u64, page: &mut [u8], block: u32) -> Option<Mismatch> {
        let mut later = vec![0; page.len()];
        // Cut off meanwhile: the WAL knows.
        file.read_exact_at(&mut later, in_file * u64::from(self.size)).ok()?;
        let changed = later != *page;
        page.copy_from_slice(&later);
        check(page, block, self.start).err().filter(|_| !changed)
    }
}

/// Where no backup is held any more, nothing may be read: it would be of another moment.
#[derive(Debug)]
pub(super) struct Over;

impl Over {
    pub(super) fn error() -> Error {
        Error::conflict("the session that held this backup in PostgreSQL is over").with_hint(
            "the agent was restarted, or lost the server, before all was read: start the backup again",
        )
    }
}

impl Judge for Over {
    fn bytes(&self, _: &SourceEntry, _: &File, _: u64, _: &mut [u8]) -> Result<Vec<String>> {
        Err(Self::error())
    }

    fn unread(&self, _: &SourceEntry, _: &io::Error) -> Result<Option<String>> {
        Err(Self::error())
    }
}

#[cfg(test)]
mod tests {
    use super::super::page::checksum;
    use super::*;

    fn page(block: u32) -> Vec<u8> {
        let mut page = vec![3; 8192];
        page[..8].copy_from_slice(&[0, 0, 0, 0, 9, 0, 0, 0]);
        let sum = checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn a_damaged_page_is_told_and_a_torn_read_mended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1");
        // The second gigabyte of a relation, from its third page on.
        let blocks = [131_074, 131_075, 131_076];
        let mut data = vec![0; 2 * 8192];
        blocks.iter().for_each(|block| data.extend(page(*block)));
        data[4 * 8192 + 100] ^= 1;
        std::fs::write(&path, &data).unwrap();
        let file = File::open(&path).unwrap();
        let pages = Pages { size: 8192, in_a_file: 131_072, start: Lsn(10) };
        let mut read = data[2 * 8192..].to_vec();
        // Torn while it was read: the disk has it whole.
        read[8192 + 50] ^= 1;
        let notes = pages.check(1, &file, 2 * 8192, &mut read);
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].starts_with("page 131076 is damaged"), "{notes:?}");
        assert_eq!(read, data[2 * 8192..]);
    }
}
