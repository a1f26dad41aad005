//! Restores of backups for proof, beside the data.
use palinurus_proto::v1::OperationKind;
use palinurus_proto::{from_status, v1};
use palinurus_repository::{Error, Result};
use serde::Serialize;

use crate::command::backup::follow_or_detach;
use crate::command::operation::{self, OperationView};
use crate::exit::Outcome;
use crate::output::{Output, table};
use crate::{Global, client, human, target};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Restores a backup beside the data, has the engine prove it, and removes it again.
    Start {
        /// May be left out when there is only one.
        #[arg(long, short)]
        service: Option<String>,
        /// An id, or a unique prefix of one; without it the newest, or the newest that leads to `--to`.
        #[arg(long, value_name = "ID")]
        backup: Option<String>,
        /// How far along the log: latest, immediate, a time, a position, or name:NAME.
        #[arg(long, value_name = "WHEN")]
        to: Option<String>,
        /// Whose agent restores it, or AGENT=NODE of the backup; may be given again. Without it: each node's own.
        #[arg(long, value_name = "AGENT")]
        node: Vec<String>,
        /// Return at once with the operation's id.
        #[arg(long)]
        detach: bool,
    },
    /// The newest last.
    List {
        /// Only of this service.
        #[arg(long, short)]
        service: Option<String>,
    },
    /// What one drill has restored, run and found.
    Show {
        /// Its operation's id, or a unique prefix of it.
        id: String,
    },
}

/// Spans are milliseconds, times RFC 3339.
#[derive(Serialize)]
pub(crate) struct DrillView {
    backup: String,
    automatic: bool,
    /// How far along the log; null: the backup alone.
    to: Option<String>,
    results: Vec<ResultView>,
}

#[derive(Serialize)]
struct ResultView {
    /// Where it was restored.
    node: String,
    /// The node in the backup.
    source: String,
    passed: bool,
    restored_ms: u64,
    /// From the restore's beginning until the data was of use.
    rto_ms: u64,
    recovered_to: Option<String>,
    reached: String,
    files: u64,
    bytes: u64,
    checks: Vec<CheckView>,
    findings: Vec<String>,
    finding_count: u64,
}

#[derive(Serialize)]
struct CheckView {
    name: String,
    took_ms: u64,
    told: String,
    skipped: bool,
}

/// The last proof of a backup's node.
#[derive(Serialize)]
pub(crate) struct ProofView {
    node: String,
    at: String,
    when: Option<String>,
    operation: String,
    passed: bool,
    rto_ms: u64,
    recovered_to: Option<String>,
    checks: Vec<String>,
    findings: Vec<String>,
}

#[derive(Serialize)]
struct Drills {
    drills: Vec<OperationView>,
}

pub(crate) async fn run(verb: Verb, global: &Global, output: &Output) -> Result<Outcome> {
    let mut client = client::connect(global).await?;
    match verb {
        Verb::Start { service, backup, to, node, detach } => {
            let target = to.as_deref().map(target::parse).transpose()?;
            let target = target.map(|to| v1::LogTarget { target: Some(to), ..Default::default() });
            let service = client::service(&mut client, service).await?;
            let request =
                v1::StartDrillRequest { service, backup: backup.unwrap_or_default(), nodes: node, target };
            let started = client.start_drill(request).await.map_err(from_status)?.into_inner();
            follow_or_detach(global, output, &started, detach).await
        }
        Verb::List { service } => {
            let request = v1::ListOperationsRequest { service: service.unwrap_or_default(), running: false };
            let reply = client.list_operations(request).await.map_err(from_status)?.into_inner();
            let drills = reply.operations.iter().filter(|each| each.kind() == OperationKind::Drill);
            output.data(&Drills { drills: drills.map(OperationView::brief).collect() }, show_list);
            Ok(Outcome::Done)
        }
        Verb::Show { id } => {
            let request = v1::GetOperationRequest { id };
            let found = client.get_operation(request).await.map_err(from_status)?.into_inner();
            if found.kind() != OperationKind::Drill {
                return Err(Error::invalid(format!("operation {} is a {}", found.id, found.kind().name()))
                    .with_hint("`palinurus drill list` names the drills"));
            }
            output.data(&OperationView::of(&found), operation::show);
            Ok(Outcome::Done)
        }
    }
}

