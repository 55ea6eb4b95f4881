//! Packets as they come and go, for a program that stands between others: a gateway.
//!
//! It is instead of [`crate::net`], not beside it: each would take the other's packets. A gateway gets, beside what is for
//! itself, all that VMs behind it send and all that is sent to them, and sends on what it will; the kernel's switch drops
//! what a VM may not send. There are no packets on the host: keep what is done with them in a function of its own, and
//! test that.
//!
//! ```no_run
//! # async fn gateway() {
//! let mut packets = libos::packets::Packets::open().expect("nobody else takes them");
//! let mut packet = [0; libos::packets::MAX_PACKET_BYTES];
//! loop {
//!     let length = packets.receive(&mut packet).await;
//!     packets.send(&packet[..length]).await;
//! }
//! # }
//! ```

#[cfg(firn_guest)]
mod guest;
#[cfg(firn_guest)]
pub use guest::Packets;
#[cfg(not(firn_guest))]
mod host;
#[cfg(not(firn_guest))]
pub use host::Packets;

/// Longest packet.
pub const MAX_PACKET_BYTES: usize = virtual_isa::network::MTU;

/// The Ethernet type of a packet, by its first byte; `None` if it is not of the Internet Protocol.
#[cfg(any(firn_guest, test))]
const fn ethertype(first: u8) -> Option<[u8; 2]> {
    match first >> 4 {
        4 => Some([0x08, 0x00]),
        6 => Some([0x86, 0xdd]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_says_the_type() {
        assert_eq!(super::ethertype(0x45), Some([8, 0]));
        assert_eq!(super::ethertype(0x60), Some([0x86, 0xdd]));
        assert_eq!(super::ethertype(0x00), None);
        assert!(super::Packets::open().is_none());
    }
}
