//! Some of a backup's tables, as they are to be made in a server that holds others: their names, their UUIDs, the databases
//! that they need, and why not. Pure: everything is refused before anything is made.
use std::collections::{BTreeMap, HashMap, HashSet};

use palinurus_proto::Choice;
use palinurus_repository::{Error, Result};

use super::facts::{Database, Facts, Kept, Table};
use super::replicated;
use super::rewrite::{Pair, Tokens};
use super::text::Text;

mod replica;

/// Named in a refusal.
const NAMED_MAX: usize = 20;
/// Engines that take what comes from a place outside: two of them would share it.
const SHARING: [&str; 7] = ["Kafka", "RabbitMQ", "NATS", "S3Queue", "AzureQueue", "FileLog", "KeeperMap"];
/// Databases whose statement means the same under any name.
const OWN: [&str; 4] = ["Atomic", "Ordinary", "Lazy", "Memory"];
const SYSTEM: [&str; 3] = ["system", "INFORMATION_SCHEMA", "information_schema"];

/// The server that gets them, as it is now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now<'a> {
    pub(super) facts: &'a Facts,
    /// In use, also by what was dropped and is not yet gone.
    pub(super) uuids: &'a HashSet<String>,
}

/// What they were, by what they are to be.
#[derive(Debug)]
struct Chosen<'a> {
    tables: Vec<(&'a Table, Pair)>,
    names: HashMap<Pair, Pair>,
}

/// The facts of a backup that has these tables alone, under their new names. `seed` is the same on every node.
pub(super) fn choose(facts: &Facts, choice: &Choice, now: Now<'_>, seed: &str) -> Result<Facts> {
    let mut chosen = chosen(facts, choice)?;
    let uuids = chosen.uuids(now, seed);
    chosen.follow(&uuids);
    refuse_taken(chosen.tables.iter().map(|(_, name)| name), now.facts)?;
    chosen.refuse_missing(facts, now)?;
    chosen.refuse_replicated(facts, now)?;
    let databases = chosen.databases(facts, now, seed)?;
    let mut tables = Vec::new();
    for (table, name) in &chosen.tables {
        let path = replica::path(table, name, &uuids, now.facts)?;
        let tokens = Tokens::of(&table.statement.0);
        let renamed = |database: &Text, name: &Text| chosen.renamed(database, name);
        tables.push(Table {
            statement: Text(tokens.rewritten(&renamed, &uuids, path.as_ref())),
            uuid: uuids.get(&table.uuid).unwrap_or(&table.uuid).clone(),
            after: table.after.iter().map(|pair| chosen.names.get(pair).unwrap_or(pair).clone()).collect(),
            database: name.0.clone(),
            name: name.1.clone(),
            ..(*table).clone()
        });
    }
    refuse_twice(&tables, now.facts)?;
    Ok(Facts {
        databases,
        tables,
        functions: Vec::new(),
        access: Vec::new(),
        collections: Vec::new(),
        mutations: Vec::new(),
        ..facts.clone()
    })
}

/// With the inner tables of views, which go where their view goes.
fn chosen<'a>(facts: &'a Facts, choice: &Choice) -> Result<Chosen<'a>> {
    for pattern in choice.patterns() {
        if !facts.tables.iter().any(|table| pattern.is_of(&table.database.0, &table.name.0)) {
            let of = |table: &&Table| pattern.is_of_database(&table.database.0);
            let near: Vec<&Table> = facts.tables.iter().filter(of).filter(|table| !is_inner(table)).collect();
            let there = match near.is_empty() {
                false => list(near.into_iter().map(Table::label)),
                true => list(facts.databases.iter().map(|database| format!("{}.*", database.name))),
            };
            return Err(Error::not_found(format!("nothing in the backup is called {pattern}"))
                .with_hint(format!("it has {there}")));
        }
    }
    let name = |table: &Table| {
        let (database, name) = choice.renamed(&table.database.0, &table.name.0);
        (Text(database), Text(name))
    };
    let mut names: HashMap<Pair, Pair> = HashMap::new();
    for table in facts.tables.iter().filter(|table| choice.has(&table.database.0, &table.name.0)) {
        names.insert(pair(table), name(table));
    }
    for view in facts.tables.iter().filter(|table| table.engine == "MaterializedView") {
        let Some((database, name)) = names.get(&pair(view)).cloned() else { continue };
        let inner = |name: &Text| Text([b".inner.", name.0.as_slice()].concat());
        let old = [inner(&view.name), Text::from(format!(".inner_id.{}", view.uuid).as_str())];
        let new = [inner(&name), old[1].clone()];
        for (old, new) in old.into_iter().zip(new) {
            names.insert((view.database.clone(), old), (database.clone(), new));
        }
    }
    let tables: Vec<(&Table, Pair)> =
        facts.tables.iter().filter_map(|table| Some((table, names.get(&pair(table))?.clone()))).collect();
    for rename in choice.renames() {
        if !tables.iter().any(|(table, _)| rename.is_of(&table.database.0, &table.name.0)) {
            return Err(Error::invalid(format!("{rename} renames nothing that is chosen"))
                .with_hint("name the tables with --tables, as they are called in the backup"));
        }
    }
    let mut made = HashSet::new();
    for (table, name) in &tables {
        if !made.insert(name) {
            return Err(Error::invalid(format!(
                "table {} and another one would both be {}",
                table.label(),
                label(name)
            ))
            .with_hint("give each a name of its own"));
        }
        if *name != pair(table) && SHARING.contains(&table.engine.as_str()) {
            return Err(Error::invalid(format!(
                "table {} cannot have another name: engine {} takes from a place outside, which both would share",
                table.label(),
                table.engine
            ))
            .with_hint("choose the other tables by their names"));
        }
    }
    Ok(Chosen { tables, names })
}