impl DrillView {
    pub(crate) fn of(detail: &v1::DrillDetail) -> Self {
        let to = detail.logs.as_ref().and_then(|logs| logs.target.as_ref()?.target.as_ref());
        Self {
            backup: detail.backup_id.clone(),
            automatic: detail.automatic,
            to: to.map(target::show),
            results: detail.results.iter().map(ResultView::of).collect(),
        }
    }

    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![("of", format!("backup {}", self.backup))];
        rows.extend(self.to.clone().map(|to| ("to", to)));
        for result in &self.results {
            let where_ = format!("{} at {}", result.source, result.node);
            let data = format!("{} in {} files", human::size(result.bytes), human::count(result.files));
            rows.push(("restored", format!("{where_}: {data} in {}", human::seconds(result.restored_ms))));
            if result.rto_ms > 0 {
                rows.push(("of use after", human::seconds(result.rto_ms)));
            }
            if !result.reached.is_empty() {
                rows.push(("reached", human::name(result.reached.as_bytes())));
            }
            for check in &result.checks {
                let what = if check.skipped { "not run".into() } else { human::seconds(check.took_ms) };
                let told = human::name(check.told.as_bytes());
                rows.push(("check", format!("{}: {what}, {told}", human::name(check.name.as_bytes()))));
            }
            for finding in &result.findings {
                rows.push(("found", human::name(finding.as_bytes())));
            }
        }
        rows
    }
}

impl ResultView {
    fn of(result: &v1::DrillResult) -> Self {
        let check = |check: &v1::DrillCheck| CheckView {
            name: check.name.clone(),
            took_ms: check.took_ms,
            told: check.told.clone(),
            skipped: check.skipped,
        };
        Self {
            node: result.node.clone(),
            source: result.source.clone(),
            passed: result.finding_count == 0,
            restored_ms: result.restored_ms,
            rto_ms: result.rto_ms,
            recovered_to: human::rfc3339(result.recovered_ms),
            reached: result.reached.clone(),
            files: result.files,
            bytes: result.bytes,
            checks: result.checks.iter().map(check).collect(),
            findings: result.findings.clone(),
            finding_count: result.finding_count,
        }
    }
}

impl ProofView {
    pub(crate) fn of(proof: &v1::DrillProof) -> Self {
        Self {
            node: proof.node.clone(),
            at: proof.at.clone(),
            when: human::rfc3339(proof.when_ms),
            operation: proof.operation.clone(),
            passed: proof.passed,
            rto_ms: proof.rto_ms,
            recovered_to: human::rfc3339(proof.recovered_ms),
            checks: proof.checks.clone(),
            findings: proof.findings.clone(),
        }
    }

    /// When all of the backup's nodes were last proved, or that one was found wrong.
    pub(crate) fn summary(proofs: &[Self], nodes: usize) -> String {
        if proofs.iter().any(|proof| !proof.passed) {
            return "FAILED".into();
        }
        match proofs.iter().filter_map(|proof| proof.when.as_deref()).min() {
            Some(oldest) if proofs.len() >= nodes => oldest.replacen('T', " ", 1),
            Some(_) => format!("{} of {nodes} nodes", proofs.len()),
            None => "-".into(),
        }
    }

    pub(crate) fn rows(proofs: &[Self]) -> Vec<(&'static str, String)> {
        let row = |proof: &Self| {
            let when = proof.when.clone().unwrap_or_default().replacen('T', " ", 1);
            let how = match proof.findings.first() {
                None => format!("of use after {}", human::seconds(proof.rto_ms)),
                Some(first) => format!("FAILED: {}", human::name(first.as_bytes())),
            };
            ("drilled", format!("{} at {}, {when}: {how}", proof.node, proof.at))
        };
        proofs.iter().map(row).collect()
    }
}

fn show_list(found: &Drills) -> String {
    let row = |operation: &OperationView| {
        let drill = operation.drill.as_ref();
        let of = |cell: fn(&DrillView) -> String| drill.map(cell).unwrap_or_default();
        vec![
            operation.id.clone(),
            operation.service.clone(),
            of(|drill| drill.backup.chars().take(12).collect()),
            of(|drill| drill.to.clone().unwrap_or_else(|| "the backup".into())),
            of(|drill| if drill.automatic { "itself".into() } else { "hand".into() }),
            operation.state.to_owned(),
            operation.created.clone().unwrap_or_default().replacen('T', " ", 1),
            of(|drill| match drill.results.iter().map(|result| result.rto_ms).max() {
                Some(rto) if rto > 0 => human::seconds(rto),
                _ => "-".into(),
            }),
            of(|drill| drill.results.iter().map(|result| result.finding_count).sum::<u64>().to_string()),
        ]
    };
    let rows: Vec<Vec<String>> = found.drills.iter().map(row).collect();
    let header = ["OPERATION", "SERVICE", "BACKUP", "TO", "BY", "STATE", "STARTED", "OF USE AFTER", "FOUND"];
    table(&header, &[7, 8], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_proved_when_all_of_its_nodes_are() {
        let proof =
            |when_ms, passed| ProofView::of(&v1::DrillProof { when_ms, passed, ..Default::default() });
        assert_eq!(ProofView::summary(&[], 1), "-");
        let both = [proof(2_000_000_000_000, true), proof(1_000_000_000_000, true)];
        assert!(ProofView::summary(&both, 2).starts_with("2001-09-09 01:46:40"), "the older counts");
        assert_eq!(ProofView::summary(&both, 3), "2 of 3 nodes");
        assert_eq!(ProofView::summary(&[proof(1, true), proof(2, false)], 2), "FAILED");
    }
}
