//! Key epochs: under which master what is sealed, as far as that is known here.
//!
//! Epoch 0 is the root's. The ledger's `KeyEpoch` record number n begins epoch n, whose master was drawn for it: records
//! behind it, and all that transactions write that begin behind it, are sealed under that one. The identities of chunks
//! and files hang on the root for ever, so dedupe goes on. Who reads the ledger learns from it which epoch a transaction
//! is of; an agent, which does not, is told with its task.
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;

use crate::crypto::Suite;
use crate::error::{Error, Result};
use crate::id::{Draw, KeyId, RepositoryId, TransactionId};
use crate::keyfile::KeyFile;
use crate::keys::Branch;
use crate::masters::{self, Master};
use crate::storage::Storage;

/// So many times may a master be drawn in a repository's life.
pub const EPOCHS_MAX: u32 = 1000;

/// One key epoch of a repository, from 1 on: epoch 0 has the root and no draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyEpoch {
    pub number: u32,
    pub draw: Draw,
}

/// Which transactions are of that epoch, among some that were asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    pub epoch: KeyEpoch,
    pub transactions: Vec<TransactionId>,
}

/// The operator keys that masters may be opened with.
#[async_trait]
pub(crate) trait Operators: Send + Sync + fmt::Debug {
    fn keys(&self) -> Arc<[KeyFile]>;

    /// Reads them again where they come from. False when there is nothing new to try.
    async fn renew(&self) -> bool;
}

/// Keys that were given once.
#[derive(Debug, Default)]
pub(crate) struct Given(pub(crate) Arc<[KeyFile]>);

#[async_trait]
impl Operators for Given {
    fn keys(&self) -> Arc<[KeyFile]> {
        self.0.clone()
    }

    async fn renew(&self) -> bool {
        false
    }
}

/// Shared by all clones of a repository's `Keys`.
#[derive(Debug)]
pub(crate) struct Epochs {
    operators: Arc<dyn Operators>,
    known: RwLock<Known>,
}

#[derive(Clone, Default)]
struct Known {
    masters: HashMap<Draw, (Master, Arc<Branch>)>,
    /// Those that are not of epoch 0.
    transactions: HashMap<TransactionId, Draw>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Known({} masters)", self.masters.len())
    }
}

impl Epochs {
    pub(crate) fn new(operators: Arc<dyn Operators>) -> Self {
        Self { operators, known: RwLock::default() }
    }

    /// With all that is known here, and what it learns stays its own until it is [`join`](Self::join)ed.
    pub(crate) fn fork(&self) -> Self {
        Self { operators: self.operators.clone(), known: RwLock::new(self.read().clone()) }
    }

    pub(crate) fn join(&self, fork: &Self) -> Result<()> {
        let learned = fork.read();
        let masters = learned.masters.iter().map(|(draw, master)| (*draw, master.clone()));
        self.write().masters.extend(masters);
        learned.transactions.iter().try_for_each(|(id, draw)| self.assign(*id, *draw))
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The operator keys of this process.
    pub(crate) fn held(&self) -> Arc<[KeyFile]> {
        self.operators.keys()
    }

    pub(crate) fn hold(&self, suite: &dyn Suite, repository: RepositoryId, master: Master) -> Result<()> {
        let branch = Arc::new(Branch::derive(suite, &master.key, repository)?);
        self.write().masters.insert(master.draw, (master, branch));
        Ok(())
    }

    pub(crate) fn branch(&self, draw: Draw) -> Option<Arc<Branch>> {
        self.read().masters.get(&draw).map(|(_, branch)| branch.clone())
    }

    /// What the transaction is sealed under; none for the root.
    pub(crate) fn of(&self, transaction: TransactionId) -> Option<Draw> {
        self.read().transactions.get(&transaction).copied()
    }

    /// A transaction stays in its epoch: whoever says otherwise is wrong.
    pub(crate) fn assign(&self, transaction: TransactionId, draw: Draw) -> Result<()> {
        let before = *self.write().transactions.entry(transaction).or_insert(draw);
        if before == draw {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "transaction {transaction} is of two key epochs, drawn as {before} and {draw}"
        )))
    }

    /// The masters of epochs 1, 2 and so on, all of which are known.
    pub(crate) fn masters(&self, draws: &[Draw]) -> Result<Vec<Master>> {
        let known = self.read();
        let master = |draw: &Draw| known.masters.get(draw).map(|(master, _)| master.clone());
        draws
            .iter()
            .map(|draw| master(draw).ok_or_else(|| Error::internal("a master is not known")))
            .collect()
    }

    /// Sees that the master of that epoch is known, and with it those of all before.
    pub(crate) async fn load(
        &self,
        storage: &dyn Storage,
        suite: &dyn Suite,
        repository: RepositoryId,
        epoch: KeyEpoch,
    ) -> Result<()> {
        if self.branch(epoch.draw).is_some() {
            return Ok(());
        }
        let mut renewed = false;
        loop {
            let keys = self.operators.keys();
            let mut failure = None;
            for key in keys.iter() {
                match masters::read(storage, key, repository, epoch).await {
                    Ok(Some(masters)) => {
                        for master in masters {
                            self.hold(suite, repository, master)?;
                        }
                        return Ok(());
                    }
                    Ok(None) => {}
                    Err(e) => drop(failure.get_or_insert(e)),
                }
            }
            if renewed || !self.operators.renew().await {
                return Err(match failure {
                    Some(failure) => failure,
                    None => left_out(&keys, epoch, &masters::reaching(storage, epoch).await?),
                });
            }
            renewed = true;
        }
    }
}

fn left_out(keys: &[KeyFile], epoch: KeyEpoch, reaching: &[KeyId]) -> Error {
    let number = epoch.number;
    if reaching.is_empty() {
        return Error::denied(format!(
            "key epoch {number} of this repository cannot be read: its masters are gone, for every key"
        ))
        .with_hint(
            "the objects under masters/ were deleted: bring them back from the store's older versions, or with \
             `palinurus repository repair --from COPY`; without them the backups are lost",
        );
    }
    let given = match keys {
        [] => "no key was given".to_owned(),
        [one] => format!("key {} is not one of its keys", one.id),
        more => format!("none of the keys {} is one of its keys", join(more.iter().map(|key| key.id))),
    };
    let reaching = join(reaching.iter().copied());
    Error::denied(format!("key epoch {number} of this repository cannot be read: {given}, which are {reaching}")).with_hint(
        "fresh masters were drawn without this key: use a key that stayed, or have one added with `palinurus keys add`; \
         what runs finds a key file that was replaced without a restart",
    )
}

/// Some of them.
fn join(ids: impl Iterator<Item = KeyId>) -> String {
    ids.take(8).map(|id| id.to_string()).collect::<Vec<_>>().join(", ")
}
