//! Deadlines of idle VMs, in order of time.

use alloc::collections::BTreeSet;
use hal::Nanos;

/// At most one deadline for each VM. Only idle VMs have one.
#[derive(Debug, Default)]
pub struct Timers {
    deadlines: BTreeSet<(Nanos, u32)>,
}

impl Timers {
    /// Notes that a VM wakes at that time.
    pub fn set(&mut self, at: Nanos, vm: u32) {
        self.deadlines.insert((at, vm));
    }

    /// Forgets a deadline that was set.
    pub fn clear(&mut self, at: Nanos, vm: u32) {
        self.deadlines.remove(&(at, vm));
    }

    /// The first deadline there is.
    pub fn next(&self) -> Nanos {
        self.deadlines.first().map_or(Nanos::NEVER, |&(at, _)| at)
    }

    /// Takes out a VM whose deadline has passed.
    pub fn expired(&mut self, now: Nanos) -> Option<u32> {
        let &(at, vm) = self.deadlines.first()?;
        if at > now {
            return None;
        }
        self.deadlines.pop_first();
        Some(vm)
    }
}
