//! Chance that can be had again: a failing test prints its seed, `TEST_SEED` brings it back.
use palinurus_repository::Entropy;
use palinurus_repository::entropy::SeededEntropy;

#[derive(Debug)]
pub struct Random(SeededEntropy);

impl Random {
    pub fn new(default_seed: u64) -> Self {
        let seed = std::env::var("TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(default_seed);
        eprintln!("TEST_SEED={seed}");
        Self(SeededEntropy::new(seed))
    }

    /// Another seed each time.
    pub fn fresh() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self::new(RandomState::new().hash_one(0) >> 32)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes) % limit
    }

    /// Bytes that no compression makes smaller.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.fill(&mut bytes).unwrap();
        bytes
    }
}
