//! How a restore goes along a service's log: beyond its backup up to a target, or not at all, and then as no continuation of
//! a history that there is.
use palinurus_proto::logs::{chain_to_wire, lineage_to_wire};
use palinurus_proto::v1::{self, log_target};
use palinurus_repository::ledger::{NodeCommit, State};
use palinurus_repository::log::{Lineage, Lineages, Position, Resolved, Section, Survey, Target};
use palinurus_repository::{BackupId, Error, ErrorKind, LineageId, Result, Timestamp};

use crate::vault::Vault;

#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) restore: v1::LogRestore,
    /// When the server was where the window ends, by its own clock; where that is known.
    pub(crate) until: Option<Timestamp>,
}

/// The backup that a restore to that target begins with, and how it goes on.
pub(crate) async fn locate(
    vault: &Vault,
    target: &v1::LogTarget,
    backup: Option<BackupId>,
) -> Result<(BackupId, Located)> {
    let wanted = parsed(target)?;
    let mut survey = Survey::of(&vault.repository).await?;
    let lineage = lineage(&survey.lineages, &target.lineage, vault)?;
    let Resolved { window, target } = match survey.resolve(&wanted, lineage, backup).await {
        // Also when a piece was swept since it was listed.
        Err(e) if e.kind() == ErrorKind::NotFound => {
            survey = Survey::of(&vault.repository).await?;
            survey.resolve(&wanted, lineage, backup).await?
        }
        found => found?,
    };
    let restore = v1::LogRestore {
        chain: read(window.sections(&survey.lineages), window.anchor.span.stop, window.to),
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
        known: known(&survey.lineages),
    };
    let until = survey.times(&window).await.ok().and_then(|(_, until)| until);
    Ok((window.anchor.backup, Located { restore, until }))
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

/// The backup alone. None where the service has no log. Otherwise all histories go with it: the one that begins here is to
/// be none of them.
pub(crate) fn alone(state: &State, commit: &NodeCommit) -> Option<v1::LogRestore> {
    let lineages = state.lineages();
    if lineages.is_empty() {
        return None;
    }
    let on = commit.log.and_then(|span| Some((span, lineages.get(&span.lineage)?)));
    let chain = on.map(|(_, lineage)| Section { lineage: named(lineage), to: None });
    let stop = on.map_or(0, |(span, _)| span.stop);
    let target = Some(log_target::Target::Immediate(true));
    Some(v1::LogRestore {
        chain: chain_to_wire(chain.as_slice()),
        target: Some(v1::LogTarget { target, ..Default::default() }),
        first: stop,
        end: stop,
        known: known(lineages),
    })
}

/// All that there is, for a promotion to be none of it.
fn known(lineages: &Lineages) -> Vec<v1::LogLineage> {
    lineages.values().map(|lineage| lineage_to_wire(&named(lineage))).collect()
}

/// To be known by, not read.
fn named(lineage: &Lineage) -> Lineage {
    Lineage { grants: Vec::new(), ..lineage.clone() }
}

/// With the grants that count between those positions, and no others: a writer that is started again has a grant more each
/// time, and a record of the state is no place for all of them.
fn read(mut chain: Vec<Section>, first: Position, end: Position) -> Vec<v1::LogLineage> {
    for Section { lineage, to } in &mut chain {
        let from = first - first % u64::from(lineage.segment.max(1));
        let to = to.unwrap_or(end).min(end);
        let grants = &mut lineage.grants;
        grants.truncate(grants.partition_point(|grant| grant.from < to));
        let before = grants.partition_point(|grant| grant.from <= from);
        grants.drain(..before.saturating_sub(1));
    }
    chain_to_wire(&chain)
}
