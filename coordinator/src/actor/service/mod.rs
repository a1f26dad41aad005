//! One service: its repository, who is connected for its nodes, and its one running operation.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use palinurus_proto::v1;
use palinurus_repository::{Epoch, Error, Result};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio_util::task::AbortOnDropHandle;

use super::{STOP_WITHIN, reply};
use crate::operation::{finished, record};
use crate::settings;
use crate::shared::Shared;
use crate::state::{Expect, Versioned};
use crate::vault::Vault;

mod admission;
mod doubt;
mod drill;
mod failover;
mod fence;
mod history;
mod limits;
mod logs;
mod message;
mod opening;
mod operations;
mod power;
mod rebuilt;
mod recovered;
mod retention;
mod schedule;
mod scrub;
mod seat;
mod sessions;
mod slot;

pub(crate) use admission::Admission;
use drill::Drills;
use failover::Failovers;
pub(crate) use failover::Wanted;
use history::History;
use logs::LogBackups;
pub(crate) use message::{Connect, Described, ServiceMsg};
use opening::OPEN_AGAIN_AFTER;
pub(crate) use power::GONE;
use power::Powers;
use retention::Retentions;
use schedule::Schedules;
pub(crate) use seat::as_specified;
use seat::{Seat, seats};
use slot::Slot;

#[derive(Debug)]
pub(crate) struct ServiceActor;

#[derive(Debug)]
pub(crate) struct ServiceArgs {
    pub(crate) shared: Arc<Shared>,
    pub(crate) record: Versioned<v1::Service>,
}

pub(crate) struct Service {
    shared: Arc<Shared>,
    record: Versioned<v1::Service>,
    epoch: Epoch,
    vault: Result<Arc<Vault>>,
    opening: Option<AbortOnDropHandle<()>>,
    /// Asked while the repository is being opened: asked again when that is decided.
    deferred: Vec<ServiceMsg>,
    open_again: Duration,
    seats: BTreeMap<String, Seat>,
    /// Nodes that are gone from the service, whose old agents must still be known when they come back.
    departed: BTreeMap<String, v1::Node>,
    failovers: Failovers,
    retentions: Retentions,
    schedules: Schedules,
    scrubbing: scrub::Timer,
    drills: Drills,
    powers: Powers,
    log_backups: LogBackups,
    /// Those that have ended, by id.
    history: History,
    slot: Slot,
    /// `Clean` is on its way.
    cleaning: bool,
    /// Releases that failed, of operations that nobody here knows (the state was lost): by node and operation, the
    /// attempt that is next.
    strays: BTreeMap<(String, String), u32>,
}

impl Actor for ServiceActor {
    type Msg = ServiceMsg;
    type State = Service;
    type Arguments = ServiceArgs;

    async fn pre_start(
        &self,
        me: ActorRef<ServiceMsg>,
        args: ServiceArgs,
    ) -> Result<Service, ActorProcessingErr> {
        let ServiceArgs { shared, record } = args;
        let name = record.value.name.clone();
        let now = shared.now();
        let known = shared.records.nodes(&name).await?;
        let mut known: BTreeMap<String, v1::Node> =
            known.into_iter().map(|node| (node.value.name.clone(), node.value)).collect();
        let mut history = History::default();
        let mut slot = Slot::default();
        for mut operation in shared.records.operations(&name).await? {
            record::not_ahead(&mut operation.value, now);
            shared.board.publish(&operation.value);
            if finished(operation.value.state()) {
                history.insert(operation);
            } else {
                slot.wait(operation);
            }
        }
        let epoch = Epoch(record.value.epoch_base + shared.records.epoch().0);
        let seats = seats(&record.value, &mut known, now);
        me.cast(ServiceMsg::Open)?;
        Ok(Service {
            shared,
            record,
            epoch,
            vault: Err(Error::unavailable(format!("the repository of {name} is being opened"))
                .with_hint("try again")),
            opening: None,
            deferred: Vec::new(),
            open_again: OPEN_AGAIN_AFTER,
            seats,
            departed: known,
            failovers: Failovers::default(),
            retentions: Retentions::default(),
            schedules: Schedules::default(),
            scrubbing: None,
            drills: Drills::default(),
            powers: Powers::default(),
            log_backups: LogBackups::default(),
            history,
            slot,
            cleaning: false,
            strays: BTreeMap::new(),
        })
    }

