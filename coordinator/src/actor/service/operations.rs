//! The one exclusive operation of a service: begun, resumed after any crash, and never lost without a word.
use std::sync::Arc;

use palinurus_proto::v1;
use palinurus_repository::mutant::{self, Mutant};
use palinurus_repository::{Error, ErrorKind, Result, TransactionId};
use ractor::{ActorId, ActorRef};

use super::recovered::check_floors;
use super::sessions::owes_release;
use super::slot::Run;
use super::{Service, ServiceMsg, schedule};
use crate::actor::operation::{Link, OperationActor, OperationArgs, OperationMsg};
use crate::actor::{RESTART_AFTER, Reply, reply};
use crate::operation::record::ATTEMPT;
use crate::operation::{Detail, finished, is_missing, record};
use crate::power;
use crate::settings::no_backups;
use crate::state::{Expect, Versioned};
use crate::vault::Vault;

/// How often an operation's actor may fail before the operation itself does.
const FAILURES_MAX: u32 = 3;

impl Service {
    pub(super) async fn start(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        detail: Detail,
        nodes: Vec<String>,
    ) -> Result<v1::Operation> {
        let vault = self.vault()?;
        if !(matches!(detail, Detail::Delete(_)) && mutant::on(Mutant::SweepIgnoresOpen)) {
            self.slot_free()?;
        }
        let takes_out = matches!(detail, Detail::Delete(_) | Detail::Retention(_));
        let _unlent = takes_out.then(|| self.unlent()).transpose()?;
        let entropy = &*self.shared.world.entropy;
        let mut detail = detail;
        let mut nodes = nodes;
        let mut notes = Vec::new();
        match &mut detail {
            Detail::Backup(backup) => {
                if let Some(none) = no_backups(&self.record.value) {
                    return Err(none);
                }
                backup.backup_id = TransactionId(entropy.array()?).to_string();
                notes = backup.scheduled.iter().map(schedule::why).collect();
                notes.extend(self.seats.values().filter_map(|seat| seat.stands_in(backup)));
                let members = self.record.value.nodes.iter().filter(|node| !node.spare);
                nodes = members.clone().map(|node| node.name.clone()).collect();
                let taken = members.filter(|node| !node.succeeds.is_empty());
                backup.successions = taken
                    .map(|node| v1::Succession { node: node.name.clone(), succeeds: node.succeeds.clone() })
                    .collect();
                // Kept with the record, so that whoever takes over decides the same.
                let settings = self.settings();
                let partial = settings.get("partial");
                backup.allow_partial = partial.is_some_and(|policy| policy == "allow");
            }
            Detail::Verify(verify) if verify.read_data => {
                verify.node = self.reader()?;
                nodes = vec![verify.node.clone()];
            }
            Detail::Retention(retention) => retention.holds = self.log_holds(),
            Detail::Restore(restore) if restore.parent.is_none() => check_floors(&vault, restore).await?,
            Detail::Restore(_) => {}
            Detail::Verify(_) | Detail::Delete(_) | Detail::Failover(_) | Detail::Drill(_) => {}
        }
        Box::pin(self.begin_new(me, vault, nodes, detail, &notes)).await
    }

    pub(super) fn slot_free(&self) -> Result<()> {
        let Some(current) = self.slot.current() else { return Ok(()) };
        let (id, kind) = (current.id, current.kind.as_str_name().to_lowercase());
        Err(Error::conflict(format!("operation {id} ({kind}) is running on service {}", self.name()))
            .with_hint(format!("watch it: palinurus operation watch {id}")))
    }

    /// `notes`: why, for the operation's log.
    pub(super) async fn begin_new(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        vault: Arc<Vault>,
        nodes: Vec<String>,
        detail: Detail,
        notes: &[String],
    ) -> Result<v1::Operation> {
        let id = format!("{:016x}", u64::from_be_bytes(self.shared.world.entropy.array()?));
        let now = self.shared.now();
        let mut operation = record::create(id, self.name(), nodes, self.epoch, now, detail);
        operation.power_ms = power::number(&self.record.value, operation.kind());
        for text in notes {
            record::note(&mut operation, now, text);
        }
        match self.shared.records.put_operation(&operation, Expect::Absent).await {
            Ok(revision) => {
                let record = Versioned { value: operation.clone(), revision };
                Box::pin(self.begin(me, vault, record)).await;
                Ok(operation)
            }
            Err(e) if e.kind() == ErrorKind::Unavailable => {
                let id = operation.id.clone();
                self.slot.unsure = Some(operation);
                me.send_after(RESTART_AFTER, || ServiceMsg::Resume);
                Err(Error::unavailable(format!("operation {id} may have begun"))
                    .with_source(e.chain())
                    .with_hint(format!(
                        "`palinurus operation watch {id}` finds it once the state can be reached again"
                    )))
            }
            Err(e) => Err(e),
        }
    }

