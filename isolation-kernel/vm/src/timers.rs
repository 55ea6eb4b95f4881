//! Deadlines of idle VMs, parked ones included.
//!
//! They wait in a [`Wheel`]. What is asked at every turn of the loop, whether one has come, is a comparison with a
//! time that is kept beside it.

use hal::Nanos;
use policy::wheel::Wheel;

/// At most one deadline for each VM. Only idle VMs have one.
#[derive(Debug)]
pub struct Timers {
    wheel: Wheel,
    /// When the wheel is to be looked at: not after it has something to do, unless that was put off.
    look_at: Nanos,
    /// Until when it was put off last.
    put_off: Nanos,
}

impl Default for Timers {
    fn default() -> Self {
        Self { wheel: Wheel::default(), look_at: Nanos::NEVER, put_off: Nanos(0) }
    }
}

impl Timers {
    /// Makes room for a VM's deadline.
    pub fn reserve(&mut self, vm: u32) {
        self.wheel.reserve(vm);
    }

    /// Notes that a VM wakes at that time, or less than a tick of the wheel later.
    pub fn set(&mut self, at: Nanos, vm: u32) {
        self.look_at = self.wheel.set(at, vm).min(self.look_at).max(self.put_off);
    }

    /// Forgets a deadline that was set.
    pub fn clear(&mut self, at: Nanos, vm: u32) {
        self.wheel.clear(vm);
        // It may have been the first.
        if at <= self.look_at {
            self.look_at = self.wheel.next().max(self.put_off);
        }
    }

    /// When [`Self::expired`] is to be called next while VMs run.
    #[inline]
    pub const fn next(&self) -> Nanos {
        self.look_at
    }

    /// When there is something to do for it, whether that was put off or not.
    pub fn next_idle(&self) -> Nanos {
        self.wheel.next()
    }

    /// Takes out a VM whose deadline has passed. It may answer `None` although there are more, after a bounded number
    /// of steps: [`Self::next`] is not later than `now` then.
    pub fn expired(&mut self, now: Nanos) -> Option<u32> {
        let vm = self.wheel.expired(now);
        self.look_at = self.wheel.next();
        vm
    }

    /// Lets VMs whose deadlines have passed wait until that time for their turn, as others have waited longer.
    pub fn put_off(&mut self, until: Nanos) {
        self.put_off = until;
        self.look_at = self.look_at.max(until);
    }
}
