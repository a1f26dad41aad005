//! What the snapshot found, handed from the walk to the pipeline: a list on disk, read as a stream.
//!
//! ```text
//! walk := magic  entry*  warning*  offset*  trailer  trailer length (u32)  magic
//! ```
//! `offset` is where each 1024th entry begins. Entries, warnings and trailer are protobuf, the first two behind
//! their lengths. The list is renamed into place when whole: a list that is there is complete.
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use palinurus_repository::chunk::SMALL;
use palinurus_repository::manifest::entry::Meta;
use palinurus_repository::{Error, Result, Timestamp};
use prost::Message;

use crate::warning::{Warning, Warnings};

pub(crate) mod judge;
mod largest;
mod remote;
mod tree;
pub(crate) mod wire;

pub use judge::Judge;
use largest::Largest;
pub(crate) use remote::Readable;
pub use remote::{ReadAt, Remote};
pub use tree::Tree;
pub(crate) use tree::{link_name, open_root, resolve_beneath};

const MAGIC: [u8; 8] = *b"PLNWALK1";
const STRIDE: u64 = 1024;
/// A record is a path, a target and the extended attributes; the kernel bounds each of them far below this.
const RECORD_MAX: u64 = 64 << 20;

/// One name below the data directory, in the order of `compare_paths`. `b"."` is the directory itself and first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceEntry {
    pub path: Vec<u8>,
    pub meta: Meta,
    pub kind: SourceKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceKind {
    Directory,
    Symlink {
        target: Vec<u8>,
    },
    /// Another name of the file at `target`, which comes earlier in the list.
    Hardlink {
        target: Vec<u8>,
    },
    File {
        /// When it was listed. Of an append-only file these bytes are the backup, whatever came later.
        size: u64,
        class: Class,
        /// The snapshot holds a hard link of it, to be read instead of the name in the data directory. False of
        /// an immutable or append-only file means that it could not be linked: it may vanish or be replaced.
        snapshot: bool,
        nlink: u32,
    },
}

/// What the engine knows of how a file changes: how to read it consistently and where to cut it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Never changed once it is there: fixed extents.
    Immutable,
    /// Grows at its end only: the bytes up to the listed size, fixed extents.
    AppendOnly,
    /// May change anywhere, at any time: whether it did is checked after reading; cut by content from 1 MiB on.
    Mutable,
    /// As mutable, and always cut by content: dumps and archives, whose bytes shift.
    Opaque,
    /// Pages written in place: compared page by page with the last backup.
    Paged(u32),
    /// Pages that the engine's log makes whole again, whatever is written to them, or cut off, while they are read.
    /// As paged from [`SMALL`](palinurus_repository::chunk::SMALL) on, and never read twice.
    Logged(u32),
}

impl Class {
    /// Of a file of this size, where it is compared page by page.
    pub(crate) fn page_size(self, size: u64) -> Option<u32> {
        match self {
            Class::Paged(page_size) if size > 0 => Some(page_size),
            Class::Logged(page_size) if size >= SMALL => Some(page_size),
            _ => None,
        }
    }
}

/// What the trailer says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub entries: u64,
    /// Files with content of their own, hard links' other names not counted.
    pub files: u64,
    pub bytes: u64,
    pub scan_started: Timestamp,
}

#[derive(Debug)]
pub struct SourceListWriter {
    path: PathBuf,
    partial: PathBuf,
    out: BufWriter<File>,
    at: u64,
    offsets: Vec<u64>,
    totals: Totals,
    largest: Largest,
    record: Vec<u8>,
}

impl SourceListWriter {
    /// Begins a list that will be at `path` once finished; what an interrupted attempt left there is replaced.
    pub fn create(path: &Path, scan_started: Timestamp) -> Result<Self> {
        let partial = path.with_extension("partial");
        let file = File::create(&partial).map_err(|e| io_error("create", &partial, e))?;
        let mut writer = Self {
            path: path.to_owned(),
            partial,
            out: BufWriter::with_capacity(1 << 20, file),
            at: 0,
            offsets: Vec::new(),
            totals: Totals { scan_started, ..Totals::default() },
            largest: Largest::default(),
            record: Vec::new(),
        };
        writer.write(&MAGIC)?;
        Ok(writer)
    }

