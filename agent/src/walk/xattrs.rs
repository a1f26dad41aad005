//! Extended attributes of a name, without opening the file and without following a symlink.
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

const BUFFER: usize = 4 << 10;
/// The kernel's own bound of a list and of a value.
const MAX: usize = 64 << 10;

/// Reads through `/proc/self/fd`: the only way relative to a directory before Linux 6.13.
#[derive(Debug)]
pub(super) struct Xattrs {
    buffer: Vec<u8>,
    path: Vec<u8>,
    /// The device that last said it has no such thing.
    without: Option<u64>,
    proc: bool,
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
        Self { buffer: vec![0; BUFFER], path: Vec::new(), without: None, proc }
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
