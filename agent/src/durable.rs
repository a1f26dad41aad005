//! Files that survive the machine: whole or not there, and the directory knows them.
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};

/// Ends the name of a file that is not yet whole. Whoever lists a directory of ours skips and removes them.
pub(crate) const PARTIAL: &str = "partial";

/// Creates or replaces `path` with `bytes`, readable by the owner only; durable when it returns.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = partial(path);
    let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial);
    written
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&partial, path))
        .map_err(|e| Error::io(format!("write {}", path.display()), e))?;
    sync_parent(path)
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(PARTIAL);
    path.with_file_name(name)
}

/// Removes `path`; durable when it returns. An absent one is no error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(format!("remove {}", path.display()), e)),
    }
}

/// Removes `path` and what is below it. An absent one is no error.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

/// The whole names in a directory of ours, sorted. Names that are not whole are removed on the way.
pub(crate) fn names(path: &Path) -> Result<Vec<OsString>> {
    let failed = |e| Error::io(format!("list {}", path.display()), e);
    let mut names = Vec::new();
    for entry in path.read_dir().map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if Path::new(&name).extension().is_some_and(|extension| extension == PARTIAL) {
            remove(&path.join(name))?;
        } else {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A directory of ours, closed to others, with its parents.
pub(crate) fn create_dir(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| Error::io(format!("create directory {}", path.display()), e))?;
    sync_parent(path)
}

/// Makes the names in the directory of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Error::io(format!("fsync {}", parent.display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn replaces_whole_and_keeps_others_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/record");
        create_dir(path.parent().unwrap()).unwrap();
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(path.parent().unwrap().read_dir().unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
        remove_dir(path.parent().unwrap()).unwrap();
        remove_dir(path.parent().unwrap()).unwrap();
    }
}
