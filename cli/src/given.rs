//! The operator keys that a command is given.
use std::path::{Path, PathBuf};
use std::time::Duration;

use palinurus_repository::{Error, KeyFile, KeySource, Result};

use crate::output::Output;

/// Somebody may have to type a PIN first.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(crate) struct Given {
    /// An operator key file; may be repeated.
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Vec<PathBuf>,
    /// A command that prints an operator key, such as a vault's client. Run without a shell, its arguments split at
    /// blanks; may be repeated.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) key_command: Vec<String>,
}

/// A key, and where it came from.
#[derive(Debug)]
pub(crate) struct GivenKey {
    pub(crate) key: KeyFile,
    pub(crate) from: String,
}

impl Given {
    pub(crate) fn sources(&self) -> Vec<KeySource> {
        let files = self.keys.iter().map(|file| KeySource::from(file.as_path()));
        let commands = self.key_command.iter().map(|line| {
            KeySource::command(line.split_whitespace().map(str::to_owned).collect(), COMMAND_LIMIT)
        });
        files.chain(commands).collect()
    }

    /// All of them: a name that is wrong is said, whatever the others are.
    pub(crate) async fn read(&self, output: &Output) -> Result<Vec<GivenKey>> {
        let mut given = Vec::new();
        for source in self.sources() {
            source.check()?;
            given.push(read(&source, output).await?);
        }
        if given.is_empty() {
            return Err(Error::invalid("no key is named").with_hint("name one with --keys FILE"));
        }
        Ok(given)
    }
}

pub(crate) async fn read_file(file: &Path, output: &Output) -> Result<GivenKey> {
    read(&KeySource::from(file), output).await
}

/// Passes on what is wrong with the file's permissions.
async fn read(source: &KeySource, output: &Output) -> Result<GivenKey> {
    let (key, warning) = source.read().await?;
    if let Some(warning) = warning {
        output.warn(warning);
    }
    Ok(GivenKey { key, from: source.to_string() })
}
