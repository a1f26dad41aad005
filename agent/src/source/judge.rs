//! What an engine has to say while its files are read.
use std::fmt;
use std::fs::File;
use std::io;

use palinurus_repository::Result;

use super::SourceEntry;

/// Asked from many threads at once. An error ends the run: so does an engine whose hold on the data is lost.
pub trait Judge: fmt::Debug + Send + Sync {
    /// Looks at bytes that were read at `offset` of the file, and may read them again in place. What it returns
    /// becomes warnings: the bytes are kept as they are.
    fn bytes(&self, entry: &SourceEntry, file: &File, offset: u64, bytes: &mut [u8]) -> Result<Vec<String>>;

    /// Of a file that could not be read and is left out: the warning, or nothing where it is no loss.
    fn unread(&self, entry: &SourceEntry, error: &io::Error) -> Result<Option<String>>;
}

/// What a warning says of a file that could not be read.
pub(crate) fn why_unread(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "vanished before it was read".into(),
        _ => format!("cannot be read: {error}"),
    }
}
