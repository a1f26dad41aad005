//! The engine for ClickHouse: every table frozen on every node, which is hard links that the server makes of parts that
//! never change, and beside them what makes the tables again.
//!
//! ```text
//! snapshot: facts ─ FREEZE each table ─ facts again ─ list      release: the freeze goes
//! restore: into a directory of ours ─ databases ─ tables ─ ATTACH each part ─ access
//! ```
//! A freeze outlives the agent: its record lies in the agent's state before the first table is frozen.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use palinurus_repository::id::check_name;
use palinurus_repository::{Clock, Entropy, Error, Result, Timestamp};
use tokio_util::sync::CancellationToken;

use super::{
    Choosing, Engine, Health, Inspection, Parts, Portion, Proof, ProofOrder, Snapshot, SnapshotOrder,
};
use crate::source::Tree;

mod aside;
mod attach;
mod checksums;
mod choice;
mod chosen;
mod client;
mod config;
mod dated;
mod disks;
mod facts;
mod frozen;
mod keeper_map;
mod list;
mod living;
mod load;
mod objects;
mod on_cluster;
mod peers;
mod place;
mod proof;
mod replica;
mod replicated;
mod rewrite;
mod rows;
mod schema;
mod server;
mod snapshot;
mod statement;
mod stored;
#[cfg(test)]
mod tests;
mod text;

pub use config::Config;

use aside::Aside;
use client::Client;
use facts::Facts;
use frozen::Freezes;
use load::Loader;
use peers::Peers;
use server::Server;
use snapshot::{Held, Taker};
use stored::Stores;

#[derive(Debug)]
pub struct ClickHouseEngine {
    config: Config,
    client: Client,
    freezes: Freezes,
    stores: Stores,
    aside: Aside,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

pub(super) fn open(table: toml::Table, parts: Parts) -> Result<Arc<dyn Engine>> {
    let config = Config::read(table)?;
    if parts.state.starts_with(&config.root) {
        let (state, root) = (parts.state.display(), config.root.display());
        return Err(Error::invalid(format!("state {state} lies in the data directory {root}"))
            .with_hint("the agent's own files cannot be part of the backup: move them elsewhere"));
    }
    Ok(Arc::new(ClickHouseEngine {
        client: Client::new(config.clone()),
        stores: Stores::open(&config, &parts.clock, &parts.entropy)?,
        freezes: Freezes::new(&parts.state, &parts.service, &parts.node),
        aside: Aside::new(&config.root),
        clock: parts.clock,
        entropy: parts.entropy,
        config,
    }))
}

impl ClickHouseEngine {
    /// Where it may have frozen something. A server that does not answer has one disk that is known.
    async fn disks(&self) -> Vec<PathBuf> {
        let asked = async { Server::look(&self.client, &self.config).await?.disks().await };
        match asked.await {
            Ok(disks) => disks::local(&disks).cloned().collect(),
            Err(fault) => {
                tracing::debug!(error = Error::from(fault).chain(), "only the first disk is looked at");
                vec![self.config.root.clone()]
            }
        }
    }

    /// Whether a restore may fill it. A server that does not answer is asked by its directory.
    async fn is_empty(&self) -> Result<bool> {
        if self.aside.is_loading() {
            return Ok(true);
        }
        match Server::count_tables(&self.client).await {
            Ok(tables) => Ok(tables == 0),
            Err(fault) => {
                tracing::debug!(error = Error::from(fault).chain(), "looking at the directory instead");
                let root = self.config.root.clone();
                blocking(move || Ok(!holds_tables(&root))).await
            }
        }
    }
}

#[async_trait]
impl Engine for ClickHouseEngine {
    fn name(&self) -> &'static str {
        "clickhouse"
    }

    fn holds(&self, path: &Path) -> bool {
        match (path.canonicalize(), self.config.root.canonicalize()) {
            (Ok(path), Ok(root)) => path.starts_with(root),
            _ => path.starts_with(&self.config.root),
        }
    }

