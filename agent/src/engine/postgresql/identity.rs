//! Which cluster this node's backups are of. Another one under the same name would be taken for a change of the first.
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};

use crate::durable;

#[derive(Debug)]
pub(super) struct Identity(PathBuf);

impl Identity {
    pub(super) fn new(state: &Path) -> Self {
        Self(state.join("postgresql-cluster"))
    }

    pub(super) fn check(&self, system_identifier: u64) -> Result<()> {
        let text = match std::fs::read_to_string(&self.0) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            read => read.map_err(|e| Error::io(format!("read {}", self.0.display()), e))?,
        };
        if text.trim() == system_identifier.to_string() {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "this node's backups are of cluster {}, and its server is cluster {system_identifier}",
            text.trim()
        ))
        .with_hint(format!(
            "a new cluster is a new service; if it replaces the old one here for good, remove {}",
            self.0.display()
        )))
    }

    pub(super) fn keep(&self, system_identifier: u64) -> Result<()> {
        durable::write(&self.0, format!("{system_identifier}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cluster_under_the_same_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::new(dir.path());
        identity.check(7).unwrap();
        identity.keep(7).unwrap();
        identity.check(7).unwrap();
        let error = identity.check(8).unwrap_err();
        assert!(error.hint().unwrap().contains("postgresql-cluster"), "{error:?}");
    }
}
