//! The switch's decisions: a frame and where it comes from in, a verdict out. Pure; nothing is moved here.
//!
//! VM addresses are fixed at creation and enforced on what a VM sends. ARP and neighbour discovery for them are answered
//! by the switch ([`neighbour`]), so that no broadcast wakes a VM. The switch is also the one next hop of everybody: what is sent to its own
//! Ethernet address is forwarded by IP address, so that no host needs a neighbour entry per VM.
//!
//! An IPv6 address of this machine is a prefix and an IPv4 address of it: what holds for the one holds for the other.
//!
//! Frames of VMs behind a gateway go to the gateway, which alone may speak for them ([`crate::gateways`]).

pub mod neighbour;

use crate::gateways::Gateways;
use virtual_isa::network::{MAX_FRAME_BYTES, MIN_FRAME_BYTES, Network, ipv4_in};

/// Where a frame comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The network card.
    Wire,
    /// The VM of that number.
    Vm(u32),
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to a VM, with this VM's Ethernet address as its destination.
    ToVm(u32),
    /// It goes out on the wire, with the host's Ethernet address as its destination.
    ToWire,
    /// It asks for the Ethernet address of an IP address that the switch answers for, by ARP or neighbour discovery.
    Asks {
        /// The IPv4 address, or the one in the IPv6 address.
        ipv4: [u8; 4],
        /// The VM that must exist for the answer to be true, if it is a VM's address.
        vm: Option<u32>,
        /// The answer.
        mac: [u8; 6],
    },
    /// It is dropped.
    Drop(Reason),
}

/// Why a frame is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Shorter than a header or longer than a full frame.
    BadLength,
    /// Its source is not who it says.
    Spoofed,
    /// Nobody here takes it.
    Unroutable,
}

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// The fields at these places of a frame, if it is long enough.
fn field<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..)?.first_chunk().copied()
}

/// Bytes at the beginning of a frame that decide where it goes.
pub const HEAD_BYTES: usize = neighbour::SOLICITATION_FRAME_BYTES;

/// Decides what becomes of a frame of that length. Of its bytes the first [`HEAD_BYTES`] are enough.
#[must_use]
pub fn route(network: &Network, gateways: &Gateways, source: Source, frame: &[u8], length: usize) -> Verdict {
    if !(MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&length) {
        return Verdict::Drop(Reason::BadLength);
    }
    let (Some(to), Some(from), Some(kind)) = (field::<6>(frame, 0), field::<6>(frame, 6), field::<2>(frame, 12)) else {
        return Verdict::Drop(Reason::BadLength);
    };
    let is_own = match source {
        Source::Vm(vm) => from == Network::mac_of(vm),
        // Nobody outside may look like one of us.
        Source::Wire => Network::vm_with_mac(from).is_none() && from != Network::SWITCH_MAC,
    };
    if !is_own {
        return Verdict::Drop(Reason::Spoofed);
    }
    match kind {
        ETHERTYPE_IPV4 => route_ipv4(network, gateways, source, to, frame),
        ETHERTYPE_IPV6 => route_ipv6(network, gateways, source, to, frame),
        ETHERTYPE_ARP => route_arp(network, source, frame),
        _ => Verdict::Drop(Reason::Unroutable),
    }
}

/// Whether an IP address may be the source of a frame from there.
fn is_own_ipv4(network: &Network, source: Source, ipv4: [u8; 4]) -> bool {
    match source {
        Source::Vm(vm) => ipv4 == network.ipv4_of(vm),
        Source::Wire => network.vm_at(ipv4).is_none() && ipv4 != network.switch_ipv4,
    }
}

fn route_arp(network: &Network, source: Source, frame: &[u8]) -> Verdict {
    let Some(request) = neighbour::arp_request(frame) else { return Verdict::Drop(Reason::Unroutable) };
    if field::<6>(frame, 6) != Some(request.sender_mac) || !is_own_ipv4(network, source, request.sender) {
        return Verdict::Drop(Reason::Spoofed);
    }
    if !request.is_request || request.target == request.sender {
        return Verdict::Drop(Reason::Unroutable);
    }
    answer_for(network, source, request.target)
}

