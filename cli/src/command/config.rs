use std::path::PathBuf;

use palinurus_repository::Result;
use serde::Serialize;

use crate::config::{self, Setting};
use crate::exit::Outcome;
use crate::output::{Output, table};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Prints the settings in force and where each was said. Reads no key and starts nothing.
    Check { kind: Kind, file: PathBuf },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Kind {
    Coordinator,
    Agent,
}

#[derive(Serialize)]
struct Settings {
    settings: Vec<Setting>,
}

pub(crate) fn run(verb: &Verb, output: &Output) -> Result<Outcome> {
    let Verb::Check { kind, file } = verb;
    let environment = config::environment();
    let settings = match kind {
        Kind::Coordinator => config::settings(file, &config::coordinator(file)?, &environment)?,
        Kind::Agent => config::settings(file, &config::agent(file, output)?, &environment)?,
    };
    output.data(&Settings { settings }, show);
    Ok(Outcome::Done)
}

fn show(all: &Settings) -> String {
    let row =
        |setting: &Setting| vec![setting.name.clone(), setting.value.to_string(), setting.source.clone()];
    let rows: Vec<Vec<String>> = all.settings.iter().map(row).collect();
    table(&["SETTING", "VALUE", "SOURCE"], &[], &rows)
}
