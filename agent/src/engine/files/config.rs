//! The `[engine]` table of the files engine.
use std::path::PathBuf;
use std::time::Duration;

use palinurus_repository::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::config::human;
use crate::source::Class;
use crate::walk::Rules;

/// Globs are relative to `root`; see `walk/rules.rs` for what they mean.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The data directory.
    pub root: PathBuf,
    /// None: everything.
    #[serde(default)]
    pub include: Vec<String>,
    /// Wins over `include`.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// May change at any time: the default, so this only takes files out of the lists below.
    #[serde(default)]
    pub mutable: Vec<String>,
    /// Dumps and archives, whose bytes shift.
    #[serde(default)]
    pub opaque: Vec<String>,
    /// Pages written in place.
    #[serde(default)]
    pub paged: Vec<Paged>,
    /// Grow at their end only.
    #[serde(default)]
    pub append_only: Vec<String>,
    /// Never change once they are there.
    #[serde(default)]
    pub immutable: Vec<String>,
    /// Enter file systems that are mounted below the root.
    #[serde(default)]
    pub cross_file_systems: bool,
    /// Where immutable and append-only files are hard-linked, on the file system of the root. By default
    /// `.palinurus` in the root.
    #[serde(default)]
    pub snapshot_dir: Option<PathBuf>,
    /// Program and arguments that make the data stand still. `PALINURUS_OPERATION` names the backup.
    #[serde(default)]
    pub freeze_command: Vec<String>,
    /// Undoes it. Also run when nothing is frozen: it must not mind.
    #[serde(default)]
    pub thaw_command: Vec<String>,
    /// For each of the two.
    #[serde(default = "freeze_timeout", with = "human")]
    pub freeze_timeout: Duration,
    /// Program and arguments that say whether restored data is in use again, by their exit.
    #[serde(default)]
    pub probe_command: Vec<String>,
    #[serde(default = "probe_timeout", with = "human")]
    pub probe_timeout: Duration,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paged {
    pub glob: String,
    pub page_size: u32,
}

fn freeze_timeout() -> Duration {
    Duration::from_secs(30)
}

fn probe_timeout() -> Duration {
    Duration::from_secs(60)
}

impl Config {
    pub(super) fn read(table: toml::Table) -> Result<Self> {
        let config: Config = table.try_into().map_err(|e: toml::de::Error| {
            Error::invalid(format!("engine: {}", e.to_string().trim_end()))
                .with_hint("see deploy/config/agent.toml for every key")
        })?;
        if !config.root.is_absolute() {
            return Err(Error::invalid(format!("engine.root {:?} is not an absolute path", config.root)));
        }
        if config.snapshot_dir.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err(Error::invalid(format!(
                "engine.snapshot_dir {:?} is not an absolute path",
                config.snapshot_dir
            )));
        }
        if config.freeze_command.is_empty() != config.thaw_command.is_empty() {
            return Err(Error::invalid(
                "engine.freeze_command and engine.thaw_command: one without the other",
            )
            .with_hint("what is frozen must be thawed: give both or neither"));
        }
        for (name, timeout) in
            [("freeze_timeout", config.freeze_timeout), ("probe_timeout", config.probe_timeout)]
        {
            if timeout.is_zero() {
                return Err(Error::invalid(format!("engine.{name} is zero")));
            }
        }
        Ok(config)
    }

    /// The most careful class first: it wins where lists overlap.
    pub(super) fn rules(&self) -> Result<Rules> {
        let mut rules = Rules::new(&self.include, &self.exclude)?
            .class("mutable", &self.mutable, Class::Mutable)?
            .class("opaque", &self.opaque, Class::Opaque)?;
        for paged in &self.paged {
            rules = rules.class("paged", std::slice::from_ref(&paged.glob), Class::Paged(paged.page_size))?;
        }
        rules.class("append_only", &self.append_only, Class::AppendOnly)?.class(
            "immutable",
            &self.immutable,
            Class::Immutable,
        )
    }

    pub(super) fn wants_links(&self) -> bool {
        !self.append_only.is_empty() || !self.immutable.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config> {
        Config::read(text.parse().unwrap())
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let config =
            read("root = '/d'\npaged = [{ glob = 'base/**', page_size = 8192 }]\nimmutable = ['*.sst']")
                .unwrap();
        assert_eq!(config.rules().unwrap().class_of(b"base/1.sst"), Class::Paged(8192));
        assert!(config.wants_links());
        for (bad, word) in [
            ("", "root"),
            ("root = 'd'", "absolute"),
            ("root = '/d'\nrot = 1", "rot"),
            ("root = '/d'\nfreeze_command = ['x']", "thaw_command"),
            ("root = '/d'\nfreeze_timeout = 'soon'", "soon"),
            ("root = '/d'\nprobe_timeout = '0s'", "probe_timeout is zero"),
            ("root = '/d'\nsnapshot_dir = 'x'", "snapshot_dir"),
            ("root = '/d'\npaged = [{ glob = 'x' }]", "page_size"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.what().contains(word), "{error:?}");
        }
        assert!(read("root = '/d'\nexclude = ['/x']").unwrap().rules().is_err());
        assert!(read("root = '/d'\npaged = [{ glob = 'x', page_size = 100 }]").unwrap().rules().is_err());
    }
}
