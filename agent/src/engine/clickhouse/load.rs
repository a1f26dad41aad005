//! Gives a server what was restored beside it: functions, databases, tables with rows, views, parts, access. Whatever is there
//! already is left, so that it can be stopped anywhere and run again to the end.
use std::path::Path;

use palinurus_repository::{Error, Result};

use super::aside::{Aside, give, owner};
use super::client::{Client, Fault};
use super::config::Config;
use super::facts::{Facts, Kept, Table};
use super::list::{ACCESS, COLLECTIONS};
use super::replicated::known;
use super::server::Server;
use super::statement::Statement;
use super::{blocking, keeper_map, rows};
use crate::durable;

/// "Exists already", of tables, functions and named collections.
const EXISTS: [u32; 3] = [57, 609, 668];

#[derive(Debug)]
pub(super) struct Loader<'a> {
    pub(super) client: &'a Client,
    pub(super) config: &'a Config,
    pub(super) aside: &'a Aside,
}

impl Loader<'_> {
    pub(super) async fn load(&self) -> Result<()> {
        let aside = self.aside.clone();
        let (facts, goes_on) = blocking(move || aside.begin()).await?;
        // Before the tables, which may call them.
        let path = self.aside.backup().join(COLLECTIONS);
        for (file, text) in blocking(move || files(&path)).await? {
            self.make("CREATE NAMED COLLECTION ", &text, &format!("{COLLECTIONS}/{file}")).await?;
        }
        self.functions(&facts).await?;
        self.databases(&facts).await?;
        let facts = self.join(facts).await?;
        self.tables_and_rows(&facts, goes_on).await?;
        self.give_parts(&facts).await?;
        self.access(&facts).await?;
        let aside = self.aside.clone();
        blocking(move || aside.remove()).await
    }

    /// Beside what the server has: nothing but tables, and databases that are not there.
    pub(super) async fn load_chosen(&self, facts: &Facts, goes_on: bool) -> Result<()> {
        self.databases(facts).await?;
        self.tables_and_rows(facts, goes_on).await?;
        self.give_parts(facts).await?;
        let aside = self.aside.clone();
        blocking(move || aside.remove()).await
    }

    async fn give_parts(&self, facts: &Facts) -> Result<()> {
        let server = Server::look(self.client, self.config).await?;
        let now = server.facts().await?;
        self.parts(facts, &now).await
    }

    /// Runs a statement, which may hold passwords: of one that fails no more than `label` is told.
    async fn make(&self, verb: &str, statement: &[u8], label: &str) -> Result<()> {
        let rest = statement.strip_prefix(verb.as_bytes());
        let rest = rest.ok_or_else(|| Error::corrupt(format!("{label} is no {verb}")))?;
        match self.client.run([verb.as_bytes(), b"IF NOT EXISTS ", rest].concat()).await {
            Ok(()) => Ok(()),
            Err(Fault::Refused(code, _)) if EXISTS.contains(&code) => Ok(()),
            Err(Fault::Refused(code, _)) => {
                Err(Error::conflict(format!("ClickHouse refuses {label} with code {code}")))
            }
            Err(Fault::Other(error)) => Err(error),
        }
    }

    pub(super) async fn functions(&self, facts: &Facts) -> Result<()> {
        for function in &facts.functions {
            self.make("CREATE FUNCTION ", &function.statement.0, &format!("function {}", function.name))
                .await?;
        }
        Ok(())
    }

    pub(super) async fn databases(&self, facts: &Facts) -> Result<()> {
        let replicated = self.located(facts).await?;
        for database in &facts.databases {
            let stored = Statement::parse(&database.statement.0);
            let made = stored.and_then(|statement| statement.compose_database(&database.name));
            let made = made.unwrap_or_else(|| {
                [b"CREATE DATABASE IF NOT EXISTS ", database.name.quoted().as_slice()].concat()
            });
            let here = replicated.iter().find(|here| here.name == database.name);
            self.client.run(made).await.map_err(|fault| known(here.unwrap_or(database), fault))?;
        }
        Ok(())
    }

    pub(super) async fn rows(&self, facts: &Facts) -> Result<()> {
        for table in facts.tables.iter().filter(|table| table.kept == Kept::Rows) {
            if !self.aside.is_done(table.number) {
                let written = match facts.is_in_replicated(table) && table.engine != keeper_map::ENGINE {
                    true => self.write_once(table, facts).await,
                    false => self.write(table).await,
                };
                written.map_err(|e| e.with_note(format!("rows of {}", table.label())))?;
                let (aside, number) = (self.aside.clone(), table.number);
                blocking(move || aside.end(number)).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn write(&self, table: &Table) -> Result<()> {
        match table.engine.as_str() {
            keeper_map::ENGINE => keeper_map::write(self.client, self.aside, table).await,
            _ => rows::write(self.client, &self.aside.backup(), table).await,
        }
    }

    /// Last, so that nobody comes in before. The server reads them when it starts.
    async fn access(&self, facts: &Facts) -> Result<()> {
        let (from, to) = (self.aside.backup().join(ACCESS), self.config.root.join(ACCESS));
        let root = self.config.root.clone();
        let mut more = Vec::new();
        for entity in &facts.access {
            let is_id = entity.name.0.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
            if !is_id {
                return Err(Error::corrupt(format!("{} is no id of a user", entity.name)));
            }
            more.push((format!("{}.sql", entity.name), entity.statement.0.clone()));
        }
        blocking(move || {
            let mut files = files(&from)?;
            files.extend(more);
            if files.is_empty() {
                return Ok(());
            }
            let own = owner(&root)?;
            durable::create_dir(&to)?;
            for (name, text) in files
                .iter()
                .map(|(name, text)| (name.as_str(), text.as_slice()))
                .chain([("need_rebuild_lists.mark", &b""[..])])
            {
                let path = to.join(name);
                durable::write(&path, text)?;
                give(&path, own).map_err(|e| Error::io(format!("give {} its owner", path.display()), e))?;
            }
            give(&to, own).map_err(|e| Error::io(format!("give {} its owner", to.display()), e))?;
            tracing::warn!(
                "users, roles and the like are restored: restart the server, it reads them when it starts"
            );
            Ok(())
        })
        .await
    }
}

/// The files of a directory that may not be there, by name.
fn files(directory: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let failed = |e| Error::io(format!("read {}", directory.display()), e);
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for name in durable::names(directory)? {
        let text = std::fs::read(directory.join(&name)).map_err(failed)?;
        files.push((name.to_string_lossy().into_owned(), text));
    }
    Ok(files)
}
