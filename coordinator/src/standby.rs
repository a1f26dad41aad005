//! What a coordinator shows while another leads: the records, followed as that one writes them, and the ledgers, which
//! anybody may read. Progress is not stored, so it is not seen here. What may be stale is not shown.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::StreamExt;
use palinurus_proto::v1;
use palinurus_repository::{Error, Repository, Result, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::actor::coordinator::no_service;
use crate::actor::service::{Described, as_specified};
use crate::api::Reads;
use crate::board::Board;
use crate::door::Lead;
use crate::schedule::{Known, Newest};
use crate::shared::Base;
use crate::state::{Change, Key, Reader, Record, decode};
use crate::vault;

#[derive(Debug)]
pub(crate) struct Standby {
    base: Arc<Base>,
    /// Or why nothing is known.
    seen: Mutex<Result<Seen, String>>,
    /// Each service's repository, once it was asked for.
    opened: Mutex<BTreeMap<String, Arc<Repository>>>,
}

/// Known without a gap since the state was last reached.
#[derive(Debug)]
struct Seen {
    records: Arc<Mutex<Tables>>,
    board: Arc<Board>,
    over: CancellationToken,
    _until: DropGuard,
}

#[derive(Debug, Default)]
struct Tables {
    services: BTreeMap<String, v1::Service>,
    nodes: BTreeMap<(String, String), v1::Node>,
}

impl Standby {
    pub(crate) fn new(base: Arc<Base>) -> Self {
        let seen = Mutex::new(Err("it has not been read yet".to_owned()));
        Self { base, seen, opened: Mutex::default() }
    }

    /// Follows the state whenever this coordinator does not lead.
    pub(crate) async fn run(&self, reader: Arc<dyn Reader>, mut lead: watch::Receiver<Option<Lead>>) {
        loop {
            let follow = async {
                let mut changes = reader.follow("");
                while let Some(change) = changes.next().await {
                    self.take_in(change);
                }
            };
            tokio::select! {
                biased;
                led = lead.wait_for(Option::is_some) => if led.is_err() { return },
                () = follow => {}
            }
            *lock(&self.seen) = Err("this coordinator led a moment ago".to_owned());
            if lead.wait_for(Option::is_none).await.is_err() {
                return;
            }
        }
    }

    /// `led`: somebody leads, and so keeps the records true.
    pub(crate) fn view(self: &Arc<Self>, led: bool) -> Result<View> {
        match &*lock(&self.seen) {
            Ok(seen) => Ok(View {
                standby: self.clone(),
                records: seen.records.clone(),
                board: seen.board.clone(),
                over: seen.over.clone(),
                led,
            }),
            Err(why) => Err(Error::unavailable("this coordinator stands by and does not see the state")
                .with_source(why.clone())
                .with_hint("ask another coordinator, or try again in a few seconds")),
        }
    }

    fn take_in(&self, change: Change) {
        let mut slot = lock(&self.seen);
        match change {
            Change::Away(e) => {
                if slot.is_ok() {
                    tracing::warn!(error = e.chain(), "the state cannot be followed");
                }
                *slot = Err(e.chain());
            }
            Change::All(all) => match &*slot {
                Ok(seen) => seen.all(all),
                Err(_) => {
                    let seen = Seen::new();
                    seen.all(all);
                    *slot = Ok(seen);
                }
            },
            Change::Put(key, record) => slot.iter().for_each(|seen| seen.put(&key, record.clone())),
            Change::Gone(key) => slot.iter().for_each(|seen| seen.gone(&key)),
        }
    }

    async fn repository(&self, service: &v1::Service) -> Result<Arc<Repository>> {
        let known = lock(&self.opened).get(&service.repository_id).cloned();
        let repository = match known {
            Some(repository) => repository,
            None => Arc::new(vault::reach(&self.base, service).await?),
        };
        repository.refresh().await?;
        lock(&self.opened).insert(service.repository_id.clone(), repository.clone());
        Ok(repository)
    }
}

impl Seen {
    fn new() -> Self {
        let over = CancellationToken::new();
        let _until = over.clone().drop_guard();
        Self { records: Arc::default(), board: Arc::default(), over, _until }
    }

    fn all(&self, all: Vec<(String, Record)>) {
        *lock(&self.records) = Tables::default();
        let kept: BTreeSet<&str> = all
            .iter()
            .filter_map(|(key, _)| match Key::of(key) {
                Some(Key::Operation(_, id)) => Some(id),
                _ => None,
            })
            .collect();
        for operation in self.board.list().iter().filter(|operation| !kept.contains(&*operation.id)) {
            self.board.remove(&operation.id);
        }
        for (key, record) in all {
            self.put(&key, record);
        }
    }

    fn put(&self, key: &str, record: Record) {
        if let Err(e) = self.try_put(key, record) {
            tracing::error!(error = e.chain(), "a record is not shown");
        }
    }

    fn try_put(&self, key: &str, record: Record) -> Result<()> {
        let mut records = lock(&self.records);
        match Key::of(key) {
            Some(Key::Service(name)) => {
                records.services.insert(name.to_owned(), decode(key, record)?.value);
            }
            Some(Key::Node(service, node)) => {
                records.nodes.insert((service.to_owned(), node.to_owned()), decode(key, record)?.value);
            }
            Some(Key::Operation(..)) => self.board.publish(&decode(key, record)?.value),
            None => {}
        }
        Ok(())
    }

    fn gone(&self, key: &str) {
        let mut records = lock(&self.records);
        match Key::of(key) {
            Some(Key::Service(name)) => drop(records.services.remove(name)),
            Some(Key::Node(service, node)) => {
                drop(records.nodes.remove(&(service.to_owned(), node.to_owned())));
            }
            Some(Key::Operation(_, id)) => self.board.remove(id),
            None => {}
        }
    }
}

/// The state as a standby sees it.
#[derive(Clone, Debug)]
pub(crate) struct View {
    standby: Arc<Standby>,
    records: Arc<Mutex<Tables>>,
    board: Arc<Board>,
    over: CancellationToken,
    led: bool,
}

impl View {
    fn describe(&self, tables: &Tables, service: &v1::Service) -> Described {
        let node = |spec: &v1::NodeSpec| {
            let known = tables.nodes.get(&(service.name.clone(), spec.name.clone())).cloned();
            let known = known.unwrap_or_default();
            let connected = known.connected && self.led;
            v1::Node { connected, ..as_specified(service, spec, known) }
        };
        Described { service: service.clone(), nodes: service.nodes.iter().map(node).collect() }
    }
}

#[async_trait]
impl Reads for View {
    async fn described(&self, name: Option<&str>) -> Result<Vec<Described>> {
        let tables = lock(&self.records);
        match name {
            None => Ok(tables.services.values().map(|service| self.describe(&tables, service)).collect()),
            Some(name) => match tables.services.get(name) {
                Some(service) => Ok(vec![self.describe(&tables, service)]),
                None => Err(no_service(name, tables.services.keys())),
            },
        }
    }

    fn board(&self) -> &Board {
        &self.board
    }

    async fn repository(&self, service: &v1::Service) -> Result<Arc<Repository>> {
        self.standby.repository(service).await
    }

    async fn known(&self, service: &v1::Service) -> Option<Known> {
        let repository = self.standby.repository(service).await.ok()?;
        Some(Known { newest: repository.read(Newest::of).await, archive: None })
    }

    fn now(&self) -> Timestamp {
        self.standby.base.world.clock.now()
    }

    fn over(&self) -> CancellationToken {
        self.over.clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