impl Chosen<'_> {
    fn renamed(&self, database: &Text, name: &Text) -> Option<Pair> {
        let old = (database.clone(), name.clone());
        self.names.get(&old).filter(|new| **new != old).cloned()
    }

    /// What a chosen table cannot be without must be chosen as well, or be there.
    fn refuse_missing(&self, facts: &Facts, now: Now<'_>) -> Result<()> {
        let there: HashSet<Pair> = now.facts.tables.iter().map(pair).collect();
        for (table, _) in &self.tables {
            let tokens = Tokens::of(&table.statement.0);
            let named =
                tokens.tables().into_iter().filter(|it| it.is_needed()).map(|it| (it.database, it.table));
            for needed in named.chain(table.after.iter().cloned()) {
                let is_system = SYSTEM.iter().any(|name| needed.0 == Text::from(*name));
                if !is_system && !self.names.contains_key(&needed) && !there.contains(&needed) {
                    return Err(Error::conflict(format!(
                        "{} needs {}, which is neither chosen nor on the server",
                        table.label(),
                        label(&needed)
                    ))
                    .with_hint("choose that one as well"));
                }
            }
            let has = |name: &Text| now.facts.functions.iter().any(|function| function.name == *name);
            let called = facts.functions.iter().map(|function| &function.name);
            if let Some(name) = called.filter(|name| !has(name)).find(|name| tokens.calls(name)) {
                return Err(Error::conflict(format!(
                    "{} calls function {name}, which the server does not have",
                    table.label()
                ))
                .with_hint("make the function: its statement is in the backup's clickhouse.json"));
            }
        }
        Ok(())
    }

    /// Such a database makes a table on every node, and the restore of each would find the others'.
    fn refuse_replicated(&self, facts: &Facts, now: Now<'_>) -> Result<()> {
        for (table, (database, _)) in &self.tables {
            let there = now.facts.databases.iter().find(|it| it.name == *database);
            let made =
                || facts.databases.iter().find(|it| it.name == *database && table.database == *database);
            let target = there.or_else(made);
            if target.is_some_and(|it| it.engine == replicated::ENGINE) {
                return Err(Error::invalid(format!(
                    "table {} cannot be restored into database {database}, which is of engine Replicated",
                    table.label()
                ))
                .with_hint("give it another database by --rename, one of engine Atomic that is there, and copy its rows from there"));
            }
        }
        Ok(())
    }

    /// A view's own table is called by the view's UUID.
    fn follow(&mut self, uuids: &HashMap<String, String>) {
        for (table, name) in &mut self.tables {
            let old = name.1.0.strip_prefix(b".inner_id.").and_then(|old| std::str::from_utf8(old).ok());
            if let Some(new) = old.and_then(|old| uuids.get(old)) {
                name.1 = Text::from(format!(".inner_id.{new}").as_str());
                self.names.insert(pair(table), name.clone());
            }
        }
    }

    /// New ones for what has another name, or whose own is in use.
    fn uuids(&self, now: Now<'_>, seed: &str) -> HashMap<String, String> {
        let mut new = HashMap::new();
        for (table, name) in self.tables.iter().filter(|(table, _)| !table.uuid.is_empty()) {
            if *name != pair(table) || now.uuids.contains(&table.uuid) {
                new.insert(table.uuid.clone(), now.free(seed, &table.uuid, &label(name)));
            }
        }
        new
    }

    /// Those that the server does not have.
    fn databases(&self, facts: &Facts, now: Now<'_>, seed: &str) -> Result<Vec<Database>> {
        let there: HashSet<&Text> = now.facts.databases.iter().map(|database| &database.name).collect();
        let wanted: BTreeMap<&Text, &Text> =
            self.tables.iter().map(|(table, name)| (&name.0, &table.database)).collect();
        let mut made = Vec::new();
        for (name, old) in wanted.into_iter().filter(|(name, _)| !there.contains(*name)) {
            let Some(database) = facts.databases.iter().find(|database| database.name == *old) else {
                continue;
            };
            if name != old && !OWN.contains(&database.engine.as_str()) {
                return Err(Error::invalid(format!(
                    "database {name} is not there, and {old} is of engine {}",
                    database.engine
                ))
                .with_hint(format!("make {name} first, as it is to be")));
            }
            let tokens = Tokens::of(&database.statement.0);
            let uuid = tokens.uuid();
            let taken = uuid.filter(|uuid| name != old || now.uuids.contains(uuid));
            let new = taken.map(|old| (old.clone(), now.free(seed, &old, &name.to_string())));
            let statement = Text(tokens.rewritten(&|_, _| None, &new.into_iter().collect(), None));
            made.push(Database { name: name.clone(), statement, ..database.clone() });
        }
        Ok(made)
    }
}