    /// The node whose agent reads the data for a check.
    pub(super) fn reader(&self) -> Result<String> {
        let mut members = self.record.value.nodes.iter().filter(|node| !node.spare);
        let spec = members.find(|node| self.seats.get(&node.name).is_some_and(|seat| seat.connected()));
        spec.map(|node| node.name.clone()).ok_or_else(|| {
            Error::unavailable(format!(
                "no agent of service {} is connected, and one is to read the data",
                self.name()
            ))
            .with_hint("start an agent, or check without reading the data")
        })
    }

    /// An operation whose actor cannot be had waits for the next try.
    pub(super) async fn run(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        vault: Arc<Vault>,
        record: Versioned<v1::Operation>,
    ) {
        let (id, kind) = (record.value.id.clone(), record.value.kind());
        let mut nodes = std::collections::BTreeMap::new();
        for node in &record.value.nodes {
            let now = self.shared.now();
            let link = self.seats.get_mut(node).map_or(Link::Gone(now), |seat| seat.link(&record.value));
            nodes.insert(node.clone(), link);
        }
        let settings = self.settings();
        let patience = settings.get("patience");
        let patience = patience.and_then(|text| humantime::parse_duration(text).ok());
        let args = OperationArgs {
            shared: self.shared.clone(),
            vault,
            places: Arc::new(super::failover::Seats(me.clone())),
            repository: self.record.value.repository.clone(),
            limits: self.shared.limits(patience),
            record: record.clone(),
            nodes,
        };
        match me.spawn_linked(None, OperationActor, args).await {
            Ok((actor, _)) => self.slot.running = Some(Run { id, kind, actor }),
            Err(e) => {
                tracing::error!(operation = id, error = %e, "cannot run the operation, trying again");
                self.slot.waiting.push_front(record);
                me.send_after(RESTART_AFTER, || ServiceMsg::Resume);
            }
        }
    }

    pub(super) async fn resume(&mut self, me: &ActorRef<ServiceMsg>) {
        let Ok(vault) = self.vault() else { return };
        if self.slot.running.is_some() {
            return;
        }
        if let Some(operation) = self.slot.unsure.take() {
            Box::pin(self.make_sure(me, vault, operation)).await;
        } else if let Some(operation) = self.slot.waiting.pop_front() {
            tracing::info!(
                service = self.name(),
                operation = operation.value.id,
                phase = operation.value.phase,
                "goes on"
            );
            self.run(me, vault, operation).await;
        }
    }

    pub(super) async fn child_ended(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        child: ActorId,
        why: String,
        failed: bool,
    ) {
        if self.slot.running.as_ref().is_some_and(|run| run.actor.get_id() == child) {
            self.operation_ended(me, why, failed).await;
        } else {
            self.session_ended(me, child, &why).await;
        }
    }

