//! The gatekeeper: a VM is admitted only while the memory and the processor time it needs at least can be promised to it.
//!
//! What is promised is the sum of the minimums of the VMs admitted, so the promise holds even if all of them call it
//! in at once. Pages above the minimums are [`reclaim`](crate::reclaim)'s matter, time above the reservations the
//! [`scheduler`](crate::scheduler)'s.

use alloc::vec::Vec;

/// Of each processor's time this much is promised to nobody, in millionths: the kernel needs it for what is nobody's.
pub const KERNEL_PPM: u64 = 50_000;

/// Why a VM is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortOfMemory {
    /// Pages that are missing.
    pub missing: u64,
}

/// Says how many pages may be promised to VMs. How many are is in an account that all cores share, which it is told.
#[derive(Clone, Copy, Debug)]
pub struct Gatekeeper {
    usable: u64,
}

impl Gatekeeper {
    /// A gatekeeper of a machine with this many pages for VMs.
    #[must_use]
    pub const fn new(usable_pages: u64) -> Self {
        Self { usable: usable_pages }
    }

    /// Promises a VM its `minimum` pages, beside what is `promised` already. Returns what is promised then.
    ///
    /// # Errors
    /// With what is missing, if that much is not left to promise.
    pub const fn admit(self, promised: u64, minimum: u64) -> Result<u64, ShortOfMemory> {
        let left = self.usable.saturating_sub(promised);
        if minimum > left {
            return Err(ShortOfMemory { missing: minimum - left });
        }
        Ok(promised + minimum)
    }

    /// Whether this much could be promised if no other VM were there. Who asks for more need not wait.
    #[must_use]
    pub const fn can_ever(self, minimum: u64) -> bool {
        minimum <= self.usable
    }
}

/// Why a reservation cannot be promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortOfTime {
    /// Millionths of a processor that are missing.
    pub missing_ppm: u64,
}

/// What a group has been promised, and may have.
#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    /// To the group as such.
    own_ppm: u64,
    /// To its VMs.
    vms_ppm: u64,
    /// What its limit is, if it has one.
    limit_ppm: Option<u64>,
}

impl Promise {
    /// What of the processors is the group's: its VMs' reservations are served from its own.
    const fn total(&self) -> u64 {
        if self.own_ppm > self.vms_ppm { self.own_ppm } else { self.vms_ppm }
    }
}

/// Keeps account of the processor time promised to groups and VMs.
#[derive(Clone, Debug)]
pub struct Timekeeper {
    usable_ppm: u64,
    promised_ppm: u64,
    groups: Vec<Promise>,
}

impl Timekeeper {
    /// For so many processors, and groups numbered below `nr_groups`.
    #[must_use]
    pub fn new(nr_cpus: u32, nr_groups: u32) -> Self {
        let mut groups = Vec::new();
        groups.resize(nr_groups as usize, Promise::default());
        Self { usable_ppm: u64::from(nr_cpus) * (1_000_000 - KERNEL_PPM), promised_ppm: 0, groups }
    }

    /// Promises a VM of a group a part of a processor.
    ///
    /// # Errors
    /// With what is missing, of the processors or below the group's limit. Nothing is promised then.
    pub fn admit(&mut self, group: u32, ppm: u32) -> Result<(), ShortOfTime> {
        let Some(promise) = self.groups.get(group as usize) else {
            return if ppm == 0 { Ok(()) } else { Err(ShortOfTime { missing_ppm: u64::from(ppm) }) };
        };
        self.change(group, Promise { vms_ppm: promise.vms_ppm + u64::from(ppm), ..*promise })
    }

    /// Takes back what was promised to a VM that is gone.
    pub fn release(&mut self, group: u32, ppm: u32) {
        if let Some(promise) = self.groups.get_mut(group as usize) {
            let before = promise.total();
            promise.vms_ppm = promise.vms_ppm.saturating_sub(u64::from(ppm));
            self.promised_ppm = self.promised_ppm - before + promise.total();
        }
    }

    /// Promises a group as such a part of the processors, and takes note of its limit (0: none).
    ///
    /// # Errors
    /// As for `admit`; also if its VMs have been promised more than the limit.
    pub fn set_group(&mut self, group: u32, own_ppm: u32, limit_ppm: u32) -> Result<(), ShortOfTime> {
        let vms_ppm = self.groups.get(group as usize).map_or(0, |promise| promise.vms_ppm);
        let limit_ppm = (limit_ppm != 0).then_some(u64::from(limit_ppm));
        self.change(group, Promise { own_ppm: u64::from(own_ppm), vms_ppm, limit_ppm })
    }

    fn change(&mut self, group: u32, new: Promise) -> Result<(), ShortOfTime> {
        let Some(promise) = self.groups.get_mut(group as usize) else {
            return Err(ShortOfTime { missing_ppm: new.total() });
        };
        let others = self.promised_ppm - promise.total();
        let missing = (others + new.total()).saturating_sub(self.usable_ppm);
        let beyond = new.limit_ppm.map_or(0, |limit| new.total().saturating_sub(limit));
        if missing.max(beyond) > 0 {
            return Err(ShortOfTime { missing_ppm: missing.max(beyond) });
        }
        *promise = new;
        self.promised_ppm = others + new.total();
        Ok(())
    }

