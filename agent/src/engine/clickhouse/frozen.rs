//! What a backup holds in the server: a freeze of each table, which is a tree of hard links below each disk's `shadow`.
use std::path::{Path, PathBuf};
use std::time::Duration;

use palinurus_repository::id::check_name;
use palinurus_repository::{Error, Result};
use serde::{Deserialize, Serialize};

use super::blocking;
use super::client::{Answer, Client};
use super::facts::{Disk, Facts};
use super::{disks, objects};
use crate::durable;

/// Of ours in `shadow`, which others use too.
const PREFIX: &str = "palinurus_";
/// Between two looks for a freeze that the server still makes.
const AGAIN: Duration = Duration::from_millis(50);

/// Who may freeze here: nodes may share a machine, and operations have the same name on all of them.
#[derive(Clone, Debug)]
pub(super) struct Freezes {
    /// A directory for each operation, written before anything is frozen.
    pub(super) directory: PathBuf,
    prefix: String,
}

/// In the operation's directory, until all of it is undone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) name: String,
    /// The disks' paths.
    pub(super) disks: Vec<(String, PathBuf)>,
    /// The same of those of objects.
    #[serde(default)]
    pub(super) objects: Vec<(String, PathBuf)>,
    /// Of those whose objects lie in a store.
    #[serde(default)]
    pub(super) stores: Vec<Stored>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// As the settings name it.
    pub(super) store: String,
}

const RECORD: &str = "freeze.json";
const TREE: &str = "tree";

impl Freezes {
    pub(super) fn new(state: &Path, service: &str, node: &str) -> Self {
        let of = blake3::hash(format!("{service}/{node}").as_bytes());
        Self {
            directory: state.join("clickhouse"),
            prefix: format!("{PREFIX}{}_", &of.to_hex().as_str()[..12]),
        }
    }

    fn of(&self, operation: &str) -> Result<PathBuf> {
        check_name("operation", operation)?;
        Ok(self.directory.join(operation))
    }

    /// Where what no disk of the server has is written: listed beside the parts.
    pub(super) fn tree_of(&self, operation: &str) -> Result<PathBuf> {
        Ok(self.of(operation)?.join(TREE))
    }

    pub(super) fn record(&self, operation: &str) -> Result<Record> {
        let path = self.of(operation)?.join(RECORD);
        let text = std::fs::read(&path).map_err(|e| {
            Error::io(format!("read {}", path.display()), e).with_hint("start the backup again")
        })?;
        serde_json::from_slice(&text)
            .map_err(|e| Error::corrupt(format!("{} does not parse", path.display())).with_source(e))
    }

