//! What of a service's log is stored, and a restore that goes beyond its backup along it.
use palinurus_proto::logs::{chain_to_wire, lineage_to_wire};
use palinurus_proto::v1::{self, log_target};
use palinurus_repository::log::{Lineages, Resolved, Survey, Target};
use palinurus_repository::{BackupId, Error, ErrorKind, LineageId, Result};

use crate::door::Lead;
use crate::vault::Vault;

impl Lead {
    pub(super) async fn show_logs(&self, service: &str) -> Result<v1::Logs> {
        let vault = Self::vault(&self.service(service).await?).await?;
        let survey = Survey::of(&vault.repository).await?;
        let lineages = survey.lineages.values().map(|lineage| {
            let stretches = survey.coverage.get(&lineage.id).map(|covered| covered.stretches().to_vec());
            let (objects, bytes) = survey.stored.get(&lineage.id).copied().unwrap_or_default();
            let stretches = stretches.unwrap_or_default().into_iter();
            v1::LogLineageView {
                lineage: Some(lineage_to_wire(lineage)),
                stretches: stretches.map(|(from, to)| v1::LogStretch { from, to }).collect(),
                objects,
                bytes,
            }
        });
        let mut windows = Vec::with_capacity(survey.windows.len());
        for window in &survey.windows {
            let (from, to) = match survey.times(window).await {
                Ok(times) => times,
                // One object that is swept or damaged hides nothing else.
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
                    tracing::warn!(error = e.chain(), "the times of a window are not known");
                    (window.anchor.committed, None)
                }
                Err(e) => return Err(e),
            };
            windows.push(v1::LogWindow {
                backup_id: window.anchor.backup.to_string(),
                node: window.anchor.node.clone(),
                chain: window.chain.iter().map(|id| id.as_bytes().to_vec().into()).collect(),
                from: window.from,
                to: window.to,
                from_ms: from.0,
                to_ms: to.unwrap_or(from).0,
            });
        }
        Ok(v1::Logs {
            service: service.to_owned(),
            lineages: lineages.collect(),
            windows,
            writer: vault.logs.writer(),
        })
    }
}

/// The backup that a restore to that target begins with, and how it goes on.
pub(super) async fn locate(
    vault: &Vault,
    target: &v1::LogTarget,
    backup: Option<BackupId>,
) -> Result<(BackupId, v1::LogRestore)> {
    let wanted = parsed(target)?;
    let survey = Survey::of(&vault.repository).await?;
    let lineage = lineage(&survey.lineages, &target.lineage, vault)?;
    let Resolved { window, target } = survey.resolve(&wanted, lineage, backup).await?;
    let restore = v1::LogRestore {
        chain: chain_to_wire(&window.sections(&survey.lineages)),
        target: Some(v1::LogTarget {
            target: Some(match target {
                Target::Latest => return Err(Error::internal("a target that is not resolved")),
                Target::Time(at) => log_target::Target::TimeUs(at),
                Target::Position(at) => log_target::Target::Position(at),
                Target::Name(name) => log_target::Target::Name(name),
                Target::Immediate => log_target::Target::Immediate(true),
            }),
            lineage: lineage.to_string(),
        }),
        first: window.anchor.span.stop,
        end: window.to,
        known: survey.lineages.values().map(|lineage| lineage_to_wire(lineage)).collect(),
    };
    Ok((window.anchor.backup, restore))
}

fn parsed(target: &v1::LogTarget) -> Result<Target> {
    use log_target::Target as T;
    Ok(match &target.target {
        Some(T::Latest(true)) => Target::Latest,
        Some(T::TimeUs(at)) => Target::Time(*at),
        Some(T::Position(at)) => Target::Position(*at),
        Some(T::Name(name)) if !name.is_empty() && name.len() <= 256 => Target::Name(name.clone()),
        Some(T::Immediate(true)) => Target::Immediate,
        _ => {
            return Err(Error::invalid("a restore to no moment")
                .with_hint("latest, a time, a position, a name or immediate"));
        }
    })
}

/// The one that begins so; without a name the one that is written, or was written last.
fn lineage(known: &Lineages, named: &str, vault: &Vault) -> Result<LineageId> {
    if named.is_empty() {
        let now = vault.logs.written();
        if now.len() > 1 {
            let all: Vec<_> = now.iter().map(ToString::to_string).collect();
            return Err(Error::conflict(format!("histories that are written at once: {}", all.join(", ")))
                .with_hint("name the one that is meant; `palinurus logs show` shows who writes"));
        }
        let written = vault.logs.writer().and_then(|writer| LineageId::from_slice(&writer.lineage).ok());
        let newest = || known.values().max_by_key(|lineage| lineage.number).map(|lineage| lineage.id);
        return written.filter(|id| known.contains_key(id)).or_else(newest).ok_or_else(|| {
            Error::not_found("the service has no log: only its backups can be restored")
                .with_hint("an agent whose settings say so gives the database's log; see docs/engines")
        });
    }
    let named = named.to_ascii_lowercase();
    let mut found = known.keys().filter(|id| id.to_string().starts_with(&named));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(*one),
        (Some(_), Some(_)) => {
            Err(Error::invalid(format!("{named:?} names more than one lineage"))
                .with_hint("give more digits"))
        }
        (None, _) => Err(Error::not_found(format!("no lineage begins with {named:?}"))
            .with_hint("`palinurus logs show` names them")),
    }
}
