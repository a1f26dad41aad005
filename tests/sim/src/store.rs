//! The object store as one host reaches it: slow, away, or silent about what it did. It never lies about conditional
//! puts, and it looks at every write and delete (I2, I3, I8).
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use palinurus_repository::ledger::{PackSet, State};
use palinurus_repository::pack::PackId;
use palinurus_repository::storage::{MemoryStorage, Object};
use palinurus_repository::{
    Error, ErrorKind, KeyFile, Repository, Result, Storage, Stores, TransactionId, mutant,
};

use crate::chance::Chance;
use crate::disk::Content;
use crate::invariant::Invariant;
use crate::wal::Wal;
use crate::world::{self, HostId, World, lock};

pub(crate) const SCHEME: &str = "sim://";

/// One repository, past all faults.
#[derive(Debug)]
pub(crate) struct Vault {
    pub(crate) objects: Arc<MemoryStorage>,
    oracle: Option<Repository>,
    /// What each open transaction may have built on: the packs and manifests that were usable at its BEGIN.
    built_on: BTreeMap<TransactionId, (PackSet, BTreeSet<String>)>,
    voids: usize,
    /// What each node's disk was when it was frozen for that transaction.
    pub(crate) frozen: BTreeMap<(TransactionId, String), Content>,
    /// And what its log was when that had been read.
    pub(crate) wals: BTreeMap<(TransactionId, String), Wal>,
}

impl Default for Vault {
    fn default() -> Self {
        Self {
            objects: Arc::new(MemoryStorage::default()),
            oracle: None,
            built_on: BTreeMap::new(),
            voids: 0,
            frozen: BTreeMap::new(),
            wals: BTreeMap::new(),
        }
    }
}

/// Of what never waits: memory.
pub(crate) fn at_once<T>(work: impl Future<Output = T>) -> Option<T> {
    let planted = mutant::plant(None);
    let done = tokio::task::unconstrained(work).now_or_never();
    mutant::plant(planted);
    done
}

impl Vault {
    /// The repository as it is now, folded by nobody who takes part.
    pub(crate) fn oracle(&mut self, key: &KeyFile) -> Option<&Repository> {
        if self.oracle.is_none() {
            let opened = at_once(Repository::open(self.objects.clone(), std::slice::from_ref(key)));
            self.oracle = opened.and_then(Result::ok);
        }
        let oracle = self.oracle.as_ref()?;
        at_once(oracle.refresh())?.ok()?;
        Some(oracle)
    }

    pub(crate) fn read<T>(&mut self, key: &KeyFile, look: impl FnOnce(&State) -> T) -> Option<T> {
        at_once(self.oracle(key)?.read(look))
    }

    /// After a record: whether it counts, and what a transaction that begins may build on.
    fn recorded(&mut self, key: &KeyFile) -> Option<String> {
        let oracle = self.oracle(key)?;
        let voids = at_once(oracle.void_records())?;
        let built: Vec<_> = at_once(oracle.read(|state| {
            let usable = state.committed().difference(&state.condemned());
            let manifests: BTreeSet<String> = state
                .backups()
                .flat_map(|backup| &backup.nodes)
                .flat_map(|node| node.manifest.keys())
                .collect();
            let open = state.open_transactions().keys();
            open.map(|id| (*id, (usable.clone(), manifests.clone()))).collect()
        }))?;
        let open: BTreeSet<TransactionId> = built.iter().map(|(id, _)| *id).collect();
        self.built_on.retain(|id, _| open.contains(id));
        for (id, on) in built {
            self.built_on.entry(id).or_insert(on);
        }
        let new = voids.get(self.voids..).unwrap_or_default().to_vec();
        self.voids = voids.len();
        (!new.is_empty()).then(|| format!("ledger records {new:?} are void"))
    }

    /// Why the object must stay.
    fn needed(&mut self, operator: &KeyFile, key: &str) -> Option<String> {
        if key.starts_with("ledger/") || key == "repo" {
            return Some(format!("{key} is never deleted"));
        }
        let mut parts = key.split('/');
        let (Some("t"), Some(transaction), Some(kind)) = (parts.next(), parts.next(), parts.next()) else {
            return None;
        };
        let transaction: TransactionId = transaction.parse().ok()?;
        let pack = if kind == "p" { PackId::from_key(key).ok() } else { None };
        let held = self.read(operator, |state| {
            if state.open_transactions().contains_key(&transaction) {
                return Some(format!("{key} is of an open transaction"));
            }
            let user = state.backups().find(|backup| {
                pack.is_some_and(|pack| backup.packs.contains(&pack))
                    || backup.nodes.iter().any(|node| node.manifest.keys().iter().any(|part| part == key))
            });
            user.map(|backup| format!("{key} is of backup {}", backup.id))
        })?;
        held.or_else(|| {
            let on = |(packs, manifests): &(PackSet, BTreeSet<String>)| {
                pack.is_some_and(|pack| packs.contains(&pack)) || manifests.contains(key)
            };
            let open = self.built_on.iter().find(|(_, built)| on(built));
            open.map(|(id, _)| format!("the open transaction {id} may build on {key}"))
        })
    }
}

