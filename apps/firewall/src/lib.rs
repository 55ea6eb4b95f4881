//! What a firewall does with a packet. It keeps nothing of one for the next: what belongs to a connection is told by the
//! packet's flags and ports, so that a flood of connections costs it no memory.
#![cfg_attr(firn_guest, no_std)]

use core::fmt;

/// Most ports.
const MAX_PORTS: usize = 32;

/// What may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    ports: [u16; MAX_PORTS],
    nr_ports: usize,
    has_icmp: bool,
}

impl Rules {
    /// Reads `allow=PORT,PORT,...` and `icmp` out of the arguments.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(arguments: &str) -> Result<Self, &'static str> {
        let mut rules = Self { ports: [0; MAX_PORTS], nr_ports: 0, has_icmp: false };
        for word in arguments.split_ascii_whitespace() {
            match word.split_once('=') {
                None if word == "icmp" => rules.has_icmp = true,
                Some(("allow", ports)) => ports.split(',').try_for_each(|port| rules.allow(port))?,
                // What the libOS takes.
                Some(("log", _)) => {}
                _ => return Err("arguments are allow=PORT,PORT,... and icmp"),
            }
        }
        Ok(rules)
    }

    fn allow(&mut self, port: &str) -> Result<(), &'static str> {
        let port: u16 = port.parse().map_err(|_| "a port is a number from 1 to 65535")?;
        let place = self.ports.get_mut(self.nr_ports).ok_or("there are at most 32 ports")?;
        if port == 0 {
            return Err("a port is a number from 1 to 65535");
        }
        *place = port;
        self.nr_ports += 1;
        Ok(())
    }

    fn has(&self, port: u16) -> bool {
        self.ports.iter().take(self.nr_ports).any(|&allowed| allowed == port)
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ports {:?}", self.ports.get(..self.nr_ports).unwrap_or_default())?;
        f.write_str(if self.has_icmp { " and ICMP" } else { "" })
    }
}

/// Why a packet is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is cut short, or its header is not one.
    Malformed,
    /// It is a fragment: what it belongs to cannot be told.
    Fragment,
    /// It has been on its way for too long.
    Expired,
    /// A connection or datagram to this port.
    Port(u16),
    /// Of this protocol nothing passes.
    Protocol(u8),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("malformed"),
            Self::Fragment => f.write_str("a fragment"),
            Self::Expired => f.write_str("its time to live is over"),
            Self::Port(port) => write!(f, "to port {port}"),
            Self::Protocol(protocol) => write!(f, "of protocol {protocol}"),
        }
    }
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;

/// Flags of a TCP segment that opens a connection (SYN), and that no such segment has (ACK, RST).
const SYN: u8 = 0x02;
const ANSWERS: u8 = 0x10 | 0x04;

