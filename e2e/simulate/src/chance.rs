//! Chance from a seed.

/// Chance from a seed: the same seed, the same draws.
#[derive(Clone, Debug)]
pub struct Chance(fastrand::Rng);

impl Chance {
    /// Chance from a seed.
    pub fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0.u64(..end)
    }

    /// A number of a range, ends included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.u64(low..=high)
    }

    /// An index below `end`, which is not 0.
    pub fn index(&mut self, end: usize) -> usize {
        self.0.usize(..end)
    }

    /// Whether something of this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.0.f64() < probability
    }

    /// A time of an exponential distribution.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        // `f64()` is below 1, so the logarithm is of a number above 0.
        -mean * (1.0 - self.0.f64()).ln()
    }

    /// The position of a weight, by its share of the sum.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let sum: f64 = weights.iter().sum();
        let mut left = self.0.f64() * sum;
        for (at, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return at;
            }
        }
        weights.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_and_means_are_kept() {
        let draw = |seed| {
            let mut chance = Chance::new(seed);
            (0..1000)
                .map(|_| chance.exponential(4.0))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let mean = draw(1).iter().sum::<f64>() / 1000.0;
        assert!((3.5..4.5).contains(&mean), "{mean}");
    }

    #[test]
    fn weights_are_drawn_by_their_share() {
        let mut chance = Chance::new(3);
        let mut drawn = [0; 3];
        for _ in 0..1000 {
            drawn[chance.weighted(&[1.0, 0.0, 3.0])] += 1;
        }
        assert_eq!(drawn[1], 0);
        assert!((200..300).contains(&drawn[0]), "{drawn:?}");
    }
}