/// The answer to who asks for the Ethernet address of that IP address.
fn answer_for(network: &Network, source: Source, target: [u8; 4]) -> Verdict {
    let vm = network.vm_at(target);
    let mac = match vm {
        _ if target == network.switch_ipv4 => Network::SWITCH_MAC,
        Some(vm) => Network::mac_of(vm),
        // The host answers for itself on the wire.
        None if target == network.host_ipv4 && source != Source::Wire => network.host_mac,
        None => return Verdict::Drop(Reason::Unroutable),
    };
    Verdict::Asks { ipv4: target, vm, mac }
}

/// Whether a VM may send a packet from one address to another that is not from itself: it is the gateway of one of the
/// two.
fn may_forward(gateways: &Gateways, source: Source, sender: Option<u32>, target: Option<u32>) -> bool {
    let Source::Vm(vm) = source else { return false };
    let is_gateway_of = |other: Option<u32>| other.and_then(|other| gateways.of(other)) == Some(vm);
    sender != target && (is_gateway_of(sender) || is_gateway_of(target))
}

/// Where a packet goes that would go to a VM, or to the wire: through the gateway of whom it is from or to.
fn lead(gateways: &Gateways, source: Source, target: Option<u32>) -> Verdict {
    let sender = match source {
        Source::Vm(vm) => Some(vm),
        Source::Wire => None,
    };
    let gateway = sender.and_then(|vm| gateways.of(vm)).or_else(|| target.and_then(|vm| gateways.of(vm)));
    match gateway.filter(|&gateway| sender != Some(gateway)).or(target) {
        Some(vm) => Verdict::ToVm(vm),
        None => Verdict::ToWire,
    }
}

fn route_ipv4(network: &Network, gateways: &Gateways, source: Source, to: [u8; 6], frame: &[u8]) -> Verdict {
    let (Some(version), Some(sender), Some(target)) =
        (field::<1>(frame, 14), field::<4>(frame, 26), field::<4>(frame, 30))
    else {
        return Verdict::Drop(Reason::Unroutable);
    };
    let target_vm = network.vm_at(target);
    if !is_own_ipv4(network, source, sender) && !may_forward(gateways, source, network.vm_at(sender), target_vm) {
        return Verdict::Drop(Reason::Spoofed);
    }
    if version[0] >> 4 != 4 {
        return Verdict::Drop(Reason::Unroutable);
    }
    match (target_vm, source) {
        (Some(vm), _) if to == Network::SWITCH_MAC || to == Network::mac_of(vm) => lead(gateways, source, target_vm),
        (None, Source::Vm(_)) if to == Network::SWITCH_MAC || to == network.host_mac => {
            if target == network.switch_ipv4 { Verdict::Drop(Reason::Unroutable) } else { lead(gateways, source, None) }
        }
        _ => Verdict::Drop(Reason::Unroutable),
    }
}

fn route_ipv6(network: &Network, gateways: &Gateways, source: Source, to: [u8; 6], frame: &[u8]) -> Verdict {
    let (Some(version), Some(sender), Some(target)) =
        (field::<1>(frame, 14), field::<16>(frame, 22), field::<16>(frame, 38))
    else {
        return Verdict::Drop(Reason::Unroutable);
    };
    let (sender, target_ipv4) = (ipv4_in(sender), ipv4_in(target));
    let target_vm = target_ipv4.and_then(|ipv4| network.vm_at(ipv4));
    // Addresses of others come from outside only, and none of ours does.
    let is_own = match sender {
        Some(ipv4) => is_own_ipv4(network, source, ipv4),
        None => source == Source::Wire,
    };
    let sender_vm = sender.and_then(|ipv4| network.vm_at(ipv4));
    if !is_own && !may_forward(gateways, source, sender_vm, target_vm) {
        return Verdict::Drop(Reason::Spoofed);
    }
    if version[0] >> 4 != 6 {
        return Verdict::Drop(Reason::Unroutable);
    }
    // Wherever it is sent to: all in the group of the address, or whom the asker believes to have it.
    if let Some(sought) = neighbour::solicited(frame) {
        return match ipv4_in(sought) {
            Some(ipv4) => answer_for(network, source, ipv4),
            None => Verdict::Drop(Reason::Unroutable),
        };
    }
    match (target_vm, source) {
        (Some(vm), _) if to == Network::SWITCH_MAC || to == Network::mac_of(vm) => lead(gateways, source, target_vm),
        (None, Source::Vm(_)) if to == Network::SWITCH_MAC || to == network.host_mac => {
            let is_for_all = field::<1>(&target, 0) == Some([0xff]);
            match is_for_all || target_ipv4 == Some(network.switch_ipv4) {
                true => Verdict::Drop(Reason::Unroutable),
                false => lead(gateways, source, None),
            }
        }
        _ => Verdict::Drop(Reason::Unroutable),
    }
}

