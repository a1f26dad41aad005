//! A service's power: what is asked for is stored first, and then done step by step, by whoever leads.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use palinurus_proto::v1::{self, PowerState};
use palinurus_repository::ledger::{BackupRecord, State};
use palinurus_repository::{Error, Result, Timestamp};
use ractor::ActorRef;
use tokio_util::task::AbortOnDropHandle;

use super::{Seat, Service, ServiceMsg};
use crate::failover::{Mode, Policy, Sources, View as Places, manual, names};
use crate::logs::locate;
use crate::operation::Detail;
use crate::plan::{Planned, plan};
use crate::power::{self, Fit, Step, Tail, Verdict, View, assign, review};
use crate::retention::kept;
use crate::settings::no_backups;
use crate::state::{Expect, Versioned};
use crate::vault::Vault;

mod delete;

pub(crate) use delete::GONE;

/// At the longest between two looks at a service that changes, and at one that is off.
const WATCH: Duration = Duration::from_secs(5);
const REVIEW: Duration = Duration::from_secs(3600);

#[derive(Default)]
pub(super) struct Powers {
    timer: Option<AbortOnDropHandle<Result<(), ractor::MessagingErr<ServiceMsg>>>>,
    asking: Option<AbortOnDropHandle<()>>,
    /// For what, as last decided.
    waits: String,
}

/// What the ledger says.
#[derive(Debug)]
pub(crate) struct Seen {
    sources: Sources,
    backups: Vec<String>,
    /// What stands against deleting all of it.
    kept: Option<String>,
    /// From which a service that is powered on is restored, unless it has no backup.
    latest: Option<Result<Latest>>,
}

#[derive(Debug)]
pub(crate) struct Latest {
    backup: Arc<BackupRecord>,
    all: Vec<Arc<BackupRecord>>,
    logs: Option<v1::LogRestore>,
    key_epochs: Vec<v1::KeyEpoch>,
}

impl Service {
    fn powered(&self) -> v1::Power {
        self.record.value.power.clone().unwrap_or_default()
    }

    /// The service's record, and what a change of its power waits for.
    pub(super) fn told(&self) -> v1::Service {
        let mut service = self.record.value.clone();
        if let Some(power) = service.power.as_mut().filter(|_| !self.powers.waits.is_empty()) {
            power.why.clone_from(&self.powers.waits);
        }
        service
    }

    /// What is for services that are on. One that is off can be checked, drilled and rid of single backups.
    pub(super) fn may_start(&self, detail: &Detail) -> Result<()> {
        let off = power::state(&self.record.value) == PowerState::PowerOff;
        match detail {
            Detail::Verify(_) | Detail::Delete(_) | Detail::Drill(_) if off => Ok(()),
            _ => power::must_be_on(&self.record.value),
        }
    }

    pub(super) async fn power_off(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        no_backup: bool,
    ) -> Result<v1::Service> {
        let (power, now) = (self.powered(), self.shared.now());
        let next = match power.state() {
            PowerState::PowerOff => return Ok(self.told()),
            PowerState::PowerStopping if power.no_backup == no_backup => return Ok(self.told()),
            PowerState::PowerStopping | PowerState::PowerDeleting => {
                power::must_be_on(&self.record.value)?;
                return Ok(self.told());
            }
            // Nothing was restored: there is nothing to back up.
            PowerState::PowerStarting => {
                self.slot_free()?;
                power::off(&power, String::new(), now)
            }
            PowerState::PowerOn => {
                self.vault()?;
                self.slot_free().map_err(|e| {
                    let hint = "wait for it, or cancel it: what began before is no last backup";
                    Error::conflict(e.what().to_owned()).with_hint(hint)
                })?;
                let none = no_backup || no_backups(&self.record.value).is_some();
                power::stopping(&power, none, now)
            }
        };
        self.put_power(me, next).await?;
        Ok(self.told())
    }

    pub(super) async fn power_on(&mut self, me: &ActorRef<ServiceMsg>, delta: bool) -> Result<v1::Service> {
        let power = self.powered();
        match power.state() {
            PowerState::PowerOn => return Ok(self.told()),
            PowerState::PowerStarting if power.delta == delta => return Ok(self.told()),
            PowerState::PowerStarting => self.slot_free()?,
            PowerState::PowerOff => {}
            PowerState::PowerStopping | PowerState::PowerDeleting => power::must_be_on(&self.record.value)?,
        }
        if delta && Policy::of(&self.record.value).replicated {
            return Err(Error::invalid(format!(
                "a service of type {} is powered on onto empty directories",
                self.record.value.r#type
            ))
            .with_hint("empty the directories of its nodes, and leave out --delta"));
        }
        self.put_power(me, power::starting(&power, delta, self.shared.now())).await?;
        Ok(self.told())
    }

