//! The bytes' way without threads: over a simulated disk, with the real claims, journal, packs, index and manifests.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use palinurus_agent::mover::Mover;
use palinurus_agent::pipeline::{ClaimStream, Claims, Context, How, PackJournal, Verdict};
use palinurus_agent::restore::{Request, RestoreResult};
use palinurus_agent::warning::Warnings;
use palinurus_proto::v1;
use palinurus_repository::index::IndexSegment;
use palinurus_repository::manifest::entry::{Entry, Kind, Meta, Piece};
use palinurus_repository::manifest::{ManifestReader, ManifestRef, ManifestWriter, entry};
use palinurus_repository::pack::{ChunkAt, FrameReader, PackSummary, PackWriter};
use palinurus_repository::storage::put_own;
use palinurus_repository::{ChunkId, Error, Keys, Result, Storage, Timestamp, WriterId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::disk::{Content, block};
use crate::invariant::Invariant;
use crate::log;
use crate::place;
use crate::store::{SCHEME, passes};
use crate::wal::Wal;
use crate::world::{HostId, World, lock, pause, trace};

/// Chunks asked for at a time, in a frame, and in a pack: small, so that there are many of each.
const ASKED: usize = 4;
const FRAME: usize = 2;
const PACK: usize = 6;
const DRAFT: &str = "draft";

type Places = BTreeMap<ChunkId, ChunkAt>;

#[derive(Debug)]
pub(crate) struct SimMover {
    pub(crate) world: Arc<World>,
    pub(crate) host: HostId,
    pub(crate) service: String,
    pub(crate) node: String,
}

#[async_trait]
impl Mover for SimMover {
    async fn upload(&self, context: Context, cancel: CancellationToken) -> Result<v1::UploadResult> {
        until(&cancel, self.uploaded(&context)).await
    }

    async fn take_over(&self, context: Context, cancel: CancellationToken) -> Result<v1::UploadResult> {
        until(&cancel, self.taken_over(&context)).await
    }

    async fn append(&self, _: Context, _: CancellationToken) -> Result<v1::UploadResult> {
        Err(Error::internal("a simulated engine adds nothing"))
    }

    async fn manifest(&self, context: Context, cancel: CancellationToken) -> Result<v1::ManifestResult> {
        until(&cancel, self.written(&context)).await
    }

    async fn restore(&self, request: Request, cancel: CancellationToken) -> Result<RestoreResult> {
        until(&cancel, self.restored(&request)).await
    }
}

async fn until<T>(cancel: &CancellationToken, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::unavailable("cancelled")),
        done = work => done,
    }
}

impl SimMover {
    /// The snapshot, as the engine keeps it for the operation that the spool is named after.
    fn content(&self, context: &Context) -> Result<Content> {
        let operation = context.spool.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let held = self.world.disk(self.host, |disk| disk.held.get(operation).cloned());
        let held = held.ok_or_else(|| Error::not_found(format!("no snapshot is held for {operation}")))?;
        place::reads(&self.world, self.host, (&self.service, &self.node), &held);
        let mut vaults = lock(&self.world.vaults);
        let vault = vaults.entry(format!("{SCHEME}{}", self.service)).or_default();
        vault.frozen.insert((context.transaction, self.node.clone()), held.clone());
        Ok(held)
    }

    async fn uploaded(&self, context: &Context) -> Result<v1::UploadResult> {
        let content = self.content(context)?;
        let mut places = match &context.base {
            Some(base) => base_places(context, base, &content).await?,
            None => Places::new(),
        };
        let blocks = blocks(&context.keys, &content);
        let mut ids: Vec<ChunkId> = blocks.keys().filter(|id| !places.contains_key(id)).copied().collect();
        let begin = ids.len() * context.position as usize / context.nodes.max(1) as usize;
        ids.rotate_left(begin);
        let borrowed = self.ask_and_store(context, &blocks, &ids, &mut places).await?;
        write_draft(&context.spool, &places)?;
        Ok(v1::UploadResult { borrowed, ..Default::default() })
    }

    /// What was borrowed of a node that is lost by now, and what has become another's since.
    async fn taken_over(&self, context: &Context) -> Result<v1::UploadResult> {
        let content = self.content(context)?;
        let mut places = read_draft(&context.spool)?;
        let blocks = blocks(&context.keys, &content);
        let lacking: Vec<ChunkId> = blocks.keys().filter(|id| !places.contains_key(id)).copied().collect();
        let borrowed = self.ask_and_store(context, &blocks, &lacking, &mut places).await?;
        write_draft(&context.spool, &places)?;
        Ok(v1::UploadResult { borrowed, ..Default::default() })
    }

