//! Disks whose objects lie in a store such as S3: the texts that name them are on this machine (see [`objects`]), and the
//! objects are read where they lie, some megabytes at a time. Nothing is written there, and nothing removed: they are the server's.
//!
//! An object's name is given once and never again, so it stands for its content: a file whose objects have the names of
//! the last backup's is not read.
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use palinurus_repository::storage::{ReadOnly, check_key, open_with};
use palinurus_repository::{Clock, Entropy, Error, ErrorKind, Result, Storage};
use tokio::runtime::Handle;

use super::config::Config;
use super::frozen::{Record, Stored};
use super::list::{disk_path, parts};
use super::objects;
use crate::source::judge::why_unread;
use crate::source::{Judge, ReadAt, Remote, SourceEntry, SourceKind};

/// What is asked of a store at a time, for each thread that reads.
const WINDOW: u64 = 8 << 20;
/// Small objects on their way at once.
const AT_ONCE: usize = 16;
/// How many rows a part says it has.
const COUNT_MAX: u64 = 64;

/// Those that the settings name, each by its disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Stores(BTreeMap<String, Store>);

#[derive(Clone, Debug)]
struct Store {
    storage: Arc<dyn Storage>,
    /// Within the bucket: empty, or ends in `/`. The texts have whole names.
    prefix: String,
}

/// The objects of a file, in their order, and their bytes.
type Objects = Vec<(u64, String)>;

impl Stores {
    /// Nothing is asked of them yet.
    pub(super) fn open(config: &Config, clock: &Arc<dyn Clock>, entropy: &Arc<dyn Entropy>) -> Result<Self> {
        let open = |(disk, store): (&String, &super::config::Objects)| {
            let storage = open_with(&store.url, clock.clone(), entropy.clone())
                .map_err(|e| e.with_note(format!("engine.objects.{disk}.url")))?;
            let storage: Arc<dyn Storage> = Arc::new(ReadOnly::new(storage));
            Ok((disk.clone(), Store { storage, prefix: prefix(&store.url) }))
        };
        config.objects.iter().map(open).collect::<Result<_>>().map(Self)
    }

    fn of(&self, disk: &str) -> Result<&Store> {
        self.0.get(disk).ok_or_else(|| {
            Error::invalid(format!("the settings name no store for disk {disk}, which has frozen objects"))
                .with_hint(format!("put engine.objects.{disk}.url back, and start the agent again"))
        })
    }

    /// The parts in a frozen table's directory on that disk, the rows that each says it has, and its bytes. Blocks, on a thread of a
    /// runtime's.
    pub(super) fn measured(&self, disk: &str, directory: &Path) -> Result<Vec<(String, Option<u64>, u64)>> {
        let store = self.of(disk)?;
        let mut found = Vec::new();
        for part in parts(directory)? {
            let path = directory.join(&part);
            let bytes = size(&path)?;
            let count = path.join("count.txt");
            let count = if count.exists() { Some(store.objects(&count)?) } else { None };
            found.push((part, count, bytes));
        }
        let read = stream::iter(found).map(|(part, count, bytes)| async move {
            let rows = match count {
                Some(objects) if total(&objects) <= COUNT_MAX => {
                    let text = store.bytes(&objects, 0..total(&objects)).await?;
                    str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok())
                }
                _ => None,
            };
            Ok((part, rows, bytes))
        });
        Handle::current().block_on(read.buffer_unordered(AT_ONCE).try_collect())
    }

    /// What the walk found of such a disk is a text: the file that it stands for. Blocks.
    pub(super) fn entry(&self, disk: &str, text: &Path, mut entry: SourceEntry) -> Result<SourceEntry> {
        let SourceKind::File { size, .. } = &mut entry.kind else { return Ok(entry) };
        let objects = self.of(disk)?.objects(text)?;
        *size = total(&objects);
        let mut names = blake3::Hasher::new();
        for (bytes, name) in &objects {
            names.update(&bytes.to_le_bytes()).update(name.as_bytes()).update(b"\n");
        }
        let mut inode = [0; 8];
        names.finalize_xof().fill(&mut inode);
        // The server writes a text anew whenever its objects get another name or lose one.
        (entry.meta.device, entry.meta.inode) = (0, u64::from_le_bytes(inode));
        (entry.meta.mtime_seconds, entry.meta.mtime_nanos) = (0, 0);
        Ok(entry)
    }

    /// For reading what `entry` listed. Called on a thread of a runtime's.
    pub(super) fn reader(&self, record: &Record) -> Result<Arc<Reader>> {
        let disk = |stored: &Stored| {
            let prefix = [disk_path(&stored.name).as_slice(), b"/"].concat();
            Ok((prefix, record.shadow(&stored.path), self.of(&stored.store)?.clone()))
        };
        let disks = record.stores.iter().map(disk).collect::<Result<_>>()?;
        let runtime = Handle::try_current().map_err(|e| Error::internal("no runtime").with_source(e))?;
        Ok(Arc::new(Reader { disks, runtime, ahead: Mutex::default(), failed: Arc::default() }))
    }
}

