//! Some of a backup's tables beside those that a server has. What is to be made is written down before anything is fetched:
//! a restore that is stopped goes on with that, whichever operation runs it again.
use std::path::{Path, PathBuf};

use palinurus_proto::Choice;
use palinurus_repository::{Error, Result};
use serde::{Deserialize, Serialize};

use super::aside::Aside;
use super::blocking;
use super::choice::{self, Now};
use super::client::Client;
use super::config::Config;
use super::facts::{Facts, NAME};
use super::load::Loader;
use super::server::Server;
use crate::durable;
use crate::engine::{Choosing, Portion};

const RECORD: &str = "chosen.json";

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    facts: Facts,
    /// Of each table, in the backup.
    numbers: Vec<usize>,
}

/// What of the backup whose facts lie in `place` is needed, and where it goes.
pub(super) async fn choose(
    client: &Client,
    config: &Config,
    place: &Path,
    choosing: Choosing,
) -> Result<Portion> {
    let server = Server::look(client, config).await?;
    let now = server.facts().await?;
    let uuids = server.uuids().await?;
    let (path, root) = (place.join(NAME), config.root.clone());
    blocking(move || {
        let text = std::fs::read(&path).map_err(|e| Error::io(format!("read {}", path.display()), e))?;
        let aside = Aside::chosen(&root, &[text, words(&choosing.choice).into_bytes()].concat());
        let facts = match read(&aside)? {
            Some(facts) => {
                let strange = facts.tables.iter().filter(|table| !aside.has_made(table.number));
                let names: Vec<_> = strange.map(choice::pair).collect();
                choice::refuse_taken(names.iter(), &now)?;
                facts
            }
            None => {
                let now = Now { facts: &now, uuids: &uuids };
                let facts = choice::choose(&Facts::read(&path)?, &choosing.choice, now, &choosing.backup)?;
                write(&aside, facts)?
            }
        };
        Ok(Portion { target: aside.backup(), include: choice::needs(&facts) })
    })
    .await
}

/// Gives the server what was restored to the place that [`choose`] said.
pub(super) async fn load(client: &Client, config: &Config, target: &Path) -> Result<()> {
    let aside = Aside::above(target).ok_or_else(|| Error::internal("a restore without a place"))?;
    let begins = aside.clone();
    let (facts, goes_on) = blocking(move || {
        let gone = || Error::conflict(format!("{} is gone", record(&begins).display()));
        let facts = read(&begins)?.ok_or_else(gone)?;
        let goes_on = begins.hold(&record(&begins))?;
        Ok((facts, goes_on))
    })
    .await?;
    Loader { client, config, aside: &aside }.load_chosen(&facts, goes_on).await
}

fn words(choice: &Choice) -> String {
    let tables = choice.patterns().iter().map(ToString::to_string);
    let renames = choice.renames().iter().map(|rename| format!("={rename}"));
    tables.chain(renames).map(|word| word + "\n").collect()
}

fn record(aside: &Aside) -> PathBuf {
    aside.path().join(RECORD)
}

fn read(aside: &Aside) -> Result<Option<Facts>> {
    let path = record(aside);
    let text = match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|e| Error::io(format!("read {}", path.display()), e))?,
    };
    let Record { mut facts, numbers } = serde_json::from_slice(&text).map_err(|e| {
        Error::corrupt(format!("{} does not parse", path.display()))
            .with_source(e)
            .with_hint("drop the tables that the restore has made, remove the directory, and restore again")
    })?;
    for (table, number) in facts.tables.iter_mut().zip(numbers) {
        table.number = number;
    }
    Ok(Some(facts))
}

fn write(aside: &Aside, facts: Facts) -> Result<Facts> {
    let numbers = facts.tables.iter().map(|table| table.number).collect();
    let record_of = Record { facts, numbers };
    let text = serde_json::to_vec(&record_of).map_err(|e| Error::internal("chosen tables").with_source(e))?;
    durable::create_dir(aside.path())?;
    durable::write(&record(aside), &text)?;
    Ok(record_of.facts)
}
