//! Reads of the data directory: no faster than the limit allows, and without filling the page cache with what the
//! database does not want there.
use std::io::{self, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::read::Fault;
use super::stop::Stop;
use crate::pace::Pacer;
use crate::source::ReadAt;

/// `RWF_DONTCACHE`, since Linux 6.14: what was not in the page cache is not there afterwards, what was there stays.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) pacer: Pacer,
    pub(crate) stop: Arc<Stop>,
    /// Cleared where the kernel or the file system knows no such reads.
    spares_cache: AtomicBool,
}

impl Disk {
    pub(crate) fn new(pacer: Pacer, stop: Arc<Stop>, spares_cache: bool) -> Self {
        Self { pacer, stop, spares_cache: AtomicBool::new(spares_cache) }
    }

    /// Reads until `buffer` is full or the file ends.
    pub(crate) fn fill(&self, file: &impl ReadAt, buffer: &mut [u8], at: u64) -> Result<usize, Fault> {
        self.pacer.hold(|pace| &pace.read, buffer.len() as u64, || self.stop.check())?;
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(file, &mut buffer[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(filled)
    }

    fn read(&self, file: &impl ReadAt, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let here = file.here().filter(|_| self.spares_cache.load(Ordering::Relaxed));
        let Some(here) = here else { return file.read_at(buffer, at) };
        match preadv2(here, &mut [IoSliceMut::new(buffer)], at, DONTCACHE) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.spares_cache.store(false, Ordering::Relaxed);
                file.read_at(buffer, at)
            }
            read => Ok(read?),
        }
    }
}
