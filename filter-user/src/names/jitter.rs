// SPDX-License-Identifier: MIT OR Apache-2.0
//! When to ask again.
//!
//! Names that were asked at the same time would be asked together for ever, so each delay is
//! spread. This needs evenness, not secrecy: a seeded SplitMix64 is enough, and repeatable.

use std::time::Duration;

/// The least time between two look-ups of one name.
const LEAST_DELAY: Duration = Duration::from_secs(1);
/// The longest time between two tries of a failing name, before jitter.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);

/// The source of jitter.
#[derive(Clone, Debug)]
pub(super) struct Jitter(u64);

// === impl Jitter ===

impl Jitter {
    /// Same seed, same sequence.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The time after which an answer is refreshed: 70 to 90 % of its TTL.
    pub(super) fn refresh(&mut self, ttl: Duration) -> Duration {
        let permille = 700 + self.below(201);
        (ttl.saturating_mul(permille) / 1000).max(LEAST_DELAY)
    }

    /// The time after which the `attempt`-th failure in a row (from 1) is tried again: 1 s, then
    /// twice as long each time up to 60 s, and up to a quarter more.
    pub(super) fn back_off(&mut self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(6);
        let base = LEAST_DELAY.saturating_mul(1 << doublings).min(LONGEST_BACK_OFF);
        let permille = 1000 + self.below(251);
        base.saturating_mul(permille) / 1000
    }

    /// A number from 0 up to and without `bound`.
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // The product of two 32-bit numbers, shifted down, is below `bound`.
        let scaled = ((mixed >> 32) * u64::from(bound)) >> 32;
        u32::try_from(scaled).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refresh_comes_before_the_ttl_ends() {
        let mut jitter = Jitter::new(7);
        let ttl = Duration::from_secs(300);
        let delays: Vec<_> = (0..1000).map(|_| jitter.refresh(ttl)).collect();
        assert!(delays.iter().all(|delay| (210..=270).contains(&delay.as_secs())));
        let spread = delays.iter().max().unwrap().saturating_sub(*delays.iter().min().unwrap());
        assert!(spread > Duration::from_secs(50), "{spread:?}");
        assert_eq!(jitter.refresh(Duration::ZERO), LEAST_DELAY);
    }

    #[test]
    fn back_off_doubles_up_to_a_minute() {
        let mut jitter = Jitter::new(0);
        for (attempt, base) in [(0, 1), (1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (u32::MAX, 60)] {
            for _ in 0..100 {
                let delay = jitter.back_off(attempt).as_millis();
                assert!((base * 1000..=base * 1250).contains(&delay), "{attempt}: {delay}");
            }
        }
    }
}