    pub fn push(&mut self, entry: &SourceEntry) -> Result<()> {
        if self.totals.entries.is_multiple_of(STRIDE) {
            self.offsets.push(self.at);
        }
        self.totals.entries += 1;
        if let SourceKind::File { size, .. } = entry.kind {
            self.totals.files += 1;
            self.totals.bytes = self.totals.bytes.saturating_add(size);
            self.largest.push(size, &entry.path);
        }
        self.write_record(&wire::Entry::from(entry))
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Makes the list durable and whole.
    pub fn finish(mut self, warnings: &Warnings) -> Result<Totals> {
        let warnings_at = self.at;
        for warning in warnings.kept() {
            self.write_record(&wire::Warning {
                path: warning.path.clone(),
                message: warning.message.clone(),
            })?;
        }
        let index_at = self.at;
        for offset in std::mem::take(&mut self.offsets) {
            self.write(&offset.to_le_bytes())?;
        }
        let trailer = wire::Trailer {
            entries: self.totals.entries,
            files: self.totals.files,
            bytes: self.totals.bytes,
            scan_started_ms: self.totals.scan_started.0,
            warnings_at,
            warnings_kept: warnings.kept().len() as u64,
            warnings_count: warnings.count(),
            index_at,
            largest: self.largest.paths(),
        }
        .encode_to_vec();
        self.write(&trailer)?;
        self.write(&u32::try_from(trailer.len()).unwrap_or(u32::MAX).to_le_bytes())?;
        self.write(&MAGIC)?;
        let Self { path, partial, out, totals, .. } = self;
        let file = out.into_inner().map_err(|e| io_error("write", &partial, e.into_error()))?;
        file.sync_all().map_err(|e| io_error("fsync", &partial, e))?;
        std::fs::rename(&partial, &path).map_err(|e| io_error("rename", &partial, e))?;
        crate::durable::sync_parent(&path)?;
        Ok(totals)
    }

    fn write_record(&mut self, record: &impl Message) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.record);
        buffer.clear();
        let written = match record.encode_length_delimited(&mut buffer) {
            Ok(()) => self.write(&buffer),
            Err(error) => Err(Error::internal("encode a source entry").with_source(error)),
        };
        self.record = buffer;
        written
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|e| io_error("write", &self.partial, e))
    }
}

/// Streams a finished list. Each thread opens its own.
#[derive(Debug)]
pub struct SourceListReader {
    path: PathBuf,
    file: BufReader<File>,
    trailer: wire::Trailer,
    /// The number of the entry that comes next.
    next: u64,
    record: Vec<u8>,
}

