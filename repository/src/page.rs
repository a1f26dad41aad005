//! The page map of a file that a database writes in place: which pages changed since the last backup.
//!
//! A map holds the first 8 bytes of the keyed BLAKE3 of each page. It is compared with the map of the same
//! place in the base backup, one candidate at one offset: never use such an entry as an identity.
use crate::error::{Error, Result};
use crate::keys::Keys;

/// Pages in one map: 128 MiB of 8 KiB pages, a map of 128 KiB.
pub const UNIT_PAGES: usize = 16_384;
pub const ENTRY: usize = 8;

pub fn check_page_size(size: u32) -> Result<()> {
    if (512..=65_536).contains(&size) && size.is_power_of_two() {
        return Ok(());
    }
    Err(Error::invalid(format!("page size {size}")).with_hint("use a power of two from 512 to 65536"))
}

/// The map entry of one page; the last page of a file may be short.
pub fn entry(keys: &Keys, page: &[u8]) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry.copy_from_slice(&keys.chunk_id(page).0[..ENTRY]);
    entry
}
