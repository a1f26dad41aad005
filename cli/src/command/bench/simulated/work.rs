//! A simulated agent's tasks. Nothing is read or compressed; claims, packs' summaries, index segments and manifests are
//! real, and so is the repository: what is committed is listed, planned and deduplicated as any backup.
use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use palinurus_proto::from_status;
use palinurus_proto::v1::claim_request::Message;
use palinurus_proto::v1::fleet_client::FleetClient;
use palinurus_proto::v1::{self, task::Work, task_result::Result as Outcome};
use palinurus_repository::index::IndexSegment;
use palinurus_repository::manifest::{ManifestRef, ManifestWriter, Warnings};
use palinurus_repository::pack::{ChunkAt, PackSummary};
use palinurus_repository::{
    ChunkId, Clock, Entropy, Error, Result, SystemClock, SystemEntropy, TransactionId, WriterId,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::Unlocked;
use super::agent::{Agent, MESSAGE_MAX};
use super::content::{CHUNK, Packer};

/// Questions on their way, as of a real agent's workers.
const WINDOW: usize = 4;
const SEGMENT_PACKS: usize = 192;
const YOURS: u8 = 1;
const ANOTHER: u8 = 2;

/// What an upload leaves to the manifest.
#[derive(Debug, Default)]
pub(super) struct Uploaded {
    places: Vec<Option<ChunkAt>>,
    packs: Vec<PackSummary>,
    /// The base's manifest stands.
    unchanged: bool,
}

pub(super) async fn execute(
    agent: &Agent,
    channel: Channel,
    task: &v1::Task,
    epoch: u64,
) -> Result<Option<Outcome>> {
    let Some(work) = &task.work else { return Err(Error::invalid("a task of no kind")) };
    Ok(match work {
        Work::Inspect(_) => Some(Outcome::Inspect(v1::InspectResult::default())),
        Work::Freeze(_) => None,
        Work::Snapshot(_) => {
            let now = SystemClock.now().0;
            let (files, bytes) = (agent.held.files, agent.held.bytes());
            Some(Outcome::Snapshot(v1::SnapshotResult {
                files,
                bytes,
                taken_ms: now,
                taken_to_ms: now,
                ..Default::default()
            }))
        }
        Work::Thaw(_) => Some(Outcome::Thaw(v1::ThawResult::default())),
        Work::Upload(order) => {
            Some(Outcome::Upload(Box::pin(upload(agent, channel, task, order, epoch)).await?))
        }
        Work::Manifest(order) => Some(Outcome::Manifest(Box::pin(manifest(agent, task, order)).await?)),
        Work::Release(_) => {
            agent.uploaded.lock().await.take();
            None
        }
        _ => return Err(Error::invalid(format!("a simulated agent does no {}", task.task))),
    })
}

async fn upload(
    agent: &Agent,
    channel: Channel,
    task: &v1::Task,
    order: &v1::UploadTask,
    epoch: u64,
) -> Result<v1::UploadResult> {
    let transaction = TransactionId::from_slice(&order.transaction)?;
    let (storage, _) = unlocked(agent, task).await?;
    let version = agent.fleet.version.load(Ordering::Relaxed);
    let mut uploaded = Uploaded::default();
    if agent.fleet.unchanged.load(Ordering::Relaxed) && !order.base.is_empty() {
        uploaded.unchanged = true;
        *agent.uploaded.lock().await = Some(uploaded);
        return Ok(v1::UploadResult::default());
    }
    uploaded.places = vec![None; agent.held.chunks as usize];
    agent.fleet.claims_begin()?;
    let writer = WriterId(entropy().array()?);
    let mut packer = Packer::new(transaction, writer);
    let (out, outgoing) = mpsc::channel(16);
    let lost = || Error::unavailable("the claim stream is closed");
    let send =
        async |message| out.send(v1::ClaimRequest { message: Some(message) }).await.map_err(|_| lost());
    send(Message::Open(v1::ClaimOpen {
        service: agent.service.clone(),
        node: agent.node.clone(),
        instance: agent.instance.clone(),
        operation: task.operation.clone(),
        transaction: order.transaction.clone(),
        epoch,
    }))
    .await?;
    let mut client = FleetClient::new(channel)
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    let mut replies = client.claim(ReceiverStream::new(outgoing)).await.map_err(from_status)?.into_inner();
    let store = async |packed: Option<(PackSummary, Vec<u64>)>, uploaded: &mut Uploaded| {
        let Some((summary, numbers)) = packed else { return Ok(()) };
        storage.put_new(&summary.pack.key(), Bytes::from_static(b"a pack of a fleet without data")).await?;
        for ((_, at), number) in summary.chunks().zip(numbers) {
            uploaded.places[number as usize] = Some(at);
        }
        send(Message::Stored(v1::ClaimStored { pack: summary.encode().into() })).await?;
        uploaded.packs.push(summary);
        Ok::<_, Error>(())
    };
    let ask = agent.fleet.ask;
    let mut questions =
        (0..agent.held.chunks).step_by(ask).map(|from| from..(from + ask as u64).min(agent.held.chunks));
    let mut waiting = VecDeque::new();
    let mut sequence = 0;
    loop {
        while waiting.len() < WINDOW
            && let Some(chunks) = questions.next()
        {
            sequence += 1;
            let ids: Vec<ChunkId> = chunks.clone().map(|chunk| agent.held.id(chunk, version)).collect();
            let wire: Vec<u8> = ids.iter().flat_map(|id| id.0).collect();
            waiting.push_back((sequence, chunks, ids));
            send(Message::Ask(v1::ClaimAsk { sequence, ids: wire.into(), ..Default::default() })).await?;
        }
        let Some((sequence, chunks, ids)) = waiting.pop_front() else { break };
        let reply = replies.message().await.map_err(from_status)?.ok_or_else(lost)?;
        if reply.sequence != sequence || reply.verdicts.len() != ids.len() {
            return Err(Error::internal("an answer to another question"));
        }
        agent.fleet.asked.fetch_add(ids.len() as u64, Ordering::Relaxed);
        let mut places = reply.places.iter();
        for ((chunk, id), verdict) in chunks.zip(ids).zip(reply.verdicts.iter().copied()) {
            match verdict {
                YOURS => store(packer.add(id, chunk), &mut uploaded).await?,
                // No two of these nodes hold the same.
                ANOTHER => return Err(Error::internal("another node has claimed what is only here")),
                _ => {
                    let place = places.next().ok_or_else(|| Error::internal("stored, and no place told"))?;
                    uploaded.places[chunk as usize] = Some(ChunkAt::decode(place)?);
                    agent.fleet.stored.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
    store(packer.close(), &mut uploaded).await?;
    drop(out);
    while replies.message().await.map_err(from_status)?.is_some() {}
    agent.fleet.claims_end()?;
    *agent.uploaded.lock().await = Some(uploaded);
    Ok(v1::UploadResult::default())
}

async fn manifest(agent: &Agent, task: &v1::Task, order: &v1::ManifestTask) -> Result<v1::ManifestResult> {
    let transaction = TransactionId::from_slice(&order.transaction)?;
    let uploaded = agent.uploaded.lock().await.take();
    let uploaded = uploaded.ok_or_else(|| Error::internal("a manifest before the upload"))?;
    let mut summary = v1::BackupNode {
        node: agent.node.clone(),
        files: agent.held.files,
        bytes: agent.held.bytes(),
        ..Default::default()
    };
    if uploaded.unchanged {
        summary.unchanged = true;
        return Ok(v1::ManifestResult {
            manifest: order.base.clone(),
            summary: Some(summary),
            ..Default::default()
        });
    }
    let (storage, keys) = unlocked(agent, task).await?;
    let _turn = agent.fleet.writing.acquire().await.map_err(|e| Error::internal("a turn").with_source(e))?;
    let (held, node) = (agent.held, agent.node.clone());
    let chunks_new: usize =
        uploaded.packs.iter().flat_map(|pack| &pack.frames).map(|frame| frame.chunks.len()).sum();
    summary.bytes_new = chunks_new as u64 * u64::from(CHUNK);
    summary.bytes_stored = uploaded.packs.iter().map(|pack| pack.size).sum();
    let made = super::super::blocking(move || {
        let mut objects = Vec::new();
        let writer = WriterId(entropy().array()?);
        for (packs, number) in uploaded.packs.chunks(SEGMENT_PACKS).zip(0..) {
            objects.push(IndexSegment::seal(&keys, transaction, writer, number, packs)?);
        }
        let segments = objects.len();
        let missing = || Error::internal("a chunk without a place");
        let places: Option<Vec<ChunkAt>> = uploaded.places.into_iter().collect();
        let places = places.ok_or_else(missing)?;
        let mut manifest = ManifestWriter::new(&keys, transaction, &node, writer, SystemClock.now())?;
        for entry in held.entries(&places) {
            manifest.push(&entry)?;
            objects.extend(std::iter::from_fn(|| manifest.full_part()));
        }
        let finished = manifest.finish(Warnings::default())?;
        objects.extend(finished.parts);
        Ok((objects, segments, finished.reference))
    });
    let (objects, segments, reference): (Vec<(String, Bytes)>, usize, ManifestRef) = made.await?;
    let segments = objects.iter().take(segments).map(|(key, _)| key.clone().into_bytes().into()).collect();
    for (key, body) in objects {
        agent.fleet.manifest_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        storage.put_new(&key, body).await?;
    }
    Ok(v1::ManifestResult {
        manifest: reference.encode().into(),
        summary: Some(summary),
        segments,
        ..Default::default()
    })
}

/// A store and its keys are the same for all agents of a service.
async fn unlocked(agent: &Agent, task: &v1::Task) -> Result<Unlocked> {
    let mut known = agent.fleet.unlocked.lock().await;
    let unlocked = match known.get(&task.repository) {
        Some(unlocked) => unlocked.clone(),
        None => {
            let storage = palinurus_repository::storage::open(&task.repository)?;
            let keys = agent.fleet.keys.unlock(&*storage).await?;
            known.insert(task.repository.clone(), (storage.clone(), keys.clone()));
            (storage, keys)
        }
    };
    drop(known);
    unlocked.1.learn(&*unlocked.0, &palinurus_proto::sealed(&task.key_epochs)?).await?;
    Ok(unlocked)
}

fn entropy() -> Box<dyn Entropy> {
    Box::new(SystemEntropy::new())
}
