//! Anybody can be refused as often as they like: what of it is noted down is bounded.
use std::time::Duration;

use tokio::time::Instant;

/// At once, and then one for each `AGAIN`.
const BURST: u32 = 100;
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Throttle {
    left: u32,
    since: Instant,
    skipped: u64,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { left: BURST, since: Instant::now(), skipped: 0 }
    }
}

impl Throttle {
    /// How many got none before this one; or none for this one either.
    pub(super) fn turn(&mut self) -> Option<u64> {
        let earned = self.since.elapsed().as_secs() / AGAIN.as_secs();
        if earned > 0 {
            self.left = self.left.saturating_add(u32::try_from(earned).unwrap_or(BURST)).min(BURST);
            self.since = Instant::now();
        }
        if self.left == 0 {
            self.skipped += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.skipped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_counted_and_not_kept() {
        let mut throttle = Throttle::default();
        let kept = (0..1000).filter(|_| throttle.turn().is_some()).count();
        assert_eq!(kept, BURST as usize);
        tokio::time::advance(AGAIN).await;
        assert_eq!((throttle.turn(), throttle.turn()), (Some(900), None));
    }
}
