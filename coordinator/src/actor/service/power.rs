//! A service's power: what is asked for is stored first, and then done step by step, by whoever leads.
use std::time::Duration;

use palinurus_proto::v1::{self, PowerState};
use palinurus_repository::ledger::State;
use palinurus_repository::{Error, Result, Timestamp};
use ractor::ActorRef;
use tokio_util::task::AbortOnDropHandle;

use super::{Service, ServiceMsg};
use crate::failover::{Policy, Sources};
use crate::operation::Detail;
use crate::power::{self, Step, Tail, Verdict, View, review};
use crate::retention::kept;
use crate::settings::no_backups;
use crate::state::{Expect, Versioned};
use crate::vault::Vault;

mod delete;
mod on;

pub(crate) use delete::GONE;
use on::{Latest, latest};

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
}
