//! The token bucket: a rate with bounded bursts.

use hal::Nanos;

/// What a bucket allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that come in each second.
    pub per_second: u32,
    /// Tokens it holds at most.
    pub burst: u32,
}

/// A token bucket. Starts full.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    tokens: u32,
    filled_at: Nanos,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub const fn new(rate: Rate, now: Nanos) -> Self {
        Self { rate, tokens: rate.burst, filled_at: now }
    }

    /// Takes `wanted` tokens if there are so many, else none. Returns whether it did.
    pub fn take(&mut self, wanted: u32, now: Nanos) -> bool {
        self.fill(now);
        match self.tokens.checked_sub(wanted) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }

    /// When there will be `wanted` tokens, if none are taken until then: `now` if there are, never if it cannot hold
    /// so many.
    pub fn ready_at(&mut self, wanted: u32, now: Nanos) -> Nanos {
        self.fill(now);
        let missing = u128::from(wanted.saturating_sub(self.tokens));
        if missing == 0 {
            return now;
        }
        if wanted > self.rate.burst || self.rate.per_second == 0 {
            return Nanos::NEVER;
        }
        let ns = (missing * 1_000_000_000).div_ceil(u128::from(self.rate.per_second));
        self.filled_at.after(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    /// Whether it holds as many tokens as it can.
    pub fn is_full(&mut self, now: Nanos) -> bool {
        self.fill(now);
        self.tokens == self.rate.burst
    }

    fn fill(&mut self, now: Nanos) {
        const SECOND: u128 = 1_000_000_000;
        let elapsed = u128::from(now.since(self.filled_at));
        let new = elapsed * u128::from(self.rate.per_second) / SECOND;
        let room = u128::from(self.rate.burst.saturating_sub(self.tokens));
        if new >= room {
            self.tokens = self.rate.burst;
            self.filled_at = now;
        } else if new > 0 {
            // Only the time that whole tokens account for is used up, so that slow rates lose nothing.
            let used = new * SECOND / u128::from(self.rate.per_second);
            self.tokens = self.tokens.saturating_add(u32::try_from(new).unwrap_or(u32::MAX));
            self.filled_at = self.filled_at.after(u64::try_from(used).unwrap_or(u64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn gives_the_burst_then_the_rate() {
        let mut bucket = Bucket::new(Rate { per_second: 1000, burst: 50 }, Nanos(0));
        assert!(!bucket.take(51, Nanos(0)));
        assert!(bucket.take(50, Nanos(0)));
        assert!(!bucket.take(1, Nanos(0)));
        assert!(!bucket.take(11, Nanos(10_000_000)));
        assert!(bucket.take(10, Nanos(10_000_000)));
        assert!(!bucket.take(51, Nanos(u64::MAX)));
        assert!(bucket.take(50, Nanos(u64::MAX)));
    }

    proptest! {
        #[test]
        fn is_ready_when_it_says_and_not_before(
            per_second in 1u32..1_000_000,
            burst in 1u32..100_000,
            start in 0u64..1 << 50,
            pause in 0u64..10_000_000_000,
            share in 0u32..=100,
        ) {
            let wanted = burst.div_ceil(100) * share / 100;
            let mut bucket = Bucket::new(Rate { per_second, burst }, Nanos(start));
            prop_assert!(bucket.take(burst, Nanos(start)));
            let now = Nanos(start + pause);
            let at = bucket.ready_at(wanted, now);
            prop_assert!(at >= now);
            if at > now {
                prop_assert!(!bucket.take(wanted, Nanos(at.0 - 1)));
            }
            prop_assert!(bucket.take(wanted, at));
        }

        #[test]
        fn never_exceeds_burst_plus_rate(
            per_second in 1u32..1_000_000,
            burst in 1u32..100_000,
            steps in proptest::collection::vec((0u64..50_000_000, 0u32..100_000), 1..100),
        ) {
            let mut bucket = Bucket::new(Rate { per_second, burst }, Nanos(0));
            let (mut now, mut taken) = (0u64, 0u128);
            for (pause, wanted) in steps {
                now += pause;
                taken += if bucket.take(wanted, Nanos(now)) { u128::from(wanted) } else { 0 };
                let allowed = u128::from(burst) + u128::from(now) * u128::from(per_second) / 1_000_000_000;
                prop_assert!(taken <= allowed, "{taken} of {allowed} at {now}");
            }
        }
    }
}
