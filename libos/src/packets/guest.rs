//! Packets in a VM: straight from the receive ring, and into the transmit ring.

use super::{MAX_PACKET_BYTES, ethertype};
use crate::guest::runtime::{self, Driver};
use crate::guest::{Single, control, instruction, receive_ring, registers, transmit_ring};
use crate::rings::{Consumer, Producer};
use core::future::poll_fn;
use core::task::{Poll, Waker};
use virtual_isa::control::{Devices, Pending, RECEIVE_HEAD, RECEIVE_TAIL, TRANSMIT_HEAD, TRANSMIT_TAIL};
use virtual_isa::network::ETHERNET_HEADER_BYTES;

/// The task that waits, for either ring: there is one, for its methods borrow all of [`Packets`].
static WAITING: Single<Option<Waker>> = Single::new(None);

/// Whether somebody has the packets.
static IS_OPEN: Single<bool> = Single::new(false);

/// All packets of this VM.
#[derive(Debug)]
pub struct Packets(());

fn poll(pending: Pending, _now_ns: u64) {
    if !pending.intersects(Pending::RECEIVE | Pending::TRANSMIT) {
        return;
    }
    // The interrupt comes with every frame that is taken: it is wanted only by who waits for room.
    runtime::disable(Pending::TRANSMIT);
    if let Some(waker) = WAITING.with(Option::take) {
        waker.wake();
    }
}

impl Packets {
    /// Takes the VM's packets. `None` if somebody has them already, and on the host.
    #[must_use]
    pub fn open() -> Option<Self> {
        let is_first = IS_OPEN.with(|is_open| !core::mem::replace(is_open, true));
        is_first.then(|| {
            runtime::add_driver(Driver { interests: Pending::RECEIVE, poll, poll_at: |_| None });
            Self(())
        })
    }

    /// Waits for a packet, and copies it. Returns its length; what does not fit is cut off.
    pub async fn receive(&mut self, packet: &mut [u8]) -> usize {
        poll_fn(|context| match take(packet) {
            Some(length) => Poll::Ready(length),
            None => {
                WAITING.with(|waiting| *waiting = Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }

    /// Sends a packet, when there is room. What is not of the Internet Protocol, or longer than a packet can be, is dropped.
    pub async fn send(&mut self, packet: &[u8]) {
        let Some(kind) = packet.first().and_then(|&first| ethertype(first)) else { return };
        if packet.len() > MAX_PACKET_BYTES {
            return;
        }
        poll_fn(|context| {
            if put(packet, kind) {
                return Poll::Ready(());
            }
            instruction::notify(Devices::TRANSMIT);
            if put(packet, kind) {
                return Poll::Ready(());
            }
            runtime::enable(Pending::TRANSMIT);
            WAITING.with(|waiting| *waiting = Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// Copies the next packet out of the receive ring.
fn take(packet: &mut [u8]) -> Option<usize> {
    // SAFETY: nobody else takes frames, by `IS_OPEN` and by what is asked of programs: no sockets beside this. The slice
    // is gone before a trap.
    let bytes = unsafe { receive_ring() };
    let ring = Consumer { control: control(), head_at: RECEIVE_HEAD, tail_at: RECEIVE_TAIL, bytes };
    loop {
        let (frame, next_tail) = ring.peek()?;
        let found = frame.split_at_checked(ETHERNET_HEADER_BYTES).and_then(|(header, content)| {
            let kind = content.first().and_then(|&first| ethertype(first))?;
            header.ends_with(&kind).then_some(content)
        });
        let length = found.map(|content| {
            let length = content.len().min(packet.len());
            packet[..length].copy_from_slice(&content[..length]);
            length
        });
        ring.take(next_tail);
        if length.is_some() {
            return length;
        }
    }
}

/// Writes a packet into the transmit ring, if there is room.
fn put(packet: &[u8], kind: [u8; 2]) -> bool {
    // SAFETY: nobody else sends frames, as for `take`; the slice is gone before a trap.
    let bytes = unsafe { transmit_ring() };
    let mut ring = Producer { control: control(), head_at: TRANSMIT_HEAD, tail_at: TRANSMIT_TAIL, bytes };
    let page = registers::registers();
    let write = |frame: &mut [u8]| {
        let (header, content) = frame.split_at_mut(ETHERNET_HEADER_BYTES);
        header[..6].copy_from_slice(&page.gateway_mac);
        header[6..12].copy_from_slice(&page.mac);
        header[12..].copy_from_slice(&kind);
        content.copy_from_slice(packet);
    };
    ring.write(ETHERNET_HEADER_BYTES + packet.len(), write).is_ok()
}
