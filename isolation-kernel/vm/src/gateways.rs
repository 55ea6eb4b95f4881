//! Switch ports that are led through another VM: who stands between some VMs and everybody else.
//!
//! A range of VM numbers is *behind* a VM, its gateway. All that they send and all that is sent to them goes to the
//! gateway, which hands on what it will; in exchange it may speak for them, and to them for others. The kernel's part
//! is this table and one look at it for each frame; what the gateway does is its own business.
//!
//! No gateway is behind another, so that a frame is led aside once and comes back only by the gateway's own work.

use alloc::vec::Vec;
use virtual_isa::gate::GateError;
use virtual_isa::limits::{MAX_GATEWAYS, MAX_VMS};

/// VMs behind a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: u32,
    /// One more than the last.
    pub end: u32,
    /// Their gateway.
    pub through: u32,
}

impl Range {
    const fn has(&self, vm: u32) -> bool {
        self.first <= vm && vm < self.end
    }
}

/// All ranges, in order; no two overlap.
#[derive(Clone, Debug, Default)]
pub struct Gateways(Vec<Range>);

impl Gateways {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The gateway of a VM.
    #[inline]
    #[must_use]
    pub fn of(&self, vm: u32) -> Option<u32> {
        if self.0.is_empty() { None } else { self.find(vm) }
    }

    #[inline(never)]
    fn find(&self, vm: u32) -> Option<u32> {
        let behind = self.0.partition_point(|range| range.end <= vm);
        self.0.get(behind).filter(|range| range.has(vm)).map(|range| range.through)
    }

    /// Puts `count` VMs from `first` on behind a gateway, or behind none any more. A range is changed and removed as a
    /// whole.
    ///
    /// # Errors
    /// `BadArgument` if there can be no such VMs, the supervisor is among them or is the gateway, the gateway is behind one
    /// or among them, or the range is part of another; `NoMemory` if there are [`MAX_GATEWAYS`].
    pub fn set(&mut self, first: u32, count: u32, through: Option<u32>) -> Result<(), GateError> {
        let end = first.checked_add(count).filter(|&end| end <= MAX_VMS && first > 0 && count > 0);
        let end = end.ok_or(GateError::BadArgument)?;
        let at = self.0.partition_point(|range| range.end <= first);
        let there = self.0.get_mut(at).filter(|range| range.first < end);
        if there.as_ref().is_some_and(|range| (range.first, range.end) != (first, end)) {
            return Err(GateError::BadArgument);
        }
        let Some(through) = through else {
            return match there {
                Some(_) => {
                    self.0.remove(at);
                    Ok(())
                }
                None => Err(GateError::BadArgument),
            };
        };
        let range = Range { first, end, through };
        let is_chained = self.of(through).is_some() || self.0.iter().any(|other| range.has(other.through));
        if through == 0 || through >= MAX_VMS || range.has(through) || is_chained {
            return Err(GateError::BadArgument);
        }
        if let Some(there) = self.0.get_mut(at).filter(|there| there.first == first) {
            *there = range;
        } else if self.0.len() >= MAX_GATEWAYS as usize || self.0.try_reserve(1).is_err() {
            return Err(GateError::NoMemory);
        } else {
            self.0.insert(at, range);
        }
        Ok(())
    }

    /// All ranges, to be told to another core.
    pub fn iter(&self) -> impl Iterator<Item = &Range> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_set_changed_and_removed() {
        let mut gateways = Gateways::new();
        assert_eq!(gateways.of(5), None);
        assert_eq!(gateways.set(5, 10, Some(1)), Ok(()));
        assert_eq!(gateways.set(20, 1, Some(1)), Ok(()));
        let of = |gateways: &Gateways| [4, 5, 14, 15, 20, 21].map(|vm| gateways.of(vm).unwrap_or(0));
        assert_eq!(of(&gateways), [0, 1, 1, 0, 1, 0]);
        assert_eq!(gateways.set(5, 10, Some(2)), Ok(()));
        assert_eq!(of(&gateways), [0, 2, 2, 0, 1, 0]);
        assert_eq!(gateways.set(5, 10, None), Ok(()));
        assert_eq!(of(&gateways), [0, 0, 0, 0, 1, 0]);
        assert_eq!(gateways.set(5, 10, None), Err(GateError::BadArgument));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut gateways = Gateways::new();
        gateways.set(10, 10, Some(1)).unwrap();
        for (first, count, through) in [
            (0, 1, 1),
            (30, 0, 1),
            (u32::MAX, 2, 1),
            (MAX_VMS, 1, 1),
            (30, 1, 0),
            (30, 1, MAX_VMS),
            // Part of another range, or more than it.
            (10, 9, 1),
            (12, 3, 1),
            (5, 20, 1),
            (19, 2, 1),
            // Its own gateway, behind another, in front of another.
            (30, 5, 32),
            (30, 5, 12),
            (1, 3, 40),
        ] {
            assert_eq!(
                gateways.set(first, count, Some(through)),
                Err(GateError::BadArgument),
                "{first} {count} {through}"
            );
        }
        for n in 1..MAX_GATEWAYS {
            gateways.set(100 + n, 1, Some(1)).unwrap();
        }
        assert_eq!(gateways.set(500, 1, Some(1)), Err(GateError::NoMemory));
        assert_eq!(gateways.set(101, 1, Some(2)), Ok(()), "one that is there can be changed");
    }

    proptest! {
        #[test]
        fn no_gateway_is_ever_behind_another(
            orders in proptest::collection::vec((0u32..30, 0u32..6, proptest::option::of(0u32..30)), 0..60),
        ) {
            let mut gateways = Gateways::new();
            let mut model = [None; 64];
            for (first, count, through) in orders {
                if gateways.set(first, count, through).is_ok() {
                    model[first as usize..(first + count) as usize].fill(through);
                }
                for (vm, &expected) in (0..).zip(&model) {
                    prop_assert_eq!(gateways.of(vm), expected);
                    prop_assert!(expected.is_none_or(|through| gateways.of(through).is_none()));
                }
                prop_assert_eq!(gateways.of(0), None);
            }
        }
    }
}
