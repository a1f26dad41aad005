//! As whom a scratch server and its tools run.
use std::os::unix::fs::{MetadataExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::Path;

use palinurus_repository::{Error, Result};
use tokio::process::Command;

/// Whose the restored files are, or who runs the server in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let found = path.metadata().map_err(|e| Error::io(format!("look at {}", path.display()), e))?;
        Ok(Self { uid: found.uid(), gid: found.gid() })
    }

    fn is_us(self) -> bool {
        self.uid == rustix::process::geteuid().as_raw()
    }

    pub(crate) fn give(self, path: &Path) -> Result<()> {
        if self.is_us() {
            return Ok(());
        }
        lchown(path, Some(self.uid), Some(self.gid))
            .map_err(|e| Error::io(format!("give {} to the database's user", path.display()), e))
    }

    /// As that user, with no environment but that of a fresh login.
    pub(crate) fn isolate(self, command: &mut Command) {
        if !self.is_us() {
            command.uid(self.uid).gid(self.gid);
        }
        let kept = ["PATH", "LD_LIBRARY_PATH", "TZ"].map(|name| (name, std::env::var_os(name)));
        command.env_clear().envs(kept.into_iter().filter_map(|(name, value)| Some((name, value?))));
        command.env("LC_ALL", "C").current_dir("/");
    }

    /// The same for one that is waited for by a thread.
    pub(crate) fn run_as(self, command: &mut std::process::Command) {
        if !self.is_us() {
            command.uid(self.uid).gid(self.gid);
        }
    }
}
