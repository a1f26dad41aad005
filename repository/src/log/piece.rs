//! A piece's bytes: sealed for its name, with a trailer behind.
//!
//! ```text
//! 0  "PALNW" 1   6  suite   7  0   8  salt (16)
//! 24 frames: Sealed(piece key, ordinal, frame aad)
//!    trailer: Sealed(piece key, 2^64−1, trailer aad) of a Trail, its length u32, "PALNWEND"
//! ```
use bytes::Bytes;

use super::trail::{Frame, TRAIL_MAX};
use super::{Piece, Trail};
use crate::crypto::{Aead, TAG_LEN};
use crate::epochs::KeyEpoch;
use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::pack::Codec;

/// Plain bytes of a piece, at most.
pub const PIECE_MAX: usize = 8 << 20;
/// Of a whole; a longer segment is several.
pub const WHOLE_MAX: usize = 16 << 20;
const MAGIC: &[u8; 6] = b"PALNW\x01";
const HEADER_LEN: usize = 24;
const END: &[u8; 8] = b"PALNWEND";
const FOOTER_LEN: usize = 12;
const TRAILER: u64 = u64::MAX;
/// The compressor's window is the whole object.
const WINDOW_LOG: u32 = 24;

/// Seals `plain` as that piece, under the master of its grant's key epoch, which must be known. Blocks on compression.
pub fn seal(
    keys: &Keys,
    epoch: Option<KeyEpoch>,
    piece: &Piece,
    trail: &Trail,
    plain: &[u8],
    level: i32,
) -> Result<Bytes> {
    piece.check()?;
    if plain.len() as u64 != piece.len() {
        return Err(Error::internal(format!("{} bytes for {piece}", plain.len())));
    }
    let (codec, mut content) = compress(plain, level)?;
    let stored = (content.len() + TAG_LEN) as u32;
    let frame = Frame { stored, plain: plain.len() as u32, codec };
    let mut trailer = trail.encode(piece, &[frame]);
    let mut salted = keys.log_salt(epoch)?;
    salted.update(piece.key().as_bytes()).update(&trailer).update(&content);
    let mut salt = [0; 16];
    salt.copy_from_slice(&salted.finalize().as_bytes()[..16]);

    let aead = keys.log_aead(epoch, piece.lineage, &salt)?;
    let tag = aead.seal(0, &frame_aad(keys, piece, 0, frame), &mut content)?;
    let trailer_tag = aead.seal(TRAILER, &aad(b"wtail", keys, piece), &mut trailer)?;
    let len = ((trailer.len() + TAG_LEN) as u32).to_le_bytes();
    let header = [keys.suite(), 0];
    Ok([MAGIC, &header[..], &salt, &content, &tag, &trailer, &trailer_tag, &len, END].concat().into())
}

/// All of the object: what it says of itself, and its bytes. It is hostile until every seal has held.
pub fn open(keys: &Keys, epoch: Option<KeyEpoch>, piece: &Piece, object: &[u8]) -> Result<(Trail, Vec<u8>)> {
    piece.check()?;
    let damaged = |why: &str| Error::corrupt(format!("{piece}: {why}"));
    let header = object.get(..HEADER_LEN).ok_or_else(|| damaged("it is cut off"))?;
    let aead = aead(keys, epoch, piece, header)?;
    let (trail, frames, trailer_len) = trailer(keys, &*aead, piece, object)?;
    let mut rest = object
        .get(HEADER_LEN..object.len() - trailer_len - FOOTER_LEN)
        .ok_or_else(|| damaged("its trailer overlaps its header"))?;
    let mut plain = Vec::with_capacity(piece.len() as usize);
    for (ordinal, frame) in (0u32..).zip(&frames) {
        let (sealed, behind) =
            rest.split_at_checked(frame.stored as usize).ok_or_else(|| damaged("a frame is cut off"))?;
        rest = behind;
        let mut sealed = sealed.to_vec();
        let opened = aead.open(u64::from(ordinal), &frame_aad(keys, piece, ordinal, *frame), &mut sealed);
        let opened = opened.map_err(|e| damaged("a frame").with_source(e))?;
        let before = plain.len();
        match frame.codec {
            Codec::Raw => plain.extend_from_slice(opened),
            // The trail's lengths add up to the piece's: this allocates no more than that.
            Codec::Zstd => plain.extend(
                zstd::bulk::decompress(opened, frame.plain as usize)
                    .map_err(|e| damaged("a frame does not decompress").with_source(e))?,
            ),
        }
        if plain.len() - before != frame.plain as usize {
            return Err(damaged("a frame has another length"));
        }
    }
    if !rest.is_empty() {
        return Err(damaged("bytes that are of no frame"));
    }
    Ok((trail, plain))
}

