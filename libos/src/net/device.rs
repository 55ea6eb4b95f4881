//! The Ethernet rings as a device of the TCP/IP stack. It carries IP packets: the addresses in every frame's Ethernet
//! header are the same, for the switch forwards by IP address, so that a VM needs neither ARP nor neighbour discovery.
//!
//! Packets are read from, and written to, the rings in place. Checksums of TCP and UDP are written here; those of what
//! comes are looked at before the stack has it.

use super::checksum;
use crate::rings::{Consumer, Control, Producer};
use core::ptr::NonNull;
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use virtual_isa::control;
use virtual_isa::network::ETHERNET_HEADER_BYTES;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// Bytes of the Ethernet addresses in a header.
const ADDRESS_BYTES: usize = 12;

/// Where the rings are, and the way to have the transmit ring emptied.
pub(crate) trait FrameMemory {
    /// The memory.
    fn parts(&mut self) -> Parts<'_>;

    /// Has the kernel take what is in the transmit ring.
    fn notify_transmit(&mut self);

    /// Gives pages back to the machine. They read as zeros, or anything, afterwards.
    fn discard(&mut self, start: NonNull<u8>, bytes: usize);
}

/// The memory of the two rings.
pub(crate) struct Parts<'a> {
    pub control: &'a Control,
    pub transmit: &'a mut [u8],
    pub receive: &'a [u8],
}

impl<'a> Parts<'a> {
    fn split(self) -> (Consumer<'a>, Producer<'a>) {
        let consumer = Consumer {
            control: self.control,
            head_at: control::RECEIVE_HEAD,
            tail_at: control::RECEIVE_TAIL,
            bytes: self.receive,
        };
        let producer = Producer {
            control: self.control,
            head_at: control::TRANSMIT_HEAD,
            tail_at: control::TRANSMIT_TAIL,
            bytes: self.transmit,
        };
        (consumer, producer)
    }
}

/// Addresses of this VM and of its next hop, and the size of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub mac: [u8; 6],
    pub gateway_mac: [u8; 6],
    pub mtu: usize,
}

/// The rings as a device.
pub(crate) struct RingDevice<M> {
    memory: M,
    addresses: [u8; ADDRESS_BYTES],
    mtu: usize,
    /// Something could not be sent because the transmit ring is full and the kernel takes nothing.
    is_blocked: bool,
    /// The packet that was looked at and is still there: where it is, its length, the tail after it.
    next: Option<(usize, usize, u32)>,
    /// Frames that were not IP.
    pub nr_foreign: u64,
}

/// The Ethernet addresses of every frame.
fn addresses(link: Link) -> [u8; ADDRESS_BYTES] {
    let mut addresses = [0; ADDRESS_BYTES];
    addresses[..6].copy_from_slice(&link.gateway_mac);
    addresses[6..].copy_from_slice(&link.mac);
    addresses
}

impl<M: FrameMemory> RingDevice<M> {
    pub fn new(memory: M, link: Link) -> Self {
        Self { memory, addresses: addresses(link), mtu: link.mtu, is_blocked: false, next: None, nr_foreign: 0 }
    }

    /// Sends from and to other addresses from now on.
    pub fn relink(&mut self, link: Link) {
        self.addresses = addresses(link);
        self.mtu = link.mtu;
    }

    #[cfg(test)]
    pub fn memory(&mut self) -> &mut M {
        &mut self.memory
    }

    /// Gives pages back to the machine.
    pub fn discard(&mut self, start: NonNull<u8>, bytes: usize) {
        self.memory.discard(start, bytes);
    }

