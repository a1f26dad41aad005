//! Proves a whole pack: before it is copied, or put back in the place of a damaged one.
use super::reader::{FrameReader, check_footer, check_header, open_trailer, trailer_len};
use super::{FOOTER_LEN, HEADER_LEN, PackId, PackSummary};
use crate::error::{Error, Result};
use crate::keys::Keys;

/// Opens all that is in the object: what passes is, byte for byte, what was once sealed under that name.
pub fn open_whole(keys: &Keys, pack: PackId, object: &[u8]) -> Result<PackSummary> {
    let cut = || Error::corrupt(format!("{pack} is cut off"));
    check_header(object.get(..HEADER_LEN).ok_or_else(cut)?, keys.suite())?;
    let footer = object.len().checked_sub(FOOTER_LEN).ok_or_else(cut)?;
    let trailer = trailer_len(&object[footer..])? as usize;
    let begin = footer.checked_sub(trailer).ok_or_else(cut)?;
    let tail = &object[begin..];
    let summary = open_trailer(keys, &keys.transaction(pack.transaction)?, pack, tail, object.len() as u64)?;
    check_footer(tail, summary.frames.len())?;
    let mut reader = FrameReader::new(keys)?;
    let mut plain = Vec::new();
    let mut end = HEADER_LEN as u64;
    for (ordinal, frame) in (0u32..).zip(&summary.frames) {
        let at = summary.frame(ordinal).ok_or_else(cut)?;
        let range = at.range();
        let stored = object.get(range.start as usize..range.end as usize).ok_or_else(cut)?;
        reader.open(&at, &mut stored.to_vec(), &mut plain)?;
        let mut rest = &plain[..];
        for (id, len) in &frame.chunks {
            let (chunk, after) = rest.split_at_checked(*len as usize).ok_or_else(cut)?;
            if keys.chunk_id(chunk) != *id {
                return Err(Error::corrupt(format!("{pack}: frame {ordinal} does not hold chunk {id}")));
            }
            rest = after;
        }
        end = range.end;
    }
    if end != begin as u64 {
        return Err(Error::corrupt(format!("{pack} has bytes that belong to no frame")));
    }
    Ok(summary)
}
