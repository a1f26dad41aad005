//! Retention of one service: the policy in its settings, asked of what the ledger holds.
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use palinurus_proto::v1;
use palinurus_repository::ledger::{BackupRecord, State};
use palinurus_repository::log::{self, Anchor, At, Position};
use palinurus_repository::retention::{
    self, Candidate, Chores, Policy, Reason, Verdict, chores, decide, freed,
};
use palinurus_repository::rewrite::{self, Limits, Moved};
use palinurus_repository::{BackupId, ErrorKind, Repository, Result, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::logs::pins;
use crate::operation::Patch;
use crate::power;
use crate::settings::in_force;
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
    let mut verdicts = decide(&candidates, &policy(settings));
    if power::rests(settings) {
        let reasons = verdicts.iter_mut().flat_map(|verdict| &mut verdict.reasons);
        reasons.filter(|reason| **reason == Reason::NoPolicy).for_each(|reason| *reason = Reason::Off);
    }
    verdicts
}

/// Of a service that is deleted: what somebody has said is to stay, and nothing else.
fn but_kept(state: &State, now: Timestamp) -> Vec<Verdict> {
    let candidates = state.backups().map(|backup| Candidate::of(backup, now));
    candidates.map(|backup| Verdict { backup: backup.id, reasons: backup.kept_by }).collect()
}

/// What stands against deleting all of it.
pub(crate) fn kept(state: &State, now: Timestamp) -> Option<String> {
    let kept = but_kept(state, now).into_iter().find(Verdict::keeps)?;
    Some(format!("backup {}: {}", kept.backup, told(&kept).join(", ")))
}

pub(crate) fn told(verdict: &Verdict) -> Vec<String> {
    verdict.reasons.iter().map(ToString::to_string).collect()
}

/// As of the last refresh.
pub(crate) async fn plan(repository: &Repository, service: &v1::Service) -> Result<v1::RetentionPlan> {
    let partial = rewrite::partial(repository).await?;
    let backups = repository.backups().await;
    let verdicts = verdicts(&backups, &in_force(service), repository.now());
    let choices = backups.iter().zip(&verdicts).map(|(backup, verdict)| v1::RetentionChoice {
        backup_id: backup.id.to_string(),
        committed_ms: backup.committed.0,
        keep: verdict.keeps(),
        reasons: told(verdict),
    });
    let forget: BTreeSet<BackupId> =
        verdicts.iter().filter(|verdict| !verdict.keeps()).map(|verdict| verdict.backup).collect();
    let freed = freed(repository, &forget).await?;
    let automatic = match policy(&in_force(service)).interval {
        Some(every) => format!("looked at every {}", humantime::format_duration(every)),
        None if !power::is_on(service) => "never: the service is not on".to_owned(),
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
        packs_partial: partial.packs,
        bytes_partial: partial.bytes,
    })
}

