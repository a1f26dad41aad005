//! The data that is measured on: copied from a directory, or made from a seed.
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};

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

pub(super) const PAGE: usize = 8192;

/// SplitMix64: the same data from the same seed, everywhere.
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

const WORDS: [&str; 24] = [
    "select",
    "commit",
    "customer",
    "invoice",
    "shipped",
    "pending",
    "warehouse",
    "2026-11-22",
    "latency",
    "replica",
    "primary",
    "timeout",
    "retry",
    "payload",
    "checksum",
    "segment",
    "amount",
    "currency",
    "EUR",
    "status",
    "updated",
    "created",
    "partition",
    "offset",
];

/// Rows as a table has them: numbers that rise, words that repeat, some noise. Compresses about as heap pages do.
fn rows(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 128);
    let mut id = random.below(1 << 40);
    while bytes.len() < len {
        id += 1;
        let words = [(); 4].map(|()| WORDS[random.below(WORDS.len() as u64) as usize]);
        let noise = random.next();
        let _ =
            write!(bytes, "{id:012}|{}|{}|{:016x}|{}|{}\0", words[0], words[1], noise, words[2], words[3]);
    }
    bytes.truncate(len);
    bytes
}

fn json(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 256);
    while bytes.len() < len {
        let word = |random: &mut Random| WORDS[random.below(WORDS.len() as u64) as usize];
        let (a, b, c) = (word(random), word(random), word(random));
        let (n, m) = (random.below(1_000_000), random.below(10_000));
        let _ = writeln!(
            bytes,
            "{{\"time\":{n},\"level\":\"info\",\"event\":\"{a}\",\"table\":\"{b}\",\"{c}\":{m}}}"
        );
    }
    bytes.truncate(len);
    bytes
}

/// Pages as a database keeps them: a header, pointers to rows that grow towards each other, and some room.
fn heap(random: &mut Random, len: usize) -> Vec<u8> {
    const HEADER: usize = 24;
    const ROW_HEADER: usize = 24;
    let mut bytes = vec![0; len];
    for (number, page) in bytes.chunks_mut(PAGE).enumerate() {
        let (mut lower, mut upper) = (HEADER, page.len());
        let full = page.len() / 10;
        while upper > lower + full {
            let length = 60 + random.below(80) as usize;
            let row = rows(random, length);
            let start = (upper - ROW_HEADER).saturating_sub(row.len()) & !7;
            if start < lower + 4 {
                break;
            }
            upper = start;
            let (at, size) = (upper as u32, (ROW_HEADER + row.len()) as u32);
            page[lower..lower + 4].copy_from_slice(&(at | 1 << 15 | size << 17).to_le_bytes());
            lower += 4;
            let transaction = 700 + random.below(5000) as u32;
            page[upper..upper + 4].copy_from_slice(&transaction.to_le_bytes());
            page[upper + 12..upper + 16].copy_from_slice(&(number as u32).to_le_bytes());
            let end = (upper + ROW_HEADER + row.len()).min(page.len());
            page[upper + ROW_HEADER..end].copy_from_slice(&row[..end - upper - ROW_HEADER]);
        }
        if page.len() > HEADER {
            page[..8].copy_from_slice(&(0x0001_0000_0000 + random.below(1 << 30)).to_le_bytes());
            page[8..10].copy_from_slice(&(random.next() as u16).to_le_bytes());
            page[12..14].copy_from_slice(&(lower as u16).to_le_bytes());
            page[14..16].copy_from_slice(&(upper as u16).to_le_bytes());
            let special = page.len() as u16;
            page[16..18].copy_from_slice(&special.to_le_bytes());
        }
    }
    bytes
}

fn log(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 256);
    let mut seconds = random.below(1 << 24);
    while bytes.len() < len {
        seconds += random.below(3);
        let word = |random: &mut Random| WORDS[random.below(WORDS.len() as u64) as usize];
        let (a, b, c) = (word(random), word(random), word(random));
        let (millis, client) = (random.below(10_000), random.below(256));
        let (day, hour, minute, second) =
            (seconds / 86400 % 28 + 1, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let _ = writeln!(
            bytes,
            "2026-11-{day:02} {hour:02}:{minute:02}:{second:02} INFO [{a}] 10.0.3.{client} {b} {c} took {millis} us"
        );
    }
    bytes.truncate(len);
    bytes
}

/// Blocks of 16 KiB, each compressed by itself, with its length before it.
fn sorted(random: &mut Random, len: usize) -> Vec<u8> {
    const BLOCK: usize = 16 << 10;
    let mut bytes = Vec::with_capacity(len + BLOCK);
    while bytes.len() < len {
        let block = rows(random, BLOCK);
        let block = zstd::bulk::compress(&block, 1).unwrap_or(block);
        bytes.extend((block.len() as u32).to_le_bytes());
        bytes.extend(block);
    }
    bytes.truncate(len);
    bytes
}

fn noise(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
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

type Make = fn(&mut Random, usize) -> Vec<u8>;

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

    #[test]
    fn pages_look_like_pages() {
        let bytes = heap(&mut Random(3), 4 * PAGE);
        for page in bytes.chunks(PAGE) {
            let number = |at: usize| usize::from(u16::from_le_bytes([page[at], page[at + 1]]));
            let (lower, upper) = (number(12), number(14));
            assert!(lower > 100 && lower < upper && upper - lower <= PAGE / 5, "{lower} {upper}");
            assert!(page[lower..upper].iter().all(|byte| *byte == 0), "the room between them");
        }
    }
}