    /// The next packet, left where it is. Frames that are not IP are dropped on the way to it.
    pub fn peek(&mut self) -> Option<&[u8]> {
        let (consumer, _) = self.memory.parts().split();
        loop {
            let (frame, next_tail) = consumer.peek()?;
            match packet_of(frame) {
                Some(packet) => {
                    let at = packet.as_ptr().addr().wrapping_sub(consumer.bytes.as_ptr().addr());
                    self.next = Some((at, packet.len(), next_tail));
                    return Some(packet);
                }
                None => {
                    self.nr_foreign += 1;
                    consumer.take(next_tail);
                }
            }
        }
    }

    /// Drops the packet that was looked at.
    pub fn drop_next(&mut self) {
        if let Some((_, _, next_tail)) = self.next.take() {
            self.memory.parts().split().0.take(next_tail);
        }
    }

    /// Whether a packet of any size can be sent now. The kernel is asked to take what is there if not.
    pub fn has_room(&mut self) -> bool {
        let largest = ETHERNET_HEADER_BYTES + self.mtu;
        let has_room = |memory: &mut M| memory.parts().split().1.has_room(largest);
        if !has_room(&mut self.memory) {
            self.memory.notify_transmit();
            if !has_room(&mut self.memory) {
                self.is_blocked = true;
                return false;
            }
        }
        true
    }

    /// Whether something waits for room in the transmit ring.
    pub const fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// As [`Self::is_blocked`], and forgets it.
    pub fn take_blocked(&mut self) -> bool {
        core::mem::take(&mut self.is_blocked)
    }
}

/// The IP packet in a frame.
fn packet_of(frame: &[u8]) -> Option<&[u8]> {
    let (header, packet) = frame.split_at_checked(ETHERNET_HEADER_BYTES)?;
    (header.ends_with(&ETHERTYPE_IPV4) || header.ends_with(&ETHERTYPE_IPV6)).then_some(packet)
}

/// A packet in the receive ring.
pub(crate) struct RxToken<'a> {
    packet: &'a [u8],
    consumer: Consumer<'a>,
    next_tail: u32,
}

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let result = f(self.packet);
        self.consumer.take(self.next_tail);
        result
    }
}

/// Room in the transmit ring.
pub(crate) struct TxToken<'a> {
    producer: Producer<'a>,
    addresses: &'a [u8; ADDRESS_BYTES],
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, length: usize, f: F) -> R {
        let written = self.producer.write(ETHERNET_HEADER_BYTES + length, |frame| {
            let (header, packet) = frame.split_at_mut(ETHERNET_HEADER_BYTES);
            let result = f(&mut *packet);
            checksum::write(packet);
            let is_v6 = packet.first().is_some_and(|first| first >> 4 == 6);
            header[..ADDRESS_BYTES].copy_from_slice(self.addresses);
            header[ADDRESS_BYTES..].copy_from_slice(if is_v6 { &ETHERTYPE_IPV6 } else { &ETHERTYPE_IPV4 });
            result
        });
        match written {
            Ok(result) => result,
            // Room for a whole packet was there when the token was made, and nobody else writes. A longer packet
            // than the MTU is lost.
            Err(write) => write(&mut alloc::vec![0; ETHERNET_HEADER_BYTES + length]),
        }
    }
}

impl<M: FrameMemory> phy::Device for RingDevice<M> {
    type RxToken<'a>
        = RxToken<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = TxToken<'a>
    where
        Self: 'a;

    /// The stack has looked at the packet by [`RingDevice::peek`], and seen to it that there is room for an answer.
    fn receive(&mut self, _now: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        let (at, length, next_tail) = self.next.take()?;
        let (consumer, producer) = self.memory.parts().split();
        let packet = consumer.bytes.get(at..)?.get(..length)?;
        Some((RxToken { packet, consumer, next_tail }, TxToken { producer, addresses: &self.addresses }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<TxToken<'_>> {
        if !self.has_room() {
            return None;
        }
        let (_, producer) = self.memory.parts().split();
        Some(TxToken { producer, addresses: &self.addresses })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum.tcp = Checksum::None;
        capabilities.checksum.udp = Checksum::None;
        capabilities
    }
}
