//! A few of the largest files, so that people can be told what a node held.
use std::cmp::Reverse;
use std::collections::BTreeSet;

const KEPT: usize = 8;
/// A longer path is of no use in a sentence.
const PATH_MAX: usize = 256;

/// By size, of equal ones the later names first.
#[derive(Debug, Default)]
pub(super) struct Largest(BTreeSet<(u64, Reverse<Vec<u8>>)>);

impl Largest {
    pub(super) fn push(&mut self, size: u64, path: &[u8]) {
        let full = self.0.len() == KEPT;
        let too_small = full && self.0.first().is_some_and(|(smallest, _)| size <= *smallest);
        if too_small || path.len() > PATH_MAX {
            return;
        }
        if full {
            self.0.pop_first();
        }
        self.0.insert((size, Reverse(path.to_vec())));
    }

    /// The largest first.
    pub(super) fn paths(&self) -> Vec<Vec<u8>> {
        self.0.iter().rev().map(|(_, Reverse(path))| path.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_kept_in_order_and_bounded() {
        let mut largest = Largest::default();
        for n in 0..1000u64 {
            largest.push(n * 7919 % 1000, format!("f{:03}", n * 7919 % 1000).as_bytes());
        }
        largest.push(1 << 40, &[b'x'; 4000]);
        let paths: Vec<String> =
            largest.paths().into_iter().map(|path| String::from_utf8(path).unwrap()).collect();
        assert_eq!(paths, ["f999", "f998", "f997", "f996", "f995", "f994", "f993", "f992"]);
    }
}
