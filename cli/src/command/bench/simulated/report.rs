//! What the fleet cost the coordinator: a table, or with `--json` this object.
use serde::Serialize;

use super::etcd::Records;
use crate::human;
use crate::output::{fields, table};

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) cores: usize,
    /// Of the machine, in the end: whatever else runs takes from the seconds, and not from the processor seconds.
    pub(super) load: Vec<f64>,
    pub(super) runs: Vec<Run>,
}

#[derive(Debug, Serialize)]
pub(super) struct Run {
    pub(super) agents: u64,
    pub(super) services: u64,
    pub(super) files: u64,
    pub(super) chunks: u64,
    pub(super) state: &'static str,
    /// Listed in the end.
    pub(super) backups: u64,
    /// In the restore plans of the newest backups.
    pub(super) files_planned: u64,
    pub(super) manifest_bytes: u64,
    /// What lies in the coordinator's state directory.
    pub(super) index_bytes: u64,
    /// Ends of tasks that were not acknowledged within five seconds.
    pub(super) reports_again: u64,
    /// Sessions that broke and were dialled again.
    pub(super) reconnects: u64,
    pub(super) records: Option<Records>,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) seconds: f64,
    /// Processor seconds of the coordinator.
    pub(super) cpu: f64,
    /// Of the coordinator, at the peak of the step.
    pub(super) memory: u64,
    pub(super) etcd_cpu: Option<f64>,
    pub(super) etcd_puts: Option<u64>,
    /// Size of etcd's database after the step.
    pub(super) etcd_database: Option<u64>,
    pub(super) claimed: Option<Claimed>,
    /// Of the slowest service: from the request for a backup until its agents may upload.
    pub(super) plan_seconds: Option<f64>,
    /// Of the slowest service: from its last manifest until the backup exists.
    pub(super) commit_seconds: Option<f64>,
}

/// From the first question to the last answer.
#[derive(Debug, Serialize)]
pub(super) struct Claimed {
    pub(super) asked: u64,
    /// Answered with a place.
    pub(super) stored: u64,
    pub(super) seconds: f64,
    /// Processor seconds of the coordinator.
    pub(super) cpu: f64,
}

const HEADER: [&str; 13] = [
    "step",
    "seconds",
    "cpu s",
    "memory",
    "plan s",
    "commit s",
    "claims",
    "claims/s",
    "claims/cpu s",
    "us cpu/chunk",
    "etcd cpu s",
    "etcd puts",
    "etcd size",
];

fn cells(step: &Step) -> Vec<String> {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let claimed = step.claimed.as_ref();
    let rate = |per: fn(&Claimed) -> f64| {
        or_dash(claimed.filter(|it| per(it) > 0.0).map(|it| human::count((it.asked as f64 / per(it)) as u64)))
    };
    vec![
        step.name.to_owned(),
        format!("{:.2}", step.seconds),
        format!("{:.2}", step.cpu),
        human::size(step.memory),
        or_dash(step.plan_seconds.map(|value| format!("{value:.2}"))),
        or_dash(step.commit_seconds.map(|value| format!("{value:.2}"))),
        or_dash(claimed.map(|it| human::count(it.asked))),
        rate(|it| it.seconds),
        rate(|it| it.cpu),
        or_dash(claimed.map(|it| format!("{:.2}", step.cpu * 1e6 / it.asked.max(1) as f64))),
        or_dash(step.etcd_cpu.map(|value| format!("{value:.2}"))),
        or_dash(step.etcd_puts.map(human::count)),
        or_dash(step.etcd_database.map(human::size)),
    ]
}

/// As soon as it is known.
pub(super) fn line(step: &Step) -> String {
    let cells = HEADER.iter().zip(cells(step)).skip(1).filter(|(_, cell)| cell != "-");
    let cells: Vec<String> = cells.map(|(name, cell)| format!("{name} {cell}")).collect();
    format!("  {}: {}", step.name, cells.join(", "))
}

pub(super) fn show_run(run: &Run) -> String {
    let rows: Vec<Vec<String>> = run.steps.iter().map(cells).collect();
    let largest = run.records.as_ref().map_or_else(
        || "-".to_owned(),
        |it| {
            format!(
                "{} of {} together, the largest {} ({})",
                human::count(it.records),
                human::size(it.bytes),
                human::size(it.largest_bytes),
                it.largest
            )
        },
    );
    let facts = fields(&[
        ("fleet", format!("{} agents, {} services, state {}", run.agents, run.services, run.state)),
        ("data", format!("{} files, {} chunks", human::count(run.files), human::count(run.chunks))),
        ("backups", format!("{} listed, {} files planned", run.backups, human::count(run.files_planned))),
        ("manifests", format!("{} in all", human::size(run.manifest_bytes))),
        ("coordinator's disk", human::size(run.index_bytes)),
        ("records in etcd", largest),
        ("told again", format!("{} reports, {} sessions dialled again", run.reports_again, run.reconnects)),
    ]);
    format!("{facts}\n{}", table(&HEADER, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], &rows))
}

pub(super) fn show(report: &Report) -> String {
    let runs: Vec<String> = report.runs.iter().map(show_run).collect();
    let load: Vec<String> = report.load.iter().map(f64::to_string).collect();
    format!("{}\n{} cores, load {}", runs.join("\n"), report.cores, load.join(" "))
}
