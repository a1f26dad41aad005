//! Makes a backup's tables in a server, without their rows.
use std::collections::HashSet;

use palinurus_repository::{Error, Result};

use super::client::Fault;
use super::disks::is_all_objects;
use super::facts::{Facts, Kept, Table};
use super::load::Loader;
use super::replicated::There;
use super::server::string;
use super::statement::{Statement, anywhere};
use super::text::Text;
use super::{blocking, keeper_map, replica, replicated};

/// Refusals that another try cannot change.
const FINAL: [u32; 5] = [192, 193, 194, 497, 516];
/// This server has not what the table's parts shall lie on.
const NO_POLICY: u32 = 478;
const NO_DISK: u32 = 479;

impl Loader<'_> {
    pub(super) async fn tables(&self, facts: &Facts, goes_on: bool) -> Result<()> {
        let missing = self.missing(facts, goes_on).await?;
        self.make_all(missing, facts).await
    }

    /// And the rows of those that have no parts, which come in by inserts: before there is a materialized view, which would be
    /// given them a second time.
    pub(super) async fn tables_and_rows(&self, facts: &Facts, goes_on: bool) -> Result<()> {
        let is_view = |table: &&Table| table.engine == "MaterializedView";
        let (views, tables) = self.missing(facts, goes_on).await?.into_iter().partition(is_view);
        let (mut left, _) = self.make_some(tables, facts).await?;
        self.confirm(facts).await?;
        self.rows(facts).await?;
        left.extend::<Vec<_>>(views);
        self.make_all(left, facts).await
    }

    /// What is not there, in the order in which it may be made best.
    async fn missing<'a>(&self, facts: &'a Facts, goes_on: bool) -> Result<Vec<&'a Table>> {
        let there = self.there(facts).await?;
        let is_there = |table: &&Table| there.contains_key(&(table.database.clone(), table.name.clone()));
        let is_new = |table: &&Table| is_there(table) && !(goes_on && self.aside.has_made(table.number));
        let mut shared = Vec::new();
        for table in facts.tables.iter().filter(is_new) {
            if !self.is_shared(table, &there, facts) {
                return Err(replicated::strange(table, facts.is_in_replicated(table)));
            }
            shared.push(table.number);
        }
        let aside = self.aside.clone();
        blocking(move || shared.into_iter().try_for_each(|number| aside.makes(number))).await?;
        let mut missing: Vec<&Table> = facts.tables.iter().filter(|table| !is_there(table)).collect();
        missing.sort_by_key(|table| rank(table));
        Ok(missing)
    }

    async fn make_all(&self, tables: Vec<&Table>, facts: &Facts) -> Result<()> {
        match self.make_some(tables, facts).await? {
            (left, _) if left.is_empty() => Ok(()),
            (_, why) => Err(why.unwrap_or_else(|| Error::conflict("tables need each other in a circle"))),
        }
    }

    /// As often as it takes: what one needs may be made after it, and not every version says what that is. Gives those that
    /// cannot be made, and why the first of them.
    async fn make_some<'a>(
        &self,
        tables: Vec<&'a Table>,
        facts: &Facts,
    ) -> Result<(Vec<&'a Table>, Option<Error>)> {
        let with_uuid = self.databases_with_uuids().await?;
        let settings = match tables.iter().any(|table| facts.is_in_replicated(table)) {
            true => replicated::settings(self.client).await?,
            false => Vec::new(),
        };
        let mut left = tables;
        loop {
            let (before, mut failed, mut why) = (left.len(), Vec::new(), None);
            for table in left {
                let waits = table.after.iter().any(|(database, name)| {
                    failed.iter().any(|other: &&Table| (&other.database, &other.name) == (database, name))
                });
                if waits {
                    failed.push(table);
                } else if let Err(error) =
                    self.create(table, facts, with_uuid.contains(&table.database), &settings).await?
                {
                    failed.push(table);
                    why.get_or_insert(error);
                }
            }
            if failed.is_empty() || failed.len() == before {
                return Ok((failed, why));
            }
            left = failed;
        }
    }

    /// What may go away with another table made.
    async fn create(
        &self,
        table: &Table,
        facts: &Facts,
        with_uuid: bool,
        settings: &[(&str, &str)],
    ) -> Result<Result<()>> {
        let unusable = || Error::corrupt(format!("the statement of table {} does not parse", table.label()));
        let statement = Statement::parse(&table.statement.0).ok_or_else(unusable)?;
        self.take_back(table, facts).await?;
        let (aside, number) = (self.aside.clone(), table.number);
        blocking(move || aside.makes(number)).await?;
        let shared = facts.is_in_replicated(table);
        let settings = if shared { settings } else { &[] };
        let mut made = match shared {
            true => statement.compose_once(&table.database, &table.name),
            false => statement.compose(&table.database, &table.name, with_uuid),
        };
        if is_all_objects(table, facts)
            && let Some(elsewhere) = anywhere(&made)
        {
            tracing::warn!(
                table = table.label(),
                "it lay among objects alone: it goes to the default policy"
            );
            made = elsewhere;
        }
        let mut tried = self.client.run_with(&made, settings).await;
        if let Err(Fault::Refused(NO_POLICY | NO_DISK, _)) = &tried
            && let Some(elsewhere) = anywhere(&made)
        {
            tracing::warn!(
                table = table.label(),
                "its storage policy is not here: it goes to the default one"
            );
            made = elsewhere;
            tried = self.client.run_with(&made, settings).await;
        }
        let is_taken = |fault: &Fault| fault.code() == Some(replica::TAKEN) || keeper_map::is_taken(fault);
        match tried {
            Ok(()) => Ok(Ok(())),
            Err(fault) if shared && is_taken(&fault) => Err(replicated::taken(table, fault)),
            Err(fault) if is_taken(&fault) => {
                let (aside, number) = (self.aside.clone(), table.number);
                blocking(move || aside.leave_to_peers(number)).await?;
                self.place(table, facts, &fault).await?;
                let attach = [b"ATTACH".as_slice(), made.strip_prefix(b"CREATE").unwrap_or(&made)].concat();
                let taken = self.client.run(attach).await;
                if taken.is_ok() {
                    let aside = self.aside.clone();
                    blocking(move || aside.end_place(number)).await?;
                }
                Ok(taken.map_err(|fault| Error::from(fault).with_note(format!("replica {}", table.label()))))
            }
            Err(fault) => {
                let is_final = fault.code().is_none_or(|code| FINAL.contains(&code));
                let error = Error::from(fault).with_note(format!("table {}", table.label()));
                if is_final { Err(error) } else { Ok(Err(error)) }
            }
        }
    }

    /// With their UUIDs where they matter: old versions have none.
    pub(super) async fn there(&self, facts: &Facts) -> Result<There> {
        let uuid = if facts.replicated().next().is_some() { "toString(uuid)" } else { "''" };
        let sql = format!("SELECT database, name, {uuid} FROM system.tables");
        let rows = self.client.rows(sql, 3).await?;
        Ok(rows.into_iter().map(|row| ((row[0].clone(), row[1].clone()), string(&row[2]))).collect())
    }

    async fn databases_with_uuids(&self) -> Result<HashSet<Text>> {
        let sql = "SELECT name FROM system.databases WHERE engine NOT IN ('Ordinary', 'Lazy')";
        let rows = self.client.rows(sql, 1).await?;
        Ok(rows.into_iter().flatten().collect())
    }
}

/// Tables first, what looks at them next, and last what is attached without looking whether they are there.
fn rank(table: &Table) -> u8 {
    match (table.kept, table.engine.as_str()) {
        (Kept::Parts, _) => 0,
        (Kept::Rows, _) => 1,
        (Kept::Schema, "MaterializedView") => 4,
        (Kept::Schema, "View" | "Dictionary") => 3,
        (Kept::Schema, _) => 2,
    }
}
