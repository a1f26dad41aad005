//! rclone and s5cmd, where they are installed: they copy the same files to the same store. What they need to know about
//! it they take from the URL; secrets stay in the file or environment where everybody finds them.
use std::path::Path;

use palinurus_repository::{Error, Result};
use tokio::process::Command;
use tokio::time::Instant;

use super::meter;
use super::rates::Moved;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copier {
    Rclone,
    S5cmd,
}

/// Where they are to copy to and from.
#[derive(Debug)]
pub(super) struct Bucket {
    /// `bucket/prefix`.
    place: String,
    settings: Vec<(String, String)>,
}

impl Bucket {
    /// None: they know no such store.
    pub(super) fn of(url: &str) -> Option<Self> {
        let (place, query) =
            url.strip_prefix("s3://").map(|rest| rest.split_once('?').unwrap_or((rest, "")))?;
        let settings = query.split('&').filter_map(|pair| pair.split_once('='));
        Some(Self {
            place: place.trim_end_matches('/').to_owned(),
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        })
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    Put,
    Get,
}

impl Copier {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rclone => "rclone",
            Self::S5cmd => "s5cmd",
        }
    }

    /// Those that can be run here, with what they say about themselves.
    pub(super) async fn installed() -> Vec<(Self, String)> {
        let mut all = Vec::new();
        for copier in [Self::Rclone, Self::S5cmd] {
            let Ok(output) = Command::new(copier.name()).arg("version").output().await else { continue };
            let said = String::from_utf8_lossy(&output.stdout);
            let first = said.lines().next().unwrap_or_default().trim().trim_start_matches(copier.name());
            if output.status.success() {
                all.push((copier, format!("{} {}", copier.name(), first.trim())));
            }
        }
        all
    }

    /// All files of a directory, or all objects below `below`, so many at once.
    pub(super) async fn copy(
        self,
        way: Way,
        bucket: &Bucket,
        below: &str,
        dir: &Path,
        at_once: usize,
    ) -> Result<Moved> {
        let mut command = self.command(way, bucket, below, dir, at_once);
        rustix::fs::sync();
        let (began, cpu) = (Instant::now(), meter::cpu_of_children()?);
        let output = command.kill_on_drop(true).output().await;
        let output = output.map_err(|e| Error::io(format!("run {}", self.name()), e))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Error::unavailable(format!("{} failed: {}", self.name(), said.trim())));
        }
        Ok(Moved { seconds: began.elapsed().as_secs_f64(), cpu: meter::cpu_of_children()? - cpu })
    }

    fn command(self, way: Way, bucket: &Bucket, below: &str, dir: &Path, at_once: usize) -> Command {
        let mut command = Command::new(self.name());
        if let Some(path) = bucket.get("credentials") {
            command.env("AWS_SHARED_CREDENTIALS_FILE", path);
        }
        if let Some(region) = bucket.get("region").or(bucket.get("endpoint").map(|_| "us-east-1")) {
            command.env("AWS_REGION", region).env("RCLONE_CONFIG_BENCH_REGION", region);
        }
        let far = format!("{}/{below}", bucket.place);
        match self {
            Self::Rclone => {
                for (name, value) in [
                    ("TYPE", "s3"),
                    ("PROVIDER", "Other"),
                    ("ENV_AUTH", "true"),
                    ("NO_CHECK_BUCKET", "true"),
                    ("ENDPOINT", bucket.get("endpoint").unwrap_or_default()),
                ] {
                    command.env(format!("RCLONE_CONFIG_BENCH_{name}"), value);
                }
                // None of the user's settings, and one request an object, as we do.
                command.args(["--config", "/dev/null", "copy", "--s3-upload-cutoff", "64Mi"]);
                command.args(["--transfers", &at_once.to_string(), "--checkers", &at_once.to_string()]);
                let far = format!("bench:{far}");
                match way {
                    Way::Put => command.arg(dir).arg(far),
                    Way::Get => command.arg(far).arg(dir),
                };
            }
            Self::S5cmd => {
                if let Some(endpoint) = bucket.get("endpoint") {
                    command.args(["--endpoint-url", endpoint]);
                }
                command.args(["--numworkers", &at_once.to_string(), "cp", "--part-size", "64"]);
                match way {
                    Way::Put => command.arg(format!("{}/", dir.display())).arg(format!("s3://{far}/")),
                    Way::Get => command.arg(format!("s3://{far}/*")).arg(format!("{}/", dir.display())),
                };
            }
        }
        command
    }
}
