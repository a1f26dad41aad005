//! The data that is measured on: copied from a directory, or made from a seed.
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};

use super::bytes::{Make, PAGE, Random, heap, json, log, noise, rows, sorted};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Generated {
    /// Pages of rows, log lines, JSON, small files, some noise.
    Mixed,
    /// 100,000 files of 2 KiB on average.
    Small,
    /// One file of 8 KiB pages.
    Pages,
    /// One block again and again: much data from little disk.
    Repeated,
    /// Lines of a log, and of JSON.
    Logs,
    /// Tables sorted by their key whose blocks are compressed already.
    Sorted,
    /// Files that are mostly holes.
    Sparse,
    /// Noise.
    Random,
}

impl Generated {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mixed => "mixed",
            Self::Small => "small",
            Self::Pages => "pages",
            Self::Repeated => "repeated",
            Self::Logs => "logs",
            Self::Sorted => "sorted",
            Self::Sparse => "sparse",
            Self::Random => "random",
        }
    }

    /// Whether its large files are backed up as pages.
    pub(super) fn is_paged(self) -> bool {
        self == Self::Pages
    }
}

/// Of [`Generated::Small`].
pub(super) const SMALL_FILES: u64 = 100_000;

pub(super) fn generate(kind: Generated, into: &Path, size: u64, files_of_small: u64) -> Result<()> {
    let mut random = Random(20_261_122);
    match kind {
        Generated::Mixed => {
            let share = |percent: u64| size * percent / 100;
            let parts: [(&str, Make, u64); 3] =
                [("tables", rows, share(45)), ("logs", json, share(30)), ("media", noise, share(10))];
            for (name, make, bytes) in parts {
                files(&into.join(name), make, bytes, 48 << 20, &mut random)?;
            }
            small_files(&into.join("small"), share(15), 16 << 10, &mut random)
        }
        Generated::Small => small_files(into, files_of_small * 2048, 2048, &mut random),
        Generated::Pages => files(into, heap, size, size, &mut random),
        Generated::Logs => {
            files(&into.join("log"), log, size / 2, 48 << 20, &mut random)?;
            files(&into.join("json"), json, size - size / 2, 48 << 20, &mut random)
        }
        Generated::Sorted => files(into, sorted, size, 160 << 20, &mut random),
        Generated::Random => files(into, noise, size, 256 << 20, &mut random),
        Generated::Sparse => sparse(into, size, &mut random),
        Generated::Repeated => {
            let block = rows(&mut random, 32 << 20);
            let file = create(&into.join("repeated"))?;
            let mut at = 0;
            while at < size {
                let len = block.len().min((size - at) as usize);
                file.write_all_at(&block[..len], at).map_err(|e| Error::io("write the data", e))?;
                at += len as u64;
            }
            Ok(())
        }
    }
}

/// An island of 64 KiB in each MiB.
fn sparse(into: &Path, size: u64, random: &mut Random) -> Result<()> {
    const EACH: u64 = 512 << 20;
    make_dir(into)?;
    let mut left = size;
    for number in 0.. {
        if left == 0 {
            break;
        }
        let size = left.min(EACH);
        let failed = |e| Error::io("write the data", e);
        let file = create(&into.join(format!("{number:04}.img")))?;
        file.set_len(size).map_err(failed)?;
        for mebibyte in 0..size >> 20 {
            let at = (mebibyte << 20) + random.below(15) * (64 << 10);
            file.write_all_at(&rows(random, 64 << 10), at).map_err(failed)?;
        }
        left -= size;
    }
    Ok(())
}

/// Adds about one percent: to the end of each large file, or, where there is none, as new files. Returns the bytes added.
pub(super) fn append(data: &Path) -> Result<u64> {
    let mut random = Random(11);
    let mut all = Vec::new();
    collect(data, &mut all)?;
    all.sort();
    let mut added = 0;
    for (path, size) in all.iter().filter(|(_, size)| *size >= 1 << 20) {
        let failed = |e| Error::io(format!("append to {}", path.display()), e);
        let more = json(&mut random, (size / 100 / PAGE as u64 * PAGE as u64).max(PAGE as u64) as usize);
        let file = fs::OpenOptions::new().write(true).open(path).map_err(failed)?;
        file.write_all_at(&more, *size).map_err(failed)?;
        added += more.len() as u64;
    }
    if added == 0 {
        let total: u64 = all.iter().map(|(_, size)| size).sum();
        small_files(&data.join("appended"), (total / 100).max(1), 2048, &mut random)?;
        added = (total / 100).max(1);
    }
    Ok(added)
}

