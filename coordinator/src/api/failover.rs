//! Failovers that an operator asks for. Those that begin by themselves are the service's own.
use palinurus_proto::v1;
use palinurus_repository::{Error, Result};
use ractor::ActorRef;

use crate::actor::ask;
use crate::actor::service::{ServiceMsg, Wanted};
use crate::door::Lead;
use crate::failover::{Policy, Source, Sources, names};

impl Lead {
    pub(super) async fn plan_failover(&self, request: v1::FailoverRequest) -> Result<v1::FailoverPlan> {
        let (service, wanted) = self.wanted(request).await?;
        ask(&service, |to| ServiceMsg::PlanFailover(Box::new(wanted), to)).await
    }

    pub(super) async fn apply_failover(&self, request: v1::FailoverRequest) -> Result<v1::Operation> {
        let (service, wanted) = self.wanted(request).await?;
        ask(&service, |to| ServiceMsg::ApplyFailover(Box::new(wanted), to)).await
    }

    /// With what there is to restore from, read before the service is asked.
    async fn wanted(&self, request: v1::FailoverRequest) -> Result<(ActorRef<ServiceMsg>, Wanted)> {
        let v1::FailoverRequest { service: name, node, onto, backup } = request;
        let service = self.service(&name).await?;
        let vault = Self::vault(&service).await?;
        let source = match backup.as_str() {
            "" => None,
            text => {
                let backup = vault.repository.find_backup(text).await?;
                let described = ask(&service, ServiceMsg::Describe).await?;
                let replicated = Policy::of(&described.service).replicated;
                let known = described.nodes.into_iter().find(|known| known.name == node);
                let known = known.unwrap_or_else(|| v1::Node { name: node.clone(), ..Default::default() });
                let commit =
                    names(&known).find_map(|name| backup.nodes.iter().find(|each| each.node == name));
                // Where one node's data is everybody's, whoever's it is.
                let commit = commit.or_else(|| backup.nodes.first().filter(|_| replicated));
                let commit = commit.ok_or_else(|| {
                    Error::not_found(format!("backup {} has no node {node}", backup.id))
                        .with_hint("`palinurus backup show` names its nodes")
                })?;
                Some(vault.repository.read(|state| Source::of(state, &backup, commit)).await)
            }
        };
        let sources = vault.repository.read(Sources::of).await;
        Ok((service, Wanted { node, onto, source, sources }))
    }
}