    /// Writes down what is going to be frozen. Whoever finds it can undo it.
    pub(super) async fn begin(&self, operation: &str, facts: &Facts, client: &Client) -> Result<Record> {
        let directory = self.of(operation)?;
        // Letters and digits alone: others are escaped in the directory's name.
        let name = format!("{}{}", self.prefix, &blake3::hash(operation.as_bytes()).to_hex().as_str()[..16]);
        // Nothing else of this node is frozen: one backup of a service runs at a time.
        let paths: Vec<PathBuf> = disks::local(&facts.disks).cloned().collect();
        self.sweep(&paths, Vec::new()).await?;
        for other in self.operations()? {
            if other != operation {
                self.release(&other, client).await?;
            }
        }
        let disks = |kind: fn(&Disk) -> bool| {
            // Of several with the same directory it is the first's: see `disks::place`.
            let is_first = |disk: &&Disk| {
                facts
                    .disks
                    .iter()
                    .find(|other| other.path == disk.path)
                    .is_some_and(|first| first.name == disk.name)
            };
            facts.disks.iter().filter(move |disk| kind(disk)).filter(is_first)
        };
        let of = |disk: &Disk| (disk.name.file_name(), disk.path.clone());
        let stored = |disk: &Disk| Stored {
            name: disk.name.file_name(),
            path: disk.path.clone(),
            store: disk.store.clone(),
        };
        let record = Record {
            name,
            disks: disks(|disk| disk.local).map(of).collect(),
            objects: disks(|disk| disk.objects && disk.store.is_empty()).map(of).collect(),
            stores: disks(|disk| disk.objects && !disk.store.is_empty()).map(stored).collect(),
        };
        // Only the server can let go of objects: one that has lost its record too.
        let paths: Vec<PathBuf> = record.of_objects().cloned().collect();
        let prefix = self.prefix.clone();
        let lost = blocking(move || Ok(ours(&paths, &prefix)));
        for name in lost.await?.iter().filter_map(|path| path.file_name()?.to_str()) {
            thaw(&Record { name: name.to_owned(), ..record.clone() }, client).await?;
        }
        if facts.tables.iter().flat_map(|table| &table.places).any(|place| facts.disks[place.disk].objects) {
            unfreeze(&record, client).await.map_err(|fault| {
                Error::from(fault).with_note("tables may lie on a disk of objects").with_hint(
                    "set enable_system_unfreeze in the server's configuration: what is frozen there only the server can let go of",
                )
            })?;
        }
        let text = serde_json::to_vec(&record).map_err(|e| Error::internal("a freeze").with_source(e))?;
        blocking(move || {
            durable::create_dir(&directory)?;
            durable::write(&directory.join(RECORD), &text)
        })
        .await?;
        Ok(record)
    }

    /// Undoes what was frozen for the operation, and forgets it. Nothing there is no error.
    pub(super) async fn release(&self, operation: &str, client: &Client) -> Result<()> {
        let directory = self.of(operation)?;
        if directory.join(RECORD).exists() {
            let record = self.record(operation)?;
            thaw(&record, client).await?;
        }
        blocking(move || durable::remove_dir(&directory)).await
    }

    /// Removes what operations left that nobody knows, and freezes that have lost their record.
    pub(super) async fn recover(
        &self,
        client: &Client,
        disks: &[PathBuf],
        known: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let mut held = Vec::new();
        for operation in self.operations()? {
            if known(&operation) {
                held.extend(self.record(&operation).ok().map(|record| record.name));
                continue;
            }
            tracing::info!(operation, "undoing the freeze of an operation that is over");
            if let Err(error) = self.release(&operation, client).await {
                tracing::warn!(operation, error = error.chain(), "its freeze stays until the next backup");
                held.extend(self.record(&operation).ok().map(|record| record.name));
            }
        }
        self.sweep(disks, held).await
    }

    /// Those that have a record, or had.
    fn operations(&self) -> Result<Vec<String>> {
        let names = if self.directory.exists() { durable::names(&self.directory)? } else { Vec::new() };
        let names = names.into_iter().filter_map(|name| name.into_string().ok());
        Ok(names.filter(|name| check_name("operation", name).is_ok()).collect())
    }

    /// A statement whose answer was lost may have frozen something after its freeze was undone.
    async fn sweep(&self, disks: &[PathBuf], held: Vec<String>) -> Result<()> {
        let (disks, prefix) = (disks.to_vec(), self.prefix.clone());
        blocking(move || {
            for found in ours(&disks, &prefix) {
                if !held.iter().any(|name| found.ends_with(name)) {
                    tracing::info!(path = %found.display(), "removing a freeze that no operation holds");
                    durable::remove_dir(&found)?;
                }
            }
            Ok(())
        })
        .await
    }
}

/// Freezes of this node's, on these disks. Blocks.
fn ours(disks: &[PathBuf], prefix: &str) -> Vec<PathBuf> {
    let shadows = disks.iter().filter_map(|disk| disk.join("shadow").read_dir().ok()).flatten().flatten();
    shadows
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix)))
        .map(|entry| entry.path())
        .collect()
}

