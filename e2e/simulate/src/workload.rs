//! Which gangs come, and how long they run.

use crate::chance::Chance;

/// Sizes of gangs in nodes, with their share of arrivals in percent.
///
/// Made up, with many small gangs, some that fill a clique and few that need several: there is no published trace of
/// a cluster of NVLink cliques.
pub const MIX: [(u32, f64); 9] = [
    (1, 30.0),
    (2, 20.0),
    (4, 18.0),
    (8, 14.0),
    (9, 5.0),
    (16, 6.0),
    (18, 6.0),
    (72, 0.7),
    (288, 0.3),
];

/// How long gangs run on average, in hours. Times are exponentially distributed.
pub const MEAN_HOURS: f64 = 4.0;

/// A gang that arrives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Job {
    /// When it arrives, in hours.
    pub arrives: f64,
    /// How long it runs, in hours.
    pub runs: f64,
    /// How many nodes it needs.
    pub nodes: u32,
    /// The position of its size in the mix.
    pub class: usize,
}

/// Gangs that arrive independently of each other (a Poisson process).
#[derive(Clone, Debug)]
pub struct Arrivals {
    chance: Chance,
    sizes: Vec<u32>,
    weights: Vec<f64>,
    gap: f64,
    now: f64,
}

impl Arrivals {
    /// Arrivals that would keep `load` of so many nodes busy, if all were placed. Sizes above `largest` are left out.
    pub fn new(seed: u64, nodes: u32, load: f64, largest: u32) -> Self {
        let kept = MIX.iter().filter(|(size, _)| *size <= largest);
        let (sizes, weights): (Vec<u32>, Vec<f64>) = kept.copied().unzip();
        let sum: f64 = weights.iter().sum();
        let pairs = sizes.iter().zip(&weights);
        let mean_size = pairs
            .map(|(size, weight)| f64::from(*size) * weight)
            .sum::<f64>()
            / sum;
        let rate = load * f64::from(nodes) / (mean_size * MEAN_HOURS);
        Self {
            chance: Chance::new(seed),
            sizes,
            weights,
            gap: 1.0 / rate,
            now: 0.0,
        }
    }

    /// The sizes that arrive.
    pub fn sizes(&self) -> &[u32] {
        &self.sizes
    }
}

impl Iterator for Arrivals {
    type Item = Job;

    fn next(&mut self) -> Option<Job> {
        self.now += self.chance.exponential(self.gap);
        let class = self.chance.weighted(&self.weights);
        Some(Job {
            arrives: self.now,
            runs: self.chance.exponential(MEAN_HOURS),
            nodes: self.sizes[class],
            class,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_offer_the_load_that_was_asked_for() {
        let jobs: Vec<Job> = Arrivals::new(5, 10_000, 0.9, 288).take(50_000).collect();
        let work: f64 = jobs.iter().map(|job| job.runs * f64::from(job.nodes)).sum();
        let load = work / (jobs.last().unwrap().arrives * 10_000.0);
        assert!((0.85..0.95).contains(&load), "{load}");
        assert!(jobs.is_sorted_by(|a, b| a.arrives <= b.arrives));
    }
}
