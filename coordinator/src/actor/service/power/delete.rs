//! A service that is deleted: its backups by the ledger's own protocol, then what this coordinator knows of it.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use palinurus_proto::v1::{self, PowerState};
use palinurus_repository::{Error, Result, Timestamp};
use ractor::ActorRef;

use super::{Service, ServiceMsg};
use crate::failover::time;
use crate::notify::{Kind, Notice};
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
                return Err(Error::conflict(format!(
                    "service {name} is not off: only one that is can be deleted"
                ))
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
        let detail = v1::RetentionDetail {
            forget: backups,
            settings: HashMap::new(),
            all: true,
            ..Default::default()
        };
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
        tracing::warn!(
            service = self.name(),
            repository = self.record.value.repository,
            "the service is deleted"
        );
        me.stop(Some(GONE.to_owned()));
        Ok(())
    }

    /// To its owner. Told again at every look, so that it is told also when this leader ends right after: what has the same
    /// key is told once.
    pub(super) fn tell_review(&self, power: &v1::Power) {
        let told = v1::Service { power: Some(power.clone()), ..self.record.value.clone() };
        let mut details: BTreeMap<String, String> =
            [("off_since", power.off_ms), ("deletes", power.deletes_ms)]
                .into_iter()
                .filter(|(_, at)| *at > 0)
                .map(|(key, at)| (key.to_owned(), time(Timestamp(at))))
                .collect();
        details.insert(
            "policy".to_owned(),
            if power.deletes_ms > 0 { "automatic" } else { "review" }.to_owned(),
        );
        self.shared.notices.tell(Notice {
            what: format!("service {} is off for long and listed for review", self.name()),
            service: self.name().to_owned(),
            kind: Kind::Review,
            key: format!("{}-{}", power.review_ms, power.told_ms),
            at: Timestamp(power.told_ms),
            why: power::told(&told).unwrap_or_default(),
            details,
            urgent: true,
        });
    }

    pub(super) fn tell_deletion(&self) {
        let power = self.powered();
        let repository = self.record.value.repository.clone();
        self.shared.notices.tell(Notice {
            what: format!("service {} is being deleted, with its backups", self.name()),
            service: self.name().to_owned(),
            kind: Kind::Deletion,
            key: power.since_ms.to_string(),
            at: Timestamp(power.since_ms),
            why: format!("it was off since {}", time(Timestamp(power.off_ms))),
            details: [("repository".to_owned(), repository)].into(),
            urgent: true,
        });
    }
}
