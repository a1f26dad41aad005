//! What every coordinator answers: one that leads from its actors, one that stands by from the records it follows.
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use palinurus_proto::{to_status, v1};
use palinurus_repository::ledger::State;
use palinurus_repository::{Error, Repository, Result, Timestamp};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::backups::shown;
use crate::access::Sees;
use crate::actor::ask;
use crate::actor::service::{Described, ServiceMsg};
use crate::board::Board;
use crate::door::Lead;
use crate::drill;
use crate::operation::finished;
use crate::retention::verdicts;
use crate::schedule::{Known, Newest, standing};
use crate::settings::in_force;

/// For one service's ledger to be looked at.
const PATIENCE: Duration = Duration::from_secs(1);

#[async_trait]
pub(crate) trait Reads: Send + Sync {
    /// That service with its nodes, or all of them.
    async fn described(&self, name: Option<&str>) -> Result<Vec<Described>>;

    fn board(&self) -> &Board;

    /// As of now.
    async fn repository(&self, service: &v1::Service) -> Result<Arc<Repository>>;

    /// The same for a word about each service: who leads asks nothing of the store for it.
    async fn known(&self, service: &v1::Service) -> Option<Known>;

    fn now(&self) -> Timestamp;

    /// Cancelled when what is shown here is kept true no longer.
    fn over(&self) -> CancellationToken;
}

pub(crate) type Watched = ReceiverStream<Result<v1::Operation, Status>>;

impl dyn Reads {
    pub(super) async fn service(&self, name: &str) -> Result<v1::Service> {
        let found = self.described(Some(name)).await?.pop();
        found.map(|found| found.service).ok_or_else(|| Error::internal("a service that is none"))
    }

    /// That service, or all that are seen.
    async fn seen(&self, name: &str, sees: &Sees) -> Result<Vec<Described>> {
        let described = self.described(one(name)).await?;
        Ok(sees.keep(described, |each| &each.service.name))
    }

    /// The id of the operation that is meant.
    pub(super) fn own(&self, sees: &Sees, id: &str) -> Result<String> {
        let own = sees.operation(id, self.board().list().into_iter())?;
        Ok(own.unwrap_or_else(|| id.to_owned()))
    }

    pub(super) async fn list_services(&self, sees: &Sees) -> Result<v1::ListServicesReply> {
        let described = self.seen("", sees).await?;
        let services = described.into_iter().map(|each| self.standing(each.service));
        Ok(v1::ListServicesReply { services: futures::future::join_all(services).await })
    }

    pub(super) async fn get_service(&self, request: v1::GetServiceRequest) -> Result<v1::Service> {
        Ok(self.standing(self.service(&request.service).await?).await)
    }

    /// With how it stands now.
    pub(crate) async fn standing(&self, service: v1::Service) -> v1::Service {
        // One whose store does not answer is shown all the same.
        let known = tokio::time::timeout(PATIENCE, self.known(&service)).await.ok().flatten();
        let operations = self.board().list();
        let own = operations.iter().map(|it| &**it).filter(|it| it.service == service.name);
        let standing = standing(&service, known.as_ref(), own, self.now());
        v1::Service { standing: Some(standing), ..service }
    }

    pub(super) async fn list_nodes(
        &self,
        request: v1::ListNodesRequest,
        sees: &Sees,
    ) -> Result<v1::ListNodesReply> {
        let described = self.seen(&request.service, sees).await?;
        Ok(v1::ListNodesReply { nodes: described.into_iter().flat_map(|service| service.nodes).collect() })
    }

    pub(super) async fn list_backups(
        &self,
        request: v1::ListBackupsRequest,
        sees: &Sees,
    ) -> Result<v1::ListBackupsReply> {
        let (mut backups, mut drills) = (Vec::new(), Vec::new());
        let operations = self.board().list();
        for Described { service, .. } in self.seen(&request.service, sees).await? {
            let repository = self.repository(&service).await?;
            let found = repository.backups().await;
            let verdicts = verdicts(&found, &in_force(&service), repository.now());
            let list = |state: &State| -> Vec<_> {
                let each = found.iter().zip(&verdicts);
                each.map(|(backup, why)| shown(&service.name, backup, state, why)).collect()
            };
            backups.extend(repository.read(list).await);
            let own = operations.iter().map(|it| &**it).filter(|it| it.service == service.name);
            let now = repository.now();
            drills.push(repository.read(|state| drill::standing(&service, state, own, now)).await);
        }
        Ok(v1::ListBackupsReply { backups, drills })
    }

