//! The switch's decisions on IPv6.

extern crate std;
use super::neighbour::SOLICITATION_FRAME_BYTES;
use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;
use virtual_isa::network::ipv6_of;

const HOST: [u8; 4] = [10, 64, 0, 1];
/// A host's address that only its own link knows, and one somewhere else.
const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ELSEWHERE: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

fn packet(to: [u8; 6], from: [u8; 6], source: [u8; 16], target: [u8; 16]) -> Vec<u8> {
    let mut f = vec![0u8; 74];
    f[..6].copy_from_slice(&to);
    f[6..12].copy_from_slice(&from);
    f[12..14].copy_from_slice(&ETHERTYPE_IPV6);
    f[14] = 0x60;
    f[20..22].copy_from_slice(&[17, 64]);
    f[22..38].copy_from_slice(&source);
    f[38..54].copy_from_slice(&target);
    f
}

/// A neighbour solicitation, as Linux sends it first.
fn solicitation(from: [u8; 6], source: [u8; 16], sought: [u8; 16]) -> Vec<u8> {
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    group[13..].copy_from_slice(&sought[13..]);
    let mut f = packet([0x33, 0x33, 0xff, sought[13], sought[14], sought[15]], from, source, group);
    f.truncate(54);
    f[18..22].copy_from_slice(&[0, 32, 58, 255]);
    f.extend_from_slice(&[135, 0, 0, 0, 0, 0, 0, 0]);
    f.extend_from_slice(&sought);
    f.extend_from_slice(&[1, 1]);
    f.extend_from_slice(&from);
    f
}

fn go(network: &Network, source: Source, f: &[u8]) -> Verdict {
    route(network, &Gateways::new(), source, &f[..f.len().min(HEAD_BYTES)], f.len())
}

#[test]
fn packets_find_their_way() {
    let n = Network::default();
    let (seven, nine) = (ipv6_of(n.ipv4_of(7)), ipv6_of(n.ipv4_of(9)));
    let (mac7, switch) = (Network::mac_of(7), Network::SWITCH_MAC);
    let go = |source, f: Vec<u8>| go(&n, source, &f);
    assert_eq!(go(Source::Vm(7), packet(switch, mac7, seven, nine)), Verdict::ToVm(9));
    assert_eq!(go(Source::Vm(7), packet(Network::mac_of(9), mac7, seven, nine)), Verdict::ToVm(9));
    assert_eq!(go(Source::Vm(7), packet(switch, mac7, seven, ipv6_of(HOST))), Verdict::ToWire);
    assert_eq!(go(Source::Vm(7), packet(switch, mac7, seven, ELSEWHERE)), Verdict::ToWire);
    for source in [ipv6_of(HOST), LINK_LOCAL, ELSEWHERE] {
        assert_eq!(go(Source::Wire, packet(switch, n.host_mac, source, seven)), Verdict::ToVm(7));
    }
}

#[test]
fn bad_packets_are_dropped_for_the_right_reason() {
    let n = Network::default();
    let (seven, nine, own_switch) = (ipv6_of(n.ipv4_of(7)), ipv6_of(n.ipv4_of(9)), ipv6_of(n.switch_ipv4));
    let (mac7, switch) = (Network::mac_of(7), Network::SWITCH_MAC);
    let drop = |source, f: Vec<u8>| match go(&n, source, &f) {
        Verdict::Drop(reason) => reason,
        other => panic!("not dropped: {other:?}"),
    };
    for false_source in [nine, ipv6_of(HOST), LINK_LOCAL, ELSEWHERE, own_switch] {
        assert_eq!(drop(Source::Vm(7), packet(switch, mac7, false_source, nine)), Reason::Spoofed);
    }
    for false_source in [seven, nine, own_switch] {
        assert_eq!(drop(Source::Wire, packet(switch, n.host_mac, false_source, seven)), Reason::Spoofed);
    }
    assert_eq!(drop(Source::Vm(7), packet(switch, Network::mac_of(9), seven, nine)), Reason::Spoofed);
    assert_eq!(drop(Source::Vm(7), packet(switch, mac7, seven, own_switch)), Reason::Unroutable);
    assert_eq!(drop(Source::Wire, packet(Network::mac_of(9), n.host_mac, ipv6_of(HOST), seven)), Reason::Unroutable);
    // To all routers, to all of a group: it reaches nobody.
    let mut all = [0; 16];
    all[..2].copy_from_slice(&[0xff, 2]);
    all[15] = 2;
    assert_eq!(drop(Source::Vm(7), packet([0x33, 0x33, 0, 0, 0, 2], mac7, seven, all)), Reason::Unroutable);
    assert_eq!(drop(Source::Vm(7), packet(switch, mac7, seven, all)), Reason::Unroutable);
    assert_eq!(drop(Source::Wire, packet([0x33, 0x33, 0, 0, 0, 2], n.host_mac, LINK_LOCAL, all)), Reason::Unroutable);
    let mut version4 = packet(switch, mac7, seven, nine);
    version4[14] = 0x45;
    assert_eq!(drop(Source::Vm(7), version4), Reason::Unroutable);
    let short = packet(switch, mac7, seven, nine)[..53].to_vec();
    assert_eq!(drop(Source::Vm(7), short), Reason::Unroutable);
}

