//! Removes what stands where something else belongs. Holds one descriptor at a time, however deep the tree.
use std::io;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, chmodat, fchmod, statat, unlinkat};
use rustix::io::Errno;

use super::beneath::{Beneath, Places};

/// Subdirectories looked into before a directory is listed again.
const BATCH: usize = 256;

/// Removes `path`, whatever it is, and what is below it. An absent one is no error.
pub(super) fn remove(beneath: &Beneath, places: &mut Places, path: &[u8]) -> io::Result<()> {
    let (dir, name) = places.find(beneath, path)?;
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) if is_directory(dir, name) => {}
        Err(e) => return Err(e.into()),
    }
    remove_directory(beneath, places, path)?;
    places.forget();
    Ok(())
}

fn is_directory(dir: impl std::os::fd::AsFd, name: &[u8]) -> bool {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

fn remove_directory(beneath: &Beneath, places: &mut Places, path: &[u8]) -> io::Result<()> {
    loop {
        let (dir, name) = places.find(beneath, path)?;
        match unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let inner = empty_of_files(beneath, places, path)?;
        for name in inner {
            let mut below = path.to_vec();
            below.push(b'/');
            below.extend_from_slice(&name);
            remove_directory(beneath, places, &below)?;
        }
    }
}

/// Removes what is no directory, and gives some of the directories.
fn empty_of_files(beneath: &Beneath, places: &mut Places, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let opened = match beneath.open(path, flags, Mode::empty()) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let (dir, name) = places.find(beneath, path)?;
            chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
            beneath.open(path, flags, Mode::empty())
        }
        opened => opened,
    };
    let fd = opened?;
    let mut directories = Vec::new();
    for entry in Dir::read_from(&fd)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let mut removed = unlinkat(&fd, name, AtFlags::empty());
        if removed == Err(Errno::ACCESS) {
            fchmod(&fd, Mode::RWXU)?;
            removed = unlinkat(&fd, name, AtFlags::empty());
        }
        match removed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) if is_directory(&fd, name.to_bytes()) => {
                directories.push(name.to_bytes().to_vec());
            }
            Err(e) => return Err(e.into()),
        }
        if directories.len() == BATCH {
            break;
        }
    }
    Ok(directories)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn removes_trees_and_follows_no_symlink() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), b"x").unwrap();
        let root = dir.path().join("tree");
        for n in 0..BATCH + 10 {
            fs::create_dir_all(root.join(format!("d{n}/e"))).unwrap();
            fs::write(root.join(format!("d{n}/e/f")), b"x").unwrap();
        }
        std::os::unix::fs::symlink(outside.path(), root.join("d0/out")).unwrap();
        let beneath = Beneath::new(fs::File::open(dir.path()).unwrap().into());
        let mut places = Places::default();
        remove(&beneath, &mut places, b"tree/d1/e/f").unwrap();
        remove(&beneath, &mut places, b"tree").unwrap();
        remove(&beneath, &mut places, b"tree").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(fs::read(outside.path().join("kept")).unwrap(), b"x");
    }

    #[test]
    fn depth_costs_no_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let deep: std::path::PathBuf = std::iter::repeat_n("d", 1500).collect();
        // Short names: the whole path stays below PATH_MAX.
        fs::create_dir_all(dir.path().join(deep)).unwrap();
        let beneath = Beneath::new(fs::File::open(dir.path()).unwrap().into());
        remove(&beneath, &mut Places::default(), b"d").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
