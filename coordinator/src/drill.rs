//! Drills: which part of a backup is restored for proof at which agent, what the ledger is told of it, and when one is due.
use palinurus_proto::v1;
use palinurus_repository::ledger::Proof;
use palinurus_repository::{BackupId, ErrorKind, Result};

use crate::operation::Patch;
use crate::vault::Vault;

mod plan;
mod schedule;
mod standing;

pub(crate) use plan::{Prepared, prepare};
pub(crate) use schedule::{SETTING, Verdict, consider, every};
pub(crate) use standing::standing;

/// Tells the ledger what the parts have come to. A DRILL that was written and not heard of is found there.
pub(crate) async fn record(operation: &v1::Operation, vault: &Vault) -> Result<Patch> {
    let drill = operation.drill.clone().unwrap_or_default();
    let backup: BackupId = drill.backup_id.parse()?;
    let repository = &vault.repository;
    repository.refresh().await?;
    let known =
        repository.read(|state| state.drilled(backup).any(|each| each.operation == operation.id)).await;
    if known || drill.results.is_empty() {
        return Ok(Patch::Drilled);
    }
    let proofs = drill.results.into_iter().map(proof).collect();
    match repository.drill(vault.epoch, backup, &operation.id, proofs).await {
        // Forgotten meanwhile, by somebody without a coordinator: what it was worth matters no more.
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Patch::Drilled),
        told => told.map(|()| Patch::Drilled),
    }
}

fn proof(result: v1::DrillResult) -> Proof {
    let v1::DrillResult { node, source, rto_ms, recovered_ms, position, files, bytes, .. } = result;
    let checks = result.checks.into_iter().filter(|check| !check.skipped).map(|check| check.name);
    let mut findings = result.findings;
    if findings.is_empty() && result.finding_count > 0 {
        findings.push(format!("{} findings", result.finding_count));
    }
    Proof {
        node: source,
        at: node,
        rto_ms,
        recovered_ms,
        position,
        files,
        bytes,
        checks: checks.collect(),
        findings,
    }
}
