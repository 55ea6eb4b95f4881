//! The range of addresses that load is driven over: target number `i` is the first address plus `i`.

use std::fmt;
use std::net::Ipv4Addr;

/// Most targets of one run: as many as a machine can have VMs.
pub const MAX_TARGETS: u32 = virtual_isa::limits::MAX_VMS;

/// Consecutive IPv4 addresses, one service each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets {
    first: u32,
    count: u32,
}

/// Why a range is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetsError {
    /// A count of 0, or above [`MAX_TARGETS`].
    BadCount(u32),
    /// An address in the range is not one host's: unspecified, multicast, reserved or broadcast.
    NotAHost(Ipv4Addr),
}

impl fmt::Display for TargetsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadCount(n) => write!(f, "--count {n}: give 1 to {MAX_TARGETS} addresses"),
            Self::NotAHost(a) => {
                write!(f, "--first, --count: the range reaches {a}, which is no host's address; lower one of them")
            }
        }
    }
}

impl std::error::Error for TargetsError {}

impl Targets {
    /// The range of `count` addresses from `first` on.
    ///
    /// # Errors
    /// See [`TargetsError`].
    pub fn new(first: Ipv4Addr, count: u32) -> Result<Self, TargetsError> {
        if count == 0 || count > MAX_TARGETS {
            return Err(TargetsError::BadCount(count));
        }
        // Hosts' addresses end below 224.0.0.0, and 0.0.0.0/8 is nobody's.
        let low = u32::from(Ipv4Addr::new(1, 0, 0, 0));
        let high = u32::from(Ipv4Addr::new(223, 255, 255, 255));
        let begin = u32::from(first);
        if begin < low || begin > high {
            return Err(TargetsError::NotAHost(first));
        }
        if count - 1 > high - begin {
            return Err(TargetsError::NotAHost(Ipv4Addr::from(high + 1)));
        }
        Ok(Self { first: begin, count })
    }

    /// How many.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Address of target number `i`, which must be below [`Self::count`].
    #[must_use]
    pub fn address(&self, i: u32) -> Ipv4Addr {
        debug_assert!(i < self.count);
        Ipv4Addr::from(self.first.wrapping_add(i))
    }

    /// Number of the target with that address, if it is in the range.
    #[must_use]
    pub fn index_of(&self, address: Ipv4Addr) -> Option<u32> {
        u32::from(address).checked_sub(self.first).filter(|&i| i < self.count)
    }

    /// Number of the VM behind the first target, if these are addresses of a machine's default network.
    #[must_use]
    pub fn first_vm(&self) -> Option<u32> {
        virtual_isa::network::Network::default().vm_at(Ipv4Addr::from(self.first).octets())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_that_leave_the_hosts_addresses_are_refused() {
        let new = |a: [u8; 4], n| Targets::new(Ipv4Addr::from(a), n);
        assert_eq!(new([10, 65, 0, 1], 0), Err(TargetsError::BadCount(0)));
        assert_eq!(new([10, 65, 0, 1], MAX_TARGETS + 1), Err(TargetsError::BadCount(MAX_TARGETS + 1)));
        assert_eq!(new([0, 0, 0, 0], 1), Err(TargetsError::NotAHost(Ipv4Addr::UNSPECIFIED)));
        assert_eq!(new([255, 255, 255, 255], 1), Err(TargetsError::NotAHost(Ipv4Addr::BROADCAST)));
        assert_eq!(new([223, 255, 255, 255], 2), Err(TargetsError::NotAHost(Ipv4Addr::new(224, 0, 0, 0))));
        assert!(new([223, 255, 255, 255], 1).is_ok());
    }

    #[test]
    fn the_vm_number_follows_from_the_default_network() {
        assert_eq!(Targets::new(Ipv4Addr::new(10, 65, 0, 7), 3).unwrap().first_vm(), Some(7));
        assert_eq!(Targets::new(Ipv4Addr::LOCALHOST, 3).unwrap().first_vm(), None);
    }

    proptest! {
        #[test]
        fn numbers_and_addresses_are_one_to_one(first: u32, count in 0..=MAX_TARGETS, i: u32, other: u32) {
            let Ok(targets) = Targets::new(Ipv4Addr::from(first), count) else { return Ok(()) };
            prop_assert_eq!(targets.count(), count);
            prop_assert_eq!(targets.address(0), Ipv4Addr::from(first));
            let i = i % count;
            prop_assert_eq!(targets.index_of(targets.address(i)), Some(i));
            let inside = other >= first && u64::from(other) < u64::from(first) + u64::from(count);
            prop_assert_eq!(targets.index_of(Ipv4Addr::from(other)).is_some(), inside);
            prop_assert!(!targets.address(count - 1).is_multicast());
        }
    }
}
