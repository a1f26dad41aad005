//! The packs of this transaction that are durable, kept beside the spool: an agent that starts again tells them
//! to the coordinator and uploads none of them twice.
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use palinurus_repository::pack::PackSummary;
use palinurus_repository::{Blocking, Error, Result};

/// An entry is a trailer; none is larger.
const ENTRY_MAX: u32 = 8 << 20;

#[derive(Debug)]
pub struct PackJournal {
    path: PathBuf,
    blocking: Blocking,
}

impl PackJournal {
    pub fn in_spool(spool: &Path, blocking: Blocking) -> Self {
        Self { path: spool.join("packs"), blocking }
    }

    pub async fn append(&self, entry: Bytes) -> Result<()> {
        let path = self.path.clone();
        let append = move || {
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
            let mut line = Vec::with_capacity(entry.len() + 36);
            line.extend_from_slice(&(entry.len() as u32).to_le_bytes());
            line.extend_from_slice(blake3::hash(&entry).as_bytes());
            line.extend_from_slice(&entry);
            file.write_all(&line)?;
            file.sync_data()
        };
        let failed = format!("write {}", self.path.display());
        self.blocking.run(move || append().map_err(|e| Error::io(failed, e))).await
    }

    /// Calls `each` with every whole entry. A torn last entry is a pack that was not told to anybody: it ends
    /// the journal, and is cut off so that later entries follow whole ones.
    pub fn read(&self, mut each: impl FnMut(&[u8], PackSummary) -> Result<()>) -> Result<()> {
        let io = |e| Error::io(format!("read {}", self.path.display()), e);
        let file = match std::fs::File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(io(e)),
        };
        let length = file.metadata().map_err(io)?.len();
        let mut reader = BufReader::new(file);
        let mut whole = 0;
        while let Some(entry) = next_entry(&mut reader) {
            let Ok(summary) = PackSummary::decode(&entry) else { break };
            whole += 36 + entry.len() as u64;
            each(&entry, summary)?;
        }
        if whole < length {
            tracing::warn!(path = %self.path.display(), whole, length, "the pack journal ends in a torn entry");
            let file = std::fs::OpenOptions::new().write(true).open(&self.path).map_err(io)?;
            file.set_len(whole).and_then(|()| file.sync_data()).map_err(io)?;
        }
        Ok(())
    }
}

fn next_entry(reader: &mut impl Read) -> Option<Vec<u8>> {
    let mut head = [0; 36];
    reader.read_exact(&mut head).ok()?;
    let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    if len > ENTRY_MAX {
        return None;
    }
    let mut entry = vec![0; len as usize];
    reader.read_exact(&mut entry).ok()?;
    (blake3::hash(&entry).as_bytes() == &head[4..]).then_some(entry)
}
