//! Checksums of TCP and UDP (RFC 1071), eight bytes at a time: a quarter of what the stack's own take, which are made
//! for small machines. They are checked before the stack has a packet, and written after it has made one.

/// Protocol numbers, and where in a segment or datagram of each the checksum is.
const TCP: (u8, usize) = (6, 16);
const UDP: (u8, usize) = (17, 6);

/// The ones' complement sum of bytes, in the machine's order: folded to 16 bits it is the same sum in the network's,
/// with its bytes exchanged.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let total = words.iter().fold(0, |total, word| add(total, u64::from_ne_bytes(*word)));
    // Less than eight are left: four, two and one.
    let (fours, rest) = rest.as_chunks::<4>();
    let (twos, rest) = rest.as_chunks::<2>();
    let four = fours.first().map_or(0, |word| u32::from_ne_bytes(*word).into());
    let two = twos.first().map_or(0, |word| u16::from_ne_bytes(*word).into());
    let one = rest.first().map_or(0, |&byte| u16::from_ne_bytes([byte, 0]).into());
    add(total, four + two + one)
}

const fn add(one: u64, other: u64) -> u64 {
    let (sum, carry) = one.overflowing_add(other);
    // After a carry there is room for it.
    sum + carry as u64
}

/// A sum as the 16 bits, in the machine's order, that it is congruent to.
#[expect(clippy::cast_possible_truncation, reason = "it is folded until it has 16 bits")]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// What of a packet is summed up, besides the pseudo header.
struct Covered {
    /// The pseudo header's sum.
    pseudo: u64,
    /// Where segment or datagram begin and end.
    start: usize,
    end: usize,
    /// Where the checksum is.
    checksum_at: usize,
    is_udp: bool,
    is_v6: bool,
}

/// Finds the TCP segment or UDP datagram of a packet; `None` if there is none that is whole.
fn covered(packet: &[u8]) -> Option<Covered> {
    let is_v6 = packet.first()? >> 4 == 6;
    let word = |at: usize| Some(usize::from(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?])));
    let (start, end, protocol, addresses) = if is_v6 {
        (40, 40 + word(4)?, *packet.get(6)?, packet.get(8..40)?)
    } else {
        (usize::from(packet.first()? & 15) * 4, word(2)?, *packet.get(9)?, packet.get(12..20)?)
    };
    let (number, offset) = match protocol {
        number if number == TCP.0 => TCP,
        number if number == UDP.0 => UDP,
        _ => return None,
    };
    let bytes = end.checked_sub(start)?;
    if start < 20 || end > packet.len() || bytes < offset + 2 {
        return None;
    }
    let tail = u32::try_from(bytes).ok()? + u32::from(number);
    let pseudo = add(sum(addresses), u64::from(tail.to_be()));
    Some(Covered { pseudo, start, end, checksum_at: start + offset, is_udp: number == UDP.0, is_v6 })
}

/// Whether a packet's TCP or UDP checksum is right. What has none is.
pub(super) fn is_right(packet: &[u8]) -> bool {
    let Some(covered) = covered(packet) else { return true };
    let Some(bytes) = packet.get(covered.start..covered.end) else { return true };
    // A UDP datagram over IPv4 may go without.
    if covered.is_udp && !covered.is_v6 && packet.get(covered.checksum_at..covered.checksum_at + 2) == Some(&[0, 0]) {
        return true;
    }
    fold(add(covered.pseudo, sum(bytes))) == u16::MAX
}