/// Writes the answer to a request for the Ethernet address of `ipv4`, or of the IPv6 address that it is in, into `answer`.
/// Returns its length.
pub fn answer(request: &[u8], ipv4: [u8; 4], mac: [u8; 6], answer: &mut [u8]) -> Option<usize> {
    match field::<2>(request, 12)? {
        ETHERTYPE_ARP => neighbour::answer_arp(request, ipv4, mac, answer),
        ETHERTYPE_IPV6 => neighbour::advertise(request, ipv4, mac, answer),
        _ => None,
    }
}

#[cfg(test)]
mod ipv6_tests;

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    const HOST: [u8; 4] = [10, 64, 0, 1];

    fn frame(to: [u8; 6], from: [u8; 6], source: [u8; 4], target: [u8; 4], length: usize) -> Vec<u8> {
        let mut f = vec![0u8; length.max(34)];
        f[..6].copy_from_slice(&to);
        f[6..12].copy_from_slice(&from);
        f[12..14].copy_from_slice(&ETHERTYPE_IPV4);
        f[14] = 0x45;
        f[26..30].copy_from_slice(&source);
        f[30..34].copy_from_slice(&target);
        f.truncate(length);
        f
    }

    /// A frame of IPv6 between those who have these addresses of IPv4; 192.0.2.1 stands for somebody beyond.
    fn version_6(from: [u8; 6], source: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let address = |ipv4: [u8; 4]| match ipv4 {
            [192, 0, 2, 1] => [0x20; 16],
            ipv4 => virtual_isa::network::ipv6_of(ipv4),
        };
        let mut f = vec![0; 60];
        f[..6].copy_from_slice(&Network::SWITCH_MAC);
        f[6..12].copy_from_slice(&from);
        f[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        f[22..38].copy_from_slice(&address(source));
        f[38..54].copy_from_slice(&address(target));
        f
    }

    fn arp(from: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let mut f = vec![0xff; 6];
        for piece in [&from[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &from, &sender, &[0; 6], &target] {
            f.extend_from_slice(piece);
        }
        f
    }

    fn plan() -> (Network, [u8; 4], [u8; 4]) {
        let n = Network::default();
        (n, n.ipv4_of(7), n.ipv4_of(9))
    }

    #[test]
    fn frames_find_their_way() {
        let (n, seven, nine) = plan();
        let (mac7, mac9, switch) = (Network::mac_of(7), Network::mac_of(9), Network::SWITCH_MAC);
        let go = |source, f: Vec<u8>| route(&n, &Gateways::new(), source, &f, f.len());
        assert_eq!(go(Source::Vm(7), frame(switch, mac7, seven, nine, 60)), Verdict::ToVm(9));
        assert_eq!(go(Source::Vm(7), frame(mac9, mac7, seven, nine, 60)), Verdict::ToVm(9));
        assert_eq!(go(Source::Vm(7), frame(switch, mac7, seven, HOST, 60)), Verdict::ToWire);
        assert_eq!(go(Source::Vm(7), frame(n.host_mac, mac7, seven, HOST, 1514)), Verdict::ToWire);
        assert_eq!(go(Source::Wire, frame(switch, n.host_mac, HOST, seven, 60)), Verdict::ToVm(7));
        assert_eq!(go(Source::Wire, frame(mac7, n.host_mac, HOST, seven, 60)), Verdict::ToVm(7));
    }

    #[test]
    fn bad_frames_are_dropped_for_the_right_reason() {
        let (n, seven, nine) = plan();
        let (mac7, switch) = (Network::mac_of(7), Network::SWITCH_MAC);
        let drop = |source, f: Vec<u8>| match route(&n, &Gateways::new(), source, &f, f.len()) {
            Verdict::Drop(reason) => reason,
            other => panic!("not dropped: {other:?}"),
        };
        for length in [0, 13, 1515, 65_535] {
            assert_eq!(drop(Source::Vm(7), frame(switch, mac7, seven, nine, length)), Reason::BadLength);
            assert_eq!(drop(Source::Wire, frame(switch, n.host_mac, HOST, seven, length)), Reason::BadLength);
        }
        let foreign_mac = frame(switch, Network::mac_of(9), seven, nine, 60);
        assert_eq!(drop(Source::Vm(7), foreign_mac), Reason::Spoofed);
        assert_eq!(drop(Source::Vm(7), frame(switch, mac7, nine, seven, 60)), Reason::Spoofed);
        assert_eq!(drop(Source::Vm(7), frame(switch, mac7, HOST, nine, 60)), Reason::Spoofed);
        assert_eq!(drop(Source::Wire, frame(switch, mac7, HOST, nine, 60)), Reason::Spoofed);
        assert_eq!(drop(Source::Wire, frame(switch, n.host_mac, seven, nine, 60)), Reason::Spoofed);
        let broadcast = frame([0xff; 6], n.host_mac, HOST, seven, 60);
        assert_eq!(drop(Source::Wire, broadcast), Reason::Unroutable);
        let wrong_mac = frame(Network::mac_of(9), n.host_mac, HOST, seven, 60);
        assert_eq!(drop(Source::Wire, wrong_mac), Reason::Unroutable);
        let not_for_us = frame(switch, n.host_mac, HOST, [192, 0, 2, 1], 60);
        assert_eq!(drop(Source::Wire, not_for_us), Reason::Unroutable);
        let mut version6 = frame(switch, mac7, seven, nine, 60);
        version6[14] = 0x60;
        assert_eq!(drop(Source::Vm(7), version6), Reason::Unroutable);
        let mut other = frame(switch, mac7, seven, nine, 60);
        other[12..14].copy_from_slice(&[0x86, 0xdc]);
        assert_eq!(drop(Source::Vm(7), other), Reason::Unroutable);
    }

    #[test]
    fn the_switch_answers_arp() {
        let (n, seven, nine) = plan();
        let mac7 = Network::mac_of(7);
        let ask = |source, f: Vec<u8>| route(&n, &Gateways::new(), source, &f, f.len());
        let asks = |ipv4, vm, mac| Verdict::Asks { ipv4, vm, mac };
        assert_eq!(ask(Source::Wire, arp(n.host_mac, HOST, seven)), asks(seven, Some(7), mac7));
        let next_hop = asks(n.switch_ipv4, None, Network::SWITCH_MAC);
        assert_eq!(ask(Source::Wire, arp(n.host_mac, HOST, n.switch_ipv4)), next_hop);
        assert_eq!(ask(Source::Vm(7), arp(mac7, seven, nine)), asks(nine, Some(9), Network::mac_of(9)));
        assert_eq!(ask(Source::Vm(7), arp(mac7, seven, HOST)), asks(HOST, None, n.host_mac));
        // Somebody else's address, and one's own.
        assert_eq!(ask(Source::Vm(7), arp(mac7, nine, HOST)), Verdict::Drop(Reason::Spoofed));
        assert_eq!(ask(Source::Vm(7), arp(mac7, seven, seven)), Verdict::Drop(Reason::Unroutable));
        assert_eq!(ask(Source::Wire, arp(n.host_mac, HOST, HOST)), Verdict::Drop(Reason::Unroutable));

        let mut answer = [0u8; 64];
        let length = super::answer(&arp(n.host_mac, HOST, seven), seven, mac7, &mut answer).unwrap();
        assert_eq!(length, 42);
        assert_eq!(answer[..6], n.host_mac);
        assert_eq!(answer[6..12], mac7);
        assert_eq!(answer[20..22], [0, 2]);
        assert_eq!(answer[22..28], mac7);
        assert_eq!(answer[28..32], seven);
        assert_eq!(answer[38..42], HOST);
    }

    proptest! {
        #[test]
        fn no_vm_can_send_as_another(
            vm in 0u32..20,
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
            own_mac: bool,
            own_ip: bool,
            arp: bool,
        ) {
            let n = Network::default();
            let mut gateways = Gateways::new();
            // Nobody of those who send here is anybody's gateway.
            gateways.set(10, 5, Some(30)).unwrap();
            let mut f = bytes;
            if f.len() >= 42 {
                f[12..14].copy_from_slice(if arp { &ETHERTYPE_ARP } else { &ETHERTYPE_IPV4 });
                if own_mac {
                    f[6..12].copy_from_slice(&Network::mac_of(vm));
                    f[22..28].copy_from_slice(&Network::mac_of(vm));
                }
                if own_ip {
                    let at = if arp { 28 } else { 26 };
                    f[at..at + 4].copy_from_slice(&n.ipv4_of(vm));
                }
            }
            match route(&n, &gateways, Source::Vm(vm), &f, f.len()) {
                Verdict::Drop(_) => {}
                Verdict::Asks { .. } => prop_assert_eq!(&f[28..32], &n.ipv4_of(vm)),
                Verdict::ToVm(_) | Verdict::ToWire => {
                    prop_assert_eq!(&f[6..12], &Network::mac_of(vm));
                    prop_assert_eq!(&f[26..30], &n.ipv4_of(vm));
                }
            }
        }

        #[test]
        fn only_gateways_see_and_speak_for_those_behind_them(
            from in 0u32..8,
            sender in 0u32..10,
            target in 0u32..10,
            is_ipv6: bool,
        ) {
            // VMs 3 to 5 are behind 1, 6 and 7 behind 2; 8 stands for the host, 9 for somebody beyond.
            let n = Network::default();
            let mut gateways = Gateways::new();
            gateways.set(3, 3, Some(1)).unwrap();
            gateways.set(6, 2, Some(2)).unwrap();
            let address = |who| match who {
                8 => HOST,
                9 => [192, 0, 2, 1],
                vm => n.ipv4_of(vm),
            };
            let build = |mac| match is_ipv6 {
                true => version_6(mac, address(sender), address(target)),
                false => frame(Network::SWITCH_MAC, mac, address(sender), address(target), 60),
            };
            let (from_vm, from_wire) = (build(Network::mac_of(from)), build(n.host_mac));
            let gateway_of = |who: u32| if who < 8 { gateways.of(who) } else { None };
            match route(&n, &gateways, Source::Vm(from), &from_vm, from_vm.len()) {
                Verdict::ToVm(to) => {
                    let is_own = sender == from;
                    prop_assert!(is_own || gateway_of(sender) == Some(from) || gateway_of(target) == Some(from));
                    // Whoever is behind a gateway hears of nobody else, and reaches nobody else.
                    prop_assert!(gateway_of(to).is_none_or(|gateway| gateway == from));
                    prop_assert!(gateway_of(from).is_none_or(|gateway| gateway == to));
                    prop_assert!(to == target || gateway_of(target) == Some(to) || gateway_of(from) == Some(to));
                }
                Verdict::ToWire => {
                    prop_assert!(target >= 8 && gateway_of(from).is_none());
                    prop_assert!(sender == from || gateway_of(sender) == Some(from));
                }
                Verdict::Drop(Reason::Spoofed) => prop_assert!(sender != from),
                other => prop_assert!(false, "{:?}", other),
            }
            match route(&n, &gateways, Source::Wire, &from_wire, from_wire.len()) {
                Verdict::ToVm(to) => prop_assert_eq!(to, gateway_of(target).unwrap_or(target)),
                other => prop_assert!(sender < 8 || target >= 8, "{:?}", other),
            }
        }
    }
}
