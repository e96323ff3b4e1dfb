//! Sums and quantiles.

/// A value that changes over time, averaged over the time that it has each value.
#[derive(Clone, Copy, Debug, Default)]
pub struct OverTime {
    since: f64,
    value: f64,
    area: f64,
    time: f64,
}

impl OverTime {
    /// The value is another from now on.
    pub fn set(&mut self, now: f64, value: f64) {
        self.area += self.value * (now - self.since);
        self.time += now - self.since;
        self.since = now;
        self.value = value;
    }

    /// Forgets what was.
    pub fn restart(&mut self, now: f64) {
        *self = Self {
            since: now,
            value: self.value,
            ..Self::default()
        };
    }

    /// The average until the last change.
    pub fn mean(&self) -> f64 {
        if self.time > 0.0 {
            self.area / self.time
        } else {
            0.0
        }
    }
}

/// The value below which a share `quantile` of all values is; 0 if there is none. Sorts the values.
pub fn quantile(values: &mut [f64], quantile: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else {
        return 0.0;
    };
    let at = (last as f64 * quantile).round() as usize;
    values[at.min(last)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_weighs_values_by_their_time() {
        let mut value = OverTime::default();
        value.set(0.0, 4.0);
        value.set(1.0, 1.0);
        value.set(4.0, 9.0);
        assert!((value.mean() - 7.0 / 4.0).abs() < 1e-9);
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let mut values = vec![3.0, 1.0, 2.0];
        assert!((quantile(&mut values, 0.5) - 2.0).abs() < 1e-9);
        assert!((quantile(&mut values, 1.0) - 3.0).abs() < 1e-9);
        assert!(quantile(&mut [], 0.5).abs() < 1e-9);
    }
}
