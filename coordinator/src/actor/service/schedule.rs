//! Begins the backups that are due, and says when the service's health has changed.
use std::collections::BTreeMap;
use std::time::Duration;

use palinurus_proto::v1::{self, Health};
use palinurus_repository::{Error, Result};
use ractor::ActorRef;
use tokio_util::task::AbortOnDropHandle;

use super::{Service, ServiceMsg};
use crate::failover::{Sources, time};
use crate::notify::{self, Notice};
use crate::operation::Detail;
use crate::schedule::{Known, Newest, Past, Run, Verdict, changes, decide, schedule_of, standing};

/// After a start: agents come first.
const SOON: Duration = Duration::from_secs(3);
/// At the longest between two looks.
const WATCH: Duration = Duration::from_secs(5 * 60);
/// Between two looks that a log asks for.
const CALM: Duration = Duration::from_secs(5);
/// After one that could not begin.
const AGAIN: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Schedules {
    timer: Option<AbortOnDropHandle<Result<(), ractor::MessagingErr<ServiceMsg>>>>,
    asking: Option<AbortOnDropHandle<()>>,
    /// None: not looked at yet, under this leader.
    health: Option<Health>,
    /// Listens to the log's desk.
    logs: Option<AbortOnDropHandle<()>>,
}

/// What the ledger says.
#[derive(Debug)]
pub(crate) struct Seen {
    known: Known,
    sources: Sources,
}

impl Service {
    pub(super) fn schedule_soon(&mut self, me: &ActorRef<ServiceMsg>) {
        if self.vault.is_ok() {
            self.listen_to_logs(me);
            self.schedule_after(me, SOON);
        }
    }

    fn schedule_after(&mut self, me: &ActorRef<ServiceMsg>, after: Duration) {
        self.schedules.timer = Some(AbortOnDropHandle::new(me.send_after(after, || ServiceMsg::Schedule)));
    }

    /// Asks the ledger, for whose lock this actor must not wait.
    pub(super) fn schedule(&mut self, me: &ActorRef<ServiceMsg>) {
        let (Ok(vault), me) = (self.vault(), me.clone()) else { return };
        let begins = schedule_of(&self.record.value).is_some();
        self.schedules.asking = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let look =
                |state: &_| (Newest::of(state), if begins { Sources::of(state) } else { Sources::default() });
            let (newest, sources) = vault.repository.read(look).await;
            let seen =
                Seen { known: Known { newest, archive: Some(vault.logs.archive(newest.whole)) }, sources };
            let _ = me.cast(ServiceMsg::ScheduleSeen(Box::new(seen)));
        })));
    }

    pub(super) async fn schedule_seen(&mut self, me: &ActorRef<ServiceMsg>, seen: Seen) {
        let (service, now) = (&self.record.value, self.shared.now());
        let current = self.slot.current().and_then(|current| self.shared.board.find(current.id).ok());
        let current = current.map(|operation| v1::Operation::clone(&operation.borrow()));
        let operations = || self.history.values().map(|operation| &operation.value).chain(&current);
        let stands = standing(service, Some(&seen.known), operations(), now);
        let verdict = schedule_of(service)
            .map(|schedule| decide(&schedule, &Past::of(service, seen.known.newest, operations()), now));
        let changes = changes(service, &seen.known, now);
        self.tell_health(&stands);
        let after = match verdict {
            None | Some(Verdict::Never | Verdict::Busy) => WATCH,
            Some(Verdict::Wait(until)) => until.since(now).min(WATCH),
            // When what runs has ended, this is asked again.
            Some(Verdict::Begin(_)) if self.slot.current().is_some() => {
                self.automatic_gives_way();
                WATCH
            }
            Some(Verdict::Begin(run)) => {
                match Box::pin(self.begin_scheduled(me, &run, &seen.sources)).await {
                    Ok(_) => WATCH,
                    Err(e) => {
                        tracing::warn!(service = self.name(), error = e.chain(), "a scheduled backup waits");
                        AGAIN
                    }
                }
            }
        };
        let health = changes.map_or(WATCH, |at| at.since(now));
        self.schedule_after(me, after.min(health));
    }

    /// Looks at once when the log's desk hears something, and no more often than that.
    fn listen_to_logs(&mut self, me: &ActorRef<ServiceMsg>) {
        let (Ok(vault), me) = (self.vault(), me.clone()) else { return };
        self.schedules.logs = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                vault.logs.changed().await;
                if me.cast(ServiceMsg::Schedule).is_err() {
                    return;
                }
                tokio::time::sleep(CALM).await;
            }
        })));
    }

    async fn begin_scheduled(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        run: &Run,
        sources: &Sources,
    ) -> Result<v1::Operation> {
        let nodes = self.describe().nodes.into_iter();
        let first = nodes.filter(|node| sources.newest(node).is_none()).map(|node| node.name);
        let scheduled = v1::ScheduledRun { due_ms: run.due.0, missed: run.missed, attempt: run.attempt };
        let backup =
            v1::BackupDetail { first: first.collect(), scheduled: Some(scheduled), ..Default::default() };
        Box::pin(self.start(me, Detail::Backup(backup), Vec::new())).await
    }

    /// No backup begins, and nobody knows of those there are: for longer than a store is away now and then.
    pub(super) fn tell_unopened(&mut self, error: &Error) {
        let why = format!("its repository cannot be opened: {}", error.chain());
        self.tell(Health::Unspecified, &why, true);
    }

    fn tell_health(&mut self, stands: &v1::Standing) {
        let is = stands.health();
        let urgent = matches!(is, Health::Late | Health::Failing | Health::Unprotected);
        self.tell(is, &stands.why, urgent);
    }

    fn tell(&mut self, is: Health, why: &str, urgent: bool) {
        let service = self.name().to_owned();
        if self.schedules.health.replace(is) == Some(is) {
            return;
        }
        self.shared.notices.tell(Notice {
            what: format!("service {service} is {}", is.name()),
            service,
            kind: notify::Kind::Health,
            key: is.name().to_owned(),
            at: self.shared.now(),
            why: why.to_owned(),
            details: BTreeMap::new(),
            urgent,
        });
    }
}

/// For the operation's log.
pub(super) fn why(run: &v1::ScheduledRun) -> String {
    let due = time(palinurus_repository::Timestamp(run.due_ms));
    let missed = match run.missed {
        0 => String::new(),
        1 => ", and for the time before it that was missed".to_owned(),
        missed => format!(", and for the {missed} times before it that were missed"),
    };
    let attempt = if run.attempt > 1 { format!("; attempt {}", run.attempt) } else { String::new() };
    format!("scheduled for {due}{missed}{attempt}")
}
