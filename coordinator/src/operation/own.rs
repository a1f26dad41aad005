//! The coordinator's own tasks. Each looks before it acts, so that doing it again, by this leader or the next, is
//! the same as doing it once.
use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use palinurus_proto::to_wire;
use palinurus_proto::v1::{self, task_result};
use palinurus_repository::ledger::{MissingNode, NodeCommit, Objects, PackSet, Purpose, State};
use palinurus_repository::log::{Lineages, Span};
use palinurus_repository::manifest::{ManifestReader, ManifestRef};
use palinurus_repository::mutant::{self, Mutant};
use palinurus_repository::storage::{delete_unlocked, list_all};
use palinurus_repository::{
    Error, ErrorKind, LineageId, Result, TransactionId, quarantine, repair, rewrite, sweep, verify,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fence::{Places, fence};
use super::record::{self, Patch};
use super::{Work, agree, taking_part};
use crate::drill;
use crate::retention;
use crate::vault::Vault;

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Manifests opened at a time.
const AT_ONCE: usize = 8;

pub(crate) type OnProgress<'a> = &'a (dyn Fn(v1::Progress) + Send + Sync);

/// Tries until the store has failed for as long as `patience`, or somebody asks to stop.
pub(crate) async fn persevere(
    work: Work,
    operation: &v1::Operation,
    vault: &Vault,
    places: &dyn Places,
    patience: Duration,
    stop: &CancellationToken,
    progress: OnProgress<'_>,
) -> Result<Patch, v1::Failure> {
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match perform(work, operation, vault, places, stop, progress).await {
            Ok(patch) => return Ok(patch),
            Err(e) => e,
        };
        if error.kind() != ErrorKind::Unavailable || began.elapsed() >= patience || stop.is_cancelled() {
            tracing::warn!(operation = operation.id, work = work.name(), error = error.chain(), "failed");
            return Err(palinurus_proto::failure(&error));
        }
        tracing::info!(operation = operation.id, work = work.name(), error = error.chain(), "trying again");
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn perform(
    work: Work,
    operation: &v1::Operation,
    vault: &Vault,
    places: &dyn Places,
    stop: &CancellationToken,
    progress: OnProgress<'_>,
) -> Result<Patch> {
    match work {
        Work::Begin => begin(operation, vault).await,
        Work::Commit => commit(operation, vault).await,
        Work::Abort => abort(operation, vault).await,
        Work::Forget if operation.retention.is_some() => retention::forget(operation, vault, stop).await,
        Work::Forget => forget(operation, vault).await,
        Work::Rewrite => retention::rewrite(operation, vault, stop).await,
        Work::Sweep => swept(operation, vault, stop).await,
        Work::Check => check(vault, stop, progress).await,
        Work::Fence => fence(operation, places, vault).await,
        Work::Mark => mark(operation, vault).await,
        Work::Mend => mend(vault).await,
        Work::Record => drill::record(operation, vault).await,
        other => Err(Error::internal(format!("{} is no task of the coordinator's", other.name()))),
    }
}

fn transaction(operation: &v1::Operation) -> Result<TransactionId> {
    operation.backup.as_ref().map_or("", |backup| &backup.backup_id).parse()
}

/// Opens the transaction, and only then looks for what it may reuse.
async fn begin(operation: &v1::Operation, vault: &Vault) -> Result<Patch> {
    let transaction = transaction(operation)?;
    let repository = &vault.repository;
    close_others(vault, Some(transaction)).await?;
    // Nothing was ever put under a transaction that the ledger does not know.
    let is_new = !repository.read(|state| state.open_transactions().contains_key(&transaction)).await;
    if is_new {
        repository.begin(vault.epoch, transaction, Purpose::Backup).await?;
    }
    let (_, warnings) =
        if is_new { vault.new_claims(transaction).await? } else { vault.claims(transaction).await? };
    let full = operation.backup.as_ref().is_some_and(|backup| backup.full);
    let bases = if full { Vec::new() } else { repository.read(|state| bases(state, operation)).await };
    let key_epochs = repository.read(|state| key_epochs(state, transaction, &bases)).await;
    let damaged = repository.read(|state| damaged(state, &bases)).await;
    Ok(Patch::Begun { bases, key_epochs, damaged, warnings })
}

/// What the agents seal under, and what they read of their bases.
fn key_epochs(state: &State, transaction: TransactionId, bases: &[v1::NodeManifest]) -> Vec<v1::KeyEpoch> {
    let backups: BTreeSet<&str> = bases.iter().map(|base| base.backup_id.as_str()).collect();
    let backups = backups.iter().filter_map(|id| state.backup(id.parse().ok()?));
    let read = backups.flat_map(|backup| backup.transactions());
    to_wire(state.sealed(read.chain([transaction])))
}

/// For each node, its manifest in the newest backup that has it, or else that of a node whose place it took.
fn bases(state: &State, operation: &v1::Operation) -> Vec<v1::NodeManifest> {
    let successions = operation.backup.iter().flat_map(|backup| &backup.successions);
    let newest = |node: &String, name: &String| {
        state.backups().rev().find_map(|backup| {
            let commit = backup.nodes.iter().find(|commit| commit.node == *name)?;
            // Nothing is taken over from a manifest that is known to be damaged.
            let commit = Some(commit).filter(|commit| !state.is_damaged(&commit.manifest))?;
            Some(v1::NodeManifest {
                node: node.clone(),
                backup_id: backup.id.to_string(),
                manifest: commit.manifest.encode().into(),
            })
        })
    };
    let base = |node: &String| {
        let before = successions.clone().filter(|each| each.node == *node).flat_map(|each| &each.succeeds);
        std::iter::once(node).chain(before).find_map(|name| newest(node, name))
    };
    operation.nodes.iter().filter_map(base).collect()
}

/// Packs of those backups that nothing may be taken over from.
fn damaged(state: &State, bases: &[v1::NodeManifest]) -> Bytes {
    let damaged = state.damaged().packs;
    let of_bases = state.backups().filter(|backup| {
        let id = backup.id.to_string();
        bases.iter().any(|base| base.backup_id == id)
    });
    let mut packs = PackSet::new();
    of_bases.for_each(|backup| packs.extend(&backup.packs.intersection(&damaged)));
    if packs.is_empty() { Bytes::new() } else { packs.encode().into() }
}

/// A service has one exclusive operation, so any other backup's or rewrite's transaction was left behind by one that
/// could not end it, and would hold up every sweep.
async fn close_others(vault: &Vault, ours: Option<TransactionId>) -> Result<()> {
    vault.repository.refresh().await?;
    let others = |state: &State| -> Vec<TransactionId> {
        let open = state.open_transactions().iter();
        open.filter(|(id, open)| Some(**id) != ours && open.purpose == Purpose::Backup)
            .map(|(id, _)| *id)
            .collect()
    };
    for other in vault.repository.read(others).await {
        tracing::warn!(transaction = %other, "ending a transaction that was left behind");
        vault.repository.abort(vault.epoch, other).await?;
    }
    rewrite::abandon(&vault.repository, vault.epoch).await?;
    Ok(())
}

async fn commit(operation: &v1::Operation, vault: &Vault) -> Result<Patch> {
    let transaction = transaction(operation)?;
    let repository = &vault.repository;
    if repository.read(|state| state.backup(transaction).is_none()).await {
        let lineages = repository.read(|state| state.lineages().clone()).await;
        let nodes: Vec<NodeCommit> = taking_part(operation)
            .map(|node| node_commit(operation, transaction, node, &lineages))
            .collect::<Result<_>>()?;
        let packs = packs(vault, &nodes).await?;
        vault.list_unlisted(transaction, &packs).await?;
        repository.commit(vault.epoch, transaction, nodes, missing(operation), packs).await?;
    }
    let chunks_moved = vault.close_claims().await;
    // The backup stands; the index is only the next one's convenience.
    if let Err(e) = vault.fold().await {
        tracing::warn!(error = e.chain(), "the index does not know the new backup yet");
    }
    vault.rest().await;
    Ok(Patch::Committed { chunks_moved })
}

/// All that the manifests name. Where every node is as an earlier backup has it, that one knows.
async fn packs(vault: &Vault, nodes: &[NodeCommit]) -> Result<PackSet> {
    let repository = &vault.repository;
    let manifests: Vec<_> = nodes.iter().map(|node| &node.manifest).collect();
    if let Some(packs) = repository.packs_as_before(&manifests).await {
        return Ok(packs);
    }
    let footers = manifests.into_iter().map(|manifest| async move {
        let storage = repository.storage().clone();
        let reader = ManifestReader::open(storage, repository.keys(), manifest).await?;
        Ok::<_, Error>(reader.footer().packs.clone())
    });
    let footers = futures::stream::iter(footers.collect::<Vec<_>>()).buffered(AT_ONCE);
    footers.try_fold(PackSet::new(), async |all, packs| Ok(all.union(&packs))).await
}

fn missing(operation: &v1::Operation) -> Vec<MissingNode> {
    let missing = operation.backup.iter().flat_map(|backup| &backup.missing);
    let missing = missing.map(|missing| MissingNode {
        node: missing.node.clone(),
        reason: missing.reason.clone(),
        files: missing.files,
        bytes: missing.bytes,
        paths: missing.paths.iter().map(|path| path.to_vec()).collect(),
    });
    missing.collect()
}

/// What a node says it wrote, held to what it was asked to write.
fn node_commit(
    operation: &v1::Operation,
    transaction: TransactionId,
    node: &str,
    lineages: &Lineages,
) -> Result<NodeCommit> {
    let record = record::find(operation, node, Work::Manifest);
    let result = record.and_then(|record| record.result.as_ref()).and_then(|result| result.result.as_ref());
    let Some(task_result::Result::Manifest(result)) = result else {
        return Err(Error::internal(format!("node {node} named no manifest")));
    };
    let manifest = ManifestRef::decode(&result.manifest)?;
    let base = operation.backup.iter().flat_map(|backup| &backup.bases).find(|base| base.node == node);
    let unchanged = base.is_some_and(|base| base.manifest == result.manifest);
    if !unchanged && (manifest.node != node || manifest.transaction != transaction) {
        return Err(Error::internal(format!(
            "node {node} named the manifest {}, which is not its own of this backup",
            manifest.key(0)
        )));
    }
    let summary = result.summary.clone().unwrap_or_default();
    Ok(NodeCommit {
        node: node.to_owned(),
        manifest,
        files: summary.files,
        bytes: summary.bytes,
        bytes_read: summary.bytes_read,
        bytes_new: summary.bytes_new,
        bytes_stored: summary.bytes_stored,
        warnings: summary.warnings,
        unchanged,
        log: match result.log.as_ref().filter(|_| !unchanged) {
            Some(told) => span(told, lineages)?,
            None => None,
        },
        cut: Some(agree::cut(operation, node)),
    })
}

/// Of a node that writes a log: an unchanged manifest is of another moment than the log's.
/// What a node follows is the newest of that name: an older one was set back.
fn span(told: &v1::LogSpan, lineages: &Lineages) -> Result<Option<Span>> {
    let v1::LogSpan { lineage, start, stop, identity } = told;
    if start > stop {
        return Err(Error::invalid("a backup that ends in the log before it begins"));
    }
    let of_name = || lineages.values().filter(|it| it.identity == *identity).max_by_key(|it| it.number);
    let lineage = match lineage.is_empty() {
        true => of_name().filter(|it| it.from <= *stop).map(|it| it.id),
        false => Some(LineageId::from_slice(lineage)?),
    };
    Ok(lineage.map(|lineage| Span { lineage, start: *start, stop: *stop }))
}

/// Ends the transaction unless the ledger says that it was committed.
async fn abort(operation: &v1::Operation, vault: &Vault) -> Result<Patch> {
    let transaction = transaction(operation)?;
    let repository = &vault.repository;
    let chunks_moved = vault.close_claims().await;
    vault.rest().await;
    repository.refresh().await?;
    let (committed, open) = repository
        .read(|state| {
            (state.backup(transaction).is_some(), state.open_transactions().contains_key(&transaction))
        })
        .await;
    if committed {
        return Ok(Patch::Committed { chunks_moved });
    }
    if open {
        repository.abort(vault.epoch, transaction).await?;
    }
    // Nothing of an aborted transaction can ever be referenced. What a straggler still puts, a later sweep takes.
    if let Err(e) = delete_all_of(vault, transaction).await {
        tracing::warn!(%transaction, error = e.chain(), "leftovers of the failed backup stay until the next sweep");
    }
    Ok(Patch::Nothing)
}

async fn delete_all_of(vault: &Vault, transaction: TransactionId) -> Result<()> {
    if !vault
        .repository
        .read(|state| state.is_closed(transaction) && state.backup(transaction).is_none())
        .await
    {
        return Ok(());
    }
    let storage = vault.repository.storage();
    let objects = list_all(&**storage, &format!("t/{transaction}/")).await?;
    let keys: Vec<String> = objects.into_iter().map(|object| object.key).collect();
    for keys in keys.chunks(1000) {
        delete_unlocked(&**storage, keys.to_vec()).await?;
    }
    Ok(())
}

async fn forget(operation: &v1::Operation, vault: &Vault) -> Result<Patch> {
    let id: TransactionId = operation.delete.as_ref().map_or("", |delete| &delete.backup_id).parse()?;
    vault.repository.refresh().await?;
    if vault.repository.read(|state| state.backup(id).is_some()).await {
        vault.repository.forget(vault.epoch, id).await?;
    }
    Ok(Patch::Nothing)
}

async fn swept(operation: &v1::Operation, vault: &Vault, stop: &CancellationToken) -> Result<Patch> {
    if !mutant::on(Mutant::SweepIgnoresOpen) {
        close_others(vault, None).await?;
    }
    let give_way = || stop.is_cancelled() && operation.retention.is_some();
    let swept = sweep::sweep_until(&vault.repository, vault.epoch, &give_way).await?;
    vault.prune_index().await?;
    vault.rest().await;
    Ok(Patch::Swept(swept))
}

async fn mark(operation: &v1::Operation, vault: &Vault) -> Result<Patch> {
    let decoded = |of: fn(&v1::VerifyDetail) -> &Bytes| match operation.verify.as_ref().map(of) {
        Some(encoded) => Objects::decode(encoded),
        None => Ok(Objects::default()),
    };
    let (damaged, mut whole) = (decoded(|verify| &verify.damaged)?, decoded(|verify| &verify.whole)?);
    // What one reader found whole and another damaged is damaged.
    whole.packs.remove(&damaged.packs);
    whole.manifests.retain(|name| !damaged.manifests.contains(name));
    quarantine::mark(&vault.repository, vault.epoch, &damaged, &whole).await?;
    Ok(Patch::Marked)
}

/// Reads manifests, and of the data only the frames that chunks are moved from.
async fn mend(vault: &Vault) -> Result<Patch> {
    let repository = &vault.repository;
    close_others(vault, None).await?;
    let done = repair::rewrite(repository, vault.epoch, &*vault.entropy).await?;
    Ok(Patch::Mended(v1::MendDetail {
        backups: done.backups,
        manifests: done.manifests,
        chunks: done.chunks,
        chunks_lost: done.chunks_lost,
        spoiled: done.spoiled,
    }))
}

/// Reads no user data, but what is known to be damaged: the rest is for agents to read.
async fn check(vault: &Vault, stop: &CancellationToken, progress: OnProgress<'_>) -> Result<Patch> {
    vault.repository.refresh().await?;
    let tell = |at: verify::Progress| {
        progress(v1::Progress { files_done: at.done, files_total: at.total, ..Default::default() });
    };
    let mut report = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(Error::unavailable("the check was cancelled")),
        report = verify::check(&vault.repository, false, &tell) => report?,
    };
    if mutant::on(Mutant::BlindCheck) {
        report.damages.clear();
    }
    let damages: Vec<v1::Damage> =
        report.damages.iter().take(record::DAMAGES_KEPT).map(palinurus_proto::damage).collect();
    Ok(Patch::Checked(v1::VerifyDetail {
        packs_checked: report.packs_checked,
        backups_checked: report.backups_checked,
        damages,
        damage_count: report.damages.len() as u64,
        damaged: report.damaged.encode().into(),
        whole: report.whole.encode().into(),
        logs: palinurus_proto::checked_logs(&report.logs),
        ..Default::default()
    }))
}