impl Record {
    /// Where a disk has what is frozen.
    pub(super) fn shadow(&self, disk: &Path) -> PathBuf {
        disk.join("shadow").join(&self.name)
    }

    /// The disks where only the server can let go of what is frozen.
    fn of_objects(&self) -> impl Iterator<Item = &PathBuf> {
        self.objects.iter().map(|(_, path)| path).chain(self.stores.iter().map(|stored| &stored.path))
    }
}

/// The server's own way first, where it has one and is let. On a local disk that is no more than removing the links,
/// which is done in any case: the server may be down, and tables may have been dropped since.
async fn thaw(record: &Record, client: &Client) -> Result<()> {
    tokio::time::timeout(client.patience(), settled(record, client)).await.map_err(|_| {
        Error::unavailable(format!("ClickHouse still makes the freeze {}", record.name))
            .with_hint("see system.processes; the freeze is removed when the agent is asked again")
    })?;
    let unfrozen = unfreeze(record, client).await;
    let links: Vec<PathBuf> = record.disks.iter().map(|(_, disk)| record.shadow(disk)).collect();
    let named: Vec<PathBuf> = record.of_objects().map(|disk| record.shadow(disk)).collect();
    let holds = blocking(move || {
        links.iter().try_for_each(|shadow| durable::remove_dir(shadow))?;
        let (held, empty): (Vec<_>, Vec<_>) = named.iter().partition(|shadow| objects::holds_any(shadow));
        empty.into_iter().try_for_each(|shadow| durable::remove_dir(shadow))?;
        Ok(!held.is_empty())
    })
    .await?;
    match unfrozen {
        Err(fault) if holds => Err(Error::from(fault)
            .with_note(format!("objects of freeze {}", record.name))
            .with_hint("the server must answer and have enable_system_unfreeze: only it can let go of them")),
        Err(fault) => {
            let error = Error::from(fault).chain();
            tracing::debug!(error, "the server does not unfreeze: the links are removed");
            Ok(())
        }
        Ok(()) if holds => Err(Error::unavailable(format!("freeze {} still names objects", record.name))
            .with_hint("see the server's log")),
        Ok(()) => Ok(()),
    }
}

async fn unfreeze(record: &Record, client: &Client) -> Answer<()> {
    client.run(format!("SYSTEM UNFREEZE WITH NAME '{}'", record.name)).await
}

/// Who asked for a freeze may be gone, by a kill, and the server makes it all the same: its links would come back while they are
/// removed. A server that does not answer makes none.
async fn settled(record: &Record, client: &Client) {
    let sql = format!(
        "SELECT count() FROM system.processes WHERE query LIKE 'ALTER TABLE % FREEZE WITH NAME ''{}''%'",
        record.name
    );
    while client.number(&sql).await.is_ok_and(|running| running > 0) {
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::clickhouse::config::Config;

    #[tokio::test]
    async fn freezes_that_nobody_holds_go_from_every_disk() {
        let dir = tempfile::tempdir().unwrap();
        let freezes = Freezes::new(&dir.path().join("state"), "s", "n1");
        let ours = format!("{}0f", freezes.prefix);
        let other = Freezes::new(dir.path(), "s", "n2").prefix;
        let disks = ["d1", "d2", "away"].map(|name| dir.path().join(name));
        let shadow = |disk: &Path, name: &str| disk.join("shadow").join(name);
        for name in [ours.as_str(), "theirs", &other] {
            disks[..2].iter().for_each(|disk| std::fs::create_dir_all(shadow(disk, name)).unwrap());
        }
        // Nobody answers there.
        let client = Client::new(Config::read("root = '/d'\nport = 1".parse().unwrap()).unwrap());
        freezes.recover(&client, &disks, |_| true).await.unwrap();
        for disk in &disks[..2] {
            assert!(!shadow(disk, &ours).exists());
            assert!(shadow(disk, "theirs").exists() && shadow(disk, &other).exists());
        }
    }
}
