//! A database that a failover or a fork has brought back writes a history of its own, along which no backup leads: one is begun.
use std::time::Duration;

use palinurus_proto::v1::{self, OperationState};
use palinurus_repository::Timestamp;
use ractor::ActorRef;

use super::{Service, ServiceMsg};
use crate::failover::Policy;
use crate::logs::parent;

/// For the log's new history, which asks for the backup by itself once it is known: one made before would not lead along it.
const GRACE: Duration = Duration::from_secs(45);

/// After the first that failed; twice as long after each, up to the most.
const AGAIN: Duration = Duration::from_secs(60);
const AGAIN_MAX: Duration = Duration::from_secs(60 * 60);

impl Service {
    /// When an operation has ended, and under a new leader: what is wanted follows from the operations alone.
    pub(super) fn after_failover(&self, me: &ActorRef<ServiceMsg>) {
        if let Some((_, due)) = self.rebuilt() {
            me.send_after(due.since(self.shared.now()), || ServiceMsg::Rebuilt);
        }
    }

    /// Where another has failed meanwhile, its end has asked for a later look.
    pub(super) fn back_up_rebuilt(&mut self, me: &ActorRef<ServiceMsg>) {
        let Some((rebuilt, due)) = self.rebuilt() else { return };
        if due <= self.shared.now() {
            self.want_backup(me, format!("no backup has been made since operation {}", rebuilt.id));
        }
    }

    /// The last operation that began another history, if no backup was made or begun since, and when one is due: a failover that
    /// made a node the one that is written, or a fork whose data is in use as it is. That of a database is made when it has been
    /// started.
    fn rebuilt(&self) -> Option<(&v1::Operation, Timestamp)> {
        let replicated = Policy::of(&self.record.value).replicated;
        let begins = |operation: &v1::Operation| match replicated {
            true => operation.failover.as_ref().is_some_and(|failover| failover.follows.is_empty()),
            false => parent(operation).is_some(),
        };
        let ended = self.history.values().map(|operation| &operation.value);
        let rebuilt = ended.clone().filter(|operation| {
            let good = matches!(operation.state(), OperationState::Succeeded | OperationState::Warnings);
            good && begins(operation)
        });
        let rebuilt = rebuilt.max_by_key(|operation| operation.finished_ms)?;
        let running = self.slot.current().is_some_and(|current| current.kind == v1::OperationKind::Backup);
        let since = ended.filter(|it| it.backup.is_some() && it.created_ms >= rebuilt.finished_ms);
        // A fork's is begun once: what stands against it is an operator's to mend, and would stand against the next.
        let made = |operation: &v1::Operation| {
            operation.backup.as_ref().is_some_and(|backup| backup.committed) || !replicated
        };
        if running || since.clone().any(made) {
            return None;
        }
        Some((rebuilt, due(rebuilt, since)))
    }
}

/// `failed` are the backups that have ended since.
fn due<'a>(rebuilt: &v1::Operation, failed: impl Iterator<Item = &'a v1::Operation> + Clone) -> Timestamp {
    let has_log = rebuilt.failover.as_ref().is_some_and(|failover| failover.logs.is_some());
    let first = Timestamp(rebuilt.finished_ms).plus(if has_log { GRACE } else { Duration::ZERO });
    let Some(last) = failed.clone().map(|operation| operation.finished_ms).max() else { return first };
    let times = u32::try_from(failed.count()).unwrap_or(u32::MAX);
    let pause = AGAIN.saturating_mul(1u32.checked_shl(times - 1).unwrap_or(u32::MAX)).min(AGAIN_MAX);
    first.max(Timestamp(last).plus(pause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_that_fails_is_begun_again_ever_later_and_always() {
        let ended = |finished_ms| v1::Operation { finished_ms, ..Default::default() };
        let mut rebuilt = ended(1000);
        assert_eq!(due(&rebuilt, [].iter()), Timestamp(1000));
        rebuilt.failover = Some(v1::FailoverDetail { logs: Some(Default::default()), ..Default::default() });
        assert_eq!(due(&rebuilt, [].iter()), Timestamp(46_000));
        assert_eq!(due(&rebuilt, [ended(2000)].iter()), Timestamp(62_000));
        assert_eq!(due(&rebuilt, [ended(2000), ended(90_000)].iter()), Timestamp(210_000));
        for failed in [7, 40, 100] {
            let failed = vec![ended(50_000); failed];
            assert_eq!(due(&rebuilt, failed.iter()), Timestamp(50_000 + 3_600_000));
        }
    }
}
