//! The program's frames, between the card and its rings.
//!
//! What the switch does for a VM is left out: a packet is the program's, whoever it is for, and what it sends is sent.
//! Only who asks for an Ethernet address is answered as the switch answers, since the program has no ARP.

use crate::program::Memory;
use hal::{Ethernet, Frame, Pages};
use machine::Machine;
use virtual_isa::control::{self, Pending};
use virtual_isa::exception::Cause;
use virtual_isa::layout;
use virtual_isa::network::{MAX_FRAME_BYTES, Network};
use vm::gateways::Gateways;
use vm::rings::{Next, RingMemory};
use vm::route::{self, Source, Verdict, neighbour::MAX_ANSWER_BYTES};

/// Frames that are looked at before the program goes on: as many as the kernel takes at a time.
const BATCH: usize = 64;

/// Frames that are sent without waiting for more, as in the kernel: telling the card costs far more than a frame.
const FLUSH_AFTER: u32 = 16;

/// The way of frames, and the kernel's ends of the rings.
pub struct Wire {
    network: Network,
    vm: u32,
    gateways: Gateways,
    transmit: RingMemory<1>,
    receive: RingMemory<2>,
    transmit_tail: u32,
    receive_head: u32,
    /// A frame that did not fit.
    held: Option<Frame>,
    unflushed: u32,
}

impl Wire {
    /// Of the program with that memory. `None` if it has no rings.
    pub fn new(network: Network, vm: u32, memory: &Memory) -> Option<Self> {
        let control = memory.at(layout::CONTROL_PAGE)?;
        let transmit = RingMemory::transmit(control, memory.pages_at(layout::TRANSMIT_RING)?);
        let receive = RingMemory::receive(control, memory.pages_at(layout::RECEIVE_RING)?);
        Some(Self {
            network,
            vm,
            gateways: Gateways::new(),
            transmit,
            receive,
            transmit_tail: 0,
            receive_head: 0,
            held: None,
            unflushed: 0,
        })
    }

    /// Queues what is in the transmit ring on the card. What the card has no room for stays.
    pub fn send(&mut self, hw: &mut Machine) -> Result<(), Cause> {
        let head = self.transmit.guest_head(hw);
        let before = self.transmit_tail;
        while head != self.transmit_tail {
            match self.transmit.next(hw, head, self.transmit_tail)? {
                Next::Record { at, length, next_tail } => {
                    if (1..=MAX_FRAME_BYTES).contains(&length) && !self.send_one(hw, at, length) {
                        break;
                    }
                    self.transmit_tail = next_tail;
                }
                Next::Empty => break,
                Next::Malformed { next_tail } => self.transmit_tail = next_tail,
            }
        }
        if self.transmit_tail != before {
            self.transmit.publish_tail(hw, self.transmit_tail);
            set_pending(hw, &self.transmit, Pending::TRANSMIT);
        }
        if self.unflushed >= FLUSH_AFTER {
            self.flush(hw);
        }
        Ok(())
    }

    /// Whether the card has room for a frame, which it then has.
    fn send_one(&mut self, hw: &mut Machine, at: usize, length: usize) -> bool {
        let Some(mut frame) = hw.take_frame() else { return false };
        frame.set_length(length);
        self.transmit.read(hw, at, frame.bytes_mut());
        // All are for the next hop, and that is whoever is at the other end of the wire.
        if let Some(destination) = frame.bytes_mut().first_chunk_mut() {
            *destination = self.network.host_mac;
        }
        match hw.transmit(frame) {
            Ok(()) => self.unflushed += 1,
            Err(frame) => {
                hw.give_frame(frame);
                return false;
            }
        }
        true
    }

    /// Sends what is queued.
    pub fn flush(&mut self, hw: &mut Machine) {
        if self.unflushed > 0 {
            hw.flush();
            self.unflushed = 0;
        }
    }

    /// Puts what has come into the receive ring, as far as it fits.
    pub fn take_in(&mut self, hw: &mut Machine) -> Result<(), Cause> {
        let mut any = false;
        for _ in 0..BATCH {
            let Some(frame) = self.held.take().or_else(|| hw.receive()) else { break };
            if is_ipv4(frame.bytes()) || !self.is_answered(hw, frame.bytes()) {
                let Some(head) = self.receive.push(hw, self.receive_head, frame.bytes())? else {
                    self.held = Some(frame);
                    break;
                };
                self.receive_head = head;
                any = true;
            }
            hw.give_frame(frame);
        }
        if any {
            set_pending(hw, &self.receive, Pending::RECEIVE);
        }
        Ok(())
    }

    /// Whether a frame is no packet of the program's. Who asks in it for the Ethernet address of the program, or of the
    /// next hop, is answered.
    fn is_answered(&mut self, hw: &mut Machine, request: &[u8]) -> bool {
        let (ipv4, mac) = match route::route(&self.network, &self.gateways, Source::Wire, request, request.len()) {
            Verdict::Asks { ipv4, vm, mac } if vm.is_none_or(|vm| vm == self.vm) => (ipv4, mac),
            verdict => return verdict != Verdict::ToVm(self.vm),
        };
        let Some(mut answer) = hw.take_frame() else { return true };
        answer.set_length(MAX_ANSWER_BYTES);
        let sent = match route::answer(request, ipv4, mac, answer.bytes_mut()) {
            Some(length) => {
                answer.set_length(length);
                hw.transmit(answer)
            }
            None => Err(answer),
        };
        match sent {
            Ok(()) => self.unflushed += 1,
            // Whoever asked asks again.
            Err(frame) => hw.give_frame(frame),
        }
        true
    }
}

/// Whether a frame is an IPv4 packet, which nobody looks at. All others may be for whoever keeps addresses.
fn is_ipv4(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x08, 0x00])
}

fn set_pending<const PAGES: usize>(hw: &mut Machine, ring: &RingMemory<PAGES>, bits: Pending) {
    hw.set_bits(ring.control, control::PENDING, bits.bits());
}