/// How one host opens stores.
#[derive(Debug)]
pub(crate) struct SimStores {
    pub(crate) world: Arc<World>,
    pub(crate) host: HostId,
    /// An agent's own service, beyond which it has no business.
    pub(crate) agent_of: Option<(String, String)>,
    pub(crate) chance: Chance,
}

impl Stores for SimStores {
    fn open(&self, url: &str) -> Result<Arc<dyn Storage>> {
        let Some(name) = url.strip_prefix(SCHEME) else {
            return Err(Error::invalid(format!("{url} is no simulated store")));
        };
        if let Some((service, node)) = self.agent_of.as_ref().filter(|(service, _)| service != name) {
            let what = format!("node {node} of {service} opens {url}");
            self.world.violate(Invariant::I8OwnData, what);
        }
        let objects = lock(&self.world.vaults).entry(url.to_owned()).or_default().objects.clone();
        Ok(Arc::new(SimStorage {
            world: self.world.clone(),
            host: self.host,
            url: url.to_owned(),
            agent_of: self.agent_of.clone(),
            objects,
            chance: Mutex::new(self.chance.named(url)),
        }))
    }
}

#[derive(Debug)]
struct SimStorage {
    world: Arc<World>,
    host: HostId,
    url: String,
    agent_of: Option<(String, String)>,
    objects: Arc<MemoryStorage>,
    chance: Mutex<Chance>,
}

impl SimStorage {
    /// The way there. The answer's way may be cut: then the deed is done.
    async fn reach(&self, what: &str) -> Result<bool> {
        let faults = self.world.faults(self.host);
        let (wait, refused, unanswered) = {
            let mut chance = lock(&self.chance);
            let wait = chance.between(1, 4) + chance.below(faults.store_slow);
            (wait, chance.percent(faults.store_refuses), chance.percent(faults.store_unanswered))
        };
        world::pause(wait).await;
        if faults.store_away || refused {
            world::pause(200).await;
            return Err(Error::unavailable(format!("{what}: the store is away")));
        }
        Ok(unanswered)
    }

    async fn answered<T>(&self, what: &str, unanswered: bool, done: Result<T>) -> Result<T> {
        world::pause(1).await;
        if unanswered {
            return Err(Error::unavailable(format!("{what}: the store does not answer")));
        }
        done
    }

    fn looked_at(&self, look: impl FnOnce(&mut Vault, &KeyFile) -> Option<String>) -> Option<String> {
        let mut vaults = lock(&self.world.vaults);
        look(vaults.entry(self.url.clone()).or_default(), &self.world.key)
    }

    fn check_writer(&self, key: &str) {
        let Some((service, node)) = &self.agent_of else { return };
        let own = match key.splitn(4, '/').collect::<Vec<_>>()[..] {
            ["t", _, "p" | "x", _] => true,
            ["t", _, "m", name] => name.starts_with(&format!("{node}-")),
            ["l", ..] => true,
            _ => false,
        };
        if !own {
            self.world.violate(Invariant::I8OwnData, format!("node {node} of {service} writes {key}"));
        }
    }
}

#[async_trait]
impl Storage for SimStorage {
    async fn put_new(&self, key: &str, body: Bytes) -> Result<()> {
        let unanswered = self.reach(key).await?;
        self.check_writer(key);
        let done = self.objects.put_new(key, body).await;
        world::trace(&format!("store: put {key} {}", done.as_ref().err().map_or("", |e| e.kind().name())));
        if done.is_ok()
            && key.starts_with("ledger/")
            && let Some(void) = self.looked_at(Vault::recorded)
        {
            self.world.violate(Invariant::I2OneEpoch, void);
        }
        self.answered(key, unanswered, done).await
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        let unanswered = self.reach(key).await?;
        self.check_writer(key);
        let done = self.objects.put(key, body).await;
        self.answered(key, unanswered, done).await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        self.reach(key).await?;
        self.objects.get(key, range).await
    }

    async fn size(&self, key: &str) -> Result<u64> {
        self.reach(key).await?;
        self.objects.size(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Object>> {
        self.reach(prefix).await?;
        self.objects.list(prefix, after, limit).await
    }

    async fn delete(&self, keys: &[String]) -> Result<()> {
        let unanswered = self.reach("delete").await?;
        for key in keys {
            let there = at_once(self.objects.size(key)).is_some_and(|size| size.is_ok());
            let needed =
                if there { self.looked_at(|vault, operator| vault.needed(operator, key)) } else { None };
            world::trace(&format!("store: delete {key}"));
            if let Some(needed) = needed {
                self.world.violate(Invariant::I3NothingLost, needed);
            }
        }
        let done = self.objects.delete(keys).await;
        self.answered("delete", unanswered, done).await
    }
}

/// Whether waiting and trying again may help.
pub(crate) fn passes(error: &Error) -> bool {
    error.kind() == ErrorKind::Unavailable
}
