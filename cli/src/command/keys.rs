use std::path::{Path, PathBuf};

use palinurus_repository::{Error, KeyFile, Result, SystemEntropy};
use serde::Serialize;

use crate::exit::Outcome;
use crate::output::Output;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Makes an operator key. Keep a copy away from what it protects: without it the backups are lost.
    Generate {
        /// Made new, readable by its owner only; never overwritten.
        file: PathBuf,
    },
}

#[derive(Serialize)]
struct Generated {
    key: String,
    file: PathBuf,
}

pub(crate) fn run(verb: &Verb, output: &Output) -> Result<Outcome> {
    let Verb::Generate { file } = verb;
    let key = KeyFile::generate(&SystemEntropy::new())?;
    key.write(file)?;
    let made = Generated { key: key.id.to_string(), file: file.clone() };
    output.data(&made, |made| format!("{}  {}", made.key, made.file.display()));
    output.note("keep a copy of this file somewhere safe: without it no backup made with it can be read");
    Ok(Outcome::Done)
}

/// Reads key files and passes on what is wrong with their permissions.
pub(crate) fn read_all(files: &[PathBuf], output: &Output) -> Result<Vec<KeyFile>> {
    if files.is_empty() {
        return Err(Error::invalid("no key file is named").with_hint("name one with --keys FILE"));
    }
    files.iter().map(|file| read(file, output)).collect()
}

fn read(file: &Path, output: &Output) -> Result<KeyFile> {
    let (key, warning) = KeyFile::read(file)?;
    if let Some(warning) = warning {
        output.warn(warning);
    }
    Ok(key)
}
