//! The coordinator's settings: one TOML file, unknown keys refused. `Default` is the documented default.
use std::path::{Path, PathBuf};
use std::time::Duration;

use palinurus_identity::TlsConfig;
use palinurus_repository::{Error, KeySource, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::plans::Plans;

mod etcd;
mod notify;

pub use etcd::EtcdConfig;
pub(crate) use notify::check_webhook_url;
pub use notify::{EmailConfig, MailTls, NotifyConfig, WebhookConfig};

const CONNECTIONS_MIN: usize = 64;
const CONNECTIONS_MAX: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Said in the ledger and to operators.
    pub name: String,
    /// Where agents and operators reach it; port 0 takes a free one.
    pub listen: String,
    /// Where Prometheus may ask, such as "127.0.0.1:9410"; empty: nowhere.
    pub metrics: String,
    /// What agents and operators are told to dial when this coordinator leads; empty: the address listened on.
    pub advertise: String,
    /// A directory of its own: the state file and the chunk indexes.
    pub state: PathBuf,
    /// Operator keys, or commands that print one; each repository must open with one of them.
    pub keys: Vec<KeySource>,
    /// How long a node may be gone before an operation that needs it fails.
    #[serde(deserialize_with = "duration", serialize_with = "human")]
    pub patience: Duration,
    /// How often agents say that they live; four in silence and the session is closed.
    #[serde(deserialize_with = "duration", serialize_with = "human")]
    pub heartbeat: Duration,
    /// After this, an agent thaws its database by itself.
    #[serde(deserialize_with = "duration", serialize_with = "human")]
    pub freeze_limit: Duration,
    /// How long a task may take to stop before its node is released anyway.
    #[serde(deserialize_with = "duration", serialize_with = "human")]
    pub cancel_limit: Duration,
    /// How long the store may fail before a step of the coordinator's own fails.
    #[serde(deserialize_with = "duration", serialize_with = "human")]
    pub store_patience: Duration,
    /// Ended operations kept for each service.
    pub history: usize,
    /// Memory for the chunk indexes of all services together, in MiB; each has an even part while it works, 4 at least.
    pub index_cache_mib: usize,
    /// All there may be at a time, of agents, operators and strangers: an agent's idle session takes 60 KiB. Who comes
    /// when there is no room waits.
    pub connections: usize,
    /// Every change that was asked for, by whom, and what came of it; empty: `audit.log` in `state`.
    pub audit: PathBuf,
    /// Operators' tokens; empty: nobody has one.
    pub tokens: PathBuf,
    /// Without it nothing is encrypted, and nobody on another machine is let in.
    pub tls: TlsConfig,
    /// The state of several coordinators; without endpoints it is a file in `state`.
    pub etcd: EtcdConfig,
    /// Beside the built-in plans, or in their place.
    pub plans: Plans,
    /// Who is told what has changed, beside the log.
    pub notify: NotifyConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "coordinator".to_owned(),
            listen: "127.0.0.1:7410".to_owned(),
            metrics: String::new(),
            advertise: String::new(),
            state: PathBuf::from("/var/lib/palinurus/coordinator"),
            keys: vec!["/etc/palinurus/operator.key".into()],
            patience: Duration::from_secs(60),
            heartbeat: Duration::from_secs(5),
            freeze_limit: Duration::from_secs(120),
            cancel_limit: Duration::from_secs(30),
            store_patience: Duration::from_secs(60),
            history: 1000,
            index_cache_mib: 512,
            connections: 4096,
            audit: PathBuf::new(),
            tokens: PathBuf::new(),
            tls: TlsConfig::default(),
            etcd: EtcdConfig::default(),
            plans: Plans::default(),
            notify: NotifyConfig::default(),
        }
    }
}

