//! Cuts bytes into chunks: at fixed places where content stays in place, by content where it shifts.
use fastcdc::v2020::FastCDC;

use crate::pack::FRAME_MAX;

/// The unit of large files: chunk and frame at once.
pub const EXTENT: usize = FRAME_MAX;
/// Files below this share frames.
pub const SMALL: u64 = 128 << 10;

/// No cut is looked for before this, which is what makes it cheap: two thirds of the bytes are not looked at.
const CONTENT_MIN: usize = 512 << 10;
/// With the least it makes chunks of about 730 KiB; one in eight is cut by the limit.
const CONTENT_AVERAGE: usize = 512 << 10;

/// The length of the chunk that `bytes` starts with, cut by content; all of `bytes` where nothing in it cuts.
/// `bytes` should hold [`EXTENT`] bytes unless the file ends sooner, else the cut is not where it would be.
pub fn content_cut(bytes: &[u8]) -> usize {
    if bytes.len() <= CONTENT_MIN {
        return bytes.len();
    }
    let window = &bytes[..bytes.len().min(EXTENT)];
    let chunker = FastCDC::new(window, CONTENT_MIN, CONTENT_AVERAGE, EXTENT);
    match chunker.cut(0, window.len()) {
        (_, end) if end > 0 => end,
        _ => window.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::{Entropy, SeededEntropy};

    fn cuts(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut rest = bytes;
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(content_cut(rest));
            assert!(!chunk.is_empty() && chunk.len() <= EXTENT);
            chunks.push(chunk.to_vec());
            rest = after;
        }
        chunks
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let mut bytes = vec![0; 16 << 20];
        SeededEntropy::new(1).fill(&mut bytes).unwrap();
        let before = cuts(&bytes);
        bytes.splice(5_000_000..5_000_000, *b"seventeen bytes!!");
        let after = cuts(&bytes);
        let new = after.iter().filter(|chunk| !before.contains(chunk)).count();
        assert!(before.len() >= 16 && new <= 3, "{new} of {} chunks are new", after.len());
    }

    #[test]
    fn bytes_without_structure_are_cut_at_the_limit() {
        assert_eq!(content_cut(&vec![0; 3 << 20]), EXTENT);
        assert_eq!(content_cut(b"abc"), 3);
        assert_eq!(content_cut(b""), 0);
    }
}
