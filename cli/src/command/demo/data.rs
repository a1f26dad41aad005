//! The demo's data: real files of this machine, laid out for three nodes, and the changes between two backups.
//! Everything is chosen by order and count, never by chance: replicas stay replicas.
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use tokio_util::sync::CancellationToken;

/// Where the default data comes from, in this order, until there is enough.
const SOURCES: [&str; 3] = ["/usr/share", "/usr/lib", "/usr/bin"];
pub(super) const DEFAULT_BYTES: u64 = 300 << 20;

#[derive(Debug)]
struct Found {
    source: PathBuf,
    relative: PathBuf,
    size: u64,
}

/// Fills `replicas` with the same two thirds of what was found, and `single` with the rest.
pub(super) fn lay_out(
    data: Option<&Path>,
    replicas: [&Path; 2],
    single: &Path,
    stop: &CancellationToken,
) -> Result<()> {
    let mut found = Vec::new();
    match data {
        Some(data) => {
            let mut left = u64::MAX;
            find(data, data, &mut left, &mut found)?;
        }
        None => {
            let mut left = DEFAULT_BYTES;
            for source in SOURCES.map(Path::new).into_iter().filter(|source| source.is_dir()) {
                find(source, Path::new("/usr"), &mut left, &mut found)?;
            }
        }
    }
    if found.is_empty() {
        return Err(Error::invalid("there is no readable file to show anything with")
            .with_hint("name a directory that holds some with --data DIR"));
    }
    let total: u64 = found.iter().map(|file| file.size).sum();
    let mut cut = 0;
    let mut bytes = 0;
    while cut < found.len() && bytes * 3 < total * 2 {
        bytes += found[cut].size;
        cut += 1;
    }
    let (shared, own) = found.split_at(cut);
    copy_all(shared, replicas[0], stop)?;
    copy_all(shared, replicas[1], stop)?;
    copy_all(if own.is_empty() { shared } else { own }, single, stop)?;
    oddities(replicas[0])?;
    oddities(replicas[1])
}

/// Regular files and symlinks below `dir`, in the order of their names, until `left` bytes are used up.
/// What cannot be read is passed over: any machine will do.
fn find(dir: &Path, root: &Path, left: &mut u64, found: &mut Vec<Found>) -> Result<()> {
    let Ok(listing) = fs::read_dir(dir) else { return Ok(()) };
    let mut paths: Vec<PathBuf> = listing.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    for path in paths {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            find(&path, root, left, found)?;
        } else if meta.is_symlink() || (meta.is_file() && meta.len() <= *left && File::open(&path).is_ok()) {
            let size = if meta.is_file() { meta.len() } else { 0 };
            let relative = path.strip_prefix(root).unwrap_or(&path).to_owned();
            *left -= size;
            found.push(Found { source: path, relative, size });
        }
        if *left == 0 {
            break;
        }
    }
    Ok(())
}

fn copy_all(files: &[Found], target: &Path, stop: &CancellationToken) -> Result<()> {
    let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut directories: Vec<(PathBuf, fs::Metadata)> = Vec::new();
    for file in files {
        if stop.is_cancelled() {
            return Err(Error::unavailable("interrupted"));
        }
        let to = target.join(&file.relative);
        if let Some(parent) = to.parent() {
            make_parents(file, parent, target, &mut directories)?;
        }
        copy(&file.source, &to, &mut links).map_err(|error| {
            Error::io(format!("copy {} to {}", file.source.display(), to.display()), error)
        })?;
    }
    // Last, for making a file in a directory moves the directory's time.
    for (path, meta) in directories.iter().rev() {
        set_times(path, meta)
            .map_err(|error| Error::io(format!("set the time of {}", path.display()), error))?;
    }
    Ok(())
}

fn make_parents(
    file: &Found,
    parent: &Path,
    target: &Path,
    made: &mut Vec<(PathBuf, fs::Metadata)>,
) -> Result<()> {
    if parent.is_dir() {
        return Ok(());
    }
    if let Some(above) = parent.parent() {
        make_parents(file, above, target, made)?;
    }
    let failed = |error| Error::io(format!("make {}", parent.display()), error);
    fs::create_dir(parent).map_err(failed)?;
    let depth = file.relative.components().count()
        - parent.strip_prefix(target).unwrap_or(parent).components().count();
    if let Some(source) = file.source.ancestors().nth(depth) {
        let meta = fs::symlink_metadata(source).map_err(failed)?;
        let mode = meta.permissions().mode() & 0o7777 | 0o700;
        fs::set_permissions(parent, fs::Permissions::from_mode(mode)).map_err(failed)?;
        made.push((parent.to_owned(), meta));
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, links: &mut HashMap<(u64, u64), PathBuf>) -> std::io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    if meta.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
        return set_times(to, &meta);
    }
    if meta.nlink() > 1 {
        if let Some(first) = links.get(&(meta.dev(), meta.ino())) {
            return fs::hard_link(first, to);
        }
        links.insert((meta.dev(), meta.ino()), to.to_owned());
    }
    fs::copy(from, to)?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    }
    let mode = meta.permissions().mode() & 0o7777 | 0o600;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    set_times(to, &meta)
}

