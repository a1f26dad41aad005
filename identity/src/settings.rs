//! `[tls]` of coordinator and agent.
use std::path::PathBuf;

use palinurus_repository::{Error, Result};
use serde::{Deserialize, Serialize};

/// Files of PEM. Empty: nothing is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// This side's certificate, and those between it and the authority's.
    pub certificate: PathBuf,
    /// Its private key: for its owner only.
    pub key: PathBuf,
    /// Whose certificates are believed.
    pub ca: PathBuf,
    /// The authority's list of certificates that are believed no longer; empty: there is none.
    pub revoked: PathBuf,
}

impl TlsConfig {
    pub fn in_use(&self) -> bool {
        self.needed().into_iter().any(|(_, file)| !file.as_os_str().is_empty())
            || !self.revoked.as_os_str().is_empty()
    }

    /// Half of it would be a connection that is half secured.
    pub fn check(&self) -> Result<()> {
        if !self.in_use() {
            return Ok(());
        }
        match self.needed().into_iter().find(|(_, file)| file.as_os_str().is_empty()) {
            None => Ok(()),
            Some((name, _)) => Err(Error::invalid(format!("[tls] names no {name}")).with_hint(
                "certificate, key and ca go together; `palinurus certs init` and `certs issue` make them",
            )),
        }
    }

    /// All that is read, and read again when it changes.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.needed().into_iter().map(|(_, file)| file.clone()).collect();
        files.extend(Some(&self.revoked).filter(|file| !file.as_os_str().is_empty()).cloned());
        files
    }

    fn needed(&self) -> [(&'static str, &PathBuf); 3] {
        [("certificate", &self.certificate), ("key", &self.key), ("ca", &self.ca)]
    }
}
