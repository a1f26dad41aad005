//! The `[engine]` table of the postgresql engine.
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use palinurus_repository::{Entropy, Error, Result};
use serde::{Deserialize, Serialize};

use super::client::Password;
use crate::config::human;
use crate::engine::settings;

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
    /// Which of several servers is backed up.
    #[serde(default)]
    pub from: From,
    /// Whether the WAL is stored, and how it comes here.
    #[serde(default)]
    pub archive: Archive,
    /// The longest that a commit waits until it is stored.
    #[serde(default = "archive_interval", with = "human")]
    pub archive_interval: Duration,
    /// Where PostgreSQL's programs are, for drills; not needed where a server of the right version runs or is packaged.
    #[serde(default)]
    pub bin: Option<PathBuf>,
    /// Starts the server, for a failover: a program and its arguments. Without it an operator does.
    #[serde(default)]
    pub start: Vec<String>,
    /// How long a failover waits for the server to be started. A recovery that goes on has no limit.
    #[serde(default = "start_within", with = "human")]
    pub start_within: Duration,
    /// How a standby that is made here reaches the primary: the server's own setting of that name.
    #[serde(default)]
    pub primary_conninfo: Option<String>,
    /// Where a restore puts tablespaces, by oid; those not named go where they were.
    #[serde(default)]
    pub tablespaces: BTreeMap<String, PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum From {
    #[default]
    Primary,
    /// No backup where no standby follows.
    Standby,
    PreferStandby,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Archiving", into = "Archiving")]
pub enum Archive {
    #[default]
    Off,
    /// As it is written. The server keeps in a replication slot what is not stored yet.
    Stream,
    /// File by file, as the server's `archive_command` hands it over.
    Push,
}

/// As the settings have it.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "archive is true, false or \"push\"")]
enum Archiving {
    Stream(bool),
    By(By),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum By {
    Push,
}

impl std::convert::From<Archiving> for Archive {
    fn from(setting: Archiving) -> Self {
        match setting {
            Archiving::Stream(false) => Self::Off,
            Archiving::Stream(true) => Self::Stream,
            Archiving::By(By::Push) => Self::Push,
        }
    }
}

impl std::convert::From<Archive> for Archiving {
    fn from(archive: Archive) -> Self {
        match archive {
            Archive::Off => Self::Stream(false),
            Archive::Stream => Self::Stream(true),
            Archive::Push => Self::By(By::Push),
        }
    }
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

fn start_within() -> Duration {
    Duration::from_secs(3600)
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
        let config: Config = settings::read(table, "postgresql")?;
        let paths = [
            ("root", Some(config.root.as_path())),
            ("password_file", config.password_file.as_deref()),
            ("bin", config.bin.as_deref()),
        ];
        let tablespaces = config.tablespaces.values().map(|path| ("tablespaces", Some(path.as_path())));
        settings::absolute(paths.into_iter().chain(tablespaces))?;
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
        if let Some(conninfo) = &config.primary_conninfo {
            check_conninfo(conninfo)?;
        }
        config.address()?;
        Ok(config)
    }

    pub(super) fn address(&self) -> Result<Address> {
        if self.host.starts_with('/') {
            return Ok(Address::Socket(Path::new(&self.host).join(format!(".s.PGSQL.{}", self.port))));
        }
        // What is said to the server is not encrypted, and its files are read on this machine anyway.
        settings::loopback(&self.host).map(|ip| Address::Tcp(SocketAddr::new(ip, self.port))).ok_or_else(
            || {
                Error::invalid(format!(
                    "engine.host {:?} is neither a socket's directory nor a loopback address",
                    self.host
                ))
                .with_hint(
                    "the agent runs beside the server: host = \"/var/run/postgresql\" or \"127.0.0.1\"",
                )
            },
        )
    }

    pub(super) fn primary(&self) -> Result<&str> {
        self.primary_conninfo.as_deref().ok_or_else(|| {
            Error::invalid("this node is to be a standby, and its agent does not know how a standby reaches the primary")
                .with_hint("set engine.primary_conninfo, such as \"host=db1,db2 user=replicator target_session_attrs=read-write\"")
        })
    }

    /// For messages.
    pub(super) fn place(&self) -> String {
        self.address().map_or_else(|_| self.host.clone(), |address| address.to_string())
    }
}

/// It is written into a file of the server's, and shown by it.
fn check_conninfo(conninfo: &str) -> Result<()> {
    if conninfo.contains(['\n', '\r', '\0']) {
        return Err(Error::invalid("engine.primary_conninfo has a line break"));
    }
    let keys = conninfo.split('=').filter_map(|part| part.split_whitespace().last());
    if keys.clone().any(|key| key.eq_ignore_ascii_case("password")) || conninfo.contains("://") {
        return Err(Error::invalid("engine.primary_conninfo is to have no password, and to be no URL")
            .with_hint(
                "write key=value words, and passfile=/path of a .pgpass file that the server's user can read",
            ));
    }
    Ok(())
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
        for (text, archive) in [
            ("", Archive::Off),
            ("archive = false", Archive::Off),
            ("archive = true", Archive::Stream),
            ("archive = 'push'", Archive::Push),
        ] {
            assert_eq!(read(&format!("root = '/d'\n{text}")).unwrap().archive, archive);
        }
        for (bad, word) in [
            ("root = 'd'", "root"),
            ("", "root"),
            ("root = '/d'\npassword = 'x'", "password"),
            ("root = '/d'\npassword_file = 'x'", "password_file"),
            ("root = '/d'\nhost = 'db.example'", "host"),
            ("root = '/d'\nhost = '10.0.0.1'", "host"),
            ("root = '/d'\narchive = 'pull'", "\"push\""),
            ("root = '/d'\ntablespaces = { fast = '/x' }", "fast"),
            ("root = '/d'\nprimary_conninfo = 'host=a password = x'", "password"),
            ("root = '/d'\nprimary_conninfo = 'postgresql://u:x@a'", "URL"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.what().contains(word), "{bad}: {error:?}");
        }
    }
}
