//! What the operator says: one TOML file, over it the environment (`PALINURUS_SECTION__KEY`). Settings only;
//! clocks, engines and connections come through constructors.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use palinurus_identity::TlsConfig;
use palinurus_repository::id::check_name;
use palinurus_repository::{Error, KeySource, Result};
use serde::{Deserialize, Serialize};

use crate::pace::{self, Rates};

pub(crate) mod address;
mod environment;
pub(crate) mod human;

/// Workers by default: more hardly help one disk, and each needs a pack buffer.
const WORKERS_DEFAULT: usize = 4;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The service that this node is a member of, as the coordinator knows it.
    pub service: String,
    /// This node's name in the service.
    pub node: String,
    /// Every coordinator, as `http://host:port`; the leader is found among them.
    pub coordinator: Vec<String>,
    /// Owned by the agent alone: its identity, the journal of its tasks, lists of what it snapshots.
    pub state: PathBuf,
    /// Where Prometheus may ask, such as "127.0.0.1:9411"; empty: nowhere.
    pub metrics: String,
    /// The operator's keys, or commands that print one; any of them may open the repository.
    pub keys: Vec<KeySource>,
    /// `type` names the engine; the rest is the engine's own, see its module.
    pub engine: toml::Table,
    pub limits: Limits,
    pub session: Session,
    /// Restores for proof, which the coordinator asks for.
    pub drill: Drill,
    /// What this node shows coordinators, and proves them by; empty: only one on this machine is dialled.
    pub tls: TlsConfig,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Threads that read, compress and seal; 0: one a core, at most 4.
    pub workers: usize,
    /// Packs in memory, each of about 34 MiB; 0: two more than workers.
    pub pack_buffers: usize,
    pub zstd_level: i32,
    /// Step by step, while packs wait for the store; less than `zstd_level`: never above that.
    pub zstd_level_most: i32,
    /// Bytes a second, such as "50MiB": read from the disk by a backup, sent to the store, and received from it by a
    /// restore, a drill or a check. Empty: no limit. What the operator says of the node goes over these.
    pub read: String,
    pub send: String,
    pub receive: String,
    /// Of one processor, such as "50%" or "150%", by all tasks together; empty: no limit.
    pub cpu: String,
    /// Read without filling the page cache, which is the database's; needs Linux 6.14.
    pub spare_page_cache: bool,
}

/// How a backup is restored for proof, beside the data.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drill {
    /// Where; empty: in the state directory.
    pub scratch: PathBuf,
    /// SQL that the restored database is asked, and nobody else: it fails, or its first value is false, and the drill fails.
    pub probe: Vec<String>,
    /// Of the restored database's server, such as `shared_preload_libraries`.
    pub settings: BTreeMap<String, String>,
}

/// How the agent keeps in touch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Session {
    #[serde(with = "human")]
    pub connect_timeout: Duration,
    #[serde(with = "human")]
    pub keep_alive: Duration,
    /// Between attempts to reach a coordinator: from the first to the second, doubling, each drawn at random.
    #[serde(with = "human")]
    pub retry_min: Duration,
    #[serde(with = "human")]
    pub retry_max: Duration,
    /// After a coordinator refused this agent: only an operator can change that.
    #[serde(with = "human")]
    pub retry_refused: Duration,
    /// Between reports of a running task's progress.
    #[serde(with = "human")]
    pub progress: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            service: String::new(),
            node: String::new(),
            coordinator: vec!["http://127.0.0.1:7410".into()],
            state: "/var/lib/palinurus/agent".into(),
            metrics: String::new(),
            keys: vec!["/etc/palinurus/operator.key".into()],
            engine: toml::Table::new(),
            limits: Limits::default(),
            session: Session::default(),
            drill: Drill::default(),
            tls: TlsConfig::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let none = String::new;
        Self {
            workers: 0,
            pack_buffers: 0,
            zstd_level: 1,
            zstd_level_most: 2,
            read: none(),
            send: none(),
            receive: none(),
            cpu: none(),
            spare_page_cache: true,
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            keep_alive: Duration::from_secs(5),
            retry_min: Duration::from_millis(250),
            retry_max: Duration::from_secs(10),
            retry_refused: Duration::from_secs(30),
            progress: Duration::from_millis(500),
        }
    }
}

