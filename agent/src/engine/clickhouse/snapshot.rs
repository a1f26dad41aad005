//! Takes hold of what a server has at a moment: its facts, every table frozen one after the other, and its facts again.
//! If the schema changed meanwhile it is done once more: a backup has the tables that its facts name, and no others.
use std::time::Duration;

use palinurus_repository::{Clock, Error, ErrorKind, Result, Timestamp};
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::config::Config;
use super::facts::{Facts, Kept};
use super::frozen::{Freezes, Record};
use super::server::Server;
use super::{on_cluster, replica, replicated, rows};
use crate::warning::Warnings;

/// How often a schema may change under a freeze.
const TRIES: u32 = 5;
/// Between two of them, and longer each time.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Held {
    pub(super) facts: Facts,
    pub(super) record: Record,
    /// When the first table was frozen: what the backup stands for.
    pub(super) taken: Timestamp,
    pub(super) warnings: Warnings,
}

#[derive(Debug)]
pub(super) struct Taker<'a> {
    pub(super) client: &'a Client,
    pub(super) config: &'a Config,
    pub(super) freezes: &'a Freezes,
    pub(super) clock: &'a dyn Clock,
    pub(super) operation: &'a str,
    pub(super) cancel: &'a CancellationToken,
}

impl Taker<'_> {
    pub(super) async fn take(&self) -> Result<Held> {
        let mut why = String::new();
        for attempt in 0..TRIES {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(Error::unavailable("the snapshot was cancelled")),
                () = tokio::time::sleep(PAUSE * attempt) => {}
            }
            self.freezes.release(self.operation, self.client).await?;
            match self.attempt().await {
                Ok(Ok(held)) => return Ok(held),
                Ok(Err(changed)) => why = changed,
                // A list of tables may fail at one that goes away while it is made.
                Err(gone) if gone.kind() == ErrorKind::NotFound => why = gone.chain(),
                Err(error) => return Err(error),
            }
            tracing::info!(operation = self.operation, why, "the schema changed while tables were frozen");
        }
        self.freezes.release(self.operation, self.client).await?;
        Err(Error::conflict(format!("the schema changed while it was backed up, {TRIES} times: {why}"))
            .with_hint("start the backup again when nobody makes, changes or drops tables"))
    }

    /// What changed, if something did.
    async fn attempt(&self) -> Result<Result<Held, String>> {
        on_cluster::settle(self.client, self.config).await?;
        let server = Server::look(self.client, self.config).await?;
        let mut facts = server.facts().await?;
        let limit = self.config.replica_timeout;
        let (waited, unknown) = replicated::catch_up(self.client, &facts, limit, self.cancel).await?;
        if waited {
            facts = server.facts().await?;
        }
        let record = self.freezes.begin(self.operation, &facts, self.client).await?;
        for table in facts.tables.iter().filter(|table| table.is_replicated()) {
            replica::catch_up(self.client, table, limit).await?;
        }
        let tables = facts.tables.iter_mut().filter_map(|table| table.replica.as_mut());
        let databases = facts.databases.iter_mut().filter_map(|database| database.replica.as_mut());
        for replica in tables.chain(databases) {
            replica.made = replica::made(self.client, &replica.path).await?;
        }
        let taken = self.clock.now();
        for table in facts.tables.iter().filter(|table| table.kept == Kept::Parts) {
            if self.cancel.is_cancelled() {
                return Err(Error::unavailable("the snapshot was cancelled"));
            }
            let quoted = table.quoted();
            let sql =
                [b"ALTER TABLE ", quoted.as_slice(), b" FREEZE WITH NAME '", record.name.as_bytes(), b"'"];
            match self.client.run(sql.concat()).await {
                Ok(()) => {}
                Err(fault) if fault.is_gone() => {
                    return Ok(Err(format!("table {} was dropped", table.label())));
                }
                Err(fault) => {
                    return Err(Error::from(fault).with_note(format!("freeze of {}", table.label())));
                }
            }
        }
        (facts.frozen_from_ms, facts.frozen_to_ms) = (taken.0, self.clock.now().0);
        let tree = self.freezes.tree_of(self.operation)?;
        let mut warnings = rows::read(self.client, &tree, &mut facts, self.config.rows_mib).await?;
        for database in unknown {
            let told = "where its log lies in ZooKeeper is not known: this node may be behind the others";
            warnings.push(b"", format!("database {database}: {told}"));
        }
        let after = server.facts().await?;
        // What was pending at either time may be undone in some part.
        for new in &after.mutations {
            if !facts.mutations.iter().any(|old| (&old.table, &old.id) == (&new.table, &new.id)) {
                facts.mutations.push(new.clone());
            }
        }
        Ok(facts.agrees(&after).map(|()| Held { facts, record, taken, warnings }))
    }
}