    /// Asks the ledger, for whose lock this actor must not wait.
    pub(super) fn power(&mut self, me: &ActorRef<ServiceMsg>) {
        let state = power::state(&self.record.value);
        if state == PowerState::PowerOn {
            self.powers = Powers::default();
            return;
        }
        let (Ok(vault), me, now) = (self.vault(), me.clone(), self.shared.now()) else { return };
        let replicated = Policy::of(&self.record.value).replicated;
        let plans = state == PowerState::PowerStarting && !replicated && self.of_power().is_empty();
        self.powers.asking = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let latest = if plans { latest(&vault).await.transpose() } else { None };
            let look = |state: &State| Seen {
                sources: Sources::of(state),
                backups: state.backups().map(|backup| backup.id.to_string()).collect(),
                kept: kept(state, now),
                latest: None,
            };
            let seen = Seen { latest, ..vault.repository.read(look).await };
            let _ = me.cast(ServiceMsg::PowerSeen(Box::new(seen)));
        })));
    }

    pub(super) async fn power_seen(&mut self, me: &ActorRef<ServiceMsg>, seen: Seen) {
        let acted = match power::state(&self.record.value) {
            PowerState::PowerOn => return,
            PowerState::PowerOff => self.review(me, &seen).await,
            _ => Box::pin(self.change(me, seen)).await,
        };
        let (until, waits) = acted.unwrap_or_else(|e| {
            tracing::warn!(service = self.name(), error = e.chain(), "a change of the service's power waits");
            (None, e.what().to_owned())
        });
        if waits != self.powers.waits && !waits.is_empty() {
            tracing::info!(service = self.name(), waits, "a service that is not on");
        }
        self.powers.waits = waits;
        let most = if power::state(&self.record.value) == PowerState::PowerOff { REVIEW } else { WATCH };
        let after = until.map_or(most, |until| until.since(self.shared.now()).min(most));
        self.powers.timer = Some(AbortOnDropHandle::new(me.send_after(after, || ServiceMsg::Power)));
    }

    /// Those of this change that there are, in the order in which they began.
    fn of_power(&self) -> Vec<v1::Operation> {
        let number = self.powered().since_ms;
        let current = self.slot.current().and_then(|current| self.shared.board.find(current.id).ok());
        let current = current.map(|operation| v1::Operation::clone(&operation.borrow()));
        let all = self.history.values().map(|operation| &operation.value).chain(&current);
        let mut own: Vec<v1::Operation> = all.filter(|it| it.power_ms == number).cloned().collect();
        own.sort_by_key(|operation| operation.created_ms);
        own
    }

    fn tail(&self, vault: &Vault) -> Tail {
        match vault.logs.writer().filter(|writer| writer.streaming) {
            Some(writer) => Tail::Told(Timestamp(writer.told_ms), writer.lag_bytes),
            None if Policy::of(&self.record.value).replicated => Tail::Unheard,
            None => Tail::NoLog,
        }
    }

    /// Members whose agent is there and has nothing.
    fn empty(&self) -> Vec<String> {
        let members = self.seats.values().filter(|seat| !seat.known().spare);
        let empty = members.filter(|seat| seat.connected() && seat.known().data_empty);
        empty.map(|seat| seat.known().name.clone()).collect()
    }

    async fn change(&mut self, me: &ActorRef<ServiceMsg>, seen: Seen) -> Result<(Option<Timestamp>, String)> {
        let vault = self.vault()?;
        if power::state(&self.record.value) == PowerState::PowerDeleting {
            self.tell_deletion();
        }
        let (operations, empty) = (self.of_power(), self.empty());
        let busy = self.slot.current().map(|current| current.id.to_owned());
        let busy = busy.filter(|id| !operations.iter().any(|operation| operation.id == *id));
        let step = power::decide(View {
            power: &self.powered(),
            operations: &operations,
            busy: busy.as_deref(),
            tail: self.tail(&vault),
            replicated: Policy::of(&self.record.value).replicated,
            empty: &empty,
            now: self.shared.now(),
        });
        match step {
            Step::Wait(until, why) => return Ok((until, why)),
            Step::Set(next) => self.put_power(me, next).await?,
            Step::BackUp => self.begin_last_backup(me, &seen.sources).await?,
            Step::Restore => return Box::pin(self.begin_power_on(me, vault, seen)).await,
            Step::Follow(node) => {
                return Box::pin(self.bring_up(me, vault, &seen.sources, &node, true)).await;
            }
            Step::Erase => self.begin_erase(me, vault, seen.backups).await?,
            Step::Gone => self.leave_nothing(me).await?,
        }
        Ok((None, String::new()))
    }

    async fn begin_last_backup(&mut self, me: &ActorRef<ServiceMsg>, sources: &Sources) -> Result<()> {
        let nodes = self.describe().nodes.into_iter();
        let first = nodes.filter(|node| sources.newest(node).is_none()).map(|node| node.name);
        let backup = v1::BackupDetail { first: first.collect(), ..Default::default() };
        Box::pin(self.start(me, Detail::Backup(backup), Vec::new())).await.map(drop)
    }

    /// The latest backup goes onto the nodes that are there; or what is lacking for that.
    async fn begin_power_on(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        vault: Arc<Vault>,
        seen: Seen,
    ) -> Result<(Option<Timestamp>, String)> {
        let now = self.shared.now();
        if seen.backups.is_empty() {
            let why = "there is no backup: nothing was restored".to_owned();
            self.put_power(me, power::on(&self.powered(), why, now)).await?;
            return Ok((None, String::new()));
        }
        if Policy::of(&self.record.value).replicated {
            let Some(node) = self.first_up(&seen.sources)? else {
                return Ok((None, "no node is connected and empty: one is missing".to_owned()));
            };
            return Box::pin(self.bring_up(me, vault, &seen.sources, &node, false)).await;
        }
        // Of a look from before this change.
        let Some(latest) = seen.latest else { return Ok((Some(now), String::new())) };
        let Latest { backup, all, logs, key_epochs } = latest?;
        let (nodes, delta) = (self.describe().nodes, self.powered().delta);
        let sources: BTreeSet<&str> = backup.nodes.iter().map(|commit| commit.node.as_str()).collect();
        let pairs = match assign(&nodes, &sources, delta) {
            Fit::Ready(pairs) => pairs,
            Fit::Waits(why) | Fit::Never(why) => return Ok((None, why)),
        };
        let request = v1::RestoreRequest {
            service: self.name().to_owned(),
            nodes: pairs.iter().map(|(node, source)| format!("{node}={source}")).collect(),
            delta,
            ..Default::default()
        };
        let Planned { mut plan, manifests } = plan(&nodes, &backup, &all, &request)?;
        if !plan.refusals.is_empty() {
            return Ok((None, plan.refusals.join("; ")));
        }
        plan.logs = logs.map(Box::new);
        let mut notes = vec![format!("the service is powered on, from backup {}", backup.id)];
        notes.extend(plan.warnings.iter().cloned());
        let nodes: Vec<String> = pairs.into_iter().map(|(node, _)| node).collect();
        for node in &nodes {
            self.shut_out_old(node).await?;
        }
        let detail = v1::RestoreDetail { plan: Some(plan), manifests, key_epochs, parent: None };
        Box::pin(self.begin_new(me, vault, nodes, Detail::Restore(detail), &notes)).await?;
        Ok((None, String::new()))
    }

    /// Whoever had the place before the service was off is not to come back to it with old data.
    async fn shut_out_old(&mut self, node: &str) -> Result<()> {
        let Some(place) = self.seats.get(node).map(Seat::known) else { return Ok(()) };
        if place.holder.is_empty() || place.holder == place.instance || !place.data_empty {
            return Ok(());
        }
        let fence = v1::FailoverDetail {
            lost: node.to_owned(),
            node: node.to_owned(),
            instance: place.instance.clone(),
            fenced: place.holder.clone(),
            node_epoch: place.node_epoch.saturating_add(1),
            ..Default::default()
        };
        let told = self.fence(&fence).await?;
        tracing::info!(service = self.name(), told, "powered on");
        Ok(())
    }

    /// Of a service where one node's data is everybody's: who is restored, the one that was backed up before others.
    fn first_up(&self, sources: &Sources) -> Result<Option<String>> {
        let members = || self.seats.values().filter(|seat| !seat.known().spare && seat.connected());
        if let Some(full) = members().find(|seat| !seat.known().data_empty) {
            return Err(Error::conflict(format!(
                "the directory of {} holds data: empty it, so that the latest backup can be restored",
                full.known().name
            )));
        }
        let source = sources.latest().map(|source| source.node.as_str());
        let own = members().find(|seat| names(seat.known()).any(|name| Some(name) == source));
        Ok(own.or_else(|| members().next()).map(|seat| seat.known().name.clone()))
    }

    /// By a failover, which shuts out who had the place, restores to the end of the log and has the server started.
    async fn bring_up(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        vault: Arc<Vault>,
        sources: &Sources,
        node: &str,
        follows: bool,
    ) -> Result<(Option<Timestamp>, String)> {
        let wanted = self.view(sources, |view| {
            let policy = Policy { mode: Mode::Manual, ..view.policy };
            manual::plan(Places { policy, ..view }, self.name(), node, "", None)
        })?;
        let v1::FailoverPlan { failover, reasons, warnings, refusals, .. } = wanted;
        let detail = failover.unwrap_or_default();
        if !refusals.is_empty() {
            return Ok((None, refusals.join("; ")));
        }
        if follows && detail.follows.is_empty() {
            return Ok((None, format!("{node} waits for a primary: {}", warnings.join("; "))));
        }
        let mut notes = vec!["the service is powered on".to_owned()];
        notes.extend(reasons);
        let nodes = vec![detail.node.clone()];
        Box::pin(self.begin_new(me, vault, nodes, Detail::Failover(detail), &notes)).await?;
        Ok((None, String::new()))
    }

    async fn review(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        seen: &Seen,
    ) -> Result<(Option<Timestamp>, String)> {
        let (power, now) = (self.powered(), self.shared.now());
        if power.told_ms > 0 {
            self.tell_review(&power);
        }
        let (next, waits) = match review(&power, power::Policy::of(&self.record.value), now) {
            Verdict::Wait(until) => return Ok((Some(until), String::new())),
            Verdict::Note(next) => (next, String::new()),
            Verdict::Tell(next) => {
                self.tell_review(&next);
                (next, String::new())
            }
            Verdict::Delete => match &seen.kept {
                None => (power::deleting(&power, now), String::new()),
                Some(kept) => return Ok((None, format!("it is not deleted, as somebody keeps {kept}"))),
            },
        };
        self.put_power(me, next).await?;
        Ok((None, waits))
    }

    /// Stored before anything follows from it.
    pub(super) async fn put_power(&mut self, me: &ActorRef<ServiceMsg>, power: v1::Power) -> Result<()> {
        let before = power::state(&self.record.value);
        let mut next = v1::Service { power: Some(power), ..self.record.value.clone() };
        if before == PowerState::PowerStarting && power::is_on(&next) {
            self.take_over_pasts(&mut next);
        }
        match self.shared.records.put_service(&next, Expect::At(self.record.revision)).await {
            Ok(revision) => self.record = Versioned { value: next, revision },
            Err(e) => {
                // It may have landed: the next look goes on from what is there.
                if let Ok(Some(stored)) = self.shared.records.service(self.name()).await {
                    self.record = stored;
                }
                return Err(e);
            }
        }
        let state = power::state(&self.record.value);
        self.powers.waits.clear();
        if let Ok(vault) = &self.vault {
            vault.logs.close(!power::takes_log(&self.record.value));
        }
        if state != before {
            tracing::info!(
                service = self.name(),
                was = before.name(),
                is = state.name(),
                "the service's power"
            );
            self.add_seats();
            self.other_settings(me).await;
            self.log_backup(me);
            self.after_failover(me);
        }
        let _ = me.cast(ServiceMsg::Power);
        Ok(())
    }

    /// A node that was given the data of one that is gone has its backups for its past.
    fn take_over_pasts(&self, service: &mut v1::Service) {
        let members: BTreeSet<String> = service.nodes.iter().map(|node| node.name.clone()).collect();
        let restored = self.of_power();
        let plans = restored.iter().filter_map(|operation| operation.restore.as_ref()?.plan.as_ref());
        for pair in plans.flat_map(|plan| &plan.nodes).filter(|pair| !members.contains(&pair.source)) {
            if let Some(node) = service.nodes.iter_mut().find(|node| node.name == pair.node)
                && !node.succeeds.contains(&pair.source)
            {
                node.succeeds.insert(0, pair.source.clone());
            }
        }
    }
}

/// The newest that has all nodes and nothing of which is damaged; while there is none, the newest. To the end of the log.
async fn latest(vault: &Vault) -> Result<Option<Latest>> {
    let repository = &vault.repository;
    repository.refresh().await?;
    let (logged, found) = repository
        .read(|state| {
            let whole = |it: &&Arc<BackupRecord>| it.missing.is_empty() && !state.is_spoiled(it);
            let found = state.backups().rev().find(whole).or_else(|| state.backups().next_back());
            (!state.lineages().is_empty(), found.cloned())
        })
        .await;
    let Some(backup) = found else { return Ok(None) };
    let logs = match logged {
        false => None,
        true => {
            let target = v1::log_target::Target::Latest(true);
            let target = v1::LogTarget { target: Some(target), ..Default::default() };
            Some(locate(vault, &target, Some(backup.id)).await?.1.restore)
        }
    };
    let sealed = repository.read(|state| state.sealed(backup.transactions())).await;
    Ok(Some(Latest {
        all: repository.backups().await,
        key_epochs: palinurus_proto::to_wire(sealed),
        backup,
        logs,
    }))
}
