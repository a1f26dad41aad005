//! A place as the index keeps it.
use palinurus_repository::pack::{ChunkAt, Codec, FrameAt, PackId};
use palinurus_repository::{TransactionId, WriterId};

pub(super) const PLACE_LEN: usize = 53;

/// transaction 16 | writer 8 | counter, ordinal, offset, stored, plain, start, len: u32 each | codec 1
pub(super) fn place(at: &ChunkAt) -> [u8; PLACE_LEN] {
    let FrameAt { pack, ordinal, offset, stored, plain, codec } = at.frame;
    let mut bytes = [0; PLACE_LEN];
    bytes[..16].copy_from_slice(pack.transaction.as_bytes());
    bytes[16..24].copy_from_slice(pack.writer.as_bytes());
    for (i, value) in [pack.counter, ordinal, offset, stored, plain, at.start, at.len].into_iter().enumerate()
    {
        bytes[24 + 4 * i..28 + 4 * i].copy_from_slice(&value.to_le_bytes());
    }
    bytes[52] = codec as u8;
    bytes
}

/// `None` for what no version of ours writes: then the chunk is stored again.
pub(super) fn parse(bytes: &[u8; PLACE_LEN]) -> Option<ChunkAt> {
    let number = |i: usize| {
        let at = 24 + 4 * i;
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    let pack = PackId {
        transaction: TransactionId::from_slice(&bytes[..16]).ok()?,
        writer: WriterId::from_slice(&bytes[16..24]).ok()?,
        counter: number(0),
    };
    let codec = Codec::from_u32(u32::from(bytes[52])).ok()?;
    let frame =
        FrameAt { pack, ordinal: number(1), offset: number(2), stored: number(3), plain: number(4), codec };
    let at = ChunkAt { frame, start: number(5), len: number(6) };
    at.check().ok().map(|()| at)
}
