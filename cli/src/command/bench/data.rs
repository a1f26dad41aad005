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

fn noise(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

pub(super) fn generate(kind: Generated, into: &Path, size: u64) -> Result<()> {
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
        Generated::Small => small_files(into, 100_000 * 2048, 2048, &mut random),
        Generated::Pages => files(into, rows, size, size, &mut random),
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
