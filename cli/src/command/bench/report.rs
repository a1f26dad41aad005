//! The benchmark's result: a table, or with `--json` this object.
use serde::Serialize;

use crate::human;
use crate::output::table;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) data: String,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) cores: usize,
    pub(super) runs: usize,
    /// restic's version; null when it is not installed.
    pub(super) peer: Option<String>,
    /// Read, hash, compress and seal on the same cores, nothing else.
    pub(super) limit_seconds: f64,
    pub(super) limit_cpu: f64,
    /// What that made of the data, undeduplicated.
    pub(super) limit_sealed: u64,
    pub(super) steps: Vec<Step>,
    /// What lies in the store after the cold backup.
    pub(super) stored: u64,
    pub(super) peer_stored: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Step {
    pub(super) name: &'static str,
    /// Logical size, for GB/s.
    pub(super) bytes: u64,
    pub(super) ours: Cost,
    pub(super) peer: Option<Cost>,
}

/// Medians over the runs.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Cost {
    pub(super) seconds: f64,
    /// Processor seconds, of all processes.
    pub(super) cpu: f64,
    pub(super) uploaded: Option<u64>,
    /// Object requests: puts and gets.
    pub(super) requests: Option<u64>,
    /// Bytes of memory at the peak.
    pub(super) agent_memory: Option<u64>,
    pub(super) coordinator_memory: Option<u64>,
}

impl Cost {
    /// The middle of each value by itself.
    pub(super) fn median(of: &[Cost]) -> Cost {
        let middle = |value: fn(&Cost) -> f64| {
            let mut values: Vec<f64> = of.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(0.0)
        };
        let count = |value: fn(&Cost) -> Option<u64>| {
            let mut values: Vec<u64> = of.iter().filter_map(value).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied()
        };
        Cost {
            seconds: middle(|cost| cost.seconds),
            cpu: middle(|cost| cost.cpu),
            uploaded: count(|cost| cost.uploaded),
            requests: count(|cost| cost.requests),
            agent_memory: count(|cost| cost.agent_memory),
            coordinator_memory: count(|cost| cost.coordinator_memory),
        }
    }
}

pub(super) fn show(report: &Report) -> String {
    let header = [
        "step",
        "seconds",
        "GB/s",
        "of limit",
        "cpu s",
        "uploaded",
        "requests",
        "agent",
        "coordinator",
        "peer s",
        "peer cpu s",
        "peer uploaded",
        "faster",
        "fewer bytes",
    ];
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".into(), human::size);
    let rate = |step: &Step| step.bytes as f64 / 1e9 / step.ours.seconds.max(1e-9);
    let row = |step: &Step| {
        let peer = step.peer.as_ref();
        let of_limit = match step.name {
            "cold" => format!("{:.0} %", 100.0 * report.limit_seconds / step.ours.seconds),
            _ => "-".into(),
        };
        let faster =
            peer.map_or_else(|| "-".into(), |peer| format!("{:.1}x", peer.seconds / step.ours.seconds));
        let fewer = match (peer.and_then(|peer| peer.uploaded), step.ours.uploaded) {
            (Some(theirs), Some(ours)) if ours > 0 => format!("{:.2}x", theirs as f64 / ours as f64),
            _ => "-".into(),
        };
        vec![
            step.name.to_owned(),
            format!("{:.2}", step.ours.seconds),
            format!("{:.2}", rate(step)),
            of_limit,
            format!("{:.1}", step.ours.cpu),
            size(step.ours.uploaded),
            step.ours.requests.map_or_else(|| "-".into(), human::count),
            size(step.ours.agent_memory),
            size(step.ours.coordinator_memory),
            peer.map_or_else(|| "-".into(), |peer| format!("{:.2}", peer.seconds)),
            peer.map_or_else(|| "-".into(), |peer| format!("{:.1}", peer.cpu)),
            size(peer.and_then(|peer| peer.uploaded)),
            faster,
            fewer,
        ]
    };
    let rows: Vec<Vec<String>> = report.steps.iter().map(row).collect();
    let mut text = format!(
        "{}: {} in {} files, {} cores, medians of {} run(s); peer: {}\n",
        report.data,
        human::size(report.bytes),
        human::count(report.files),
        report.cores,
        report.runs,
        report.peer.as_deref().unwrap_or("none installed"),
    );
    text += &format!(
        "limit of this machine (read, hash, compress, seal): {:.2} s, {:.1} cpu s, {:.2} GB/s, {}\n",
        report.limit_seconds,
        report.limit_cpu,
        report.bytes as f64 / 1e9 / report.limit_seconds.max(1e-9),
        human::size(report.limit_sealed),
    );
    text += &format!("stored: {}, by the peer: {}\n\n", human::size(report.stored), size(report.peer_stored));
    let right: Vec<usize> = (1..header.len()).collect();
    text + &table(&header, &right, &rows)
}
