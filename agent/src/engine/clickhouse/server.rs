//! Asks a server what it holds, in the words of its version: system tables grew columns over the years.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};

use super::client::{Answer, Client};
use super::config::Config;
use super::disks::place;
use super::facts::{Database, Disk, Facts, Kept, Mutation, Named, Replica, Table, VERSION};
use super::text::Text;
use super::{blocking, replicated};

/// Databases that every server makes for itself.
const OWN: &str = "('system', 'INFORMATION_SCHEMA', 'information_schema', '_temporary_and_external_tables')";
/// Of what a table has several: no name or path holds it.
pub(super) const SEPARATOR: u8 = 1;

/// Engines that hold rows but no parts: the rows are read.
const READ: [&str; 7] = ["Log", "TinyLog", "StripeLog", "Memory", "Join", "KeeperMap", "EmbeddedRocksDB"];

#[derive(Debug)]
pub(super) struct Server<'a> {
    pub(super) client: &'a Client,
    pub(super) config: &'a Config,
    pub(super) version: String,
    /// `tables.uuid` and the like.
    columns: HashSet<String>,
}

impl<'a> Server<'a> {
    pub(super) async fn look(client: &'a Client, config: &'a Config) -> Answer<Self> {
        let version = client.value("SELECT version()").await?;
        let rows = client.rows("SELECT table, name FROM system.columns WHERE database = 'system'", 2).await?;
        let name = |text: &Text| String::from_utf8_lossy(&text.0).into_owned();
        let columns = rows.iter().map(|row| format!("{}.{}", name(&row[0]), name(&row[1]))).collect();
        Ok(Self { client, config, version, columns })
    }

    pub(super) fn has(&self, column: &str) -> bool {
        self.columns.contains(column)
    }

    /// How many tables are somebody's.
    pub(super) async fn count_tables(client: &Client) -> Answer<u64> {
        client.number(format!("SELECT count() FROM system.tables WHERE database NOT IN {OWN}")).await
    }

    pub(super) async fn facts(&self) -> Answer<Facts> {
        let disks = self.disks().await?;
        let (mut databases, macros) = (self.databases().await?, self.macros().await?);
        replicated::locate(&mut databases, &macros);
        let replicas = self.replicas().await?;
        let tables = self.tables(&disks, replicas).await?;
        Ok(Facts {
            version: VERSION,
            server: self.version.clone(),
            macros,
            disks,
            policies: self.policies().await?,
            databases,
            tables,
            functions: self.functions().await?,
            access: self.access().await?,
            collections: self.collections().await?,
            mutations: self.mutations().await?,
            frozen_from_ms: 0,
            frozen_to_ms: 0,
        })
    }

    /// Of everything that is there, or was dropped and is not yet gone.
    pub(super) async fn uuids(&self) -> Answer<HashSet<String>> {
        let mut uuids = HashSet::new();
        for table in ["tables", "databases", "dropped_tables"] {
            if self.has(&format!("{table}.uuid")) {
                let rows = self.client.rows(format!("SELECT toString(uuid) FROM system.{table}"), 1).await?;
                uuids.extend(rows.iter().flatten().map(string));
            }
        }
        Ok(uuids)
    }

    pub(super) async fn macros(&self) -> Answer<BTreeMap<String, String>> {
        let rows = self.client.rows("SELECT macro, substitution FROM system.macros", 2).await?;
        Ok(rows.into_iter().map(|row| (string(&row[0]), string(&row[1]))).collect())
    }

    async fn databases(&self) -> Answer<Vec<Database>> {
        let sql = format!("SELECT name, engine FROM system.databases WHERE name NOT IN {OWN} ORDER BY name");
        let rows = self.client.rows(sql, 2).await?;
        let root = self.config.root.clone();
        let read = move || {
            rows.into_iter()
                .map(|row| {
                    let file = root.join("metadata").join(format!("{}.sql", row[0].file_name()));
                    let statement = Text(read_if_there(&file)?.unwrap_or_default());
                    let (name, engine) = (row[0].clone(), string(&row[1]));
                    Ok(Database { name, engine, statement, replica: None })
                })
                .collect()
        };
        Ok(blocking(read).await?)
    }

    async fn replicas(&self) -> Answer<HashMap<(Text, Text), Replica>> {
        let sql = "SELECT database, table, zookeeper_path, replica_name FROM system.replicas";
        let rows = self.client.rows(sql, 4).await?;
        let replica = |row: Vec<Text>| {
            let replica = Replica { path: string(&row[2]), name: string(&row[3]), made: String::new() };
            ((row[0].clone(), row[1].clone()), replica)
        };
        Ok(rows.into_iter().map(replica).collect())
    }

