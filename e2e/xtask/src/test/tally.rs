//! How many tests passed, failed and were skipped.

use std::fmt;
use std::ops::{Add, AddAssign};

/// The counts. A stage that is no set of tests counts as one failed test if it fails, and not at all if it passes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Tally {
    /// Something that had to work did not.
    pub(crate) const ONE_FAILED: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };

    /// The sums of the `test result:` lines in an output of `cargo test`.
    pub(crate) fn of_cargo(output: &str) -> Self {
        let results = output
            .lines()
            .filter_map(|line| line.strip_prefix("test result: "));
        let mut sum = Self::default();
        for result in results {
            let count = |word: &str| -> usize {
                let mut parts = result.split(['.', ';']).map(str::trim);
                let part = parts.find_map(|part| part.strip_suffix(word));
                part.and_then(|number| number.trim().parse().ok())
                    .unwrap_or(0)
            };
            sum += Self {
                passed: count("passed"),
                failed: count("failed"),
                skipped: count("ignored"),
            };
        }
        sum
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Add for Tally {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_results_of_all_test_programs_are_summed() {
        let output = "running 3 tests\ntest a ... ok\n\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.04s\n\n\
            test result: FAILED. 12 passed; 2 failed; 0 ignored; 0 measured; 5 filtered out; finished in 1.00s\n";
        let sum = Tally {
            passed: 15,
            failed: 2,
            skipped: 1,
        };
        assert_eq!(Tally::of_cargo(output), sum);
        assert_eq!(sum.to_string(), "15 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn an_output_without_results_counts_nothing() {
        assert_eq!(
            Tally::of_cargo("error: could not compile"),
            Tally::default()
        );
    }
}
