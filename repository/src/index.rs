//! Index segments: the trailers of many packs in one object, so that what a repository holds is learned with one
//! request for each thousand packs. Never needed for a restore, and always to be had again from the trailers.
//!
//! ```text
//! header   "PALNX" version suite 0 | plain length u32
//! body     sealed, compressed
//! ```
use bytes::Bytes;
use prost::Message;

use crate::crypto::{Aead, TAG_LEN};
use crate::error::{Error, Result};
use crate::id::{TransactionId, WriterId};
use crate::keys::Keys;
use crate::pack::{PackSummary, wire};

/// The most packs in one segment.
pub const PACKS_MAX: usize = 1024;
/// What a segment is filled to, before compression.
const TARGET: usize = 32 << 20;
/// Readers refuse more unread. One pack needs less than a MiB.
const PLAIN_MAX: usize = 64 << 20;
const MAGIC: &[u8; 6] = b"PALNX\x01";
const HEADER_LEN: usize = 12;

/// Names one segment. Only what its transaction wrote is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexSegment {
    pub transaction: TransactionId,
    pub writer: WriterId,
    pub n: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Segment {
    #[prost(message, repeated, tag = "1")]
    packs: Vec<wire::PackSummary>,
}

impl IndexSegment {
    /// The object's name.
    pub fn key(&self) -> String {
        format!("t/{}/x/{}-{:08x}", self.transaction, self.writer, self.n)
    }

    pub fn from_key(key: &str) -> Result<Self> {
        let parse = || {
            let (transaction, rest) = key.strip_prefix("t/")?.split_once("/x/")?;
            let (writer, n) = rest.split_once('-')?;
            Some(Self {
                transaction: transaction.parse().ok()?,
                writer: writer.parse().ok()?,
                n: u32::from_str_radix(n, 16).ok()?,
            })
        };
        parse()
            .filter(|segment| segment.key() == key)
            .ok_or_else(|| Error::invalid(format!("{key:?} is not the name of an index segment")))
    }

    /// Cuts the packs of a transaction into runs that fit one segment each.
    pub fn runs(packs: &[PackSummary]) -> Vec<&[PackSummary]> {
        let mut runs = Vec::new();
        let mut rest = packs;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fit = rest.iter().take(PACKS_MAX).take_while(|pack| {
                bytes += 64 + pack.frames.iter().map(|frame| 12 + 36 * frame.chunks.len()).sum::<usize>();
                bytes <= TARGET
            });
            let (run, after) = rest.split_at(fit.count().max(1));
            runs.push(run);
            rest = after;
        }
        runs
    }

    /// The object of these packs, and its name.
    pub fn seal(
        keys: &Keys,
        transaction: TransactionId,
        writer: WriterId,
        n: u32,
        packs: &[PackSummary],
    ) -> Result<(String, Bytes)> {
        let segment = Self { transaction, writer, n };
        if packs.len() > PACKS_MAX || packs.iter().any(|pack| pack.pack.transaction != transaction) {
            return Err(Error::internal(format!("{} packs do not belong in {}", packs.len(), segment.key())));
        }
        let plain = Segment { packs: packs.iter().map(PackSummary::to_wire).collect() }.encode_to_vec();
        if plain.len() > PLAIN_MAX {
            return Err(Error::internal(format!("an index segment of {} bytes", plain.len())));
        }
        let mut sealed =
            zstd::bulk::compress(&plain, 1).map_err(|e| Error::internal("zstd").with_source(e))?;
        let plain_len = plain.len() as u32;
        let tag = segment.aead(keys)?.seal(0, &aad(keys, plain_len), &mut sealed)?;
        let mut object = Vec::with_capacity(HEADER_LEN + sealed.len() + TAG_LEN);
        object.extend_from_slice(MAGIC);
        object.extend_from_slice(&[keys.suite(), 0]);
        object.extend_from_slice(&plain_len.to_le_bytes());
        object.extend_from_slice(&sealed);
        object.extend_from_slice(&tag);
        Ok((segment.key(), object.into()))
    }

    /// The packs in the object named `key`.
    pub fn open(keys: &Keys, key: &str, object: &[u8]) -> Result<Vec<PackSummary>> {
        let segment = Self::from_key(key)?;
        segment.read(keys, object).map_err(|e| Error::corrupt(key.to_owned()).with_source(e))
    }

    fn read(&self, keys: &Keys, object: &[u8]) -> Result<Vec<PackSummary>> {
        let Some((header, sealed)) = object.split_at_checked(HEADER_LEN) else {
            return Err(Error::corrupt("an index segment is cut off"));
        };
        if &header[..6] != MAGIC || header[6..8] != [keys.suite(), 0] {
            return Err(Error::corrupt("does not begin as an index segment does"));
        }
        let plain_len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        if plain_len as usize > PLAIN_MAX {
            return Err(Error::corrupt(format!("an index segment of {plain_len} bytes")));
        }
        let mut sealed = sealed.to_vec();
        let compressed = self.aead(keys)?.open(0, &aad(keys, plain_len), &mut sealed)?;
        let plain = zstd::bulk::decompress(compressed, plain_len as usize)
            .map_err(|e| Error::corrupt("does not decompress").with_source(e))?;
        let decoded = Segment::decode(plain.as_slice())
            .map_err(|e| Error::corrupt("an index segment does not decode").with_source(e))?;
        let packs = decoded.packs.iter().map(PackSummary::from_wire).collect::<Result<Vec<_>>>()?;
        if packs.len() > PACKS_MAX || packs.iter().any(|pack| pack.pack.transaction != self.transaction) {
            return Err(Error::corrupt("an index segment holds what does not belong in it"));
        }
        Ok(packs)
    }

    fn aead(&self, keys: &Keys) -> Result<Box<dyn Aead>> {
        let n = self.n.to_le_bytes();
        keys.metadata_aead(
            self.transaction,
            &[b"index", self.transaction.as_bytes(), self.writer.as_bytes(), &n],
        )
    }
}

