//! The engine for anything that is a directory of files: lists it, links what is immutable, and freezes it before
//! if there is a command for that.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use palinurus_repository::{Clock, Error, Result};
use tokio_util::sync::CancellationToken;

use super::{Engine, Health, Inspection, Parts, Snapshot, SnapshotOrder};
use crate::source::{SourceListWriter, Tree};
use crate::walk::{Rules, Walk};

mod config;
mod freeze;
mod place;
mod probe;

pub use config::{Config, Paged};

use freeze::{Commands, Freezer};
use place::{Place, is_inside};
use probe::Probe;

#[derive(Debug)]
pub struct FilesEngine {
    place: Place,
    wants_links: bool,
    cross_file_systems: bool,
    rules: Arc<Rules>,
    freezer: Freezer,
    probe: Probe,
    clock: Arc<dyn Clock>,
}

pub(super) fn open(table: toml::Table, parts: Parts) -> Result<Arc<dyn Engine>> {
    Ok(Arc::new(FilesEngine::new(Config::read(table)?, parts)?))
}

impl FilesEngine {
    pub fn new(config: Config, parts: Parts) -> Result<Self> {
        if is_inside(&parts.state, &config.root) {
            let (state, root) = (parts.state.display(), config.root.display());
            return Err(Error::invalid(format!("state {state} lies in the data directory {root}"))
                .with_hint("the agent's own files cannot be part of the backup: move them elsewhere"));
        }
        // Agents may share a snapshot_dir; operations have the same name on all of them.
        let links =
            config.snapshot_dir.as_ref().map(|path| path.join(format!("{}.{}", parts.service, parts.node)));
        let environment = vec![
            ("PALINURUS_SERVICE", parts.service),
            ("PALINURUS_NODE", parts.node),
            ("PALINURUS_ROOT", config.root.to_string_lossy().into_owned()),
        ];
        let commands = (!config.freeze_command.is_empty()).then(|| Commands {
            freeze: config.freeze_command.clone(),
            thaw: config.thaw_command.clone(),
            timeout: config.freeze_timeout,
            environment: environment.clone(),
        });
        let probe = Probe { argv: config.probe_command.clone(), time: config.probe_timeout, environment };
        Ok(Self {
            wants_links: config.wants_links(),
            cross_file_systems: config.cross_file_systems,
            rules: Arc::new(config.rules()?),
            freezer: Freezer::new(commands, &parts.state),
            probe,
            place: Place::new(config.root, links),
            clock: parts.clock,
        })
    }
}

#[async_trait]
impl Engine for FilesEngine {
    fn name(&self) -> &'static str {
        "files"
    }

    fn holds(&self, path: &Path) -> bool {
        is_inside(path, &self.place.root)
    }

    async fn recover(&self, known: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync)) -> Result<()> {
        self.freezer.recover().await?;
        self.place.sweep_links(known)
    }

    async fn inspect(&self) -> Result<Inspection> {
        let place = self.place.clone();
        blocking(move || {
            let free_bytes = place.free_bytes()?;
            place.check_whole()?;
            Ok(Inspection { data_empty: place.is_empty()?, free_bytes, ..Inspection::default() })
        })
        .await
    }

    async fn freeze(&self, operation: &str, dead_man: Duration, cancel: &CancellationToken) -> Result<()> {
        self.freezer.freeze(operation, dead_man, cancel).await
    }

    async fn snapshot(&self, operation: &str, order: SnapshotOrder) -> Result<Snapshot> {
        self.freezer.check(operation).await?;
        let (place, rules, started) = (self.place.clone(), Arc::clone(&self.rules), self.clock.now());
        let (wants_links, cross_file_systems) = (self.wants_links, self.cross_file_systems);
        let links_of = operation.to_owned();
        let (totals, warnings) = blocking(move || {
            place.check_whole()?;
            place.remove_links(&links_of)?;
            let list = SourceListWriter::create(&order.list, started)?;
            let links = if wants_links { Some(place.create_links(&links_of)?) } else { None };
            let skip = place.links_identity().into_iter().collect();
            let SnapshotOrder { counters, cancel, .. } = order;
            let root = &place.root;
            Walk {
                root,
                rules: &rules,
                cross_file_systems,
                strict: false,
                links,
                links_elsewhere: false,
                skip,
                counters,
                cancel,
            }
            .run(list)
        })
        .await?;
        self.freezer.check(operation).await?;
        let taken = self.clock.now();
        Ok(Snapshot { totals, warnings, taken, taken_to: taken })
    }

    async fn thaw(&self, operation: &str) -> Result<()> {
        self.freezer.thaw(operation).await
    }

    fn tree(&self, operation: &str) -> Result<Tree> {
        let links = self.place.links_of(operation)?;
        Tree::open(&self.place.root, links.exists().then_some(links.as_path()))
    }

    async fn release(&self, operation: &str) -> Result<()> {
        let thawed = self.freezer.release(operation).await;
        let (place, operation) = (self.place.clone(), operation.to_owned());
        blocking(move || place.remove_links(&operation)).await?;
        thawed
    }

    async fn restore_prepare(&self) -> Result<PathBuf> {
        Ok(self.place.root.clone())
    }

    async fn restore_finish(&self) -> Result<()> {
        Ok(())
    }

    async fn probe(&self) -> Result<Health> {
        let place = self.place.clone();
        blocking(move || Ok(Health { data_empty: place.is_empty()?, ..Health::default() })).await
    }

    async fn check_in_use(&self, operation: &str, cancel: &CancellationToken) -> Result<String> {
        let place = self.place.clone();
        let names = blocking(move || {
            place.check_whole()?;
            place.names()
        })
        .await?;
        let seen = format!("{} holds {names} names", self.place.root.display());
        if self.probe.argv.is_empty() {
            return Ok(seen);
        }
        self.probe.run(operation, cancel).await?;
        Ok(format!("{seen}, and probe_command ended well"))
    }

    async fn close(&self) -> Result<()> {
        self.freezer.close().await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("a thread panicked").with_source(e))?
}

#[cfg(test)]
mod tests;
