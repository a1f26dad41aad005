//! The peer: the same work by restic, where it is installed.
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};
use tokio::process::Command;
use tokio::time::Instant;

use super::meter;
use super::report::Cost;

#[derive(Debug)]
pub(super) struct Restic {
    home: PathBuf,
}

/// What `restic version` says, or nothing when there is none.
pub(super) async fn version() -> Option<String> {
    let output = Command::new("restic").arg("version").output().await.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

impl Restic {
    pub(super) async fn new(home: PathBuf) -> Result<Self> {
        let failed = |e| Error::io(format!("make {}", home.display()), e);
        std::fs::create_dir_all(&home).map_err(failed)?;
        std::fs::write(home.join("password"), "a benchmark protects nothing").map_err(failed)?;
        let restic = Self { home };
        restic.run(&["init".into()], Path::new("/")).await?;
        Ok(restic)
    }

    pub(super) async fn backup(&self, data: &Path) -> Result<Cost> {
        let before = self.stored()?;
        // From inside and relative, so that the parent snapshot is found and paths are as ours.
        let (seconds, cpu) = self.run(&["backup".into(), ".".into()], data).await?;
        let uploaded = self.stored()?.saturating_sub(before);
        Ok(Cost { seconds, cpu, uploaded: Some(uploaded), ..Cost::default() })
    }

    pub(super) async fn restore(&self, target: &Path) -> Result<Cost> {
        let target = target.to_string_lossy().into_owned();
        let arguments = ["restore".into(), "latest".into(), "--target".into(), target];
        let (seconds, cpu) = self.run(&arguments, Path::new("/")).await?;
        Ok(Cost { seconds, cpu, ..Cost::default() })
    }

    pub(super) fn stored(&self) -> Result<u64> {
        meter::bytes_below(&self.home.join("repository"))
    }

    async fn run(&self, arguments: &[String], directory: &Path) -> Result<(f64, f64)> {
        rustix::fs::sync();
        let (began, cpu) = (Instant::now(), meter::cpu_of_children()?);
        let output = Command::new("restic")
            .args(["--quiet", "--repo"])
            .arg(self.home.join("repository"))
            .args(arguments)
            .current_dir(directory)
            .env("RESTIC_PASSWORD_FILE", self.home.join("password"))
            .env("RESTIC_CACHE_DIR", self.home.join("cache"))
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|e| Error::io("run restic", e))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(Error::internal(format!("restic {arguments:?}: {}", text.trim())));
        }
        Ok((began.elapsed().as_secs_f64(), meter::cpu_of_children()? - cpu))
    }
}
