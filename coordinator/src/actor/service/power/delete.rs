//! A service that is deleted: its backups by the ledger's own protocol, then what this coordinator knows of it.
use std::collections::HashMap;
use std::sync::Arc;

use palinurus_proto::v1::{self, PowerState};
use palinurus_repository::{Error, Result};
use ractor::ActorRef;

use super::{Service, ServiceMsg};
use crate::operation::Detail;
use crate::power;
use crate::vault::Vault;

/// Why a service's actor has ended whose record is gone.
pub(crate) const GONE: &str = "the service is deleted";

impl Service {
    /// Who asks has looked that nothing in the repository is pinned or held; it is looked again before each is forgotten.
    pub(in crate::actor::service) async fn delete(
        &mut self,
        me: &ActorRef<ServiceMsg>,
    ) -> Result<v1::Service> {
        match power::state(&self.record.value) {
            PowerState::PowerDeleting => return Ok(self.told()),
            PowerState::PowerOff => {}
            _ => {
                let name = self.name();
                return Err(Error::conflict(format!("service {name} is not off: only one that is can be deleted"))
                    .with_hint(format!("palinurus service power-off {name}")));
            }
        }
        self.vault()?;
        self.slot_free()?;
        drop(self.unlent()?);
        self.put_power(me, power::deleting(&self.powered(), self.shared.now())).await?;
        Ok(self.told())
    }

    /// The run of a deletion: everything is forgotten that nobody has pinned or held, then swept.
    pub(super) async fn begin_erase(
        &mut self,
        me: &ActorRef<ServiceMsg>,
        vault: Arc<Vault>,
        backups: Vec<String>,
    ) -> Result<()> {
        let _unlent = self.unlent()?;
        let detail =
            v1::RetentionDetail { forget: backups, settings: HashMap::new(), all: true, ..Default::default() };
        let why = ["the service is deleted".to_owned()];
        Box::pin(self.begin_new(me, vault, Vec::new(), Detail::Retention(detail), &why)).await.map(drop)
    }

    /// The service's own record last: until that is gone, whoever leads goes on with this.
    pub(super) async fn leave_nothing(&mut self, me: &ActorRef<ServiceMsg>) -> Result<()> {
        for operation in self.history.values() {
            self.shared.records.delete_operation(&operation.value).await?;
        }
        for node in self.seats.keys().chain(self.departed.keys()) {
            self.shared.records.delete_node(self.name(), node).await?;
        }
        self.shared.records.delete_service(self.name()).await?;
        for id in self.history.keys() {
            self.shared.board.remove(id);
        }
        let index = self.shared.config.state.join(format!("index-{}.redb", self.record.value.repository_id));
        // What is left of it is a cache.
        let remove = move || {
            let _ = std::fs::remove_file(index);
            Ok(())
        };
        self.shared.world.blocking.run(remove).await?;
        tracing::warn!(service = self.name(), repository = self.record.value.repository, "the service is deleted");
        me.stop(Some(GONE.to_owned()));
        Ok(())
    }

    /// To its owner.
    pub(super) fn tell_review(&self, power: &v1::Power) {
        let told = v1::Service { power: Some(power.clone()), ..self.record.value.clone() };
        let why = power::told(&told).unwrap_or_default();
        tracing::warn!(service = self.name(), why, "a service that is off is listed for review");
    }
}
