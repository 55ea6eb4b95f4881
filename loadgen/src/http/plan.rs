//! Which target is asked next: pure, so that it is tested without a network.

use std::collections::BTreeSet;

/// Nanoseconds that a target which did not answer is left alone before it is asked again.
pub const RETRY_DELAY_NS: u64 = 50_000_000;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask this target.
    Ask(u32),
    /// Nothing before this time, in nanoseconds of the run.
    WaitUntil(u64),
    /// Nothing until a request under way has ended, and nothing at all if there is none.
    Nothing,
}

/// A sweep: asks every target until it has answered, or once.
///
/// When it retries, half of its picks go to the lowest target that has not answered, since machines start their
/// VMs in order, and half to the one that was asked longest ago, so that none is forgotten.
#[derive(Debug)]
pub struct Sweep {
    /// Waiting to be asked, by number.
    waiting: BTreeSet<u32>,
    /// The same, by when they were asked last.
    by_time: BTreeSet<(u64, u32)>,
    asked_ns: Vec<u64>,
    attempts: Vec<u32>,
    retries: bool,
    picks: u64,
    answered: u32,
}

impl Sweep {
    /// A sweep over that many targets.
    #[must_use]
    pub fn new(count: u32, retries: bool) -> Self {
        Self {
            waiting: (0..count).collect(),
            by_time: (0..count).map(|i| (0, i)).collect(),
            asked_ns: vec![0; count as usize],
            attempts: vec![0; count as usize],
            retries,
            picks: 0,
            answered: 0,
        }
    }

    /// Picks the next target at time `now_ns`, which is from now on under way.
    pub fn next(&mut self, now_ns: u64) -> Next {
        let Some(&(oldest_ns, oldest)) = self.by_time.first() else { return Next::Nothing };
        let due = |asked_ns: u64| if asked_ns == 0 { 0 } else { asked_ns + RETRY_DELAY_NS };
        if due(oldest_ns) > now_ns {
            return Next::WaitUntil(due(oldest_ns));
        }
        self.picks += 1;
        let lowest = self.waiting.first().copied().filter(|&i| due(self.asked_ns[i as usize]) <= now_ns);
        let target = if self.picks.is_multiple_of(2) { oldest } else { lowest.unwrap_or(oldest) };
        self.waiting.remove(&target);
        self.by_time.remove(&(self.asked_ns[target as usize], target));
        self.asked_ns[target as usize] = now_ns.max(1);
        self.attempts[target as usize] += 1;
        Next::Ask(target)
    }

    /// How often a target has been asked.
    #[must_use]
    pub fn attempts(&self, target: u32) -> u32 {
        self.attempts[target as usize]
    }

    /// A request has ended. A target that did not answer waits for its next turn, if there is to be one.
    pub fn ended(&mut self, target: u32, answered: bool, now_ns: u64) {
        if answered {
            self.answered += 1;
        } else if self.retries {
            self.asked_ns[target as usize] = now_ns.max(1);
            self.waiting.insert(target);
            self.by_time.insert((now_ns.max(1), target));
        }
    }

    /// How many targets have answered.
    #[must_use]
    pub const fn answered(&self) -> u32 {
        self.answered
    }
}

/// When requests begin if a rate is kept: one after the other at equal distances, whatever becomes of them.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    interval_ns: f64,
    begun: u64,
}

impl Schedule {
    /// A schedule of `rate` requests a second.
    #[must_use]
    pub fn new(rate: f64) -> Self {
        Self { interval_ns: 1e9 / rate, begun: 0 }
    }

    /// When the next request is to begin, in nanoseconds of the run.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "times of a run are small and positive"
    )]
    pub fn next_ns(&self) -> u64 {
        (self.begun as f64 * self.interval_ns) as u64
    }

    /// The next request has begun.
    pub fn advance(&mut self) {
        self.begun += 1;
    }

    /// How many requests were to begin by `now_ns` and have not.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "times of a run are small and positive"
    )]
    pub fn overdue(&self, now_ns: u64) -> u64 {
        ((now_ns as f64 / self.interval_ns).ceil() as u64).saturating_sub(self.begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sweep_without_retries_asks_each_target_once_in_order() {
        let mut sweep = Sweep::new(5, false);
        for i in 0..5 {
            assert_eq!(sweep.next(10), Next::Ask(i));
            sweep.ended(i, i != 3, 20);
        }
        assert_eq!(sweep.next(u64::MAX), Next::Nothing);
        assert_eq!(sweep.answered(), 4);
    }

    #[test]
    fn a_target_is_left_alone_for_a_while_after_it_failed() {
        let mut sweep = Sweep::new(1, true);
        assert_eq!(sweep.next(0), Next::Ask(0));
        assert_eq!(sweep.next(5), Next::Nothing);
        sweep.ended(0, false, 7);
        assert_eq!(sweep.next(8), Next::WaitUntil(7 + RETRY_DELAY_NS));
        assert_eq!(sweep.next(7 + RETRY_DELAY_NS), Next::Ask(0));
        assert_eq!(sweep.attempts(0), 2);
        sweep.ended(0, true, 9);
        assert_eq!(sweep.next(u64::MAX), Next::Nothing);
    }

    #[test]
    fn a_schedule_keeps_equal_distances() {
        let mut schedule = Schedule::new(1000.0);
        assert_eq!((schedule.next_ns(), schedule.overdue(0)), (0, 0));
        assert_eq!(schedule.overdue(2_500_000), 3);
        schedule.advance();
        assert_eq!((schedule.next_ns(), schedule.overdue(2_500_000)), (1_000_000, 2));
    }

    proptest! {
        /// Targets come up in some order over time; with few lanes each is found, and none is asked again after.
        #[test]
        fn every_target_is_found_once_it_is_up(
            up_at_ms in proptest::collection::vec(0u64..3000, 1..60),
            lanes in 1usize..8,
        ) {
            let count = u32::try_from(up_at_ms.len()).unwrap();
            let mut sweep = Sweep::new(count, true);
            let mut under_way: Vec<u32> = Vec::new();
            let mut answered = vec![0; up_at_ms.len()];
            let mut now_ms = 0u64;
            while sweep.answered() < count {
                prop_assert!(now_ms < 60_000, "a target was forgotten");
                while under_way.len() < lanes {
                    let Next::Ask(target) = sweep.next(now_ms * 1_000_000) else { break };
                    under_way.push(target);
                }
                now_ms += 10;
                for target in under_way.drain(..) {
                    let up = up_at_ms[target as usize] <= now_ms;
                    answered[target as usize] += u32::from(up);
                    sweep.ended(target, up, now_ms * 1_000_000);
                }
            }
            prop_assert!(answered.iter().all(|&n| n == 1));
            prop_assert_eq!(sweep.next(u64::MAX), Next::Nothing);
        }
    }
}
