//! What a piece says of itself beside its bytes: for finding a time or a name without reading the log.
use prost::Message;

use super::{Piece, Position, wire};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::LineageId;
use crate::pack::Codec;

/// More named restore points of one piece are left out: they are then not found by name.
pub const POINTS_MAX: usize = 1000;
const NAME_MAX: usize = 256;
/// Sealed; read before its seal is proven.
pub(super) const TRAIL_MAX: usize = 512 << 10;
const FRAMES_MAX: usize = 1024;

/// A named restore point, and where a recovery to it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestorePoint {
    pub name: String,
    pub position: Position,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trail {
    /// Of the first and the last transaction that commits in it: microseconds since 1970, by the server's clock.
    pub first_commit: Option<i64>,
    pub last_commit: Option<i64>,
    pub points: Vec<RestorePoint>,
    /// When the server said that the piece's end was its own; by the server's clock.
    pub as_of: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// With the tag.
    pub(super) stored: u32,
    pub(super) plain: u32,
    pub(super) codec: Codec,
}

impl Trail {
    pub(super) fn encode(&self, piece: &Piece, frames: &[Frame]) -> Vec<u8> {
        let frames = frames.iter().map(|frame| wire::Frame {
            stored: frame.stored,
            plain: frame.plain,
            codec: frame.codec as u32,
        });
        let points = self.points.iter().filter(|point| point.name.len() <= NAME_MAX).take(POINTS_MAX);
        wire::Trail {
            lineage: piece.lineage.0.to_vec(),
            epoch: piece.epoch,
            from: piece.from,
            to: piece.to,
            frames: frames.collect(),
            first_commit: self.first_commit,
            last_commit: self.last_commit,
            points: points
                .map(|point| wire::Point { name: point.name.clone(), position: point.position })
                .collect(),
            as_of: self.as_of.0,
        }
        .encode_to_vec()
    }

    /// Checks all that a reader relies on: sealed well does not mean written well.
    pub(super) fn decode(bytes: &[u8], piece: &Piece) -> Result<(Self, Vec<Frame>)> {
        let wrong = |why: &str| Error::corrupt(format!("{piece}: its trail is inconsistent: {why}"));
        let w = wire::Trail::decode(bytes)
            .map_err(|e| Error::corrupt(format!("{piece}: its trail does not decode")).with_source(e))?;
        let said = (LineageId::from_slice(&w.lineage)?, w.epoch, w.from, w.to);
        if said != (piece.lineage, piece.epoch, piece.from, piece.to) {
            return Err(wrong("it is of another piece"));
        }
        if w.frames.len() > FRAMES_MAX || w.points.len() > POINTS_MAX {
            return Err(wrong("it is too long"));
        }
        let frame = |w: &wire::Frame| {
            Ok(Frame { stored: w.stored, plain: w.plain, codec: Codec::from_u32(w.codec)? })
        };
        let frames = w.frames.iter().map(frame).collect::<Result<Vec<_>>>()?;
        if frames.iter().map(|frame| u64::from(frame.plain)).sum::<u64>() != piece.len() {
            return Err(wrong("its frames do not fill it"));
        }
        let points = w.points.into_iter().map(|w| RestorePoint { name: w.name, position: w.position });
        let trail = Self {
            first_commit: w.first_commit,
            last_commit: w.last_commit,
            points: points.collect(),
            as_of: Timestamp(w.as_of),
        };
        Ok((trail, frames))
    }
}
