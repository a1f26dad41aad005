//! Where a backup is restored for proof: a directory of the agent's own, never the engine's. What an agent before this
//! one left there ends and goes when the next one begins.
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use palinurus_repository::id::check_name;
use palinurus_repository::{Error, Result};

use crate::config::Config;
use crate::durable;
use crate::engine::Engine;

mod guard;
mod guarded;
mod leftover;
mod owner;

pub use guard::run as command;
pub(crate) use guard::words as guard_words;
pub(crate) use guarded::Guarded;
pub(crate) use leftover::end as end_leftover;
pub(crate) use owner::Owner;

/// Beyond the bytes themselves, for what a database writes while it is proved.
const ROOM: u64 = 256 << 20;
/// Removing what somebody still writes into.
const ATTEMPTS: u32 = 20;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// All drills of this agent, each in a directory of its operation's name.
#[derive(Clone, Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    /// The agent's state directory, where the scratch lies in it.
    within: Option<PathBuf>,
}

impl Scratch {
    pub(crate) fn of(config: &Config) -> Self {
        let given = &config.drill.scratch;
        if given.as_os_str().is_empty() {
            return Self { path: config.state.join("drill"), within: Some(config.state.clone()) };
        }
        // Agents may share a directory.
        let own = format!("palinurus-drill.{}.{}", config.service, config.node);
        Self { path: given.join(own), within: None }
    }

    /// Refuses what lies in the data, so that no backup has it and no restore meets it.
    pub(crate) fn check(&self, engine: &dyn Engine) -> Result<()> {
        match engine.holds(&self.path) {
            false => Ok(()),
            true => Err(Error::invalid(format!(
                "drill.scratch {} lies in the data directory",
                self.path.display()
            ))
            .with_hint("name a directory of another place, best of another disk")),
        }
    }

    pub(crate) fn place(&self, operation: &str) -> Result<PathBuf> {
        check_name("operation", operation)?;
        Ok(self.path.join(operation))
    }

    /// Empty, with room for that many bytes. Blocks.
    pub(crate) fn create(&self, operation: &str, bytes: u64) -> Result<PathBuf> {
        let place = self.place(operation)?;
        remove(&place)?;
        durable::create_dir(&self.path)?;
        self.check_room(bytes)?;
        durable::create_dir(&place)?;
        // The database's user passes through, to what is given to it.
        let within = self.within.iter().filter(|_| rustix::process::geteuid().is_root());
        for path in within.chain([&self.path, &place]) {
            fs::set_permissions(path, Permissions::from_mode(0o711))
                .map_err(|e| Error::io(format!("open {}", path.display()), e))?;
        }
        Ok(place)
    }

    fn check_room(&self, bytes: u64) -> Result<()> {
        let shown = self.path.display();
        let found = rustix::fs::statvfs(&self.path)
            .map_err(|e| Error::io(format!("look at drill.scratch {shown}"), e.into()))?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        let wanted = bytes.saturating_add(bytes / 20).saturating_add(ROOM);
        if free >= wanted {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let what = format!("{shown} has {} MiB free, and the drill needs {} MiB", mib(free), mib(wanted));
        Err(Error::unavailable(what)
            .with_hint("set drill.scratch to a directory with more room, or drill at another node"))
    }

    /// Ends what runs there still, and removes it.
    pub(crate) async fn remove(&self, operation: &str, engine: &dyn Engine) -> Result<()> {
        let place = self.place(operation)?;
        clear(place, engine).await
    }

    /// After a start: a drill that was cut short begins anew, if it does.
    pub(crate) async fn sweep(&self, engine: &dyn Engine) -> Result<()> {
        if !self.path.is_dir() {
            return Ok(());
        }
        for name in durable::names(&self.path)? {
            tracing::info!(operation = ?name, "removing what a drill has left");
            clear(self.path.join(name), engine).await?;
        }
        Ok(())
    }
}

async fn clear(place: PathBuf, engine: &dyn Engine) -> Result<()> {
    if place.symlink_metadata().is_err() {
        return Ok(());
    }
    engine.end_proof(&place).await?;
    let mut attempt = 1;
    loop {
        let place = place.clone();
        let removed = tokio::task::spawn_blocking(move || remove(&place)).await;
        match removed.map_err(|e| Error::internal("a thread panicked").with_source(e))? {
            Err(e) if attempt < ATTEMPTS => {
                tracing::debug!(error = e.chain(), "removing a drill's directory again");
                attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
            removed => return removed,
        }
    }
}

/// Also what nobody may write into. Blocks.
fn remove(place: &Path) -> Result<()> {
    match durable::remove_dir(place) {
        // Root is kept out of nothing, and follows nobody.
        Err(_) if !rustix::process::geteuid().is_root() => {
            open_up(place);
            durable::remove_dir(place)
        }
        removed => removed,
    }
}

/// Follows no symlink; what fails here, the removal will say.
fn open_up(path: &Path) {
    let is_dir = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    if !is_dir || fs::set_permissions(path, Permissions::from_mode(0o700)).is_err() {
        return;
    }
    for entry in path.read_dir().into_iter().flatten().flatten() {
        open_up(&entry.path());
    }
}
