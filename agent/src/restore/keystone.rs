//! Files without which a database takes a directory for none: they get their name when everything else is on the disk,
//! so that nobody starts half a restore.
use std::io;
use std::os::fd::AsFd;

use palinurus_repository::{Error, Result};
use rustix::fs::{
    AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fstat, fsync, futimens, renameat, unlinkat,
};
use rustix::io::Errno;

use super::beneath::{Beneath, Places, split};
use super::selection::Selection;

/// PostgreSQL's control file.
const KEYSTONES: [&[u8]; 1] = [b"global/pg_control"];
const WAITING: &[u8] = b".palinurus";

/// The name that a keystone has until the end; none of other files.
pub(super) fn waiting(path: &[u8]) -> Option<Vec<u8>> {
    KEYSTONES.contains(&path).then(|| [path, WAITING].concat())
}

/// Before anything is written: what a restore overwrites is whole no more, and what an earlier one left is not trusted.
pub(super) fn take_away(beneath: &Beneath, selection: &Selection) -> Result<()> {
    for path in wanted(selection) {
        for name in [path.to_vec(), [path, WAITING].concat()] {
            match at(beneath, &name, |dir, name| unlinkat(dir, name, AtFlags::empty())) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", path, e)),
                _ => {}
            }
        }
    }
    Ok(())
}

/// After everything is on the disk. The directory keeps its times.
pub(super) fn put(beneath: &Beneath, selection: &Selection) -> Result<()> {
    for path in wanted(selection) {
        let from = [path, WAITING].concat();
        let Ok(parent) = beneath.open(split(path).0, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
        else {
            continue;
        };
        let put = || {
            let before = fstat(&parent)?;
            renameat(&parent, split(&from).1, &parent, split(path).1)?;
            let times = Timestamps {
                last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT as _ },
                last_modification: Timespec {
                    tv_sec: before.st_mtime as _,
                    tv_nsec: before.st_mtime_nsec as _,
                },
            };
            // Who may not set times leaves the new one.
            let _ = futimens(&parent, &times);
            fsync(&parent)
        };
        match put() {
            // The backup has none.
            Err(Errno::NOENT) => {}
            put => put.map_err(|e| failed("put into place", path, e.into()))?,
        }
    }
    Ok(())
}

fn wanted(selection: &Selection) -> impl Iterator<Item = &'static [u8]> {
    KEYSTONES.into_iter().filter(|path| selection.is_all() || selection.wants(path))
}

fn at<T>(
    beneath: &Beneath,
    path: &[u8],
    deed: impl FnOnce(std::os::fd::BorrowedFd<'_>, &[u8]) -> rustix::io::Result<T>,
) -> io::Result<T> {
    let mut places = Places::default();
    let (dir, name) = places.find(beneath, path)?;
    Ok(deed(dir.as_fd(), name)?)
}

fn failed(deed: &str, path: &[u8], error: io::Error) -> Error {
    Error::io(format!("{deed} {}", String::from_utf8_lossy(path)), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn it_goes_first_and_comes_last() {
        let dir = tempfile::tempdir().unwrap();
        let (all, other) = (Selection::new(&[]).unwrap(), Selection::new(&["base".to_owned()]).unwrap());
        let beneath = Beneath::new(fs::File::open(dir.path()).unwrap().into());
        take_away(&beneath, &all).unwrap();
        put(&beneath, &all).unwrap();
        fs::create_dir(dir.path().join("global")).unwrap();
        let (control, early) =
            (dir.path().join("global/pg_control"), dir.path().join("global/pg_control.palinurus"));
        fs::write(&control, "old").unwrap();
        fs::write(&early, "left").unwrap();
        take_away(&beneath, &other).unwrap();
        assert!(control.exists() && early.exists(), "not selected");
        take_away(&beneath, &all).unwrap();
        assert!(!control.exists() && !early.exists());
        assert_eq!(waiting(b"global/pg_control").as_deref(), Some(&b"global/pg_control.palinurus"[..]));
        assert_eq!(waiting(b"base/pg_control"), None);
        fs::write(&early, "new").unwrap();
        let time = dir.path().join("global").metadata().unwrap().modified().unwrap();
        put(&beneath, &all).unwrap();
        put(&beneath, &all).unwrap();
        assert_eq!(fs::read_to_string(&control).unwrap(), "new");
        assert_eq!(dir.path().join("global").metadata().unwrap().modified().unwrap(), time);
    }
}