impl Store {
    /// Blocks.
    fn objects(&self, text: &Path) -> Result<Objects> {
        let own = |(bytes, name): (u64, String)| {
            let key = name.strip_prefix(&self.prefix).filter(|key| check_key(key).is_ok());
            let key = key.map(|key| (bytes, key.to_owned()));
            key.ok_or_else(|| {
                Error::invalid(format!("{} names the object {name}, which is not below the disk's url", text.display()))
                    .with_hint(format!("the settings say that its objects begin with {:?}: see the disk's endpoint in the server's configuration", self.prefix))
            })
        };
        objects::read(text)?.into_iter().map(own).collect()
    }

    async fn bytes(&self, objects: &Objects, range: Range<u64>) -> Result<Bytes> {
        let (mut found, mut begin) = (Vec::new(), 0);
        for (bytes, key) in objects {
            let (from, to) = (range.start.max(begin), range.end.min(begin + bytes));
            if from < to {
                let got = self.storage.get(key, Some(from - begin..to - begin)).await;
                found.push(got.map_err(|e| match e.kind() {
                    ErrorKind::NotFound => e.with_hint(
                        "the disk's url must name the bucket where the server has its objects; one that is gone there is lost to the server too",
                    ),
                    _ => e,
                })?);
            }
            begin += bytes;
        }
        Ok(if found.len() == 1 { found.remove(0) } else { found.concat().into() })
    }
}

fn total(objects: &Objects) -> u64 {
    objects.iter().map(|(bytes, _)| bytes).sum()
}

/// What the files of a part have together. Blocks.
fn size(part: &Path) -> Result<u64> {
    let failed = |e| Error::io(format!("look at part {}", part.display()), e);
    part.read_dir().map_err(failed)?.try_fold(0, |sum, entry| {
        let path = entry.map_err(failed)?.path();
        let bytes = match path.is_dir() {
            true => size(&path)?,
            false => objects::read(&path)?.iter().map(|(bytes, _)| bytes).sum(),
        };
        Ok(sum + bytes)
    })
}

/// Where the objects of a URL's begin, within their bucket.
fn prefix(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let place = rest.split('?').next().unwrap_or_default();
    match place.split_once('/').map(|(_, prefix)| prefix.trim_end_matches('/')) {
        Some(prefix) if scheme != "file" && !prefix.is_empty() => format!("{prefix}/"),
        _ => String::new(),
    }
}

/// Reads what is frozen on all such disks.
#[derive(Debug)]
pub(super) struct Reader {
    /// How the names of their files begin in the list, where their texts lie, and where their objects.
    disks: Vec<(Vec<u8>, PathBuf, Store)>,
    runtime: Handle,
    /// By their names in the list: read before they are asked for.
    ahead: Mutex<HashMap<Vec<u8>, Bytes>>,
    failed: Arc<Failed>,
}

/// Why a file could not be read, by its name in the list: several threads read, and each asks for its own.
type Failed = Mutex<HashMap<Vec<u8>, Error>>;

