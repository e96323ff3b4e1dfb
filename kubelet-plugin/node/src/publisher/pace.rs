//! How fast something may be tried again.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use tokio::time::Instant;

/// Longest pause after the first strike.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause of all. A returning API server is found within it.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A time without a strike after which the next counts as the first. Longer than the longest
/// pause, or else an outage would never slow anything down.
const QUIET: Duration = Duration::from_mins(1);

/// Pauses that double with every strike and are jittered, so that the plugins of many nodes do
/// not come back to an API server at one moment.
#[derive(Debug)]
pub(crate) struct Pace {
    strikes: u32,
    last: Option<Instant>,
    random: u64,
}

impl Pace {
    /// No strike so far.
    pub(crate) fn new() -> Self {
        Self {
            strikes: 0,
            last: None,
            random: RandomState::new().hash_one(0),
        }
    }

    /// Counts a failure, or a repair, at `now`. Answers the pause that is to follow: between half
    /// and all of the doubled step.
    pub(crate) fn strike(&mut self, now: Instant) -> Duration {
        if self.last.is_some_and(|last| now - last > QUIET) {
            self.strikes = 0;
        }
        self.last = Some(now);
        let factor = 1_u32.checked_shl(self.strikes).unwrap_or(u32::MAX);
        self.strikes = self.strikes.saturating_add(1);
        let half = FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE) / 2;
        let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        half + Duration::from_micros(self.next_random() % (spread + 1))
    }

    /// Forgets all strikes.
    pub(crate) fn clear(&mut self) {
        self.strikes = 0;
    }

    /// `SplitMix64`: enough to spread nodes, not to keep secrets.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_anew_after_a_quiet_time() {
        let mut pace = Pace::new();
        let mut now = Instant::now();
        let mut step = FIRST_PAUSE;
        for _ in 0..100 {
            let pause = pace.strike(now);
            assert!(pause >= step / 2 && pause <= step, "{pause:?} of {step:?}");
            now += pause;
            step = (step * 2).min(LONGEST_PAUSE);
        }
        now += QUIET + Duration::from_millis(1);
        assert!(pace.strike(now) <= FIRST_PAUSE);
    }

    #[test]
    fn a_cleared_pace_starts_with_the_first_pause() {
        let mut pace = Pace::new();
        let now = Instant::now();
        for _ in 0..10 {
            pace.strike(now);
        }
        pace.clear();
        assert!(pace.strike(now) <= FIRST_PAUSE);
    }

    #[test]
    fn two_nodes_do_not_pause_alike() {
        let now = Instant::now();
        let pauses =
            |mut pace: Pace| -> Vec<Duration> { (0..8).map(|_| pace.strike(now)).collect() };
        assert_ne!(pauses(Pace::new()), pauses(Pace::new()));
    }
}
