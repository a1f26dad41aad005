//! The repositories that this agent's keys open.
use std::collections::HashMap;
use std::sync::Arc;

use palinurus_proto::v1;
use palinurus_repository::storage::{ReadOnly, Requests};
use palinurus_repository::{ErrorKind, Keyring, Keys, Result, Storage, Stores};
use tokio::sync::Mutex;

/// An open store and what unlocks it, remembered by URL: neither ever changes.
#[derive(Debug, Default)]
pub(crate) struct Repositories(Mutex<HashMap<String, Unlocked>>);

#[derive(Clone, Debug)]
pub(crate) struct Unlocked {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) keys: Keys,
}

impl Repositories {
    pub(crate) async fn unlock(&self, stores: &dyn Stores, url: &str, keys: &Keyring) -> Result<Unlocked> {
        let mut known = self.0.lock().await;
        if let Some(unlocked) = known.get(url) {
            return Ok(unlocked.clone());
        }
        let storage = stores.open(url)?;
        let keys = keys.unlock(storage.as_ref()).await?;
        let unlocked = Unlocked { storage, keys };
        known.insert(url.to_owned(), unlocked.clone());
        Ok(unlocked)
    }

    /// Another service's, to read from. Nobody else is given it, so it is not remembered.
    pub(crate) async fn unlock_to_read(
        &self,
        stores: &dyn Stores,
        parent: &v1::Parent,
        keys: &Keyring,
    ) -> Result<Unlocked> {
        let storage: Arc<dyn Storage> = Arc::new(ReadOnly::new(stores.open(&parent.repository)?));
        let keys = keys.unlock(&*storage).await.map_err(|error| match error.kind() {
            ErrorKind::Denied => error.with_hint(format!(
                "a fork reads the repository of {}: wrap it for a key of this agent, `palinurus keys add --repository {}`",
                parent.service, parent.repository
            )),
            _ => error,
        })?;
        Ok(Unlocked { storage, keys })
    }

    /// Of all stores together.
    pub(crate) async fn all_requests(&self) -> Requests {
        let known = self.0.lock().await;
        known.values().filter_map(|known| known.storage.sent()).fold(Requests::default(), Requests::plus)
    }

    /// What the store has been asked since it was opened.
    pub(crate) async fn requests(&self, url: &str) -> Requests {
        self.0.lock().await.get(url).and_then(|known| known.storage.sent()).unwrap_or_default()
    }
}
