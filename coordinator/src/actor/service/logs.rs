//! Who may open a service's log, and the full backups that its streams ask for.
use std::sync::Arc;
use std::time::Duration;

use palinurus_proto::v1;
use palinurus_repository::{Error, Result};
use ractor::ActorRef;
use tokio_util::task::AbortOnDropHandle;

use super::{Service, ServiceMsg};
use crate::actor::ask;
use crate::failover::Sources;
use crate::operation::Detail;
use crate::power;
use crate::vault::Vault;

/// Before a backup that could not begin is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Where an agent that has its node's place writes.
#[derive(Debug)]
pub(crate) struct LogPlace {
    pub(crate) vault: Arc<Vault>,
    pub(crate) repository: String,
    pub(crate) node_epoch: u64,
}

#[derive(Default)]
pub(super) struct LogBackups {
    /// Why one is wanted. Many reasons are one backup.
    wanted: Option<String>,
    beginning: Option<AbortOnDropHandle<()>>,
}

impl Service {
    pub(super) fn log(&self, open: &v1::LogOpen) -> Result<LogPlace> {
        if open.epoch > self.epoch.0 {
            return Err(Error::fenced(format!(
                "epoch {} leads by now, this coordinator has {}",
                open.epoch, self.epoch
            )));
        }
        if !power::takes_log(&self.record.value) {
            power::must_be_on(&self.record.value)?;
        }
        let seat = self.seats.get(&open.node);
        let seat =
            seat.ok_or_else(|| Error::not_found(format!("node {:?} is not in the service", open.node)))?;
        if seat.instance() != Some(&open.instance) {
            return Err(Error::unavailable(format!(
                "agent {} of {} has no session",
                open.instance, open.node
            )));
        }
        let known = seat.known();
        if known.spare || known.holder != open.instance {
            return Err(Error::denied(format!(
                "agent {} does not hold the place of {}",
                open.instance, open.node
            ))
            .with_hint("who holds a place writes its log; `palinurus node list` shows who does"));
        }
        if open.node_epoch > 0 && open.node_epoch < known.node_epoch {
            return Err(Error::fenced(format!("{} is at node epoch {} by now", open.node, known.node_epoch)));
        }
        let repository = self.record.value.repository.clone();
        Ok(LogPlace { vault: self.vault()?, repository, node_epoch: known.node_epoch })
    }

    /// What a node says of a log that it cannot even open.
    pub(super) fn unopened(&self, node: &str, failure: Option<&v1::Failure>) {
        if let Ok(vault) = &self.vault {
            vault.logs.unopened(node, failure);
        }
    }

    pub(super) fn want_backup(&mut self, me: &ActorRef<ServiceMsg>, why: String) {
        tracing::info!(service = self.name(), why, "a full backup is wanted");
        if let Ok(vault) = &self.vault {
            vault.logs.wants(&why, self.shared.now());
        }
        self.log_backups.wanted = Some(why);
        self.log_backup(me);
    }

    /// Begins what is wanted, unless something runs: then when that has ended.
    pub(super) fn log_backup(&mut self, me: &ActorRef<ServiceMsg>) {
        // It is begun when the service is on again; of one that is off it is not wanted any more.
        if !power::is_on(&self.record.value) {
            if !power::takes_log(&self.record.value) {
                self.log_backups.wanted = None;
            }
            return;
        }
        let busy = self.log_backups.beginning.as_ref().is_some_and(|begin| !begin.is_finished());
        if busy || self.slot.current().is_some() {
            return;
        }
        let (Ok(vault), me) = (self.vault(), me.clone()) else { return };
        let Some(why) = self.log_backups.wanted.take() else { return };
        let nodes: Vec<v1::Node> = self.describe().nodes;
        self.log_backups.beginning = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let sources = vault.repository.read(Sources::of).await;
            let first = nodes.into_iter().filter(|node| sources.newest(node).is_none()).map(|node| node.name);
            let backup = v1::BackupDetail { full: true, first: first.collect(), ..Default::default() };
            let detail = Box::new(Detail::Backup(backup));
            let begun = ask(&me, |to| ServiceMsg::Start { detail, nodes: Vec::new(), to }).await;
            if let Err(e) = begun {
                tracing::warn!(why, error = e.chain(), "the backup that the log asks for could not begin");
                me.send_after(AGAIN_AFTER, move || ServiceMsg::WantBackup(why));
            }
        })));
    }
}
