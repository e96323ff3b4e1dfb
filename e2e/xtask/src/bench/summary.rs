//! What a series of durations comes to.

use std::time::Duration;

/// Mean, percentiles and the worst of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) count: usize,
    pub(super) mean: Duration,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) max: Duration,
}

impl Summary {
    /// None of an empty series.
    pub(super) fn of(series: &[Duration]) -> Option<Self> {
        let mut sorted = series.to_vec();
        sorted.sort();
        let count = u32::try_from(sorted.len()).ok()?;
        let sum: Duration = sorted.iter().sum();
        Some(Self {
            count: sorted.len(),
            mean: sum.checked_div(count)?,
            p50: percentile(&sorted, 50)?,
            p99: percentile(&sorted, 99)?,
            max: *sorted.last()?,
        })
    }
}

/// The smallest value that at least `percent` of a hundred do not exceed (nearest rank): one that was measured, and never
/// better than what it stands for.
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(values: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        values.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        for (count, percent, wanted) in [
            (1, 50, 1),
            (1, 99, 1),
            (2, 50, 1),
            (3, 50, 2),
            (4, 99, 4),
            (100, 50, 50),
            (100, 99, 99),
            (101, 99, 100),
            (200, 99, 198),
        ] {
            let sorted = milliseconds(1..=count);
            let got = percentile(&sorted, percent);
            assert_eq!(
                got,
                Some(Duration::from_millis(wanted)),
                "p{percent} of {count}"
            );
        }
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn a_series_in_any_order_has_its_mean_and_its_worst() {
        let summary = Summary::of(&milliseconds([9, 1, 2])).unwrap();
        let wanted = Summary {
            count: 3,
            mean: Duration::from_millis(4),
            p50: Duration::from_millis(2),
            p99: Duration::from_millis(9),
            max: Duration::from_millis(9),
        };
        assert_eq!(summary, wanted);
        assert_eq!(Summary::of(&[]), None);
    }
}
