//! The agent as a program of its own.
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use palinurus_agent::Config;
use palinurus_repository::{Error, ErrorKind};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Runs beside a database and does what the coordinator asks: snapshots, uploads, restores.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "wal-get --state DIR NAME PATH, wal-push [--state DIR] PATH: run by a database, see docs/engines/postgresql.md"
)]
struct Arguments {
    /// The configuration, over which `PALINURUS_SECTION__KEY` of the environment lies.
    #[arg(long, default_value = "/etc/palinurus/agent.toml")]
    config: PathBuf,
}

fn main() -> ExitCode {
    // Before all else: what it ends with is read by a database.
    let command = || std::env::args_os();
    if let Some(code) =
        palinurus_agent::log_command(command()).or_else(|| palinurus_agent::drill_command(command()))
    {
        return ExitCode::from(code);
    }
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("PALINURUS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("start the runtime", e))
        .and_then(|runtime| runtime.block_on(run(arguments)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(hint = error.hint().unwrap_or_default(), "{}", error.chain());
            ExitCode::from(exit_code(error.kind()))
        }
    }
}

async fn run(arguments: Arguments) -> palinurus_repository::Result<()> {
    // Of the process, not of the configuration.
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let (config, warnings) = Config::load(
        &arguments.config,
        std::env::vars_os().filter_map(text).filter(|(name, _)| name != "PALINURUS_LOG"),
    )?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let cancel = CancellationToken::new();
    let listen = |kind| signal(kind).map_err(|e| Error::io("listen for signals", e));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let asked = cancel.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        asked.cancel();
    });
    palinurus_agent::run(config, cancel).await
}

/// As the `palinurus` command's.
fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Conflict | ErrorKind::Fenced => 4,
        ErrorKind::Unavailable => 5,
        ErrorKind::Corrupt => 6,
        ErrorKind::Denied => 7,
        ErrorKind::Invalid => 2,
        ErrorKind::NotFound | ErrorKind::Internal => 1,
    }
}
