//! How a VM's number becomes its addresses, and the sizes of Ethernet frames.

use serde::{Deserialize, Serialize};

/// Bytes in an Ethernet header.
pub const ETHERNET_HEADER_BYTES: usize = 14;

/// Smallest frame that the switch takes: a header and nothing else.
pub const MIN_FRAME_BYTES: usize = ETHERNET_HEADER_BYTES;

/// Largest payload of a frame.
pub const MTU: usize = 1500;

/// Largest frame that the switch takes.
pub const MAX_FRAME_BYTES: usize = ETHERNET_HEADER_BYTES + MTU;

/// First bytes of all IPv6 addresses of a machine: fd66:6972:6e00::/96.
const IPV6_PREFIX: [u8; 12] = [0xfd, 0x66, 0x69, 0x72, 0x6e, 0, 0, 0, 0, 0, 0, 0];

/// Bits of the prefix that all IPv6 addresses of a machine have.
pub const IPV6_PREFIX_BITS: u8 = 96;

/// The IPv6 address of who has that IPv4 address: the prefix, and the IPv4 address.
#[must_use]
pub fn ipv6_of(ipv4: [u8; 4]) -> [u8; 16] {
    let mut address = [0; 16];
    address[..12].copy_from_slice(&IPV6_PREFIX);
    address[12..].copy_from_slice(&ipv4);
    address
}

/// The IPv4 address in an IPv6 address of a machine; `None` if it is another's.
#[must_use]
pub fn ipv4_in(ipv6: [u8; 16]) -> Option<[u8; 4]> {
    let (prefix, ipv4) = ipv6.split_at(12);
    if prefix == IPV6_PREFIX { ipv4.try_into().ok() } else { None }
}

/// The addresses of one machine, fixed when it boots.
///
/// By default the network is 10.64.0.0/10: the host is 10.64.0.1, the switch as next hop 10.64.0.2, and VM
/// number i is 10.65.0.0 + i. Each has an IPv6 address as well: [`ipv6_of`] its IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// First address of the subnet.
    pub subnet: [u8; 4],
    /// Bits of the subnet's prefix.
    pub prefix_bits: u8,
    /// The host's address on the wire.
    pub host_ipv4: [u8; 4],
    /// The host's Ethernet address.
    pub host_mac: [u8; 6],
    /// The switch's own address, next hop for all others.
    pub switch_ipv4: [u8; 4],
    /// Address of VM number 0.
    pub first_vm: [u8; 4],
}

impl Default for Network {
    fn default() -> Self {
        Self {
            subnet: [10, 64, 0, 0],
            prefix_bits: 10,
            host_ipv4: [10, 64, 0, 1],
            host_mac: [0x02, 0xf1, 0xff, 0, 0, 1],
            switch_ipv4: [10, 64, 0, 2],
            first_vm: [10, 65, 0, 0],
        }
    }
}

/// Why a network plan is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkError {
    /// The prefix has more than 30 bits or none.
    BadPrefix,
    /// An address lies outside the subnet.
    OutsideSubnet([u8; 4]),
    /// The addresses of that many VMs do not fit between the first one and the end of the subnet.
    TooManyVms {
        /// VMs asked for, the supervisor VM included.
        wanted: u32,
        /// Addresses there are.
        available: u32,
    },
    /// The host's or the switch's address lies among the VMs', or they are the same.
    Overlap([u8; 4]),
}

impl core::fmt::Display for NetworkError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let dotted = |a: &[u8; 4]| core::net::Ipv4Addr::from(*a);
        match self {
            Self::BadPrefix => f.write_str("the prefix must have 1 to 30 bits"),
            Self::OutsideSubnet(a) => write!(f, "{} lies outside the subnet", dotted(a)),
            Self::TooManyVms { wanted, available } => {
                write!(f, "{wanted} VMs need an address each, the subnet has {available} from the first VM's on")
            }
            Self::Overlap(a) => write!(f, "{} is used twice", dotted(a)),
        }
    }
}

impl core::error::Error for NetworkError {}

impl Network {
    /// Ethernet address of the switch.
    pub const SWITCH_MAC: [u8; 6] = [0x02, 0xf1, 0xff, 0, 0, 2];