impl SourceListReader {
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| io_error("open", path, e))?;
        let trailer = read_trailer(&mut file).map_err(|e| {
            Error::corrupt(format!("source list {} has no valid end", path.display())).with_source(e)
        })?;
        let file = BufReader::with_capacity(256 << 10, file);
        let mut reader = Self { path: path.to_owned(), file, trailer, next: 0, record: Vec::new() };
        reader.seek_to_entry(0)?;
        Ok(reader)
    }

    /// Entries in the list.
    pub fn len(&self) -> u64 {
        self.trailer.entries
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn scan_started(&self) -> Timestamp {
        Timestamp(self.trailer.scan_started_ms)
    }

    pub fn totals(&self) -> Totals {
        Totals {
            entries: self.trailer.entries,
            files: self.trailer.files,
            bytes: self.trailer.bytes,
            scan_started: self.scan_started(),
        }
    }

    /// Paths of a few of the largest files, the largest first.
    pub fn largest(&self) -> Vec<Vec<u8>> {
        self.trailer.largest.clone()
    }

    /// The number of the entry that `next_entry` reads.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// The walk's warnings, which belong into the manifest.
    pub fn warnings(&self) -> Result<Warnings> {
        let mut other = Self::open(&self.path)?;
        other.seek(other.trailer.warnings_at)?;
        let mut kept = Vec::new();
        for _ in 0..other.trailer.warnings_kept {
            let warning: wire::Warning = other.read_record()?;
            kept.push(Warning { path: warning.path, message: warning.message });
        }
        Ok(Warnings::from_parts(kept, other.trailer.warnings_count))
    }

    /// Continues at entry `k`; at the end when there are not so many.
    pub fn seek_to_entry(&mut self, k: u64) -> Result<()> {
        let k = k.min(self.len());
        if k == self.len() {
            self.next = k;
            return Ok(());
        }
        self.seek(self.trailer.index_at + 8 * (k / STRIDE))?;
        let mut offset = [0; 8];
        self.read_exact(&mut offset)?;
        self.seek(u64::from_le_bytes(offset))?;
        self.next = k - k % STRIDE;
        while self.next < k {
            let len = self.read_length()?;
            self.file.seek_relative(len as i64).map_err(|e| io_error("read", &self.path, e))?;
            self.next += 1;
        }
        Ok(())
    }

    pub fn next_entry(&mut self) -> Result<Option<SourceEntry>> {
        if self.next == self.len() {
            return Ok(None);
        }
        let entry: wire::Entry = self.read_record()?;
        self.next += 1;
        entry.try_into().map(Some)
    }

    fn read_record<M: Message + Default>(&mut self) -> Result<M> {
        let len = self.read_length()?;
        let mut record = std::mem::take(&mut self.record);
        record.resize(len as usize, 0);
        let read = self.read_exact(&mut record);
        let decoded =
            read.and_then(|()| M::decode(record.as_slice()).map_err(|e| self.corrupt().with_source(e)));
        self.record = record;
        decoded
    }

    fn read_length(&mut self) -> Result<u64> {
        let mut len = 0u64;
        for shift in (0..35).step_by(7) {
            let mut byte = [0];
            self.read_exact(&mut byte)?;
            len |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return if len <= RECORD_MAX { Ok(len) } else { Err(self.corrupt()) };
            }
        }
        Err(self.corrupt())
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact(bytes).map_err(|e| io_error("read", &self.path, e))
    }

    fn seek(&mut self, to: u64) -> Result<()> {
        self.file.seek(SeekFrom::Start(to)).map_err(|e| io_error("seek", &self.path, e))?;
        Ok(())
    }

    fn corrupt(&self) -> Error {
        Error::corrupt(format!("source list {} is damaged at entry {}", self.path.display(), self.next))
            .with_hint("start the backup again")
    }
}

impl Iterator for SourceListReader {
    type Item = Result<SourceEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().transpose()
    }
}

fn read_trailer(file: &mut File) -> io::Result<wire::Trailer> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    let size = file.metadata()?.len();
    let end_at = size.checked_sub(12).ok_or_else(wrong)?;
    file.seek(SeekFrom::Start(end_at))?;
    let mut end = [0; 12];
    file.read_exact(&mut end)?;
    if end[4..] != MAGIC {
        return Err(wrong());
    }
    let len = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    let at = end_at.checked_sub(len).ok_or_else(wrong)?;
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = vec![0; len as usize];
    file.read_exact(&mut bytes)?;
    let trailer = wire::Trailer::decode(bytes.as_slice())?;
    let offsets = trailer.entries.div_ceil(STRIDE).checked_mul(8);
    if offsets.and_then(|len| trailer.index_at.checked_add(len)) != Some(at) {
        return Err(wrong());
    }
    Ok(trailer)
}

fn io_error(deed: &str, path: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Error::corrupt(format!("source list {} is cut short", path.display()));
    }
    Error::io(format!("{deed} {}", path.display()), error)
}

#[cfg(test)]
mod tests;
