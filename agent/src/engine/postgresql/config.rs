//! The `[engine]` table of the postgresql engine.
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use palinurus_repository::{Entropy, Error, Result};
use serde::{Deserialize, Serialize};

use super::client::Password;
use crate::config::human;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The data directory: what `show data_directory` says.
    pub root: PathBuf,
    /// The directory of the server's socket, or a loopback address.
    #[serde(default = "host")]
    pub host: String,
    #[serde(default = "port")]
    pub port: u16,
    /// May replicate, and begin and end backups.
    #[serde(default = "user")]
    pub user: String,
    #[serde(default = "database")]
    pub database: String,
    /// Its first line. Not needed where the server trusts the socket's peer.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    #[serde(default = "connect_timeout", with = "human")]
    pub connect_timeout: Duration,
    /// How long the server may take to send the WAL that a backup needs, once it has been told to end it.
    #[serde(default = "wal_timeout", with = "human")]
    pub wal_timeout: Duration,
    /// What the WAL written during a backup may take of the state directory's disk.
    #[serde(default = "wal_spool_mib")]
    pub wal_spool_mib: u64,
    /// Store the WAL as it is written. The server keeps in a replication slot what is not stored yet.
    #[serde(default)]
    pub archive: bool,
    /// The longest that a commit waits until it is stored.
    #[serde(default = "archive_interval", with = "human")]
    pub archive_interval: Duration,
    /// Where a restore puts tablespaces, by oid; those not named go where they were.
    #[serde(default)]
    pub tablespaces: BTreeMap<String, PathBuf>,
}

fn host() -> String {
    "/var/run/postgresql".into()
}

fn port() -> u16 {
    5432
}

fn user() -> String {
    "postgres".into()
}

fn database() -> String {
    "postgres".into()
}

fn connect_timeout() -> Duration {
    Duration::from_secs(10)
}

fn wal_timeout() -> Duration {
    Duration::from_secs(300)
}

fn wal_spool_mib() -> u64 {
    65_536
}

fn archive_interval() -> Duration {
    Duration::from_secs(1)
}

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Socket(PathBuf),
    Tcp(SocketAddr),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// How to get in.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) config: Config,
    pub(super) entropy: Arc<dyn Entropy>,
}

impl Access {
    pub(super) fn password(&self) -> Result<Password> {
        let Some(path) = &self.config.password_file else {
            return Err(Error::denied(format!(
                "PostgreSQL asks for a password of user {:?}",
                self.config.user
            ))
            .with_hint("set engine.password_file, or let pg_hba.conf trust the peer of the socket"));
        };
        Password::read(path)
    }
}

impl Config {
    pub(super) fn read(table: toml::Table) -> Result<Self> {
        let config: Config = table.try_into().map_err(|e: toml::de::Error| {
            Error::invalid(format!("engine: {}", e.to_string().trim_end()))
                .with_hint("see docs/engines/postgresql.md for every key")
        })?;
        let paths = [("root", Some(&config.root)), ("password_file", config.password_file.as_ref())];
        let tablespaces = config.tablespaces.values().map(|path| ("tablespaces", Some(path)));
        for (name, path) in paths.into_iter().chain(tablespaces) {
            if path.is_some_and(|path| !path.is_absolute()) {
                return Err(Error::invalid(format!("engine.{name} {path:?} is not an absolute path")));
            }
        }
        if let Some(name) = config.tablespaces.keys().find(|oid| oid.parse::<u32>().is_err()) {
            return Err(Error::invalid(format!(
                "engine.tablespaces: {name:?} is not the oid of a tablespace"
            ))
            .with_hint("select oid, spcname from pg_tablespace"));
        }
        if config.archive_interval < Duration::from_millis(100) {
            return Err(Error::invalid("engine.archive_interval is below 100 ms")
                .with_hint("an object of the store is written each time: 1s is usual"));
        }
        config.address()?;
        Ok(config)
    }

    pub(super) fn address(&self) -> Result<Address> {
        if self.host.starts_with('/') {
            return Ok(Address::Socket(Path::new(&self.host).join(format!(".s.PGSQL.{}", self.port))));
        }
        let ip = match self.host.as_str() {
            "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host => host.parse::<IpAddr>().ok().filter(IpAddr::is_loopback),
        };
        // What is said to the server is not encrypted, and its files are read on this machine anyway.
        ip.map(|ip| Address::Tcp(SocketAddr::new(ip, self.port))).ok_or_else(|| {
            Error::invalid(format!(
                "engine.host {:?} is neither a socket's directory nor a loopback address",
                self.host
            ))
            .with_hint("the agent runs beside the server: host = \"/var/run/postgresql\" or \"127.0.0.1\"")
        })
    }

    /// For messages.
    pub(super) fn place(&self) -> String {
        self.address().map_or_else(|_| self.host.clone(), |address| address.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_cannot_use() {
        let read = |text: &str| Config::read(text.parse().unwrap());
        let config = read("root = '/d'").unwrap();
        assert_eq!(config.place(), "/var/run/postgresql/.s.PGSQL.5432");
        assert_eq!(read("root = '/d'\nhost = 'localhost'\nport = 1").unwrap().place(), "127.0.0.1:1");
        for (bad, word) in [
            ("root = 'd'", "root"),
            ("", "root"),
            ("root = '/d'\npassword = 'x'", "password"),
            ("root = '/d'\npassword_file = 'x'", "password_file"),
            ("root = '/d'\nhost = 'db.example'", "host"),
            ("root = '/d'\nhost = '10.0.0.1'", "host"),
            ("root = '/d'\ntablespaces = { fast = '/x' }", "fast"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.what().contains(word), "{bad}: {error:?}");
        }
    }
}
