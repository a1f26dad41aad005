//! The names that a directory of the target has, to remove those that the backup does not.
use std::io;

use rustix::fs::{Dir, Mode, OFlags};

use super::beneath::{Beneath, Places};
use super::remove::remove;
use super::target::is_spared;

/// Names in the order of the manifest, packed: a directory may have millions.
#[derive(Debug)]
pub(super) struct Extras {
    bytes: Vec<u8>,
    /// Where each name lies.
    names: Vec<(u32, u16)>,
    next: usize,
}

impl Extras {
    pub(super) fn list(beneath: &Beneath, directory: &[u8]) -> io::Result<Self> {
        let fd = beneath.open(directory, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let mut extras = Self { bytes: Vec::new(), names: Vec::new(), next: 0 };
        for entry in Dir::new(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." || (directory == b"." && is_spared(name)) {
                continue;
            }
            let at = u32::try_from(extras.bytes.len())
                .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
            extras.names.push((at, name.len() as u16));
            extras.bytes.extend_from_slice(name);
        }
        let Self { bytes, names, .. } = &mut extras;
        names.sort_unstable_by(|a, b| name(bytes, *a).cmp(name(bytes, *b)));
        Ok(extras)
    }

    /// The backup's next name here is `wanted`, or there is none: what stands before it is removed.
    pub(super) fn remove_until(
        &mut self,
        beneath: &Beneath,
        places: &mut Places,
        directory: &[u8],
        wanted: Option<&[u8]>,
    ) -> io::Result<()> {
        while let Some(at) = self.names.get(self.next) {
            let found = name(&self.bytes, *at);
            if wanted.is_some_and(|wanted| found > wanted) {
                break;
            }
            if wanted != Some(found) {
                let mut path = if directory == b"." { Vec::new() } else { [directory, b"/"].concat() };
                path.extend_from_slice(found);
                remove(beneath, places, &path)?;
            }
            self.next += 1;
        }
        Ok(())
    }
}

fn name(bytes: &[u8], (at, len): (u32, u16)) -> &[u8] {
    &bytes[at as usize..at as usize + len as usize]
}