/// What the piece says of itself, and how long its object was written: from the header and the end, as much of that as
/// there is.
pub(super) fn open_trail(
    keys: &Keys,
    epoch: Option<KeyEpoch>,
    piece: &Piece,
    header: &[u8],
    end: &[u8],
) -> Result<(Trail, u64)> {
    let aead = aead(keys, epoch, piece, header)?;
    let (trail, frames, len) = trailer(keys, &*aead, piece, end)?;
    let stored: u64 = frames.iter().map(|frame| u64::from(frame.stored)).sum();
    Ok((trail, HEADER + stored + (len + FOOTER_LEN) as u64))
}

/// How many bytes the object's header has.
pub(super) const HEADER: u64 = HEADER_LEN as u64;

/// How long the object's end is that [`open_trail`] needs.
pub(super) fn end_len(footer: &[u8]) -> Result<usize> {
    Ok(trailer_len(footer)? + FOOTER_LEN)
}

/// An object that is longer is none of ours.
pub(super) fn object_max(piece: &Piece) -> u64 {
    piece.len() + (HEADER_LEN + 1024 * TAG_LEN + TRAIL_MAX + FOOTER_LEN) as u64
}

fn aead(keys: &Keys, epoch: Option<KeyEpoch>, piece: &Piece, header: &[u8]) -> Result<Box<dyn Aead>> {
    let fits = header.len() == HEADER_LEN && header.starts_with(MAGIC) && header[6..8] == [keys.suite(), 0];
    if !fits {
        return Err(Error::corrupt(format!("{piece} does not begin as a piece of a log does")));
    }
    let mut salt = [0; 16];
    salt.copy_from_slice(&header[8..]);
    keys.log_aead(epoch, piece.lineage, &salt)
}

fn trailer(keys: &Keys, aead: &dyn Aead, piece: &Piece, end: &[u8]) -> Result<(Trail, Vec<Frame>, usize)> {
    let len = trailer_len(end).map_err(|e| Error::corrupt(format!("{piece}: {}", e.what())))?;
    let start = end.len().checked_sub(FOOTER_LEN + len);
    let start = start.ok_or_else(|| Error::corrupt(format!("{piece}: its trailer is cut off")))?;
    let mut sealed = end[start..start + len].to_vec();
    let plain = aead
        .open(TRAILER, &aad(b"wtail", keys, piece), &mut sealed)
        .map_err(|e| Error::corrupt(format!("{piece}: its trailer")).with_source(e))?;
    let (trail, frames) = Trail::decode(plain, piece)?;
    Ok((trail, frames, len))
}

fn trailer_len(end: &[u8]) -> Result<usize> {
    let footer = end.len().checked_sub(FOOTER_LEN).and_then(|start| end.get(start..));
    let len = footer.filter(|footer| footer.ends_with(END)).and_then(<[u8]>::first_chunk::<4>);
    let len = len.map(|len| u32::from_le_bytes(*len) as usize);
    len.filter(|len| (TAG_LEN..=TRAIL_MAX).contains(len))
        .ok_or_else(|| Error::corrupt("it does not end as a piece of a log does"))
}

fn compress(plain: &[u8], level: i32) -> Result<(Codec, Vec<u8>)> {
    let zstd = |e| Error::invalid(format!("zstd level {level}")).with_source(e);
    let mut compressor = zstd::bulk::Compressor::new(level).map_err(zstd)?;
    if plain.len() > PIECE_MAX {
        compressor.set_parameter(zstd::zstd_safe::CParameter::WindowLog(WINDOW_LOG)).map_err(zstd)?;
    }
    // What does not shrink is not worth undoing.
    match compressor.compress(plain) {
        Ok(packed) if packed.len() < plain.len() => Ok((Codec::Zstd, packed)),
        _ => Ok((Codec::Raw, plain.to_vec())),
    }
}

fn frame_aad(keys: &Keys, piece: &Piece, ordinal: u32, frame: Frame) -> Vec<u8> {
    let place = [ordinal.to_le_bytes(), frame.plain.to_le_bytes()].concat();
    [aad(b"wfram", keys, piece), place, vec![frame.codec as u8]].concat()
}

/// Binds the repository and all of the name.
fn aad(what: &[u8; 5], keys: &Keys, piece: &Piece) -> Vec<u8> {
    let mut aad = Vec::with_capacity(70);
    aad.extend_from_slice(what);
    aad.extend_from_slice(&[1, keys.suite(), 0]);
    aad.extend_from_slice(keys.repository().as_bytes());
    aad.extend_from_slice(piece.lineage.as_bytes());
    aad.extend_from_slice(&[u8::from(piece.whole)]);
    aad.extend_from_slice(&piece.epoch.to_le_bytes());
    aad.extend_from_slice(&piece.from.to_le_bytes());
    aad.extend_from_slice(&piece.to.to_le_bytes());
    aad
}
