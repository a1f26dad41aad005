//! Where a replicated table meets its replicas, when it comes back beside other tables.
use std::collections::HashMap;

use palinurus_repository::{Error, Result};

use super::{Pair, label, pair};
use crate::engine::clickhouse::facts::{Facts, Table};
use crate::engine::clickhouse::rewrite::Tokens;
use crate::engine::clickhouse::text::Text;

/// Another path in ZooKeeper for a table of another name, if its statement must have one. Two tables on one path would be
/// each other's replicas.
pub(super) fn path(
    table: &Table,
    name: &Pair,
    uuids: &HashMap<String, String>,
    now: &Facts,
) -> Result<Option<Text>> {
    if !table.is_replicated() {
        return Ok(None);
    }
    let Some((path, _)) = Tokens::of(&table.statement.0).replica_path() else { return Ok(None) };
    let old = pair(table);
    let told = String::from_utf8_lossy(&path.0).into_owned();
    let has = |macro_name: &str| told.contains(macro_name);
    let differs = (has("{uuid}") && uuids.contains_key(&table.uuid))
        || (has("{table}") && name.1 != old.1)
        || (has("{database}") && name.0 != old.0);
    let path = if *name == old || differs { path } else { renamed(&path, &old, name) };
    if *name != old && !differs && told.as_bytes() == path.0 {
        return Err(Error::invalid(format!(
            "table {} cannot have another name: its path in ZooKeeper, {told}, would be that of both",
            table.label()
        ))
        .with_hint("restore it under its own name, or where no table has that path"));
    }
    let full = expanded(&path, name, uuids.get(&table.uuid).unwrap_or(&table.uuid), now);
    let there = |other: &&Table| other.replica.as_ref().is_some_and(|replica| replica.path == full);
    if let Some(other) = now.tables.iter().find(there) {
        return Err(Error::conflict(format!(
            "table {} would be at {full} in ZooKeeper, where {} is",
            label(name),
            other.label()
        ))
        .with_hint("restore it under another name, or drop the table that is there"));
    }
    Ok((told.as_bytes() != path.0).then_some(path))
}

/// Servers write the names of table and database into the path when a table is made: the last that is one is taken for it.
fn renamed(path: &Text, old: &Pair, new: &Pair) -> Text {
    let mut steps: Vec<&[u8]> = path.0.split(|byte| *byte == b'/').collect();
    for (old, new) in [(&old.1, &new.1), (&old.0, &new.0)] {
        if let Some(at) = steps.iter().rposition(|step| *step == old.0) {
            steps[at] = &new.0;
        }
    }
    Text(steps.join(&b'/'))
}

/// As the server will have it.
fn expanded(path: &Text, (database, name): &Pair, uuid: &str, now: &Facts) -> String {
    let mut full = String::from_utf8_lossy(&path.0).into_owned();
    for (key, value) in [("database", database), ("table", name)] {
        full = full.replace(&format!("{{{key}}}"), &String::from_utf8_lossy(&value.0));
    }
    full = full.replace("{uuid}", uuid);
    now.macros.iter().fold(full, |full, (key, value)| full.replace(&format!("{{{key}}}"), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::clickhouse::facts::{Replica, tests::table};

    #[test]
    fn another_name_is_another_path() {
        let uuids: HashMap<String, String> = [("o".to_owned(), "n".to_owned())].into();
        let mut now = Facts::default();
        now.macros.insert("shard".into(), "s1".into());
        let at = |path: &str| Table {
            uuid: "o".into(),
            engine: "ReplicatedMergeTree".into(),
            statement: format!(
                "ATTACH TABLE t (a Int8) ENGINE = ReplicatedMergeTree('{path}', '{{replica}}')"
            )
            .as_str()
            .into(),
            ..table("t")
        };
        let new = ("e".into(), "u".into());
        for (given, want) in [
            ("/x/{uuid}/{shard}", Ok(None)),
            ("/x/{database}/{table}", Ok(None)),
            ("/d/{shard}/d/t", Ok(Some("/d/{shard}/e/u".into()))),
            ("/x/{shard}/t", Ok(Some("/x/{shard}/u".into()))),
            ("/x/{shard}/all", Err(())),
        ] {
            assert_eq!(path(&at(given), &new, &uuids, &now).map_err(drop), want, "{given}");
        }
        assert_eq!(path(&at("/x/t"), &pair(&table("t")), &uuids, &now).unwrap(), None);
        let replica = Some(Replica { path: "/x/s1/u".into(), name: "r".into(), made: String::new() });
        now.tables.push(Table { replica, ..table("other") });
        let error = path(&at("/x/{shard}/t"), &new, &uuids, &now).unwrap_err();
        assert!(error.what().contains("d.other"), "{error:?}");
    }
}
