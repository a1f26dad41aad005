//! One service's repository, with what the coordinator keeps beside it: the chunk index and the claims of the open
//! transaction.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::try_join_all;
use palinurus_proto::v1;
use palinurus_repository::index::IndexSegment;
use palinurus_repository::pack::PackId;
use palinurus_repository::storage::{Requests, list_all};
use palinurus_repository::verify::read_trailer;
use palinurus_repository::{
    Blocking, Entropy, Epoch, Error, ErrorKind, Repository, Result, Timestamp, TransactionId,
};
use tokio::sync::Mutex;

use crate::claim::Claims;
use crate::index::Index;
use crate::logs::Desk;
use crate::shared::{Base, Shared, World};

/// Trailers read side by side.
const AT_ONCE: usize = 16;

#[derive(Debug)]
pub(crate) struct Vault {
    pub(crate) repository: Arc<Repository>,
    pub(crate) epoch: Epoch,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) blocking: Blocking,
    index: Arc<Index>,
    claims: Mutex<Option<Arc<Claims>>>,
    pub(crate) logs: Arc<Desk>,
    /// When it was last counted, under this leader, how much of the packs is used; 0: not yet.
    counted: AtomicU64,
    /// By which the leader counts them.
    _open: Arc<()>,
}

impl Vault {
    /// Opens the service's repository and takes the lead in it: an earlier leader is fenced from here on.
    pub(crate) async fn open(shared: &Shared, service: &v1::Service, epoch: Epoch) -> Result<Self> {
        let repository = reach(shared, service).await?;
        let id = repository.id();
        repository.lead(epoch, &shared.config.name).await?;
        let path = shared.config.state.join(format!("index-{id}.redb"));
        let counted = shared.vaults.clone();
        let (together, vaults) = (shared.config.index_cache(), Arc::downgrade(&counted));
        // The leader counts itself.
        let cache = move || share(together, vaults.strong_count().saturating_sub(1));
        let blocking = shared.world.blocking;
        let open = move || Index::open(&path, id, cache).inspect(Index::rest);
        let index = blocking.run(open).await?;
        let repository = Arc::new(repository);
        let entropy = shared.world.entropy.clone();
        Ok(Self {
            logs: Arc::new(Desk::new(repository.clone(), epoch, entropy, shared.now())),
            repository,
            epoch,
            entropy: shared.world.entropy.clone(),
            blocking,
            index: Arc::new(index),
            claims: Mutex::default(),
            counted: AtomicU64::default(),
            _open: counted,
        })
    }

    /// Nothing runs that needs the index.
    pub(crate) async fn rest(&self) {
        let index = self.index.clone();
        let rested = self.blocking.run(move || {
            index.rest();
            Ok(())
        });
        if let Err(e) = rested.await {
            tracing::warn!(error = e.chain(), "the chunk index stays open");
        }
    }

    /// What this coordinator has asked of the store since it opened it.
    pub(crate) fn requests(&self) -> Requests {
        self.repository.storage().sent().unwrap_or_default()
    }

    pub(crate) fn counted(&self) -> Option<Timestamp> {
        Some(self.counted.load(Ordering::Relaxed)).filter(|at| *at > 0).map(Timestamp)
    }

    pub(crate) fn set_counted(&self, at: Timestamp) {
        self.counted.store(at.0, Ordering::Relaxed);
    }

    /// The claims of that transaction while it is open, and what could not be read of the index on the way.
    pub(crate) async fn claims(&self, transaction: TransactionId) -> Result<(Arc<Claims>, Vec<v1::Warning>)> {
        self.claims_of(transaction, false).await
    }

    /// `claims` of a transaction that this leader has begun just now: nothing lies under it yet.
    pub(crate) async fn new_claims(
        &self,
        transaction: TransactionId,
    ) -> Result<(Arc<Claims>, Vec<v1::Warning>)> {
        self.claims_of(transaction, true).await
    }

    async fn claims_of(
        &self,
        transaction: TransactionId,
        is_new: bool,
    ) -> Result<(Arc<Claims>, Vec<v1::Warning>)> {
        let mut slot = self.claims.lock().await;
        if let Some(claims) = slot.as_ref().filter(|claims| claims.transaction() == transaction) {
            return Ok((claims.clone(), Vec::new()));
        }
        let warnings = self.fold().await?;
        if !is_new {
            self.repository.refresh().await?;
        }
        // Read after the BEGIN: what this state calls usable stays as long as the transaction is open.
        let open = |state: &palinurus_repository::ledger::State| {
            state.open_transactions().contains_key(&transaction).then(|| state.clone())
        };
        let state = self.repository.read(open).await;
        let state = state.ok_or_else(|| Error::conflict(format!("transaction {transaction} is not open")))?;
        let index = self.index.clone();
        let claims = Arc::new(self.blocking.run(move || Claims::open(transaction, state, index)).await?);
        if !is_new && let Err(e) = self.take_up(transaction).await {
            tracing::warn!(%transaction, error = e.chain(), "what was stored before is not known: it is stored again");
        }
        *slot = Some(claims.clone());
        Ok((claims, warnings))
    }