impl Config {
    /// Reads the file and lays the environment over it. Also says what looks wrong but is no error.
    pub fn load(
        path: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Config, Vec<String>)> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::io(format!("read configuration {}", path.display()), e)
                .with_hint("name the agent's configuration with --config")
        })?;
        Self::parse(&text, environment).map_err(|e| {
            let what = format!("configuration {}: {}", path.display(), e.what());
            let hint = e.hint().map(str::to_owned);
            let error = Error::new(e.kind(), what);
            if let Some(hint) = hint { error.with_hint(hint) } else { error }
        })
    }

    pub fn parse(
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Config, Vec<String>)> {
        let mut table: toml::Table = text.parse().map_err(|e| unusable(&e))?;
        // The file alone first: its errors then name the line.
        let _: Config = toml::from_str(text).map_err(|e| unusable(&e))?;
        let template = toml::Table::try_from(Config::default())
            .map_err(|e| Error::internal("the default configuration").with_source(e))?;
        let warnings = environment::overlay(&mut table, &template, environment)?;
        let config: Config = table.try_into().map_err(|e| unusable(&e))?;
        config.check()?;
        Ok((config, warnings))
    }

    /// What no agent can run with.
    pub fn check(&self) -> Result<()> {
        check_name("service", &self.service).map_err(|e| say_where(e, "service"))?;
        check_name("node", &self.node).map_err(|e| say_where(e, "node"))?;
        if self.coordinator.is_empty() {
            return Err(Error::invalid("no coordinator").with_hint("coordinator = [\"http://host:7410\"]"));
        }
        self.tls.check()?;
        for address in &self.coordinator {
            address::check(address, self.tls.in_use())?;
        }
        if self.keys.is_empty() {
            return Err(Error::invalid("no keys").with_hint("keys = [\"/etc/palinurus/operator.key\"]"));
        }
        self.keys.iter().try_for_each(KeySource::check)?;
        if !self.state.is_absolute() {
            return Err(Error::invalid(format!("state {:?} is not an absolute path", self.state)));
        }
        let scratch = &self.drill.scratch;
        if !scratch.as_os_str().is_empty() && !scratch.is_absolute() {
            return Err(Error::invalid(format!("drill.scratch {scratch:?} is not an absolute path")));
        }
        let session = &self.session;
        let pauses = [
            session.retry_min,
            session.retry_max,
            session.retry_refused,
            session.progress,
            session.keep_alive,
        ];
        if pauses.contains(&Duration::ZERO) || session.retry_min > session.retry_max {
            return Err(Error::invalid("session: a time is zero, or retry_min is longer than retry_max"));
        }
        let Limits { zstd_level, zstd_level_most, .. } = self.limits;
        for (name, level) in [("zstd_level", zstd_level), ("zstd_level_most", zstd_level_most)] {
            if !(1..=19).contains(&level) {
                return Err(Error::invalid(format!("limits.{name} {level}")).with_hint("1 to 19"));
            }
        }
        self.limits.rates()?;
        let (workers, buffers) = (self.limits.workers(), self.limits.pack_buffers());
        if workers > 256 || buffers <= workers || buffers > 1024 {
            return Err(Error::invalid(format!("limits: {workers} workers with {buffers} pack buffers"))
                .with_hint("at most 256 workers, and at least one pack buffer more than workers"));
        }
        Ok(())
    }
}

impl Limits {
    /// No more than this process may use: the affinity and the cgroup's `cpu.max` (and `cpu.cfs_quota_us`) are looked at
    /// each time, so the next run fits a quota that has changed.
    pub fn workers(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_DEFAULT),
            given => given,
        }
    }

    pub(crate) fn rates(&self) -> Result<Rates> {
        let Self { read, send, receive, cpu, .. } = self;
        Ok(Rates {
            read: pace::bytes("read", read)?,
            send: pace::bytes("send", send)?,
            receive: pace::bytes("receive", receive)?,
            cpu: pace::percent(cpu)?,
        })
    }

    pub fn pack_buffers(&self) -> usize {
        match self.pack_buffers {
            0 => self.workers() + 2,
            given => given,
        }
    }
}

fn unusable(error: &toml::de::Error) -> Error {
    let hint = "see deploy/config/agent.toml for every key";
    Error::invalid(error.to_string().trim_end().to_owned()).with_hint(hint)
}

