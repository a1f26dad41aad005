//! Plans reads of frames: few requests, each of bounded size. Pure.
use std::ops::Range;

use crate::pack::{FrameAt, PackId};

/// One ranged read and the frames in it, by offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRange {
    pub pack: PackId,
    pub range: Range<u64>,
    pub frames: Vec<FrameAt>,
}

impl FetchRange {
    /// Where in the bytes of the range a frame lies.
    pub fn within(&self, frame: &FrameAt) -> Range<usize> {
        let start = u64::from(frame.offset).saturating_sub(self.range.start) as usize;
        start..start + frame.stored as usize
    }

    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that nobody wants and that are still cheaper to read than another request is to make.
    pub gap: u64,
    /// The longest read, a longer frame excepted.
    pub read: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { gap: 1 << 20, read: 8 << 20 }
    }
}

/// Every wanted frame once, in ranges ordered by pack and offset, whatever order they are wanted in.
pub fn plan(wanted: impl IntoIterator<Item = FrameAt>, limits: Limits) -> Vec<FetchRange> {
    let mut frames: Vec<FrameAt> = wanted.into_iter().collect();
    frames.sort_unstable_by_key(|frame| {
        (frame.pack, frame.offset, frame.ordinal, frame.stored, frame.plain, frame.codec as u8)
    });
    frames.dedup();
    let mut ranges: Vec<FetchRange> = Vec::new();
    for frame in frames {
        let Range { start, end } = frame.range();
        if let Some(last) = ranges.last_mut()
            && last.pack == frame.pack
            && start.saturating_sub(last.range.end) <= limits.gap
            && end.max(last.range.end) - last.range.start <= limits.read
        {
            last.range.end = last.range.end.max(end);
            last.frames.push(frame);
        } else {
            ranges.push(FetchRange { pack: frame.pack, range: start..end, frames: vec![frame] });
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{TransactionId, WriterId};
    use crate::pack::Codec;

    fn frame(counter: u32, offset: u32, stored: u32) -> FrameAt {
        let pack = PackId { transaction: TransactionId([1; 16]), writer: WriterId([2; 8]), counter };
        FrameAt { pack, ordinal: offset, offset, stored, plain: stored, codec: Codec::Raw }
    }

    fn shape(ranges: &[FetchRange]) -> Vec<(u32, Range<u64>, usize)> {
        ranges.iter().map(|r| (r.pack.counter, r.range.clone(), r.frames.len())).collect()
    }

    #[test]
    fn neighbours_are_read_together_and_strangers_apart() {
        let wanted = [
            frame(1, 500, 50),
            frame(0, 8, 100),
            frame(0, 108, 10),
            frame(0, 128, 10),
            frame(0, 8, 100),
            frame(0, 300, 5),
        ];
        let ranges = plan(wanted, Limits { gap: 10, read: 1000 });
        assert_eq!(shape(&ranges), [(0, 8..138, 3), (0, 300..305, 1), (1, 500..550, 1)]);
        assert_eq!(ranges[0].within(&ranges[0].frames[1]), 100..110);
        assert!(plan([], Limits::default()).is_empty());
    }

    #[test]
    fn reads_are_no_longer_than_allowed() {
        let wanted = (0..10).map(|i| frame(0, 8 + i * 100, 100));
        let ranges = plan(wanted, Limits { gap: 0, read: 300 });
        assert_eq!(shape(&ranges), [(0, 8..308, 3), (0, 308..608, 3), (0, 608..908, 3), (0, 908..1008, 1)]);
        assert_eq!(shape(&plan([frame(0, 8, 500)], Limits { gap: 0, read: 300 })), [(0, 8..508, 1)]);
    }

    proptest! {
        #[test]
        fn every_frame_is_read_once(
            wanted in prop::collection::vec((0u32..3, 8u32..5000, 16u32..300), 0..80),
            gap in 0u64..200,
            read in 100u64..2000,
        ) {
            let wanted: Vec<FrameAt> = wanted.into_iter().map(|(c, o, s)| frame(c, o, s)).collect();
            let limits = Limits { gap, read };
            let ranges = plan(wanted.iter().copied(), limits);
            let mut reversed = wanted.clone();
            reversed.reverse();
            prop_assert_eq!(&ranges, &plan(reversed, limits));
            let mut planned: Vec<FrameAt> = ranges.iter().flat_map(|r| r.frames.iter().copied()).collect();
            let total = planned.len();
            for range in &ranges {
                prop_assert!(range.len() <= read || range.frames.len() == 1);
                let mut reached = range.range.start;
                for frame in &range.frames {
                    prop_assert_eq!(frame.pack, range.pack);
                    prop_assert!(frame.range().start >= range.range.start && frame.range().end <= range.range.end);
                    prop_assert!(frame.range().start <= reached + gap);
                    reached = reached.max(frame.range().end);
                }
            }
            planned.dedup();
            prop_assert_eq!(planned.len(), total);
            prop_assert!(wanted.iter().all(|frame| planned.contains(frame)));
            prop_assert!(planned.iter().all(|frame| wanted.contains(frame)));
        }
    }
}