impl Config {
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::io(format!("read the configuration {}", path.display()), e))?;
        Self::parse(&text).map_err(|e| {
            Error::invalid(format!("configuration {}", path.display())).with_source(e.what().to_owned())
        })
    }

    pub fn parse(text: &str) -> Result<Self> {
        let config: Self =
            toml::from_str(text).map_err(|e| Error::invalid(e.to_string().trim().to_owned()))?;
        config.check()?;
        Ok(config)
    }

    pub fn check(&self) -> Result<()> {
        palinurus_repository::id::check_name("coordinator", &self.name)?;
        if self.keys.is_empty() {
            return Err(Error::invalid("keys names no file").with_hint("palinurus keys generate makes one"));
        }
        self.keys.iter().try_for_each(KeySource::check)?;
        for (name, value) in [("heartbeat", self.heartbeat), ("patience", self.patience)] {
            if value.is_zero() {
                return Err(Error::invalid(format!("{name} is zero")));
            }
        }
        // Below, agents and strangers under way could keep an operator out.
        if !(CONNECTIONS_MIN..=CONNECTIONS_MAX).contains(&self.connections) {
            return Err(Error::invalid(format!("connections is {}", self.connections)).with_hint(format!(
                "say {CONNECTIONS_MIN} to {CONNECTIONS_MAX}: each may take 60 KiB and an open file"
            )));
        }
        self.tls.check()?;
        if !self.tokens.as_os_str().is_empty() && !self.tls.in_use() {
            return Err(Error::invalid("tokens without [tls] would be seen by everybody on the way")
                .with_hint("set certificate, key and ca of [tls]; `palinurus certs init` makes them"));
        }
        self.plans.check()?;
        self.notify.check()?;
        self.etcd.check()
    }

    /// Whoever starts a coordinator that encrypts nothing says so, and keeps it to this machine.
    pub fn check_plaintext(&self, asked: bool) -> Result<()> {
        if self.tls.in_use() || (asked && self.stays_on_this_machine()) {
            return Ok(());
        }
        let hint = "make certificates with `palinurus certs init` and `certs issue`, and name them in [tls]";
        if asked {
            return Err(Error::denied(format!(
                "listening on {} would let other machines in, and nothing would be encrypted",
                self.listen
            ))
            .with_hint(format!("listen on 127.0.0.1; or {hint}")));
        }
        Err(Error::denied("there is no [tls] in the settings, so nothing would be encrypted")
            .with_hint(format!("{hint}; or say --insecure-plaintext, for callers on this machine only")))
    }

    pub(crate) fn audit(&self) -> PathBuf {
        if self.audit.as_os_str().is_empty() { self.state.join("audit.log") } else { self.audit.clone() }
    }

    pub(crate) fn reached_at(&self, listening: std::net::SocketAddr) -> String {
        if self.advertise.is_empty() { listening.to_string() } else { self.advertise.clone() }
    }

    /// Whether nobody elsewhere reaches what it listens on.
    pub fn stays_on_this_machine(&self) -> bool {
        let host = self.listen.rsplit_once(':').map_or(self.listen.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// In bytes.
    pub(crate) fn index_cache(&self) -> usize {
        self.index_cache_mib << 20
    }
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text).map_err(serde::de::Error::custom)
}

fn human<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&humantime::format_duration(*duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_stays_on_this_machine() {
        for (listen, stays) in [
            ("127.0.0.1:7410", true),
            ("localhost:0", true),
            ("[::1]:7410", true),
            ("0.0.0.0:7410", false),
            ("[::]:7410", false),
            ("db.example:7410", false),
        ] {
            let config = Config { listen: listen.to_owned(), ..Config::default() };
            assert_eq!(config.stays_on_this_machine(), stays, "{listen}");
            assert_eq!(config.check_plaintext(true).is_ok(), stays, "{listen}");
            assert!(config.check_plaintext(false).is_err(), "{listen}: unasked");
        }
    }

    #[test]
    fn what_is_not_said_is_the_default_and_what_is_unknown_is_refused() {
        let config = Config::parse("name = \"c1\"\nheartbeat = \"250ms\"\nkeys = [\"k\"]").unwrap();
        let expected = Config {
            name: "c1".to_owned(),
            heartbeat: Duration::from_millis(250),
            keys: vec!["k".into()],
            ..Config::default()
        };
        assert_eq!(config, expected);
        for bad in [
            "tokens = \"t\"",
            "[tls]\ncertificate = \"c.pem\"",
            "[tls]\ncertificate = \"c.pem\"\nkey = \"c.key\"",
            "[tls]\ncert = \"c.pem\"",
            "etcd = 1",
            "[etcd]\nlaese = \"5s\"",
            "[etcd]\nlease = \"1s\"",
            "[etcd]\nlease = \"3s\"\ntimeout = \"1s\"",
            "[etcd]\nprefix = \"\"",
            "[etcd]\nprefix = \"palinurus\"",
            "[etcd]\ncluster = \"a/b\"",
            "[etcd]\nendpoints = [\"10.0.0.1:2379\"]",
            "[etcd]\nendpoints = [\"http://\"]",
            "[etcd]\nendpoints = [\"http://root:secret@a:2379\"]",
            "[etcd]\nendpoints = [\"https://a:2379\"]",
            "[etcd]\nendpoints = [\"http://a:2379\", \"https://b:2379\"]\nca = \"ca.pem\"",
            "[etcd]\nendpoints = [\"http://a:2379\"]\nca = \"ca.pem\"",
            "[etcd]\nendpoints = [\"https://a:2379\"]\nca = \"ca.pem\"\ncertificate = \"c.pem\"",
            "[etcd]\nuser = \"palinurus\"",
            "[etcd]\npassword_file = \"/p\"",
        ] {
            let error = Config::parse(bad).unwrap_err();
            assert_eq!(error.kind(), palinurus_repository::ErrorKind::Invalid, "{bad}");
            assert!(!error.chain().contains("secret"), "{error:?}");
        }
        for bad in [
            "nmae = \"c1\"",
            "patience = 60",
            "patience = \"0s\"",
            "connections = 0",
            "connections = 2000000",
            "keys = []",
            "keys = [{}]",
            "name = \"../x\"",
        ] {
            let error = Config::parse(bad).unwrap_err();
            assert_eq!(error.kind(), palinurus_repository::ErrorKind::Invalid, "{bad}");
        }
        assert!(Config::parse("nmae = 1").unwrap_err().what().contains("unknown field `nmae`"));
    }
}