/// The path, below `data`, of a file in the middle of all.
pub(super) fn one_of(data: &Path) -> Result<PathBuf> {
    let mut all = Vec::new();
    collect(data, &mut all)?;
    all.sort();
    let (path, _) =
        all.get(all.len() / 2).ok_or_else(|| Error::invalid("the data has no file with bytes"))?;
    Ok(path.strip_prefix(data).unwrap_or(path).to_owned())
}

fn files(into: &Path, make: Make, bytes: u64, each: u64, random: &mut Random) -> Result<()> {
    make_dir(into)?;
    let mut left = bytes;
    for number in 0.. {
        if left == 0 {
            break;
        }
        let size = left.min(each);
        let file = create(&into.join(format!("{number:04}.db")))?;
        let mut at = 0;
        while at < size {
            let block = make(random, (size - at).min(8 << 20) as usize);
            file.write_all_at(&block, at).map_err(|e| Error::io("write the data", e))?;
            at += block.len() as u64;
        }
        left -= size;
    }
    Ok(())
}

fn small_files(into: &Path, bytes: u64, average: u64, random: &mut Random) -> Result<()> {
    let mut left = bytes;
    for number in 0u64.. {
        if left == 0 {
            break;
        }
        let directory = into.join(format!("{:03}", number / 500));
        if number.is_multiple_of(500) {
            make_dir(&directory)?;
        }
        let size = (average / 2 + random.below(average)).min(left);
        let body = json(random, size as usize);
        fs::write(directory.join(format!("{number:06}.json")), body)
            .map_err(|e| Error::io("write the data", e))?;
        left -= size;
    }
    Ok(())
}

fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io(format!("make {}", path.display()), e))
}

fn create(path: &Path) -> Result<fs::File> {
    fs::File::create(path).map_err(|e| Error::io(format!("create {}", path.display()), e))
}

/// Changes about one percent of the bytes in place: pages scattered over the large files, and one small file in a
/// hundred. With `pages`, so many pages and nothing else. Returns the bytes changed.
pub(super) fn change(data: &Path, pages: Option<u64>) -> Result<u64> {
    let mut random = Random(7);
    let mut all = Vec::new();
    collect(data, &mut all)?;
    all.sort();
    let mut changed = 0;
    let total: u64 = all.iter().map(|(_, size)| size).sum();
    for (path, size) in &all {
        let large = *size >= 1 << 20;
        let count = match pages {
            Some(pages) if large => pages * size / total.max(1),
            Some(_) => 0,
            None if large => (size / PAGE as u64).div_ceil(100),
            None => u64::from(random.below(100) == 0),
        };
        if count == 0 {
            continue;
        }
        let failed = |e| Error::io(format!("change {}", path.display()), e);
        let file = fs::OpenOptions::new().write(true).open(path).map_err(failed)?;
        for _ in 0..count {
            let page = random.below(size.div_ceil(PAGE as u64));
            let at = page * PAGE as u64;
            let len = (PAGE as u64).min(size - at) as usize;
            file.write_all_at(&rows(&mut random, len), at).map_err(failed)?;
            changed += len as u64;
        }
    }
    Ok(changed)
}

fn collect(directory: &Path, into: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    let failed = |e| Error::io(format!("read {}", directory.display()), e);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let meta = path.symlink_metadata().map_err(failed)?;
        if meta.is_dir() {
            collect(&path, into)?;
        } else if meta.is_file() && meta.size() > 0 {
            into.push((path, meta.size()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut all = Vec::new();
        collect(dir, &mut all).unwrap();
        all.sort();
        let read = |path: PathBuf| (path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap());
        all.into_iter().map(|(path, _)| read(path)).collect()
    }

    #[test]
    fn the_same_data_is_made_changed_and_appended_to_each_time() {
        let kinds = [
            Generated::Mixed,
            Generated::Pages,
            Generated::Repeated,
            Generated::Logs,
            Generated::Sorted,
            Generated::Sparse,
            Generated::Random,
        ];
        for kind in kinds {
            let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            let made = dirs.each_ref().map(|dir| {
                generate(kind, dir.path(), 3 << 20, 100).unwrap();
                let first = bytes(dir.path());
                let total: usize = first.iter().map(|(_, bytes)| bytes.len()).sum();
                assert!((2_900_000..=3 << 20).contains(&total), "{kind:?}: {total}");
                assert!(change(dir.path(), None).unwrap() > 0);
                assert!(append(dir.path()).unwrap() > 0);
                let second = bytes(dir.path());
                assert!(first != second);
                assert!(dir.path().join(one_of(dir.path()).unwrap()).is_file());
                (first, second)
            });
            assert!(made[0] == made[1], "{kind:?}");
        }
    }
}
