//! The directory in which `palinurus up` keeps everything, and in which the command finds how to reach it.
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};

/// `$XDG_STATE_HOME/palinurus` or `~/.local/state/palinurus`.
pub(crate) fn default() -> Option<PathBuf> {
    let base = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(base.join("palinurus"))
}

/// A directory that the environment names; a relative one counts for nothing.
pub(crate) fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// For its owner only.
pub(crate) fn make_dir(dir: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| Error::io(format!("make {}", dir.display()), error))?;
    Ok(dir.to_owned())
}

/// Settings are text.
pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| Error::invalid(format!("{} is no UTF-8, which settings have to be", path.display())))
}