impl Reader {
    fn find(&self, entry: &SourceEntry) -> Result<Option<(&Store, Objects)>> {
        let found = self.disks.iter().find(|(prefix, ..)| entry.path.starts_with(prefix));
        let Some((prefix, shadow, store)) = found else { return Ok(None) };
        use std::os::unix::ffi::OsStrExt;
        let text = shadow.join(std::ffi::OsStr::from_bytes(&entry.path[prefix.len()..]));
        Ok(Some((store, store.objects(&text)?)))
    }
}

impl Remote for Reader {
    fn open(&self, entry: &SourceEntry) -> io::Result<Option<Box<dyn ReadAt>>> {
        if let Some(bytes) = lock(&self.ahead).remove(&entry.path) {
            return Ok(Some(Box::new(Ahead(bytes))));
        }
        let found = self.find(entry).map_err(|e| noted(&self.failed, &entry.path, e))?;
        Ok(found.map(|(store, objects)| -> Box<dyn ReadAt> {
            let (size, windows, failed) = (total(&objects), Mutex::default(), self.failed.clone());
            let (path, store, runtime) = (entry.path.clone(), store.clone(), self.runtime.clone());
            Box::new(StoredFile { path, store, objects, size, windows, runtime, failed })
        }))
    }

    fn ahead(&self, entries: &mut dyn Iterator<Item = &SourceEntry>) {
        // One that cannot be read is tried again when it is opened, and then told.
        let found = entries.filter_map(|entry| Some((&entry.path, self.find(entry).ok()??)));
        let found: Vec<_> = found.filter(|(_, (_, objects))| total(objects) <= WINDOW).collect();
        let read = stream::iter(found).map(|(path, (store, objects))| async move {
            Some((path.clone(), store.bytes(&objects, 0..total(&objects)).await.ok()?))
        });
        let read: Vec<_> = self.runtime.block_on(read.buffer_unordered(AT_ONCE).collect());
        lock(&self.ahead).extend(read.into_iter().flatten());
    }
}

/// Without one of its files a part is none.
impl Judge for Reader {
    fn bytes(&self, _: &SourceEntry, _: &fs::File, _: u64, _: &mut [u8]) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn unread(&self, entry: &SourceEntry, error: &io::Error) -> Result<Option<String>> {
        if !self.disks.iter().any(|(prefix, ..)| entry.path.starts_with(prefix)) {
            return Ok(Some(why_unread(error)));
        }
        let path = String::from_utf8_lossy(&entry.path);
        let why = lock(&self.failed).remove(&entry.path);
        let why = why.unwrap_or_else(|| {
            Error::unavailable("its objects cannot be read").with_source(error.to_string())
        });
        Err(why.with_note(format!("objects of {path}")))
    }
}

#[derive(Debug)]
struct StoredFile {
    path: Vec<u8>,
    store: Store,
    objects: Objects,
    size: u64,
    /// Read and not yet asked for, by number: each is one thread's.
    windows: Mutex<HashMap<u64, Bytes>>,
    runtime: Handle,
    failed: Arc<Failed>,
}

impl ReadAt for StoredFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        if at >= self.size || buffer.is_empty() {
            return Ok(0);
        }
        let number = at / WINDOW;
        let begin = number * WINDOW;
        let known = lock(&self.windows).remove(&number);
        let window = match known {
            Some(window) => window,
            None => {
                let range = begin..(begin + WINDOW).min(self.size);
                let read = self.runtime.block_on(self.store.bytes(&self.objects, range));
                read.map_err(|e| noted(&self.failed, &self.path, e))?
            }
        };
        let rest = window.get((at - begin) as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        if len < rest.len() {
            lock(&self.windows).insert(number, window);
        }
        Ok(len)
    }
}

#[derive(Debug)]
struct Ahead(Bytes);

impl ReadAt for Ahead {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let rest = usize::try_from(at).ok().and_then(|at| self.0.get(at..)).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

fn noted(failed: &Failed, path: &[u8], error: Error) -> io::Error {
    let told = io::Error::other(error.chain());
    lock(failed).insert(path.to_vec(), error);
    told
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
