//! Objects as files below one directory.
//!
//! An object comes to be in four steps: written to `tmp/`, synced, hard-linked to its name, directory synced. The
//! link is what makes creation exclusive, also over NFS; a crash leaves at most a file in `tmp/`. Its writer holds
//! a lock on that file, which dies with the writer: a file there that can be locked belongs to nobody.
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind as Io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::buffer::spare_capacity;

use self::direct::Bounce;
use self::directories::Directories;
use super::{Object, Storage, check_key, check_prefix, ends_early};
use crate::entropy::{Entropy, SystemEntropy};
use crate::error::{Error, Result};

mod direct;
mod directories;

/// Where files lie that are not objects yet; no object's name begins so.
pub(super) const TEMPORARY: &str = "tmp";
#[derive(Clone)]
pub struct LocalStorage(Arc<Inner>);

struct Inner {
    root: PathBuf,
    /// Makes the names of our temporary files our own.
    mark: String,
    temporaries: AtomicU64,
    tidied: AtomicBool,
    directories: Directories,
    bounce: Bounce,
}

impl fmt::Debug for LocalStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file://{}", self.0.root.display()) // messages name the store
    }
}

impl LocalStorage {
    /// `path` is what follows `file:` in a URL, or a plain absolute path. Nothing is created before the first put.
    pub fn open(path: &str) -> Result<Self> {
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') {
            return Err(Error::invalid(format!("repository path {path:?} is not absolute"))
                .with_hint("use file:///absolute/path"));
        }
        Self::at(Path::new(path))
    }

    pub fn at(root: &Path) -> Result<Self> {
        let random: [u8; 8] = (&SystemEntropy::new() as &dyn Entropy).array()?;
        let mark = format!("{}-{:016x}", std::process::id(), u64::from_le_bytes(random));
        Ok(Self(Arc::new(Inner {
            root: root.to_owned(),
            mark,
            temporaries: AtomicU64::new(0),
            tidied: AtomicBool::new(false),
            directories: Directories::default(),
            bounce: Bounce::default(),
        })))
    }

    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Files block: they are never touched on the runtime's own threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.0.clone();
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .map_err(|e| Error::internal("a file operation was lost").with_source(e))?
    }
}

