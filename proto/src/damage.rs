//! What a check found, in messages.
use palinurus_repository::log::{Lineage, Window};
use palinurus_repository::verify::{Damage, LogSeen};

use crate::logs::lineage_to_wire;
use crate::v1;

/// Of any list; a message has its bounds.
const LISTED: usize = 100;

pub fn damage(damage: &Damage) -> v1::Damage {
    let files = damage
        .files
        .iter()
        .map(|file| v1::SpoiledFile { node: file.node.clone(), path: file.path.clone().into() });
    v1::Damage {
        object: damage.object.clone(),
        what: damage.what.clone(),
        backups: damage.backups.iter().map(ToString::to_string).collect(),
        files: files.collect(),
        file_count: damage.file_count,
    }
}

/// The newest of them, where there are too many.
pub fn logs(seen: &[LogSeen]) -> Vec<v1::LogChecked> {
    let mut newest: Vec<&LogSeen> = seen.iter().collect();
    newest.sort_by_key(|seen| std::cmp::Reverse(seen.lineage.number));
    newest.into_iter().take(LISTED).map(log).collect()
}

fn log(seen: &LogSeen) -> v1::LogChecked {
    let lineage = Lineage { grants: Vec::new(), ..Lineage::clone(&seen.lineage) };
    let window = |window: &Window| v1::LogWindow {
        backup_id: window.anchor.backup.to_string(),
        node: window.anchor.node.clone(),
        chain: window.chain.iter().map(|id| id.as_bytes().to_vec().into()).collect(),
        from: window.from,
        to: window.to,
        ..Default::default()
    };
    let first = seen.windows.len().saturating_sub(LISTED);
    v1::LogChecked {
        lineage: Some(lineage_to_wire(&lineage)),
        pieces: seen.pieces,
        bytes: seen.bytes,
        stretches: stretches(&seen.stretches),
        gaps: stretches(&seen.gaps),
        lost: stretches(&seen.lost),
        windows: seen.windows[first..].iter().map(window).collect(),
    }
}

fn stretches(all: &[(u64, u64)]) -> Vec<v1::LogStretch> {
    let newest = &all[all.len().saturating_sub(LISTED)..];
    newest.iter().map(|(from, to)| v1::LogStretch { from: *from, to: *to }).collect()
}
