//! What of a backup a scratch server is given: what needs nobody else. It must not become a replica, read from Kafka, or
//! ask another database anything.
use super::unreplicated::unreplicated;
use crate::engine::clickhouse::facts::{Facts, Kept, Table};
use crate::engine::clickhouse::keeper_map;
use crate::engine::clickhouse::text::Text;

/// Databases that a server can make without others.
const OWN: [&str; 3] = ["Atomic", "Ordinary", "Lazy"];
/// A default or a constraint with one of these asks a dictionary or another table.
const ASKS: [&str; 3] = ["dictGet", "dictHas", "joinGet"];

/// The facts that are left, and the tables with rows that are not.
pub(super) fn plain(mut facts: Facts) -> (Facts, Vec<String>) {
    let mut left = Vec::new();
    facts.tables.retain(|table| {
        let fits = table.engine != keeper_map::ENGINE && !asks(table);
        if table.kept != Kept::Schema && !fits {
            left.push(table.label());
        }
        table.kept != Kept::Schema && fits
    });
    for table in facts.tables.iter_mut().filter(|table| table.is_replicated()) {
        table.statement = Text(unreplicated(&table.statement.0));
        table.engine = table.engine.trim_start_matches("Replicated").to_owned();
        table.replica = None;
    }
    for database in facts.databases.iter_mut().filter(|database| !OWN.contains(&database.engine.as_str())) {
        database.statement = Text::default();
    }
    let holds = |name: &Text| facts.tables.iter().any(|table| table.database == *name);
    facts.databases.retain(|database| holds(&database.name));
    (facts, left)
}

fn asks(table: &Table) -> bool {
    let statement = &table.statement.0;
    ASKS.iter().any(|word| statement.windows(word.len()).any(|window| window == word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::clickhouse::facts::tests::table;
    use crate::engine::clickhouse::facts::{Database, Replica};

    #[test]
    fn nothing_is_left_that_needs_another() {
        let with = |name: &str, engine: &str, kept, statement: &str| Table {
            engine: engine.into(),
            statement: statement.into(),
            kept,
            ..table(name)
        };
        let replicated = Table {
            replica: Some(Replica { path: "/p".into(), name: "r".into(), made: String::new() }),
            ..with(
                "r",
                "ReplicatedMergeTree",
                Kept::Parts,
                "CREATE TABLE r (a UInt8) ENGINE = ReplicatedMergeTree('/p', 'r')",
            )
        };
        let asking = "CREATE TABLE x (a UInt8 DEFAULT dictGet('d', 'a', 1)) ENGINE = MergeTree";
        let tables = vec![
            with("v", "View", Kept::Schema, "CREATE VIEW v AS SELECT 1"),
            replicated,
            with("k", "KeeperMap", Kept::Rows, "CREATE TABLE k"),
            with("x", "MergeTree", Kept::Parts, asking),
            with("l", "Log", Kept::Rows, "CREATE TABLE l"),
        ];
        let database = |name: &str, engine: &str| Database {
            name: name.into(),
            engine: engine.into(),
            statement: "ATTACH DATABASE _".into(),
            replica: None,
        };
        let databases = vec![database("d", "Replicated"), database("far", "MySQL")];
        let (facts, left) = plain(Facts { tables, databases, ..Facts::default() });
        let names: Vec<String> = facts.tables.iter().map(Table::label).collect();
        assert_eq!((names, left), (vec!["d.r".into(), "d.l".into()], vec!["d.k".into(), "d.x".into()]));
        let made = &facts.tables[0];
        assert_eq!(made.statement, "CREATE TABLE r (a UInt8) ENGINE = MergeTree()".into());
        assert!(made.replica.is_none() && !made.is_replicated());
        assert!(facts.databases.len() == 1 && facts.databases[0].statement.is_empty());
    }
}
