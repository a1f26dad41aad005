//! Where a setting comes from: the file, over it `PALINURUS_SECTION__KEY` in the environment; what is said nowhere is
//! the documented default.
use std::path::Path;

use palinurus_agent::config::Config as Agent;
use palinurus_coordinator::Config as Coordinator;
use palinurus_repository::{Error, Result};
use serde::Serialize;
use toml::{Table, Value};

use crate::output::Output;

const PREFIX: &str = "PALINURUS_";
/// Of the command, not of a configuration.
const NOT_SETTINGS: [&str; 9] = [
    "PALINURUS_SERVER",
    "PALINURUS_LOG",
    "PALINURUS_CA",
    "PALINURUS_CERT",
    "PALINURUS_CERT_KEY",
    "PALINURUS_REVOKED",
    "PALINURUS_TOKEN_FILE",
    "PALINURUS_TOKEN",
    "PALINURUS_CLI_CONFIG",
];

type Environment = Vec<(String, String)>;

/// Ours, as far as it is UTF-8.
pub(crate) fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with(PREFIX) && !NOT_SETTINGS.contains(&name.as_str()))
        .collect()
}

pub(crate) fn agent(file: &Path, output: &Output) -> Result<Agent> {
    let (config, warnings) = Agent::load(file, environment())?;
    warnings.iter().for_each(|warning| output.warn(warning));
    Ok(config)
}

pub(crate) fn coordinator(file: &Path) -> Result<Coordinator> {
    lay_over(Coordinator::load(file)?, &environment())
}

/// A name that is no setting may be somebody else's: Kubernetes makes such.
fn lay_over(config: Coordinator, environment: &Environment) -> Result<Coordinator> {
    let mut table = to_table(&config)?;
    for (name, text) in environment {
        let path = name[PREFIX.len()..].to_lowercase();
        if let Some(value) = setting(&mut table, &path) {
            *value = value_like(text, value);
        }
    }
    let config: Coordinator = table.try_into().map_err(|error| {
        Error::invalid(format!("a setting in the environment ({PREFIX}...) cannot be used"))
            .with_source(error)
    })?;
    config.check()?;
    Ok(config)
}

/// `key` or `section__key`; not a whole section.
fn setting<'a>(table: &'a mut Table, path: &str) -> Option<&'a mut Value> {
    match path.split_once("__") {
        Some((section, rest)) => setting(table.get_mut(section)?.as_table_mut()?, rest),
        None => table.get_mut(path).filter(|value| !value.is_table()),
    }
}

fn value_like(text: &str, like: &Value) -> Value {
    let parsed = || toml::from_str::<Table>(&format!("value = {text}")).ok()?.remove("value");
    match like {
        Value::String(_) => text.into(),
        Value::Array(_) if !text.trim_start().starts_with('[') => {
            Value::Array(text.split(',').map(|part| part.trim().into()).collect())
        }
        _ => parsed().unwrap_or_else(|| text.into()),
    }
}

#[derive(Serialize)]
pub(crate) struct Setting {
    /// With dots between section and key.
    pub(crate) name: String,
    pub(crate) value: Value,
    /// The file, the environment's variable, or `default`.
    pub(crate) source: String,
}

/// All settings in force, and where each was said.
pub(crate) fn settings<T: Serialize>(
    file: &Path,
    config: &T,
    environment: &Environment,
) -> Result<Vec<Setting>> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::io(format!("read {}", file.display()), error))?;
    let mut in_file = Vec::new();
    let parsed: Table = toml::from_str(&text)
        .map_err(|error| Error::invalid(file.display().to_string()).with_source(error))?;
    leaves("", &parsed, &mut |name, _| in_file.push(name));
    let mut settings = Vec::new();
    leaves("", &to_table(config)?, &mut |name, value| {
        let variable = format!("{PREFIX}{}", name.replace('.', "__").to_uppercase());
        let source = if environment.iter().any(|(set, _)| *set == variable) {
            variable
        } else if in_file.contains(&name) {
            file.display().to_string()
        } else {
            "default".into()
        };
        settings.push(Setting { name, value: value.clone(), source });
    });
    Ok(settings)
}

