//! The engine for PostgreSQL 13 to 18: an online backup of the primary, with the WAL that makes it whole.
//!
//! ```text
//! snapshot: slot ─ pg_backup_start ─ WAL begins to flow ─ list     upload: read all ─ finish
//! finish: pg_control ─ pg_backup_stop ─ the rest of the WAL ─ list what is added
//! ```
//! One session of the server's holds the backup open from the snapshot to the finish. It lives in this process only:
//! an agent that dies leaves nothing open, and a backup that loses it fails.
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use palinurus_repository::id::check_name;
use palinurus_repository::{Clock, Error, ErrorKind, Result};
use tokio_util::sync::CancellationToken;

use super::{
    Engine, FinishOrder, Health, Inspection, Logs, Parts, Proof, ProofOrder, Share, Snapshot, SnapshotOrder,
};
use crate::restore::{self, target};
use crate::source::Tree;

mod added;
mod broken;
mod client;
mod config;
mod control;
mod copier;
mod fork;
mod held;
mod identity;
mod judge;
mod list;
mod logs;
mod lsn;
mod names;
mod page;
mod proof;
mod pushed;
mod pushed_stream;
mod receiver;
mod records;
mod recovery;
mod restored;
mod server;
mod session;
mod standby;
mod start;
mod stream;
#[cfg(test)]
mod tests;
mod timelines;

pub use config::Config;

use config::{Access, From};
use held::Held;
use identity::Identity;
use judge::Over;
use logs::{Wal, slot_name};
use pushed::Pushes;

/// For a session to be closed; the server ends it by itself when the connection is gone.
const CLOSE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct PostgresEngine {
    access: Access,
    identity: Arc<Identity>,
    wal: Arc<Wal>,
    clock: Arc<dyn Clock>,
    /// The backup that each operation holds open.
    held: Mutex<HashMap<String, Held>>,
}

pub(super) fn open(table: toml::Table, parts: Parts) -> Result<Arc<dyn Engine>> {
    let config = Config::read(table)?;
    let root = &config.root;
    if parts.state.starts_with(root) {
        let (state, root) = (parts.state.display(), root.display());
        return Err(Error::invalid(format!("state {state} lies in the data directory {root}"))
            .with_hint("the agent's own files cannot be part of the backup: move them elsewhere"));
    }
    let slot = slot_name(&parts.service, &parts.node);
    let identity = Arc::new(Identity::new(&parts.state));
    let access = Access { config, entropy: parts.entropy };
    let pushes = Arc::new(Pushes::new(&access.config.root));
    let wal = Wal { access: access.clone(), identity: Arc::clone(&identity), slot, pushes };
    Ok(Arc::new(PostgresEngine {
        wal: Arc::new(wal),
        identity,
        access,
        clock: parts.clock,
        held: Mutex::default(),
    }))
}

impl PostgresEngine {
    fn held(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn root(&self) -> PathBuf {
        self.access.config.root.clone()
    }

    async fn let_go(&self, operation: &str) {
        let held = self.held().remove(operation);
        if let Some(held) = held
            && tokio::time::timeout(CLOSE, held.close()).await.is_err()
        {
            tracing::warn!(operation, "PostgreSQL has not closed the backup's session yet");
        }
    }
}

#[async_trait]
impl Engine for PostgresEngine {
    fn name(&self) -> &'static str {
        "postgresql"
    }

    fn holds(&self, path: &Path) -> bool {
        let inside = |root: &Path| match (path.canonicalize(), root.canonicalize()) {
            (Ok(path), Ok(root)) => path.starts_with(root),
            _ => path.starts_with(root),
        };
        inside(&self.access.config.root)
    }

