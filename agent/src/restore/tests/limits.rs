//! A target that is full.
use std::path::{Path, PathBuf};
use std::process::Command;

use palinurus_repository::ErrorKind;

use super::view::*;
use super::world::*;

/// A small file system; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &Path, options: &str) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }

    fn grow(&self, options: &str) {
        let options = format!("remount,{options}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_stops_the_restore_which_goes_on_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mounted) = Mounted::new(dir.path(), "size=2m") else {
        println!("skipped: no right to mount a file system here");
        return;
    };
    let mut world = World::new(1);
    let rng = Dice::new(1);
    let mut wanted = tree([("large", file(rng.bytes(1_500_000)))]);
    for n in 0..400 {
        wanted.push((format!("s{n:03}").into_bytes(), meta(0o644), file(rng.bytes(5_000))));
    }
    let manifest = world.backup(&wanted);
    let error = world.restore(&manifest, dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.hint().unwrap().contains("free space"), "{error:?}");
    assert!(crate::restore::target::is_empty(dir.path()).unwrap(), "marked as unfinished");
    mounted.grow("size=20m");
    world.restore(&manifest, dir.path()).unwrap();
    assert_same(&look(dir.path()), &expected(&wanted));
}

#[test]
fn a_disk_without_inodes_is_full_too() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_mounted) = Mounted::new(dir.path(), "nr_inodes=50") else {
        println!("skipped: no right to mount a file system here");
        return;
    };
    let mut world = World::new(2);
    let mut wanted = tree([]);
    for n in 0..100 {
        wanted.push((format!("d{n:03}").into_bytes(), meta(0o755), Node::Directory));
    }
    let manifest = world.backup(&wanted);
    let error = world.restore(&manifest, dir.path()).unwrap_err();
    assert!(error.hint().unwrap().contains("free space"), "{error:?}");
}
