//! When the next tick is.
//!
//! A share that uses up its headroom fails, so a change is to be seen soon. On most nodes nothing changes most of the
//! time, and every look costs a call of the driver for each container.

use std::time::Duration;

use tessera_sharing::ShareState;

use crate::mover::CardReport;

/// The longest time between two ticks while nothing moves, where ticks are more frequent else.
const CALM: Duration = Duration::from_secs(1);

/// What the last tick saw, as far as the time of the next depends on it.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    /// The containers of all cards. `None`: one was not seen, or a limit was moved.
    last: Option<Vec<ShareState>>,
}

impl Pace {
    /// With this time between two ticks while something moves.
    pub fn of(interval: Duration) -> Self {
        Self {
            interval,
            last: None,
        }
    }

    /// The pause after a tick that saw this. `None`: it saw nothing.
    pub fn after(&mut self, cards: Option<&[CardReport]>) -> Duration {
        let now = cards.and_then(at_rest);
        let is_calm = now.is_some() && now == self.last;
        self.last = now;
        if is_calm {
            self.interval.max((self.interval * 2).min(CALM))
        } else {
            self.interval
        }
    }
}

/// The containers of cards on which no limit was moved.
fn at_rest(cards: &[CardReport]) -> Option<Vec<ShareState>> {
    let mut states = Vec::new();
    for card in cards {
        let seen = card.outcome.as_ref().ok()?;
        if seen.moved > 0 || !seen.refused.is_empty() {
            return None;
        }
        states.extend(seen.containers.iter().map(|container| container.state));
    }
    Some(states)
}

#[cfg(test)]
mod tests {
    use tessera_device::Bytes;
    use tessera_device::testing::gpu_uuid;
    use tessera_kubelet_plugin::blocking::NoAnswer;
    use tessera_sharing::{Limit, Pressed, Rungs};

    use super::*;
    use crate::mover::{CardError, Seen, SeenContainer};

    const INTERVAL: Duration = Duration::from_millis(500);

    fn card(used: u64, moved: u64) -> CardReport {
        let container = SeenContainer {
            cgroup: "/a".to_owned(),
            holder: None,
            state: ShareState {
                guarantee: Bytes(5),
                ceiling: Bytes(140),
                used: Bytes(used),
                limit: Limit::At(Bytes(100)),
                rungs: Rungs::default(),
                pressed: Pressed::Not,
            },
        };
        CardReport {
            gpu: gpu_uuid(0),
            outcome: Ok(Seen {
                containers: vec![container],
                moved,
                ..Seen::default()
            }),
        }
    }

    fn silent() -> CardReport {
        CardReport {
            gpu: gpu_uuid(0),
            outcome: Err(CardError::NoAnswer(NoAnswer::TimedOut)),
        }
    }

    #[test]
    fn ticks_are_rarer_as_long_as_nothing_moves_and_no_rarer_than_once_a_second() {
        let mut pace = Pace::of(INTERVAL);
        for (cards, calm) in [
            (Some(vec![card(1, 0)]), false),
            (Some(vec![card(1, 0)]), true),
            (Some(vec![card(1, 0)]), true),
            (Some(vec![card(2, 0)]), false),
            (Some(vec![card(2, 0)]), true),
            (Some(vec![card(2, 1)]), false),
            (Some(vec![card(2, 0)]), false),
            (Some(vec![card(2, 0)]), true),
            (Some(vec![card(2, 0), silent()]), false),
            (Some(vec![silent()]), false),
            (None, false),
            (None, false),
            (Some(vec![]), false),
            (Some(vec![]), true),
        ] {
            let pause = pace.after(cards.as_deref());
            assert_eq!(pause, if calm { CALM } else { INTERVAL }, "{cards:?}");
        }
    }

    #[test]
    fn whoever_chose_a_time_gets_no_more_ticks_than_that_and_no_change_is_seen_later_than_in_a_second()
     {
        for (interval, calm) in [
            (100, 200),
            (400, 800),
            (500, 1000),
            (900, 1000),
            (1000, 1000),
            (7000, 7000),
        ] {
            let mut pace = Pace::of(Duration::from_millis(interval));
            pace.after(Some(&[]));
            assert_eq!(
                pace.after(Some(&[])),
                Duration::from_millis(calm),
                "{interval}"
            );
        }
    }
}