/// Decides on a packet, and makes it ready to be sent on: it has one hop less before it.
///
/// # Errors
/// Why it is dropped.
pub fn forward(packet: &mut [u8], rules: &Rules) -> Result<(), Refusal> {
    let (protocol, header_bytes) = match packet.first().map(|first| first >> 4) {
        Some(4) => check_version_4(packet)?,
        Some(6) => (byte(packet, 6)?, 40),
        _ => return Err(Refusal::Malformed),
    };
    judge(protocol, packet.get(header_bytes..).ok_or(Refusal::Malformed)?, rules)?;
    hop(packet)
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, Refusal> {
    bytes.get(at).copied().ok_or(Refusal::Malformed)
}

fn word(bytes: &[u8], at: usize) -> Result<u16, Refusal> {
    Ok(u16::from_be_bytes([byte(bytes, at)?, byte(bytes, at + 1)?]))
}

/// The protocol of an IPv4 packet, and the length of its header.
fn check_version_4(packet: &[u8]) -> Result<(u8, usize), Refusal> {
    const OFFSET: u16 = 0x1fff;
    const MORE: u16 = 0x2000;
    let header_bytes = usize::from(byte(packet, 0)? & 0xf) * 4;
    if header_bytes < 20 || packet.len() < header_bytes {
        return Err(Refusal::Malformed);
    }
    if word(packet, 6)? & (OFFSET | MORE) != 0 {
        return Err(Refusal::Fragment);
    }
    Ok((byte(packet, 9)?, header_bytes))
}

fn judge(protocol: u8, content: &[u8], rules: &Rules) -> Result<(), Refusal> {
    match protocol {
        ICMP | ICMP6 if rules.has_icmp => Ok(()),
        TCP => {
            let (port, flags) = (word(content, 2)?, byte(content, 13)?);
            // What opens no connection belongs to one that was let through, or to none.
            let opens = flags & SYN != 0 && flags & ANSWERS == 0;
            if opens && !rules.has(port) { Err(Refusal::Port(port)) } else { Ok(()) }
        }
        UDP => {
            let (from, to) = (word(content, 0)?, word(content, 2)?);
            if rules.has(to) || rules.has(from) { Ok(()) } else { Err(Refusal::Port(to)) }
        }
        other => Err(Refusal::Protocol(other)),
    }
}

/// Takes one off the hops that are left, so that nothing goes round between gateways for ever.
fn hop(packet: &mut [u8]) -> Result<(), Refusal> {
    let at = if byte(packet, 0)? >> 4 == 4 { 8 } else { 7 };
    let left = packet.get_mut(at).ok_or(Refusal::Malformed)?;
    if *left <= 1 {
        return Err(Refusal::Expired);
    }
    *left -= 1;
    if at == 8 {
        // The checksum with one less in a word's upper byte (RFC 1624, equation 3).
        let old = !word(packet, 10)?;
        let sum = u32::from(old) + u32::from(!0x0100u16);
        let folded = (sum & 0xffff) + (sum >> 16);
        let new = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX);
        packet[10..12].copy_from_slice(&new.to_be_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules() -> Rules {
        Rules::parse("allow=80,53 log=info").unwrap()
    }

    fn checksum(header: &[u8]) -> u16 {
        let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
    }

    fn packet(protocol: u8, from: u16, to: u16, flags: u8, ttl: u8) -> Vec<u8> {
        let mut p = vec![0; 40];
        (p[0], p[3], p[8], p[9]) = (0x45, 40, ttl, protocol);
        p[12..20].copy_from_slice(&[10, 64, 0, 1, 10, 65, 0, 2]);
        let sum = checksum(&p[..20]);
        p[10..12].copy_from_slice(&sum.to_be_bytes());
        p[20..22].copy_from_slice(&from.to_be_bytes());
        p[22..24].copy_from_slice(&to.to_be_bytes());
        p[33] = flags;
        p
    }

    fn version_6(protocol: u8, to: u16, flags: u8) -> Vec<u8> {
        let mut p = vec![0; 40];
        (p[0], p[6], p[7]) = (0x60, protocol, 64);
        p.extend_from_slice(&packet(protocol, 9, to, flags, 64)[20..]);
        p
    }

    #[test]
    fn connections_and_datagrams_pass_by_their_port() {
        let of = |protocol, from, to, flags| forward(&mut packet(protocol, from, to, flags, 64), &rules());
        assert_eq!(of(TCP, 9, 80, SYN), Ok(()));
        assert_eq!(of(TCP, 9, 81, SYN), Err(Refusal::Port(81)));
        // Out of a connection that is open, and what refuses one.
        assert_eq!(of(TCP, 80, 9, SYN | 0x10), Ok(()));
        assert_eq!(of(TCP, 81, 9, 0x14), Ok(()));
        assert_eq!(of(UDP, 9, 53, 0), Ok(()));
        assert_eq!(of(UDP, 53, 9, 0), Ok(()));
        assert_eq!(of(UDP, 9, 54, 0), Err(Refusal::Port(54)));
        assert_eq!(of(ICMP, 0, 0, 0), Err(Refusal::Protocol(ICMP)));
        assert_eq!(forward(&mut packet(ICMP, 0, 0, 0, 64), &Rules::parse("icmp").unwrap()), Ok(()));
        assert_eq!(forward(&mut version_6(TCP, 80, SYN), &rules()), Ok(()));
        assert_eq!(forward(&mut version_6(TCP, 81, SYN), &rules()), Err(Refusal::Port(81)));
    }

    #[test]
    fn a_packet_has_one_hop_less_and_a_right_checksum() {
        for ttl in [2, 3, 64, 255] {
            let mut p = packet(TCP, 9, 80, SYN, ttl);
            forward(&mut p, &rules()).unwrap();
            assert_eq!((p[8], checksum(&p[..20])), (ttl - 1, 0), "{ttl}");
        }
        assert_eq!(forward(&mut packet(TCP, 9, 80, SYN, 1), &rules()), Err(Refusal::Expired));
        let mut fragment = packet(TCP, 9, 80, SYN, 64);
        fragment[7] = 1;
        assert_eq!(forward(&mut fragment, &rules()), Err(Refusal::Fragment));
    }

    #[test]
    fn arguments_that_say_something_else_are_refused() {
        let many = format!("allow={}", (1..=33).map(|n| n.to_string()).collect::<Vec<_>>().join(","));
        for bad in ["allow=", "allow=0", "allow=70000", "allow=80,,81", "deny=80", "imcp", many.as_str()] {
            assert!(Rules::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(rules().to_string(), "ports [80, 53]");
    }

    proptest! {
        #[test]
        fn no_packet_does_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), version in 3u8..8, ttl: u8) {
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | *first & 0xf;
            }
            if let Some(left) = bytes.get_mut(8) {
                *left = ttl;
            }
            let before = bytes.clone();
            if forward(&mut bytes, &rules()).is_ok() {
                prop_assert_eq!(bytes.len(), before.len());
                prop_assert_eq!(&bytes[12..], &before[12..]);
            } else {
                prop_assert_eq!(bytes, before, "what is dropped is left as it was");
            }
        }

        #[test]
        fn checksums_stay_right(identification: u16, ttl in 2u8..=255, source: u32) {
            let mut p = packet(UDP, 9, 53, 0, ttl);
            p[4..6].copy_from_slice(&identification.to_be_bytes());
            p[12..16].copy_from_slice(&source.to_be_bytes());
            p[10..12].fill(0);
            let sum = checksum(&p[..20]);
            p[10..12].copy_from_slice(&sum.to_be_bytes());
            forward(&mut p, &rules()).unwrap();
            prop_assert_eq!(checksum(&p[..20]), 0);
        }
    }
}
