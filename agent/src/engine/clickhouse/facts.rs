//! What a server holds besides rows: what the backup writes down, and a restore makes again.
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};
use serde::{Deserialize, Serialize};

use super::text::{Text, quoted};

/// The file in which a backup keeps them.
pub(super) const NAME: &str = "clickhouse.json";
pub(super) const VERSION: u32 = 1;
/// Of that file.
pub(super) const SIZE_MAX: u64 = 1 << 30;
/// The macro that every guide of ClickHouse's uses.
const SHARD: &str = "shard";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) version: u32,
    pub(super) server: String,
    pub(super) macros: BTreeMap<String, String>,
    pub(super) disks: Vec<Disk>,
    #[serde(default)]
    pub(super) policies: Vec<Policy>,
    pub(super) databases: Vec<Database>,
    pub(super) tables: Vec<Table>,
    /// Made by SQL, wherever the server keeps them.
    pub(super) functions: Vec<Named>,
    /// Users, roles, policies, quotas and profiles that are kept in ZooKeeper, by id.
    pub(super) access: Vec<Named>,
    /// Their names: what they hold is shown to nobody, and lies in files.
    pub(super) collections: Vec<Text>,
    /// Not done when the tables were frozen. A part may or may not have had them: nobody may run them again blindly.
    pub(super) mutations: Vec<Mutation>,
    /// When the first table was frozen, and when the last one had been.
    pub(super) frozen_from_ms: u64,
    pub(super) frozen_to_ms: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Disk {
    pub(super) name: Text,
    pub(super) path: PathBuf,
    /// Its files are the server's as they are: neither objects elsewhere nor encrypted.
    pub(super) local: bool,
    /// Its files are texts that name objects, which can be read.
    #[serde(default)]
    pub(super) objects: bool,
    /// Which of the settings' stores has these objects. Empty: they are files of this machine.
    #[serde(default)]
    pub(super) store: String,
    /// They lie in a store, and the settings name none.
    #[serde(skip)]
    pub(super) unnamed: bool,
}

