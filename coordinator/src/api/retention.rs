//! Retention that an operator asks for, pins and holds.
use std::collections::BTreeSet;

use palinurus_proto::v1;
use palinurus_repository::{BackupId, Error, Result, Timestamp};

use super::backups::shown;
use super::reads::Reads;
use crate::actor::ask;
use crate::actor::service::ServiceMsg;
use crate::door::Lead;
use crate::operation::Detail;
use crate::retention;
use crate::settings::in_force;
use crate::vault::Vault;

/// What is done to a backup that retention has to heed.
pub(super) enum Keep {
    Pin(String),
    Unpin,
    Hold(Timestamp, String),
    Unhold,
}

impl dyn Reads {
    pub(super) async fn plan_retention(&self, request: v1::RetentionRequest) -> Result<v1::RetentionPlan> {
        let service = self.service(&request.service).await?;
        retention::plan(&*self.repository(&service).await?, &service).await
    }
}

impl Lead {
    pub(super) async fn apply_retention(&self, request: v1::RetentionRequest) -> Result<v1::Operation> {
        let actor = self.service(&request.service).await?;
        let vault = Self::vault(&actor).await?;
        let service = ask(&actor, ServiceMsg::Describe).await?.service;
        let backups = vault.repository.backups().await;
        let verdicts = retention::verdicts(&backups, &in_force(&service), vault.repository.now());
        let mut forget: BTreeSet<String> =
            verdicts.iter().filter(|verdict| !verdict.keeps()).map(|it| it.backup.to_string()).collect();
        if !request.backups.is_empty() {
            let shown: BTreeSet<String> = request.backups.into_iter().collect();
            if let Some(stays) = shown.difference(&forget).next() {
                return Err(Error::conflict(format!("backup {stays} is not to be forgotten any more"))
                    .with_hint("look again: palinurus retention plan"));
            }
            forget = shown;
        }
        let detail = v1::RetentionDetail {
            forget: forget.into_iter().collect(),
            settings: in_force(&service),
            ..Default::default()
        };
        self.start(&service.name, Detail::Retention(detail), Vec::new()).await
    }

    /// Beside whatever runs: the ledger orders it.
    pub(super) async fn keep(&self, service: &str, backup: &str, keep: Keep) -> Result<v1::Backup> {
        let actor = self.service(service).await?;
        let vault = Self::vault(&actor).await?;
        let found = vault.repository.find_backup(backup).await?;
        apply(&vault, found.id, keep).await?;
        let settings = in_force(&ask(&actor, ServiceMsg::Describe).await?.service);
        let backups = vault.repository.backups().await;
        let verdicts = retention::verdicts(&backups, &settings, vault.repository.now());
        let of = backups.iter().zip(&verdicts).find(|(backup, _)| backup.id == found.id);
        let (backup, verdict) =
            of.ok_or_else(|| Error::not_found(format!("backup {} was deleted meanwhile", found.id)))?;
        Ok(vault.repository.read(|state| shown(service, backup, state, verdict)).await)
    }
}

async fn apply(vault: &Vault, backup: BackupId, keep: Keep) -> Result<()> {
    let (repository, epoch) = (&vault.repository, vault.epoch);
    match keep {
        Keep::Pin(reason) => repository.pin(epoch, backup, &reason).await,
        Keep::Unpin => repository.unpin(epoch, backup).await,
        Keep::Hold(until, reason) => {
            if until <= repository.now() {
                return Err(Error::invalid("a hold until a time that has passed")
                    .with_hint("give a later date; `palinurus backup unhold` ends a hold"));
            }
            repository.hold(epoch, backup, until, &reason).await
        }
        Keep::Unhold => repository.unhold(epoch, backup).await,
    }
}
