//! What failed is tried again, later each time.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// Pause after the first failure.
const FIRST: Duration = Duration::from_millis(100);

/// Longest pause. An API server that is back is found within it.
const LONGEST: Duration = Duration::from_secs(30);

/// Who has to wait, and until when.
#[derive(Debug, Default)]
pub struct Pauses(BTreeMap<String, Pause>);

#[derive(Debug)]
struct Pause {
    failures: u32,
    until: Instant,
}

impl Pauses {
    /// Whether `who` still has to wait.
    pub fn hold(&self, who: &str, now: Instant) -> bool {
        self.0.get(who).is_some_and(|pause| now < pause.until)
    }

    /// Notes a failure; says how long to wait.
    pub fn failed(&mut self, who: &str, now: Instant) -> Duration {
        let pause = self.0.entry(who.to_owned()).or_insert(Pause {
            failures: 0,
            until: now,
        });
        let factor = 1_u32.checked_shl(pause.failures).unwrap_or(u32::MAX);
        let wait = FIRST.saturating_mul(factor).min(LONGEST);
        pause.failures = pause.failures.saturating_add(1);
        pause.until = now + wait;
        wait
    }

    /// Notes a success.
    pub fn succeeded(&mut self, who: &str) {
        self.0.remove(who);
    }

    /// When the first of them may be tried again.
    pub fn next(&self) -> Option<Instant> {
        self.0.values().map(|pause| pause.until).min()
    }

    /// Forgets those who are not among `there` any more.
    pub fn keep(&mut self, there: impl Fn(&str) -> bool) {
        self.0.retain(|who, _| there(who));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_the_longest_and_end_with_a_success() {
        let mut pauses = Pauses::default();
        let mut now = Instant::now();
        let mut expected = FIRST;
        for _ in 0..40 {
            let wait = pauses.failed("a", now);
            assert_eq!(wait, expected);
            assert!(pauses.hold("a", now) && !pauses.hold("b", now));
            now += wait;
            assert!(!pauses.hold("a", now));
            expected = (expected * 2).min(LONGEST);
        }
        pauses.succeeded("a");
        assert_eq!(pauses.next(), None);
        assert_eq!(pauses.failed("a", now), FIRST);
    }
}
