//! The `[etcd]` table: where several coordinators keep their state. Without endpoints it is a file of one's own.
use std::path::{Path, PathBuf};
use std::time::Duration;

use palinurus_repository::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{duration, human};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EtcdConfig {
    /// Every member: http://host:port or https://host:port. None: the state is a file.
    pub endpoints: Vec<String>,
    /// Everything is kept below it.
    pub prefix: String,
    /// Coordinators of another one are refused.
    pub cluster: String,
    /// How long a leader that is gone stays the leader.
    #[serde(deserialize_with = "duration", serialize_with = "human")]
    pub lease: Duration,
    /// How long one member may take for one answer.
    #[serde(deserialize_with = "duration", serialize_with = "human")]
    pub timeout: Duration,
    pub user: String,
    pub password_file: PathBuf,
    /// Who has signed etcd's certificates.
    pub ca: PathBuf,
    /// Ours, where etcd asks for one.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            prefix: "palinurus/".to_owned(),
            cluster: "main".to_owned(),
            lease: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            user: String::new(),
            password_file: PathBuf::new(),
            ca: PathBuf::new(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
        }
    }
}

impl EtcdConfig {
    pub fn in_use(&self) -> bool {
        !self.endpoints.is_empty()
    }

    pub(crate) fn encrypted(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.starts_with("https://"))
    }

    pub(super) fn check(&self) -> Result<()> {
        let refuse = |what: &str, hint: &str| Err(Error::invalid(what.to_owned()).with_hint(hint));
        palinurus_repository::id::check_name("cluster", &self.cluster)?;
        if !self.prefix.ends_with('/') || self.prefix.starts_with('/') && self.prefix.len() == 1 {
            return refuse(
                "etcd.prefix does not name a place of its own",
                "a word and a slash: \"palinurus/\"",
            );
        }
        if self.lease < Duration::from_secs(2) || self.lease > Duration::from_secs(600) {
            return refuse("etcd.lease is not between 2s and 10m", "10s is the default");
        }
        if self.timeout.is_zero() || self.timeout >= self.lease / 3 {
            return refuse("etcd.timeout is not below a third of etcd.lease", "1s for a lease of 10s");
        }
        let mut schemes = self.endpoints.iter().map(|endpoint| scheme(endpoint));
        let first = schemes.next().transpose()?;
        for scheme in schemes {
            if Some(scheme?) != first {
                return refuse("etcd.endpoints are http:// and https://", "all must be one or the other");
            }
        }
        self.check_secrets()
    }

    fn check_secrets(&self) -> Result<()> {
        let refuse = |what: &str, hint: &str| Err(Error::invalid(what.to_owned()).with_hint(hint));
        let said = |path: &Path| !path.as_os_str().is_empty();
        if said(&self.certificate) != said(&self.key) {
            return refuse("etcd.certificate and etcd.key belong together", "say both, or neither");
        }
        if self.user.is_empty() == said(&self.password_file) {
            return refuse("etcd.user and etcd.password_file belong together", "say both, or neither");
        }
        if self.encrypted() && !said(&self.ca) {
            return refuse(
                "etcd.endpoints are https://, and etcd.ca is not said",
                "etcd.ca is a PEM file with whoever signed etcd's certificates",
            );
        }
        if self.in_use() && !self.encrypted() && (said(&self.ca) || said(&self.certificate)) {
            return refuse(
                "etcd.ca and etcd.certificate are for https://",
                "write the endpoints with https://",
            );
        }
        Ok(())
    }
}

fn scheme(endpoint: &str) -> Result<&str> {
    let (scheme, place) = endpoint.split_once("://").unwrap_or_default();
    if !matches!(scheme, "http" | "https") || place.is_empty() {
        return Err(Error::invalid(format!("etcd.endpoints: {endpoint:?} is no endpoint"))
            .with_hint("write http://host:2379 or https://host:2379"));
    }
    if place.contains('@') {
        // Not shown: it has a password in it.
        return Err(Error::invalid("etcd.endpoints: an endpoint has a user in it")
            .with_hint("use `user` and `password_file` in [etcd]"));
    }
    Ok(scheme)
}