    async fn recover(&self, known: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync)) -> Result<()> {
        self.freezes.recover(&self.client, &self.disks().await, known).await
    }

    async fn inspect(&self) -> Result<Inspection> {
        if self.aside.is_loading() {
            return Err(Error::conflict(format!(
                "{} holds a restore that has not ended",
                self.aside.path().display()
            ))
            .with_hint("finish the restore first"));
        }
        let server = Server::look(&self.client, &self.config).await?;
        let facts = server.facts().await?;
        let root = self.config.root.clone();
        let free_bytes = blocking(move || {
            let found = rustix::fs::statvfs(&root).map_err(|e| {
                Error::io(format!("look at {}", root.display()), e.into())
                    .with_hint("engine.root must name a directory that the agent may read")
            })?;
            Ok(found.f_bavail.saturating_mul(found.f_frsize))
        })
        .await?;
        let shard = facts.shard();
        Ok(Inspection { data_empty: facts.tables.is_empty(), free_bytes, shard, ..Inspection::default() })
    }

    async fn freeze(&self, operation: &str, _: Duration, _: &CancellationToken) -> Result<()> {
        check_name("operation", operation)
    }

    async fn snapshot(&self, operation: &str, order: SnapshotOrder) -> Result<Snapshot> {
        let cancel = order.cancel.clone();
        let taker = Taker {
            client: &self.client,
            config: &self.config,
            freezes: &self.freezes,
            clock: &*self.clock,
            operation,
            cancel: &cancel,
        };
        let Held { mut facts, record, taken, mut warnings } = taker.take().await?;
        let taken_to = Timestamp(facts.frozen_to_ms);
        let (root, tree) = (self.config.root.clone(), self.freezes.tree_of(operation)?);
        let stores = self.stores.clone();
        let (of, into) = ((record.clone(), stores.clone()), tree.clone());
        let (mut facts, mut warnings, uncounted) = blocking(move || {
            let uncounted = list::gather(&root, &into, (&of.0, &of.1), &mut facts, &mut warnings)?;
            Ok((facts, warnings, uncounted))
        })
        .await?;
        dated::ask(&self.client, &mut facts, uncounted, &mut warnings).await?;
        let (totals, warnings) = blocking(move || {
            list::warn(&facts, &mut warnings);
            list::write(&tree, &facts)?;
            list::list(&tree, (&record, &stores), &order, taken, warnings)
        })
        .await?;
        Ok(Snapshot { totals, warnings, taken, taken_to })
    }

    async fn changed_since(&self, operation: &str) -> Result<Option<String>> {
        let path = self.freezes.tree_of(operation)?.join(facts::NAME);
        let then = blocking(move || Facts::read(&path)).await?;
        let now = Server::look(&self.client, &self.config).await?.facts().await?;
        if let Err(what) = then.agrees(&now) {
            return Ok(Some(format!("the schema changed: {what}")));
        }
        if let Some(behind) = replicated::behind(&self.client, &now).await? {
            return Ok(Some(behind));
        }
        let behind = on_cluster::behind(&self.client, &self.config).await?;
        Ok(behind.map(|statement| {
            format!("other nodes have run the ON CLUSTER statement {statement} and this one has not")
        }))
    }

    async fn thaw(&self, operation: &str) -> Result<()> {
        check_name("operation", operation)
    }

    fn tree(&self, operation: &str) -> Result<Tree> {
        let record = self.freezes.record(operation)?;
        let tree = Tree::open(&self.freezes.tree_of(operation)?, None)?;
        let tree = record
            .disks
            .iter()
            .filter(|(_, disk)| record.shadow(disk).exists())
            .try_fold(tree, |tree, (name, disk)| tree.join(&list::disk_path(name), &record.shadow(disk)))?;
        if record.stores.is_empty() {
            return Ok(tree);
        }
        let reader = self.stores.reader(&record)?;
        Ok(tree.with_remote(reader.clone()).judged_by(reader))
    }

    async fn release(&self, operation: &str) -> Result<()> {
        self.freezes.release(operation, &self.client).await
    }

    async fn restore_prepare(&self) -> Result<PathBuf> {
        if !self.aside.is_loading() && Server::count_tables(&self.client).await? > 0 {
            return Err(Error::conflict("the server holds tables")
                .with_hint("a restore needs a server without any: drop their databases, or start it on an empty directory"));
        }
        // The server's disks are the right ones before anything is written to them.
        Server::look(&self.client, &self.config).await?.disks().await?;
        Ok(self.aside.backup())
    }

    /// What an attempt before left there is ours, and nothing reads it.
    fn restores_aside(&self) -> bool {
        true
    }

    async fn know_peers(&self, target: &Path, places: Vec<PathBuf>) -> Result<()> {
        let aside = Aside::above(target).ok_or_else(|| Error::internal("a restore without a place"))?;
        blocking(move || Peers::keep(&aside, &places)).await
    }

    async fn left_by_peers(&self, place: &Path) -> Result<Option<Vec<String>>> {
        living::left(&self.client, place).await.map(Some)
    }

    async fn restore_finish(&self) -> Result<()> {
        Loader { client: &self.client, config: &self.config, aside: &self.aside }.load().await
    }

    fn telling(&self) -> &'static [&'static str] {
        &[facts::NAME]
    }

    async fn choose(&self, place: &Path, choosing: Choosing) -> Result<Portion> {
        chosen::choose(&self.client, &self.config, place, choosing).await
    }

    async fn restore_chosen(&self, target: &Path) -> Result<()> {
        chosen::load(&self.client, &self.config, target).await
    }

    async fn probe(&self) -> Result<Health> {
        Ok(Health { data_empty: self.is_empty().await?, ..Health::default() })
    }

    async fn check_in_use(&self, _: &str, _: &CancellationToken) -> Result<String> {
        let version = self.client.value("SELECT version()").await?;
        let tables = Server::count_tables(&self.client).await?;
        let rows = self.client.number("SELECT toUInt64(sum(rows)) FROM system.parts WHERE active").await?;
        Ok(format!("ClickHouse {version} answers, and has {tables} tables with {rows} rows in parts"))
    }

    async fn prove(&self, order: ProofOrder) -> Result<Option<Proof>> {
        proof::prove(&self.config, &self.entropy, order).await.map(Some)
    }

    async fn end_proof(&self, place: &Path) -> Result<()> {
        proof::end(&self.config, place).await
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// Tables of a server that does not run. Blocks.
fn holds_tables(root: &Path) -> bool {
    let databases = root.join("data").read_dir().into_iter().flatten().flatten();
    let ordinary = databases
        .filter(|database| database.file_name() != "system")
        .any(|database| database.path().read_dir().is_ok_and(|mut tables| tables.next().is_some()));
    let metadata = root.join("metadata").read_dir().into_iter().flatten().flatten();
    let statements = metadata.filter(|name| name.file_name() != "system" && name.file_name() != "default");
    ordinary
        || statements
            .map(|name| name.path())
            .filter(|path| path.is_dir())
            .any(|database| database.read_dir().is_ok_and(|mut tables| tables.next().is_some()))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("a thread panicked").with_source(e))?
}
