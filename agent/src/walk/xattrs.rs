//! Extended attributes of a name, without opening the file and without following a symlink.
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::listxattrat::listxattrat;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

const BUFFER: usize = 4 << 10;
/// The kernel's own bound of a list and of a value.
const MAX: usize = 64 << 10;

/// Reads through `/proc/self/fd`: the only way relative to a directory before Linux 6.13. From there on it is asked
/// otherwise whether there are any, which is nearly always all: five names to look up instead of one were half of an
/// unchanged backup's processor time.
#[derive(Debug)]
pub(super) struct Xattrs {
    buffer: Vec<u8>,
    path: Vec<u8>,
    /// The device that last said it has no such thing.
    without: Option<u64>,
    proc: bool,
    /// The kernel has listxattrat, as far as is known.
    at: bool,
}

/// What could not be read, for a warning.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) name: Vec<u8>,
    pub(super) error: Errno,
}

impl Xattrs {
    pub(super) fn new() -> Self {
        let proc = rustix::fs::stat("/proc/self/fd").is_ok();
        Self { buffer: vec![0; BUFFER], path: Vec::new(), without: None, proc, at: true }
    }

    pub(super) fn can_read(&self) -> bool {
        self.proc
    }

    /// Sorted by name. `name` is below `directory`, or `b"."`.
    pub(super) fn read(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        device: u64,
    ) -> Result<(Pairs, Option<Unread>), Errno> {
        if !self.proc || self.without == Some(device) {
            return Ok((Pairs::new(), None));
        }
        if self.at && self.has_none(directory, name)? {
            return Ok((Pairs::new(), None));
        }
        self.path.clear();
        self.path.extend_from_slice(format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes());
        self.path.extend_from_slice(name);
        let path = self.path.as_slice();
        let len = match grown(&mut self.buffer, |buffer| rustix::fs::llistxattr(path, buffer)) {
            Ok(len) => len,
            Err(Errno::OPNOTSUPP) => {
                self.without = Some(device);
                return Ok((Pairs::new(), None));
            }
            Err(errno) => return Err(errno),
        };
        if len == 0 {
            return Ok((Pairs::new(), None));
        }
        let list = self.buffer[..len].to_vec();
        let mut pairs = Pairs::new();
        let mut unread = None;
        for attribute in list.split(|b| *b == 0).filter(|name| !name.is_empty()) {
            match grown(&mut self.buffer, |buffer| rustix::fs::lgetxattr(path, attribute, buffer)) {
                Ok(len) => pairs.push((attribute.to_vec(), self.buffer[..len].to_vec())),
                Err(Errno::NODATA) => {}
                Err(error) => unread = Some(Unread { name: attribute.to_vec(), error }),
            }
        }
        pairs.sort_unstable();
        Ok((pairs, unread))
    }

    /// What is not plainly none, and each error but that of a name that is gone, is for the other way to say.
    fn has_none(&mut self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
        self.path.clear();
        self.path.extend_from_slice(name);
        self.path.push(0);
        let path = CStr::from_bytes_with_nul(&self.path).map_err(|_| Errno::INVAL)?;
        match listxattrat(directory, path, &mut self.buffer) {
            Ok(len) => Ok(len == 0),
            Err(Errno::NOENT) => Err(Errno::NOENT),
            // Containers' filters answer the second to what they do not know.
            Err(Errno::NOSYS | Errno::PERM) => {
                self.at = false;
                Ok(false)
            }
            Err(_) => Ok(false),
        }
    }
}

/// Calls again with the largest buffer when the first is too small.
fn grown(
    buffer: &mut Vec<u8>,
    mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<usize> {
    match call(buffer.as_mut_slice()) {
        Err(Errno::RANGE) if buffer.len() < MAX => {
            buffer.resize(MAX, 0);
            call(buffer.as_mut_slice())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn both_ways_tell_the_same() {
        let directory = tempfile::tempdir_in(".").unwrap();
        let plain = directory.path().join("plain");
        let file = directory.path().join("file");
        std::fs::write(&plain, b"").unwrap();
        std::fs::write(&file, b"").unwrap();
        std::os::unix::fs::symlink("nowhere", directory.path().join("link")).unwrap();
        if xattr::set(&file, "user.a", b"1").is_err() {
            return;
        }
        let fd = std::fs::File::open(directory.path()).unwrap();
        let mut new = Xattrs::new();
        let mut old = Xattrs { at: false, ..Xattrs::new() };
        for name in [&b"plain"[..], b"file", b"link", b".", b"gone"] {
            let told = [&mut new, &mut old].map(|way| {
                way.read(fd.as_fd(), name, 1).map(|(pairs, unread)| (pairs, unread.map(|it| it.error)))
            });
            assert_eq!(told[0], told[1], "{}", name.escape_ascii());
        }
        let (pairs, _) = new.read(fd.as_fd(), b"file", 1).unwrap();
        assert!(pairs.contains(&(b"user.a".to_vec(), b"1".to_vec())));
    }
}
