//! The machine's own limit: the same bytes through read, hash, compress and seal on the same cores, and nothing
//! else. No backup can be faster; how near ours comes is what the benchmark says.
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use palinurus_repository::pack::{FRAME_MAX, PackWriter};
use palinurus_repository::{Entropy, Error, Keys, RepositoryId, Result, RootKey, TransactionId, WriterId};
use tokio::time::Instant;

/// One frame's worth of files, or one extent of a file.
#[derive(Debug)]
struct Work {
    /// Path, offset, length.
    parts: Vec<(PathBuf, u64, usize)>,
}

/// Seconds.
pub(super) fn measure(data: &Path, threads: usize, entropy: &dyn Entropy) -> Result<f64> {
    let work = cut(data)?;
    let root = RootKey::generate(entropy)?;
    let keys = Keys::derive(&root, RepositoryId(entropy.array()?))?;
    let transaction = TransactionId(entropy.array()?);
    let queue = Mutex::new(work.into_iter());
    let began = Instant::now();
    let results: Vec<Result<u64>> = std::thread::scope(|scope| {
        let spawn = |thread: u32| {
            let (queue, keys) = (&queue, &keys);
            scope.spawn(move || seal_all(queue, keys, transaction, thread))
        };
        let threads: Vec<_> = (0..threads as u32).map(spawn).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|result| result.unwrap_or_else(|_| Err(Error::internal("a thread panicked")))).collect()
    });
    results.into_iter().try_for_each(|sealed| sealed.map(drop))?;
    Ok(began.elapsed().as_secs_f64())
}

/// The same bytes read and written into a new directory, and on the disk: no restore can be faster.
pub(super) fn write(data: &Path, into: &Path, threads: usize) -> Result<f64> {
    let queue = Mutex::new(cut(data)?.into_iter());
    let began = Instant::now();
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| write_all(&queue, data, into))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|end| end.unwrap_or_else(|_| Err(Error::internal("a thread panicked")))).collect()
    });
    results.into_iter().collect::<Result<()>>()?;
    rustix::fs::sync();
    Ok(began.elapsed().as_secs_f64())
}

fn write_all(queue: &Mutex<std::vec::IntoIter<Work>>, data: &Path, into: &Path) -> Result<()> {
    let mut buffer = vec![0; FRAME_MAX];
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(work) = next else { return Ok(()) };
        for (path, offset, len) in work.parts {
            let failed = |e| Error::io(format!("copy {}", path.display()), e);
            let bytes = &mut buffer[..len];
            File::open(&path).and_then(|file| file.read_exact_at(bytes, offset)).map_err(failed)?;
            let target = into.join(path.strip_prefix(data).unwrap_or(&path));
            let open = || File::options().create(true).truncate(false).write(true).open(&target);
            let file = match open() {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    let parent = target.parent().unwrap_or(into);
                    std::fs::create_dir_all(parent).and_then(|()| open()).map_err(failed)?
                }
                opened => opened.map_err(failed)?,
            };
            file.write_all_at(bytes, offset).map_err(failed)?;
        }
    }
}

/// Every file's size and times asked for, one after the other: no look at unchanged files does with less.
pub(super) fn walk(data: &Path) -> Result<f64> {
    let began = Instant::now();
    cut(data)?;
    Ok(began.elapsed().as_secs_f64())
}

fn seal_all(
    queue: &Mutex<std::vec::IntoIter<Work>>,
    keys: &Keys,
    transaction: TransactionId,
    thread: u32,
) -> Result<u64> {
    let transaction = keys.transaction(transaction)?;
    let mut buffer = vec![0; FRAME_MAX];
    let mut spare = Vec::new();
    let mut sealed = 0;
    let mut pack: Option<PackWriter> = None;
    let mut counter = thread << 16;
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(work) = next else { break };
        let mut filled = 0;
        let mut chunks = Vec::with_capacity(work.parts.len());
        for (path, offset, len) in work.parts {
            let file = File::open(&path).map_err(|e| Error::io(format!("read {}", path.display()), e))?;
            let into = &mut buffer[filled..filled + len];
            file.read_exact_at(into, offset).map_err(|e| Error::io(format!("read {}", path.display()), e))?;
            chunks.push((keys.chunk_id(into), len as u32));
            filled += len;
        }
        if pack.as_ref().is_some_and(PackWriter::is_full)
            && let Some(full) = pack.take()
        {
            let full = full.finish()?;
            sealed += full.len as u64;
            spare = full.buffer;
        }
        let writer = match &mut pack {
            Some(writer) => writer,
            none => {
                counter += 1;
                let buffer = std::mem::take(&mut spare);
                let id = WriterId([0; 8]);
                none.insert(PackWriter::new(keys, &transaction, id, counter, 1, buffer)?)
            }
        };
        writer.append(&buffer[..filled], chunks)?;
    }
    if let Some(last) = pack {
        sealed += last.finish()?.len as u64;
    }
    Ok(sealed)
}

fn cut(data: &Path) -> Result<Vec<Work>> {
    let mut all = Vec::new();
    let mut small = Work { parts: Vec::new() };
    let mut held = 0;
    let mut directories = vec![data.to_owned()];
    let failed = |path: &Path, e| Error::io(format!("read {}", path.display()), e);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).map_err(|e| failed(&directory, e))? {
            let path = entry.map_err(|e| failed(&directory, e))?.path();
            let meta = path.symlink_metadata().map_err(|e| failed(&path, e))?;
            if meta.is_dir() {
                directories.push(path);
                continue;
            }
            if !meta.is_file() || meta.len() == 0 {
                continue;
            }
            let len = meta.len() as usize;
            if len >= FRAME_MAX / 8 {
                for offset in (0..len).step_by(FRAME_MAX) {
                    let len = FRAME_MAX.min(len - offset);
                    all.push(Work { parts: vec![(path.clone(), offset as u64, len)] });
                }
                continue;
            }
            if held + len > FRAME_MAX {
                all.push(std::mem::replace(&mut small, Work { parts: Vec::new() }));
                held = 0;
            }
            held += len;
            small.parts.push((path, 0, len));
        }
    }
    if !small.parts.is_empty() {
        all.push(small);
    }
    Ok(all)
}
