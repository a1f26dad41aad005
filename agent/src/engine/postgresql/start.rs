//! Brings a restored server into use: started by the settings' command or by an operator, awaited to the end of its recovery,
//! or, for a standby, until it streams.
use std::path::Path;
use std::time::Duration;

use palinurus_repository::{Error, ErrorKind, Result};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::config::{Access, Config};
use super::restored::running;
use super::server::{look, text};
use super::{blocking, control};
use crate::engine::command::{self, Limit};

const POLL: Duration = Duration::from_millis(500);
/// For a server that the command has started to say so in its directory.
const STARTING: Duration = Duration::from_secs(30);

/// What an operator has to do; empty: nothing.
pub(super) fn left_to_do(config: &Config) -> String {
    if !config.start.is_empty() {
        return String::new();
    }
    let (root, within) = (config.root.display(), humantime::format_duration(config.start_within));
    format!("waits until the server in {root} is started, at most {within}: engine.start is not set")
}

pub(super) async fn bring_into_use(access: &Access, follows: bool, cancel: &CancellationToken) -> Result<()> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::unavailable("cancelled while the server was awaited")),
        used = in_use(access, follows, cancel) => used,
    }
}

async fn in_use(access: &Access, follows: bool, cancel: &CancellationToken) -> Result<()> {
    let config = &access.config;
    let (mut down_since, mut started) = (Instant::now(), false);
    loop {
        match served(access, follows).await {
            Ok(true) => return Ok(()),
            Ok(false) => down_since = Instant::now(),
            // Nobody but the operator can mend these.
            Err(e) if matches!(e.kind(), ErrorKind::Denied | ErrorKind::Invalid) => return Err(e),
            Err(_) if is_running(&config.root).await? => down_since = Instant::now(),
            Err(_) if !started && !config.start.is_empty() => {
                start(config, cancel).await?;
                (started, down_since) = (true, Instant::now());
            }
            Err(_) if started && down_since.elapsed() >= STARTING => {
                let what = format!("the server in {} was started and does not run", config.root.display());
                return Err(Error::unavailable(what)
                    .with_hint("its log says why; when it is mended, start it and begin a full backup"));
            }
            Err(_) if down_since.elapsed() >= config.start_within => {
                let within = humantime::format_duration(config.start_within);
                return Err(Error::unavailable(format!("nobody has started the server within {within}"))
                    .with_hint("the data is there: start the server and begin a full backup"));
            }
            Err(_) => {}
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether it is what it is to be by now. An error: it does not answer, or never will be.
async fn served(access: &Access, follows: bool) -> Result<bool> {
    let (server, mut sql) = look(access).await?;
    let asked = match (follows, server.in_recovery) {
        (false, true) => Ok(false),
        // A transaction's number is the least that can be written.
        (false, false) => sql.one("select pg_current_xact_id()").await.map(|_| true),
        (true, true) => sql.query("select status from pg_stat_wal_receiver").await.map(|rows| {
            rows.first().is_some_and(|row| text(row, 0).is_ok_and(|status| status == "streaming"))
        }),
        (true, false) => Err(Error::invalid("the server was to be a standby, and is written")
            .with_hint("stop it: it has begun a history of its own; then restore the node again")),
    };
    sql.end().await;
    asked
}

/// A command that gives up while the server still starts has not failed.
async fn start(config: &Config, cancel: &CancellationToken) -> Result<()> {
    let limit = Limit { time: config.start_within, setting: "start_within" };
    match command::run(&config.start, &[], limit, cancel).await {
        Err(error) if is_running(&config.root).await? => {
            tracing::warn!(error = %error.chain(), "engine.start failed, and the server runs: it is waited for");
            Ok(())
        }
        Err(error) => {
            Err(error.with_hint("engine.start is to start the server; its log may say why it does not"))
        }
        Ok(()) => Ok(()),
    }
}

async fn is_running(root: &Path) -> Result<bool> {
    let root = root.to_owned();
    blocking(move || Ok(running(&root).is_some())).await
}

/// Half restored, to be started yet, or on its way along the log. Blocks.
pub(super) fn recovers(root: &Path) -> bool {
    let signs = ["recovery.signal", "standby.signal", "backup_label", crate::restore::UNFINISHED];
    signs.iter().any(|name| root.join(name).symlink_metadata().is_ok())
}

/// Whether the server here is the one that is written: by its files, because this is asked every few seconds. Blocks.
pub(super) fn is_primary(root: &Path) -> bool {
    !recovers(root)
        && running(root).is_some()
        && control::Control::read(root).is_ok_and(|control| control.in_production)
}
