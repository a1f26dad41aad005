//! Replicas of a table, which meet in ZooKeeper. A part that one attaches all of them get: so one attaches the backup's
//! parts, and the others fetch them. Which one needs no word between agents: who came first is in ZooKeeper.
use std::collections::HashMap;
use std::time::Duration;

use palinurus_repository::{Error, Result};
use tokio::time::Instant;

use super::client::{Client, SYNTAX};
use super::facts::{Replica, Table};
use super::text::Text;

/// The replica's name is taken: by this node, before it was replaced.
pub(super) const TAKEN: u32 = 253;
const POLL: Duration = Duration::from_millis(300);
/// Rows that have not changed for so long, with nothing left to fetch, are all there are.
const SETTLED: Duration = Duration::from_secs(5);

/// Before a freeze: a replica that does not follow has not what the others have.
pub(super) async fn catch_up(client: &Client, table: &Table, limit: Duration) -> Result<()> {
    let label = table.label();
    let of = [b" database = ".as_slice(), &table.database.literal(), b" AND table = ", &table.name.literal()]
        .concat();
    let readonly = [b"SELECT count() FROM system.replicas WHERE is_readonly AND".as_slice(), &of].concat();
    if client.number(readonly).await? > 0 {
        return Err(Error::unavailable(format!("the replica of table {label} is read-only"))
            .with_hint("see why it has lost ZooKeeper: what it holds may be behind the others"));
    }
    let sync = async {
        let sql = [b"SYSTEM SYNC REPLICA ", table.quoted().as_slice()].concat();
        match client.run([sql.as_slice(), b" LIGHTWEIGHT"].concat()).await {
            Err(fault) if fault.code() == Some(SYNTAX) => client.run(sql).await,
            done => done,
        }
    };
    match tokio::time::timeout(limit, sync).await {
        // Whoever freezes it will see.
        Ok(Err(fault)) if fault.is_gone() => Ok(()),
        Ok(done) => {
            Ok(done.map_err(|fault| Error::from(fault).with_note(format!("catching up of {label}")))?)
        }
        Err(_) => Err(Error::unavailable(format!("the replica of table {label} does not catch up"))
            .with_hint("see system.replication_queue, or raise engine.replica_timeout")),
    }
}

/// Whether this one came first, and is to attach.
pub(super) async fn is_first(client: &Client, replica: &Replica) -> Result<bool> {
    let path = Text::from(format!("{}/replicas", replica.path).as_str()).literal();
    let sql =
        [b"SELECT name FROM system.zookeeper WHERE path = ", path.as_slice(), b" ORDER BY czxid LIMIT 1"];
    Ok(client.value(sql.concat()).await? == replica.name)
}

/// A table whose parts come from its other replicas, and how far they are.
#[derive(Debug)]
struct Fetching<'a> {
    table: &'a Table,
    rows: u64,
    left: u64,
    /// When one of these last changed.
    since: Instant,
}

/// Until the others' parts are here: of each table as many rows as the backup has, or all that there are. Says how many.
pub(super) async fn fetched(client: &Client, tables: &[&Table], limit: Duration) -> Result<Vec<u64>> {
    let rows =
        "SELECT database, table, toString(sum(rows)) FROM system.parts WHERE active GROUP BY database, table";
    // Merges are nothing to wait for.
    let left = "SELECT database, table, toString(inserts_in_queue) FROM system.replicas";
    let began = Instant::now();
    let mut fetching: Vec<Fetching<'_>> =
        tables.iter().map(|table| Fetching { table, rows: 0, left: 0, since: began }).collect();
    while !fetching.is_empty() {
        let (rows, left) = (counts(client, rows).await?, counts(client, left).await?);
        let (mut waits, mut last) = (None, began);
        for each in &mut fetching {
            let of = |counts: &HashMap<(Text, Text), u64>| {
                counts.get(&(each.table.database.clone(), each.table.name.clone())).copied().unwrap_or(0)
            };
            let found = (of(&rows), of(&left));
            if found != (each.rows, each.left) {
                ((each.rows, each.left), each.since) = (found, Instant::now());
            }
            let all = each.rows >= each.table.rows || (each.rows > 0 && each.since.elapsed() >= SETTLED);
            if !all || each.left > 0 {
                (waits, last) = (waits.or(Some((each.table, each.rows))), last.max(each.since));
            }
        }
        let Some((table, rows)) = waits else { break };
        // Those that attach go from table to table: as long as one of them fills, the others may yet.
        if last.elapsed() >= limit {
            let path = table.replica.as_ref().map_or("", |replica| replica.path.as_str());
            let gave =
                format!("the other replicas gave {rows} rows of {} (table {})", table.rows, table.label());
            return Err(Error::unavailable(gave).with_hint(
                format!("run the restore again when they are there; if they are all gone, remove {path} from ZooKeeper, drop the table, and restore"),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(fetching.iter().map(|each| each.rows).collect())
}

/// By table.
async fn counts(client: &Client, sql: &str) -> Result<HashMap<(Text, Text), u64>> {
    let count = |mut row: Vec<Text>| {
        let number = row.pop().and_then(|text| std::str::from_utf8(&text.0).ok()?.parse().ok())?;
        let name = row.pop()?;
        Some(((row.pop()?, name), number))
    };
    Ok(client.rows(sql, 3).await?.into_iter().filter_map(count).collect())
}