fn set_times(path: &Path, meta: &fs::Metadata) -> std::io::Result<()> {
    let time = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A little of everything that a plain copy would lose.
fn oddities(dir: &Path) -> Result<()> {
    let make = || -> std::io::Result<()> {
        let odd = dir.join("oddities");
        fs::create_dir_all(odd.join("empty directory"))?;
        fs::write(odd.join("empty file"), b"")?;
        fs::write(odd.join(std::ffi::OsStr::from_bytes(b"not \xff utf-8")), b"name of any bytes\n")?;
        fs::write(odd.join("linked"), b"one file, two names\n")?;
        fs::hard_link(odd.join("linked"), odd.join("linked again"))?;
        symlink("linked", odd.join("pointing"))?;
        let sparse = File::create(odd.join("sparse"))?;
        sparse.set_len(64 << 20)?;
        sparse.write_all_at(b"an island\n", 32 << 20)?;
        // Not every file system has them.
        let _ = xattr::set(odd.join("linked"), "user.palinurus", b"an attribute");
        Ok(())
    };
    make().map_err(|error| Error::io(format!("make the odd files in {}", dir.display()), error))
}

/// The day's work between two backups.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) overwritten: usize,
    pub(super) extended: usize,
    pub(super) removed: usize,
    pub(super) added: usize,
}

/// Overwrites in the middle, appends, removes and adds: the same on every replica.
pub(super) fn change(dir: &Path) -> Result<Changes> {
    let mut files = Vec::new();
    list_files(dir, &mut files)?;
    files.sort();
    let failed = |path: &Path, error| Error::io(format!("change {}", path.display()), error);
    let mut changes = Changes::default();
    for (i, path) in files.iter().enumerate() {
        let size = fs::metadata(path).map_err(|error| failed(path, error))?.len();
        match i % 40 {
            7 if size >= 8192 => {
                let file = OpenOptions::new().write(true).open(path).map_err(|error| failed(path, error))?;
                file.write_all_at(&[b'#'; 1000], size / 2).map_err(|error| failed(path, error))?;
                changes.overwritten += 1;
            }
            17 if size > 0 => {
                let mut file =
                    OpenOptions::new().write(true).open(path).map_err(|error| failed(path, error))?;
                file.seek(SeekFrom::End(0))
                    .and_then(|_| file.write_all(&[b'+'; 3000]))
                    .map_err(|error| failed(path, error))?;
                changes.extended += 1;
            }
            27 if changes.removed < 100 => {
                fs::remove_file(path).map_err(|error| failed(path, error))?;
                changes.removed += 1;
            }
            _ => {}
        }
    }
    for i in 0..20 {
        let path = dir.join(format!("added-{i}"));
        fs::write(&path, format!("new since the first backup: {i}\n").repeat(500))
            .map_err(|error| failed(&path, error))?;
        changes.added += 1;
    }
    Ok(changes)
}

fn list_files(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |error| Error::io(format!("list {}", dir.display()), error);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            list_files(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// The bytes of the files below a directory.
pub(super) fn disk_size(dir: &Path) -> Result<u64> {
    let mut files = Vec::new();
    list_files(dir, &mut files)?;
    Ok(files.iter().filter_map(|file| fs::metadata(file).ok()).map(|meta| meta.len()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_equal_and_stay_equal() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir_all(source.join("a/b")).unwrap();
        for i in 0..100 {
            fs::write(source.join(format!("a/b/{i:03}")), vec![b'x'; 1000 * i]).unwrap();
        }
        symlink("b/001", source.join("a/link")).unwrap();
        let nodes = ["n1", "n2", "n3"].map(|name| dir.path().join(name));
        for node in &nodes {
            fs::create_dir(node).unwrap();
        }
        lay_out(Some(&source), [&nodes[0], &nodes[1]], &nodes[2], &CancellationToken::new()).unwrap();
        let changes = change(&nodes[0]).unwrap();
        assert!(changes.overwritten > 0 && changes.extended > 0 && changes.removed > 0, "{changes:?}");
        change(&nodes[1]).unwrap();
        let names = |dir: &Path| {
            let mut files = Vec::new();
            list_files(dir, &mut files).unwrap();
            let mut read: Vec<_> = files
                .iter()
                .map(|file| (file.strip_prefix(dir).unwrap().to_owned(), fs::read(file).unwrap()))
                .collect();
            read.sort();
            read
        };
        assert!(names(&nodes[0]) == names(&nodes[1]));
        assert!(!names(&nodes[2]).is_empty());
    }
}