    /// What an agent before this one held open went with it, and its files are in the operation's spool.
    async fn recover(&self, _: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync)) -> Result<()> {
        Ok(())
    }

    async fn inspect(&self) -> Result<Inspection> {
        let root = self.root();
        let mut inspection = blocking(move || look_at(&root)).await?;
        if inspection.data_empty {
            inspection.share = Share::Nothing("its data directory is empty".into());
            return Ok(inspection);
        }
        let (server, mut sql) = match server::look(&self.access).await {
            // A standby that is down, or an old primary: another may have the data. If none has, this is said.
            Err(e) if e.kind() == ErrorKind::Unavailable => {
                inspection.share =
                    Share::Nothing(format!("{} ({})", e.chain(), e.hint().unwrap_or_default()));
                return Ok(inspection);
            }
            looked => looked?,
        };
        let from = self.access.config.from;
        let not = match (server.in_recovery, from) {
            (true, From::Primary) => Some("its server is a standby".to_owned()),
            (true, _) => server::behind(&mut sql).await?,
            (false, From::Standby) => {
                Some("its server is the primary, and engine.from = \"standby\"".to_owned())
            }
            (false, _) => None,
        };
        sql.end().await;
        if let Some(why) = not {
            inspection.share = Share::Nothing(why);
            return Ok(inspection);
        }
        let ready = server::ready(&self.access).await?;
        self.identity.check(ready.system_identifier)?;
        inspection.share = if ready.server.in_recovery { Share::Copy } else { Share::Whole };
        ready.end().await;
        Ok(inspection)
    }

    async fn freeze(&self, operation: &str, _: Duration, _: &CancellationToken) -> Result<()> {
        check_name("operation", operation)
    }

    async fn snapshot(&self, operation: &str, order: SnapshotOrder) -> Result<Snapshot> {
        check_name("operation", operation)?;
        self.let_go(operation).await;
        let cancel = order.cancel.clone();
        let (held, pages, known) = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::unavailable("the snapshot was cancelled")),
            held = Held::begin(&self.access, &self.identity, &self.wal.pushes, operation, &order.added) => held?,
        };
        let taken = self.clock.now();
        let root = self.root();
        let listed = blocking(move || list::list(&root, &order, taken, pages, &known)).await?;
        self.held().insert(operation.to_owned(), held.with(listed.tablespaces));
        Ok(Snapshot { totals: listed.totals, warnings: listed.warnings, taken, taken_to: taken })
    }

    async fn thaw(&self, operation: &str) -> Result<()> {
        check_name("operation", operation)
    }

    fn tree(&self, operation: &str) -> Result<Tree> {
        check_name("operation", operation)?;
        match self.held().get(operation) {
            Some(held) => held.tree(&self.access.config.root),
            None => Ok(Tree::closed().judged_by(Arc::new(Over))),
        }
    }

    async fn finish(&self, operation: &str, order: FinishOrder) -> Result<bool> {
        // Taken out: whatever becomes of it, nothing more may be read for it.
        let held = self.held().remove(operation).ok_or_else(Over::error)?;
        let cancel = order.cancel.clone();
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::unavailable("cancelled")),
            finished = held.finish(&self.access, order, self.clock.now()) => finished.map(|()| true),
        }
    }

    async fn release(&self, operation: &str) -> Result<()> {
        check_name("operation", operation)?;
        self.let_go(operation).await;
        Ok(())
    }

    async fn restore_prepare(&self) -> Result<PathBuf> {
        let (root, identity) = (self.root(), Arc::clone(&self.identity));
        blocking(move || {
            restored::check_unused(&root)?;
            identity.check_directory(&root)?;
            Ok(root)
        })
        .await
    }

    fn telling(&self) -> &'static [&'static str] {
        &["PG_VERSION"]
    }

    async fn check_fits(&self, place: &Path) -> Result<()> {
        let (config, place) = (self.access.config.clone(), place.to_owned());
        blocking(move || proof::check_fits(&config, &place)).await
    }

    async fn restore_settle(&self) -> Result<()> {
        let root = self.root();
        blocking(move || recovery::forget(&root)).await
    }

    async fn restore_finish(&self) -> Result<()> {
        let (root, elsewhere) = (self.root(), self.access.config.tablespaces.clone());
        blocking(move || restored::place_tablespaces(&root, &elsewhere)).await
    }

    async fn probe(&self) -> Result<Health> {
        let root = self.root();
        blocking(move || {
            Ok(Health {
                data_empty: is_empty(&root)?,
                primary: start::is_primary(&root),
                ..Health::default()
            })
        })
        .await
    }

    fn left_to_do(&self) -> String {
        start::left_to_do(&self.access.config)
    }

    async fn bring_into_use(&self, follows: bool, cancel: &CancellationToken) -> Result<()> {
        start::bring_into_use(&self.access, follows, cancel).await
    }

    async fn check_in_use(&self, _: &str, _: &CancellationToken) -> Result<String> {
        let root = self.root();
        let control = blocking(move || {
            look_at(&root)?;
            control::Control::read(&root)
        })
        .await?;
        let cluster =
            format!("cluster {} lies in {}", control.system_identifier, self.access.config.root.display());
        Ok(match server::look(&self.access).await {
            Ok((server, sql)) => {
                sql.end().await;
                format!(
                    "{cluster}, and PostgreSQL {} answers at {}",
                    server.major,
                    self.access.config.place()
                )
            }
            Err(_) => format!("{cluster}; its server is not started yet: that is the operator's"),
        })
    }

    async fn prove(&self, order: ProofOrder) -> Result<Option<Proof>> {
        proof::prove(&self.access, order).await.map(Some)
    }

    async fn end_proof(&self, place: &Path) -> Result<()> {
        proof::end(place).await
    }

    fn logs(&self) -> Option<Arc<dyn Logs>> {
        Some(Arc::clone(&self.wal) as Arc<dyn Logs>)
    }

    async fn close(&self) -> Result<()> {
        let operations: Vec<String> = self.held().keys().cloned().collect();
        for operation in operations {
            self.let_go(&operation).await;
        }
        Ok(())
    }
}

fn is_empty(root: &Path) -> Result<bool> {
    target::is_empty(root).map_err(|e| Error::io(format!("list data directory {}", root.display()), e))
}

/// What can be seen without a server. Blocks.
fn look_at(root: &Path) -> Result<Inspection> {
    let found = rustix::fs::statvfs(root).map_err(|e| {
        Error::io(format!("look at data directory {}", root.display()), e.into())
            .with_hint("engine.root must name a directory that the agent may read")
    })?;
    if root.join(restore::UNFINISHED).symlink_metadata().is_ok() {
        let what = format!("the data directory {} holds a restore that has not ended", root.display());
        return Err(Error::conflict(what).with_hint("finish the restore first"));
    }
    let free_bytes = found.f_bavail.saturating_mul(found.f_frsize);
    Ok(Inspection { data_empty: is_empty(root)?, free_bytes, ..Inspection::default() })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("a thread panicked").with_source(e))?
}
