//! Where things lie: packs, frames in them, chunks in those.
use std::fmt;

use prost::Message;

use super::{FRAME_MAX, HEADER_LEN, wire};
use crate::crypto::TAG_LEN;
use crate::error::{Error, Result};
use crate::id::{TransactionId, WriterId};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId {
    pub transaction: TransactionId,
    pub writer: WriterId,
    pub counter: u32,
}

impl PackId {
    /// The object's name. Counters are hex of fixed width, so listing order is writing order.
    pub fn key(&self) -> String {
        format!("t/{}/p/{}-{:08x}", self.transaction, self.writer, self.counter)
    }

    pub fn from_key(key: &str) -> Result<Self> {
        let parse = || {
            let rest = key.strip_prefix("t/")?;
            let (transaction, rest) = rest.split_once("/p/")?;
            let (writer, counter) = rest.split_once('-')?;
            Some(PackId {
                transaction: transaction.parse().ok()?,
                writer: writer.parse().ok()?,
                counter: u32::from_str_radix(counter, 16).ok()?,
            })
        };
        parse()
            .filter(|id| id.key() == key)
            .ok_or_else(|| Error::invalid(format!("{key:?} is not the name of a pack")))
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key())
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackId({self})")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    Raw = 0,
    Zstd = 1,
}

impl Codec {
    pub fn from_u32(value: u32) -> Result<Self> {
        match value {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            other => Err(Error::corrupt(format!("codec {other} is not known"))),
        }
    }
}

/// Where a frame lies: all that a restore needs beside the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameAt {
    pub pack: PackId,
    pub ordinal: u32,
    /// From the start of the pack.
    pub offset: u32,
    /// With the tag.
    pub stored: u32,
    pub plain: u32,
    pub codec: Codec,
}

impl FrameAt {
    /// Refuses lengths that no writer of ours produces, before anything is allocated for them.
    pub fn check(&self) -> Result<()> {
        let fits = self.plain as usize <= FRAME_MAX
            && (TAG_LEN..=FRAME_MAX + TAG_LEN).contains(&(self.stored as usize))
            && self.offset as usize >= HEADER_LEN
            && self.offset.checked_add(self.stored).is_some();
        if fits { Ok(()) } else { Err(Error::corrupt(format!("impossible frame {self:?}"))) }
    }

    pub fn range(&self) -> std::ops::Range<u64> {
        u64::from(self.offset)..u64::from(self.offset) + u64::from(self.stored)
    }
}

/// Where a chunk lies: a frame, and the bytes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkAt {
    pub frame: FrameAt,
    pub start: u32,
    pub len: u32,
}

impl ChunkAt {
    pub fn check(&self) -> Result<()> {
        self.frame.check()?;
        match self.start.checked_add(self.len) {
            Some(end) if end <= self.frame.plain => Ok(()),
            _ => Err(Error::corrupt(format!("chunk lies outside its frame: {self:?}"))),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        wire::ChunkAt {
            transaction: self.frame.pack.transaction.as_bytes().to_vec(),
            writer: self.frame.pack.writer.as_bytes().to_vec(),
            counter: self.frame.pack.counter,
            ordinal: self.frame.ordinal,
            offset: self.frame.offset,
            stored: self.frame.stored,
            plain: self.frame.plain,
            codec: self.frame.codec as u32,
            start: self.start,
            len: self.len,
        }
        .encode_to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let w = wire::ChunkAt::decode(bytes)
            .map_err(|e| Error::corrupt("a chunk's place does not decode").with_source(e))?;
        let at = Self {
            frame: FrameAt {
                pack: PackId {
                    transaction: TransactionId::from_slice(&w.transaction)?,
                    writer: WriterId::from_slice(&w.writer)?,
                    counter: w.counter,
                },
                ordinal: w.ordinal,
                offset: w.offset,
                stored: w.stored,
                plain: w.plain,
                codec: Codec::from_u32(w.codec)?,
            },
            start: w.start,
            len: w.len,
        };
        at.check()?;
        Ok(at)
    }
}
