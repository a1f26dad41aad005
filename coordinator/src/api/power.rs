//! Powering a service off and on, and deleting one that is off. What the ledger has against it is looked at here; the rest is
//! the service's own.
use palinurus_proto::v1;
use palinurus_repository::{Error, Result};

use super::reads::Reads;
use crate::actor::ask;
use crate::actor::service::ServiceMsg;
use crate::door::Lead;
use crate::failover::Policy;
use crate::power::{Fit, assign};
use crate::retention::kept;

impl Lead {
    pub(super) async fn power_off(&self, request: v1::PowerOffRequest) -> Result<v1::Service> {
        let v1::PowerOffRequest { service, no_backup } = request;
        let actor = self.service(&service).await?;
        let changed = ask(&actor, |to| ServiceMsg::PowerOff { no_backup, to }).await?;
        Ok((self as &dyn Reads).standing(changed).await)
    }

    pub(super) async fn power_on(&self, request: v1::PowerOnRequest) -> Result<v1::Service> {
        let v1::PowerOnRequest { service, delta } = request;
        let actor = self.service(&service).await?;
        let vault = Self::vault(&actor).await?;
        let described = ask(&actor, ServiceMsg::Describe).await?;
        let latest = vault.repository.backups().await.pop();
        if let Some(latest) = latest.filter(|_| !Policy::of(&described.service).replicated) {
            let sources = latest.nodes.iter().map(|commit| commit.node.as_str()).collect();
            if let Fit::Never(why) = assign(&described.nodes, &sources, delta) {
                return Err(Error::conflict(why)
                    .with_hint("`palinurus service apply` with more [[nodes]]; spares are not counted"));
            }
        }
        let changed = ask(&actor, |to| ServiceMsg::PowerOn { delta, to }).await?;
        Ok((self as &dyn Reads).standing(changed).await)
    }

    pub(super) async fn delete_service(&self, service: &str) -> Result<v1::Service> {
        let actor = self.service(service).await?;
        let vault = Self::vault(&actor).await?;
        let now = vault.repository.now();
        if let Some(kept) = vault.repository.read(|state| kept(state, now)).await {
            return Err(Error::conflict(format!(
                "service {service} is not deleted, as somebody keeps {kept}"
            ))
            .with_hint("`palinurus backup unpin` and `palinurus backup unhold` end that"));
        }
        let changed = ask(&actor, ServiceMsg::Delete).await?;
        Ok((self as &dyn Reads).standing(changed).await)
    }
}
