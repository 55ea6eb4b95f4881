//! The addresses that load is driven over: target number `i` is the first address plus `i` strides.

use std::fmt;
use std::net::Ipv4Addr;

/// Most targets of one run: as many as a machine can have VMs.
pub const MAX_TARGETS: u32 = virtual_isa::limits::MAX_VMS;

/// IPv4 addresses at equal distances, mostly neighbours, one service each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets {
    first: u32,
    count: u32,
    stride: u32,
}

/// Why a range is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetsError {
    /// A count of 0, or above [`MAX_TARGETS`].
    BadCount(u32),
    /// A stride of 0, or above [`MAX_TARGETS`].
    BadStride(u32),
    /// An address in the range is not one host's: unspecified, multicast, reserved or broadcast.
    NotAHost(Ipv4Addr),
}

impl fmt::Display for TargetsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadCount(n) => write!(f, "--count {n}: give 1 to {MAX_TARGETS} addresses"),
            Self::BadStride(n) => write!(f, "--stride {n}: give 1 to {MAX_TARGETS}"),
            Self::NotAHost(a) => {
                write!(f, "--first, --count: the range reaches {a}, which is no host's address; lower one of them")
            }
        }
    }
}

impl std::error::Error for TargetsError {}

impl Targets {
    /// `count` addresses from `first` on, each `stride` after the one before.
    ///
    /// # Errors
    /// See [`TargetsError`].
    pub fn new(first: Ipv4Addr, count: u32, stride: u32) -> Result<Self, TargetsError> {
        if count == 0 || count > MAX_TARGETS {
            return Err(TargetsError::BadCount(count));
        }
        if stride == 0 || stride > MAX_TARGETS {
            return Err(TargetsError::BadStride(stride));
        }
        // Hosts' addresses end below 224.0.0.0, and 0.0.0.0/8 is nobody's.
        let low = u32::from(Ipv4Addr::new(1, 0, 0, 0));
        let high = u32::from(Ipv4Addr::new(223, 255, 255, 255));
        let begin = u32::from(first);
        if begin < low || begin > high {
            return Err(TargetsError::NotAHost(first));
        }
        if u64::from(count - 1) * u64::from(stride) > u64::from(high - begin) {
            return Err(TargetsError::NotAHost(Ipv4Addr::from(high + 1)));
        }
        Ok(Self { first: begin, count, stride })
    }

    /// How many.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Distance from one address to the next.
    #[must_use]
    pub const fn stride(&self) -> u32 {
        self.stride
    }

    /// Address of target number `i`, which must be below [`Self::count`].
    #[must_use]
    pub fn address(&self, i: u32) -> Ipv4Addr {
        debug_assert!(i < self.count);
        Ipv4Addr::from(self.first.wrapping_add(i.wrapping_mul(self.stride)))
    }

    /// Number of the target with that address, if it is in the range.
    #[must_use]
    pub fn index_of(&self, address: Ipv4Addr) -> Option<u32> {
        let offset = u32::from(address).checked_sub(self.first)?;
        Some(offset / self.stride).filter(|&i| offset.is_multiple_of(self.stride) && i < self.count)
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
        let new = |a: [u8; 4], n| Targets::new(Ipv4Addr::from(a), n, 1);
        assert_eq!(new([10, 65, 0, 1], 0), Err(TargetsError::BadCount(0)));
        assert_eq!(new([10, 65, 0, 1], MAX_TARGETS + 1), Err(TargetsError::BadCount(MAX_TARGETS + 1)));
        assert_eq!(new([0, 0, 0, 0], 1), Err(TargetsError::NotAHost(Ipv4Addr::UNSPECIFIED)));
        assert_eq!(new([255, 255, 255, 255], 1), Err(TargetsError::NotAHost(Ipv4Addr::BROADCAST)));
        assert_eq!(new([223, 255, 255, 255], 2), Err(TargetsError::NotAHost(Ipv4Addr::new(224, 0, 0, 0))));
        assert!(new([223, 255, 255, 255], 1).is_ok());
        let strided = |count, stride| Targets::new(Ipv4Addr::new(223, 255, 255, 1), count, stride);
        assert_eq!(strided(3, 128), Err(TargetsError::NotAHost(Ipv4Addr::new(224, 0, 0, 0))));
        assert_eq!(strided(1, 0), Err(TargetsError::BadStride(0)));
        assert!(strided(2, 254).is_ok());
    }

    #[test]
    fn the_vm_number_follows_from_the_default_network() {
        assert_eq!(Targets::new(Ipv4Addr::new(10, 65, 0, 7), 3, 1).unwrap().first_vm(), Some(7));
        assert_eq!(Targets::new(Ipv4Addr::LOCALHOST, 3, 1).unwrap().first_vm(), None);
    }

    proptest! {
        #[test]
        fn numbers_and_addresses_are_one_to_one(
            first: u32, count in 0..=MAX_TARGETS, stride in 1..5u32, i: u32, other: u32,
        ) {
            let Ok(targets) = Targets::new(Ipv4Addr::from(first), count, stride) else { return Ok(()) };
            prop_assert_eq!(targets.count(), count);
            prop_assert_eq!(targets.address(0), Ipv4Addr::from(first));
            let i = i % count;
            prop_assert_eq!(targets.index_of(targets.address(i)), Some(i));
            let end = u64::from(first) + u64::from(count) * u64::from(stride);
            let inside = other >= first && u64::from(other) < end && (other - first).is_multiple_of(stride);
            prop_assert_eq!(targets.index_of(Ipv4Addr::from(other)).is_some(), inside);
            prop_assert!(!targets.address(count - 1).is_multicast());
        }
    }
}
