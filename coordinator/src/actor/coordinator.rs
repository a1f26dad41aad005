//! The root: one child a service, started again when it fails.
use std::collections::BTreeMap;
use std::sync::Arc;

use palinurus_proto::v1;
use palinurus_repository::{Error, Result};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::service::{GONE, ServiceActor, ServiceArgs, ServiceMsg};
use super::{RESTART_AFTER, Reply, STOP_WITHIN, reply};
use crate::shared::Shared;
use crate::state::Versioned;

#[derive(Debug)]
pub(crate) enum CoordinatorMsg {
    Find(String, Reply<ActorRef<ServiceMsg>>),
    All(Reply<Vec<ActorRef<ServiceMsg>>>),
    /// A service that is stored, and may not run yet.
    Add(Box<Versioned<v1::Service>>, Reply<ActorRef<ServiceMsg>>),
    Restart(String),
}

#[derive(Debug)]
pub(crate) struct CoordinatorActor;

pub(crate) struct Coordinator {
    shared: Arc<Shared>,
    services: BTreeMap<String, Option<ActorRef<ServiceMsg>>>,
}

impl Actor for CoordinatorActor {
    type Msg = CoordinatorMsg;
    type State = Coordinator;
    type Arguments = Arc<Shared>;

    async fn pre_start(
        &self,
        me: ActorRef<CoordinatorMsg>,
        shared: Arc<Shared>,
    ) -> Result<Coordinator, ActorProcessingErr> {
        let mut coordinator = Coordinator { shared: shared.clone(), services: BTreeMap::new() };
        for record in shared.records.services().await? {
            let name = record.value.name.clone();
            coordinator.services.insert(name.clone(), None);
            // One service's trouble is not the others'.
            if let Err(e) = coordinator.add(&me, record).await {
                tracing::error!(service = name, error = e.chain(), "cannot start the service, trying again");
                me.send_after(RESTART_AFTER, move || CoordinatorMsg::Restart(name));
            }
        }
        Ok(coordinator)
    }

    async fn handle(
        &self,
        me: ActorRef<CoordinatorMsg>,
        message: CoordinatorMsg,
        coordinator: &mut Coordinator,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            CoordinatorMsg::Find(name, to) => reply(to, coordinator.find(&name)),
            CoordinatorMsg::All(to) => {
                let names: Vec<String> = coordinator.services.keys().cloned().collect();
                reply(to, names.iter().map(|name| coordinator.find(name)).collect());
            }
            CoordinatorMsg::Add(record, to) => reply(to, coordinator.adopt(&me, *record).await),
            CoordinatorMsg::Restart(name) => coordinator.restart(&me, name).await,
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<CoordinatorMsg>,
        event: SupervisionEvent,
        coordinator: &mut Coordinator,
    ) -> Result<(), ActorProcessingErr> {
        let (child, why) = match event {
            SupervisionEvent::ActorTerminated(child, _, why) => (child.get_id(), why.unwrap_or_default()),
            SupervisionEvent::ActorFailed(child, error) => (child.get_id(), error.to_string()),
            _ => return Ok(()),
        };
        if why == GONE {
            coordinator
                .services
                .retain(|_, service| service.as_ref().is_none_or(|service| service.get_id() != child));
            return Ok(());
        }
        if let Some(name) = coordinator.forget(child) {
            tracing::error!(service = name, why, "the service's actor ended, starting it again");
            me.send_after(RESTART_AFTER, move || CoordinatorMsg::Restart(name));
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        me: ActorRef<CoordinatorMsg>,
        _: &mut Coordinator,
    ) -> Result<(), ActorProcessingErr> {
        me.stop_children_and_wait(Some("the coordinator stops".to_owned()), Some(STOP_WITHIN * 2)).await;
        Ok(())
    }
}

impl Coordinator {
    fn find(&self, name: &str) -> Result<ActorRef<ServiceMsg>> {
        match self.services.get(name) {
            Some(Some(service)) => Ok(service.clone()),
            Some(None) => {
                Err(Error::unavailable(format!("service {name} is being started")).with_hint("try again"))
            }
            None => Err(no_service(name, self.services.keys())),
        }
    }

    /// It is in the state, so it must run, now or at the next try.
    async fn adopt(
        &mut self,
        me: &ActorRef<CoordinatorMsg>,
        record: Versioned<v1::Service>,
    ) -> Result<ActorRef<ServiceMsg>> {
        let name = record.value.name.clone();
        if let Some(Some(service)) = self.services.get(&name) {
            return Ok(service.clone());
        }
        self.services.insert(name.clone(), None);
        let added = self.add(me, record).await;
        if added.is_err() {
            me.send_after(RESTART_AFTER, move || CoordinatorMsg::Restart(name));
        }
        added
    }

    async fn add(
        &mut self,
        me: &ActorRef<CoordinatorMsg>,
        record: Versioned<v1::Service>,
    ) -> Result<ActorRef<ServiceMsg>> {
        let name = record.value.name.clone();
        let args = ServiceArgs { shared: self.shared.clone(), record };
        let spawned = me.spawn_linked(None, ServiceActor, args).await;
        let (service, _) = spawned.map_err(|e| {
            Error::internal(format!("cannot start service {name}")).with_source(e.to_string())
        })?;
        self.services.insert(name, Some(service.clone()));
        Ok(service)
    }

    fn forget(&mut self, child: ActorId) -> Option<String> {
        let found = self
            .services
            .iter_mut()
            .find(|(_, service)| service.as_ref().is_some_and(|service| service.get_id() == child));
        found.map(|(name, service)| {
            *service = None;
            name.clone()
        })
    }

    async fn restart(&mut self, me: &ActorRef<CoordinatorMsg>, name: String) {
        if matches!(self.services.get(&name), Some(Some(_))) {
            return;
        }
        let found = self.shared.records.services().await;
        let found = found.map(|services| services.into_iter().find(|service| service.value.name == name));
        let again = match found {
            Ok(Some(record)) => self.add(me, record).await.map(drop),
            Ok(None) => {
                self.services.remove(&name);
                return;
            }
            Err(e) => Err(e),
        };
        if let Err(e) = again {
            tracing::error!(service = name, error = e.chain(), "cannot start the service, trying again");
            me.send_after(RESTART_AFTER, move || CoordinatorMsg::Restart(name));
        }
    }
}

pub(crate) fn no_service<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Error {
    let known: Vec<&str> = known.map(String::as_str).collect();
    let hint = match known.as_slice() {
        [] => "there is none yet: `palinurus service apply` makes one".to_owned(),
        known => format!("known services: {}", known.join(", ")),
    };
    Error::not_found(format!("there is no service {name:?}")).with_hint(hint)
}
