//! Where an operator's own settings lie: a file of theirs, or the one that `palinurus up` leaves in its state.
use std::io::Write;
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::{Global, home};

const VARIABLE: &str = "PALINURUS_CLI_CONFIG";
const NAME: &str = "cli.toml";

/// How a coordinator is reached, and who asks it.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    pub(crate) server: String,
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) revoked: PathBuf,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) token_file: PathBuf,
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

impl File {
    /// The operator's: what $PALINURUS_CLI_CONFIG names, or `~/.config/palinurus/cli.toml`.
    pub(super) fn own() -> Result<Option<Self>> {
        if let Some(named) = std::env::var_os(VARIABLE) {
            let named = PathBuf::from(named);
            let missing =
                || Error::not_found(format!("there is no {}, which {VARIABLE} names", named.display()));
            return Self::read(&named)?.ok_or_else(missing).map(Some);
        }
        let config =
            home::absolute("XDG_CONFIG_HOME").or_else(|| Some(home::absolute("HOME")?.join(".config")));
        config.map_or(Ok(None), |config| Self::read(&config.join("palinurus").join(NAME)))
    }

    /// What `palinurus up` has left where it keeps everything.
    pub(super) fn of_state(state: &Path) -> Result<Self> {
        Self::read(&state.join(NAME))?.ok_or_else(|| {
            Error::not_found(format!("no coordinator is named in {}", state.join(NAME).display())).with_hint(
                format!("`palinurus up --data DIR --state {}` writes it when it starts", state.display()),
            )
        })
    }

    pub(super) fn of_default_state() -> Result<Option<Self>> {
        home::default().map_or(Ok(None), |state| Self::read(&state.join(NAME)))
    }

    /// Whether the command finds it where nothing is said.
    pub(crate) fn is_found(global: &Global, state: &Path) -> Result<bool> {
        let named = !global.server.is_empty() || Self::own()?.is_some_and(|own| !own.server.is_empty());
        let default = home::default().and_then(|default| default.canonicalize().ok());
        Ok(!named && default.as_deref() == Some(state))
    }

    /// None: it is not there.
    fn read(path: &Path) -> Result<Option<Self>> {
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map(Some).map_err(|e| {
                Error::invalid(format!("{}: {}", path.display(), e.to_string().trim()))
                    .with_hint("it may say server, ca, certificate, key, revoked and token_file")
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("read {}", path.display()), e)),
        }
    }

    /// Whole or not there.
    pub(crate) fn write(&self, state: &Path) -> Result<()> {
        let path = state.join(NAME);
        let failed = |e| Error::io(format!("write {}", path.display()), e);
        let text = toml::to_string(self).map_err(|e| Error::internal("print the settings").with_source(e))?;
        let mut new = tempfile::NamedTempFile::new_in(state).map_err(failed)?;
        write!(new, "# By `palinurus up`, anew at every start.\n{text}").map_err(failed)?;
        new.persist(&path).map_err(|e| failed(e.error))?;
        Ok(())
    }

    pub(crate) fn remove(state: &Path) -> Result<()> {
        match std::fs::remove_file(state.join(NAME)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", state.join(NAME).display()), e))
            }
            _ => Ok(()),
        }
    }
}