    async fn handle(
        &self,
        me: ActorRef<ServiceMsg>,
        message: ServiceMsg,
        service: &mut Service,
    ) -> Result<(), ActorProcessingErr> {
        let Some(message) = service.unless_opening(message) else { return Ok(()) };
        let Some(message) = service.unless_automatic(message) else { return Ok(()) };
        match message {
            ServiceMsg::Describe(to) => reply(to, Ok(service.describe())),
            ServiceMsg::Apply(wanted, to) => {
                reply(to, service.apply(*wanted).await);
                service.other_settings(&me).await;
            }
            ServiceMsg::Connect(connect, to) => reply(to, service.connect(&me, *connect).await),
            ServiceMsg::Report { node, from, report, permit } => {
                service.report(&node, from, report, permit).await;
                service.clean_later(&me);
            }
            ServiceMsg::Beat { node, from, beat, permit } => {
                service.beat(&me, &node, from, &beat).await;
                drop(permit);
            }
            // Who asked is gone: nobody would know of what it started.
            ServiceMsg::Start { to, .. } if to.is_closed() => {}
            ServiceMsg::Start { detail, nodes, to } => {
                let started = match service.may_start(&detail) {
                    Ok(()) => Box::pin(service.start(&me, *detail, nodes)).await,
                    Err(e) => Err(e),
                };
                reply(to, started);
            }
            ServiceMsg::Cancel(id, to) => service.cancel(&id, to).await,
            ServiceMsg::Vault(to) => reply(to, service.vault()),
            ServiceMsg::PlanFailover(wanted, to) => reply(to, service.plan_failover(*wanted)),
            ServiceMsg::ApplyFailover(_, to) if to.is_closed() => {}
            ServiceMsg::ApplyFailover(wanted, to) => {
                reply(to, Box::pin(service.apply_failover(&me, *wanted)).await)
            }
            ServiceMsg::Fence(failover, to) => reply(to, service.fence(&failover).await),
            ServiceMsg::Reconsider => service.reconsider(&me),
            ServiceMsg::Surveyed(sources) => Box::pin(service.surveyed(&me, sources)).await,
            ServiceMsg::Claim(open, to) => reply(to, service.claim(&open)),
            ServiceMsg::Log(open, to) => reply(to, service.log(&open)),
            ServiceMsg::WantBackup(why) => service.want_backup(&me, why),
            ServiceMsg::LogBackup => service.log_backup(&me),
            ServiceMsg::Rebuilt => service.back_up_rebuilt(&me),
            ServiceMsg::RetentionDue => service.retention_due(&me),
            ServiceMsg::RetentionSurveyed(found) => Box::pin(service.retention_surveyed(&me, *found)).await,
            ServiceMsg::Schedule => service.schedule(&me),
            ServiceMsg::ScheduleSeen(seen) => Box::pin(service.schedule_seen(&me, *seen)).await,
            ServiceMsg::Scrub => Box::pin(service.scrub(&me)).await,
            ServiceMsg::Drill => service.drill(&me),
            ServiceMsg::DrillPlanned(planned) => Box::pin(service.drill_planned(&me, *planned)).await,
            ServiceMsg::PowerOff { to, .. } | ServiceMsg::PowerOn { to, .. } | ServiceMsg::Delete(to)
                if to.is_closed() => {}
            ServiceMsg::PowerOff { no_backup, to } => reply(to, service.power_off(&me, no_backup).await),
            ServiceMsg::PowerOn { delta, to } => reply(to, service.power_on(&me, delta).await),
            ServiceMsg::Delete(to) => reply(to, service.delete(&me).await),
            ServiceMsg::SetLimits(request, to) => reply(to, service.set_limits(&request).await),
            ServiceMsg::Power => service.power(&me),
            ServiceMsg::PowerSeen(seen) => Box::pin(service.power_seen(&me, *seen)).await,
            ServiceMsg::Open => service.open(&me),
            ServiceMsg::Opened(vault) => service.opened(&me, vault),
            ServiceMsg::Clean => {
                service.cleaning = false;
                service.clean_all();
                service.clean_later(&me);
            }
            ServiceMsg::Resume => Box::pin(service.resume(&me)).await,
            ServiceMsg::OperationEnded { why, failed } => service.operation_ended(&me, why, failed).await,
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<ServiceMsg>,
        event: SupervisionEvent,
        service: &mut Service,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(child, _, why) => {
                service
                    .child_ended(
                        &me,
                        child.get_id(),
                        why.unwrap_or_else(|| "it was stopped".to_owned()),
                        false,
                    )
                    .await;
            }
            SupervisionEvent::ActorFailed(child, error) => {
                service.child_ended(&me, child.get_id(), error.to_string(), true).await;
            }
            _ => {}
        }
        Ok(())
    }

