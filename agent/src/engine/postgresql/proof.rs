//! A restored data directory proved: a server of its own is started in it, which nobody but this agent reaches and which
//! reaches nobody, and all of the data is read by PostgreSQL's own tools.
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};
use tokio::time::Instant;

use super::blocking;
use super::config::{Access, Config};
use crate::drill::{self, Owner};
use crate::engine::{Check, Proof, ProofOrder};

mod programs;
mod scratch;
mod server;
mod tools;

use programs::Programs;
use server::Server;
use tools::Tools;

/// Whose the restored files are: the server runs as that user.
fn owner(data: &Path) -> Result<Owner> {
    let owner = Owner::of(data)?;
    match owner.uid {
        0 => Err(Error::invalid("the restored files belong to root, and PostgreSQL does not run as root")
            .with_hint("run the agent as the server's user, or back up a directory of that user's")),
        _ => Ok(owner),
    }
}

pub(super) async fn end(place: &Path) -> Result<()> {
    drill::end_leftover(place, &["postgres"]).await
}

/// Another major version than that of `engine.bin` does not start: seen by the backup's `PG_VERSION`, in `place`. Blocks.
pub(super) fn check_fits(config: &Config, place: &Path) -> Result<()> {
    match &config.bin {
        Some(bin) => programs::check_speaks(bin, &place.join("PG_VERSION")),
        None => Ok(()),
    }
}

pub(super) async fn prove(access: &Access, order: ProofOrder) -> Result<Proof> {
    let (config, data) = (access.config.clone(), order.data.clone());
    let (owner, programs) = blocking(move || {
        let owner = owner(&data)?;
        Ok((owner, Programs::find(&config, &data, owner)?))
    })
    .await?;
    let control = programs.control(&order.data, owner).await?;
    let (laid, set) = (order.clone(), control.clone());
    let scratch = blocking(move || scratch::lay_out(&laid, owner, &set)).await?;
    let inside = Access { config: scratch_config(&access.config, &scratch), entropy: access.entropy.clone() };
    let mut server = Server::start(&programs, &order, &scratch, owner).await?;
    let reached = server.ready(&inside).await?;
    let mut proof = Proof {
        rto: order.began.elapsed(),
        recovered_ms: reached.recovered_ms,
        position: reached.position,
        reached: reached.told,
        checks: Vec::new(),
    };
    let tools = Tools { programs: &programs, scratch: &scratch, owner, superuser: &reached.superuser };
    let inside = as_user(inside, &reached.superuser);
    proof.checks.push(tools.amcheck().await?);
    proof.checks.extend(tools.dump(&inside).await?);
    for sql in &order.settings.probe {
        proof.checks.push(probe(&inside, sql).await?);
    }
    proof.checks.push(stopped(server).await?);
    proof.checks.push(tools.checksums(&order.data, control.checksums).await?);
    Ok(proof)
}

/// A server that cannot end well has not proved anything.
async fn stopped(server: Server) -> Result<Check> {
    let began = Instant::now();
    server.stop().await?;
    Ok(Check { name: "stop".into(), took: began.elapsed(), told: "a clean stop".into(), ..Check::default() })
}

fn scratch_config(config: &Config, scratch: &scratch::Scratch) -> Config {
    Config {
        host: scratch.sockets.display().to_string(),
        port: scratch::PORT,
        password_file: None,
        ..config.clone()
    }
}

fn as_user(access: Access, user: &str) -> Access {
    Access { config: Config { user: user.to_owned(), ..access.config }, ..access }
}

/// It fails, or its first value is false, and the drill fails.
async fn probe(access: &Access, sql: &str) -> Result<Check> {
    let began = Instant::now();
    let mut check = Check { name: "probe".into(), told: sql.to_owned(), ..Check::default() };
    let mut client = super::client::Client::connect(access, super::client::Mode::Sql).await?;
    match client.query(sql).await {
        Ok(rows) => {
            let first = rows.first().and_then(|row| row.first()).cloned().flatten();
            if first.as_deref() == Some("f") {
                check.findings.push(format!("{sql}: false"));
            }
            check.told = format!("{sql}: {}", first.unwrap_or_else(|| format!("{} rows", rows.len())));
        }
        Err(e) => check.findings.push(format!("{sql}: {}", e.chain())),
    }
    client.end().await;
    check.took = began.elapsed();
    Ok(check)
}

/// Something of the data directory, for messages.
fn below(place: &Path, name: &str) -> PathBuf {
    place.join(name)
}