    /// Packs that were stored under another leader: nodes that had done their upload by then do not tell of them again.
    async fn take_up(&self, transaction: TransactionId) -> Result<()> {
        let (storage, keys) = (self.repository.storage(), self.repository.keys());
        let objects = list_all(&**storage, &format!("t/{transaction}/p/")).await?;
        let sizes: BTreeMap<PackId, u64> = objects
            .iter()
            .filter_map(|object| Some((PackId::from_key(&object.key).ok()?, object.size)))
            .collect();
        let (index, packs) = (self.index.clone(), sizes.keys().copied().collect());
        let lacking = self.blocking.run(move || index.lacks(packs)).await?;
        for some in lacking.chunks(AT_ONCE) {
            let read: Vec<_> =
                some.iter().map(|pack| read_trailer(&**storage, keys, *pack, sizes[pack])).collect();
            for (summary, _) in try_join_all(read).await? {
                let index = self.index.clone();
                self.blocking.run(move || index.stored(&summary, || ())).await?;
            }
        }
        Ok(())
    }

    /// The backup goes on without that node: what it has claimed is free.
    pub(crate) async fn part(&self, node: &str) {
        if let Some(claims) = self.claims.lock().await.as_ref() {
            claims.part(node);
        }
    }

    /// How many chunks were moved, as far as this coordinator has seen.
    pub(crate) async fn close_claims(&self) -> u64 {
        let Some(claims) = self.claims.lock().await.take() else { return 0 };
        claims.close();
        claims.moved()
    }

    /// Takes into the index what was committed since. A segment that cannot be read costs dedupe, not the backup.
    pub(crate) async fn fold(&self) -> Result<Vec<v1::Warning>> {
        let index = self.index.clone();
        let folded = self.blocking.run(move || index.folded()).await?;
        let committed: BTreeSet<TransactionId> =
            self.repository.read(|state| state.committed().writers().map(|(id, _)| id).collect()).await;
        let mut warnings = Vec::new();
        for transaction in committed.difference(&folded) {
            let before = warnings.len();
            if !self.fold_open(*transaction).await? {
                self.fold_one(*transaction, &mut warnings).await?;
            }
            if warnings.len() == before {
                let (index, transaction) = (self.index.clone(), *transaction);
                self.blocking.run(move || index.fold_done(transaction)).await?;
            }
        }
        Ok(warnings)
    }

    /// Of a transaction whose packs this coordinator was told of one by one, the index knows all already.
    async fn fold_open(&self, transaction: TransactionId) -> Result<bool> {
        let state = self.repository.read(|state| state.clone()).await;
        let index = self.index.clone();
        let fold = move || {
            let (own, _) = state.committed().split(transaction);
            index.fold_open(transaction, &own, |pack| state.usable(pack))
        };
        self.blocking.run(fold).await
    }

    async fn fold_one(&self, transaction: TransactionId, warnings: &mut Vec<v1::Warning>) -> Result<()> {
        let storage = self.repository.storage();
        let state = self.repository.read(|state| Arc::new(state.clone())).await;
        for segment in list_all(&**storage, &format!("t/{transaction}/x/")).await? {
            let object = match storage.get(&segment.key, None).await {
                Ok(object) => object,
                Err(e) if e.kind() == ErrorKind::NotFound => continue, // swept since it was listed
                Err(e) => return Err(e),
            };
            let state = state.clone();
            let (index, keys, key) =
                (self.index.clone(), self.repository.keys().clone(), segment.key.clone());
            let folded = self.blocking.run(move || {
                let mut packs = IndexSegment::open(&keys, &key, &object)?;
                drop(object);
                // A chunk's good place must not give way to one that is damaged, or condemned and soon gone.
                packs.retain(|summary| state.usable(&summary.pack));
                index.fold(&packs)
            });
            match folded.await {
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    tracing::warn!(segment = segment.key, error = e.chain(), "index segment is damaged");
                    warnings.push(v1::Warning {
                        message: format!(
                            "index segment {} is damaged: what it lists is stored again",
                            segment.key
                        ),
                        ..Default::default()
                    });
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Forgets what was swept.
    pub(crate) async fn prune_index(&self) -> Result<()> {
        let committed = self.repository.read(|state| state.committed().clone()).await;
        let index = self.index.clone();
        self.blocking.run(move || index.retain(|pack| committed.contains(pack))).await
    }
}

/// Of the memory for all indexes, when that many services may need theirs at once: half is redb's, a quarter each holds
/// what is not written yet and filters. Below a few MiB redb has no room for its own pages.
fn share(together: usize, services: usize) -> usize {
    (together / services.max(1)).max(4 << 20)
}

/// The service's repository, to look at: nobody is fenced by it.
pub(crate) async fn reach(base: &Base, service: &v1::Service) -> Result<Repository> {
    let World { clock, stores, blocking, .. } = &base.world;
    let repository = base.keys.open(stores.open(&service.repository)?).await?;
    let repository = repository.with_clock(clock.clone()).with_blocking(*blocking);
    let id = repository.id();
    if id.to_string() != service.repository_id {
        return Err(Error::conflict(format!(
            "{} holds repository {id}, and service {} was made with {}",
            service.repository, service.name, service.repository_id
        ))
        .with_hint("bring the right store back to that place"));
    }
    Ok(repository)
}
