//! A node that a backup loses on the way. The service's policy, recorded when the backup began, says whether the
//! others go on without it; what it would have given is said either way.
use palinurus_proto::v1::{self, TaskState, task_result};

use super::barrier::lost;
use super::share::brings_nothing;
use super::{Action, Phase, Presence, Sighting, Step, View, Work, ended, record};

/// Of the paths that a node tells.
const PATHS_MAX: usize = 8;
const PATH_BYTES_MAX: usize = 512;
/// In a sentence.
const PATHS_NAMED: usize = 3;

/// Goes on without the node, or gives the backup up. A backup of nobody is none.
pub(super) fn lose(view: View<'_>, node: &str, work: Work) -> Step {
    let mut failure = lost(view, node, work);
    let missing = missing(view, node, &failure.message);
    if allowed(view) && taking_part(view.operation).nth(1).is_some() {
        return Step::Without(missing);
    }
    failure.message = format!("{}; without it the backup lacks {}", failure.message, what(&missing));
    if !allowed(view) {
        failure.hint =
            format!("{}; with the service's setting partial = allow the other nodes go on", failure.hint);
    }
    Step::Advance(Phase::Release, Some(failure))
}

fn allowed(view: View<'_>) -> bool {
    view.operation.backup.as_ref().is_some_and(|backup| backup.allow_partial)
}

/// The operation's nodes but those that it has lost, and those that bring nothing.
pub(crate) fn taking_part(operation: &v1::Operation) -> impl Iterator<Item = &str> {
    let here = |node: &&str| !is_missing(operation, node) && !brings_nothing(operation, node);
    operation.nodes.iter().map(String::as_str).filter(here)
}

pub(crate) fn is_missing(operation: &v1::Operation, node: &str) -> bool {
    operation.backup.iter().flat_map(|backup| &backup.missing).any(|missing| missing.node == node)
}

/// A missing node that comes back has no part in this backup any more: it stops what it still does, and is released.
pub(super) fn send_home(view: View<'_>) -> Option<Step> {
    let backup = view.operation.backup.as_ref()?;
    let connected = |missing: &&v1::MissingNode| view.presence(&missing.node) == Presence::Connected;
    let actions: Vec<Action> =
        backup.missing.iter().filter(connected).flat_map(|missing| home(view, &missing.node)).collect();
    (!actions.is_empty()).then_some(Step::Do(actions))
}

fn home(view: View<'_>, node: &str) -> Vec<Action> {
    let tasks = view.operation.tasks.iter().filter(|record| record.node == node);
    let works: Vec<Work> = tasks.filter_map(|record| Work::from_name(&record.name)).collect();
    let runs =
        |work: Work| matches!(view.sighting(node, work), Sighting::At(record) if !ended(record.state()));
    let running: Vec<Work> =
        works.iter().copied().filter(|work| *work != Work::Release && runs(*work)).collect();
    if running.is_empty() {
        let attempt = record::attempt(view.operation, node, Work::Release);
        let known = matches!(view.sighting(node, Work::Release), Sighting::At(_));
        let release = Action::Assign { node: node.to_owned(), work: Work::Release, attempt };
        return if known || works.is_empty() { Vec::new() } else { vec![release] };
    }
    let told = |work: &Work| view.seen.stopped.contains(&(node.to_owned(), *work));
    let stop = |work| Action::Stop { node: node.to_owned(), work };
    running.into_iter().filter(|work| !told(work)).map(stop).collect()
}

/// Who has uploaded and left chunks to others uploads again once one of them is lost: what that one had claimed and
/// not stored is free, and goes to whoever of these claims it first.
pub(super) fn takes_over(view: View<'_>, upload: &v1::TaskRecord) -> bool {
    let missing = view.operation.backup.iter().flat_map(|backup| &backup.missing);
    let mut uploaded = missing.filter(|missing| view.record(&missing.node, Work::Upload).is_some());
    borrowed(upload) > 0 && uploaded.any(|missing| upload.assigned_ms < missing.lost_ms)
}

fn borrowed(record: &v1::TaskRecord) -> u64 {
    match record.result.as_ref().and_then(|result| result.result.as_ref()) {
        Some(task_result::Result::Upload(uploaded)) if record.state() == TaskState::TaskDone => {
            uploaded.borrowed
        }
        _ => 0,
    }
}

fn missing(view: View<'_>, node: &str, reason: &str) -> v1::MissingNode {
    let snapshot = view.record(node, Work::Snapshot).and_then(|record| record.result.as_ref());
    let snapshot = match snapshot.and_then(|result| result.result.as_ref()) {
        Some(task_result::Result::Snapshot(snapshot)) => snapshot.clone(),
        _ => v1::SnapshotResult::default(),
    };
    let paths = snapshot.largest.into_iter().filter(|path| path.len() <= PATH_BYTES_MAX).take(PATHS_MAX);
    v1::MissingNode {
        node: node.to_owned(),
        reason: reason.to_owned(),
        files: snapshot.files,
        bytes: snapshot.bytes,
        paths: paths.collect(),
        lost_ms: view.now.0,
    }
}

/// Of every node that the backup goes without.
pub(super) fn warnings(operation: &v1::Operation) -> Vec<v1::Warning> {
    let warning = |missing: &v1::MissingNode| v1::Warning {
        node: missing.node.clone(),
        message: format!("the backup is partial: {}; it lacks {}", missing.reason, what(missing)),
        ..Default::default()
    };
    operation.backup.iter().flat_map(|backup| &backup.missing).map(warning).collect()
}

/// `its 1204 files (5.2 GiB), such as base/16384/2619`
pub(super) fn what(missing: &v1::MissingNode) -> String {
    if missing.files == 0 {
        return "all of its files, of which it had no snapshot yet".to_owned();
    }
    let mut text = format!("its {} files ({})", missing.files, size(missing.bytes));
    let paths: Vec<String> = missing.paths.iter().take(PATHS_NAMED).map(|path| name(path)).collect();
    if !paths.is_empty() {
        text = format!("{text}, such as {}", paths.join(", "));
    }
    text
}

/// Of another machine's making: harmless on a terminal and in a log.
fn name(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] }).collect()
}

fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    while value >= 999.5 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    format!("{value:.1} {}", units[unit])
}