fn say_where(error: Error, key: &str) -> Error {
    Error::invalid(format!("{key}: {}", error.what())).with_hint(error.hint().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "service = 'db'\nnode = 'n1'\n[engine]\ntype = 'files'\nroot = '/srv'\n";

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<(Config, Vec<String>)> {
        Config::parse(text, environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn defaults_fill_in() {
        let (config, warnings) = parse(SMALL, &[]).unwrap();
        assert!(warnings.is_empty());
        assert_eq!(config.coordinator, ["http://127.0.0.1:7410"]);
        assert!(config.limits.pack_buffers() > config.limits.workers());
        assert_eq!(config.engine["root"].as_str(), Some("/srv"));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        for (text, word) in [
            (format!("nodes = 'x'\n{SMALL}"), "nodes"),
            (format!("{SMALL}[limits]\nworker = 3\n"), "worker"),
            (format!("{SMALL}[session]\nretry_min = 'soon'\n"), "soon"),
            ("service = ".to_owned(), "line 1"),
        ] {
            let error = parse(&text, &[]).unwrap_err();
            assert!(error.what().contains(word), "{error:?}");
            assert!(error.what().contains("line"), "{error:?}");
        }
    }

    #[test]
    fn what_cannot_run_is_refused() {
        for (from, to) in [
            ("'db'", "'../db'"),
            ("'n1'", "''"),
            ("[engine]", "coordinator = []\n[engine]"),
            ("[engine]", "coordinator = ['ftp://x']\n[engine]"),
            ("[engine]", "coordinator = ['http://10.0.0.1:7410']\n[engine]"),
            ("[engine]", "coordinator = ['https://c:7410']\n[engine]"),
            ("[engine]", "coordinator = ['http://token@127.0.0.1:7410']\n[engine]"),
            ("[engine]", "[tls]\ncertificate = '/c.pem'\n[engine]"),
            ("[engine]", "keys = []\n[engine]"),
            ("[engine]", "keys = [{ command = [] }]\n[engine]"),
            ("[engine]", "state = 'relative'\n[engine]"),
            ("[engine]", "[limits]\nworkers = 4\npack_buffers = 4\n[engine]"),
            ("[engine]", "[limits]\nzstd_level = 30\n[engine]"),
            ("[engine]", "[limits]\nzstd_level_most = 0\n[engine]"),
            ("[engine]", "[limits]\nread = 'fast'\n[engine]"),
            ("[engine]", "[limits]\ncpu = '2'\n[engine]"),
            ("[engine]", "[session]\nprogress = '0s'\n[engine]"),
        ] {
            assert!(parse(&SMALL.replace(from, to), &[]).is_err(), "{to}");
        }
    }

    #[test]
    fn the_environment_lies_over_the_file() {
        let (config, warnings) = parse(
            SMALL,
            &[
                ("PALINURUS_NODE", "7"),
                ("PALINURUS_COORDINATOR", "http://127.0.0.1:1, http://[::1]:2"),
                ("PALINURUS_LIMITS__WORKERS", "2"),
                ("PALINURUS_SESSION__RETRY_MAX", "1min"),
                ("PALINURUS_ENGINE__ROOT", "/other"),
                ("PALINURUS_ENGINE__EXCLUDE", "['*.tmp']"),
                ("PALINURUS_SERVICE_HOST", "10.0.0.1"),
                ("HOME", "/root"),
            ],
        )
        .unwrap();
        assert_eq!((config.node.as_str(), config.limits.workers), ("7", 2));
        assert_eq!(config.coordinator, ["http://127.0.0.1:1", "http://[::1]:2"]);
        assert_eq!(config.session.retry_max, Duration::from_secs(60));
        assert_eq!(config.engine["root"].as_str(), Some("/other"));
        assert_eq!(config.engine["exclude"].as_array().unwrap().len(), 1);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("PALINURUS_SERVICE_HOST"));
        assert!(parse(SMALL, &[("PALINURUS_LIMITS__WORKER", "2")]).is_err());
        assert!(parse(SMALL, &[("PALINURUS_LIMITS__WORKERS", "many")]).is_err());
    }

    #[test]
    fn the_file_that_is_shipped_shows_the_defaults() {
        let text = include_str!("../../deploy/config/agent.toml");
        let shipped = parse(text, &[]).unwrap().0;
        let plain = |line: &str| {
            let key = line.strip_prefix('#')?.split_once(" = ")?.0;
            (key != "snapshot_dir" && !key.contains(' ')).then(|| line[1..].to_owned())
        };
        let spelled: Vec<String> =
            text.lines().map(|line| plain(line).unwrap_or_else(|| line.to_owned())).collect();
        let spelled = parse(&spelled.join("\n"), &[]).unwrap().0;
        let engine = |config: &Config| {
            let mut table = config.engine.clone();
            table.remove("type");
            let config: crate::engine::files::Config = table.try_into().unwrap();
            format!("{config:?}")
        };
        assert_eq!(engine(&shipped), engine(&spelled));
        let rest =
            |config: Config| toml::Table::try_from(Config { engine: toml::Table::new(), ..config }).unwrap();
        assert_eq!(rest(shipped.clone()), rest(spelled));
        let defaults =
            Config { service: shipped.service.clone(), node: shipped.node.clone(), ..Config::default() };
        assert_eq!(rest(shipped), rest(defaults));
    }
}
