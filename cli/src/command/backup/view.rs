//! How backups are shown.
use palinurus_proto::v1;
use serde::Serialize;

use crate::command::drill::ProofView;
use crate::command::missing::{self, MissingView};
use crate::human;
use crate::output::{fields, table};

#[derive(Serialize)]
pub(super) struct Backups {
    pub(super) backups: Vec<BackupView>,
}

/// Times are RFC 3339, sizes bytes.
#[derive(Serialize)]
pub(super) struct BackupView {
    id: String,
    service: String,
    started: Option<String>,
    /// When the first of all nodes' data was held still, and until the last had been.
    taken: Option<String>,
    skew_ms: u64,
    committed: Option<String>,
    files: u64,
    /// Logical.
    bytes: u64,
    /// That nobody had stored.
    bytes_new: u64,
    /// What it added to the store.
    bytes_stored: u64,
    warnings: u64,
    nodes: Vec<BackupNodeView>,
    /// Not empty: the backup is partial.
    missing: Vec<MissingView>,
    /// Something that it needs is damaged: not all of it can be restored.
    spoiled: bool,
    /// Why retention keeps it, all reasons; none: it may be forgotten.
    kept_for: Vec<String>,
    pin: Option<PinView>,
    hold: Option<HoldView>,
    /// The last proof of each of its nodes.
    drills: Vec<ProofView>,
}

#[derive(Serialize)]
struct PinView {
    reason: String,
    since: Option<String>,
}

#[derive(Serialize)]
struct HoldView {
    until: Option<String>,
    reason: String,
    since: Option<String>,
}

#[derive(Serialize)]
struct BackupNodeView {
    node: String,
    files: u64,
    bytes: u64,
    bytes_read: u64,
    bytes_new: u64,
    bytes_stored: u64,
    warnings: u64,
    /// Nothing had changed: the manifest of the base backup stands for this one too.
    unchanged: bool,
    /// The moment that it stands for, by the node's clock.
    taken: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    shard: String,
}

pub(super) fn view(backup: &v1::Backup) -> BackupView {
    let nodes = backup.nodes.iter().map(|node| BackupNodeView {
        node: node.node.clone(),
        files: node.files,
        bytes: node.bytes,
        bytes_read: node.bytes_read,
        bytes_new: node.bytes_new,
        bytes_stored: node.bytes_stored,
        warnings: node.warnings,
        unchanged: node.unchanged,
        taken: human::rfc3339(node.taken_from_ms),
        shard: node.shard.clone(),
    });
    let from = backup.nodes.iter().map(|node| node.taken_from_ms).filter(|ms| *ms > 0).min();
    let to = backup.nodes.iter().map(|node| node.taken_to_ms).max();
    BackupView {
        id: backup.id.clone(),
        service: backup.service.clone(),
        started: human::rfc3339(backup.started_ms),
        taken: from.and_then(human::rfc3339),
        skew_ms: to.unwrap_or(0).saturating_sub(from.unwrap_or(0)),
        committed: human::rfc3339(backup.committed_ms),
        files: backup.files,
        bytes: backup.bytes,
        bytes_new: backup.bytes_new,
        bytes_stored: backup.bytes_stored,
        warnings: backup.warnings,
        nodes: nodes.collect(),
        missing: backup.missing.iter().map(MissingView::of).collect(),
        spoiled: backup.spoiled,
        kept_for: backup.kept_for.clone(),
        pin: backup
            .pin
            .as_ref()
            .map(|pin| PinView { reason: pin.reason.clone(), since: human::rfc3339(pin.since_ms) }),
        hold: backup.hold.as_ref().map(|hold| HoldView {
            until: human::rfc3339(hold.until_ms),
            reason: hold.reason.clone(),
            since: human::rfc3339(hold.since_ms),
        }),
        drills: backup.drills.iter().map(ProofView::of).collect(),
    }
}