    /// Checks that the plan has an address for each of `nr_vms` VMs and uses none twice.
    ///
    /// # Errors
    /// See [`NetworkError`]: whoever wrote the plan must mend it.
    pub fn check(&self, nr_vms: u32) -> Result<(), NetworkError> {
        if self.prefix_bits == 0 || self.prefix_bits > 30 {
            return Err(NetworkError::BadPrefix);
        }
        for address in [self.subnet, self.host_ipv4, self.switch_ipv4, self.first_vm] {
            if !self.contains(address) {
                return Err(NetworkError::OutsideSubnet(address));
            }
        }
        if self.host_ipv4 == self.switch_ipv4 {
            return Err(NetworkError::Overlap(self.host_ipv4));
        }
        // The last address of the subnet is its broadcast address.
        let last = u32::from_be_bytes(self.subnet) | (u32::MAX >> self.prefix_bits);
        let available = last.saturating_sub(u32::from_be_bytes(self.first_vm));
        if nr_vms > available || nr_vms > crate::limits::MAX_VMS {
            return Err(NetworkError::TooManyVms { wanted: nr_vms, available: available.min(crate::limits::MAX_VMS) });
        }
        for address in [self.host_ipv4, self.switch_ipv4] {
            if self.vm_at(address).is_some_and(|vm| vm < nr_vms) {
                return Err(NetworkError::Overlap(address));
            }
        }
        Ok(())
    }

    /// Says whether an address lies in the subnet.
    #[must_use]
    pub fn contains(&self, address: [u8; 4]) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_bits)).unwrap_or(0);
        u32::from_be_bytes(address) & mask == u32::from_be_bytes(self.subnet)
    }

    /// IPv4 address of a VM.
    #[must_use]
    pub fn ipv4_of(&self, vm: u32) -> [u8; 4] {
        u32::from_be_bytes(self.first_vm).wrapping_add(vm).to_be_bytes()
    }

    /// Number of the VM whose address this would be, if it is one at all.
    #[must_use]
    pub fn vm_at(&self, address: [u8; 4]) -> Option<u32> {
        let vm = u32::from_be_bytes(address).checked_sub(u32::from_be_bytes(self.first_vm))?;
        (vm < crate::limits::MAX_VMS && self.contains(address)).then_some(vm)
    }

    /// Ethernet address of a VM: locally administered, with the number in the last three bytes.
    #[must_use]
    pub const fn mac_of(vm: u32) -> [u8; 6] {
        let n = vm.to_be_bytes();
        [0x02, 0xf1, 0x00, n[1], n[2], n[3]]
    }

    /// Number of the VM whose Ethernet address this would be, if it is one at all.
    #[must_use]
    pub fn vm_with_mac(mac: [u8; 6]) -> Option<u32> {
        let [0x02, 0xf1, 0x00, a, b, c] = mac else { return None };
        let vm = u32::from_be_bytes([0, a, b, c]);
        (vm < crate::limits::MAX_VMS).then_some(vm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_addresses_are_one_to_one() {
        let network = Network::default();
        assert_eq!(network.check(1001), Ok(()));
        assert_eq!(network.ipv4_of(7), [10, 65, 0, 7]);
        for vm in [0, 1, 7, 255, 256, 65_536, 999_999] {
            assert_eq!(network.vm_at(network.ipv4_of(vm)), Some(vm));
            assert_eq!(Network::vm_with_mac(Network::mac_of(vm)), Some(vm));
        }
        assert_eq!(network.vm_at(network.host_ipv4), None);
        assert_eq!(Network::vm_with_mac(network.host_mac), None);
        assert_eq!(Network::vm_with_mac(Network::SWITCH_MAC), None);
    }

    #[test]
    fn every_ipv4_address_has_one_of_ipv6() {
        let address = core::net::Ipv6Addr::from(ipv6_of([10, 65, 0, 7]));
        assert_eq!(address, core::net::Ipv6Addr::new(0xfd66, 0x6972, 0x6e00, 0, 0, 0, 0x0a41, 0x0007));
        assert_eq!(ipv4_in(address.octets()), Some([10, 65, 0, 7]));
        assert_eq!(ipv4_in([0; 16]), None);
        let mut other = address.octets();
        other[11] = 1;
        assert_eq!(ipv4_in(other), None);
    }

    #[test]
    fn bad_plans_are_named() {
        let mut n = Network { prefix_bits: 31, ..Network::default() };
        assert_eq!(n.check(1), Err(NetworkError::BadPrefix));
        n = Network { subnet: [10, 64, 0, 0], prefix_bits: 24, first_vm: [10, 64, 0, 16], ..Network::default() };
        assert_eq!(n.check(200), Ok(()));
        assert_eq!(n.check(240), Err(NetworkError::TooManyVms { wanted: 240, available: 239 }));
        n.first_vm = [10, 64, 0, 0];
        assert_eq!(n.check(10), Err(NetworkError::Overlap([10, 64, 0, 1])));
        n.first_vm = [10, 65, 0, 0];
        assert_eq!(n.check(10), Err(NetworkError::OutsideSubnet([10, 65, 0, 0])));
    }
}
