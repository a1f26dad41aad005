//! How a repository is made, and opened by whichever key file fits.
use std::sync::{Arc, Mutex as SyncMutex};

use tokio::sync::Mutex;

use super::access::{exists, key_object, place_key, probe, unwrap_root};
use super::{Repository, header};
use crate::blocking::Blocking;
use crate::clock::{Clock, SystemClock};
use crate::entropy::Entropy;
use crate::epochs::{Given, Operators};
use crate::error::{Error, ErrorKind, Result};
use crate::keyfile::KeyFile;
use crate::keys::{Keys, RootKey};
use crate::ledger::Ledger;
use crate::storage::Storage;

/// The writer named in records before anybody leads.
const NOBODY: &str = "palinurus";

impl Repository {
    /// Makes a new, empty repository that `key` opens. `Conflict` when there is one already.
    pub async fn create(
        storage: Arc<dyn Storage>,
        key: &KeyFile,
        entropy: &dyn Entropy,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        if storage.size(header::NAME).await.is_ok() {
            return Err(exists(&*storage));
        }
        probe(&*storage, entropy).await?;
        let (id, root) = place_key(&*storage, key, entropy).await?;
        // The header decides between creators, and makes the repository exist.
        match storage.put_new(header::NAME, header::seal(&Keys::derive(&root, id)?)?).await {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::Conflict => {
                let winner = header::read(&storage.get(header::NAME, None).await?)?;
                if winner != id {
                    storage.delete(&[key_object(key.id)]).await?; // opens nothing, now or ever
                }
                return Err(exists(&*storage));
            }
            Err(e) => return Err(e),
        }
        let repository = Self::open(storage, std::slice::from_ref(key)).await?.with_clock(clock);
        repository.put_label(key.id, "", entropy).await?;
        Ok(repository)
    }

    /// The keys alone, for an agent, which reads and writes objects but never the ledger.
    pub async fn unlock(storage: &dyn Storage, keys: &[KeyFile]) -> Result<Keys> {
        Self::unlock_by(storage, Arc::new(Given(keys.into()))).await
    }

    pub(crate) async fn unlock_by(storage: &dyn Storage, operators: Arc<dyn Operators>) -> Result<Keys> {
        unlock(storage, operators).await.map(|unlocked| unlocked.keys)
    }

    /// Opens the repository with whichever of the keys fits.
    pub async fn open(storage: Arc<dyn Storage>, keys: &[KeyFile]) -> Result<Self> {
        Self::open_by(storage, Arc::new(Given(keys.into()))).await
    }

    pub(crate) async fn open_by(storage: Arc<dyn Storage>, operators: Arc<dyn Operators>) -> Result<Self> {
        let Unlocked { opened_by, root, keys } = unlock(&*storage, operators).await?;
        let ledger = Ledger::open(storage.clone(), &keys).await?;
        Ok(Self {
            id: keys.repository(),
            storage,
            opened_by,
            root,
            keys,
            ledger: Mutex::new(ledger),
            clock: Arc::new(SystemClock),
            blocking: Blocking::default(),
            writer: SyncMutex::new(NOBODY.to_owned()),
        })
    }

    /// Reads the header again and proves it.
    pub(crate) async fn check_header(&self) -> Result<()> {
        let header = self.storage.get(header::NAME, None).await?;
        if header::read(&header)? != self.id {
            return Err(Error::corrupt("the header \"repo\" is another repository's"));
        }
        header::prove(&self.keys, &header)
    }
}

pub(super) struct Unlocked {
    opened_by: KeyFile,
    pub(super) root: RootKey,
    pub(super) keys: Keys,
}

/// The root key and all that derives from it, by whichever key file fits.
pub(super) async fn unlock(storage: &dyn Storage, operators: Arc<dyn Operators>) -> Result<Unlocked> {
    let header = storage.get(header::NAME, None).await.map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::not_found(format!("there is no repository in {storage:?}"))
            .with_hint("check the URL; a new repository is made when a service is first applied"),
        _ => e,
    })?;
    let id = header::read(&header)?;
    let (opened_by, root) = unwrap_root(storage, &operators.keys(), id).await?;
    let keys = Keys::with_operators(&root, id, operators)?;
    header::prove(&keys, &header)?;
    Ok(Unlocked { opened_by, root, keys })
}
