//! For tests: a host whose engine does as it is told.
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use palinurus_repository::clock::ManualClock;
use palinurus_repository::entropy::SeededEntropy;
use palinurus_repository::{Error, Keyring, Result, Timestamp};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::engine::{Health, Inspection, Snapshot, SnapshotOrder};
use crate::source::{Totals, Tree};
use crate::warning::Warnings;

/// Writes down what it is asked. A freeze lasts until `gate` opens or its task is cancelled; a snapshot panics.
#[derive(Debug, Default)]
pub(crate) struct Puppet {
    pub(crate) asked: Mutex<Vec<String>>,
    pub(crate) gate: CancellationToken,
    pub(crate) filled: AtomicBool,
}

impl Puppet {
    fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl Engine for Puppet {
    fn name(&self) -> &'static str {
        "puppet"
    }

    fn holds(&self, _: &Path) -> bool {
        false
    }

    async fn recover(&self, _: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync)) -> Result<()> {
        Ok(())
    }

    async fn inspect(&self) -> Result<Inspection> {
        self.note("inspect");
        Ok(Inspection { data_empty: true, free_bytes: 7, ..Inspection::default() })
    }

    async fn freeze(&self, operation: &str, _: Duration, cancel: &CancellationToken) -> Result<()> {
        self.note(format!("freeze {operation}"));
        tokio::select! {
            biased;
            () = self.gate.cancelled() => Ok(()),
            () = cancel.cancelled() => {
                self.note("stopped");
                Err(Error::unavailable("stopped"))
            }
        }
    }

    async fn snapshot(&self, _: &str, _: SnapshotOrder) -> Result<Snapshot> {
        if !self.gate.is_cancelled() {
            panic!("a fault of ours");
        }
        Ok(Snapshot {
            totals: Totals::default(),
            warnings: Warnings::default(),
            taken: Timestamp(1),
            taken_to: Timestamp(1),
        })
    }

    async fn thaw(&self, operation: &str) -> Result<()> {
        self.note(format!("thaw {operation}"));
        Err(Error::denied("it will not thaw").with_hint("ask nicely"))
    }

    fn tree(&self, _: &str) -> Result<Tree> {
        Err(Error::not_found("no tree"))
    }

    async fn release(&self, operation: &str) -> Result<()> {
        self.note(format!("release {operation}"));
        Ok(())
    }

    async fn restore_prepare(&self) -> Result<std::path::PathBuf> {
        Err(Error::not_found("no place"))
    }

    async fn restore_finish(&self) -> Result<()> {
        Ok(())
    }

    async fn probe(&self) -> Result<Health> {
        Ok(Health { data_empty: !self.filled.load(Ordering::Relaxed), ..Health::default() })
    }

    async fn check_in_use(&self, _: &str, _: &CancellationToken) -> Result<String> {
        Ok("it is".to_owned())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

pub(crate) fn host(state: &Path, config: Config) -> (Arc<Host>, Arc<Puppet>) {
    let puppet = Arc::new(Puppet::default());
    let host = Host {
        config: Config { service: "db".into(), node: "n1".into(), ..config },
        seams: Seams {
            clock: Arc::new(ManualClock::at(Timestamp(1))),
            entropy: Arc::new(SeededEntropy::new(1)),
            ..Seams::default()
        },
        state: StateDirectory::open(state).unwrap(),
        engine: Arc::clone(&puppet) as Arc<dyn Engine>,
        keys: Keyring::default(),
        repositories: Repositories::default(),
        key_epochs: KeyEpochs::open(state).unwrap(),
        instance: "instance".into(),
        tls: None,
        leader: watch::Sender::new(None),
        writes: watch::Sender::new(None),
        unopened: watch::Sender::new(None),
        storing: watch::Sender::default(),
        pace: Arc::default(),
        looks: crate::looks::Looks::default(),
    };
    (Arc::new(host), puppet)
}
