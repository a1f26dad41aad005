//! A node's disk and the engine on it: files made of numbered blocks. The disk outlives its agent; the engine does not.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use palinurus_agent::engine::{
    Engine, FinishOrder, Health, Inspection, Logs, Plan, Snapshot, SnapshotOrder, Span,
};
use palinurus_agent::source::{SourceListWriter, Totals, Tree};
use palinurus_agent::warning::Warnings;
use palinurus_repository::{Clock, Error, Result, Timestamp};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::chance::Chance;
use crate::log::SimLogs;
use crate::place;
use crate::wal::Wal;
use crate::world::{self, HostId, WallClock, World, lock};

/// Each file's blocks, by the number that their bytes are made from.
pub(crate) type Content = BTreeMap<String, Vec<u64>>;

const BLOCK: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) files: Content,
    /// For whom it stands still.
    pub(crate) frozen: Option<String>,
    /// What is held for each operation.
    pub(crate) held: BTreeMap<String, Content>,
    /// A restore began and did not end: which manifest.
    pub(crate) half: Option<Vec<u8>>,
    /// What was last restored onto it.
    pub(crate) restored: Option<Vec<u8>>,
    /// Of the database that writes here, if it has one.
    pub(crate) wal: Option<Wal>,
    /// Where each operation's backup begins in it, and, once it is read, the log as it ended.
    pub(crate) spans: BTreeMap<String, (u64, Option<Wal>)>,
    /// Along which log what is being restored goes.
    pub(crate) plan: Option<Plan>,
}

pub(crate) fn block(n: u64) -> Vec<u8> {
    let mut chance = Chance::new(n);
    (0..BLOCK / 8).flat_map(|_| chance.draw().to_le_bytes()).collect()
}

impl Disk {
    /// A restore may go on or begin.
    fn is_empty(&self) -> bool {
        self.files.is_empty() || self.half.is_some()
    }

    /// Some files change, come or go. A database that stands still writes nothing.
    pub(crate) fn change(&mut self, chance: &mut Chance, pool: u64) {
        if self.frozen.is_some() || self.half.is_some() {
            return;
        }
        for _ in 0..chance.between(1, 3) {
            let name = format!("f{}", chance.below(5));
            if chance.percent(15) {
                self.files.remove(&name);
                continue;
            }
            let blocks = (0..chance.between(1, 6)).map(|_| chance.below(pool)).collect();
            self.files.insert(name, blocks);
        }
    }
}

#[derive(Debug)]
pub(crate) struct SimEngine {
    pub(crate) world: Arc<World>,
    pub(crate) host: HostId,
    pub(crate) service: String,
    pub(crate) node: String,
    pub(crate) logged: bool,
    pub(crate) chance: Mutex<Chance>,
    pub(crate) dead_man: Arc<Mutex<Option<AbortOnDropHandle<()>>>>,
}

impl SimEngine {
    fn disk<T>(&self, look: impl FnOnce(&mut Disk) -> T) -> T {
        self.world.disk(self.host, look)
    }

    async fn work(&self, what: &str) -> Result<()> {
        if what != "thaw" {
            place::works(&self.world, self.host, what);
        }
        let (wait, fails) = {
            let mut chance = lock(&self.chance);
            (chance.between(1, 40), chance.percent(self.world.faults(self.host).engine))
        };
        world::pause(wait).await;
        if fails { Err(Error::internal(format!("{what}: the engine fails"))) } else { Ok(()) }
    }
}

