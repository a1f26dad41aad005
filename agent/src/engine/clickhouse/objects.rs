//! Disks whose files are objects elsewhere. Such a disk's directory has for each file a small text that names its objects:
//! here those of `object_storage_type = local`, which are files of this machine; see [`stored`](super::stored) for others.
//!
//! ```text
//! 5                            version: names are whole
//! 1       36417                how many, and their bytes in all
//! 36417   /objects/pbi/tctk..  bytes and name of each
//! 1                            how many more texts name them: a freeze is one
//! 0                            whether it may not be changed
//! ```
//! Objects are read and nothing else: they are the server's, which counts who still names them.
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use palinurus_repository::{Error, Result};

const VERSION: &str = "5";
/// Of such a text: a file of a terabyte has fewer objects.
const TEXT_MAX: u64 = 64 << 20;

/// Makes the files that a disk's freeze names, below `to`: what is one object is linked. Blocks.
pub(super) fn gather(frozen: &Path, to: &Path) -> Result<()> {
    let failed = |e| Error::io(format!("gather the objects of {}", frozen.display()), e);
    let entries = match frozen.read_dir() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    fs::create_dir_all(to).map_err(failed)?;
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(failed)?.is_dir() {
            gather(&from, &to)?;
        } else {
            let objects = read(&from)?.into_iter().map(|(bytes, name)| Some((bytes, file(&name)?)));
            let objects: Option<Vec<_>> = objects.collect();
            make(&objects.ok_or_else(|| not_understood(&from))?, &to)
                .map_err(|e| Error::io(format!("read the objects of {}", from.display()), e))?;
        }
    }
    Ok(())
}

/// What a text names: the bytes and the name of each. Blocks.
pub(super) fn read(path: &Path) -> Result<Vec<(u64, String)>> {
    let failed = |e| Error::io(format!("read {}", path.display()), e);
    if path.metadata().map_err(failed)?.len() > TEXT_MAX {
        return Err(not_understood(path));
    }
    objects(&fs::read_to_string(path).map_err(failed)?).ok_or_else(|| not_understood(path))
}

fn not_understood(path: &Path) -> Error {
    Error::corrupt(format!("{} is no list of objects that is understood", path.display()))
        .with_hint("only version 5 of it is read, with whole names: move the table to a local disk")
}

/// Where an object lies that is a file.
fn file(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(name);
    let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    let fits = path.is_absolute() && path.components().all(is_plain) && !name.contains('\\');
    fits.then_some(path)
}

fn objects(text: &str) -> Option<Vec<(u64, String)>> {
    let mut lines = text.lines();
    let (version, counts) = (lines.next()?, lines.next()?.split_once('\t')?);
    let (count, total): (usize, u64) = (counts.0.parse().ok()?, counts.1.parse().ok()?);
    let object = |line: &str| {
        let (bytes, name) = line.split_once('\t')?;
        Some((bytes.parse().ok()?, name.to_owned()))
    };
    let objects: Vec<(u64, String)> = lines.by_ref().take(count).map(object).collect::<Option<_>>()?;
    let sum = objects.iter().try_fold(0u64, |sum, (bytes, _)| sum.checked_add(*bytes))?;
    // Behind the two counts may lie what is no object.
    let inline = lines.nth(2).unwrap_or_default();
    (version == VERSION && objects.len() == count && sum == total && inline.is_empty()).then_some(objects)
}

fn make(objects: &[(u64, PathBuf)], to: &Path) -> io::Result<()> {
    for (bytes, path) in objects {
        let found = path.symlink_metadata()?;
        if !found.is_file() || found.len() != *bytes {
            return Err(io::Error::other(format!("{} has not {bytes} bytes", path.display())));
        }
    }
    match objects {
        [(_, only)] => match fs::hard_link(only, to) {
            // Another file system, or one without links.
            Err(e)
                if [io::ErrorKind::CrossesDevices, io::ErrorKind::PermissionDenied].contains(&e.kind()) =>
            {
                fs::copy(only, to).map(drop)
            }
            linked => linked,
        },
        several => {
            let mut file = fs::File::create_new(to)?;
            several.iter().try_for_each(|(_, path)| io::copy(&mut fs::File::open(path)?, &mut file).map(drop))
        }
    }
}

/// Whether a freeze still names objects: to remove that is the server's, or they would be nobody's for ever. Blocks.
pub(super) fn holds_any(frozen: &Path) -> bool {
    let entries = frozen.read_dir().into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| !path.is_dir() || holds_any(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_text_names_is_put_together() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("frozen/part")).unwrap();
        fs::write(at("one"), "abc").unwrap();
        fs::write(at("two"), "de").unwrap();
        let (one, two) = (at("one").display().to_string(), at("two").display().to_string());
        for (name, text) in [
            ("one", format!("5\n1\t3\n3\t{one}\n1\n0\n\n")),
            ("both", format!("5\n2\t5\n3\t{one}\n2\t{two}\n0\n1\n\n")),
            ("none", "5\n0\t0\n0\n0\n\n".to_owned()),
        ] {
            fs::write(at("frozen/part").join(name), text).unwrap();
        }
        gather(&at("frozen"), &at("made")).unwrap();
        for (name, want) in [("one", "abc"), ("both", "abcde"), ("none", "")] {
            assert_eq!(fs::read_to_string(at("made/part").join(name)).unwrap(), want);
        }
        assert!(holds_any(&at("frozen")));
        for bad in [
            format!("3\n1\t3\n3\t{one}\n1\n0\n"),
            format!("5\n1\t4\n3\t{one}\n1\n0\n\n"),
            format!("5\n2\t3\n3\t{one}\n"),
            format!("5\n1\t9\n9\t{one}\n1\n0\n\n"),
            "5\n1\t3\n3\t\n1\n0\n\n".into(),
            "5\n1\t3\n3\tpbi/tctk\n1\n0\n\n".into(),
            "5\n1\t3\n3\t/a/../b\n1\n0\n\n".into(),
            "5\n0\t0\n0\n0\nabc\n".into(),
        ] {
            fs::write(at("frozen/part/one"), &bad).unwrap();
            assert!(gather(&at("frozen"), &at("again")).is_err(), "{bad}");
            fs::remove_dir_all(at("again")).unwrap();
        }
        fs::remove_dir_all(at("frozen/part")).unwrap();
        assert!(!holds_any(&at("frozen")) && !holds_any(&at("nothing")));
    }
}
