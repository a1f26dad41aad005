//! Databases of engine Replicated. What makes, changes and drops their tables is a log in ZooKeeper, and each node runs that by
//! itself:
//!
//! ```text
//! <path>/max_log_ptr                          the last entry of the log
//! <path>/replicas/<shard>|<replica>/log_ptr   the last one that this node has run
//! ```
//! So a node may be behind the others when it is backed up. And in a restore a table that one node makes is made on all of
//! them: a node finds tables that another one's restore has made, and nothing may be done twice, or where all would repeat it.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use palinurus_repository::{Error, Result};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{Client, Fault};
use super::facts::{Database, Facts, Kept, Replica, Table};
use super::load::Loader;
use super::replica::{self, TAKEN};
use super::rewrite::Tokens;
use super::rows;
use super::server::{Server, string};
use super::text::Text;

pub(super) const ENGINE: &str = "Replicated";
const POLL: Duration = Duration::from_millis(300);
/// Macros may stand for macros: the server follows them no further.
const MACROS_DEEP: usize = 10;
/// For statements that make tables there, as far as the server has them: tables keep their UUIDs and their paths in ZooKeeper,
/// and a node that is down is not waited for.
const SETTINGS: [(&str, &str); 3] = [
    ("database_replicated_allow_explicit_uuid", "1"),
    ("database_replicated_allow_replicated_engine_arguments", "1"),
    ("distributed_ddl_task_timeout", "0"),
];

/// Before that a freeze was a statement of the log too: of all nodes, and nobody would remove it there.
const FREEZES_ALONE: [u64; 2] = [23, 8];

/// A table that is there: its UUID, where it is known.
pub(super) type There = HashMap<(Text, Text), String>;

impl Database {
    /// And is to be made as one: a drill makes none.
    pub(super) fn is_replicated(&self) -> bool {
        self.engine == ENGINE && !self.statement.is_empty()
    }

    /// Where it meets its replicas, on a server of these macros.
    fn replica(&self, macros: &BTreeMap<String, String>) -> Option<Replica> {
        let tokens = Tokens::of(&self.statement.0);
        let [path, shard, name] = tokens.engine_arguments(ENGINE)?.try_into().ok()?;
        let mut known = macros.clone();
        known.insert("database".into(), string(&self.name));
        known.extend(tokens.uuid().map(|uuid| ("uuid".to_owned(), uuid)));
        let [path, shard, name] = [path, shard, name].map(|text| expanded(string(&text), &known));
        let path = format!("/{}", path.trim_matches('/'));
        Some(Replica { path, name: format!("{shard}|{name}"), made: String::new() })
    }
}

fn expanded(mut text: String, macros: &BTreeMap<String, String>) -> String {
    for _ in 0..MACROS_DEEP {
        let once =
            macros.iter().fold(text.clone(), |text, (key, value)| text.replace(&format!("{{{key}}}"), value));
        if once == text {
            break;
        }
        text = once;
    }
    text
}

/// Says where each of them meets its replicas.
pub(super) fn locate(databases: &mut [Database], macros: &BTreeMap<String, String>) {
    for database in databases.iter_mut().filter(|database| database.is_replicated()) {
        database.replica = database.replica(macros);
    }
}

impl Facts {
    pub(super) fn replicated(&self) -> impl Iterator<Item = &Database> {
        self.databases.iter().filter(|database| database.is_replicated())
    }

    /// Whether its database makes it on every node.
    pub(super) fn is_in_replicated(&self, table: &Table) -> bool {
        self.replicated().any(|database| database.name == table.database)
    }
}

/// Whether this server freezes their tables by itself.
fn check_version(facts: &Facts) -> Result<()> {
    let number: Vec<u64> = facts.server.split('.').take(2).map(|part| part.parse().unwrap_or(0)).collect();
    match facts.replicated().next() {
        Some(database) if number < FREEZES_ALONE.to_vec() => Err(Error::invalid(format!(
            "database {} is of engine Replicated, where ClickHouse {} freezes tables on all nodes at once",
            database.name, facts.server
        ))
        .with_hint("from 23.8 on each node does so alone: update the server")),
        _ => Ok(()),
    }
}