    /// The record says whether it ended. If it did not, its actor failed, and another goes on from the record.
    pub(super) async fn operation_ended(&mut self, me: &ActorRef<ServiceMsg>, why: String, failed: bool) {
        let Some(id) = self.slot.running.as_ref().map(|run| run.id.clone()) else { return };
        let loaded = self.shared.records.operation(self.name(), &id).await;
        let operation = match loaded {
            Ok(operation) => operation,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                tracing::error!(operation = id, "the record of the operation is gone: it is given up");
                return self.lost_record(me, &id);
            }
            Err(e) => {
                // Until the record can be read nothing else may begin.
                tracing::warn!(operation = id, error = e.chain(), "cannot load the operation, trying again");
                me.send_after(RESTART_AFTER, move || ServiceMsg::OperationEnded { why, failed });
                return;
            }
        };
        self.slot.running = None;
        if self.shared.cancel.is_cancelled() {
            return; // the next leader goes on from the record
        }
        if finished(operation.value.state()) {
            self.shared.board.publish(&operation.value);
            self.retire(operation).await;
            self.clean_later(me);
            let _ = me.cast(ServiceMsg::Resume);
            let _ = me.cast(ServiceMsg::Reconsider);
            self.after_failover(me);
            self.after_retention(me);
            let _ = me.cast(ServiceMsg::Power);
            return;
        }
        self.slot.failures += 1;
        tracing::error!(
            operation = id,
            why,
            failed,
            failures = self.slot.failures,
            "the operation's actor ended"
        );
        if self.slot.failures <= FAILURES_MAX {
            self.slot.waiting.push_front(operation);
            me.send_after(RESTART_AFTER, || ServiceMsg::Resume);
            return;
        }
        let failure = Error::internal(format!(
            "the operation's actor failed {} times, last: {why}",
            self.slot.failures
        ));
        let mut next = operation.value.clone();
        record::give_up(&mut next, palinurus_proto::failure(&failure), self.shared.now());
        match self.shared.records.put_operation(&next, Expect::At(operation.revision)).await {
            Ok(revision) => {
                self.shared.board.publish(&next);
                self.retire(Versioned { value: next, revision }).await;
                self.clean_all();
                self.clean_later(me);
                self.after_retention(me);
                let _ = me.cast(ServiceMsg::Power);
            }
            Err(e) => {
                tracing::error!(
                    operation = id,
                    error = e.chain(),
                    "cannot give the operation up, trying again"
                );
                self.slot.waiting.push_front(self.newest(operation).await);
            }
        }
        me.send_after(RESTART_AFTER, || ServiceMsg::Resume);
    }

    /// The state was lost under it: nobody will end it, so every node is asked to let go of it.
    fn lost_record(&mut self, me: &ActorRef<ServiceMsg>, id: &str) {
        self.slot.running = None;
        self.slot.failures = 0;
        self.shared.board.remove(id);
        for node in self.seats.keys() {
            self.strays.entry((node.clone(), id.to_owned())).or_insert(ATTEMPT);
        }
        self.clean_all();
        self.clean_later(me);
        let _ = me.cast(ServiceMsg::Resume);
        self.after_retention(me);
        let _ = me.cast(ServiceMsg::Power);
    }

    /// Keeps the newest; one that still owes a node its release is kept longer than others.
    async fn retire(&mut self, operation: Versioned<v1::Operation>) {
        self.slot.failures = 0;
        self.history.insert(operation.value.id.clone(), operation);
        self.drop_old_scrubs().await;
        while self.history.len() > self.shared.config.history.max(1) {
            let owes =
                |operation: &v1::Operation| self.seats.keys().any(|node| owes_release(operation, node));
            let oldest = self.history.values().min_by_key(|each| (owes(&each.value), each.value.created_ms));
            let Some(oldest) = oldest.map(|each| each.value.clone()) else { return };
            if let Err(e) = self.shared.records.delete_operation(&oldest).await {
                tracing::warn!(operation = oldest.id, error = e.chain(), "cannot delete an old operation");
                return;
            }
            self.history.remove(&oldest.id);
            self.shared.board.remove(&oldest.id);
        }
    }

    pub(super) async fn cancel(&mut self, id: &str, to: Reply<v1::Operation>) {
        if let Some((_, actor)) = self.slot.running().filter(|(running, _)| *running == id) {
            // If it has just ended, its port is dropped, and who asked is told to look again.
            let _ = actor.cast(OperationMsg::Cancel(to));
            return;
        }
        let at = self.slot.waiting.iter().position(|operation| operation.value.id == id);
        let answer = match at {
            Some(at) => self.cancel_waiting(at).await,
            None if self.slot.knows(id) => {
                Err(Error::unavailable(format!("operation {id} is being begun")).with_hint("try again"))
            }
            None => Err(match self.history.get(id) {
                Some(ended) => Error::conflict(format!(
                    "operation {id} has ended already: {}",
                    ended.value.state().as_str_name().to_lowercase()
                )),
                None => Error::not_found(format!("service {} has no operation {id}", self.name())),
            }),
        };
        reply(to, answer);
    }

    /// A claim stream belongs to a node of the running backup, by its transaction.
    pub(super) fn claim(&self, open: &v1::ClaimOpen) -> Result<Arc<Vault>> {
        if open.epoch > self.epoch.0 {
            return Err(Error::fenced(format!(
                "epoch {} leads by now, this coordinator has {}",
                open.epoch, self.epoch
            )));
        }
        let runs = self.slot.running().is_some_and(|(id, _)| id == open.operation);
        if !runs && self.slot.knows(&open.operation) {
            return Err(Error::unavailable(format!("operation {} does not run yet", open.operation)));
        }
        if !runs {
            return Err(Error::conflict(format!("operation {:?} does not run", open.operation)));
        }
        let operation = self.shared.board.find(&open.operation)?.borrow().clone();
        let transaction = TransactionId::from_slice(&open.transaction)?.to_string();
        if operation.backup.as_ref().is_none_or(|backup| backup.backup_id != transaction) {
            return Err(Error::invalid(format!(
                "operation {} has no transaction {transaction}",
                open.operation
            )));
        }
        if !operation.nodes.contains(&open.node) {
            return Err(Error::not_found(format!(
                "node {:?} has no part in operation {}",
                open.node, open.operation
            )));
        }
        if is_missing(&operation, &open.node) {
            return Err(Error::conflict(format!(
                "operation {} goes on without node {}, which was away for too long",
                open.operation, open.node
            )));
        }
        match self.seats.get(&open.node).and_then(|seat| seat.instance()) {
            Some(instance) if instance != open.instance => {
                Err(Error::conflict(format!("node {} is taken by agent {instance}", open.node)))
            }
            _ => self.vault().map_err(|e| Error::unavailable("the repository is not open").with_source(e)),
        }
    }
}
