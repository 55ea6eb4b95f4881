//! Deadlines of idle VMs, parked ones included.
//!
//! The next few are in a short list, in order; all others wait in a [`Wheel`]. What is asked at every turn of the
//! loop, whether one has come, is a comparison with a time that is kept beside them.

use core::mem::swap;
use hal::Nanos;
use policy::wheel::Wheel;

/// Deadlines in the list.
const NEAR: usize = 4;

/// A place in the list that is free.
const FREE: (Nanos, u32) = (Nanos::NEVER, u32::MAX);

/// At most one deadline for each VM. Only idle VMs have one.
#[derive(Debug)]
pub struct Timers {
    /// When the next call has something to do.
    look_at: Nanos,
    /// In order of time. A VM that sleeps for less than the others is in and out here, and never in the wheel.
    near: [(Nanos, u32); NEAR],
    /// When the wheel has something to do.
    wheel_at: Nanos,
    /// Until when nothing is done.
    put_off: Nanos,
    wheel: Wheel,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            look_at: Nanos::NEVER,
            near: [FREE; NEAR],
            wheel_at: Nanos::NEVER,
            put_off: Nanos(0),
            wheel: Wheel::default(),
        }
    }
}

impl Timers {
    /// Makes room for a VM's deadline.
    pub fn reserve(&mut self, vm: u32) {
        self.wheel.reserve(vm);
    }

    /// Notes that a VM wakes at that time, or less than a tick of the wheel later. It has no other deadline.
    #[inline]
    pub fn set(&mut self, at: Nanos, vm: u32) {
        let mut one = (at, vm);
        for other in &mut self.near {
            if one.0 < other.0 {
                swap(&mut one, other);
            }
        }
        // The last one has to make room.
        if one.0 != Nanos::NEVER {
            self.set_far(one);
        }
        self.look_again();
    }

    #[inline(never)]
    fn set_far(&mut self, (at, vm): (Nanos, u32)) {
        self.wheel_at = self.wheel.set(at, vm).min(self.wheel_at);
    }

    /// Forgets a deadline that was set.
    pub fn clear(&mut self, at: Nanos, vm: u32) {
        if let Some(place) = self.near.iter().position(|&(_, other)| other == vm) {
            self.close_up(place);
        } else {
            self.wheel.clear(vm);
            // It may have been the first.
            if at <= self.wheel_at {
                self.wheel_at = self.wheel.next();
            }
        }
        self.look_again();
    }

    /// When [`Self::expired`] is to be called next while VMs run.
    #[inline]
    pub const fn next(&self) -> Nanos {
        self.look_at
    }

    /// When there is something to do for it, whether that was put off or not.
    pub fn next_idle(&self) -> Nanos {
        self.first_near().0.min(self.wheel_at)
    }

    /// Takes out a VM whose deadline has passed. It may answer `None` although there are more, after a bounded number
    /// of steps: [`Self::next`] is not later than `now` then.
    #[inline]
    pub fn expired(&mut self, now: Nanos) -> Option<u32> {
        let (at, vm) = self.first_near();
        let vm = if at <= now && at <= self.wheel_at {
            let [_, second, third, fourth] = self.near;
            self.near = [second, third, fourth, FREE];
            Some(vm)
        } else {
            self.expired_far(now)
        };
        self.look_again();
        vm
    }

    #[inline(never)]
    fn expired_far(&mut self, now: Nanos) -> Option<u32> {
        let vm = self.wheel.expired(now);
        self.wheel_at = self.wheel.next();
        vm
    }

    /// Lets VMs whose deadlines have passed wait until that time for their turn, as others have waited longer.
    pub fn put_off(&mut self, until: Nanos) {
        self.put_off = until;
        self.look_again();
    }

    fn first_near(&self) -> (Nanos, u32) {
        let [first, ..] = self.near;
        first
    }

    /// Takes one out of the list.
    fn close_up(&mut self, place: usize) {
        for (at, one) in self.near.into_iter().enumerate().skip(1) {
            if at > place
                && let Some(before) = self.near.get_mut(at.wrapping_sub(1))
            {
                *before = one;
            }
        }
        let [.., last] = &mut self.near;
        *last = FREE;
    }

    fn look_again(&mut self) {
        self.look_at = self.next_idle().max(self.put_off);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::vec::Vec;
    use policy::wheel::TICK_NS;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is set and cleared when, VMs come out once each, never before their deadline and less than a tick
        /// after it, if nobody puts them off.
        #[test]
        fn all_come_out_in_time(
            steps in proptest::collection::vec((0u8..8, 0u32..40, 0u32..34, any::<u64>()), 1..300),
        ) {
            let (mut timers, mut now) = (Timers::default(), 0u64);
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            for (what, vm, bits, any) in steps {
                let span = any & ((1 << bits) - 1);
                if let Some(at) = model.remove(&vm) {
                    timers.clear(Nanos(at), vm);
                }
                if what < 6 {
                    timers.set(Nanos(now + span), vm);
                    model.insert(vm, now + span);
                }
                if what >= 4 {
                    now += any >> 40;
                    for _ in 0..1000 {
                        if timers.next() > Nanos(now) {
                            break;
                        }
                        if let Some(vm) = timers.expired(Nanos(now)) {
                            let at = model.remove(&vm);
                            prop_assert!(at.is_some_and(|at| at <= now), "VM {} of {:?} at {}", vm, at, now);
                        }
                    }
                }
                let first = model.values().min().map_or(Nanos::NEVER, |&at| Nanos(at));
                prop_assert!(timers.next_idle() < first.after(TICK_NS) || first == Nanos::NEVER);
                prop_assert_eq!(timers.next_idle() == Nanos::NEVER, model.is_empty());
                let late: Vec<_> = model.values().filter(|&&at| at + TICK_NS <= now && what >= 4).collect();
                prop_assert!(late.is_empty(), "{:?} are late at {}", late, now);
            }
        }
    }

    #[test]
    fn those_that_are_put_off_come_later() {
        let mut timers = Timers::default();
        for vm in 0..100 {
            timers.set(Nanos(1000), vm);
        }
        let mut all: Vec<u32> = (0..50).filter_map(|_| timers.expired(Nanos(2000))).collect();
        timers.put_off(Nanos(9000));
        timers.set(Nanos(5000), 200);
        assert_eq!(timers.next(), Nanos(9000));
        assert!(timers.next_idle() <= Nanos(2000));
        all.extend((0..90).filter_map(|_| timers.expired(Nanos(9000))));
        all.sort_unstable();
        assert_eq!(all, (0..100).chain([200]).collect::<Vec<u32>>());
        assert_eq!((timers.next(), timers.next_idle()), (Nanos::NEVER, Nanos::NEVER));
    }
}
