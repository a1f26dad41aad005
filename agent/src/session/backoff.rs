//! Pauses that double and are drawn at random, so that a fleet does not knock in step.
use std::time::Duration;

use palinurus_repository::{Entropy, Result};

#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { next: min, max }
    }

    /// Between a tenth of the pause that is due and all of it.
    pub(crate) fn next(&mut self, entropy: &dyn Entropy) -> Result<Duration> {
        let due = self.next;
        self.next = due.saturating_mul(2).min(self.max);
        let chance = f64::from(u16::from_le_bytes(entropy.array()?)) / f64::from(u16::MAX);
        Ok(due.mul_f64(0.1 + 0.9 * chance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use palinurus_repository::entropy::SeededEntropy;

    #[test]
    fn doubles_up_to_the_longest() {
        let entropy = SeededEntropy::new(7);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(500));
        for due in [100, 200, 400, 500, 500] {
            let pause = backoff.next(&entropy).unwrap().as_millis();
            assert!((due / 10..=due).contains(&pause), "{pause} of {due}");
        }
    }

    /// A thousand agents lose their leader at one moment.
    #[test]
    fn a_fleet_does_not_knock_in_step() {
        const FLEET: u64 = 1000;
        let mut knocks = Vec::new();
        for agent in 0..FLEET {
            let entropy = SeededEntropy::new(agent);
            let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
            let mut at = Duration::ZERO;
            while at < Duration::from_secs(30) {
                at += backoff.next(&entropy).unwrap();
                knocks.push(at);
            }
        }
        let busiest = |window: u64, from: u64| {
            let mut counts = std::collections::BTreeMap::new();
            for at in knocks.iter().map(|at| at.as_millis() as u64).filter(|at| *at >= from) {
                *counts.entry(at / window).or_insert(0u64) += 1;
            }
            counts.into_values().max().unwrap()
        };
        assert!(busiest(10, 0) < FLEET / 10, "{} in 10 ms", busiest(10, 0));
        assert!(busiest(100, 1000) < FLEET / 5, "{} in 100 ms", busiest(100, 1000));
    }
}