#[async_trait]
impl Engine for SimEngine {
    fn name(&self) -> &'static str {
        "files"
    }

    fn holds(&self, _: &Path) -> bool {
        false
    }

    async fn recover(&self, known: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync)) -> Result<()> {
        self.disk(|disk| {
            disk.frozen = None;
            disk.held.retain(|operation, _| known(operation));
            disk.spans.retain(|operation, _| known(operation));
        });
        Ok(())
    }

    async fn inspect(&self) -> Result<Inspection> {
        self.work("inspect").await?;
        if self.disk(|disk| disk.half.is_some()) {
            return Err(Error::conflict("a restore into the data was not finished"));
        }
        Ok(Inspection { data_empty: self.disk(|disk| disk.is_empty()), ..Inspection::default() })
    }

    async fn freeze(&self, operation: &str, dead_man: Duration, _: &CancellationToken) -> Result<()> {
        self.work("freeze").await?;
        self.disk(|disk| disk.frozen = Some(operation.to_owned()));
        let (world, host) = (self.world.clone(), self.host);
        let (operation, alarm) = (operation.to_owned(), Arc::downgrade(&self.dead_man));
        let thaw = tokio::spawn(async move {
            tokio::time::sleep(dead_man).await;
            if alarm.upgrade().is_some() {
                world::trace("the dead man thaws");
                world.disk(host, |disk| drop(disk.frozen.take_if(|held| *held == operation)));
            }
        });
        *lock(&self.dead_man) = Some(AbortOnDropHandle::new(thaw));
        Ok(())
    }

    async fn snapshot(&self, operation: &str, order: SnapshotOrder) -> Result<Snapshot> {
        self.work("snapshot").await?;
        // What is listed is the disk's to say; the task looks into the file all the same.
        SourceListWriter::create(&order.list, Timestamp(1))?.finish(&Warnings::default())?;
        let totals = self.disk(|disk| {
            if disk.frozen.as_deref() != Some(operation) {
                return Err(Error::conflict("the freeze did not last"));
            }
            disk.held.insert(operation.to_owned(), disk.files.clone());
            if let Some(wal) = &disk.wal {
                disk.spans.insert(operation.to_owned(), (wal.end, None));
            }
            let blocks: usize = disk.files.values().map(Vec::len).sum();
            let files = disk.files.len() as u64;
            Ok(Totals {
                entries: files + 1,
                files,
                bytes: (blocks * BLOCK) as u64,
                scan_started: Timestamp(1),
            })
        })?;
        let taken = WallClock { world: self.world.clone(), host: self.host }.now();
        Ok(Snapshot { totals, warnings: Warnings::default(), taken, taken_to: taken })
    }

    async fn thaw(&self, operation: &str) -> Result<()> {
        self.work("thaw").await?;
        self.disk(|disk| drop(disk.frozen.take_if(|held| held == operation)));
        Ok(())
    }

    /// What is read is the disk's, not this: there is none.
    fn tree(&self, _: &str) -> Result<Tree> {
        Tree::open(&self.world.directory, None)
    }

    /// A backup leads to where the log is when it has been read; if that is another by then, to nothing beyond itself.
    async fn finish(&self, operation: &str, order: FinishOrder) -> Result<bool> {
        self.work("finish").await?;
        let span = self.disk(|disk| {
            let wal = disk.wal.clone()?;
            let (start, ended) = disk.spans.get_mut(operation)?;
            let span = Span { identity: wal.identity(), start: *start, stop: wal.end, follows: false };
            *ended = (*start <= wal.end).then_some(wal);
            ended.is_some().then_some(span)
        });
        if let Some(span) = span {
            let text = serde_json::to_vec(&span).map_err(|e| Error::internal("a span").with_source(e))?;
            std::fs::write(&order.span, text).map_err(|e| Error::io("write a span", e))?;
        }
        Ok(false)
    }

    fn logs(&self) -> Option<Arc<dyn Logs>> {
        let chance = lock(&self.chance).named("logs");
        let (world, service) = (self.world.clone(), self.service.clone());
        let logs = SimLogs { world, host: self.host, service, chance: Mutex::new(chance) };
        self.logged.then(|| Arc::new(logs) as Arc<dyn Logs>)
    }

    async fn release(&self, operation: &str) -> Result<()> {
        self.work("release").await?;
        self.disk(|disk| {
            drop(disk.frozen.take_if(|held| held == operation));
            disk.held.remove(operation);
            disk.spans.remove(operation);
        });
        Ok(())
    }

    async fn restore_prepare(&self) -> Result<PathBuf> {
        self.work("restore").await?;
        Ok(PathBuf::from(format!("/{}", self.node)))
    }

    async fn restore_finish(&self) -> Result<()> {
        self.work("restore").await
    }

    async fn probe(&self) -> Result<Health> {
        Ok(Health { data_empty: self.disk(|disk| disk.is_empty()), ..Health::default() })
    }

    async fn check_in_use(&self, _: &str, _: &CancellationToken) -> Result<String> {
        self.work("check").await?;
        if self.disk(|disk| disk.half.is_some()) {
            return Err(Error::conflict("a restore into the data was not finished"));
        }
        Ok("in use".to_owned())
    }

    async fn close(&self) -> Result<()> {
        self.disk(|disk| disk.frozen = None);
        Ok(())
    }
}