fn taken(backup: &BackupView) -> String {
    match &backup.taken {
        Some(from) if backup.skew_ms > 0 => {
            format!("{}, all within {}", from.replacen('T', " ", 1), human::seconds(backup.skew_ms))
        }
        Some(from) => from.replacen('T', " ", 1),
        None => "not known".into(),
    }
}

fn why(backup: &BackupView) -> String {
    if backup.kept_for.is_empty() {
        return "may be forgotten".into();
    }
    human::name(backup.kept_for.join(", ").as_bytes())
}

pub(super) fn show(backup: &BackupView) -> String {
    let time = |time: &Option<String>| time.clone().unwrap_or_default().replacen('T', " ", 1);
    let rows: Vec<Vec<String>> = backup
        .nodes
        .iter()
        .map(|node| {
            vec![
                node.node.clone(),
                human::count(node.files),
                human::size(node.bytes),
                human::size(node.bytes_read),
                human::size(node.bytes_new),
                human::size(node.bytes_stored),
                node.warnings.to_string(),
                if node.unchanged { "unchanged".into() } else { String::new() },
            ]
        })
        .collect();
    let mut pairs = vec![
        ("backup", backup.id.clone()),
        ("service", backup.service.clone()),
        ("started", time(&backup.started)),
        ("committed", time(&backup.committed)),
        ("data", format!("{} in {} files", human::size(backup.bytes), human::count(backup.files))),
        ("taken", taken(backup)),
        ("stored", human::size(backup.bytes_stored)),
        ("kept for", why(backup)),
    ];
    pairs.extend(ProofView::rows(&backup.drills));
    let head = fields(&pairs);
    let header = ["NODE", "FILES", "DATA", "READ", "NEW", "STORED", "WARNINGS", ""];
    let nodes = table(&header, &[1, 2, 3, 4, 5, 6], &rows);
    let spoiled = if backup.spoiled { SPOILED } else { "" };
    format!("{head}\n{nodes}{}{spoiled}", missing::show(&backup.missing))
}

const SPOILED: &str =
    "\nspoiled: some of what it needs is damaged; `palinurus repository check` names the files\n";

fn state(backup: &BackupView) -> String {
    let spoiled = if backup.spoiled { "spoiled" } else { "" };
    let missing = missing::brief(&backup.missing);
    if spoiled.is_empty() || missing.is_empty() {
        format!("{spoiled}{missing}")
    } else {
        format!("{spoiled}, {missing}")
    }
}

pub(super) fn show_why(backups: &Backups) -> String {
    let row = |backup: &BackupView| {
        vec![
            backup.id.clone(),
            backup.service.clone(),
            backup.committed.clone().unwrap_or_default().replacen('T', " ", 1),
            human::size(backup.bytes_stored),
            why(backup),
        ]
    };
    let rows: Vec<Vec<String>> = backups.backups.iter().map(row).collect();
    table(&["BACKUP", "SERVICE", "COMMITTED", "STORED", "WHY"], &[3], &rows)
}

pub(super) fn show_list(backups: &Backups) -> String {
    let row = |backup: &BackupView| {
        vec![
            backup.id.clone(),
            backup.service.clone(),
            backup.committed.clone().unwrap_or_default().replacen('T', " ", 1),
            backup.nodes.len().to_string(),
            human::count(backup.files),
            human::size(backup.bytes),
            human::size(backup.bytes_new),
            human::size(backup.bytes_stored),
            backup.warnings.to_string(),
            ProofView::summary(&backup.drills, backup.nodes.len()),
            state(backup),
        ]
    };
    let rows: Vec<Vec<String>> = backups.backups.iter().map(row).collect();
    let header = [
        "BACKUP",
        "SERVICE",
        "COMMITTED",
        "NODES",
        "FILES",
        "DATA",
        "NEW",
        "STORED",
        "WARNINGS",
        "PROVED",
        "",
    ];
    table(&header, &[3, 4, 5, 6, 7, 8], &rows)
}
