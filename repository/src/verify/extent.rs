//! How much of the data a check reads.
use crate::pack::PackId;

/// The most that can be asked for.
const WHOLE: u32 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadData {
    No,
    /// The packs of one day. Whatever is new, every pack has its day among any `100 / percent` that follow each other.
    Share {
        percent: u32,
        day: u64,
    },
    All,
}

impl From<bool> for ReadData {
    fn from(read: bool) -> Self {
        if read { Self::All } else { Self::No }
    }
}

impl ReadData {
    /// 0 reads nothing, 100 and more everything.
    pub fn share(percent: u32, day: u64) -> Self {
        match percent {
            0 => Self::No,
            1..WHOLE => Self::Share { percent, day },
            _ => Self::All,
        }
    }

    /// How many days it takes until everything was read.
    pub fn days(percent: u32) -> u64 {
        u64::from(WHOLE.div_ceil(percent.clamp(1, WHOLE)))
    }

    pub(super) fn wants(self, pack: &PackId) -> bool {
        self != Self::No && self.wants_object(&pack.key())
    }

    pub(super) fn wants_object(self, key: &str) -> bool {
        match self {
            Self::No => false,
            Self::All => true,
            Self::Share { percent, day } => {
                let days = Self::days(percent);
                let hash = blake3::hash(key.as_bytes());
                let drawn = hash.as_bytes().iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte));
                drawn % days == day % days
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{TransactionId, WriterId};

    #[test]
    fn every_pack_has_one_day_in_each_round_and_days_are_alike() {
        for percent in [1, 3, 10, 50, 99] {
            let days = ReadData::days(percent);
            let mut a_day = vec![0u64; days as usize];
            for counter in 0..10_000 {
                let pack = PackId { transaction: TransactionId([7; 16]), writer: WriterId([8; 8]), counter };
                for first in [0, 20_000] {
                    let read: Vec<u64> = (first..first + days)
                        .filter(|day| ReadData::share(percent, *day).wants(&pack))
                        .collect();
                    assert_eq!(read.len(), 1, "{percent}%");
                    a_day[(read[0] % days) as usize] += 1;
                }
            }
            let even = 20_000 / days;
            assert!(a_day.iter().all(|read| (even / 2..=even * 2).contains(read)), "{percent}%: {a_day:?}");
        }
        assert_eq!((ReadData::share(0, 5), ReadData::share(100, 5)), (ReadData::No, ReadData::All));
    }
}
