//! When a place needs another agent: looks whenever something has changed, begins failovers, and gives out places.
use std::collections::BTreeMap;

use async_trait::async_trait;
use palinurus_proto::v1;
use palinurus_repository::{Error, Result};
use ractor::ActorRef;
use tokio_util::task::AbortOnDropHandle;

use super::{Service, ServiceMsg};
use crate::actor::{RESTART_AFTER, ask};
use crate::failover::{
    Candidate, Mode, Past, Place, Policy, Source, Sources, Verdict, View, consider, manual,
};
use crate::operation::{Detail, Places};
use crate::power;

/// What an operator asks for, with what there is to restore from.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) node: String,
    pub(crate) onto: String,
    pub(crate) source: Option<Source>,
    pub(crate) sources: Sources,
}

/// What waits for the next look.
#[derive(Default)]
pub(super) struct Failovers {
    survey: Option<AbortOnDropHandle<()>>,
    timer: Option<AbortOnDropHandle<Result<(), ractor::MessagingErr<ServiceMsg>>>>,
    /// Why each node waits, as last said.
    waiting: BTreeMap<String, String>,
}

/// The service as the fence's executor asks it.
pub(super) struct Seats(pub(super) ActorRef<ServiceMsg>);

#[async_trait]
impl Places for Seats {
    async fn fence(&self, failover: &v1::FailoverDetail) -> Result<String> {
        ask(&self.0, |to| ServiceMsg::Fence(Box::new(failover.clone()), to)).await
    }
}

impl Service {
    /// Looks again, if anything is wrong at all: the ledger is read in a task of its own.
    pub(super) fn reconsider(&mut self, me: &ActorRef<ServiceMsg>) {
        if !power::is_on(&self.record.value) {
            let _ = me.cast(ServiceMsg::Power);
        }
        let automatic = Policy::of(&self.record.value).mode == Mode::Automatic;
        let Ok(vault) = self.vault() else { return };
        if !automatic || self.seats.values().all(super::Seat::is_well) {
            self.failovers = Failovers::default();
            return;
        }
        let me = me.clone();
        // A look that is under way may have read before the change.
        self.failovers.survey = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let sources = vault.repository.read(Sources::of).await;
            let _ = me.cast(ServiceMsg::Surveyed(sources));
        })));
    }

    pub(super) async fn surveyed(&mut self, me: &ActorRef<ServiceMsg>, sources: Sources) {
        self.failovers.survey = None;
        let verdicts = self.view(&sources, consider);
        let now = self.shared.now();
        let mut waiting = BTreeMap::new();
        let mut next = None;
        let mut candidate = None;
        for verdict in verdicts {
            match verdict {
                Verdict::Take(take) => candidate = Some(take),
                Verdict::Wait { node, until, why } => {
                    if self.failovers.waiting.get(&node) != Some(&why) {
                        tracing::info!(service = self.name(), node, why, "no failover yet");
                    }
                    waiting.insert(node, why);
                    next = [next, until].into_iter().flatten().min();
                }
            }
        }
        self.failovers.waiting = waiting;
        self.failovers.timer = next
            .map(|until| AbortOnDropHandle::new(me.send_after(until.since(now), || ServiceMsg::Reconsider)));
        let Some(candidate) = candidate else { return };
        let Candidate { detail, reasons, .. } = *candidate;
        let (lost, onto) = (detail.lost.clone(), detail.node.clone());
        tracing::warn!(service = self.name(), lost, onto, ?reasons, "failover by itself");
        if let Err(e) = Box::pin(self.fail_over(me, detail, &reasons)).await {
            tracing::error!(
                service = self.name(),
                lost,
                error = e.chain(),
                "cannot begin the failover, trying again"
            );
            self.failovers.timer =
                Some(AbortOnDropHandle::new(me.send_after(RESTART_AFTER, || ServiceMsg::Reconsider)));
        }
    }

    pub(super) fn plan_failover(&self, wanted: Wanted) -> Result<v1::FailoverPlan> {
        power::must_be_on(&self.record.value)?;
        let Wanted { node, onto, source, sources } = wanted;
        self.view(&sources, |view| manual::plan(view, self.name(), &node, &onto, source))
    }

    pub(super) async fn apply_failover(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        wanted: Wanted,
    ) -> Result<v1::Operation> {
        let plan = self.plan_failover(wanted)?;
        if !plan.refusals.is_empty() {
            return Err(Error::conflict(format!("the failover is refused: {}", plan.refusals.join("; ")))
                .with_hint("palinurus failover plan shows what would be done"));
        }
        let detail = plan.failover.unwrap_or_default();
        let mut notes = vec![format!("asked for by an operator: {} onto {}", detail.lost, detail.node)];
        notes.extend(plan.reasons);
        notes.extend(plan.warnings);
        Box::pin(self.fail_over(me, detail, &notes)).await
    }

    async fn fail_over(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        detail: v1::FailoverDetail,
        notes: &[String],
    ) -> Result<v1::Operation> {
        let vault = self.vault()?;
        self.automatic_gives_way(); // and is looked at again when it has ended
        self.slot_free()?;
        let nodes = vec![detail.node.clone()];
        Box::pin(self.begin_new(me, vault, nodes, Detail::Failover(detail), notes)).await
    }

    /// The failover in the slot.
    pub(super) fn failover_running(&self) -> Option<v1::FailoverDetail> {
        let current = self.slot.current()?;
        self.shared.board.find(current.id).ok()?.borrow().failover.clone()
    }

    pub(super) fn view<T>(&self, sources: &Sources, look: impl FnOnce(View<'_>) -> T) -> T {
        let in_order = self.record.value.nodes.iter().filter_map(|spec| self.seats.get(&spec.name));
        let places: Vec<Place> = in_order.map(super::Seat::place).collect();
        let past = Past::of(self.history.values().map(|operation| &operation.value));
        look(View {
            policy: Policy::of(&self.record.value),
            places: &places,
            sources,
            past: &past,
            running: self.slot.current().filter(|_| !self.automatic_runs()).map(|current| current.id),
            now: self.shared.now(),
        })
    }
}
