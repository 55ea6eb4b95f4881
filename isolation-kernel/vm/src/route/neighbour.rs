//! Who asks for the Ethernet address of an IP address, and what the switch answers: ARP (RFC 826) and neighbour discovery
//! (RFC 4861). Pure: bytes in, bytes out. Offsets are those of a frame, with its Ethernet header.

use super::{ETHERTYPE_ARP, ETHERTYPE_IPV6, field};
use virtual_isa::network::{ETHERNET_HEADER_BYTES, ipv6_of};

/// Length of an ARP request or answer with its Ethernet header.
const ARP_FRAME_BYTES: usize = ETHERNET_HEADER_BYTES + 28;

/// Bytes of a neighbour advertisement with one option.
const ADVERTISEMENT_BYTES: u8 = 32;

/// Length of a solicitation or an advertisement with one option, with the headers before it.
pub const SOLICITATION_FRAME_BYTES: usize = ETHERNET_HEADER_BYTES + 40 + ADVERTISEMENT_BYTES as usize;

/// Room for any answer.
pub const MAX_ANSWER_BYTES: usize = SOLICITATION_FRAME_BYTES;

const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// What stands in an ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arp {
    pub is_request: bool,
    pub sender_mac: [u8; 6],
    pub sender: [u8; 4],
    pub target: [u8; 4],
}

/// Reads an ARP packet.
pub(super) fn arp_request(frame: &[u8]) -> Option<Arp> {
    const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    const REQUEST: [u8; 2] = [0, 1];
    let is_request = field(frame, 14)? == ETHERNET_IPV4 && field(frame, 20)? == REQUEST;
    Some(Arp { is_request, sender_mac: field(frame, 22)?, sender: field(frame, 28)?, target: field(frame, 38)? })
}

/// Writes the answer to an ARP request: `ipv4` is at `mac`. Returns its length.
pub(super) fn answer_arp(request: &[u8], ipv4: [u8; 4], mac: [u8; 6], answer: &mut [u8]) -> Option<usize> {
    let asker_mac = field::<6>(request, 22)?;
    let asker = field::<4>(request, 28)?;
    let head = [0, 1, 8, 0, 6, 4];
    let pieces: [&[u8]; 9] = [&asker_mac, &mac, &ETHERTYPE_ARP, &head, &[0, 2], &mac, &ipv4, &asker_mac, &asker];
    write(answer.get_mut(..ARP_FRAME_BYTES)?, &pieces)?;
    Some(ARP_FRAME_BYTES)
}

/// The address that an IPv6 frame asks for, if it is a neighbour solicitation as the standard has them: from next door, and
/// from an address. (Who asks without one looks whether anybody else has its own: nobody has.)
pub(super) fn solicited(frame: &[u8]) -> Option<[u8; 16]> {
    let is_neighbours = field(frame, 20)? == [ICMPV6, 255];
    let is_solicitation = field(frame, 54)? == [SOLICITATION, 0];
    let has_sender = field::<16>(frame, 22)? != [0; 16];
    let sought = field(frame, 62)?;
    (is_neighbours && is_solicitation && has_sender).then_some(sought)
}

/// Writes the answer to a solicitation: the IPv6 address with `ipv4` in it is at `mac`. Returns its length.
pub(super) fn advertise(request: &[u8], ipv4: [u8; 4], mac: [u8; 6], answer: &mut [u8]) -> Option<usize> {
    const SOLICITED_AND_OVERRIDE: u8 = 0x60;
    let asker_mac = field::<6>(request, 6)?;
    let asker = field::<16>(request, 22)?;
    let own = ipv6_of(ipv4);
    let head = [0x60, 0, 0, 0, 0, ADVERTISEMENT_BYTES, ICMPV6, 255];
    let flags = [SOLICITED_AND_OVERRIDE, 0, 0, 0];
    let kind = [ADVERTISEMENT, 0];
    let option = [2, 1];
    let sum = checksum(&[&own, &asker, &[0, ADVERTISEMENT_BYTES], &[0, ICMPV6], &kind, &flags, &own, &option, &mac]);
    let pieces: [&[u8]; 12] =
        [&asker_mac, &mac, &ETHERTYPE_IPV6, &head, &own, &asker, &kind, &sum, &flags, &own, &option, &mac];
    write(answer.get_mut(..SOLICITATION_FRAME_BYTES)?, &pieces)?;
    Some(SOLICITATION_FRAME_BYTES)
}

/// The internet's checksum over pieces, each of which has an even length.
fn checksum(pieces: &[&[u8]]) -> [u8; 2] {
    let pairs = pieces.iter().flat_map(|piece| piece.as_chunks::<2>().0);
    // A hundred bytes at most: it cannot overflow.
    let mut sum = pairs.fold(0u32, |sum, pair| sum.saturating_add(u32::from(u16::from_be_bytes(*pair))));
    for _ in 0..2 {
        sum = (sum & 0xffff).saturating_add(sum >> 16);
    }
    let [_, _, high, low] = (!sum).to_be_bytes();
    [high, low]
}

fn write(mut out: &mut [u8], pieces: &[&[u8]]) -> Option<()> {
    for piece in pieces {
        let (now, later) = out.split_at_mut_checked(piece.len())?;
        now.copy_from_slice(piece);
        out = later;
    }
    Some(())
}