    pub(super) async fn get_backup(&self, request: v1::GetBackupRequest) -> Result<v1::Backup> {
        let service = self.service(&request.service).await?;
        let repository = self.repository(&service).await?;
        let backup = repository.find_backup(&request.backup).await?;
        let all = repository.backups().await;
        let verdicts = verdicts(&all, &in_force(&service), repository.now());
        let why = verdicts.iter().find(|verdict| verdict.backup == backup.id);
        let why =
            why.ok_or_else(|| Error::not_found(format!("backup {} was deleted meanwhile", backup.id)))?;
        Ok(repository.read(|state| shown(&service.name, &backup, state, why)).await)
    }

    pub(super) async fn list_operations(
        &self,
        request: v1::ListOperationsRequest,
        sees: &Sees,
    ) -> Result<v1::ListOperationsReply> {
        if !request.service.is_empty() {
            self.service(&request.service).await?;
        }
        let all = self.board().list();
        let wanted = all.iter().filter(|operation| {
            (request.service.is_empty() || operation.service == request.service)
                && sees.service(&operation.service)
                && !(request.running && finished(operation.state()))
        });
        Ok(v1::ListOperationsReply {
            operations: wanted.map(|operation| v1::Operation::clone(operation)).collect(),
        })
    }

    pub(super) fn get_operation(&self, id: &str) -> Result<v1::Operation> {
        Ok(v1::Operation::clone(&self.board().find(id)?.borrow()))
    }

    pub(super) fn watch_operation(&self, id: &str) -> Result<Watched> {
        let mut watched = self.board().find(id)?;
        let over = self.over();
        let (shown, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let operation = v1::Operation::clone(&watched.borrow_and_update());
                let last = finished(operation.state());
                if shown.send(Ok(operation)).await.is_err() || last {
                    return;
                }
                tokio::select! {
                    biased;
                    () = shown.closed() => return,
                    () = over.cancelled() => {
                        let stops = Error::unavailable("this coordinator does not follow the operation any more")
                            .with_hint("the operation goes on under whoever leads: watch it again");
                        let _ = shown.send(Err(to_status(&stops))).await;
                        return;
                    }
                    changed = watched.changed() => if changed.is_err() {
                        return; // too old to be kept
                    },
                }
            }
        });
        Ok(ReceiverStream::new(stream))
    }
}

/// Nothing said means all.
fn one(name: &str) -> Option<&str> {
    (!name.is_empty()).then_some(name)
}

#[async_trait]
impl Reads for Lead {
    async fn described(&self, name: Option<&str>) -> Result<Vec<Described>> {
        let services = match name {
            None => self.services().await?,
            Some(name) => vec![self.service(name).await?],
        };
        let mut described = Vec::with_capacity(services.len());
        for service in services {
            described.push(ask(&service, ServiceMsg::Describe).await?);
        }
        Ok(described)
    }

    fn board(&self) -> &Board {
        &self.shared.board
    }

    async fn repository(&self, service: &v1::Service) -> Result<Arc<Repository>> {
        let vault = Self::vault(&self.service(&service.name).await?).await?;
        Ok(vault.repository.clone())
    }

    async fn known(&self, service: &v1::Service) -> Option<Known> {
        let vault = self.opened(&service.name).await?;
        let newest = vault.repository.read(Newest::of).await;
        Some(Known { newest, archive: Some(vault.logs.archive(newest.whole)) })
    }

    fn now(&self) -> Timestamp {
        self.shared.now()
    }

    fn over(&self) -> CancellationToken {
        self.shared.cancel.clone()
    }
}
