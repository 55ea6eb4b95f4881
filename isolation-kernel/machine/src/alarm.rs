//! The one alarm, on the local timer.

use crate::apic::Apic;
use crate::scale::{counts_for, ns_of};
use hal::Nanos;

/// The alarm: when it is wanted, and when the timer rings. The timer may ring earlier: reprogramming it costs more
/// than an early ring.
pub struct Alarm {
    wanted: Nanos,
    armed: Nanos,
    timer_hz: u64,
}

impl Alarm {
    /// An alarm that is not set.
    pub const fn new(timer_hz: u64) -> Self {
        Self { wanted: Nanos::NEVER, armed: Nanos::NEVER, timer_hz }
    }

    /// Sets it. `now` is asked only if the timer has to be told.
    #[inline]
    pub fn set(&mut self, at: Nanos, now: impl FnOnce() -> Nanos, apic: &Apic) {
        self.wanted = at;
        if at < self.armed {
            self.arm(now(), apic);
        }
    }

    fn arm(&mut self, now: Nanos, apic: &Apic) {
        let counts = counts_for(self.wanted.since(now), self.timer_hz);
        apic.start_timer(counts);
        // What is further off than the timer counts rings early, and is set again then.
        self.armed = self.wanted.min(now.after(ns_of(counts, self.timer_hz)));
    }

    /// The timer has rung: sets it again if that was too early.
    pub fn rang(&mut self, now: Nanos, apic: &Apic) {
        self.armed = Nanos::NEVER;
        if !self.take_due(now) && self.wanted != Nanos::NEVER {
            self.arm(now, apic);
        }
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
