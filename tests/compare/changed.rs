//! Which pages of a cluster have changed, and how small they are compressed: what an incremental backup must hold at least.
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use palinurus_tests::world::files_below;

const PAGE: usize = 8192;

/// A hash of every page of every relation.
pub(crate) type Pages = HashMap<PathBuf, Vec<[u8; 32]>>;

fn relations(data: &Path) -> impl Iterator<Item = PathBuf> {
    files_below(&data.join("base")).into_iter().filter(|path| path.is_file())
}

pub(crate) fn pages(data: &Path) -> Pages {
    let hashes = |path: &PathBuf| -> Vec<[u8; 32]> {
        let bytes = fs::read(path).unwrap_or_default();
        bytes.chunks(PAGE).map(|page| *blake3::hash(page).as_bytes()).collect()
    };
    relations(data).map(|path| (path.clone(), hashes(&path))).collect()
}

/// How many pages are others than they were, and their length as one stream of zstd at level 3.
pub(crate) fn changed(data: &Path, before: &Pages) -> (u64, u64) {
    let mut zstd = Command::new("zstd")
        .args(["-3", "-q", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = zstd.stdin.take().unwrap();
    let paths: Vec<PathBuf> = relations(data).collect();
    let known: HashMap<PathBuf, Vec<[u8; 32]>> = before.clone();
    let feeding = std::thread::spawn(move || {
        let mut count = 0;
        for path in paths {
            let old = known.get(&path);
            for (index, page) in fs::read(&path).unwrap_or_default().chunks(PAGE).enumerate() {
                if old.and_then(|old| old.get(index)) != Some(blake3::hash(page).as_bytes()) {
                    input.write_all(page).unwrap();
                    count += 1;
                }
            }
        }
        count
    });
    let compressed = zstd.wait_with_output().unwrap().stdout.len() as u64;
    (feeding.join().unwrap(), compressed)
}
