//! Writes large objects past the page cache: they are not read again soon, the database's pages should stay, and
//! filling new cache pages costs more processor time than sealing what goes into them.
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Smaller objects go the ordinary way.
const LARGE: usize = 1 << 20;
/// What file systems ask of addresses, offsets and lengths; few ask for more, and they refuse and are obeyed.
const ALIGNED: usize = 4096;
const BLOCK: usize = 4 << 20;
const KEPT: usize = 4;

/// Aligned buffers, kept: a new one would cost what this saves.
#[derive(Debug, Default)]
pub(super) struct Bounce(Mutex<Vec<Vec<u8>>>);

/// Writes `body` to an empty file. Not synced.
pub(super) fn write(file: &File, body: &[u8], bounce: &Bounce) -> io::Result<()> {
    let mut written = 0;
    if body.len() >= LARGE && set_direct(file, true).is_ok() {
        let mut buffer = bounce.take();
        let result = write_aligned(file, body, &mut buffer);
        bounce.give_back(buffer);
        set_direct(file, false)?;
        written = match result {
            // The file system knows no such writes, or wants them aligned otherwise.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => 0,
            result => result?,
        };
    }
    file.write_all_at(&body[written..], written as u64)
}

fn write_aligned(file: &File, body: &[u8], buffer: &mut [u8]) -> io::Result<usize> {
    let whole = body.len() / ALIGNED * ALIGNED;
    let start = buffer.as_ptr().align_offset(ALIGNED);
    let aligned = &mut buffer[start..start + BLOCK];
    let mut written = 0;
    for block in body[..whole].chunks(BLOCK) {
        aligned[..block.len()].copy_from_slice(block);
        file.write_all_at(&aligned[..block.len()], written as u64)?;
        written += block.len();
    }
    Ok(written)
}

fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    Ok(fcntl_setfl(file, flags)?)
}

impl Bounce {
    fn take(&self) -> Vec<u8> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| vec![0; BLOCK + ALIGNED])
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::{Entropy, SeededEntropy};

    #[test]
    fn every_length_arrives_whole() {
        let mut body = vec![0; 3 * BLOCK + 5];
        SeededEntropy::new(4).fill(&mut body).unwrap();
        let bounce = Bounce::default();
        // The build's own directory is on a disk, the temporary one may be in memory: both ways must do.
        for directory in
            [tempfile::tempdir().unwrap(), tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()]
        {
            for len in [0, 1, LARGE - 1, LARGE, LARGE + 1, BLOCK, BLOCK + ALIGNED - 1, 2 * BLOCK, body.len()]
            {
                // Off any alignment, as buffers come.
                let body = &body[body.len() - len..];
                let path = directory.path().join(len.to_string());
                let file = File::options().write(true).create_new(true).open(&path).unwrap();
                write(&file, body, &bounce).unwrap();
                assert!(std::fs::read(&path).unwrap() == body, "{len} bytes");
            }
        }
    }
}
