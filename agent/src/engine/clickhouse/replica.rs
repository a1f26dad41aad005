//! Replicas of a table, which meet in ZooKeeper. A part that one attaches all of them get: so one attaches the backup's
//! parts, and the others fetch them. Which one needs no word between agents: who came first is in ZooKeeper.
use std::collections::HashMap;
use std::time::Duration;

use palinurus_repository::{Error, Result};
use tokio::time::Instant;

use super::client::{Answer, Client, Fault, SYNTAX};
use super::facts::{Replica, Table};
use super::server::string;
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

/// All of a table's replicas, in the order in which they came: that never changes.
pub(super) async fn names(client: &Client, replica: &Replica) -> Answer<Vec<String>> {
    children(client, &format!("{}/replicas", replica.path)).await
}

/// What a replica had at last, whether it is there or not.
pub(super) async fn parts(client: &Client, replica: &Replica) -> Answer<Vec<String>> {
    children(client, &format!("{}/replicas/{}/parts", replica.path, replica.name)).await
}

/// Which of all nodes that ever had a path is there now. Empty: the server does not say it.
pub(super) async fn made(client: &Client, path: &str) -> Result<String> {
    let Some((above, name)) = path.trim_end_matches('/').rsplit_once('/') else { return Ok(String::new()) };
    let above = if above.is_empty() { "/" } else { above };
    let [above, name] = [above, name].map(|text| Text::from(text).literal());
    let sql = [
        b"SELECT concat(toString(toUInt32(ctime)), '.', toString(czxid)) FROM system.zookeeper WHERE path = ",
        above.as_slice(),
        b" AND name = ",
        &name,
    ];
    match client.rows(sql.concat(), 1).await {
        Err(Fault::Refused(..)) => Ok(String::new()),
        rows => Ok(rows?.iter().flatten().map(string).next().unwrap_or_default()),
    }
}

/// Whether its server holds it, and is connected to ZooKeeper.
pub(super) async fn is_active(client: &Client, path: &str, name: &str) -> Answer<bool> {
    let nodes = children(client, &format!("{path}/replicas/{name}")).await?;
    Ok(nodes.iter().any(|node| node == "is_active"))
}

async fn children(client: &Client, path: &str) -> Answer<Vec<String>> {
    let path = Text::from(path).literal();
    let sql = [b"SELECT name FROM system.zookeeper WHERE path = ".as_slice(), &path, b" ORDER BY czxid"];
    let rows = client.rows(sql.concat(), 1).await?;
    Ok(rows.iter().flatten().map(string).collect())
}

/// A table whose parts come from its other replicas.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) table: &'a Table,
    /// So many, or what there is.
    pub(super) rows: u64,
    /// With so many active replicas nothing is what there is.
    pub(super) living: Option<u64>,
}

/// And how far it is.
#[derive(Debug)]
struct Fetching<'a> {
    wanted: Wanted<'a>,
    rows: u64,
    left: u64,
    /// When one of these last changed.
    since: Instant,
    /// What was written by then is waited for.
    log: Option<u64>,
}

/// Of a replica, in the words of `system.replicas`.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    readonly: u64,
    active: u64,
    /// Inserts that it has not done, and since when.
    left: u64,
    oldest: u64,
    pointer: u64,
    log: u64,
}

impl State {
    /// Whether something is to come that was there at `began`, when the log had come to `log`. Others may write all the time.
    fn lacks(&self, began: u64, log: u64) -> bool {
        let behind = log > 0 && self.pointer <= log;
        self.readonly > 0 || behind || (self.left > 0 && self.oldest <= began)
    }
}

/// Until the others' parts are here: of each table as many rows as are wanted, or all that there are. Says how many.
pub(super) async fn fetched(client: &Client, tables: &[Wanted<'_>], limit: Duration) -> Result<Vec<u64>> {
    let began = Instant::now();
    let mut fetching: Vec<Fetching<'_>> = tables
        .iter()
        .map(|wanted| Fetching { wanted: *wanted, rows: 0, left: 0, since: began, log: None })
        .collect();
    if fetching.is_empty() {
        return Ok(Vec::new());
    }
    let time = client.number("SELECT toUInt64(toUInt32(now()))").await?;
    loop {
        let (rows, states) = (rows(client).await?, states(client).await?);
        let (mut waits, mut last) = (None, began);
        for each in &mut fetching {
            let Wanted { table, rows: wanted, living } = each.wanted;
            let name = (table.database.clone(), table.name.clone());
            let state = states.get(&name).copied().unwrap_or_default();
            let found = (rows.get(&name).copied().unwrap_or(0), state.left);
            if found != (each.rows, each.left) {
                ((each.rows, each.left), each.since) = (found, Instant::now());
            }
            // One that has lost ZooKeeper does not know how far that is.
            let log = if state.readonly > 0 { 0 } else { *each.log.get_or_insert(state.log) };
            let lacks = state.lacks(time, log);
            let some = each.rows > 0 || living.is_some_and(|living| state.active >= living);
            let all = each.rows >= wanted || (some && each.since.elapsed() >= SETTLED);
            if lacks || !all {
                (waits, last) = (waits.or(Some((each.wanted, each.rows))), last.max(each.since));
            }
        }
        let Some((Wanted { table, rows: wanted, .. }, rows)) = waits else { break };
        // Those that attach go from table to table: as long as one of them fills, the others may yet.
        if last.elapsed() >= limit {
            let path = table.replica.as_ref().map_or("", |replica| replica.path.as_str());
            let gave = format!("the other replicas gave {rows} rows of {wanted} (table {})", table.label());
            return Err(Error::unavailable(gave).with_hint(
                format!("run the restore again when they are there; if they are all gone, remove {path} from ZooKeeper, drop the table, and restore"),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(fetching.iter().map(|each| each.rows).collect())
}

async fn rows(client: &Client) -> Result<HashMap<(Text, Text), u64>> {
    let sql =
        "SELECT database, table, toString(sum(rows)) FROM system.parts WHERE active GROUP BY database, table";
    let rows = client.rows(sql, 3).await?;
    Ok(rows.into_iter().map(|row| ((row[0].clone(), row[1].clone()), number(&row[2]))).collect())
}

async fn states(client: &Client) -> Result<HashMap<(Text, Text), State>> {
    let sql = "SELECT database, table, toString(is_readonly), toString(active_replicas), \
               toString(inserts_in_queue), toString(toUInt32(inserts_oldest_time)), toString(log_pointer), toString(log_max_index) \
               FROM system.replicas";
    let state = |row: Vec<Text>| {
        let [readonly, active, left, oldest, pointer, log] =
            [2, 3, 4, 5, 6, 7].map(|column| number(&row[column]));
        ((row[0].clone(), row[1].clone()), State { readonly, active, left, oldest, pointer, log })
    };
    Ok(client.rows(sql, 8).await?.into_iter().map(state).collect())
}

fn number(text: &Text) -> u64 {
    string(text).parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_since_is_not_waited_for() {
        let well = State { active: 2, pointer: 8, log: 9, ..State::default() };
        assert!(!well.lacks(100, 7) && well.lacks(100, 8));
        assert!(State { readonly: 1, ..well }.lacks(100, 7));
        assert!(State { left: 1, oldest: 100, ..well }.lacks(100, 7));
        assert!(!State { left: 1, oldest: 101, ..well }.lacks(100, 7));
        assert!(!State::default().lacks(100, 0), "nobody has written anything");
    }
}
