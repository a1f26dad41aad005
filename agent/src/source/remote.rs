//! Files of which this machine has no more than a name.
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::SourceEntry;

/// Knows where such files lie.
pub trait Remote: fmt::Debug + Send + Sync {
    /// None: this one is no such file.
    fn open(&self, entry: &SourceEntry) -> io::Result<Option<Box<dyn ReadAt>>>;

    /// Small files that are going to be opened by whoever asks: they may be read at once. Keeps it waiting.
    fn ahead(&self, entries: &mut dyn Iterator<Item = &SourceEntry>);
}

/// Asked from many threads at once, and keeps them waiting. Gives less than was asked for at the end, and where it likes.
pub trait ReadAt: fmt::Debug + Send + Sync {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;

    /// None: it lies elsewhere.
    fn here(&self) -> Option<&File> {
        None
    }
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, at)
    }

    fn here(&self) -> Option<&File> {
        Some(self)
    }
}

/// A listed file, open.
#[derive(Debug)]
pub(crate) enum Readable {
    Here(File),
    Remote(Box<dyn ReadAt>),
}

impl Readable {
    pub(crate) fn file(&self) -> io::Result<&File> {
        match self {
            Self::Here(file) => Ok(file),
            Self::Remote(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "it lies elsewhere")),
        }
    }
}

impl ReadAt for Readable {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        match self {
            Self::Here(file) => ReadAt::read_at(file, buffer, at),
            Self::Remote(remote) => remote.read_at(buffer, at),
        }
    }

    fn here(&self) -> Option<&File> {
        self.file().ok()
    }
}
