//! Popularity as it is found in the world: the target of rank `r` is asked in proportion to `1 / r` (Zipf's law with
//! exponent 1; G. K. Zipf, "Human Behavior and the Principle of Least Effort", 1949). Which target has which rank is
//! drawn at random, so that popular ones are spread over the range.

/// A choice among targets of different popularity.
#[derive(Clone, Debug)]
pub struct Zipf {
    /// Sums of the weights of all ranks up to each.
    sums: Vec<f64>,
    /// The target of each rank.
    targets: Vec<u32>,
}

impl Zipf {
    /// Over `count` targets, at least one. `ranks` draws who is popular.
    #[must_use]
    pub fn new(count: u32, mut ranks: fastrand::Rng) -> Self {
        let mut sum = 0.0;
        let sums = (1..=count.max(1)).map(|rank| {
            sum += 1.0 / f64::from(rank);
            sum
        });
        let sums = sums.collect();
        let mut targets: Vec<u32> = (0..count.max(1)).collect();
        ranks.shuffle(&mut targets);
        Self { sums, targets }
    }

    /// A target.
    #[must_use]
    pub fn pick(&self, rng: &mut fastrand::Rng) -> u32 {
        self.at(rng.f64())
    }

    /// The target for a number from 0 to 1.
    fn at(&self, share: f64) -> u32 {
        let wanted = share * self.sums.last().copied().unwrap_or_default();
        let rank = self.sums.partition_point(|&sum| sum <= wanted);
        self.targets[rank.min(self.targets.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zipf(count: u32) -> Zipf {
        Zipf::new(count, fastrand::Rng::with_seed(7))
    }

    #[test]
    fn every_target_has_one_rank() {
        for count in [1, 2, 1000, 1_000_000] {
            let mut targets = zipf(count).targets;
            assert!(count < 3 || !targets.is_sorted());
            targets.sort_unstable();
            assert!(targets.into_iter().eq(0..count));
        }
        assert_eq!(zipf(9).targets, zipf(9).targets);
    }

    #[test]
    fn ranks_are_asked_in_proportion_to_their_inverse() {
        let zipf = zipf(100);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut counts = vec![0u32; 100];
        for _ in 0..1_000_000 {
            counts[zipf.pick(&mut rng) as usize] += 1;
        }
        let harmonic: f64 = (1..=100).map(|rank| 1.0 / f64::from(rank)).sum();
        for rank in [1u32, 2, 5, 10, 50, 100] {
            let expected = 1e6 / (f64::from(rank) * harmonic);
            let found = f64::from(counts[zipf.targets[rank as usize - 1] as usize]);
            // Six standard deviations of a Poisson count.
            assert!((found - expected).abs() < 6.0 * expected.sqrt(), "rank {rank}: {found} for {expected}");
        }
    }

    #[test]
    fn the_ends_of_the_range_are_the_first_and_the_last_rank() {
        let zipf = zipf(1000);
        assert_eq!(zipf.at(0.0), zipf.targets[0]);
        assert_eq!(zipf.at(1.0), zipf.targets[999]);
        assert_eq!(zipf.at(0.999_999_9), zipf.targets[999]);
    }
}
