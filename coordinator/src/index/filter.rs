//! Answers from memory that a chunk is nowhere: a Bloom filter whose bits for one id lie in one cache line. It may say
//! of one in a hundred that it could be there, and never of one that is there that it is not.
use palinurus_repository::ChunkId;

const WORDS: usize = 8;
/// In one block of 512 bits.
const PER_BLOCK: usize = 50;
const PROBES: u32 = 7;

type Block = [u64; WORDS];

pub(super) struct Filter {
    blocks: Vec<Block>,
    room: usize,
    held: usize,
}

impl Filter {
    pub(super) fn bytes_for(entries: usize) -> usize {
        entries.div_ceil(PER_BLOCK).max(1) * size_of::<Block>()
    }

    pub(super) fn new(entries: usize) -> Self {
        let blocks = entries.div_ceil(PER_BLOCK).max(1);
        Self { blocks: vec![Block::default(); blocks], room: blocks * PER_BLOCK, held: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.blocks.len() * size_of::<Block>()
    }

    /// It holds so many more than it was made for that it answers too little.
    pub(super) fn is_overfull(&self) -> bool {
        self.held > 2 * self.room
    }

    pub(super) fn insert(&mut self, id: &[u8; ChunkId::LEN]) {
        let (block, mut bits) = self.place(id);
        for _ in 0..PROBES {
            self.blocks[block][(bits >> 6 & 7) as usize] |= 1 << (bits & 63);
            bits >>= 9;
        }
        self.held += 1;
    }

    pub(super) fn may_hold(&self, id: &[u8; ChunkId::LEN]) -> bool {
        let (block, mut bits) = self.place(id);
        let block = &self.blocks[block];
        (0..PROBES).all(|_| {
            let set = block[(bits >> 6 & 7) as usize] >> (bits & 63) & 1 == 1;
            bits >>= 9;
            set
        })
    }

    /// Ids are hashes already; all of their bytes count, so that some that are alike spread as well.
    fn place(&self, id: &[u8; ChunkId::LEN]) -> (usize, u64) {
        let (words, _) = id.as_chunks::<8>();
        let hash = words.iter().fold(0, |hash, word| mix(hash ^ u64::from_le_bytes(*word)));
        (((u128::from(hash) * self.blocks.len() as u128) >> 64) as usize, mix(hash))
    }
}

/// The finalizer of SplitMix64.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::chunk;

    #[test]
    fn what_is_there_may_be_there_and_little_else() {
        let mut filter = Filter::new(10_000);
        assert_eq!(filter.bytes(), Filter::bytes_for(10_000));
        assert!((0..100).all(|n| !filter.may_hold(&chunk(n).0)), "an empty one");
        (0..10_000).for_each(|n| filter.insert(&chunk(n).0));
        assert!((0..10_000).all(|n| filter.may_hold(&chunk(n).0)));
        let wrong = (10_000..110_000).filter(|n| filter.may_hold(&chunk(*n).0)).count();
        assert!(wrong < 2500, "{wrong} of 100,000 that are nowhere");
        assert!(!filter.is_overfull());
        (10_000..30_000).for_each(|n| filter.insert(&chunk(n).0));
        assert!(filter.is_overfull());
        assert!((0..30_000).all(|n| filter.may_hold(&chunk(n).0)));
    }
}
