//! Retention of one service: the policy in its settings, asked of what the ledger holds.
use std::collections::{BTreeSet, HashMap};

use palinurus_proto::v1;
use palinurus_repository::ledger::BackupRecord;
use palinurus_repository::retention::{Candidate, Chores, Policy, Verdict, chores, decide, freed};
use palinurus_repository::{BackupId, ErrorKind, Repository, Result, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::operation::Patch;
use crate::vault::Vault;

/// A service whose settings were stored was valid then; what is not understood now keeps everything.
pub(crate) fn policy(settings: &HashMap<String, String>) -> Policy {
    Policy::read(settings).unwrap_or_default()
}

/// In the order of the backups.
pub(crate) fn verdicts(
    backups: &[std::sync::Arc<BackupRecord>],
    settings: &HashMap<String, String>,
    now: Timestamp,
) -> Vec<Verdict> {
    let candidates: Vec<Candidate> = backups.iter().map(|backup| Candidate::of(backup, now)).collect();
    decide(&candidates, &policy(settings))
}

pub(crate) fn told(verdict: &Verdict) -> Vec<String> {
    verdict.reasons.iter().map(ToString::to_string).collect()
}

/// As of the last refresh.
pub(crate) async fn plan(repository: &Repository, service: &v1::Service) -> Result<v1::RetentionPlan> {
    let backups = repository.backups().await;
    let verdicts = verdicts(&backups, &service.settings, repository.now());
    let choices = backups.iter().zip(&verdicts).map(|(backup, verdict)| v1::RetentionChoice {
        backup_id: backup.id.to_string(),
        committed_ms: backup.committed.0,
        keep: verdict.keeps(),
        reasons: told(verdict),
    });
    let forget: BTreeSet<BackupId> =
        verdicts.iter().filter(|verdict| !verdict.keeps()).map(|verdict| verdict.backup).collect();
    let freed = freed(repository, &forget).await?;
    let automatic = match policy(&service.settings).interval {
        Some(every) => format!("looked at every {}", humantime::format_duration(every)),
        None => "never: retention_interval is off".to_owned(),
    };
    Ok(v1::RetentionPlan {
        service: service.name.clone(),
        backups: choices.collect(),
        packs_freed: freed.packs,
        bytes_freed: freed.bytes,
        packs_waiting: freed.waiting,
        waits_for: freed.waits_for.iter().map(ToString::to_string).collect(),
        automatic,
    })
}

/// What an automatic run would do, with the reasons for its log; nothing when there is nothing to do. To be asked
/// while no operation runs.
pub(crate) async fn survey(
    repository: &Repository,
    settings: &HashMap<String, String>,
    locked_until: Timestamp,
) -> Result<Option<(v1::RetentionDetail, Vec<String>)>> {
    repository.refresh().await?;
    let backups = repository.backups().await;
    let verdicts = verdicts(&backups, settings, repository.now());
    let forget: Vec<String> = verdicts
        .iter()
        .filter(|verdict| !verdict.keeps())
        .map(|verdict| verdict.backup.to_string())
        .collect();
    let mut chores = chores(repository).await?;
    if repository.now() < locked_until {
        chores.leftovers.objects = 0; // what the store keeps locked is no reason to try again and again
    }
    if chores.leftovers.temporaries > 0 {
        tracing::info!(removed = chores.leftovers.temporaries, "removed what dead writers left");
    }
    if forget.is_empty() && chores.is_empty() {
        return Ok(None);
    }
    let notes = reasons(&forget, &chores);
    let detail =
        v1::RetentionDetail { forget, settings: settings.clone(), automatic: true, ..Default::default() };
    Ok(Some((detail, notes)))
}

fn reasons(forget: &[String], chores: &Chores) -> Vec<String> {
    let Chores { abandoned, packs, leftovers } = chores;
    let mut notes = Vec::new();
    if !forget.is_empty() {
        notes.push(format!("{} backups that the policy does not keep", forget.len()));
    }
    if *abandoned > 0 {
        notes.push(format!("{abandoned} transactions that nobody ends any more"));
    }
    if *packs > 0 {
        notes.push(format!("{packs} packs that no backup references"));
    }
    if leftovers.objects > 0 {
        notes.push(format!("{} objects that nothing keeps, {} bytes", leftovers.objects, leftovers.bytes));
    }
    notes
}

/// Forgets what was decided to go, and is still so decided: pins and other backups may have come since.
pub(crate) async fn forget(
    operation: &v1::Operation,
    vault: &Vault,
    stop: &CancellationToken,
) -> Result<Patch> {
    let detail = operation.retention.clone().unwrap_or_default();
    let repository = &vault.repository;
    let (mut gone, mut kept) = (0, Vec::new());
    for text in &detail.forget {
        if stop.is_cancelled() {
            break;
        }
        let id: BackupId = text.parse()?;
        repository.refresh().await?;
        let backups = repository.backups().await;
        let verdicts = verdicts(&backups, &detail.settings, repository.now());
        match verdicts.iter().find(|verdict| verdict.backup == id) {
            None => gone += 1, // by this run before it was interrupted, or by hand
            Some(verdict) if verdict.keeps() => {
                kept.push(format!("backup {id} stays by now: {}", told(verdict).join(", ")));
            }
            Some(_) => match repository.forget(vault.epoch, id).await {
                Ok(()) => gone += 1,
                Err(e) if matches!(e.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {
                    kept.push(format!("backup {id} stays by now: {}", e.what()));
                }
                Err(e) => return Err(e),
            },
        }
    }
    Ok(Patch::Forgot { gone, kept })
}