fn to_table<T: Serialize>(config: &T) -> Result<Table> {
    Table::try_from(config).map_err(|error| Error::internal("print the settings").with_source(error))
}

fn leaves(prefix: &str, table: &Table, found: &mut dyn FnMut(String, &Value)) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(below) => leaves(&name, below, found),
            value => found(name, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(name: &str) -> String {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config").join(name))
            .unwrap()
    }

    /// With every example switched on.
    fn uncommented(text: &str) -> String {
        let setting = |line: &&str| !line.starts_with("# ") && *line != "#" && !line.is_empty();
        text.lines().filter(setting).map(|line| line.trim_start_matches('#').to_owned() + "\n").collect()
    }

    #[test]
    fn the_shipped_coordinator_shows_the_defaults() {
        let text = shipped("coordinator.toml");
        for text in [text.clone(), uncommented(&text)] {
            assert_eq!(Coordinator::parse(&text).unwrap(), Coordinator::default());
        }
    }

    #[test]
    fn the_shipped_agent_shows_the_defaults() {
        let text = shipped("agent.toml");
        let parse = |text: &str| Agent::parse(text, Environment::new()).unwrap().0;
        let (small, mut all) = (parse(&text), parse(&uncommented(&text)));
        // The engine's table is the engine's to judge.
        all.engine = small.engine.clone();
        let default = Agent {
            service: small.service.clone(),
            node: small.node.clone(),
            engine: small.engine.clone(),
            ..Default::default()
        };
        for config in [small, all] {
            assert_eq!(to_table(&config).unwrap(), to_table(&default).unwrap());
        }
    }

    #[test]
    fn the_environment_goes_over_the_file_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "name = 'c'\nhistory = 5\n").unwrap();
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment =
            vec![set("PALINURUS_HISTORY", "7"), set("PALINURUS_KEYS", "/a, /b"), set("PALINURUS_PORT", "x")];
        let config = lay_over(Coordinator::load(&file).unwrap(), &environment).unwrap();
        assert_eq!((config.name.as_str(), config.history, config.keys.len()), ("c", 7, 2));
        let settings = settings(&file, &config, &environment).unwrap();
        let source =
            |name: &str| settings.iter().find(|setting| setting.name == name).unwrap().source.clone();
        assert_eq!(source("name"), file.display().to_string());
        assert_eq!(source("history"), "PALINURUS_HISTORY");
        assert_eq!(source("listen"), "default");
        assert_eq!(source("etcd.lease"), "default");
        assert!(lay_over(Coordinator::default(), &vec![set("PALINURUS_PATIENCE", "soon")]).is_err());
    }

    #[test]
    fn the_environment_goes_over_a_section_too() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "[etcd]\nprefix = 'a/'\nlease = '20s'\n").unwrap();
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = vec![
            set("PALINURUS_ETCD__ENDPOINTS", "http://a:2379, http://b:2379"),
            set("PALINURUS_ETCD__LEASE", "30s"),
            set("PALINURUS_ETCD", "not a setting"),
            set("PALINURUS_ETCD__PORT", "not a setting"),
            set("PALINURUS_NAME__X", "not a setting"),
        ];
        let config = lay_over(Coordinator::load(&file).unwrap(), &environment).unwrap();
        assert_eq!(config.etcd.endpoints, ["http://a:2379", "http://b:2379"]);
        assert_eq!((config.etcd.prefix.as_str(), config.etcd.lease.as_secs()), ("a/", 30));
        let settings = settings(&file, &config, &environment).unwrap();
        let source =
            |name: &str| settings.iter().find(|setting| setting.name == name).unwrap().source.clone();
        assert_eq!(source("etcd.lease"), "PALINURUS_ETCD__LEASE");
        assert_eq!(source("etcd.prefix"), file.display().to_string());
        assert!(lay_over(Coordinator::default(), &vec![set("PALINURUS_ETCD__LEASE", "1s")]).is_err());
    }
}
