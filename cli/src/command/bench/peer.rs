//! The same work by others, where they are installed: restic, rustic, borg and kopia, each with its own defaults except
//! where a line says why, into a local folder, with encryption, as ours.
use std::path::{Path, PathBuf};

use palinurus_repository::{Error, Result};
use tokio::process::Command;

use super::meter;
use super::report::Cost;

const PASSWORD: &str = "a benchmark protects nothing";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tool {
    Restic,
    Rustic,
    Borg,
    Kopia,
}

impl Tool {
    pub(super) const ALL: [Self; 4] = [Self::Restic, Self::Rustic, Self::Borg, Self::Kopia];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Restic => "restic",
            Self::Rustic => "rustic",
            Self::Borg => "borg",
            Self::Kopia => "kopia",
        }
    }

    /// What it says of itself; or why it is not measured.
    pub(super) async fn version(self) -> Result<String, String> {
        let word = if self == Self::Restic { "version" } else { "--version" };
        let output = Command::new(self.name()).arg(word).output().await;
        let output = output.map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => "it is not installed".to_owned(),
            _ => e.to_string(),
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let first = text.lines().next().unwrap_or_default().trim().to_owned();
        if output.status.success() && !first.is_empty() {
            Ok(first)
        } else {
            Err(format!("`{} {word}` ended with {}", self.name(), output.status))
        }
    }
}

/// A tool with a repository of its own.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) tool: Tool,
    home: PathBuf,
    backups: usize,
}

impl Peer {
    pub(super) async fn new(tool: Tool, home: PathBuf) -> Result<Self> {
        let failed = |e| Error::io(format!("make a repository for {}", tool.name()), e);
        std::fs::create_dir_all(&home).map_err(failed)?;
        std::fs::write(home.join("password"), PASSWORD).map_err(failed)?;
        let peer = Self { tool, home, backups: 0 };
        let repository = peer.repository();
        let repository = repository.to_string_lossy();
        match tool {
            Tool::Restic | Tool::Rustic => peer.run(&["init"], &peer.home).await?,
            Tool::Borg => {
                peer.run(&["init", "--encryption", "repokey-blake2", &repository], &peer.home).await?
            }
            Tool::Kopia => {
                std::fs::create_dir_all(peer.repository()).map_err(failed)?;
                let path = ["repository", "create", "filesystem", "--path", &repository];
                peer.run(&path, &peer.home).await?;
                // It compresses nothing by default.
                peer.run(&["policy", "set", "--global", "--compression", "zstd-fastest"], &peer.home).await?
            }
        };
        Ok(peer)
    }

    pub(super) fn repository(&self) -> PathBuf {
        self.home.join("repository")
    }

    pub(super) async fn backup(&mut self, data: &Path) -> Result<Cost> {
        let before = self.stored()?;
        self.backups += 1;
        let archive = format!("{}::{}", self.repository().display(), self.backups);
        // From inside and relative, so that what was backed up before is found and paths are as ours.
        let (cost, _) = match self.tool {
            Tool::Restic | Tool::Rustic => self.run(&["backup", "."], data).await?,
            // Its default, lz4, is another trade; this is the level of the others.
            Tool::Borg => self.run(&["create", "--compression", "zstd,1", &archive, "."], data).await?,
            Tool::Kopia => self.run(&["snapshot", "create", "."], data).await?,
        };
        Ok(Cost { uploaded: Some(self.stored()?.saturating_sub(before)), ..cost })
    }

    /// All of the newest, or one file of it, into a directory that is there and empty.
    pub(super) async fn restore(&self, data: &Path, one: Option<&Path>, target: &Path) -> Result<Cost> {
        let archive = format!("{}::{}", self.repository().display(), self.backups);
        let (to, from) = (target.to_string_lossy(), data.to_string_lossy());
        let one = one.map(|one| one.to_string_lossy());
        let inside = one.as_ref().map_or_else(String::new, |one| format!("/{one}"));
        let (cost, _) = match (self.tool, &one) {
            (Tool::Restic, None) => self.run(&["restore", "latest", "--target", &to], &self.home).await?,
            (Tool::Restic, Some(_)) => {
                self.run(&["restore", "latest", "--target", &to, "--include", &inside], &self.home).await?
            }
            (Tool::Rustic, None) => self.run(&["restore", "latest", &to], &self.home).await?,
            (Tool::Rustic, Some(one)) => {
                let into = target.join(one.as_ref());
                let parent = into.parent().unwrap_or(target);
                std::fs::create_dir_all(parent).map_err(|e| Error::io("make a target", e))?;
                let (from, to) = (format!("latest:{one}"), into.to_string_lossy().into_owned());
                self.run(&["restore", &from, &to], &self.home).await?
            }
            (Tool::Borg, None) => self.run(&["extract", &archive], target).await?,
            (Tool::Borg, Some(one)) => self.run(&["extract", &archive, one], target).await?,
            (Tool::Kopia, one) => {
                let (root, to) = match one {
                    None => (from.into_owned(), to.into_owned()),
                    Some(one) => (format!("{from}/{one}"), target.join("one").to_string_lossy().into_owned()),
                };
                self.run(&["restore", "--snapshot-time", "latest", &root, &to], &self.home).await?
            }
        };
        Ok(cost)
    }

    pub(super) fn stored(&self) -> Result<u64> {
        meter::bytes_below(&self.repository())
    }

    async fn run(&self, arguments: &[&str], directory: &Path) -> Result<(Cost, String)> {
        let mut command = Command::new(self.tool.name());
        let (password, cache) = (self.home.join("password"), self.home.join("cache"));
        match self.tool {
            Tool::Restic => {
                command.args(["--quiet", "--repo"]).arg(self.repository());
                command.env("RESTIC_PASSWORD_FILE", password).env("RESTIC_CACHE_DIR", cache);
            }
            Tool::Rustic => {
                command.env("RUSTIC_REPOSITORY", self.repository()).env("RUSTIC_PASSWORD_FILE", password);
                command.env("RUSTIC_CACHE_DIR", cache).env("RUSTIC_NO_PROGRESS", "true");
                // None of the user's profiles.
                command.env("HOME", &self.home).env("XDG_CONFIG_HOME", &self.home);
            }
            Tool::Borg => {
                command.env("BORG_PASSPHRASE", PASSWORD).env("BORG_BASE_DIR", &self.home);
                command.env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes");
            }
            Tool::Kopia => {
                command.arg("--config-file").arg(self.home.join("kopia.config"));
                command.env("KOPIA_PASSWORD", PASSWORD).env("KOPIA_CACHE_DIRECTORY", cache);
                command.env("KOPIA_CHECK_FOR_UPDATES", "false").env("HOME", &self.home);
            }
        }
        command.args(arguments).current_dir(directory);
        meter::run(self.tool.name(), command).await
    }
}
