//! Pauses that double and are drawn at random, so that a fleet does not knock in step.
use std::time::Duration;

use palinurus_repository::{Entropy, Result};

#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { next: min, max }
    }

    /// Between half of the pause that is due and all of it.
    pub(super) fn next(&mut self, entropy: &dyn Entropy) -> Result<Duration> {
        let due = self.next;
        self.next = due.saturating_mul(2).min(self.max);
        let chance = f64::from(u16::from_le_bytes(entropy.array()?)) / f64::from(u16::MAX);
        Ok(due.mul_f64(0.5 + 0.5 * chance))
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
            assert!((due / 2..=due).contains(&pause), "{pause} of {due}");
        }
    }
}
