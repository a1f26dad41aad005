//! A node that a partial backup goes without, wherever one is shown.
use palinurus_proto::v1;
use palinurus_repository::ledger;
use serde::Serialize;

use crate::human;
use crate::output::table;

#[derive(Serialize)]
pub(crate) struct MissingView {
    pub(crate) node: String,
    pub(crate) reason: String,
    /// As its snapshot listed them; 0 when it had none yet.
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Some of the largest. What is no UTF-8 in them is replaced by U+FFFD.
    pub(crate) paths: Vec<String>,
}

impl MissingView {
    pub(crate) fn of(missing: &v1::MissingNode) -> Self {
        Self {
            node: missing.node.clone(),
            reason: missing.reason.clone(),
            files: missing.files,
            bytes: missing.bytes,
            paths: missing.paths.iter().map(|path| human::name(path)).collect(),
        }
    }

    pub(crate) fn of_record(missing: &ledger::MissingNode) -> Self {
        Self {
            node: missing.node.clone(),
            reason: missing.reason.clone(),
            files: missing.files,
            bytes: missing.bytes,
            paths: missing.paths.iter().map(|path| human::name(path)).collect(),
        }
    }
}

/// For a list's column: nothing, or whom the backup goes without.
pub(crate) fn brief(missing: &[MissingView]) -> String {
    if missing.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = missing.iter().map(|missing| missing.node.as_str()).collect();
    format!("partial, without {}", names.join(" "))
}

/// Nothing of a whole backup.
pub(crate) fn show(missing: &[MissingView]) -> String {
    if missing.is_empty() {
        return String::new();
    }
    let row = |missing: &MissingView| {
        vec![
            missing.node.clone(),
            if missing.files == 0 { "-".into() } else { human::count(missing.files) },
            if missing.files == 0 { "-".into() } else { human::size(missing.bytes) },
            human::name(missing.reason.as_bytes()),
            missing.paths.join(" "),
        ]
    };
    let rows: Vec<Vec<String>> = missing.iter().map(row).collect();
    let header = ["MISSING", "FILES", "DATA", "BECAUSE", "SUCH AS"];
    format!("\nthe backup is partial\n{}", table(&header, &[1, 2], &rows))
}
