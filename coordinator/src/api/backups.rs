//! Backups: listed from the ledger, which is the truth; started, restored, checked and deleted as operations.
use std::sync::Arc;

use palinurus_proto::v1;
use palinurus_repository::ledger::{BackupRecord, Drilled, MissingNode, State};
use palinurus_repository::retention::Verdict;
use palinurus_repository::{Error, Result};
use ractor::ActorRef;

use crate::actor::ask;
use crate::actor::service::ServiceMsg;
use crate::door::Lead;
use crate::failover::Sources;
use crate::operation::Detail;
use crate::retention::told;
use crate::vault::Vault;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

impl Lead {
    pub(super) async fn vault(service: &ActorRef<ServiceMsg>) -> Result<Arc<Vault>> {
        let vault = ask(service, ServiceMsg::Vault).await?;
        vault.repository.refresh().await?;
        Ok(vault)
    }

    /// That service's repository if it is open; nothing is asked of the store.
    pub(crate) async fn opened(&self, service: &str) -> Option<Arc<Vault>> {
        ask(&self.service(service).await.ok()?, ServiceMsg::Vault).await.ok()
    }

    pub(super) async fn start(
        &self,
        service: &str,
        detail: Detail,
        nodes: Vec<String>,
    ) -> Result<v1::Operation> {
        let service = self.service(service).await?;
        ask(&service, |to| ServiceMsg::Start { detail: Box::new(detail), nodes, to }).await
    }

    pub(super) async fn start_backup(&self, request: v1::StartBackupRequest) -> Result<v1::Operation> {
        let service = self.service(&request.service).await?;
        // As the leader knows it: nothing is asked of the store before the operation stands.
        let sources = ask(&service, ServiceMsg::Vault).await?.repository.read(Sources::of).await;
        let nodes = ask(&service, ServiceMsg::Describe).await?.nodes;
        let first = nodes.into_iter().filter(|node| sources.newest(node).is_none()).map(|node| node.name);
        let detail = v1::BackupDetail { full: request.full, first: first.collect(), ..Default::default() };
        self.start(&request.service, Detail::Backup(detail), Vec::new()).await
    }

    pub(super) async fn delete_backup(&self, request: v1::DeleteBackupRequest) -> Result<v1::Operation> {
        let vault = Self::vault(&self.service(&request.service).await?).await?;
        let backup = vault.repository.find_backup(&request.backup).await?;
        backup.check_free(vault.repository.now())?;
        let detail = v1::DeleteDetail { backup_id: backup.id.to_string(), ..Default::default() };
        self.start(&request.service, Detail::Delete(detail), Vec::new()).await
    }

    pub(super) async fn repair_repository(
        &self,
        request: v1::RepairRepositoryRequest,
    ) -> Result<v1::Operation> {
        let detail = v1::VerifyDetail { repair: true, ..Default::default() };
        self.start(&request.service, Detail::Verify(detail), Vec::new()).await
    }

    pub(super) async fn check_repository(
        &self,
        request: v1::CheckRepositoryRequest,
    ) -> Result<v1::Operation> {
        if request.percent > 100 {
            return Err(
                Error::invalid(format!("{}% of the data", request.percent)).with_hint("from 1 to 100")
            );
        }
        let day = self.shared.now().0 / DAY_MS;
        let detail = v1::VerifyDetail {
            read_data: request.read_data || request.percent > 0,
            percent: request.percent,
            day,
            ..Default::default()
        };
        self.start(&request.service, Detail::Verify(detail), Vec::new()).await
    }
}

pub(super) fn shown(service: &str, backup: &BackupRecord, state: &State, why: &Verdict) -> v1::Backup {
    let sum = |of: fn(&v1::BackupNode) -> u64, nodes: &[v1::BackupNode]| nodes.iter().map(of).sum();
    let nodes: Vec<v1::BackupNode> = backup
        .nodes
        .iter()
        .map(|node| v1::BackupNode {
            node: node.node.clone(),
            files: node.files,
            bytes: node.bytes,
            bytes_read: node.bytes_read,
            bytes_new: node.bytes_new,
            bytes_stored: node.bytes_stored,
            warnings: node.warnings,
            unchanged: node.unchanged,
            taken_from_ms: node.cut.as_ref().map_or(0, |cut| cut.from.0),
            taken_to_ms: node.cut.as_ref().map_or(0, |cut| cut.to.0),
            shard: node.cut.as_ref().map_or_else(String::new, |cut| cut.shard.clone()),
        })
        .collect();
    v1::Backup {
        id: backup.id.to_string(),
        service: service.to_owned(),
        started_ms: backup.started.0,
        committed_ms: backup.committed.0,
        files: sum(|node| node.files, &nodes),
        bytes: sum(|node| node.bytes, &nodes),
        bytes_new: sum(|node| node.bytes_new, &nodes),
        bytes_stored: sum(|node| node.bytes_stored, &nodes),
        warnings: sum(|node| node.warnings, &nodes),
        missing: backup.missing.iter().map(shown_missing).collect(),
        spoiled: state.is_spoiled(backup),
        drills: state.drilled(backup.id).map(shown_drill).collect(),
        kept_for: told(why),
        pin: backup.pin.as_ref().map(|pin| v1::Pin { reason: pin.reason.clone(), since_ms: pin.since.0 }),
        hold: backup.hold.as_ref().map(|hold| v1::Hold {
            until_ms: hold.until.0,
            reason: hold.reason.clone(),
            since_ms: hold.since.0,
        }),
        nodes,
    }
}

fn shown_drill(drilled: &Drilled) -> v1::DrillProof {
    let Drilled { when, operation, proof } = drilled;
    v1::DrillProof {
        node: proof.node.clone(),
        at: proof.at.clone(),
        when_ms: when.0,
        operation: operation.clone(),
        passed: proof.passed(),
        rto_ms: proof.rto_ms,
        recovered_ms: proof.recovered_ms,
        position: proof.position,
        checks: proof.checks.clone(),
        findings: proof.findings.clone(),
    }
}

fn shown_missing(missing: &MissingNode) -> v1::MissingNode {
    v1::MissingNode {
        node: missing.node.clone(),
        reason: missing.reason.clone(),
        files: missing.files,
        bytes: missing.bytes,
        paths: missing.paths.iter().map(|path| path.clone().into()).collect(),
        lost_ms: 0,
    }
}