#[async_trait]
impl Storage for LocalStorage {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        check_key(key)?;
        let key = key.to_owned();
        self.blocking(move |inner| inner.put(&key, &body, true)).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        check_key(key)?;
        let key = key.to_owned();
        self.blocking(move |inner| inner.put(&key, &body, false)).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        check_key(key)?;
        let key = key.to_owned();
        self.blocking(move |inner| inner.get(&key, range)).await
    }

    async fn size(&self, key: &str) -> Result<u64> {
        check_key(key)?;
        let key = key.to_owned();
        self.blocking(move |inner| {
            let found =
                fs::symlink_metadata(inner.root.join(&key)).map_err(|e| inner.failed("look at", &key, e))?;
            if found.is_file() { Ok(found.len()) } else { Err(inner.absent(&key)) }
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        check_prefix(prefix)?;
        let (prefix, after) = (prefix.to_owned(), after.unwrap_or_default().to_owned());
        self.blocking(move |inner| {
            let mut found = Vec::new();
            let directory = prefix.rfind('/').map_or("", |slash| &prefix[..=slash]);
            inner.list(directory, &prefix, &after, limit, &mut found)?;
            Ok(found)
        })
        .await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        keys.iter().try_for_each(|key| check_key(key))?;
        let keys = keys.to_vec();
        self.blocking(move |inner| keys.iter().try_for_each(|key| inner.delete(key))).await
    }

    async fn tidy(&self) -> Result<u64> {
        self.blocking(Inner::tidy).await
    }
}

impl Inner {
    fn put(&self, key: &str, body: &[u8], new: bool) -> Result<()> {
        let target = self.root.join(key);
        if new && fs::symlink_metadata(&target).is_ok() {
            return Err(self.exists(key)); // spares the loser of a race over a large object most of the work
        }
        let directory = target.parent().unwrap_or(&self.root);
        self.directories.make(&self.root, directory)?;
        let temporary = self.temporary(key)?;
        let written =
            direct::write(temporary.file(), body, &self.bounce).and_then(|()| temporary.file().sync_all());
        written.map_err(|e| self.failed("write", key, e))?;
        let mut named = self.name(&temporary, &target, new);
        if named.as_ref().is_err_and(|e| e.kind() == Io::NotFound) {
            // A sweep took the directory away because it was empty.
            self.directories.forget(directory);
            self.directories.make(&self.root, directory)?;
            named = self.name(&temporary, &target, new);
        }
        named.map_err(|e| {
            if e.kind() == Io::AlreadyExists { self.exists(key) } else { self.failed("name", key, e) }
        })?;
        self.directories.sync(directory).map_err(|e| self.failed("sync the directory of", key, e))
    }

    fn name(&self, temporary: &Temporary, target: &Path, new: bool) -> std::io::Result<()> {
        if !new {
            return fs::rename(&temporary.path, target);
        }
        match fs::hard_link(&temporary.path, target) {
            // NFS may repeat a link whose answer was lost: two names say that the first one was ours.
            Err(e) if e.kind() == Io::AlreadyExists && temporary.file().metadata()?.nlink() == 2 => Ok(()),
            other => other,
        }
    }

    /// A new file of ours in `tmp/`, locked, and removed when dropped.
    fn temporary(&self, key: &str) -> Result<Temporary> {
        let directory = self.root.join(TEMPORARY);
        if !self.tidied.swap(true, Ordering::Relaxed) {
            self.tidy()?;
        }
        loop {
            let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{}-{number:x}", self.mark));
            let made = match File::options().write(true).create_new(true).open(&path) {
                Err(e) if e.kind() == Io::NotFound => {
                    fs::create_dir_all(&directory).map_err(|e| self.failed("make a place for", key, e))?;
                    File::options().write(true).create_new(true).open(&path)
                }
                made => made,
            };
            let file = made.map_err(|e| self.failed("begin to write", key, e))?;
            let temporary = Temporary { path, file };
            // Somebody's tidying can come between creation and lock, and take the file for abandoned.
            // A file system without locks is no reason to fail: nothing is tidied there.
            let lost = matches!(temporary.file.try_lock(), Err(TryLockError::WouldBlock))
                || temporary.file.metadata().is_ok_and(|found| found.nlink() == 0);
            if !lost {
                return Ok(temporary);
            }
        }
    }

    fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        let failed = |e| self.failed("read", key, e);
        let file = File::open(self.root.join(key)).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if !found.is_file() {
            return Err(self.absent(key));
        }
        let range = range.unwrap_or(0..found.len());
        if range.start > range.end {
            return Err(Error::invalid(format!("range {}..{} of {key}", range.start, range.end)));
        }
        if range.end > found.len() {
            return Err(ends_early(key, &range, found.len()));
        }
        let length = usize::try_from(range.end - range.start).map_err(|e| {
            Error::invalid(format!("range {}..{} of {key}", range.start, range.end)).with_source(e)
        })?;
        let mut body = Vec::with_capacity(length);
        while body.len() < length {
            let at = range.start + body.len() as u64;
            match rustix::io::pread(&file, spare_capacity(&mut body), at) {
                Ok(0) => return Err(ends_early(key, &range, at)),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(failed(e.into())),
            }
        }
        body.truncate(length);
        Ok(Bytes::from(body))
    }

    /// Adds what lies below `directory` (empty, or ending in `/`), in the order of whole names: there a directory
    /// counts as its name with the `/`, which comes behind `-` and `.`.
    fn list(
        &self,
        directory: &str,
        prefix: &str,
        after: &str,
        limit: usize,
        found: &mut Vec<Object>,
    ) -> Result<()> {
        let failed = |e| self.failed("list", directory, e);
        let entries = match fs::read_dir(self.root.join(directory)) {
            Ok(entries) => entries,
            Err(e) if matches!(e.kind(), Io::NotFound | Io::NotADirectory) => return Ok(()),
            Err(e) => return Err(failed(e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let mut key = format!("{directory}{name}");
            if check_key(&key).is_err() || !(kind.is_file() || kind.is_dir()) {
                continue;
            }
            if kind.is_dir() {
                key.push('/');
            }
            let wanted = key.starts_with(prefix) || (kind.is_dir() && prefix.starts_with(&key));
            let passed = if kind.is_dir() {
                key.as_str() <= after && !after.starts_with(&key)
            } else {
                key.as_str() <= after
            };
            if wanted && !passed {
                names.push(key);
            }
        }
        names.sort_unstable();
        for key in names {
            if found.len() >= limit {
                break;
            }
            if key.ends_with('/') {
                self.list(&key, prefix, after, limit, found)?;
                continue;
            }
            match fs::symlink_metadata(self.root.join(&key)) {
                Ok(file) => found.push(Object { key, size: file.len() }),
                Err(e) if e.kind() == Io::NotFound => {} // deleted meanwhile
                Err(e) => return Err(self.failed("list", &key, e)),
            }
        }
        Ok(())
    }

    /// Not synced: what a power cut brings back is swept again. Directories left empty go too, but the first level.
    fn delete(&self, key: &str) -> Result<()> {
        match fs::remove_file(self.root.join(key)) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), Io::NotFound | Io::NotADirectory) => return Ok(()),
            Err(e) => return Err(self.failed("delete", key, e)),
        }
        let mut directory = Path::new(key).parent();
        while let Some(path) = directory.filter(|path| path.components().count() > 1) {
            let path = self.root.join(path);
            if fs::remove_dir(&path).is_err() {
                break; // not empty, as a rule
            }
            self.directories.forget(&path);
            directory = directory.and_then(Path::parent);
        }
        Ok(())
    }

    fn tidy(&self) -> Result<u64> {
        let directory = self.root.join(TEMPORARY);
        let failed = |e| Error::io(format!("tidy {}", directory.display()), e);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == Io::NotFound => return Ok(0),
            Err(e) => return Err(failed(e)),
        };
        let mut removed = 0;
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            // One that we may not open or that is gone by now is another's to remove.
            let Ok(file) = File::open(&path) else { continue };
            if file.try_lock().is_ok() && fs::remove_file(&path).is_ok() {
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn exists(&self, key: &str) -> Error {
        Error::conflict(format!("{key} exists already in {}", self.root.display()))
    }

    fn absent(&self, key: &str) -> Error {
        Error::not_found(format!("{key} does not exist in {}", self.root.display()))
    }

    fn failed(&self, what: &str, key: &str, error: std::io::Error) -> Error {
        if matches!(error.kind(), Io::NotFound | Io::NotADirectory) {
            return self.absent(key).with_source(error);
        }
        Error::io(format!("cannot {what} {key} in {}", self.root.display()), error)
    }
}

struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed already, or tidied away after we die: either is well.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests;