#[test]
fn the_switch_answers_who_looks_for_a_neighbour() {
    let n = Network::default();
    let (seven, nine, mac7) = (ipv6_of(n.ipv4_of(7)), ipv6_of(n.ipv4_of(9)), Network::mac_of(7));
    let asks = |ipv4, vm, mac| Verdict::Asks { ipv4, vm, mac };
    let wire = |f: Vec<u8>| go(&n, Source::Wire, &f);
    for source in [ipv6_of(HOST), LINK_LOCAL] {
        assert_eq!(wire(solicitation(n.host_mac, source, seven)), asks(n.ipv4_of(7), Some(7), mac7));
    }
    let next_hop = asks(n.switch_ipv4, None, Network::SWITCH_MAC);
    assert_eq!(wire(solicitation(n.host_mac, LINK_LOCAL, ipv6_of(n.switch_ipv4))), next_hop);
    let from7 = |sought| go(&n, Source::Vm(7), &solicitation(mac7, seven, sought));
    assert_eq!(from7(nine), asks(n.ipv4_of(9), Some(9), Network::mac_of(9)));
    assert_eq!(from7(ipv6_of(HOST)), asks(HOST, None, n.host_mac));
    assert_eq!(from7(ELSEWHERE), Verdict::Drop(Reason::Unroutable));
    // Whether an answer that was had is still true is asked of the address itself: the VM is not woken for it.
    let mut probe = solicitation(n.host_mac, ipv6_of(HOST), seven);
    probe[..6].copy_from_slice(&mac7);
    probe[38..54].copy_from_slice(&seven);
    assert_eq!(wire(probe), asks(n.ipv4_of(7), Some(7), mac7));
    let spoofed = solicitation(mac7, nine, ipv6_of(HOST));
    assert_eq!(go(&n, Source::Vm(7), &spoofed), Verdict::Drop(Reason::Spoofed));
    // From beyond a router, and from somebody who looks whether an address is free.
    let mut far = solicitation(n.host_mac, LINK_LOCAL, seven);
    far[21] = 254;
    assert_eq!(wire(far), Verdict::Drop(Reason::Unroutable));
    assert_eq!(wire(solicitation(n.host_mac, [0; 16], seven)), Verdict::Drop(Reason::Unroutable));
    let whole = solicitation(n.host_mac, LINK_LOCAL, seven);
    assert_eq!(wire(whole[..77].to_vec()), Verdict::Drop(Reason::Unroutable));
}

#[test]
fn an_answer_is_what_a_host_believes() {
    let n = Network::default();
    let (seven, mac7) = (ipv6_of(n.ipv4_of(7)), Network::mac_of(7));
    let mut bytes = [0u8; 100];
    let length = answer(&solicitation(n.host_mac, LINK_LOCAL, seven), n.ipv4_of(7), mac7, &mut bytes).unwrap();
    assert_eq!(length, SOLICITATION_FRAME_BYTES);
    assert_eq!((&bytes[..6], &bytes[6..12], &bytes[12..14]), (&n.host_mac[..], &mac7[..], &ETHERTYPE_IPV6[..]));
    assert_eq!(bytes[14..22], [0x60, 0, 0, 0, 0, 32, 58, 255]);
    assert_eq!((&bytes[22..38], &bytes[38..54]), (&seven[..], &LINK_LOCAL[..]));
    assert_eq!((bytes[54], bytes[58]), (136, 0x60));
    assert_eq!((&bytes[62..78], &bytes[78..80], &bytes[80..86]), (&seven[..], &[2, 1][..], &mac7[..]));
    // With its checksum, a message adds up to all ones.
    let mut sum: u32 = 32 + 58;
    for pair in bytes[22..86].chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    assert_eq!(answer(&solicitation(n.host_mac, LINK_LOCAL, seven), n.ipv4_of(7), mac7, &mut bytes[..85]), None);
}

proptest! {
    #[test]
    fn no_vm_can_send_as_another(
        vm in 0u32..20,
        bytes in proptest::collection::vec(any::<u8>(), 54..120),
        own_mac: bool,
        own_ip: bool,
        asks: bool,
    ) {
        let n = Network::default();
        let mut f = bytes;
        f[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        if own_mac {
            f[6..12].copy_from_slice(&Network::mac_of(vm));
        }
        if own_ip {
            f[22..38].copy_from_slice(&ipv6_of(n.ipv4_of(vm)));
        }
        if asks {
            f[20..22].copy_from_slice(&[58, 255]);
            if f.len() > 78 {
                f[54..56].copy_from_slice(&[135, 0]);
                f[62..78].copy_from_slice(&ipv6_of(n.ipv4_of(3)));
            }
        }
        if !matches!(go(&n, Source::Vm(vm), &f), Verdict::Drop(_)) {
            prop_assert_eq!(&f[6..12], &Network::mac_of(vm));
            prop_assert_eq!(&f[22..38], &ipv6_of(n.ipv4_of(vm)));
        }
    }
}
