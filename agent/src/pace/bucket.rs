//! A token bucket, pure: it is told the time. Who finds it above nothing may take any amount, and leaves it so far below:
//! over time nobody gets more than the rate, and no amount is too large to be given.
use std::time::Duration;

const NANOS: i128 = 1_000_000_000;
/// How much of a second's worth may be saved up.
const SAVED: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Bucket {
    /// A second; 0: there is no limit.
    rate: u64,
    /// In billionths: exact whatever the rate and however short the time.
    level: i128,
    at: Duration,
}

impl Bucket {
    pub(super) fn new(rate: u64, now: Duration) -> Self {
        let mut bucket = Self { rate: 0, level: 0, at: now };
        bucket.set(rate, now);
        bucket
    }

    /// What was taken stays taken: a limit that changes often gives nothing away.
    pub(super) fn set(&mut self, rate: u64, now: Duration) {
        self.settle(now);
        let was_limited = self.rate > 0;
        self.rate = rate;
        self.level = match (was_limited, rate) {
            (_, 0) => 0,
            (true, _) => self.level.min(self.full()),
            (false, _) => self.full(),
        };
    }

    /// Takes it, or says how long it takes at this rate until that is possible.
    pub(super) fn take(&mut self, amount: u64, now: Duration) -> Result<(), Duration> {
        if self.rate == 0 {
            return Ok(());
        }
        self.settle(now);
        if self.level > 0 {
            self.level -= i128::from(amount) * NANOS;
            return Ok(());
        }
        let nanos = -self.level / i128::from(self.rate) + 1;
        Err(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    fn settle(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        let passed = i128::try_from(passed.as_nanos()).unwrap_or(i128::MAX >> 64);
        self.level = (self.level + passed * i128::from(self.rate)).min(self.full());
    }

    fn full(&self) -> i128 {
        i128::from(self.rate) * SAVED.as_nanos() as i128
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Pass(Duration),
        Take(u64),
        Set(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0u64..2_000_000_000).prop_map(|nanos| Step::Pass(Duration::from_nanos(nanos))),
            (0u64..64 << 20).prop_map(Step::Take),
            (1u64..1 << 32).prop_map(Step::Set),
        ];
        proptest::collection::vec(step, 1..200)
    }

    proptest! {
        /// Without the last amount, which may be of any size, never more than was saved and what the rates gave since.
        #[test]
        fn nobody_gets_more_than_the_rate(first in 1u64..1 << 32, steps in steps()) {
            let (mut now, mut rate) = (Duration::ZERO, first);
            let mut bucket = Bucket::new(first, now);
            let mut may = i128::from(first) * SAVED.as_nanos() as i128;
            let (mut taken, mut last) = (0i128, 0i128);
            for step in steps {
                match step {
                    Step::Pass(time) => {
                        now += time;
                        may += i128::from(rate) * time.as_nanos() as i128;
                    }
                    Step::Take(amount) => if bucket.take(amount, now).is_ok() {
                        last = i128::from(amount) * NANOS;
                        taken += last;
                    }
                    Step::Set(next) => {
                        rate = next;
                        bucket.set(next, now);
                    }
                }
                prop_assert!(taken - last <= may, "{taken} - {last} of {may}");
            }
        }

        /// Who waits as long as it was told is given what it wants, and not a moment before: nothing is lost either.
        #[test]
        fn the_wait_is_exact(rate in 1u64..1 << 40, amounts in proptest::collection::vec(1u64..1 << 34, 1..50)) {
            let mut now = Duration::from_secs(7);
            let mut bucket = Bucket::new(rate, now);
            for amount in amounts {
                if let Err(wait) = bucket.take(amount, now) {
                    let early = wait.saturating_sub(Duration::from_nanos(1));
                    prop_assert!(bucket.take(amount, now + early).is_err());
                    now += wait;
                    prop_assert!(bucket.take(amount, now).is_ok());
                }
            }
        }
    }

    #[test]
    fn a_limit_that_is_lifted_holds_nobody_and_one_that_comes_back_begins_anew() {
        let now = Duration::ZERO;
        let mut bucket = Bucket::new(1, now);
        bucket.take(1 << 40, now).unwrap();
        assert!(bucket.take(1, now).is_err());
        bucket.set(0, now);
        (0..3).for_each(|_| bucket.take(u64::MAX, now).unwrap());
        bucket.set(10, now);
        bucket.take(20, now).unwrap();
        assert_eq!(bucket.take(1, now), Err(Duration::from_nanos(1_900_000_001)));
        // A clock that goes back gives nothing.
        bucket.take(1, Duration::from_secs(2)).unwrap();
        assert!(bucket.take(1, now).is_err());
    }
}
