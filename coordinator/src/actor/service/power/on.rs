//! A service that is powered on: who is restored, from what, and how others are kept from coming back with old data.
use std::collections::BTreeSet;
use std::sync::Arc;

use palinurus_proto::v1;
use palinurus_repository::ledger::BackupRecord;
use palinurus_repository::{Error, Result, Timestamp};
use ractor::ActorRef;

use super::{Seen, Service, ServiceMsg};
use crate::actor::service::Seat;
use crate::failover::{Mode, Policy, Sources, View as Places, manual, names};
use crate::logs::locate;
use crate::operation::Detail;
use crate::plan::{Planned, plan};
use crate::power::{self, Fit, assign};
use crate::vault::Vault;

#[derive(Debug)]
pub(crate) struct Latest {
    backup: Arc<BackupRecord>,
    all: Vec<Arc<BackupRecord>>,
    logs: Option<v1::LogRestore>,
    key_epochs: Vec<v1::KeyEpoch>,
}

impl Service {
    /// The latest backup goes onto the nodes that are there; or what is lacking for that.
    pub(super) async fn begin_power_on(
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
    pub(super) async fn bring_up(
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

    /// A node that was given the data of one that is gone has its backups for its past.
    pub(super) fn take_over_pasts(&self, service: &mut v1::Service) {
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
pub(super) async fn latest(vault: &Vault) -> Result<Option<Latest>> {
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
