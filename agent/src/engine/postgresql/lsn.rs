//! A place in the WAL, and the segments that it is kept in.
use std::fmt;
use std::str::FromStr;

use bytes::Buf;
use palinurus_repository::{Error, Result};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Lsn(pub(super) u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('/').and_then(|(high, low)| {
            Some((u32::from_str_radix(high, 16).ok()?, u32::from_str_radix(low, 16).ok()?))
        });
        let (high, low) = parts.ok_or_else(|| Error::corrupt(format!("{text:?} is no place in the WAL")))?;
        Ok(Self(u64::from(high) << 32 | u64::from(low)))
    }
}

/// One file of WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment {
    pub(super) timeline: u32,
    pub(super) number: u64,
    pub(super) size: u64,
}

impl Segment {
    pub(super) fn of(timeline: u32, at: Lsn, size: u64) -> Self {
        Self { timeline, number: at.0 / size, size }
    }

    pub(super) fn start(self) -> Lsn {
        Lsn(self.number * self.size)
    }

    pub(super) fn end(self) -> Lsn {
        Lsn((self.number + 1) * self.size)
    }

    pub(super) fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }

    /// A segment of another cluster, or of another place, must never be taken for this one.
    pub(super) fn check_header(self, mut data: &[u8], system_identifier: u64) -> Result<()> {
        if data.len() < 32 {
            return Err(Error::corrupt("a WAL segment without a header"));
        }
        data.advance(4);
        let timeline = data.get_u32_le();
        let at = data.get_u64_le();
        data.advance(8);
        // The first page after a promotion still names the timeline before.
        let right = timeline <= self.timeline && at == self.start().0;
        if right && data.get_u64_le() == system_identifier {
            return Ok(());
        }
        Err(Error::corrupt(format!("what the server sends as {} is another segment", self.name())))
    }

    /// As PostgreSQL names it.
    pub(super) fn name(self) -> String {
        let per_id = (1 << 32) / self.size;
        format!("{:08X}{:08X}{:08X}", self.timeline, self.number / per_id, self.number % per_id)
    }
}

/// A power of two from 1 MiB to 1 GiB, as `initdb --wal-segsize` allows.
pub(super) fn check_segment_size(size: u64) -> Result<u64> {
    if size.is_power_of_two() && (1 << 20..=1 << 30).contains(&size) {
        return Ok(size);
    }
    Err(Error::corrupt(format!("a WAL segment of {size} bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_postgresql_writes_them() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!((lsn, lsn.to_string().as_str()), (Lsn(0x16_b374_d848), "16/B374D848"));
        for bad in ["", "1", "x/1", "1/100000000"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
        // select pg_walfile_name('16/B374D848')
        let segment = Segment::of(1, lsn, 16 << 20);
        assert_eq!(segment.name(), "0000000100000016000000B3");
        assert_eq!((segment.start(), segment.end()), (Lsn(0x16_b300_0000), Lsn(0x16_b400_0000)));
        assert_eq!(Segment::of(2, Lsn(0xff_ffff_ffff), 16 << 20).next().name(), "000000020000010000000000");
        assert_eq!(Segment::of(1, lsn, 1 << 30).name(), "000000010000001600000002");
        assert!(check_segment_size(3 << 20).is_err());
    }
}
