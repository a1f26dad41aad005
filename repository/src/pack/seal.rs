//! What binds a frame and a trailer to their place.
use super::place::{FrameAt, PackId};
use crate::id::RepositoryId;

/// The nonce of the trailer; no frame reaches it.
pub(super) const TRAILER_NONCE: u64 = u64::MAX;

pub(super) fn frame_aad(repository: RepositoryId, suite: u8, at: &FrameAt) -> [u8; 70] {
    let mut aad = [0; 70];
    aad[..52].copy_from_slice(&pack_aad(b"frame", repository, suite, &at.pack));
    aad[52..56].copy_from_slice(&at.ordinal.to_le_bytes());
    aad[56] = at.codec as u8;
    aad[57..61].copy_from_slice(&at.plain.to_le_bytes());
    aad
}

pub(super) fn trailer_aad(repository: RepositoryId, suite: u8, pack: &PackId) -> [u8; 52] {
    pack_aad(b"trail", repository, suite, pack)
}

fn pack_aad(what: &[u8; 5], repository: RepositoryId, suite: u8, pack: &PackId) -> [u8; 52] {
    let mut aad = [0; 52];
    aad[..5].copy_from_slice(what);
    aad[5] = 1;
    aad[6] = suite;
    aad[8..24].copy_from_slice(repository.as_bytes());
    aad[24..40].copy_from_slice(pack.transaction.as_bytes());
    aad[40..48].copy_from_slice(pack.writer.as_bytes());
    aad[48..52].copy_from_slice(&pack.counter.to_le_bytes());
    aad
}
