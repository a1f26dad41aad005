//! The demo's result: a table, or with `--json` this object.
use std::path::PathBuf;

use serde::Serialize;

use crate::human;
use crate::output::table;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) steps: Vec<Step>,
    /// Files compared after the restore.
    pub(super) files: u64,
    /// Paths whose bytes or attributes are not what they were; empty is success.
    pub(super) differences: Vec<String>,
    /// The whole demo.
    pub(super) seconds: f64,
    /// Where everything was left, with `--keep`.
    pub(super) kept: Option<PathBuf>,
}

/// Sizes in bytes; null where a step has none.
#[derive(Debug, Default, Serialize)]
pub(super) struct Step {
    pub(super) name: &'static str,
    /// Logical size of the data that the step is about.
    pub(super) bytes: u64,
    /// From the disks of the nodes.
    pub(super) read: Option<u64>,
    /// That no node and no earlier backup had stored.
    pub(super) new: Option<u64>,
    /// Of that, after compression and encryption.
    pub(super) uploaded: Option<u64>,
    /// What the repository grew by.
    pub(super) stored: Option<u64>,
    pub(super) seconds: f64,
    pub(super) restored: Option<u64>,
    /// Whether the restored data is equal, byte for byte and attribute for attribute.
    pub(super) verified: Option<bool>,
}

pub(super) fn show(report: &Report) -> String {
    let size = |bytes: Option<u64>| bytes.map(human::size).unwrap_or_else(|| "-".into());
    let row = |step: &Step| {
        let ratio = match step.stored {
            Some(stored) if stored > 0 => format!("{:.1}", step.bytes as f64 / stored as f64),
            _ => "-".into(),
        };
        let verified = match step.verified {
            None => "-",
            Some(true) => "yes",
            Some(false) => "NO",
        };
        vec![
            step.name.to_owned(),
            human::size(step.bytes),
            size(step.read),
            size(step.new),
            size(step.uploaded),
            size(step.stored),
            ratio,
            format!("{:.1}", step.seconds),
            size(step.restored),
            verified.into(),
        ]
    };
    let rows: Vec<Vec<String>> = report.steps.iter().map(row).collect();
    let header =
        ["STEP", "DATA", "READ", "NEW", "UPLOADED", "STORED", "RATIO", "SECONDS", "RESTORED", "VERIFIED"];
    let mut text = table(&header, &[1, 2, 3, 4, 5, 6, 7, 8], &rows);
    if report.differences.is_empty() {
        text.push_str(&format!(
            "\nall {} files of the lost node are back, equal in bytes and attributes ({:.0} s in all)\n",
            human::count(report.files),
            report.seconds
        ));
    } else {
        text.push_str(&format!("\nDIFFERENT: {} paths\n", report.differences.len()));
        for line in report.differences.iter().take(20) {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}
