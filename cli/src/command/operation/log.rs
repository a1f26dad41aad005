//! What a check has seen of a log.
use palinurus_proto::v1;
use serde::Serialize;

use crate::command::logs::Stretch;
use crate::human;
use crate::output::table;
use crate::target::position;

#[derive(Serialize)]
pub(crate) struct LogCheckView {
    lineage: String,
    kind: String,
    timeline: Option<u32>,
    pieces: u64,
    bytes: u64,
    stretches: Vec<Stretch>,
    /// Never stored.
    gaps: Vec<Stretch>,
    /// Stored once.
    lost: Vec<Stretch>,
    windows: Vec<Window>,
}

#[derive(Serialize)]
struct Window {
    backup: String,
    from: String,
    to: String,
}

impl LogCheckView {
    pub(crate) fn of(seen: &v1::LogChecked) -> Self {
        let lineage = seen.lineage.clone().unwrap_or_default();
        let stretches = |all: &[v1::LogStretch]| all.iter().map(|it| Stretch::of(it.from, it.to)).collect();
        let windows = seen.windows.iter().map(|window| Window {
            backup: window.backup_id.clone(),
            from: position(window.from),
            to: position(window.to),
        });
        Self {
            lineage: human::hex(&lineage.id),
            timeline: timeline(&lineage),
            kind: lineage.kind,
            pieces: seen.pieces,
            bytes: seen.bytes,
            stretches: stretches(&seen.stretches),
            gaps: stretches(&seen.gaps),
            lost: stretches(&seen.lost),
            windows: windows.collect(),
        }
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let name: String = self.lineage.chars().take(8).collect();
        let timeline = self.timeline.map_or_else(|| "-".into(), |timeline| timeline.to_string());
        let row = |what: &str, it: &Stretch, pieces: String, bytes: String| {
            vec![name.clone(), timeline.clone(), what.into(), it.from.clone(), it.to.clone(), pieces, bytes]
        };
        let mut rows = Vec::new();
        for (number, it) in self.stretches.iter().enumerate() {
            // All of the lineage's, said once.
            let (pieces, bytes) = match number {
                0 => (human::count(self.pieces), human::size(self.bytes)),
                _ => Default::default(),
            };
            rows.push(row("stored", it, pieces, bytes));
        }
        let others = [("gap", &self.gaps), ("LOST", &self.lost)];
        for (what, all) in others {
            rows.extend(all.iter().map(|it| row(what, it, String::new(), String::new())));
        }
        rows
    }
}

/// As PostgreSQL numbers them.
fn timeline(lineage: &v1::LogLineage) -> Option<u32> {
    let (_, timeline) = lineage.identity.split_first_chunk::<8>().filter(|_| lineage.kind == "postgresql")?;
    Some(u32::from_be_bytes(timeline.try_into().ok()?))
}

/// Nothing, when there is no log. Where something is lost, what can be restored all the same.
pub(crate) fn show(logs: &[LogCheckView]) -> String {
    let rows: Vec<Vec<String>> = logs.iter().flat_map(LogCheckView::rows).collect();
    if rows.is_empty() {
        return String::new();
    }
    let heads = ["LINEAGE", "TIMELINE", "LOG", "FROM", "TO", "PIECES", "SIZE"];
    let mut text = format!("\n{}", table(&heads, &[1, 5, 6], &rows));
    if logs.iter().any(|log| !log.lost.is_empty()) {
        let windows = logs.iter().flat_map(|log| &log.windows);
        let rows: Vec<Vec<String>> =
            windows.map(|it| vec![it.backup.clone(), it.from.clone(), it.to.clone()]).collect();
        text.push_str(&format!("\nwhat can be restored\n{}", table(&["BACKUP", "FROM", "TO"], &[], &rows)));
    }
    text
}