/// Writes the TCP or UDP checksum of a packet, if it is to have one.
pub(super) fn write(packet: &mut [u8]) {
    let Some(covered) = covered(packet) else { return };
    let range = covered.checksum_at..covered.checksum_at + 2;
    if let Some(place) = packet.get_mut(range.clone()) {
        place.copy_from_slice(&[0, 0]);
    }
    let Some(bytes) = packet.get(covered.start..covered.end) else { return };
    let checksum = match !fold(add(covered.pseudo, sum(bytes))) {
        // Zero would say that there is none.
        0 if covered.is_udp => u16::MAX,
        checksum => checksum,
    };
    if let Some(place) = packet.get_mut(range) {
        place.copy_from_slice(&checksum.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{
        IpAddress, IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
    };
    use std::vec;
    use std::vec::Vec;

    /// A packet with the stack's own checksums, and where the one is that matters.
    fn packet(is_v6: bool, is_tcp: bool, addresses: [u32; 2], payload: &[u8]) -> (Vec<u8>, usize) {
        let address = |word: u32| match is_v6 {
            false => IpAddress::from(Ipv4Addr::from(word)),
            true => IpAddress::from(Ipv6Addr::from(u128::from(word) << 96 | u128::from(word))),
        };
        let (from, to) = (address(addresses[0]), address(addresses[1]));
        let tcp = TcpRepr {
            src_port: 1,
            dst_port: 80,
            control: TcpControl::Psh,
            seq_number: TcpSeqNumber(7),
            ack_number: Some(TcpSeqNumber(9)),
            window_len: 1000,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload,
        };
        let udp = UdpRepr { src_port: 5, dst_port: 53 };
        let (protocol, bytes, at) = match is_tcp {
            true => (IpProtocol::Tcp, tcp.buffer_len(), 16),
            false => (IpProtocol::Udp, udp.header_len() + payload.len(), 6),
        };
        let ip = IpRepr::new(from, to, protocol, bytes, 64);
        let all = ChecksumCapabilities::default();
        let mut packet = vec![0; ip.buffer_len()];
        ip.emit(&mut packet[..], &all);
        let inner = &mut packet[ip.header_len()..];
        match is_tcp {
            true => tcp.emit(&mut TcpPacket::new_unchecked(inner), &from, &to, &all),
            false => udp.emit(
                &mut UdpPacket::new_unchecked(inner),
                &from,
                &to,
                payload.len(),
                |bytes| bytes.copy_from_slice(payload),
                &all,
            ),
        }
        (packet, ip.header_len() + at)
    }

    proptest! {
        #[test]
        fn it_is_the_stacks_own(
            is_v6: bool,
            is_tcp: bool,
            addresses: [u32; 2],
            payload in proptest::collection::vec(any::<u8>(), 0..1400),
            flipped: proptest::sample::Index,
        ) {
            let (right, at) = packet(is_v6, is_tcp, addresses, &payload);
            prop_assert!(is_right(&right));
            let mut written = right.clone();
            written[at] = !written[at];
            prop_assert!(!is_right(&written));
            write(&mut written);
            prop_assert_eq!(&written, &right);
            let start = if is_v6 { 40 } else { 20 };
            let wrong = start + flipped.index(right.len() - start);
            written[wrong] ^= 4;
            let has_none = !is_tcp && !is_v6 && written[at..at + 2] == [0, 0];
            prop_assert!(has_none || !is_right(&written));
        }

        #[test]
        fn any_bytes_can_be_looked_at(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), is_v6: bool, tcp: bool) {
            if bytes.len() > 10 {
                bytes[0] = if is_v6 { 0x60 } else { 0x40 | bytes[0] & 15 };
                bytes[if is_v6 { 6 } else { 9 }] = if tcp { 6 } else { 17 };
                bytes[if is_v6 { 4 } else { 2 }] = 0;
            }
            is_right(&bytes);
            write(&mut bytes);
            prop_assert!(is_right(&bytes));
        }
    }

    #[test]
    fn a_datagram_may_go_without_over_ipv4_only() {
        for is_v6 in [false, true] {
            let (mut bytes, at) = packet(is_v6, false, [1, 2], b"x");
            bytes[at..at + 2].copy_from_slice(&[0, 0]);
            assert_eq!(is_right(&bytes), !is_v6);
        }
    }
}
