//! Log files for a database that is restored beside the one in use: a recovery and a socket of their own.
use std::convert::Infallible;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;

use palinurus_repository::{Error, ErrorKind, Result};
use tokio::net::UnixListener;

use super::files::Files;
use super::recovery::Recovery;
use super::{command_of, socket};
use crate::engine::Logs;
use crate::host::Host;

#[derive(Debug)]
pub(crate) struct Beside {
    listener: UnixListener,
    files: Arc<Files>,
    command: Vec<String>,
}

impl Beside {
    /// In `place`, for the owner of `data`, which lies there.
    pub(crate) fn open(
        host: &Arc<Host>,
        logs: Arc<dyn Logs>,
        place: &Path,
        data: &Path,
        recovery: &Recovery,
    ) -> Result<Self> {
        recovery.keep(place)?;
        let path = socket::path(place);
        let failed = |e| {
            Error::io(format!("listen at {}", path.display()), e)
                .with_hint("a socket's path has at most 107 bytes: set drill.scratch to a shorter path")
        };
        let listener = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
        let owner = data.metadata().map_err(failed)?;
        if owner.uid() != rustix::process::geteuid().as_raw() {
            chown(&path, Some(owner.uid()), Some(owner.gid())).map_err(failed)?;
        }
        let command = command_of(&host.seams.program, place)?;
        let files = Arc::new(Files::new(Arc::clone(host), logs, place.to_owned()));
        Ok(Self { listener, files, command })
    }

    /// The words that the database asks with.
    pub(crate) fn command(&self) -> &[String] {
        &self.command
    }

    /// Until dropped.
    pub(crate) async fn serve(&self) -> Infallible {
        socket::give_out(&self.listener, &self.files).await
    }

    /// A database that cannot recover says no more than that a command failed: why, is known here.
    pub(crate) fn blame<T>(&self, ended: Result<T>) -> Result<T> {
        match (ended, self.files.failure()) {
            (Err(e), Some(failure)) if e.kind() == ErrorKind::Corrupt => match failure.kind() {
                ErrorKind::Corrupt | ErrorKind::NotFound => {
                    Err(Error::corrupt(format!("the log is not all there: {}", failure.chain())))
                }
                _ => Err(failure),
            },
            (ended, _) => ended,
        }
    }
}
