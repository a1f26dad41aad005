//! The wall clock, followed without a jump. Pure.
use std::time::Duration;

use palinurus_repository::Timestamp;

/// Of the time that passes, so much is added or left out until the clock is reached: a patience of minutes stays one.
const PART: i128 = 10;

/// Goes on evenly, and bends towards a clock that was set. It never goes back.
#[derive(Debug)]
pub(crate) struct Slew {
    began: Timestamp,
    /// Of the last look, since the beginning.
    at: Duration,
    /// In nanoseconds, of this before an even clock.
    ahead: i128,
}

impl Slew {
    pub(crate) fn new(began: Timestamp) -> Self {
        Self { began, at: Duration::ZERO, ahead: 0 }
    }

    /// `elapsed` since the beginning, on a clock that nobody sets.
    pub(crate) fn look(&mut self, elapsed: Duration, wall: Timestamp) -> Timestamp {
        let even = i128::from(self.began.0) * 1_000_000 + nanos(elapsed);
        let may = nanos(elapsed.saturating_sub(self.at)) / PART;
        let wants = i128::from(wall.0) * 1_000_000 - even;
        self.ahead += (wants - self.ahead).clamp(-may, may);
        self.at = self.at.max(elapsed);
        Timestamp(u64::try_from((even + self.ahead) / 1_000_000).unwrap_or_default())
    }
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BEGAN: Timestamp = Timestamp(1_700_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_clock_that_is_set_is_reached() {
        for by in [3_600_000, -3_600_000_i64] {
            let mut slew = Slew::new(BEGAN);
            // Ten hours are enough for one.
            for second in 1..=36_000 {
                let wall = Timestamp(BEGAN.plus(SECOND * second).0.saturating_add_signed(by));
                let now = slew.look(SECOND * second, wall);
                let off = now.0.abs_diff(wall.0);
                assert_eq!(off, 3_600_000 - u64::from(second) * 100, "after {second} s");
            }
        }
    }

    proptest! {
        #[test]
        fn it_never_jumps(looks in prop::collection::vec((0..100_000_u64, any::<u64>()), 1..50)) {
            let (mut slew, mut elapsed, mut before) = (Slew::new(BEGAN), Duration::ZERO, BEGAN);
            for (passed, wall) in looks {
                let step = Duration::from_micros(passed);
                elapsed += step;
                let now = slew.look(elapsed, Timestamp(wall));
                prop_assert!(now >= before);
                prop_assert!(u128::from(now.0 - before.0) <= step.as_millis() * 11 / 10 + 2);
                before = now;
            }
        }
    }
}
