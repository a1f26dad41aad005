//! What the records say of a service's backups.
use palinurus_proto::v1::{self, OperationState};
use palinurus_repository::Timestamp;
use palinurus_repository::ledger::State;

use super::Past;
use crate::operation::finished;

/// What the ledger has of them; it may have forgotten what an operation still tells, and the other way round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Newest {
    /// When the newest began.
    pub(crate) began: Option<Timestamp>,
    /// The same of the newest that has all nodes, and nothing of which is damaged.
    pub(crate) whole: Option<Timestamp>,
}

impl Newest {
    pub(crate) fn of(state: &State) -> Self {
        let whole = state.backups().filter(|backup| backup.missing.is_empty() && !state.is_spoiled(backup));
        Self {
            began: state.backups().map(|backup| backup.started).max(),
            whole: whole.map(|backup| backup.started).max(),
        }
    }
}

impl Past {
    /// `operations` are the service's.
    pub(crate) fn of<'a>(
        service: &v1::Service,
        newest: Newest,
        operations: impl Iterator<Item = &'a v1::Operation> + Clone,
    ) -> Self {
        let backups = operations.filter(|operation| operation.backup.is_some());
        let good = backups.clone().filter(|it| is_made(it)).map(|it| Timestamp(it.created_ms));
        let good = good.chain(newest.began).max();
        // An operator's no holds for the time that it was said at.
        let cancelled = backups.clone().filter(|it| it.state() == OperationState::Cancelled);
        let settled = good.max(cancelled.map(|it| Timestamp(it.created_ms)).max());
        let failed = failed(backups.clone(), settled);
        Self {
            created: Timestamp(service.created_ms),
            good: settled,
            failed: u32::try_from(failed.clone().count()).unwrap_or(u32::MAX),
            failed_at: Timestamp(failed.map(|it| it.finished_ms).max().unwrap_or_default()),
            runs: backups.clone().any(|it| !finished(it.state())),
        }
    }
}

fn is_made(operation: &v1::Operation) -> bool {
    operation.backup.as_ref().is_some_and(|backup| backup.committed)
}

/// Those of the backups that came to nothing after that moment.
pub(super) fn failed<'a>(
    backups: impl Iterator<Item = &'a v1::Operation> + Clone,
    since: Option<Timestamp>,
) -> impl Iterator<Item = &'a v1::Operation> + Clone {
    let since = since.map_or(0, |since| since.0);
    backups.filter(move |it| {
        it.backup.is_some() && it.state() == OperationState::Failed && !is_made(it) && it.created_ms > since
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(created_ms: u64, state: OperationState, committed: bool) -> v1::Operation {
        let backup = v1::BackupDetail { committed, ..Default::default() };
        let finished_ms = if finished(state) { created_ms + 5 } else { 0 };
        let mut operation =
            v1::Operation { created_ms, finished_ms, backup: Some(backup), ..Default::default() };
        operation.set_state(state);
        operation
    }

    #[test]
    fn it_follows_from_operations_and_ledger_whatever_either_has_forgotten() {
        use OperationState::{Cancelled, Failed, Running, Succeeded, Warnings};
        let service = v1::Service { created_ms: 7, ..Default::default() };
        let past = |began: Option<u64>, operations: &[v1::Operation]| {
            let newest = Newest { began: began.map(Timestamp), whole: None };
            let past = Past::of(&service, newest, operations.iter());
            (past.good.map(|good| good.0), past.failed, past.failed_at.0, past.runs)
        };
        assert_eq!(past(None, &[]), (None, 0, 0, false));
        assert_eq!(past(Some(50), &[backup(40, Warnings, true)]), (Some(50), 0, 0, false));
        let after = [backup(60, Failed, false), backup(40, Succeeded, true), backup(70, Failed, false)];
        assert_eq!(past(None, &after), (Some(40), 2, 75, false));
        assert_eq!(past(Some(65), &after), (Some(65), 1, 75, false));
        // Its release failed: the backup is there.
        assert_eq!(past(None, &[backup(60, Failed, true)]), (Some(60), 0, 0, false));
        let no = [backup(40, Succeeded, true), backup(60, Failed, false), backup(80, Cancelled, false)];
        assert_eq!(past(None, &no), (Some(80), 0, 0, false), "what was cancelled is not begun again");
        assert!(past(None, &[backup(9, Running, false)]).3);
        let other = v1::Operation { created_ms: 90, ..Default::default() };
        assert_eq!(past(None, &[other]), (None, 0, 0, false));
    }
}