/// Of storage: disks that a table may choose by this name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Policy {
    pub(super) name: Text,
    /// In the order in which they are filled.
    pub(super) volumes: Vec<Volume>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Volume {
    pub(super) name: Text,
    pub(super) disks: Vec<Text>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Database {
    pub(super) name: Text,
    pub(super) engine: String,
    /// As it lies on the disk; empty of one that the server makes by itself.
    pub(super) statement: Text,
    /// Of engine Replicated: where it meets the other nodes.
    #[serde(default)]
    pub(super) replica: Option<Replica>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    pub(super) name: Text,
    pub(super) statement: Text,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Table {
    /// Among those of its backup: what is its own there has this name.
    #[serde(skip)]
    pub(super) number: usize,
    pub(super) database: Text,
    pub(super) name: Text,
    pub(super) uuid: String,
    pub(super) engine: String,
    pub(super) statement: Text,
    /// Tables that must be there first.
    pub(super) after: Vec<(Text, Text)>,
    pub(super) kept: Kept,
    /// Where its parts lie.
    pub(super) places: Vec<Place>,
    pub(super) replica: Option<Replica>,
    /// As they were frozen, or read.
    pub(super) parts: u64,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// Of the rows, those of parts that have no count: the server's word.
    #[serde(default)]
    pub(super) told: u64,
    /// Parts of which nobody knows the rows.
    #[serde(default)]
    pub(super) unknown: u64,
}

/// What of a table a backup has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kept {
    /// Its parts, frozen.
    Parts,
    /// Its rows, read by a query.
    Rows,
    /// Its statement: a view, or a window to another system.
    Schema,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Place {
    /// Index of the disk.
    pub(super) disk: usize,
    /// On that disk.
    pub(super) path: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Replica {
    pub(super) path: String,
    pub(super) name: String,
    /// Which of all nodes of ZooKeeper that ever had this path it is; empty: not known.
    #[serde(default)]
    pub(super) made: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mutation {
    pub(super) database: Text,
    pub(super) table: Text,
    pub(super) id: String,
    pub(super) command: Text,
    pub(super) parts_to_do: u64,
}

impl Table {
    pub(super) fn quoted(&self) -> Vec<u8> {
        quoted(&self.database, &self.name)
    }

    pub(super) fn is_replicated(&self) -> bool {
        self.engine.starts_with("Replicated")
    }

    /// For people.
    pub(super) fn label(&self) -> String {
        format!("{}.{}", self.database, self.name)
    }
}

impl Facts {
    /// Whether the schema is the same: what is counted, and what is pending, may differ.
    pub(super) fn agrees(&self, other: &Self) -> Result<(), String> {
        let anew =
            |replica: &Option<Replica>| replica.clone().map(|it| Replica { made: String::new(), ..it });
        let databases = |facts: &Self| -> Vec<Database> {
            let anew = |it: &Database| Database { replica: anew(&it.replica), ..it.clone() };
            facts.databases.iter().map(anew).collect()
        };
        let schema = |facts: &Self| -> Vec<Table> {
            let uncounted = |table: &Table| {
                let replica = anew(&table.replica);
                Table {
                    number: 0,
                    parts: 0,
                    rows: 0,
                    bytes: 0,
                    told: 0,
                    unknown: 0,
                    replica,
                    ..table.clone()
                }
            };
            facts.tables.iter().map(uncounted).collect()
        };
        let (ours, others) = (schema(self), schema(other));
        if databases(self) != databases(other) {
            return Err("databases were made, changed or dropped".into());
        }
        if (&self.functions, &self.collections) != (&other.functions, &other.collections) {
            return Err("functions or named collections were made, changed or dropped".into());
        }
        if self.access != other.access {
            return Err("users, roles or the like were changed".into());
        }
        let known = |tables: &[Table]| tables.iter().cloned().collect::<HashSet<Table>>();
        let (before, after) = (known(&ours), known(&others));
        if let Some(table) = ours.iter().find(|table| !after.contains(table)) {
            return Err(format!("table {} was changed or dropped", table.label()));
        }
        match others.iter().find(|table| !before.contains(table)) {
            Some(table) => Err(format!("table {} was made or changed", table.label())),
            None => Ok(()),
        }
    }

    /// By the macro that is named in the paths of replicated tables. Empty: none is known, or nothing is replicated.
    pub(super) fn shard(&self) -> String {
        let replicated = self.tables.iter().any(Table::is_replicated);
        self.macros.get(SHARD).filter(|_| replicated).cloned().unwrap_or_default()
    }

    /// Blocks.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let failed = |e| Error::io(format!("read {}", path.display()), e);
        let wrong = |why: String| {
            Error::corrupt(format!("{} is not what a backup of ClickHouse has there: {why}", path.display()))
        };
        if path.metadata().map_err(failed)?.len() > SIZE_MAX {
            return Err(wrong("it is too large".into()));
        }
        let mut facts: Self = serde_json::from_slice(&std::fs::read(path).map_err(failed)?)
            .map_err(|e| wrong(e.to_string()))?;
        facts.tables.iter_mut().enumerate().for_each(|(number, table)| table.number = number);
        if facts.version > VERSION {
            return Err(Error::invalid(format!("{} is of version {}", path.display(), facts.version))
                .with_hint("update the agent"));
        }
        let inside = |place: &Place| {
            place.disk < facts.disks.len() && Path::new(&place.path).components().all(is_plain)
        };
        if !facts.tables.iter().all(|table| table.places.iter().all(inside)) {
            return Err(wrong("a table lies outside its disk".into()));
        }
        Ok(facts)
    }
}

fn is_plain(component: std::path::Component<'_>) -> bool {
    matches!(component, std::path::Component::Normal(_))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn table(name: &str) -> Table {
        Table {
            number: 0,
            database: "d".into(),
            name: name.into(),
            uuid: String::new(),
            engine: "MergeTree".into(),
            statement: "ATTACH TABLE t (a UInt8)".into(),
            after: Vec::new(),
            kept: Kept::Parts,
            places: vec![Place { disk: 0, path: "data/d/t".into() }],
            replica: None,
            parts: 0,
            rows: 0,
            bytes: 0,
            told: 0,
            unknown: 0,
        }
    }

    #[test]
    fn a_changed_schema_is_named() {
        let facts = |names: &[&str]| Facts {
            tables: names.iter().map(|name| table(name)).collect(),
            ..Facts::default()
        };
        let one = facts(&["a", "b"]);
        assert_eq!(one.agrees(&one.clone()), Ok(()));
        assert_eq!(one.agrees(&facts(&["a"])), Err("table d.b was changed or dropped".into()));
        assert_eq!(facts(&["a"]).agrees(&one), Err("table d.b was made or changed".into()));
        let busy = Facts { frozen_to_ms: 9, ..one.clone() };
        assert_eq!(one.agrees(&busy), Ok(()));
        let at = |path: &str, made: &str| {
            let replica = Replica { path: path.into(), name: "s|r".into(), made: made.into() };
            let (name, engine, statement) = ("d".into(), "Replicated".into(), "ATTACH".into());
            Facts {
                databases: vec![Database { name, engine, statement, replica: Some(replica) }],
                ..one.clone()
            }
        };
        assert_eq!(at("/p", "1.2").agrees(&at("/p", "")), Ok(()), "a server does not say it by itself");
        assert!(at("/p", "").agrees(&at("/q", "")).is_err());
    }

    #[test]
    fn what_was_written_down_agrees_with_what_is_there_still() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let replicated = Table { engine: "ReplicatedMergeTree".into(), ..table("b") };
        let here = Facts {
            version: 1,
            disks: vec![Disk { name: "default".into(), path: "/d".into(), local: true, ..Disk::default() }],
            macros: [("shard".into(), "s1".into())].into(),
            tables: vec![table("a"), Table { name: Text(vec![0xff]), ..table("x") }, replicated],
            ..Facts::default()
        };
        std::fs::write(&path, serde_json::to_vec(&here).unwrap()).unwrap();
        let then = Facts::read(&path).unwrap();
        assert_eq!(then.agrees(&here), Ok(()));
        assert_eq!(then.shard(), "s1");
        assert_eq!(Facts { tables: vec![table("a")], ..here }.shard(), "", "nothing is replicated");
    }

    #[test]
    fn a_backup_cannot_name_places_outside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let disk = Disk { name: "default".into(), path: "/d".into(), local: true, ..Disk::default() };
        for (place, fits) in [("data/d/t", true), ("../t", false), ("/etc", false), ("a/../../b", false)] {
            let mut odd = table("t");
            odd.places[0].path = place.into();
            let facts =
                Facts { version: 1, disks: vec![disk.clone()], tables: vec![odd], ..Facts::default() };
            std::fs::write(&path, serde_json::to_vec(&facts).unwrap()).unwrap();
            assert_eq!(Facts::read(&path).is_ok(), fits, "{place}");
        }
    }
}