/// Rows that are inserted again go on to the views that read the table, which have had them. Parts do not.
fn refuse_twice(tables: &[Table], now: &Facts) -> Result<()> {
    let inserted: HashSet<Pair> = tables.iter().filter(|table| table.kept == Kept::Rows).map(pair).collect();
    for view in tables.iter().chain(&now.tables).filter(|table| table.engine == "MaterializedView") {
        let sources = Tokens::of(&view.statement.0).sources().into_iter().map(|it| (it.database, it.table));
        if let Some(table) = sources.into_iter().find(|source| inserted.contains(source)) {
            return Err(Error::conflict(format!(
                "view {} would be given the rows of {} once more",
                view.label(),
                label(&table)
            ))
            .with_hint(
                "restore that table alone under a name that no view reads, and rename it; then the views",
            ));
        }
    }
    Ok(())
}

impl Now<'_> {
    /// Replicas of a table find each other by it: every node comes to the same.
    fn free(&self, seed: &str, old: &str, name: &str) -> String {
        let mut number = 0_u32;
        loop {
            let uuid = uuid(&format!("{seed}\0{old}\0{name}\0{number}"));
            if !self.uuids.contains(&uuid) {
                return uuid;
            }
            number += 1;
        }
    }
}

/// Of version 8: made of what it stands for.
fn uuid(of: &str) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&blake3::hash(of.as_bytes()).as_bytes()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Nothing that is there is written over.
pub(super) fn refuse_taken<'a>(names: impl Iterator<Item = &'a Pair>, now: &Facts) -> Result<()> {
    let there: HashSet<Pair> = now.tables.iter().map(pair).collect();
    let taken: Vec<String> = names.filter(|name| there.contains(*name)).map(label).collect();
    if taken.is_empty() {
        return Ok(());
    }
    Err(Error::conflict(format!("the server has them already: {}", list(taken.into_iter())))
        .with_hint("drop or rename these tables, or restore under another name with --rename"))
}

fn is_inner(table: &Table) -> bool {
    table.name.0.starts_with(b".inner")
}

pub(super) fn pair(table: &Table) -> Pair {
    (table.database.clone(), table.name.clone())
}

fn label((database, name): &Pair) -> String {
    format!("{database}.{name}")
}

fn list(names: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = names.collect();
    let more = match all.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", all[..all.len().min(NAMED_MAX)].join(", "))
}

/// The paths of the backup that hold what these tables have.
pub(super) fn needs(facts: &Facts) -> Vec<String> {
    let mut paths = vec![super::facts::NAME.to_owned()];
    for table in &facts.tables {
        match table.kept {
            Kept::Parts => paths.extend(table.places.iter().map(|place| {
                format!("{}/{}/{}", super::list::DISKS, facts.disks[place.disk].name.file_name(), place.path)
            })),
            Kept::Rows => paths.push(super::rows::path(table.number)),
            Kept::Schema => {}
        }
    }
    paths.iter().map(|path| globset::escape(path)).collect()
}

#[cfg(test)]
mod tests;
