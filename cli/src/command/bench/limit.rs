//! The machine's own limit: the same bytes through read, hash, compress and seal on the same cores, and nothing
//! else. No backup can be faster; how near ours comes is what the benchmark says.
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;

use palinurus_repository::pack::{FRAME_MAX, FrameAt, PackId, PackWriter};
use palinurus_repository::{
    ChunkId, Entropy, Error, Keys, RepositoryId, Result, RootKey, TransactionId, WriterId,
};
use tokio::time::Instant;

mod back;

pub(super) use back::restore;

/// One frame's worth of files, or one extent of a file.
#[derive(Debug)]
struct Work {
    /// Path, offset, length.
    parts: Vec<(PathBuf, u64, usize)>,
}

/// Work that lies in a pack now.
#[derive(Debug)]
struct Sealed {
    work: Work,
    ids: Vec<ChunkId>,
    at: FrameAt,
}

/// Seconds.
pub(super) fn measure(data: &Path, threads: usize, entropy: &dyn Entropy) -> Result<f64> {
    let work = Mutex::new(cut(data)?.into_iter());
    let (keys, transaction) = keys(entropy)?;
    let began = Instant::now();
    on_all(threads, |thread| seal_all(&work, &keys, transaction, thread, None))?;
    Ok(began.elapsed().as_secs_f64())
}

fn keys(entropy: &dyn Entropy) -> Result<(Keys, TransactionId)> {
    let root = RootKey::generate(entropy)?;
    let keys = Keys::derive(&root, RepositoryId(entropy.array()?))?;
    Ok((keys, TransactionId(entropy.array()?)))
}

fn on_all<T: Send>(threads: usize, work: impl Fn(u32) -> Result<T> + Sync) -> Result<Vec<T>> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads as u32).map(|thread| scope.spawn(move || work(thread))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|end| end.unwrap_or_else(|_| Err(Error::internal("a thread panicked")))).collect()
    })
}

/// Every file's size and times asked for, one after the other: no look at unchanged files does with less.
pub(super) fn walk(data: &Path) -> Result<f64> {
    let began = Instant::now();
    cut(data)?;
    Ok(began.elapsed().as_secs_f64())
}

/// Packs are left in the directory `kept`, or nowhere.
fn seal_all(
    queue: &Mutex<std::vec::IntoIter<Work>>,
    keys: &Keys,
    transaction: TransactionId,
    thread: u32,
    kept: Option<&Path>,
) -> Result<Vec<Sealed>> {
    let transaction = keys.transaction(transaction)?;
    let mut buffer = vec![0; FRAME_MAX];
    let mut spare = Vec::new();
    let mut sealed = Vec::new();
    let mut pack: Option<PackWriter> = None;
    let mut counter = thread << 16;
    let finish = |pack: PackWriter| -> Result<Vec<u8>> {
        let name = kept.map(|kept| kept.join(name(&pack.id())));
        let full = pack.finish()?;
        if let Some(name) = name {
            let written = std::fs::write(&name, &full.buffer[..full.len]);
            written.map_err(|e| Error::io(format!("write {}", name.display()), e))?;
        }
        Ok(full.buffer)
    };
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(work) = next else { break };
        let mut filled = 0;
        let mut chunks = Vec::with_capacity(work.parts.len());
        for (path, offset, len) in &work.parts {
            let failed = |e| Error::io(format!("read {}", path.display()), e);
            let into = &mut buffer[filled..filled + len];
            File::open(path).and_then(|file| file.read_exact_at(into, *offset)).map_err(failed)?;
            chunks.push((keys.chunk_id(into), *len as u32));
            filled += len;
        }
        if pack.as_ref().is_some_and(PackWriter::is_full)
            && let Some(full) = pack.take()
        {
            spare = finish(full)?;
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
        let ids = chunks.iter().map(|(id, _)| *id).collect();
        let at = writer.append(&buffer[..filled], chunks)?;
        if kept.is_some() {
            sealed.push(Sealed { work, ids, at });
        }
    }
    pack.map(finish).transpose()?;
    Ok(sealed)
}

/// Of a pack's file.
fn name(pack: &PackId) -> String {
    pack.key().replace('/', "-")
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