fn aad(keys: &Keys, plain_len: u32) -> [u8; 28] {
    let mut aad = [0; 28];
    aad[..5].copy_from_slice(b"index");
    aad[5] = 1;
    aad[6] = keys.suite();
    aad[8..24].copy_from_slice(keys.repository().as_bytes());
    aad[24..].copy_from_slice(&plain_len.to_le_bytes());
    aad
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::entropy::SeededEntropy;
    use crate::id::{ChunkId, RepositoryId};
    use crate::keys::RootKey;
    use crate::pack::{Codec, FrameSummary, HEADER_LEN, PackId};

    const TRANSACTION: TransactionId = TransactionId([4; 16]);
    const WRITER: WriterId = WriterId([5; 8]);

    fn keys() -> Keys {
        Keys::derive(&RootKey::generate(&SeededEntropy::new(1)).unwrap(), RepositoryId([1; 16])).unwrap()
    }

    fn pack(counter: u32, chunks: usize) -> PackSummary {
        let id = |i: usize| ChunkId(blake3::hash(&i.to_le_bytes()).into());
        let frame = FrameSummary {
            offset: HEADER_LEN as u32,
            stored: 500,
            plain: chunks as u32 * 10,
            codec: Codec::Zstd,
            chunks: (0..chunks).map(|i| (id(i), 10)).collect(),
        };
        PackSummary {
            pack: PackId { transaction: TRANSACTION, writer: WRITER, counter },
            size: 700,
            frames: vec![frame],
        }
    }

    #[test]
    fn what_is_sealed_opens_again_under_its_name_only() {
        let packs: Vec<_> = (0..20).map(|i| pack(i, i as usize * 3)).collect();
        let (key, object) = IndexSegment::seal(&keys(), TRANSACTION, WRITER, 3, &packs).unwrap();
        assert_eq!(key, format!("t/{TRANSACTION}/x/{WRITER}-00000003"));
        assert_eq!(IndexSegment::open(&keys(), &key, &object).unwrap(), packs);
        let other = key.replace("00000003", "00000004");
        assert_eq!(IndexSegment::open(&keys(), &other, &object).unwrap_err().kind(), ErrorKind::Corrupt);
        for bad in ["t/x", "t/00/x/00-1", &key.replace("/x/", "/p/"), &format!("{key}0")] {
            assert_eq!(
                IndexSegment::open(&keys(), bad, &object).unwrap_err().kind(),
                ErrorKind::Invalid,
                "{bad}"
            );
        }
    }

    #[test]
    fn damage_is_found_wherever_it_is() {
        let (key, object) = IndexSegment::seal(&keys(), TRANSACTION, WRITER, 0, &[pack(0, 5)]).unwrap();
        for at in 0..object.len() {
            let mut flipped = object.to_vec();
            flipped[at] ^= 1;
            let error = IndexSegment::open(&keys(), &key, &flipped).unwrap_err();
            assert_eq!((error.kind(), error.what()), (ErrorKind::Corrupt, key.as_str()), "byte {at}");
        }
        for len in 0..object.len() {
            assert!(IndexSegment::open(&keys(), &key, &object[..len]).is_err());
        }
    }

    #[test]
    fn packs_of_others_are_refused() {
        assert!(IndexSegment::seal(&keys(), TransactionId([9; 16]), WRITER, 0, &[pack(0, 1)]).is_err());
    }

    #[test]
    fn runs_are_bounded_and_lose_nothing() {
        let many: Vec<_> = (0..2500).map(|i| pack(i, 1)).collect();
        let runs = IndexSegment::runs(&many);
        assert_eq!(runs.iter().map(|run| run.len()).collect::<Vec<_>>(), [1024, 1024, 452]);
        assert_eq!(runs.concat(), many);
        let large: Vec<_> = (0..50).map(|i| pack(i, 24_000)).collect();
        assert!(IndexSegment::runs(&large).iter().all(|run| run.len() < 40));
        assert_eq!(IndexSegment::runs(&large).concat(), large);
        assert!(IndexSegment::runs(&[]).is_empty());
    }
}
