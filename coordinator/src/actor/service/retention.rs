//! Retention that runs by itself: when the leader has begun, then at intervals, and never in anybody's way.
use std::time::Duration;

use palinurus_proto::v1;
use palinurus_repository::{Result, Timestamp};
use ractor::ActorRef;
use tokio_util::task::AbortOnDropHandle;

use super::{Service, ServiceMsg};
use crate::actor::operation::OperationMsg;
use crate::operation::Detail;
use crate::power;
use crate::retention;

/// Messages that wait until a run has given way.
const WAITING_MAX: usize = 16;

/// What a look has found to do, and why.
pub(crate) type Surveyed = Result<Option<(v1::RetentionDetail, Vec<String>)>>;

#[derive(Default)]
pub(super) struct Retentions {
    /// As the timer was set for.
    interval: Option<Duration>,
    timer: Option<AbortOnDropHandle<Result<(), ractor::MessagingErr<ServiceMsg>>>>,
    survey: Option<AbortOnDropHandle<()>>,
    /// It was due while something else ran: once that has ended, it runs, once.
    missed: bool,
    /// Asked for while an automatic run had the slot.
    waiting: Vec<ServiceMsg>,
}

impl Service {
    /// Sets the timer as the settings say; one that is set for the same interval stays.
    pub(super) fn schedule_retention(&mut self, me: &ActorRef<ServiceMsg>) {
        let interval = retention::policy(&self.settings()).interval;
        if self.vault.is_err() || interval == self.retentions.interval {
            return;
        }
        self.retentions.interval = interval;
        self.retentions.timer = None;
        // Soon after a start, for what the last leader missed; but agents come first.
        if let Some(interval) = interval {
            self.retention_after(me, interval / 12 + interval.mul_f64(self.chance() / 12.0));
        }
    }

    fn retention_after(&mut self, me: &ActorRef<ServiceMsg>, after: Duration) {
        let timer = me.send_after(after, || ServiceMsg::RetentionDue);
        self.retentions.timer = Some(AbortOnDropHandle::new(timer));
    }

    /// In 0..1. Services must not all look at one moment.
    pub(super) fn chance(&self) -> f64 {
        let drawn: u32 = self.shared.world.entropy.array().map_or(0, u32::from_be_bytes);
        f64::from(drawn) / (f64::from(u32::MAX) + 1.0)
    }

    pub(super) fn retention_due(&mut self, me: &ActorRef<ServiceMsg>) {
        if let Some(interval) = self.retentions.interval {
            self.retention_after(me, interval.mul_f64(0.9 + 0.2 * self.chance()));
        }
        let Ok(vault) = self.vault() else { return };
        if !power::is_on(&self.record.value) {
            return;
        }
        self.retentions.missed = self.slot.current().is_some();
        if self.retentions.missed || self.retentions.survey.as_ref().is_some_and(|look| !look.is_finished()) {
            return;
        }
        let (settings, holds, me) = (self.settings(), self.log_holds(), me.clone());
        let runs = self.history.values().filter_map(|operation| operation.value.retention.as_ref());
        let locked_until = Timestamp(runs.map(|run| run.locked_until_ms).max().unwrap_or_default());
        self.retentions.survey = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let surveyed = retention::survey(&vault.repository, &settings, holds, locked_until).await;
            let _ = me.cast(ServiceMsg::RetentionSurveyed(Box::new(surveyed)));
        })));
    }

    pub(super) async fn retention_surveyed(&mut self, me: &ActorRef<ServiceMsg>, surveyed: Surveyed) {
        let (detail, notes) = match surveyed {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(e) => {
                tracing::warn!(service = self.name(), error = e.chain(), "retention cannot look");
                return;
            }
        };
        let Ok(vault) = self.vault() else { return };
        // Decided while it was on.
        if !power::is_on(&self.record.value) {
            return;
        }
        if self.slot.current().is_some() {
            self.retentions.missed = true;
            return;
        }
        let _unlent = match self.unlent() {
            Ok(unlent) => unlent,
            Err(e) => {
                tracing::info!(service = self.name(), error = e.chain(), "retention waits for its next time");
                return;
            }
        };
        // A restore may have begun and ended since the look.
        let detail = v1::RetentionDetail { holds: self.log_holds(), ..detail };
        if let Err(e) =
            Box::pin(self.begin_new(me, vault, Vec::new(), Detail::Retention(detail), &notes)).await
        {
            tracing::warn!(service = self.name(), error = e.chain(), "retention cannot begin");
        }
    }

    /// Retention, a scrub or a drill is in the slot, and nobody asked for it.
    pub(super) fn automatic_runs(&self) -> bool {
        let current = self.slot.current().and_then(|current| self.shared.board.find(current.id).ok());
        current.is_some_and(|operation| {
            let operation = operation.borrow();
            operation.retention.as_ref().is_some_and(|retention| retention.automatic)
                || operation.verify.as_ref().is_some_and(|verify| verify.automatic)
                || operation.drill.as_ref().is_some_and(|drill| drill.automatic)
        })
    }

    /// An automatic run in the slot is asked to end.
    pub(super) fn automatic_gives_way(&self) -> bool {
        let Some((_, actor)) = self.slot.running() else { return false };
        let automatic = self.automatic_runs();
        if automatic {
            let (to, _) = ractor::concurrency::oneshot();
            let _ = actor.cast(OperationMsg::Cancel(to.into()));
        }
        automatic
    }

    /// What would be refused for an automatic run waits for its end instead.
    pub(super) fn unless_automatic(&mut self, message: ServiceMsg) -> Option<ServiceMsg> {
        let starts = matches!(
            message,
            ServiceMsg::Start { .. }
                | ServiceMsg::ApplyFailover(..)
                | ServiceMsg::PowerOff { .. }
                | ServiceMsg::Delete(_)
        );
        if !starts || self.retentions.waiting.len() >= WAITING_MAX || !self.automatic_gives_way() {
            return Some(message);
        }
        self.retentions.waiting.push(message);
        None
    }

    /// The slot is free: first what waited for it, then a run that was missed.
    pub(super) fn after_retention(&mut self, me: &ActorRef<ServiceMsg>) {
        for message in self.retentions.waiting.drain(..) {
            let _ = me.cast(message);
        }
        let _ = me.cast(ServiceMsg::LogBackup);
        let _ = me.cast(ServiceMsg::Schedule);
        if std::mem::take(&mut self.retentions.missed) {
            let _ = me.cast(ServiceMsg::RetentionDue);
        }
    }
}
