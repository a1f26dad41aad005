//! How hard to compress, pure: as hard as the store is slow. Where packs wait for the store, processors have time to
//! make them smaller; where the store waits for packs, they have none.
use std::sync::{Mutex, PoisonError};

/// So many packs in a row have to say the same: a store that hesitates once changes nothing.
const IN_A_ROW: u32 = 4;

#[derive(Debug)]
pub(crate) struct Level {
    least: i32,
    most: i32,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    level: i32,
    /// Packs that had to wait for a buffer, one after the other; below zero: that had not.
    waited: i32,
}

impl Level {
    /// From `least` to `most`, and never above where that is less.
    pub(crate) fn new(least: i32, most: i32) -> Self {
        Self { least, most: most.max(least), now: Mutex::new(Now { level: least, waited: 0 }) }
    }

    /// Of the next pack, when all buffers were on their way to the store, or not.
    pub(crate) fn next(&self, waited: bool) -> i32 {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.waited = match waited {
            true => now.waited.max(0) + 1,
            false => now.waited.min(0) - 1,
        };
        if now.waited.unsigned_abs() >= IN_A_ROW {
            let step = now.waited.signum();
            now.level = (now.level + step).clamp(self.least, self.most);
            now.waited = 0;
        }
        now.level
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROW: usize = IN_A_ROW as usize;

    #[test]
    fn a_slow_store_is_given_less_and_a_fast_one_is_not_kept_waiting() {
        let level = Level::new(1, 3);
        let next = |waited, packs: usize| (0..packs).map(|_| level.next(waited)).last().unwrap();
        assert_eq!(next(true, ROW - 1), 1);
        assert_eq!(next(false, 1), 1);
        assert_eq!(next(true, ROW - 1), 1, "not in a row");
        assert_eq!(next(true, 1), 2);
        assert_eq!(next(true, 10 * ROW), 3);
        assert_eq!(next(false, ROW), 2);
        assert_eq!(next(false, 10 * ROW), 1);
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds_and_moves_by_one(
            least in 1..19, most in 1..19, waits in proptest::collection::vec(any::<bool>(), 0..200),
        ) {
            let level = Level::new(least, most);
            let mut before = least;
            for waited in waits {
                let now = level.next(waited);
                prop_assert!((least..=most.max(least)).contains(&now));
                prop_assert!((now - before).abs() <= 1);
                let (lower, higher) = if waited { (before, now) } else { (now, before) };
                prop_assert!(lower <= higher);
                before = now;
            }
        }
    }
}