    async fn post_stop(&self, me: ActorRef<ServiceMsg>, _: &mut Service) -> Result<(), ActorProcessingErr> {
        me.stop_children_and_wait(Some("the coordinator stops".to_owned()), Some(STOP_WITHIN)).await;
        Ok(())
    }
}

impl Service {
    fn name(&self) -> &str {
        &self.record.value.name
    }

    /// In force.
    fn settings(&self) -> HashMap<String, String> {
        settings::in_force(&self.record.value)
    }

    fn describe(&self) -> Described {
        let nodes =
            self.record.value.nodes.iter().filter_map(|spec| self.seats.get(&spec.name)).map(Seat::shown);
        Described { service: self.told(), nodes: nodes.collect() }
    }

    async fn other_settings(&mut self, me: &ActorRef<ServiceMsg>) {
        self.reconsider(me);
        self.schedule_retention(me);
        self.schedule(me);
        self.scrub(me).await;
        self.drill(me);
        let _ = me.cast(ServiceMsg::Power);
    }

    /// Nodes, zones and settings may change; while an operation runs, no node may go.
    async fn apply(&mut self, wanted: v1::Service) -> Result<v1::Service> {
        let kept: BTreeSet<&str> = wanted.nodes.iter().map(|node| node.name.as_str()).collect();
        let gone: Vec<String> =
            self.seats.keys().filter(|node| !kept.contains(node.as_str())).cloned().collect();
        if let (Some(node), Some(running)) = (gone.first(), self.slot.current()) {
            return Err(Error::conflict(format!(
                "node {node} cannot go while operation {} runs",
                running.id
            ))
            .with_hint(format!("wait for it, or cancel it: palinurus operation cancel {}", running.id)));
        }
        let nodes = self.succeeded(wanted.nodes)?;
        let next = v1::Service {
            nodes,
            repository: self.record.value.repository.clone(),
            repository_id: self.record.value.repository_id.clone(),
            created_ms: self.record.value.created_ms,
            epoch_base: self.record.value.epoch_base,
            standing: None,
            power: self.record.value.power.clone(),
            ..wanted
        };
        if next != self.record.value {
            match self.shared.records.put_service(&next, Expect::At(self.record.revision)).await {
                Ok(revision) => self.record = Versioned { value: next, revision },
                Err(e) => {
                    // It may have landed: the next try goes on from what is there.
                    if let Ok(Some(stored)) = self.shared.records.service(self.name()).await {
                        self.record = stored;
                    }
                    return Err(e);
                }
            }
        }
        for node in gone {
            let seat = self.seats.remove(&node);
            if let Some(seat) = &seat {
                seat.leave("its node was taken out of the service");
            }
            match seat.map(|seat| seat.shown()).filter(|known| !known.fenced.is_empty()) {
                // Whom it has shut out must stay out, should the node ever be made again.
                Some(known) => drop(self.departed.insert(node, known)),
                None => self.shared.records.delete_node(self.name(), &node).await?,
            }
        }
        self.add_seats();
        Ok(self.record.value.clone())
    }
}
