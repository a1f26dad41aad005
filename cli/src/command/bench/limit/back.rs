//! The way back: packs read, opened, expanded, proven and written, on the same cores, and nothing else.
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use palinurus_repository::pack::{FRAME_MAX, FrameReader};
use palinurus_repository::{Entropy, Error, Keys, Result};
use tokio::time::Instant;

use super::{Sealed, cut, keys, name, on_all, seal_all};

/// Seconds from the first read to the last byte on the disk. `packs` and `into` are empty directories.
pub(in super::super) fn restore(
    data: &Path,
    packs: &Path,
    into: &Path,
    threads: usize,
    entropy: &dyn Entropy,
) -> Result<f64> {
    let work = Mutex::new(cut(data)?.into_iter());
    let (keys, transaction) = keys(entropy)?;
    let sealed = on_all(threads, |thread| seal_all(&work, &keys, transaction, thread, Some(packs)))?;
    let sealed: Vec<Sealed> = sealed.into_iter().flatten().collect();
    rustix::fs::sync();
    let began = Instant::now();
    make_directories(&sealed, data, into)?;
    let queue = Mutex::new(sealed.into_iter());
    on_all(threads, |_| write_all(&queue, &keys, packs, (data, into)))?;
    let target = File::open(into).map_err(|e| Error::io("open the copy", e))?;
    rustix::fs::syncfs(&target).map_err(|e| Error::io("sync the copy", e.into()))?;
    Ok(began.elapsed().as_secs_f64())
}

fn make_directories(sealed: &[Sealed], data: &Path, into: &Path) -> Result<()> {
    let parts = sealed.iter().flat_map(|sealed| &sealed.work.parts);
    let parents: BTreeSet<&Path> = parts.filter_map(|(path, ..)| path.parent()).collect();
    for parent in parents {
        let target = into.join(parent.strip_prefix(data).unwrap_or(parent));
        let made = std::fs::create_dir_all(&target);
        made.map_err(|e| Error::io(format!("make {}", target.display()), e))?;
    }
    Ok(())
}

fn write_all(
    queue: &Mutex<std::vec::IntoIter<Sealed>>,
    keys: &Keys,
    packs: &Path,
    (data, into): (&Path, &Path),
) -> Result<()> {
    let mut reader = FrameReader::new(keys)?;
    let (mut stored, mut plain) = (vec![0; FRAME_MAX], Vec::new());
    let mut pack: Option<(String, File)> = None;
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(Sealed { work, ids, at }) = next else { return Ok(()) };
        let named = name(&at.pack);
        let file = match &pack {
            Some((open, file)) if *open == named => file,
            _ => {
                let file = File::open(packs.join(&named)).map_err(|e| Error::io("open a pack", e))?;
                &pack.insert((named, file)).1
            }
        };
        let range = at.range();
        stored.resize((range.end - range.start) as usize, 0);
        file.read_exact_at(&mut stored, range.start).map_err(|e| Error::io("read a pack", e))?;
        reader.open(&at, &mut stored, &mut plain)?;
        let mut start = 0;
        for ((path, offset, len), id) in work.parts.into_iter().zip(ids) {
            let bytes = &plain[start..start + len];
            start += len;
            if keys.chunk_id(bytes) != id {
                return Err(Error::corrupt(format!("{} came back as something else", path.display())));
            }
            let target = into.join(path.strip_prefix(data).unwrap_or(&path));
            let file = File::options().create(true).truncate(false).write(true).open(&target);
            file.and_then(|file| file.write_all_at(bytes, offset))
                .map_err(|e| Error::io(format!("write {}", target.display()), e))?;
        }
    }
}