/// Waits until each of them has run its log here. Gives whether one had not, and those of which it is not known.
pub(super) async fn catch_up(
    client: &Client,
    facts: &Facts,
    limit: Duration,
    cancel: &CancellationToken,
) -> Result<(bool, Vec<String>)> {
    check_version(facts)?;
    let (mut waited, mut unknown) = (false, Vec::new());
    for database in facts.replicated() {
        let began = Instant::now();
        loop {
            let Some(replica) = &database.replica else { break unknown.push(database.name.to_string()) };
            let Some((run, last)) = pointers(client, replica).await? else {
                break unknown.push(database.name.to_string());
            };
            if run >= last {
                break;
            }
            waited = true;
            if began.elapsed() >= limit {
                return Err(Error::unavailable(format!(
                    "database {} lags on this node: it has run entry {run} of {last} of its log",
                    database.name
                ))
                .with_hint(format!(
                    "see {}/replicas/{} in ZooKeeper and the server's log, or raise engine.replica_timeout",
                    replica.path, replica.name
                )));
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Error::unavailable("the snapshot was cancelled")),
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }
    Ok((waited, unknown))
}

/// One that has not run all of its log here.
pub(super) async fn behind(client: &Client, facts: &Facts) -> Result<Option<String>> {
    for database in facts.replicated() {
        let Some(replica) = &database.replica else { continue };
        if let Some((run, last)) = pointers(client, replica).await?
            && run < last
        {
            return Ok(Some(format!(
                "database {} has run entry {run} of {last} of its log on this node",
                database.name
            )));
        }
    }
    Ok(None)
}

/// What has been run here, and what there is. None: ZooKeeper does not say it.
async fn pointers(client: &Client, replica: &Replica) -> Result<Option<(u64, u64)>> {
    let own = format!("{}/replicas/{}", replica.path, replica.name);
    let last = number(client, &replica.path, "max_log_ptr").await?;
    let run = number(client, &own, "log_ptr").await?;
    Ok(run.zip(last))
}

async fn number(client: &Client, path: &str, name: &str) -> Result<Option<u64>> {
    let [path, name] = [path, name].map(|text| Text::from(text).literal());
    let sql = [b"SELECT value FROM system.zookeeper WHERE path = ".as_slice(), &path, b" AND name = ", &name];
    match client.rows(sql.concat(), 1).await {
        Err(Fault::Refused(code, why)) => {
            tracing::debug!(code, why, "a database's log is not looked at");
            Ok(None)
        }
        rows => Ok(rows?.iter().flatten().find_map(|value| string(value).trim().parse().ok())),
    }
}

/// Those of [`SETTINGS`] that the server has: it refuses what it does not know.
pub(super) async fn settings(client: &Client) -> Result<Vec<(&'static str, &'static str)>> {
    let rows = client.rows("SELECT name FROM system.settings", 1).await?;
    let has: HashSet<String> = rows.iter().flatten().map(string).collect();
    Ok(SETTINGS.into_iter().filter(|(name, _)| has.contains(*name)).collect())
}

/// Why a database cannot be made, if it is that ZooKeeper still knows this replica of it.
pub(super) fn known(database: &Database, fault: Fault) -> Error {
    let (code, error) = (fault.code(), Error::from(fault).with_note(format!("database {}", database.name)));
    match &database.replica {
        Some(Replica { path, name, .. }) if code == Some(TAKEN) => {
            let (shard, replica) = name.split_once('|').unwrap_or_default();
            let [shard, replica, path] = [shard, replica, path].map(literal);
            let quoted = String::from_utf8_lossy(&database.name.quoted()).into_owned();
            error.with_hint(format!(
                "if the node that was this replica is gone, run on another one SYSTEM DROP REPLICA {replica} FROM DATABASE {quoted}, \
                 then SYSTEM DROP DATABASE REPLICA {replica} FROM SHARD {shard} FROM ZKPATH {path}; and the restore again"
            ))
        }
        _ => error,
    }
}

/// Nothing is put in its place before such a table is taken up: the database would have that done on every node.
pub(super) fn taken(table: &Table, fault: Fault) -> Error {
    let error = Error::from(fault).with_note(format!("table {}", table.label()));
    match &table.replica {
        Some(Replica { path, name, .. }) => error.with_hint(format!(
            "ZooKeeper still knows a replica of it: SYSTEM DROP REPLICA {} FROM ZKPATH {} on another node, or remove that path if nobody has the table",
            literal(name),
            literal(path)
        )),
        None => error.with_hint("ZooKeeper still has it: remove its path there if nobody has the table"),
    }
}

fn literal(text: &str) -> String {
    String::from_utf8_lossy(&Text::from(text).literal()).into_owned()
}

impl Loader<'_> {
    /// Until what the others have made is here. Gives the facts without those tables that live on elsewhere and were dropped
    /// since: where ZooKeeper has the database that was backed up, its tables are those that it has now.
    pub(super) async fn join(&self, mut facts: Facts) -> Result<Facts> {
        let mut living = HashSet::new();
        let replicated = self.located(&facts).await?;
        for database in &replicated {
            let sql = [b"SYSTEM SYNC DATABASE REPLICA ".as_slice(), &database.name.quoted()].concat();
            self.client.run(sql).await.map_err(|fault| {
                Error::from(fault).with_note(format!("database {}", database.name)).with_hint(
                    "see the server's log: where it says that a replica of a table exists already, SYSTEM DROP REPLICA '..' FROM DATABASE .. on another node",
                )
            })?;
            let was = facts.databases.iter().find(|was| was.name == database.name);
            let was = was.and_then(|was| was.replica.as_ref()).map_or("", |replica| &replica.made);
            if let Some(now) = database.replica.as_ref().filter(|_| !was.is_empty())
                && replica::made(self.client, &now.path).await? == was
            {
                living.insert(database.name.clone());
            }
        }
        if !living.is_empty() {
            let there = self.there(&facts).await?;
            facts.tables.retain(|table| {
                let stays = !living.contains(&table.database)
                    || there.contains_key(&(table.database.clone(), table.name.clone()));
                if !stays {
                    tracing::warn!(
                        table = table.label(),
                        "not made: its database lives on without it; --tables restores it elsewhere"
                    );
                }
                stays
            });
        }
        Ok(facts)
    }

    /// Those of a backup's databases, as this server has them.
    pub(super) async fn located(&self, facts: &Facts) -> Result<Vec<Database>> {
        let mut databases: Vec<Database> = facts.replicated().cloned().collect();
        if !databases.is_empty() {
            let server = Server::look(self.client, self.config).await?;
            locate(&mut databases, &server.macros().await?);
        }
        Ok(databases)
    }

    /// Whether another node's restore has made a table that is here.
    pub(super) fn is_shared(&self, table: &Table, there: &There, facts: &Facts) -> bool {
        let found = there.get(&(table.database.clone(), table.name.clone()));
        !table.uuid.is_empty() && found == Some(&table.uuid) && facts.is_in_replicated(table)
    }

    /// That nobody has made another table meanwhile.
    pub(super) async fn confirm(&self, facts: &Facts) -> Result<()> {
        if facts.replicated().next().is_none() {
            return Ok(());
        }
        let there = self.there(facts).await?;
        for table in facts.tables.iter().filter(|table| facts.is_in_replicated(table)) {
            let found = there.get(&(table.database.clone(), table.name.clone()));
            if found.is_some() && !self.is_shared(table, &there, facts) {
                return Err(strange(table, true));
            }
        }
        Ok(())
    }

    /// Of a table without parts. To truncate it, as elsewhere, would take from every node what its restore has written.
    pub(super) async fn write_once(&self, table: &Table, facts: &Facts) -> Result<()> {
        let count = [b"SELECT count() FROM ".as_slice(), &table.quoted()].concat();
        match self.client.number(count).await? {
            rows if rows == table.rows => return Ok(()),
            0 => {}
            rows => {
                return Err(Error::conflict(format!("it has {rows} rows, and had {} in the backup", table.rows))
                    .with_hint("a restore that was stopped may have written some: drop the table, and run the restore again"));
            }
        }
        let sql = "SELECT database, name FROM system.tables WHERE engine = 'MaterializedView'";
        let there = self.client.rows(sql, 2).await?;
        let made = |view: &&Table| there.iter().any(|row| (&row[0], &row[1]) == (&view.database, &view.name));
        if let Some(view) = readers(facts, table).find(made) {
            return Err(Error::conflict(format!(
                "another node has made view {} already, which would be given these rows a second time",
                view.label()
            ))
            .with_hint(
                "restore the tables by --tables and --rename into a database of another engine, and copy them from there",
            ));
        }
        rows::insert(self.client, &self.aside.backup(), table).await
    }
}

/// The views that are given what is inserted into a table.
fn readers<'a>(facts: &'a Facts, table: &'a Table) -> impl Iterator<Item = &'a Table> {
    let reads = |view: &&Table| {
        let mut sources = Tokens::of(&view.statement.0).sources().into_iter();
        sources.any(|source| (&source.database, &source.table) == (&table.database, &table.name))
    };
    let is_view = |view: &&Table| view.kept == Kept::Schema && view.engine == "MaterializedView";
    facts.tables.iter().filter(is_view).filter(reads)
}

/// Nothing is written over.
pub(super) fn strange(table: &Table, replicated: bool) -> Error {
    let (what, hint) = match replicated {
        true => (
            " with another UUID: it is not the one that was backed up",
            "nothing is written over: drop or rename it, which its database does on all nodes",
        ),
        false => ("", "nothing is written over: drop the table, or rename it"),
    };
    Error::conflict(format!("table {} is there already{what}", table.label())).with_hint(hint)
}

#[cfg(test)]
mod tests;
