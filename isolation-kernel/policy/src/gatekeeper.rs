//! The gatekeeper: a VM is admitted only while the memory it needs at least can be promised to it.
//!
//! What is promised is the sum of the minimums of the VMs admitted, so the promise holds even if all of them call it
//! in at once. Pages above the minimums are [`reclaim`](crate::reclaim)'s matter.

/// Why a VM is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortOfMemory {
    /// Pages that are missing.
    pub missing: u64,
}

/// Keeps account of the pages promised to VMs.
#[derive(Clone, Debug)]
pub struct Gatekeeper {
    usable: u64,
    promised: u64,
}

impl Gatekeeper {
    /// A gatekeeper of a machine with this many pages for VMs.
    #[must_use]
    pub const fn new(usable_pages: u64) -> Self {
        Self { usable: usable_pages, promised: 0 }
    }

    /// A gatekeeper that has promised that much already.
    #[must_use]
    pub const fn with(usable_pages: u64, promised: u64) -> Self {
        Self { usable: usable_pages, promised }
    }

    /// Promises a VM its `minimum` pages.
    ///
    /// # Errors
    /// With what is missing, if that much is not left to promise. Nothing is promised then.
    pub const fn admit(&mut self, minimum: u64) -> Result<(), ShortOfMemory> {
        // What is promised never exceeds what is usable.
        let left = self.usable - self.promised;
        if minimum > left {
            return Err(ShortOfMemory { missing: minimum - left });
        }
        self.promised += minimum;
        Ok(())
    }

    /// Takes back what was promised to a VM that is gone.
    pub const fn release(&mut self, minimum: u64) {
        self.promised = self.promised.saturating_sub(minimum);
    }

    /// Whether this much could be promised if no other VM were there. Who asks for more need not wait.
    #[must_use]
    pub const fn can_ever(&self, minimum: u64) -> bool {
        minimum <= self.usable
    }

    /// Pages promised.
    #[must_use]
    pub const fn promised(&self) -> u64 {
        self.promised
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn promises_what_there_is_and_no_more() {
        let mut gatekeeper = Gatekeeper::new(100);
        assert_eq!(gatekeeper.admit(60), Ok(()));
        assert_eq!(gatekeeper.admit(41), Err(ShortOfMemory { missing: 1 }));
        assert_eq!(gatekeeper.promised(), 60);
        assert_eq!(gatekeeper.admit(40), Ok(()));
        assert_eq!(gatekeeper.admit(0), Ok(()));
        gatekeeper.release(60);
        assert_eq!(gatekeeper.admit(60), Ok(()));
    }

    #[test]
    fn knows_what_can_never_be() {
        let mut gatekeeper = Gatekeeper::new(100);
        assert_eq!(gatekeeper.admit(100), Ok(()));
        assert!(gatekeeper.can_ever(100));
        assert!(!gatekeeper.can_ever(101));
        assert_eq!(gatekeeper.admit(u64::MAX), Err(ShortOfMemory { missing: u64::MAX }));
    }

    proptest! {
        #[test]
        fn the_promise_is_the_sum_of_the_minimums(
            usable in 0u64..10_000,
            steps in proptest::collection::vec((any::<bool>(), 0u64..2_000), 1..100),
        ) {
            let mut gatekeeper = Gatekeeper::new(usable);
            let mut admitted: Vec<u64> = Vec::new();
            for (is_leaving, minimum) in steps {
                let sum: u64 = admitted.iter().sum();
                if is_leaving && let Some(gone) = admitted.pop() {
                    gatekeeper.release(gone);
                } else if gatekeeper.admit(minimum).is_ok() {
                    admitted.push(minimum);
                } else {
                    prop_assert!(sum + minimum > usable);
                }
                prop_assert_eq!(gatekeeper.promised(), admitted.iter().sum::<u64>());
                prop_assert!(gatekeeper.promised() <= usable);
            }
        }
    }
}
