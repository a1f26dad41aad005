//! A page of a relation: the checksum and the place in the WAL that its header carries.
use super::lsn::Lsn;

const LANES: usize = 32;
const PRIME: u32 = 16_777_619;
const OFFSETS: [u32; LANES] = [
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
];

/// What is wrong with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) stored: u16,
    pub(super) computed: u16,
}

/// Of the page at `block` of its relation. A page that was written after `start` is the WAL's to make whole, and
/// one that was never written has no checksum.
pub(super) fn check(page: &[u8], block: u32, start: Lsn) -> Result<(), Mismatch> {
    // pd_upper: zero in a page that is new.
    if page[14..16] == [0, 0] || lsn(page) >= start {
        return Ok(());
    }
    let stored = u16::from_le_bytes([page[8], page[9]]);
    let computed = checksum(page, block);
    if stored == computed { Ok(()) } else { Err(Mismatch { stored, computed }) }
}

fn lsn(page: &[u8]) -> Lsn {
    let half =
        |at: usize| u64::from(u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]));
    Lsn(half(0) << 32 | half(4))
}

/// PostgreSQL's (`checksum_impl.h`): FNV-1a in 32 lanes, the checksum itself taken as zero.
pub(super) fn checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = OFFSETS;
    for (row, bytes) in page.chunks_exact(LANES * 4).enumerate() {
        for (lane, sum) in sums.iter_mut().enumerate() {
            let at = lane * 4;
            let mut word = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            if row == 0 && lane == 2 {
                word &= 0xffff_0000;
            }
            *sum = mix(*sum, word);
        }
    }
    for _ in 0..2 {
        sums.iter_mut().for_each(|sum| *sum = mix(*sum, 0));
    }
    let sum = sums.into_iter().fold(0, |all, sum| all ^ sum) ^ block;
    (sum % 65_535 + 1) as u16
}

fn mix(sum: u32, value: u32) -> u32 {
    let mixed = sum ^ value;
    mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_bit_a_moved_page_and_what_needs_no_checksum() {
        let mut page = vec![7; 8192];
        page[..8].copy_from_slice(&[0, 0, 0, 0, 100, 0, 0, 0]);
        let sum = checksum(&page, 5);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(checksum(&page, 5), sum, "its own place does not count");
        assert_eq!(check(&page, 5, Lsn(101)), Ok(()));
        assert!(check(&page, 6, Lsn(101)).is_err());
        page[8191] ^= 1;
        assert!(check(&page, 5, Lsn(101)).is_err());
        assert_eq!(check(&page, 5, Lsn(100)), Ok(()), "the WAL has it");
        assert_eq!(check(&vec![0; 8192], 5, Lsn(101)), Ok(()));
    }
}