    /// How many of the chunks another node uploads.
    async fn ask_and_store(
        &self,
        context: &Context,
        blocks: &BTreeMap<ChunkId, Vec<u8>>,
        ids: &[ChunkId],
        places: &mut Places,
    ) -> Result<u64> {
        let mut borrowed = 0;
        asking(context, async |claims| {
            let mut mine = Vec::new();
            for some in ids.chunks(ASKED) {
                for (id, verdict) in some.iter().zip(claims.asked(some.to_vec(), How::Claim).await?) {
                    match verdict {
                        Verdict::Yours => mine.push(*id),
                        Verdict::Another => borrowed += 1,
                        Verdict::Stored(at) => drop(places.insert(*id, at)),
                    }
                }
                pause(3).await;
            }
            self.store(context, claims, blocks, &mine, places).await
        })
        .await?;
        Ok(borrowed)
    }

    /// Packs, puts, journals, tells.
    async fn store(
        &self,
        context: &Context,
        claims: &Claims,
        blocks: &BTreeMap<ChunkId, Vec<u8>>,
        mine: &[ChunkId],
        places: &mut Places,
    ) -> Result<()> {
        let writer = WriterId(context.entropy.array()?);
        let key = context.keys.transaction(context.transaction)?;
        let journal = PackJournal::in_spool(&context.spool, context.blocking);
        for (counter, some) in mine.chunks(PACK).enumerate() {
            let buffer = lock(&self.world.buffers).pop().unwrap_or_default();
            let mut pack = PackWriter::new(&context.keys, &key, writer, counter as u32, 1, buffer)?;
            for frame in some.chunks(FRAME) {
                let plain: Vec<u8> = frame.iter().flat_map(|id| blocks[id].iter().copied()).collect();
                pack.append(&plain, frame.iter().map(|id| (*id, blocks[id].len() as u32)).collect())?;
            }
            let sealed = pack.finish()?;
            let body = Bytes::copy_from_slice(&sealed.buffer[..sealed.len]);
            lock(&self.world.buffers).push(sealed.buffer);
            let summary = sealed.summary;
            put_own(&*context.storage, &summary.pack.key(), body).await?;
            let encoded = Bytes::from(summary.encode());
            journal.append(encoded.clone()).await?;
            claims.stored(encoded).await?;
            places.extend(summary.chunks());
        }
        Ok(())
    }

    async fn written(&self, context: &Context) -> Result<v1::ManifestResult> {
        let content = self.content(context)?;
        let operation = context.spool.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let ended =
            self.world.disk(self.host, |disk| disk.spans.get(operation).and_then(|(_, wal)| wal.clone()));
        if let (Some(wal), Some(vault)) =
            (ended, lock(&self.world.vaults).get_mut(&format!("{SCHEME}{}", self.service)))
        {
            vault.wals.insert((context.transaction, self.node.clone()), wal);
        }
        let blocks = blocks(&context.keys, &content);
        let mut places = read_draft(&context.spool)?;
        let missing: Vec<ChunkId> = blocks.keys().filter(|id| !places.contains_key(id)).copied().collect();
        if !missing.is_empty() {
            asking(context, async |claims| {
                let mut mine = Vec::new();
                for some in missing.chunks(ASKED) {
                    for (id, verdict) in some.iter().zip(claims.asked(some.to_vec(), How::Settle).await?) {
                        match verdict {
                            Verdict::Stored(at) => drop(places.insert(*id, at)),
                            _ => mine.push(*id),
                        }
                    }
                }
                self.store(context, claims, &blocks, &mine, &mut places).await
            })
            .await?;
        }
        let mut packs: Vec<PackSummary> = Vec::new();
        PackJournal::in_spool(&context.spool, context.blocking).read(|_, pack| {
            packs.push(pack);
            Ok(())
        })?;
        let writer = WriterId(context.entropy.array()?);
        if !packs.is_empty() {
            let (key, body) = IndexSegment::seal(&context.keys, context.transaction, writer, 0, &packs)?;
            put_own(&*context.storage, &key, body).await?;
        }
        let entries = entries(&context.keys, &content, &places)?;
        let mut manifest =
            ManifestWriter::new(&context.keys, context.transaction, &context.node, writer, Timestamp(1))?;
        for entry in &entries {
            manifest.push(entry)?;
        }
        let finished = manifest.finish(Vec::new())?;
        let base = context.base.as_ref().filter(|base| base.root == finished.reference.root);
        if base.is_none() {
            for (key, part) in finished.parts {
                put_own(&*context.storage, &key, part).await?;
            }
        }
        let summary = v1::BackupNode {
            node: context.node.clone(),
            files: finished.files,
            bytes: finished.bytes,
            unchanged: base.is_some(),
            ..Default::default()
        };
        let manifest = base.unwrap_or(&finished.reference).encode().into();
        Ok(v1::ManifestResult { manifest, summary: Some(summary), ..Default::default() })
    }

