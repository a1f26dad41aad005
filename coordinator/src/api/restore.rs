//! Restores: of a service onto its own nodes, or onto those of another one, which begins as its fork.
use palinurus_proto::v1::{self, log_target::Target};
use palinurus_repository::{Error, Result};

use crate::actor::ask;
use crate::actor::service::{Described, ServiceMsg};
use crate::door::Lead;
use crate::logs::{alone, locate};
use crate::operation::{Detail, finished};
use crate::plan::{Fork, Planned, may_choose, plan, plan_fork};
use crate::power;
use crate::settings::{RESTORE_FOR, no_backups, only_recovers};
use crate::vault::Vault;

impl Lead {
    pub(super) async fn plan_restore(&self, request: &v1::RestoreRequest) -> Result<Planned> {
        let service = self.service(&request.service).await?;
        let vault = Self::vault(&service).await?;
        let described = ask(&service, ServiceMsg::Describe).await?;
        if !request.into.is_empty() {
            may_fork(request, &described.service, &vault).await?;
        }
        may_choose(request, &described.service.r#type)?;
        let (backup, logs) = match &request.target {
            None => (vault.repository.find_backup(&request.backup).await?, None),
            Some(target) => {
                // The newest that leads there, unless one is named.
                let named = match request.backup.as_str() {
                    "" | "latest" => None,
                    named => Some(vault.repository.find_backup(named).await?.id),
                };
                let (backup, logs) = locate(&vault, target, named).await?;
                (vault.repository.find_backup(&backup.to_string()).await?, Some(logs.restore))
            }
        };
        let all = vault.repository.backups().await;
        let mut planned = if request.into.is_empty() {
            plan(&described.nodes, &backup, &all, request)?
        } else {
            let (fork, has_past) = self.fork(&request.into).await?;
            let fork = Fork { service: &fork.service, nodes: &fork.nodes, has_past };
            plan_fork(&described.service, fork, &backup, &all, &request.nodes)?
        };
        planned.plan.refusals.extend(beyond_recovery(request, &described.service));
        let source = planned.plan.nodes.first().map(|assignment| assignment.source.as_str());
        let commit = backup.nodes.iter().find(|commit| Some(commit.node.as_str()) == source);
        planned.plan.logs = match (logs, commit) {
            (None, Some(commit)) => vault.repository.read(|state| alone(state, commit)).await,
            (logs, _) => logs,
        }
        .map(Box::new);
        Ok(planned)
    }

    pub(super) async fn apply_restore(&self, request: &v1::RestoreRequest) -> Result<v1::Operation> {
        // What it is to read must not go between the plan and the operation.
        let _lending = match request.into.as_str() {
            "" => None,
            _ => Some(self.shared.lending.lock().await),
        };
        let Planned { plan, manifests } = self.plan_restore(request).await?;
        if !plan.refusals.is_empty() {
            return Err(Error::conflict(format!("the restore is refused: {}", plan.refusals.join("; ")))
                .with_hint("palinurus restore plan shows what would be done"));
        }
        let nodes = plan.nodes.iter().map(|assignment| assignment.node.clone()).collect();
        let key_epochs = self.key_epochs(&request.service, &plan.backup_id).await?;
        let (onto, parent) = match request.into.as_str() {
            "" => (&request.service, None),
            _ => (&request.into, Some(self.lend(&request.service).await?)),
        };
        let detail = v1::RestoreDetail { plan: Some(plan), manifests, key_epochs, parent };
        self.start(onto, Detail::Restore(detail), nodes).await
    }

    /// The service that is to be a fork, and whether it has a past of its own.
    async fn fork(&self, name: &str) -> Result<(Described, bool)> {
        let service = self.service(name).await?;
        let vault = Self::vault(&service).await?;
        let has_past = |state: &palinurus_repository::ledger::State| {
            state.backups().next().is_some() || !state.lineages().is_empty()
        };
        Ok((ask(&service, ServiceMsg::Describe).await?, vault.repository.read(has_past).await))
    }

    /// Whence a fork is read, unless something there takes objects out.
    async fn lend(&self, parent: &str) -> Result<v1::Parent> {
        let takes_out =
            |operation: &v1::Operation| operation.delete.is_some() || operation.retention.is_some();
        let board = self.shared.board.list();
        let mut running = board.iter().filter(|it| it.service == parent && !finished(it.state()));
        if let Some(busy) = running.find(|operation| takes_out(operation)) {
            let (id, kind) = (&busy.id, busy.kind().as_str_name().to_lowercase());
            return Err(Error::conflict(format!("operation {id} ({kind}) is running on service {parent}"))
                .with_hint(format!("fork it when that has ended: palinurus operation watch {id}")));
        }
        let service = ask(&self.service(parent).await?, ServiceMsg::Describe).await?.service;
        if power::state(&service) == v1::PowerState::PowerDeleting {
            power::must_be_on(&service)?;
        }
        Ok(v1::Parent { service: service.name, repository: service.repository })
    }

    /// What a restore of that backup reads under.
    async fn key_epochs(&self, service: &str, backup: &str) -> Result<Vec<v1::KeyEpoch>> {
        let vault = Self::vault(&self.service(service).await?).await?;
        let backup = vault.repository.find_backup(backup).await?;
        let sealed = vault.repository.read(|state| state.sealed(backup.transactions())).await;
        Ok(palinurus_proto::to_wire(sealed))
    }
}

/// What no plan needs to be made for.
async fn may_fork(request: &v1::RestoreRequest, service: &v1::Service, parent: &Vault) -> Result<()> {
    if let Some(none) = no_backups(service) {
        return Err(none);
    }
    let v1::RestoreRequest { service, into, .. } = request;
    if service == into {
        return Err(Error::invalid(format!("{service} cannot be a fork of itself"))
            .with_hint("restore without --into, or apply another service and name it"));
    }
    if request.delta {
        return Err(Error::invalid("a fork is never made over data that is there")
            .with_hint("empty the directories of its nodes, and leave out --delta"));
    }
    if parent.repository.backups().await.is_empty() {
        return Err(Error::not_found(format!("service {service} has no backup: there is nothing to fork"))
            .with_hint("`palinurus backup start` makes one"));
    }
    Ok(())
}

/// What the single backup of such a plan is not for.
fn beyond_recovery(request: &v1::RestoreRequest, service: &v1::Service) -> Option<String> {
    let target = request.target.as_ref().and_then(|target| target.target.as_ref());
    let newest = matches!(target, None | Some(Target::Latest(_) | Target::Immediate(_) | Target::Follow(_)));
    let wanted = match (request.into.is_empty(), newest) {
        (true, true) => return None,
        (true, false) => "a restore to a moment",
        (false, _) => "a fork",
    };
    let plan = if service.plan.is_empty() { "its settings" } else { "its plan" };
    only_recovers(service).then(|| {
        format!(
            "{wanted}: {plan} keeps a single backup of service {}, for the recovery of its own nodes only ({RESTORE_FOR} = \
             anything lets it)",
            service.name
        )
    })
}
