//! A tree with everything that a plain copy loses or trips over.
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps};

/// What a backup skips with a warning: for `compare`.
pub const SKIPPED: [&str; 3] = ["fifo", "socket", "device"];

/// Whether owners, devices and trusted attributes can be made here.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub fn make(dir: &Path) {
    names(dir);
    contents(dir);
    links(dir);
    attributes(dir);
    specials(dir);
    deep(dir);
    times(dir);
}

fn names(dir: &Path) {
    for name in [
        &b"not \xff\xfe utf-8"[..],
        b"line\nbreak",
        b"esc\x1b[31m",
        b"-rf",
        b" ",
        b"...",
        b"*?[",
        b"\xc3\xa9",
    ] {
        fs::write(dir.join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::write(dir.join("x".repeat(255)), "the longest name").unwrap();
    // Orders differently by bytes than by parts: '.' is below '/'.
    fs::create_dir_all(dir.join("order/a")).unwrap();
    for name in ["order/a.b", "order/a/z", "order/a0", "order/A"] {
        fs::write(dir.join(name), name).unwrap();
    }
}

fn contents(dir: &Path) {
    fs::write(dir.join("empty"), "").unwrap();
    fs::create_dir_all(dir.join("empty directories/one/two")).unwrap();
    fs::write(dir.join("one byte"), "1").unwrap();
    for (name, len) in [("extent-1", (1 << 20) - 1), ("extent", 1 << 20), ("extent+1", (1 << 20) + 1)] {
        let bytes: Vec<u8> = (0..len).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        fs::write(dir.join(name), bytes).unwrap();
    }
    fs::write(dir.join("zeros"), vec![0; 3 << 20]).unwrap();
    let sparse = |name: &str, size, islands: &[u64]| sparse(&dir.join(name), size, islands);
    sparse("sparse all hole", 10 << 20, &[]);
    sparse("sparse odd end", (3 << 20) + 77, &[1 << 20]);
    sparse("sparse large", 256 << 20, &[0, 123_456_789, (256 << 20) - 21]);
}

/// A file of holes but for a few bytes at each of `islands`.
pub fn sparse(path: &Path, size: u64, islands: &[u64]) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for at in islands {
        file.write_all_at(b"an island in the hole", *at).unwrap();
    }
}

fn links(dir: &Path) {
    fs::create_dir(dir.join("links")).unwrap();
    let at = |name: &str| dir.join("links").join(name);
    fs::write(at("z first by time"), "one file of four names").unwrap();
    fs::hard_link(at("z first by time"), at("a first by name")).unwrap();
    fs::hard_link(at("z first by time"), dir.join("name of it elsewhere")).unwrap();
    fs::hard_link(at("z first by time"), dir.join("zz last")).unwrap();
    symlink("nowhere/at/all", at("dangling")).unwrap();
    symlink("/etc/passwd", at("absolute")).unwrap();
    symlink("..", at("up")).unwrap();
    symlink(".", at("loop")).unwrap();
    symlink(OsStr::from_bytes(b"\xff"), at("not utf-8")).unwrap();
    symlink("t".repeat(4095), at("long")).unwrap();
    symlink("z first by time", at("twice")).unwrap();
}

fn attributes(dir: &Path) {
    fs::create_dir(dir.join("attributes")).unwrap();
    let at = |name: &str| dir.join("attributes").join(name);
    for mode in [0o000, 0o400, 0o777, 0o4755, 0o2755, 0o1777, 0o6711] {
        fs::write(at(&format!("mode {mode:o}")), "").unwrap();
        fs::set_permissions(at(&format!("mode {mode:o}")), Permissions::from_mode(mode)).unwrap();
    }
    for mode in [0o555, 0o2775, 0o1777] {
        fs::create_dir(at(&format!("directory {mode:o}"))).unwrap();
        fs::write(at(&format!("directory {mode:o}/file")), "in it").unwrap();
        fs::set_permissions(at(&format!("directory {mode:o}")), Permissions::from_mode(mode)).unwrap();
    }
    fs::write(at("extended"), "has attributes").unwrap();
    xattr::set(at("extended"), "user.plain", b"value").unwrap();
    xattr::set(at("extended"), "user.empty", b"").unwrap();
    xattr::set(at("extended"), "user.bytes", &[0, 255, 10, 0]).unwrap();
    xattr::set(at("extended"), "user.long", &[b'v'; 1500]).unwrap();
    xattr::set(dir.join("attributes"), "user.on a directory", b"yes").unwrap();
    // user::rw-, user:1234:r--, group::r--, mask::r--, other::--- as the kernel writes it.
    let acl: Vec<u8> =
        [(1u16, 6u16, u32::MAX), (2, 4, 1234), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
            .iter()
            .flat_map(|(tag, perm, id)| {
                [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat()
            })
            .collect();
    fs::write(at("access list"), "").unwrap();
    // tmpfs and others may have none.
    let _ =
        xattr::set(at("access list"), "system.posix_acl_access", &[&2u32.to_le_bytes()[..], &acl].concat());
    if is_root() {
        fs::write(at("owned"), "").unwrap();
        chown(at("owned"), Some(1234), Some(5678)).unwrap();
        symlink("owned", at("owned link")).unwrap();
        lchown(at("owned link"), Some(4321), Some(8765)).unwrap();
        fs::write(at("owned and setuid"), "").unwrap();
        chown(at("owned and setuid"), Some(1234), Some(5678)).unwrap();
        fs::set_permissions(at("owned and setuid"), Permissions::from_mode(0o6755)).unwrap();
        fs::write(at("capable"), "").unwrap();
        // cap_net_bind_service+ep, revision 2: a change of owner after it would take it away.
        let capability = [1u32 | 0x0200_0000, 1 << 10, 0, 0, 0].map(u32::to_le_bytes).concat();
        let _ = xattr::set(at("capable"), "security.capability", &capability);
        let _ = xattr::set(at("owned link"), "trusted.on a link", b"yes");
    }
}

fn specials(dir: &Path) {
    rustix::fs::mkfifoat(CWD, dir.join("fifo"), Mode::from_raw_mode(0o644)).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap());
    if is_root() {
        let null = rustix::fs::makedev(1, 3);
        // A container may forbid it.
        let _ = rustix::fs::mknodat(
            CWD,
            dir.join("device"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o644),
            null,
        );
    }
}

/// A path of 3,900 bytes below `dir`: with what is before it, just below the system's limit.
fn deep(dir: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(dir, flags, Mode::empty()).unwrap();
    let mut len = 0;
    while len < 3880 {
        let name = "d".repeat((3880 - len).min(200));
        rustix::fs::mkdirat(&at, &name, Mode::from_raw_mode(0o755)).unwrap();
        at = rustix::fs::openat(&at, &name, flags, Mode::empty()).unwrap();
        len += name.len() + 1;
    }
    let file =
        rustix::fs::openat(&at, "at the bottom", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644));
    rustix::io::write(file.unwrap(), b"deep").unwrap();
}

fn times(dir: &Path) {
    fs::create_dir(dir.join("times")).unwrap();
    let at = |name: &str| dir.join("times").join(name);
    for (name, seconds, nanos) in [
        ("epoch", 0, 0),
        ("before the epoch", -86_400, 500_000_000),
        ("nanoseconds", 1_600_000_000, 123_456_789),
        ("last nanosecond", 1_600_000_000, 999_999_999),
        ("in 2100", 4_102_444_800, 1),
    ] {
        fs::write(at(name), name).unwrap();
        set_time(&at(name), seconds, nanos);
    }
    symlink("epoch", at("link")).unwrap();
    set_time(&at("link"), 1_500_000_000, 42);
    fs::create_dir_all(at("directory/below")).unwrap();
    set_time(&at("directory/below"), 1_400_000_000, 7);
    set_time(&at("directory"), 1_300_000_000, 8);
    set_time(&dir.join("times"), 1_200_000_000, 9);
    set_time(dir, 1_100_000_000, 10);
}

pub fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Makes a file look old: one written a moment ago is read again for safety.
pub fn age(path: &Path) {
    let file = File::options().read(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_600_000_000)).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare;

    /// The tree can be made here, and a faithful copy of it compares as equal.
    #[test]
    fn a_faithful_copy_is_equal() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, copy) = (dir.path().join("tree"), dir.path().join("copy"));
        fs::create_dir(&tree).unwrap();
        make(&tree);
        let status = std::process::Command::new("cp").arg("-a").args([&tree, &copy]).status().unwrap();
        assert!(status.success());
        compare::assert_equal(&tree, &copy, &SKIPPED);
        assert!(compare::allocated(&tree.join("sparse large")) < 1 << 20);
    }
}