    async fn restored(&self, request: &Request) -> Result<RestoreResult> {
        let marker = request.manifest.encode();
        place::restores(&self.world, self.host, (&self.service, &self.node), &marker, request.delta);
        let refused = self.world.disk(self.host, |disk| {
            let half = disk.half.as_ref() == Some(&marker);
            if !disk.files.is_empty() && !request.delta && !half {
                return true;
            }
            disk.half = Some(marker.clone());
            // A database that is restored into is down.
            disk.wal = None;
            false
        });
        if refused {
            return Err(Error::conflict("the data directory is not empty"));
        }
        let content = read_all(request.storage.clone(), &request.keys, &request.manifest, |name, blocks| {
            self.world.disk(self.host, |disk| {
                disk.files.insert(name.to_owned(), blocks.to_vec());
            });
        })
        .await?;
        self.served(&request.manifest, &content);
        if let Some(settle) = &request.settle {
            settle.settle().await?;
        }
        if let Some(settle) = &request.settle {
            settle.settle().await?;
        }
        let files = content.len() as u64;
        let wal = self.recovered(&request.manifest);
        self.world.disk(self.host, |disk| {
            disk.files = content;
            disk.wal = wal;
            disk.half = None;
            disk.restored = Some(marker);
        });
        let warnings = Warnings::default();
        Ok(RestoreResult { files, bytes: 0, bytes_written: 0, bytes_fetched: 0, gets: 0, warnings })
    }

    /// The log of the database that was restored.
    fn recovered(&self, manifest: &ManifestRef) -> Option<Wal> {
        let plan = self.world.disk(self.host, |disk| disk.plan.take());
        let saved = lock(&self.world.vaults)
            .get(&format!("{SCHEME}{}", self.service))
            .and_then(|vault| vault.wals.get(&(manifest.transaction, manifest.node.clone())).cloned());
        log::recover(&self.world, &self.service, saved, plan)
    }

    /// What a restore gives out is what was frozen (I1, I7).
    fn served(&self, manifest: &ManifestRef, content: &Content) {
        trace(&format!("restored {} files of {}", content.len(), manifest.key(0)));
        let vaults = lock(&self.world.vaults);
        let Some(vault) = vaults.get(&format!("{SCHEME}{}", self.service)) else { return };
        let frozen = vault.frozen.get(&(manifest.transaction, manifest.node.clone()));
        if frozen != Some(content) {
            let what = format!("{} was restored as {content:?}, and was {frozen:?}", manifest.key(0));
            self.world.violate(Invariant::I1Restores, what);
        }
    }
}

/// Runs `work` with the real claim stream, which comes back after every break.
async fn asking(context: &Context, work: impl AsyncFnOnce(&Claims) -> Result<()>) -> Result<()> {
    let (claims, requests) = Claims::channel(16);
    let stream = ClaimStream {
        leader: context.leader.clone(),
        open: context.claim.clone(),
        spool: context.spool.clone(),
        blocking: context.blocking,
    };
    let running = AbortOnDropHandle::new(tokio::spawn(stream.run(requests, CancellationToken::new())));
    let worked = work(&claims).await;
    drop(claims);
    if worked.is_err() && !running.is_finished() {
        return worked;
    }
    // Why the stream ended says more than that it did.
    running.await.map_err(|e| Error::internal("the claim stream").with_source(e))?.and(worked)
}

fn blocks(keys: &Keys, content: &Content) -> BTreeMap<ChunkId, Vec<u8>> {
    let all: BTreeSet<u64> = content.values().flatten().copied().collect();
    all.into_iter().map(block).map(|bytes| (keys.chunk_id(&bytes), bytes)).collect()
}

/// As of files that did not change: taken over without a question.
async fn base_places(context: &Context, base: &ManifestRef, content: &Content) -> Result<Places> {
    let ids: BTreeMap<&str, _> =
        content.iter().map(|(name, blocks)| (name.as_str(), file_ids(&context.keys, blocks))).collect();
    let mut places = Places::new();
    let mut tries = 0;
    let mut reader = loop {
        tries += 1;
        match ManifestReader::open(context.storage.clone(), &context.keys, base).await {
            Err(e) if passes(&e) && tries < 8 => pause(300).await,
            opened => break opened?,
        }
    };
    while let Some(found) = reader.next_block().await? {
        for entry in &found.entries {
            let (name, Some(was)) = (std::str::from_utf8(&entry.path).unwrap_or_default(), entry.content())
            else {
                continue;
            };
            let Some((id, chunks)) = ids.get(name).filter(|(id, _)| *id == was.id) else { continue };
            debug_assert_eq!(*id, was.id);
            let taken = was.pieces.iter().filter_map(|piece| match piece {
                Piece::Data(at) => Some(*at),
                _ => None,
            });
            places.extend(chunks.iter().copied().zip(taken));
        }
    }
    Ok(places)
}