/// What an automatic run would do, with the reasons for its log; nothing when there is nothing to do. To be asked
/// while no operation runs.
pub(crate) async fn survey(
    repository: &Repository,
    settings: &HashMap<String, String>,
    holds: Vec<v1::LogHold>,
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
    let floors = floors(repository, settings, &holds).await;
    if forget.is_empty() && chores.is_empty() && floors.is_empty() {
        return Ok(None);
    }
    let mut notes = reasons(&forget, &chores);
    if !floors.is_empty() {
        notes.push("a part of the log that is older than the policy keeps it".to_owned());
    }
    let settings = settings.clone();
    let detail = v1::RetentionDetail { forget, settings, automatic: true, holds, ..Default::default() };
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

/// Forgets what was decided to go, and is still so decided.
pub(crate) async fn forget(
    operation: &v1::Operation,
    vault: &Vault,
    stop: &CancellationToken,
) -> Result<Patch> {
    let detail = operation.retention.clone().unwrap_or_default();
    let wanted: Vec<BackupId> = detail.forget.iter().map(|id| id.parse()).collect::<Result<_>>()?;
    let now = vault.repository.now();
    let decide = |state: &State| {
        if detail.all {
            return but_kept(state, now);
        }
        let backups: Vec<_> = state.backups().cloned().collect();
        verdicts(&backups, &detail.settings, now)
    };
    let done =
        retention::forget(&vault.repository, vault.epoch, &wanted, &decide, &|| stop.is_cancelled()).await?;
    let repository = &vault.repository;
    repository.refresh().await?;
    let gone = repository.read(|state| state.backups().next().is_none()).await;
    let floors = match detail.all {
        true if gone => ends(repository).await?,
        true => Vec::new(),
        false => floors(repository, &detail.settings, &detail.holds).await,
    };
    for floor in floors {
        match repository.raise_floor(vault.epoch, floor).await {
            Ok(()) => {
                tracing::info!(lineage = %floor.lineage, floor.position, "gives up the log before that")
            }
            // Somebody has begun to read it.
            Err(e) if e.kind() == ErrorKind::Conflict => {
                tracing::info!(lineage = %floor.lineage, error = e.chain(), "the log stays for now");
            }
            Err(e) => return Err(e),
        }
    }
    let kept = done.kept.iter().map(|(id, why)| format!("backup {id} stays by now: {why}"));
    Ok(Patch::Forgot { gone: done.gone.len() as u64, kept: kept.collect() })
}

/// By the backups that there are, as of the last refresh.
async fn floors(
    repository: &Repository,
    settings: &HashMap<String, String>,
    holds: &[v1::LogHold],
) -> Vec<At> {
    let Some(keep) = policy(settings).logs else { return Vec::new() };
    let now = repository.now();
    let look = |state: &State| {
        let pins = state.open_transactions().values().filter_map(|open| open.log).chain(pins(holds));
        log::floors(&Anchor::all(state), state.lineages(), &pins.collect::<Vec<_>>(), now, keep)
    };
    repository.read(look).await
}

/// Behind all that there is of the log.
async fn ends(repository: &Repository) -> Result<Vec<At>> {
    let lineages = repository.read(|state| state.lineages().clone()).await;
    let mut ends = Vec::new();
    for lineage in lineages.values() {
        let covered = repository.logs().coverage(lineage, lineage.floor).await?;
        // Its last grant may have been given, and nothing written under it.
        let granted = lineage.last_grant().map_or(0, |last| last.from);
        let position: Position = covered.end().unwrap_or_default().max(granted);
        if position > lineage.floor {
            ends.push(At { lineage: lineage.id, position });
        }
    }
    Ok(ends)
}

/// Counting reads manifests: nobody asked for it, so once a day will do.
const COUNTED_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Moves what is used out of packs of which little is used. The sweep after it goes ahead whatever comes of this.
pub(crate) async fn rewrite(
    operation: &v1::Operation,
    vault: &Vault,
    stop: &CancellationToken,
) -> Result<Patch> {
    let detail = operation.retention.clone().unwrap_or_default();
    let limits = Limits::read(&detail.settings).unwrap_or(Limits { pack: None, ..Limits::default() });
    let now = vault.repository.now();
    let recently = vault.counted().is_some_and(|last| now.since(last) < COUNTED_EVERY);
    if detail.all || limits.pack.is_none() || (detail.automatic && recently) {
        return Ok(Patch::Rewrote(None));
    }
    rewrite::abandon(&vault.repository, vault.epoch).await?;
    let give_way = || stop.is_cancelled();
    let moved = rewrite::rewrite(&vault.repository, vault.epoch, &*vault.entropy, &limits, &give_way).await;
    let moved = match moved {
        Err(e) if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Fenced) => return Err(e),
        Err(e) => {
            tracing::warn!(error = e.chain(), "packs that are hardly used stay for now");
            vault.set_counted(now);
            return Ok(Patch::Rewrote(None));
        }
        Ok(moved) => moved,
    };
    if !moved.unfinished {
        vault.set_counted(now);
    }
    // The next backup's convenience; before the sweep, as that takes the old places out.
    if moved.packs > 0
        && let Err(e) = vault.fold().await
    {
        tracing::warn!(error = e.chain(), "the index does not know the new packs yet");
    }
    Ok(Patch::Rewrote(Some(rewrite_detail(&moved))))
}

fn rewrite_detail(moved: &Moved) -> v1::RewriteDetail {
    v1::RewriteDetail {
        packs_measured: moved.measured,
        bytes_wasted: moved.wasted,
        packs: moved.packs,
        bytes_moved: moved.bytes_moved,
        bytes_freed: moved.bytes_freed,
        backups: moved.backups,
        unfinished: moved.unfinished,
    }
}
