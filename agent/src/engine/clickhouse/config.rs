//! The `[engine]` table of the clickhouse engine.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use palinurus_repository::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::config::human;
use crate::engine::settings;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The server's `path`.
    pub root: PathBuf,
    /// Where its HTTP interface listens: a loopback address.
    #[serde(default = "host")]
    pub host: String,
    #[serde(default = "port")]
    pub port: u16,
    /// The server's own, where several servers share the machine: which of a cluster's nodes it is.
    #[serde(default)]
    pub tcp_port: Option<u16>,
    #[serde(default = "user")]
    pub user: String,
    /// Its first line. Without one the user has no password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The server's program, for a server of a drill's own. Without it: that of the running one, or where packages put it.
    #[serde(default)]
    pub server: Option<PathBuf>,
    /// Where users, roles and the like are kept in ZooKeeper. Where the server says so itself it need not be given.
    #[serde(default)]
    pub access_zookeeper_path: Option<String>,
    /// The `path` of the server's `distributed_ddl`: where ZooKeeper has statements `ON CLUSTER`.
    #[serde(default = "ddl_zookeeper_path")]
    pub ddl_zookeeper_path: String,
    /// For one statement: a freeze, or a part attached.
    #[serde(default = "query_timeout", with = "human")]
    pub query_timeout: Duration,
    /// What the rows of tables that cannot be frozen may take of the state directory's disk.
    #[serde(default = "rows_mib")]
    pub rows_mib: u64,
    /// How long a replica may take to have what its peers have: before a freeze, and after a restore.
    #[serde(default = "replica_timeout", with = "human")]
    pub replica_timeout: Duration,
    /// Where the objects of a disk lie that the server has in a store, by the disk's name.
    #[serde(default)]
    pub objects: BTreeMap<String, Objects>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objects {
    /// As of a repository: no secret is in it.
    pub url: String,
}

fn host() -> String {
    "127.0.0.1".into()
}

fn port() -> u16 {
    8123
}

fn user() -> String {
    "default".into()
}

fn ddl_zookeeper_path() -> String {
    "/clickhouse/task_queue/ddl".into()
}

fn query_timeout() -> Duration {
    Duration::from_secs(600)
}

fn rows_mib() -> u64 {
    1024
}

fn replica_timeout() -> Duration {
    Duration::from_secs(300)
}

impl Config {
    pub(super) fn read(table: toml::Table) -> Result<Self> {
        let config: Config = settings::read(table, "clickhouse")?;
        settings::absolute([
            ("root", Some(config.root.as_path())),
            ("password_file", config.password_file.as_deref()),
            ("server", config.server.as_deref()),
        ])?;
        for (name, time) in
            [("query_timeout", config.query_timeout), ("replica_timeout", config.replica_timeout)]
        {
            if time.is_zero() {
                return Err(Error::invalid(format!("engine.{name} is zero")));
            }
        }
        config.address()?;
        Ok(config)
    }

    pub(super) fn address(&self) -> Result<SocketAddr> {
        // The password goes as it is, and the parts are taken from this machine's disk.
        settings::loopback(&self.host).map(|ip| SocketAddr::new(ip, self.port)).ok_or_else(|| {
            Error::invalid(format!("engine.host {:?} is no loopback address", self.host))
                .with_hint("the agent runs beside the server: 127.0.0.1 or ::1")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused() {
        let read = |text: &str| Config::read(text.parse().unwrap());
        let config = read("root = '/d'").unwrap();
        assert_eq!(config.address().unwrap().to_string(), "127.0.0.1:8123");
        for (bad, word) in [
            ("", "root"),
            ("root = 'd'", "absolute"),
            ("root = '/d'\nhost = '10.0.0.1'", "loopback"),
            ("root = '/d'\npassword = 'x'", "password"),
            ("root = '/d'\nquery_timeout = '0s'", "zero"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.what().contains(word), "{error:?}");
        }
    }
}
