//! Moves chunks out of packs, as far as their frames open.
use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use super::{Contents, Pausing, open};
use crate::commit::Repository;
use crate::error::Result;
use crate::id::{ChunkId, TransactionId, WriterId};
use crate::index::IndexSegment;
use crate::pack::{ChunkAt, PackSummary, PackWriter};

/// As the pipeline's.
const LEVEL: i32 = 1;

/// Stores the chunks that are `wanted` and whose frames open in new packs of the transaction, with an index segment. Each is
/// held to its id on the way. One pack in memory at a time.
pub(crate) async fn carry(
    repository: &Repository,
    transaction: TransactionId,
    writer: WriterId,
    contents: &Contents,
    wanted: &BTreeSet<ChunkId>,
    pausing: Pausing<'_>,
) -> Result<HashMap<ChunkId, ChunkAt>> {
    let mut carrying = Carrying {
        repository,
        transaction,
        writer,
        pack: None,
        next: 0,
        summaries: Vec::new(),
        places: HashMap::new(),
    };
    for summary in contents.0.values() {
        for (ordinal, frame) in (0u32..).zip(&summary.frames) {
            let any = frame.chunks.iter().any(|(id, _)| carrying.wants(wanted, id));
            let Some(at) = summary.frame(ordinal).filter(|_| any) else { continue };
            pausing.check()?;
            if let Some(plain) = open(repository, &at).await? {
                carrying.frame(&plain, &frame.chunks, wanted).await?;
            }
        }
    }
    carrying.finish().await
}

struct Carrying<'a> {
    repository: &'a Repository,
    transaction: TransactionId,
    writer: WriterId,
    pack: Option<PackWriter>,
    next: u32,
    summaries: Vec<PackSummary>,
    places: HashMap<ChunkId, ChunkAt>,
}

impl Carrying<'_> {
    fn wants(&self, wanted: &BTreeSet<ChunkId>, id: &ChunkId) -> bool {
        wanted.contains(id) && !self.places.contains_key(id)
    }

    async fn frame(
        &mut self,
        plain: &[u8],
        chunks: &[(ChunkId, u32)],
        wanted: &BTreeSet<ChunkId>,
    ) -> Result<()> {
        let mut kept = Vec::new();
        let mut ids: Vec<(ChunkId, u32)> = Vec::new();
        let mut rest = plain;
        for (id, len) in chunks {
            let Some((chunk, after)) = rest.split_at_checked(*len as usize) else { break };
            rest = after;
            let own = self.repository.keys().chunk_id(chunk) == *id;
            if own && self.wants(wanted, id) && !ids.iter().any(|(known, _)| known == id) {
                kept.extend_from_slice(chunk);
                ids.push((*id, *len));
            }
        }
        if ids.is_empty() {
            return Ok(());
        }
        let mut pack = match self.pack.take() {
            Some(pack) => pack,
            None => {
                let keys = self.repository.keys();
                let transaction = keys.transaction(self.transaction)?;
                let counter = self.next;
                self.next += 1;
                PackWriter::new(keys, &transaction, self.writer, counter, LEVEL, Vec::new())?
            }
        };
        let frame = pack.append(&kept, ids.clone())?;
        let mut start = 0;
        for (id, len) in ids {
            self.places.insert(id, ChunkAt { frame, start, len });
            start += len;
        }
        self.pack = Some(pack);
        if self.pack.as_ref().is_some_and(PackWriter::is_full) { self.put().await } else { Ok(()) }
    }

    async fn put(&mut self) -> Result<()> {
        let Some(pack) = self.pack.take() else { return Ok(()) };
        let sealed = pack.finish()?;
        let mut body = sealed.buffer;
        body.truncate(sealed.len);
        self.repository.storage().put_new(&sealed.summary.pack.key(), Bytes::from(body)).await?;
        self.summaries.push(sealed.summary);
        Ok(())
    }

    async fn finish(mut self) -> Result<HashMap<ChunkId, ChunkAt>> {
        self.put().await?;
        for (n, run) in (0u32..).zip(IndexSegment::runs(&self.summaries)) {
            let (key, body) =
                IndexSegment::seal(self.repository.keys(), self.transaction, self.writer, n, run)?;
            self.repository.storage().put_new(&key, body).await?;
        }
        Ok(self.places)
    }
}
