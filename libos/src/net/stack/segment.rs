//! What is looked at of a packet before smoltcp has it.

use core::net::IpAddr;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber};

/// What is looked at of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub from: (IpAddr, u16),
    pub to: (IpAddr, u16),
    pub is_syn: bool,
    pub is_ack: bool,
    pub is_fin: bool,
    pub is_rst: bool,
    pub sequence: TcpSeqNumber,
    pub acknowledged: TcpSeqNumber,
    /// Sequence numbers it takes.
    pub length: usize,
    /// Bytes of data in it.
    pub data_bytes: usize,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp(Segment),
    Udp,
    /// Anything else, and what is not whole.
    Other,
}

impl Kind {
    /// Looks at a packet. Nothing is checked but that it is as long as it says.
    pub fn of(packet: &[u8]) -> Self {
        Self::parse(packet).unwrap_or(Self::Other)
    }

    fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let ip = Ipv4Packet::new_checked(packet).ok()?;
                if ip.more_frags() || ip.frag_offset() != 0 {
                    return None;
                }
                Self::of_payload(ip.next_header(), ip.src_addr().into(), ip.dst_addr().into(), ip.payload())
            }
            6 => {
                let ip = Ipv6Packet::new_checked(packet).ok()?;
                Self::of_payload(ip.next_header(), ip.src_addr().into(), ip.dst_addr().into(), ip.payload())
            }
            _ => None,
        }
    }

    fn of_payload(protocol: IpProtocol, from: IpAddr, to: IpAddr, payload: &[u8]) -> Option<Self> {
        match protocol {
            IpProtocol::Udp => Some(Self::Udp),
            IpProtocol::Tcp => {
                let tcp = TcpPacket::new_checked(payload).ok()?;
                Some(Self::Tcp(Segment {
                    from: (from, tcp.src_port()),
                    to: (to, tcp.dst_port()),
                    is_syn: tcp.syn(),
                    is_ack: tcp.ack(),
                    is_fin: tcp.fin(),
                    is_rst: tcp.rst(),
                    sequence: tcp.seq_number(),
                    acknowledged: tcp.ack_number(),
                    length: tcp.segment_len(),
                    data_bytes: tcp.payload().len(),
                }))
            }
            _ => None,
        }
    }
}

impl Segment {
    /// Whether it asks for a new connection.
    pub const fn opens(&self) -> bool {
        self.is_syn && !self.is_ack && !self.is_rst && !self.is_fin
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_something(mut packet in proptest::collection::vec(any::<u8>(), 0..100), is_six: bool, tcp: bool) {
            if packet.len() > 9 {
                packet[0] = if is_six { 0x60 } else { 0x45 };
                packet[if is_six { 6 } else { 9 }] = if tcp { 6 } else { 17 };
            }
            if let Kind::Tcp(segment) = Kind::of(&packet) {
                prop_assert!(segment.data_bytes < packet.len());
            }
        }
    }
}
