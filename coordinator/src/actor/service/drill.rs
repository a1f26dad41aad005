//! Begins drills when they are due. Whatever else is to run goes first.
use std::time::Duration;

use palinurus_proto::v1::{self, log_target};
use palinurus_repository::{ErrorKind, Result};
use ractor::ActorRef;
use tokio_util::task::AbortOnDropHandle;

use super::{Service, ServiceMsg};
use crate::drill::{self, Prepared, Verdict};
use crate::operation::Detail;
use crate::power;

/// After one was begun, or could not be.
const AGAIN: Duration = Duration::from_secs(10 * 60);
/// After a start: agents come first.
const SOON: Duration = Duration::from_secs(90);

#[derive(Default)]
pub(super) struct Drills {
    /// When it is looked at next.
    timer: Option<AbortOnDropHandle<Result<(), ractor::MessagingErr<ServiceMsg>>>>,
    planning: Option<AbortOnDropHandle<()>>,
}

impl Service {
    pub(super) fn drill_soon(&mut self, me: &ActorRef<ServiceMsg>) {
        if self.vault.is_ok() {
            self.drill_after(me, SOON + SOON.mul_f64(self.chance()));
        }
    }

    fn drill_after(&mut self, me: &ActorRef<ServiceMsg>, after: Duration) {
        self.drills.timer = Some(AbortOnDropHandle::new(me.send_after(after, || ServiceMsg::Drill)));
    }

    pub(super) fn drill(&mut self, me: &ActorRef<ServiceMsg>) {
        let now = self.shared.now();
        let past = self.history.values().map(|operation| &operation.value);
        let after = match drill::consider(&self.settings(), past, now) {
            Verdict::Off => {
                self.drills.timer = None;
                return;
            }
            Verdict::Wait(until) => until.since(now),
            Verdict::Due => {
                if self.slot.current().is_none() {
                    self.plan_drill(me);
                }
                AGAIN
            }
        };
        self.drill_after(me, after);
    }

    /// Of the newest backup; where there is a log, along all of it.
    fn plan_drill(&mut self, me: &ActorRef<ServiceMsg>) {
        let Ok(vault) = self.vault() else { return };
        let (nodes, me) = (self.describe().nodes, me.clone());
        let request = |target| v1::StartDrillRequest { target, ..Default::default() };
        self.drills.planning = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let logged = vault.repository.read(|state| !state.lineages().is_empty()).await;
            let latest =
                v1::LogTarget { target: Some(log_target::Target::Latest(true)), ..Default::default() };
            let planned = drill::prepare(&vault, &nodes, &request(logged.then_some(latest))).await;
            let _ = me.cast(ServiceMsg::DrillPlanned(Box::new(planned)));
        })));
    }

    pub(super) async fn drill_planned(&mut self, me: &ActorRef<ServiceMsg>, planned: Result<Prepared>) {
        let begun = async {
            let (Prepared { mut detail, nodes }, vault) = (planned?, self.vault()?);
            if self.slot.current().is_some() || !power::is_on(&self.record.value) {
                return Ok(());
            }
            detail.automatic = true;
            let why = ["the service's setting drill".to_owned()];
            Box::pin(self.begin_new(me, vault, nodes, Detail::Drill(detail), &why)).await.map(drop)
        };
        match begun.await {
            Ok(()) => {}
            // No backup yet.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                tracing::debug!(service = self.name(), error = e.chain(), "no drill");
            }
            Err(e) => tracing::warn!(service = self.name(), error = e.chain(), "the drill waits"),
        }
    }
}
