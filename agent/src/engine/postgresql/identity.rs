//! Which cluster this node's backups are of. Another one under the same name would be taken for a change of the first.
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use palinurus_repository::{Error, Result};

use super::control::{Control, NAME};
use crate::durable;

#[derive(Debug)]
pub(super) struct Identity {
    path: PathBuf,
    /// A backup and the log both keep it, and would take away each other's file that is not yet whole.
    keeping: Mutex<()>,
}

impl Identity {
    pub(super) fn new(state: &Path) -> Self {
        Self { path: state.join("postgresql-cluster"), keeping: Mutex::default() }
    }

    pub(super) fn check(&self, system_identifier: u64) -> Result<()> {
        let text = match std::fs::read_to_string(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            read => read.map_err(|e| Error::io(format!("read {}", self.path.display()), e))?,
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
            self.path.display()
        )))
    }

    /// Before a restore goes over what is there. Whose that is cannot be seen where the control file is damaged or gone,
    /// as after half a restore.
    pub(super) fn check_directory(&self, root: &Path) -> Result<()> {
        if !root.join(NAME).exists() {
            return Ok(());
        }
        let Ok(control) = Control::read(root) else { return Ok(()) };
        self.check(control.system_identifier).map_err(|error| {
            let version = std::fs::read_to_string(root.join("PG_VERSION")).unwrap_or_default();
            let (root, held) = (root.display(), control.system_identifier);
            Error::conflict(format!("{root} holds cluster {held} of PostgreSQL {}", version.trim()))
                .with_source(error.what().to_owned())
                .with_hint("move it away and restore into an empty directory, and start it with the version that the backup is of")
        })
    }

    pub(super) fn keep(&self, system_identifier: u64) -> Result<()> {
        let _one = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        durable::write(&self.path, format!("{system_identifier}\n").as_bytes())
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

    #[test]
    fn it_is_kept_by_several_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::new(dir.path());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..20).for_each(|_| identity.keep(7).unwrap()));
            }
        });
        identity.check(7).unwrap();
    }
}
