//! A backup proved: a server of its own, which nobody but this agent reaches and which reaches nobody, is given it as by a
//! restore, and every part is checked.
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use palinurus_repository::{Entropy, Error, Result};
use tokio::time::Instant;

use super::blocking;
use super::client::Client;
use super::config::Config;
use super::facts::{Facts, Kept, NAME};
use super::load::Loader;
use crate::drill::{Owner, end_leftover};
use crate::engine::{Check, Proof, ProofOrder};

mod checks;
mod plain;
mod scratch;
mod server;
mod unreplicated;

use server::Server;

/// For one table to be checked. A drill can be cancelled.
const CHECK: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn prove(config: &Config, entropy: &Arc<dyn Entropy>, order: ProofOrder) -> Result<Proof> {
    let (settings, entropy, laid) = (config.clone(), Arc::clone(entropy), order.clone());
    let (whole, facts, left, recorded, scratch, program, owner) = blocking(move || {
        let whole = Facts::read(&laid.data.join(NAME))?;
        let (facts, left) = plain::plain(whole.clone());
        let recorded = checks::recorded(&laid.data, &facts)?;
        let (program, owner) = (server::program(&settings)?, Owner::of(&settings.root)?);
        let scratch = scratch::lay_out(&settings, &laid, &facts, owner, &*entropy)?;
        Ok((whole, facts, left, recorded, scratch, program, owner))
    })
    .await?;
    let client = Client::new(scratch.config.clone());
    let mut server = Server::start(&program, &order, &scratch, owner)?;
    let version = server.ready(&client).await?;
    not_older(&version, &facts.server)?;
    let loader = Loader { client: &client, config: &scratch.config, aside: &scratch.aside };
    let mut checks = vec![recorded, checks::load(&loader, &facts).await?];
    let rto = order.began.elapsed();
    let backup = scratch.aside.backup();
    checks.push(blocking(move || checks::checksums(&backup, &whole)).await?);
    checks.push(checks::check_tables(&client, &facts).await?);
    for sql in &order.settings.probe {
        checks.push(checks::probe(&client, sql).await?);
    }
    if !left.is_empty() {
        let told = format!("they need ZooKeeper, a dictionary or another table: {}", left.join(", "));
        checks.push(Check { name: "tables left out".into(), told, skipped: true, ..Check::default() });
    }
    let began = Instant::now();
    server.stop().await?;
    let told = "a clean stop".into();
    checks.push(Check { name: "stop".into(), took: began.elapsed(), told, ..Check::default() });
    let rows: u64 = facts.tables.iter().map(|table| table.rows).sum();
    let parts = facts.tables.iter().filter(|table| table.kept == Kept::Parts).count();
    Ok(Proof {
        rto,
        recovered_ms: facts.frozen_from_ms,
        position: 0,
        reached: format!("{rows} rows, {parts} tables of the MergeTree family, in ClickHouse {version}"),
        checks,
    })
}

/// What a newer server wrote an older one may not read, which says nothing of the backup.
fn not_older(version: &str, wrote: &str) -> Result<()> {
    let number =
        |text: &str| -> Vec<u64> { text.split('.').take(2).map(|part| part.parse().unwrap_or(0)).collect() };
    if number(version) >= number(wrote) {
        return Ok(());
    }
    Err(Error::invalid(format!("the backup is of ClickHouse {wrote}, and here is {version}"))
        .with_hint("drill at a node with that version, or set engine.server to it"))
}

pub(super) async fn end(config: &Config, place: &Path) -> Result<()> {
    let given = config.server.as_ref().and_then(|path| path.canonicalize().ok());
    let given = given.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let names: Vec<&str> = server::NAMES.into_iter().chain(given.as_deref()).collect();
    end_leftover(place, &names).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_server_proves_nothing() {
        for (version, wrote, fits) in [
            ("26.9.2.1", "26.9.1", true),
            ("26.10.1", "26.9", true),
            ("18.16.1", "26.9.1", false),
            ("26.2", "26.10", false),
        ] {
            assert_eq!(not_older(version, wrote).is_ok(), fits, "{version} {wrote}");
        }
    }
}
