//! A small file system of its own, to be filled up. Only root may mount one.
use std::path::{Path, PathBuf};

use std::process::Command;

#[derive(Debug)]
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// None when this process may not mount.
    pub fn mount(at: &Path, megabytes: u64) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={megabytes}m,mode=0700");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "palinurus-test"]).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(at.to_owned())),
            _ => {
                eprintln!("no right to mount a file system here: this test's full disk is left out");
                None
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a process that is still ending may hold it for a moment.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
