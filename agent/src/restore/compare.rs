//! Reads what was restored once more, and holds it against the manifest: nothing is fetched but that, nothing is written.
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use palinurus_repository::keys::FileHasher;
use palinurus_repository::manifest::entry::{Content, Entry, Kind, Piece};
use palinurus_repository::manifest::{Block, ManifestReader};
use palinurus_repository::pack::FRAME_MAX;
use palinurus_repository::page::{self, UNIT_PAGES};
use palinurus_repository::{Blocking, Error, Keys, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, readlinkat, statat};
use tokio_util::sync::CancellationToken;

use super::beneath::{Beneath, Places};
use super::fault::shown;
use crate::progress::Counters;

/// Kept of what differs; all is counted.
const TOLD: usize = 100;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Which names, and how each differs.
    pub(crate) different: Vec<String>,
    pub(crate) different_count: u64,
}

/// All that the manifest names, below `root`.
pub(crate) async fn compare(
    mut reader: ManifestReader,
    keys: Keys,
    root: &Path,
    blocking: Blocking,
    progress: &Arc<Counters>,
    cancel: &CancellationToken,
) -> Result<Compared> {
    let open = File::open(root).map_err(|e| Error::io(format!("open {}", root.display()), e))?;
    let beneath = Beneath::new(OwnedFd::from(open));
    let progress = Arc::clone(progress);
    let mut comparison = Comparison {
        beneath,
        keys,
        progress,
        cancel: cancel.clone(),
        open: None,
        compared: Compared::default(),
    };
    while let Some(block) = reader.next_block().await? {
        let step = move || comparison.block(&block).map(|()| comparison);
        comparison = blocking.run(step).await?;
    }
    Ok(comparison.compared)
}

struct Comparison {
    beneath: Beneath,
    keys: Keys,
    progress: Arc<Counters>,
    cancel: CancellationToken,
    /// The file that goes on in the next block.
    open: Option<Reading>,
    compared: Compared,
}

/// A file that has been found to be what it is so far, or how it differs.
struct Reading {
    found: Result<(File, FileHasher), String>,
    at: u64,
}

impl Comparison {
    fn block(&mut self, block: &Block) -> Result<()> {
        let mut places = Places::default();
        for (at, entry) in block.entries.iter().enumerate() {
            if self.cancel.is_cancelled() {
                return Err(Error::unavailable("the comparison was cancelled"));
            }
            let goes_on = block.continues && at + 1 == block.entries.len();
            let differs = match &entry.kind {
                Kind::File(content) => self.file(entry, content, goes_on),
                Kind::Directory => self.directory(entry),
                Kind::Symlink { target } => self.symlink(&mut places, entry, target),
                Kind::Hardlink { target } => self.hardlink(&mut places, entry, target),
            };
            if let Some(how) = differs {
                self.compared.different_count += 1;
                if self.compared.different.len() < TOLD {
                    self.compared.different.push(format!("{}: {how}", shown(&entry.path)));
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, entry: &Entry, content: &Content, goes_on: bool) -> Option<String> {
        let mut reading = self.open.take().unwrap_or_else(|| self.begin(entry, content));
        if content.pages.is_none()
            && let Ok((file, hasher)) = &mut reading.found
            && let Err(e) = pieces(&self.keys, file, hasher, &mut reading.at, &content.pieces)
        {
            reading.found = Err(e.to_string());
        }
        if goes_on {
            self.open = Some(reading);
            return None;
        }
        self.compared.files += 1;
        self.compared.bytes += content.size;
        Counters::add(&self.progress.bytes_read, content.size);
        match reading.found {
            Err(how) => Some(how),
            Ok((_, hasher)) if hasher.finish() == content.id => None,
            Ok(_) => Some("its bytes are not those of the backup".to_owned()),
        }
    }

    fn begin(&self, entry: &Entry, content: &Content) -> Reading {
        let found = || -> io::Result<Result<(File, FileHasher), String>> {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK;
            let file = File::from(self.beneath.open(&entry.path, flags, Mode::empty())?);
            let stat = fstat(&file)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Ok(Err("it is no regular file".to_owned()));
            }
            if stat.st_size as u64 != content.size {
                return Ok(Err(format!("it has {} bytes, in the backup {}", stat.st_size, content.size)));
            }
            let mut hasher = FileHasher::new(&self.keys, content.size);
            if let Some(pages) = &content.pages {
                maps(&self.keys, &file, &mut hasher, content.size, pages.page_size)?;
            }
            Ok(Ok((file, hasher)))
        };
        Reading { found: found().unwrap_or_else(|e| Err(e.to_string())), at: 0 }
    }

    fn directory(&self, entry: &Entry) -> Option<String> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        self.beneath.open(&entry.path, flags, Mode::empty()).err().map(|e| e.to_string())
    }

    fn symlink(&self, places: &mut Places, entry: &Entry, target: &[u8]) -> Option<String> {
        let mut read = || -> io::Result<bool> {
            let (dir, name) = places.find(&self.beneath, &entry.path)?;
            Ok(readlinkat(dir, name, Vec::new())?.as_bytes() == target)
        };
        differs(read(), "it leads elsewhere")
    }

    fn hardlink(&self, places: &mut Places, entry: &Entry, target: &[u8]) -> Option<String> {
        let mut look = || -> io::Result<bool> {
            let mut others = Places::default();
            let (dir, name) = others.find(&self.beneath, target)?;
            let one = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let (dir, name) = places.find(&self.beneath, &entry.path)?;
            let other = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
        };
        differs(look(), "it is no other name of the same file")
    }
}

fn differs(same: io::Result<bool>, how: &str) -> Option<String> {
    match same {
        Ok(true) => None,
        Ok(false) => Some(how.to_owned()),
        Err(e) => Some(e.to_string()),
    }
}

/// Holes are read, too: what should be zeros must be.
fn pieces(
    keys: &Keys,
    file: &File,
    hasher: &mut FileHasher,
    at: &mut u64,
    pieces: &[Piece],
) -> io::Result<()> {
    let mut buffer = vec![0; FRAME_MAX];
    for piece in pieces {
        let end = *at + piece.len();
        match piece {
            Piece::Data(chunk) => {
                let bytes = buffer.get_mut(..chunk.len as usize).ok_or(io::ErrorKind::InvalidData)?;
                file.read_exact_at(bytes, *at)?;
                hasher.push(&keys.chunk_id(bytes));
            }
            Piece::Hole(_) if !super::delta::is_zero(file, *at..end, &mut buffer)? => {
                return Err(io::Error::other("it has bytes where the backup has a hole"));
            }
            Piece::Hole(_) => {}
        }
        *at = end;
    }
    Ok(())
}

/// The page maps that the bytes make, in order.
fn maps(keys: &Keys, file: &File, hasher: &mut FileHasher, size: u64, page_size: u32) -> io::Result<()> {
    let page_size = page_size.max(1) as usize;
    let mut page = vec![0; page_size];
    let (mut map, mut at) = (Vec::with_capacity(UNIT_PAGES * page::ENTRY), 0);
    while at < size {
        let len = (size - at).min(page_size as u64);
        let bytes = &mut page[..len as usize];
        file.read_exact_at(bytes, at)?;
        map.extend_from_slice(&page::entry(keys, bytes));
        at += len;
        if map.len() == UNIT_PAGES * page::ENTRY || at == size {
            hasher.push(&keys.chunk_id(&map));
            map.clear();
        }
    }
    Ok(())
}