    async fn tables(
        &self,
        disks: &[Disk],
        mut replicas: HashMap<(Text, Text), Replica>,
    ) -> Answer<Vec<Table>> {
        let either = |column: &str, modern: &str, old: &str| {
            if self.has(column) { modern.to_owned() } else { old.to_owned() }
        };
        let separated = |column: &str| {
            either(
                &format!("tables.{column}"),
                &format!("arrayStringConcat(arrayMap(x -> toString(x), {column}), char({SEPARATOR}))"),
                "''",
            )
        };
        let paths = match self.has("tables.data_paths") {
            true => separated("data_paths"),
            false => "data_path".to_owned(),
        };
        let uuid = either("tables.uuid", "toString(uuid)", "''");
        let (after_db, after) =
            (separated("loading_dependencies_database"), separated("loading_dependencies_table"));
        let with_uuid =
            either("tables.uuid", " SETTINGS show_table_uuid_in_table_create_query_if_not_nil = 1", "");
        let sql = format!(
            "SELECT database, name, engine, {uuid}, metadata_path, create_table_query, {paths}, {after_db}, {after} \
             FROM system.tables WHERE database NOT IN {OWN} AND NOT is_temporary ORDER BY database, name{with_uuid}"
        );
        let rows = self.client.rows(sql, 9).await?;
        let (disks, root) = (disks.to_vec(), self.config.root.clone());
        let read = move || {
            rows.into_iter()
                .map(|row| {
                    let replica = replicas.remove(&(row[0].clone(), row[1].clone()));
                    table(&row, &disks, &root, replica)
                })
                .collect()
        };
        Ok(blocking(read).await?)
    }

    async fn functions(&self) -> Answer<Vec<Named>> {
        if !self.has("functions.create_query") {
            return Ok(Vec::new());
        }
        let sql =
            "SELECT name, create_query FROM system.functions WHERE origin = 'SQLUserDefined' ORDER BY name";
        Ok(named(self.client.rows(sql, 2).await?))
    }

    async fn collections(&self) -> Answer<Vec<Text>> {
        if !self.has("named_collections.source") {
            return Ok(Vec::new());
        }
        let sql = "SELECT name FROM system.named_collections WHERE source = 'SQL' ORDER BY name";
        Ok(self.client.rows(sql, 1).await?.into_iter().flatten().collect())
    }

    /// What every server of a cluster shares. Those of one server lie in its files.
    async fn access(&self) -> Answer<Vec<Named>> {
        let mut paths: Vec<String> = self.config.access_zookeeper_path.iter().cloned().collect();
        if paths.is_empty() && self.has("user_directories.params") {
            let sql = "SELECT JSONExtractString(params, 'zookeeper_path') FROM system.user_directories \
                       WHERE type = 'replicated'";
            paths.extend(self.client.rows(sql, 1).await?.iter().flatten().map(string));
        }
        let mut entities = Vec::new();
        for path in paths {
            let path = Text::from(format!("{}/uuid", path.trim_end_matches('/')).as_str()).literal();
            let sql = [
                b"SELECT name, value FROM system.zookeeper WHERE path = ".as_slice(),
                &path,
                b" ORDER BY name",
            ];
            entities.extend(named(self.client.rows(sql.concat(), 2).await?));
        }
        Ok(entities)
    }

    async fn mutations(&self) -> Answer<Vec<Mutation>> {
        let sql = "SELECT database, table, mutation_id, command, toString(parts_to_do) FROM system.mutations \
                   WHERE NOT is_done ORDER BY database, table, mutation_id";
        let rows = self.client.rows(sql, 5).await?;
        let mutation = |row: Vec<Text>| Mutation {
            database: row[0].clone(),
            table: row[1].clone(),
            id: string(&row[2]),
            command: row[3].clone(),
            parts_to_do: string(&row[4]).parse().unwrap_or(0),
        };
        Ok(rows.into_iter().map(mutation).collect())
    }
}

fn named(rows: Vec<Vec<Text>>) -> Vec<Named> {
    rows.into_iter().map(|row| Named { name: row[0].clone(), statement: row[1].clone() }).collect()
}

/// Blocks: the statement is read from the disk, where it has the passwords that the server does not show.
fn table(row: &[Text], disks: &[Disk], root: &Path, replica: Option<Replica>) -> Result<Table> {
    let [database, name, engine, uuid, metadata, shown, paths, after_db, after] = row else {
        return Err(Error::internal("a table's row"));
    };
    let engine = string(engine);
    let stored = match metadata.is_empty() {
        true => None,
        false => read_if_there(&root.join(path(metadata)))?,
    };
    let kept = match engine.as_str() {
        merge if merge.ends_with("MergeTree") => Kept::Parts,
        read if READ.contains(&read) => Kept::Rows,
        _ => Kept::Schema,
    };
    let places = match kept {
        Kept::Parts => several(paths)
            .map(|at| place(&path(&at), disks, &format!("{database}.{name}")))
            .collect::<Result<_>>()?,
        _ => Vec::new(),
    };
    Ok(Table {
        number: 0,
        database: database.clone(),
        name: name.clone(),
        uuid: Some(string(uuid)).filter(|uuid| !uuid.trim_matches(['0', '-']).is_empty()).unwrap_or_default(),
        engine,
        statement: stored.map_or_else(|| shown.clone(), Text),
        after: several(after_db).zip(several(after)).collect(),
        kept,
        places,
        replica,
        parts: 0,
        rows: 0,
        bytes: 0,
        told: 0,
        unknown: 0,
    })
}

pub(super) fn several(text: &Text) -> impl Iterator<Item = Text> {
    text.0.split(|byte| *byte == SEPARATOR).filter(|part| !part.is_empty()).map(|part| Text(part.to_vec()))
}

pub(super) fn string(text: &Text) -> String {
    String::from_utf8_lossy(&text.0).into_owned()
}

pub(super) fn path(text: &Text) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(&text.0))
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("read {}", path.display()), e).with_hint(
            "the agent must be able to read the server's directory: run it as root or as the server's user",
        )),
    }
}
