//! The coordinator as a process of its own.
use std::path::PathBuf;

use clap::Parser;
use palinurus_coordinator::{Config, Server};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[derive(Debug, Parser)]
#[command(version, about = "Plans backups and restores, assigns the work to agents, and keeps the record")]
struct Arguments {
    /// The configuration file
    #[arg(long, default_value = "/etc/palinurus/coordinator.toml")]
    config: PathBuf,
    /// Encrypt nothing, for callers on this machine only
    #[arg(long)]
    insecure_plaintext: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env("PALINURUS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let config = Config::load(&arguments.config)?;
    config.check_plaintext(arguments.insecure_plaintext)?;
    let cancel = CancellationToken::new();
    let server = Server::start(config, cancel.clone()).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        cancel.cancel();
    });
    Ok(server.join().await?)
}
