//! The object `repo`: says that this is a repository, and which.
//!
//! ```text
//! "PALNREPO" | version | suite | 0 x 6 | repository id 16      plain
//! seal of nothing over the plain part 16                       proves that the root key is this repository's
//! BLAKE3 of all that, 8 bytes                                  tells damage without a key
//! ```
use bytes::Bytes;

use crate::crypto::TAG_LEN;
use crate::error::{Error, Result};
use crate::id::RepositoryId;
use crate::keys::Keys;

pub(super) const NAME: &str = "repo";
const MAGIC: &[u8; 8] = b"PALNREPO";
const VERSION: u8 = 1;
const PLAIN_LEN: usize = 32;
const CHECKSUM_LEN: usize = 8;

pub(super) fn seal(keys: &Keys) -> Result<Bytes> {
    let mut header = Vec::with_capacity(PLAIN_LEN + TAG_LEN + CHECKSUM_LEN);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&[VERSION, keys.suite(), 0, 0, 0, 0, 0, 0]);
    header.extend_from_slice(keys.repository().as_bytes());
    let tag = keys.root_aead(&[NAME.as_bytes()])?.seal(0, &header, &mut [])?;
    header.extend_from_slice(&tag);
    let checksum = blake3::hash(&header);
    header.extend_from_slice(&checksum.as_bytes()[..CHECKSUM_LEN]);
    Ok(Bytes::from(header))
}

/// Needs no key; proves nothing but that it is whole.
pub(super) fn read(header: &[u8]) -> Result<RepositoryId> {
    if !header.starts_with(MAGIC) {
        return Err(Error::corrupt("the object \"repo\" is not the header of a palinurus repository")
            .with_hint(
                "check the URL; if it is right, bring the object back from the store's older versions",
            ));
    }
    if header.get(8).is_some_and(|version| *version > VERSION) {
        return Err(Error::invalid(format!(
            "the repository is of format {}, this palinurus knows {VERSION}",
            header[8]
        ))
        .with_hint("update palinurus"));
    }
    let damaged = || {
        Error::corrupt("the header \"repo\" is damaged")
            .with_hint("bring the object back from the store's older versions")
    };
    if header.len() != PLAIN_LEN + TAG_LEN + CHECKSUM_LEN {
        return Err(damaged());
    }
    let (signed, checksum) = header.split_at(PLAIN_LEN + TAG_LEN);
    if blake3::hash(signed).as_bytes()[..CHECKSUM_LEN] != *checksum {
        return Err(damaged());
    }
    RepositoryId::from_slice(&header[16..PLAIN_LEN])
}

pub(super) fn prove(keys: &Keys, header: &[u8]) -> Result<()> {
    let (plain, rest) = header.split_at(PLAIN_LEN);
    let mut tag = rest[..TAG_LEN].to_vec();
    let proof = keys.root_aead(&[NAME.as_bytes()])?;
    proof
        .open(0, plain, &mut tag)
        .map_err(|e| Error::corrupt("the header \"repo\" was changed").with_source(e))?;
    Ok(())
}
