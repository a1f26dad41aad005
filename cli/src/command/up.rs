//! Coordinator and agent in one process, for one directory: everything but the wire between machines.
use std::fs::File;
use std::path::{Path, PathBuf};

use palinurus_coordinator::Server;
use palinurus_proto::{from_status, v1};
use palinurus_repository::{Error, ErrorKind, KeyFile, Result, SystemClock, SystemEntropy};
use rustix::fs::{FlockOperation, flock};
use tokio_util::task::AbortOnDropHandle;

use crate::command::daemon;
use crate::exit::Outcome;
use crate::home::{self, make_dir};
use crate::identities::Identities;
use crate::output::Output;
use crate::{Global, client, logging, signal};

const NODE: &str = "local";

#[derive(Debug, clap::Args)]
pub(crate) struct Up {
    /// The directory to back up.
    #[arg(long)]
    data: PathBuf,
    /// Where backups are kept: file:///path.
    #[arg(long, value_name = "URL")]
    repository: Option<String>,
    /// The service's name.
    #[arg(long, default_value = "default")]
    name: String,
    /// Port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:7410")]
    listen: String,
}

pub(crate) async fn run(up: Up, global: &Global, output: &Output) -> Result<Outcome> {
    let config =
        palinurus_coordinator::Config { name: "up".into(), listen: up.listen.clone(), ..Default::default() };
    if !config.stays_on_this_machine() {
        return Err(Error::denied(format!("listening on {} would let other machines in", up.listen))
            .with_hint("`up` is for this one alone; `palinurus coordinator` and `agent` are for several: docs/operations/install.md"));
    }
    logging::start(output, "warn");
    let data =
        up.data.canonicalize().map_err(|error| Error::io(format!("open {}", up.data.display()), error))?;
    if !data.is_dir() {
        return Err(Error::invalid(format!("{} is no directory", data.display())));
    }
    let state = make_state(global.state.clone())?;
    if state.starts_with(&data) || data.starts_with(&state) {
        return Err(Error::invalid(format!(
            "the state {} and the data {} lie in one another",
            state.display(),
            data.display()
        ))
        .with_hint("name another place with --state DIR"));
    }
    let _lock = lock(&state)?;
    let key = operator_key(&state, output)?;
    let repository = match up.repository {
        Some(url) => url,
        None => format!("file://{}", make_dir(&state.join("repository"))?.display()),
    };

    let identities = match global.insecure_plaintext {
        true => None,
        false => Some(Identities::new(state.join("certs"), &up.listen, &up.name, &[NODE])),
    };
    if let Some(identities) = &identities {
        identities.keep(&SystemClock)?.iter().for_each(|done| output.note(done));
    }

    let cancel = signal::cancel_on_signal()?;
    let config = palinurus_coordinator::Config {
        state: make_dir(&state.join("coordinator"))?,
        keys: vec![key.clone().into()],
        tls: identities.as_ref().map(Identities::coordinator).unwrap_or_default(),
        ..config
    };
    let server = Server::start(config, cancel.child_token()).await?;
    let address = server.local_addr().to_string();
    daemon::write_address(&state.join("coordinator"), &address)?;
    let (server_url, mut client) = match &identities {
        Some(identities) => {
            let url = format!("https://{address}");
            identities.write_file(&state, &url)?;
            (url, client::connect(&Global { state: Some(state.clone()), ..Global::default() }).await?)
        }
        None => {
            output.warn("nothing is encrypted, and whoever is on this machine may do everything");
            // The command is not to find, unasked, what encrypts nothing.
            client::File::remove(&state)?;
            let url = format!("http://{address}");
            let client = client::dial(&url).await?;
            (url, client)
        }
    };
    let service = v1::Service {
        name: up.name.clone(),
        r#type: "files".into(),
        repository: repository.clone(),
        nodes: vec![v1::NodeSpec { name: NODE.into(), ..Default::default() }],
        ..Default::default()
    };
    client
        .apply_service(v1::ApplyServiceRequest { service: Some(service), ..Default::default() })
        .await
        .map_err(from_status)?;
    let mut agent = agent_config(&up.name, &server_url, &make_dir(&state.join("agent"))?, &key, &data)?;
    agent.tls = identities.as_ref().map(|identities| identities.agent(NODE)).unwrap_or_default();
    let mut agent = tokio::spawn(palinurus_agent::run(agent, cancel.child_token()));
    let _keeping = identities.map(|identities| {
        AbortOnDropHandle::new(tokio::spawn(identities.keep_on(SystemClock, cancel.child_token())))
    });

    let found = match global.insecure_plaintext {
        true => format!(" --server {server_url}"),
        false if client::File::is_found(global, &state)? => String::new(),
        false => format!(" --state {}", state.display()),
    };
    say_what_next(output, &data, &repository, &found);
    let ended = tokio::select! {
        biased;
        () = cancel.cancelled() => None,
        ended = &mut agent => Some(ended),
    };
    output.note("ending ...");
    cancel.cancel();
    let agent = match ended {
        Some(ended) => ended,
        None => agent.await,
    };
    server.join().await?;
    agent.map_err(|error| Error::internal("the agent died").with_source(error))??;
    Ok(Outcome::Done)
}

fn make_state(named: Option<PathBuf>) -> Result<PathBuf> {
    let state = match named {
        Some(state) => state,
        None => home::default().ok_or_else(|| {
            Error::invalid("there is neither XDG_STATE_HOME nor HOME")
                .with_hint("name a directory with --state DIR")
        })?,
    };
    make_dir(&state)?;
    state.canonicalize().map_err(|error| Error::io(format!("open {}", state.display()), error))
}

/// Held until the process ends, whichever way.
fn lock(state: &Path) -> Result<File> {
    let path = state.join("lock");
    let failed = |error| Error::io(format!("open {}", path.display()), error);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Error::conflict(format!("another `palinurus up` runs with the state in {}", state.display()))
                .with_hint("use that one, or give this one a state of its own with --state DIR"))
        }
        Err(error) => Err(failed(error.into())),
    }
}

fn operator_key(state: &Path, output: &Output) -> Result<PathBuf> {
    let path = state.join("operator.key");
    match KeyFile::read(&path) {
        Ok((_, warning)) => {
            if let Some(warning) = warning {
                output.warn(warning);
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            KeyFile::generate(&SystemEntropy::new())?.write(&path)?;
            output.note(format!(
                "made the key {}\nkeep a copy of it away from this machine: without it no backup can be read",
                path.display()
            ));
        }
        Err(error) => return Err(error),
    }
    Ok(path)
}

fn agent_config(
    service: &str,
    server: &str,
    state: &Path,
    key: &Path,
    data: &Path,
) -> Result<palinurus_agent::config::Config> {
    let mut engine = toml::Table::new();
    engine.insert("type".into(), "files".into());
    engine.insert("root".into(), home::text(data)?.into());
    Ok(palinurus_agent::config::Config {
        service: service.to_owned(),
        node: NODE.into(),
        coordinator: vec![server.to_owned()],
        state: state.to_owned(),
        keys: vec![key.into()],
        engine,
        ..Default::default()
    })
}

fn say_what_next(output: &Output, data: &Path, repository: &str, found: &str) {
    output.note(format!(
        "palinurus is up: {} is backed up to {repository}\n\
         in another terminal:\n  \
           palinurus{found} backup start\n  \
           palinurus{found} backup list\n  \
           palinurus{found} restore plan latest --delta\n\
         Ctrl-C ends it",
        data.display()
    ));
}