    /// Whether this could be promised to a VM of that group if no other VM were there, and no other group.
    #[must_use]
    pub fn can_ever(&self, group: u32, ppm: u32) -> bool {
        let ppm = u64::from(ppm);
        let limit = self.groups.get(group as usize).and_then(|promise| promise.limit_ppm);
        // One VM has one processor today.
        ppm <= self.usable_ppm.min(1_000_000 - KERNEL_PPM) && limit.is_none_or(|limit| ppm <= limit)
    }

    /// Millionths of a processor that are promised.
    #[must_use]
    pub const fn promised_ppm(&self) -> u64 {
        self.promised_ppm
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn promises_what_there_is_and_no_more() {
        let gatekeeper = Gatekeeper::new(100);
        assert_eq!(gatekeeper.admit(0, 60), Ok(60));
        assert_eq!(gatekeeper.admit(60, 41), Err(ShortOfMemory { missing: 1 }));
        assert_eq!(gatekeeper.admit(60, 40), Ok(100));
        assert_eq!(gatekeeper.admit(100, 0), Ok(100));
        assert_eq!(gatekeeper.admit(40, 60), Ok(100));
        assert_eq!(gatekeeper.admit(101, 1), Err(ShortOfMemory { missing: 1 }));
    }

    #[test]
    fn knows_what_can_never_be() {
        let gatekeeper = Gatekeeper::new(100);
        assert!(gatekeeper.can_ever(100));
        assert!(!gatekeeper.can_ever(101));
        assert_eq!(gatekeeper.admit(100, u64::MAX), Err(ShortOfMemory { missing: u64::MAX }));
    }

    #[test]
    fn time_is_promised_up_to_the_kernels_part() {
        let mut time = Timekeeper::new(1, 8);
        assert_eq!(time.admit(1, 500_000), Ok(()));
        assert_eq!(time.admit(2, 500_000), Err(ShortOfTime { missing_ppm: 50_000 }));
        assert_eq!(time.set_group(1, 600_000, 0), Ok(()));
        assert_eq!(time.promised_ppm(), 600_000, "a VM's part is served from its group's");
        assert_eq!(time.admit(1, 100_000), Ok(()));
        assert_eq!(time.admit(2, 350_001), Err(ShortOfTime { missing_ppm: 1 }));
        assert_eq!(time.admit(2, 350_000), Ok(()));
        time.release(1, 600_000);
        assert_eq!(time.promised_ppm(), 950_000, "the group keeps its own");
        assert_eq!(time.set_group(1, 0, 0), Ok(()));
        assert_eq!(time.promised_ppm(), 350_000);
        assert_eq!(time.admit(9, 1), Err(ShortOfTime { missing_ppm: 1 }));
        assert_eq!(time.admit(9, 0), Ok(()));
    }

    #[test]
    fn a_groups_limit_bounds_what_its_vms_are_promised() {
        let mut time = Timekeeper::new(2, 8);
        assert_eq!(time.set_group(3, 0, 200_000), Ok(()));
        assert!(time.can_ever(3, 200_000) && !time.can_ever(3, 200_001) && !time.can_ever(4, 950_001));
        assert_eq!(time.admit(3, 150_000), Ok(()));
        assert_eq!(time.admit(3, 100_000), Err(ShortOfTime { missing_ppm: 50_000 }));
        assert_eq!(time.set_group(3, 0, 100_000), Err(ShortOfTime { missing_ppm: 50_000 }));
        assert_eq!(time.set_group(3, 0, 150_000), Ok(()));
    }

    proptest! {
        #[test]
        fn time_promised_is_never_more_than_there_is(
            nr_cpus in 1u32..4,
            steps in proptest::collection::vec((0u8..3, 0u32..4, 0u32..1_000_000), 1..100),
        ) {
            let mut time = Timekeeper::new(nr_cpus, 4);
            let mut admitted = Vec::new();
            let mut own = [0u64; 4];
            for (what, group, ppm) in steps {
                match what {
                    0 => if time.set_group(group, ppm, 0).is_ok() { own[group as usize] = u64::from(ppm) },
                    1 => if let Some((group, ppm)) = admitted.pop() { time.release(group, ppm) },
                    _ => if time.admit(group, ppm).is_ok() { admitted.push((group, ppm)) },
                }
                let of_vms = |n: u32| admitted.iter().filter(|(g, _)| *g == n).map(|(_, ppm)| u64::from(*ppm)).sum();
                let sum: u64 = (0..4).zip(own).map(|(n, own): (u32, u64)| own.max(of_vms(n))).sum();
                prop_assert_eq!(time.promised_ppm(), sum);
                prop_assert!(sum <= u64::from(nr_cpus) * (1_000_000 - KERNEL_PPM));
            }
        }

        #[test]
        fn the_promise_is_the_sum_of_the_minimums(
            usable in 0u64..10_000,
            steps in proptest::collection::vec((any::<bool>(), 0u64..2_000), 1..100),
        ) {
            let gatekeeper = Gatekeeper::new(usable);
            let mut promised = 0;
            let mut admitted: Vec<u64> = Vec::new();
            for (is_leaving, minimum) in steps {
                let sum: u64 = admitted.iter().sum();
                if is_leaving && let Some(gone) = admitted.pop() {
                    promised -= gone;
                } else if let Ok(new) = gatekeeper.admit(promised, minimum) {
                    promised = new;
                    admitted.push(minimum);
                } else {
                    prop_assert!(sum + minimum > usable);
                }
                prop_assert_eq!(promised, admitted.iter().sum::<u64>());
                prop_assert!(promised <= usable);
            }
        }
    }
}