fn file_ids(keys: &Keys, blocks: &[u64]) -> (palinurus_repository::FileId, Vec<ChunkId>) {
    let bytes: Vec<Vec<u8>> = blocks.iter().map(|n| block(*n)).collect();
    let chunks: Vec<ChunkId> = bytes.iter().map(|bytes| keys.chunk_id(bytes)).collect();
    let size = bytes.iter().map(Vec::len).sum::<usize>() as u64;
    (keys.file_id(size, chunks.iter().copied()), chunks)
}

fn entries(keys: &Keys, content: &Content, places: &Places) -> Result<Vec<Entry>> {
    let mut entries = vec![Entry { path: b".".to_vec(), meta: Meta::default(), kind: Kind::Directory }];
    for (name, blocks) in content {
        let (id, chunks) = file_ids(keys, blocks);
        let pieces: Vec<Piece> = chunks
            .iter()
            .map(|chunk| places.get(chunk).copied().map(Piece::Data))
            .collect::<Option<_>>()
            .ok_or_else(|| Error::internal("a chunk without a place"))?;
        let size = pieces.iter().map(Piece::len).sum();
        let file = entry::Content { size, id, pieces, pages: None };
        entries.push(Entry {
            path: name.clone().into_bytes(),
            meta: Meta::default(),
            kind: Kind::File(file),
        });
    }
    Ok(entries)
}

/// Reads a manifest and all that it names, each chunk proved by its file's id.
pub(crate) async fn read_all(
    storage: Arc<dyn Storage>,
    keys: &Keys,
    manifest: &ManifestRef,
    mut each: impl FnMut(&str, &[u64]),
) -> Result<Content> {
    let mut reader = ManifestReader::open(storage.clone(), keys, manifest).await?;
    let mut frames = FrameReader::new(keys)?;
    let mut content = Content::new();
    while let Some(found) = reader.next_block().await? {
        for entry in found.entries {
            let Some(file) = entry.content() else { continue };
            let name = String::from_utf8_lossy(&entry.path).into_owned();
            let mut blocks = Vec::new();
            let mut ids = Vec::new();
            for piece in &file.pieces {
                let Piece::Data(at) = piece else { return Err(Error::corrupt("a piece of another kind")) };
                let mut stored = storage.get(&at.frame.pack.key(), Some(at.frame.range())).await?.to_vec();
                let mut plain = Vec::new();
                frames.open(&at.frame, &mut stored, &mut plain)?;
                let from = at.start as usize;
                let bytes = plain.get(from..from + at.len as usize).unwrap_or_default();
                ids.push(keys.chunk_id(bytes));
                blocks.push(number(bytes).ok_or_else(|| Error::corrupt("bytes that nobody wrote"))?);
            }
            if keys.file_id(file.size, ids) != file.id {
                return Err(Error::corrupt(format!("{name} has another id")));
            }
            each(&name, &blocks);
            content.insert(name, blocks);
        }
    }
    Ok(content)
}

/// Which block has these bytes.
fn number(bytes: &[u8]) -> Option<u64> {
    static KNOWN: OnceLock<BTreeMap<Vec<u8>, u64>> = OnceLock::new();
    KNOWN.get_or_init(|| (0..BLOCKS).map(|n| (block(n), n)).collect()).get(bytes).copied()
}

/// As many blocks as there are.
pub(crate) const BLOCKS: u64 = 60;

/// Id and place, 32 and whatever a place takes, each behind its length.
fn write_draft(spool: &Path, places: &Places) -> Result<()> {
    let mut bytes = Vec::new();
    for (id, at) in places {
        let at = at.encode();
        bytes.extend_from_slice(id.as_bytes());
        bytes.extend_from_slice(&(at.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&at);
    }
    std::fs::write(spool.join(DRAFT), bytes).map_err(|e| Error::io("write the draft", e))
}

fn read_draft(spool: &Path) -> Result<Places> {
    let bytes = std::fs::read(spool.join(DRAFT)).map_err(|e| Error::io("read the draft", e))?;
    let mut rest = &bytes[..];
    let mut places = Places::new();
    while let Some((id, after)) = rest.split_first_chunk::<32>() {
        let Some((len, after)) = after.split_first_chunk::<4>() else { break };
        let (at, after) = after.split_at(u32::from_le_bytes(*len) as usize);
        places.insert(ChunkId(*id), ChunkAt::decode(at)?);
        rest = after;
    }
    Ok(places)
}
