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
        match mount(&["-t", "tmpfs", "-o", &size, "palinurus-test"], at) {
            true => Some(Self(at.to_owned())),
            false => {
                eprintln!("no right to mount a file system here: this test's full disk is left out");
                None
            }
        }
    }

    /// As many megabytes, and files.
    pub fn resize(&self, megabytes: u64, files: u64) {
        let size = format!("remount,size={megabytes}m,nr_inodes={files}");
        assert!(mount(&["-o", &size], &self.0), "{size}");
    }
}

fn mount(options: &[&str], at: &Path) -> bool {
    let mounted = Command::new("mount").args(options).arg(at).output();
    mounted.is_ok_and(|output| output.status.success())
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a process that is still ending may hold it for a moment.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
