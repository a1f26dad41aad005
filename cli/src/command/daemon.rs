//! `palinurus coordinator` and `palinurus agent`: the processes that run until they are told to stop.
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};
use tokio_util::sync::CancellationToken;

use crate::exit::Outcome;
use crate::output::Output;
use crate::{config, logging, signal};

#[derive(Debug, clap::Args)]
pub(crate) struct Daemon {
    /// TOML; deploy/config/ has commented ones.
    #[arg(long)]
    config: PathBuf,
    /// End when standard input does: for a parent that must not leave children behind.
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

impl Daemon {
    fn cancel(&self) -> Result<CancellationToken> {
        let cancel = signal::cancel_on_signal()?;
        if self.until_stdin_closes {
            let cancel = cancel.clone();
            // A thread of its own that nobody waits for: no signal ends a read.
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while std::io::stdin().lock().read(&mut buffer).is_ok_and(|read| read > 0) {}
                cancel.cancel();
            });
        }
        Ok(cancel)
    }
}

pub(crate) async fn coordinator(
    daemon: Daemon,
    insecure_plaintext: bool,
    output: &Output,
) -> Result<Outcome> {
    logging::start(output, "info");
    let config = config::coordinator(&daemon.config)?;
    refuse_open_plaintext(&config.listen, insecure_plaintext)?;
    let state = config.state.clone();
    let cancel = daemon.cancel()?;
    let server = palinurus_coordinator::Server::start(config, cancel).await?;
    write_address(&state, &server.local_addr().to_string())?;
    output.note(format!("the coordinator listens on {}", server.local_addr()));
    server.join().await?;
    Ok(Outcome::Done)
}

pub(crate) async fn agent(daemon: Daemon, output: &Output) -> Result<Outcome> {
    logging::start(output, "info");
    let config = config::agent(&daemon.config, output)?;
    let cancel = daemon.cancel()?;
    palinurus_agent::run(config, cancel).await?;
    Ok(Outcome::Done)
}

/// Nothing is encrypted yet, so nobody but this machine may listen in unless somebody says so.
pub(crate) fn refuse_open_plaintext(listen: &str, insecure_plaintext: bool) -> Result<()> {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if loopback || insecure_plaintext {
        return Ok(());
    }
    Err(Error::denied(format!("listening on {listen} would let other machines in, and nothing is encrypted"))
        .with_hint("listen on 127.0.0.1, or say --insecure-plaintext on a network that you trust"))
}

/// For whoever started it with port 0. Whole or not there.
pub(crate) fn write_address(state: &Path, address: &str) -> Result<()> {
    let file = state.join("address");
    let failed = |error| Error::io(format!("write {}", file.display()), error);
    let mut new = tempfile::NamedTempFile::new_in(state).map_err(failed)?;
    writeln!(new, "{address}").map_err(failed)?;
    new.persist(&file).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_stays_on_this_machine() {
        for listen in ["127.0.0.1:7410", "localhost:0", "[::1]:7410"] {
            refuse_open_plaintext(listen, false).unwrap();
        }
        for listen in ["0.0.0.0:7410", "[::]:7410", "10.1.2.3:1", "db.example:7410"] {
            assert!(refuse_open_plaintext(listen, false).is_err(), "{listen}");
            refuse_open_plaintext(listen, true).unwrap();
        }
    }
}
