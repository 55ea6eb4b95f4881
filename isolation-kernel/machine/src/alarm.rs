//! The one alarm, on a timer that counts down: what to tell the timer, and when. Pure.

use crate::scale::{counts_for, ns_of};
use hal::Nanos;

/// The alarm: when it is wanted, and when the timer rings. The timer may ring earlier: telling it anew costs more
/// than an early ring. Each method that answers a number wants the timer to ring after so many counts.
#[derive(Debug)]
pub struct Alarm {
    wanted: Nanos,
    armed: Nanos,
    timer_hz: u64,
}

impl Alarm {
    /// An alarm that is not set, on a timer of that frequency.
    pub const fn new(timer_hz: u64) -> Self {
        Self { wanted: Nanos::NEVER, armed: Nanos::NEVER, timer_hz }
    }

    /// Sets it. `now` is asked only if the timer has to be told.
    #[inline]
    #[must_use]
    pub fn set(&mut self, at: Nanos, now: impl FnOnce() -> Nanos) -> Option<u32> {
        self.wanted = at;
        (at < self.armed).then(|| self.arm(now()))
    }

    fn arm(&mut self, now: Nanos) -> u32 {
        let counts = counts_for(self.wanted.since(now), self.timer_hz);
        // What is further off than the timer counts rings early, and is set again then.
        self.armed = self.wanted.min(now.after(ns_of(counts, self.timer_hz)));
        counts
    }

    /// The timer has rung: sets it again if that was too early.
    #[must_use]
    pub fn rang(&mut self, now: Nanos) -> Option<u32> {
        self.armed = Nanos::NEVER;
        (!self.take_due(now) && self.wanted != Nanos::NEVER).then(|| self.arm(now))
    }

    /// Whether the time it was set to has come; it is not set any more then.
    pub fn take_due(&mut self, now: Nanos) -> bool {
        let is_due = self.wanted <= now;
        if is_due {
            self.wanted = Nanos::NEVER;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HZ: u64 = 62_500_000;

    #[test]
    fn the_timer_is_told_only_of_earlier_alarms() {
        let mut alarm = Alarm::new(HZ);
        let now = || Nanos(1000);
        assert_eq!(alarm.set(Nanos(1_001_000), now), Some(62_500));
        assert_eq!(alarm.set(Nanos(2_001_000), now), None);
        assert_eq!(alarm.set(Nanos::NEVER, now), None);
        assert_eq!(alarm.set(Nanos(501_000), now), Some(31_250));
        assert_eq!(alarm.set(Nanos(0), now), Some(1));
        assert!(alarm.take_due(now()));
        assert!(!alarm.take_due(now()));
    }

    #[test]
    fn an_early_ring_sets_the_timer_again() {
        let mut alarm = Alarm::new(HZ);
        assert!(alarm.set(Nanos(1_000_000), || Nanos(0)).is_some());
        assert!(alarm.set(Nanos(3_000_000), || Nanos(0)).is_none());
        assert_eq!(alarm.rang(Nanos(1_000_000)), Some(125_000));
        assert_eq!(alarm.rang(Nanos(3_000_000)), None);
        assert!(!alarm.take_due(Nanos(4_000_000)));
    }

    proptest! {
        /// Whatever is set when, the alarm that is wanted last rings at its time or at most a count later.
        #[test]
        fn no_alarm_is_lost(sets in proptest::collection::vec((0u64..10_000_000_000, 0u64..500_000_000_000), 1..20)) {
            let mut alarm = Alarm::new(HZ);
            let mut now = 0;
            let mut rings = None;
            let mut wanted = None;
            for (pause, ahead) in sets {
                let then = now + pause;
                // The timer rings in between, as often as it is told to.
                while let Some(at) = rings.filter(|at| *at <= then) {
                    now = at;
                    if wanted.is_some_and(|w| w <= now) {
                        wanted = None;
                    }
                    rings = alarm.rang(Nanos(now)).map(|counts| now + ns_of(counts, HZ));
                }
                prop_assert!(wanted.is_none_or(|w: u64| w + 32 > then), "{wanted:?} did not ring until {then}");
                now = then;
                wanted = Some(now + ahead);
                if let Some(counts) = alarm.set(Nanos(now + ahead), || Nanos(now)) {
                    rings = Some(now + ns_of(counts, HZ));
                }
                prop_assert!(rings.is_some());
            }
        }
    }
}
