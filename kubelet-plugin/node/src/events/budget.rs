//! How many events may be written.

use std::time::Duration;

/// Events that may be written at once (`defaultSpamBurst` of client-go's event correlator).
pub const BURST: u32 = 25;

/// Time in which one more event may be written, once the burst is spent. Eight pods that the kubelet
/// tries again every 80 s, with an event for each pod and claim, write just so many.
pub const REFILL: Duration = Duration::from_secs(5);

/// A bucket of tokens, one per event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    tokens: u32,
    /// When the last token came, as time since the start.
    refilled: Duration,
}

impl Budget {
    /// A full bucket at the start.
    pub fn full() -> Self {
        Self {
            tokens: BURST,
            refilled: Duration::ZERO,
        }
    }

    /// Takes a token, so much time after the start; or says how long there is none.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        let since = now.saturating_sub(self.refilled);
        let came = u32::try_from(since.as_nanos() / REFILL.as_nanos()).unwrap_or(u32::MAX);
        self.refilled += REFILL.saturating_mul(came);
        self.tokens = self.tokens.saturating_add(came).min(BURST);
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Ok(())
            }
            None => Err((self.refilled + REFILL).saturating_sub(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn after_the_burst_there_is_one_event_per_refill() {
        let mut budget = Budget::full();
        for _ in 0..BURST {
            budget.take(Duration::from_secs(1)).unwrap();
        }
        let pause = budget.take(Duration::from_secs(1)).unwrap_err();
        assert_eq!(pause, REFILL.saturating_sub(Duration::from_secs(1)));
        budget.take(REFILL).unwrap();
        assert_eq!(budget.take(REFILL), Err(REFILL));
    }

    #[test]
    fn a_long_silence_fills_the_bucket_and_no_more() {
        let mut budget = Budget::full();
        let later = Duration::from_hours(1000);
        for _ in 0..BURST {
            budget.take(later).unwrap();
        }
        budget.take(later).unwrap_err();
    }

    proptest! {
        #[test]
        fn no_time_has_more_events_than_the_burst_and_the_refills(steps in prop::collection::vec(0u64..20_000, 1..200)) {
            let mut budget = Budget::full();
            let (mut now, mut taken) = (Duration::ZERO, 0);
            for step in steps {
                now += Duration::from_millis(step);
                match budget.take(now) {
                    Ok(()) => taken += 1,
                    Err(pause) => {
                        prop_assert!(pause <= REFILL);
                        now += pause;
                        budget.take(now).unwrap();
                        taken += 1;
                    }
                }
                let refills = now.as_nanos() / REFILL.as_nanos();
                prop_assert!(taken <= u128::from(BURST) + refills);
            }
        }
    }
}
