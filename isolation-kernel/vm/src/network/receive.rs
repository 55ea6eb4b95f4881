//! The frames that wait for VMs.
//!
//! Whether a frame is dropped is decided before anything is done with it; what is queued is copied once, into the
//! receive ring of a VM that is dispatched.

use crate::core::{After, Core};
use crate::network::Out;
use crate::vm::{Sleeper, State, Stub, Vm};
use alloc::collections::VecDeque;
use hal::{Frame, Hardware};
use policy::packet_share::{self, Weight};
use virtual_isa::control::Pending;
use virtual_isa::gate::Counters;
use virtual_isa::limits::{MAX_RECEIVE_QUEUE_BYTES, MAX_RECEIVE_QUEUE_FRAMES};
use virtual_isa::network::Network;

/// The place where frames wait for a VM, wherever the VM is now.
struct Inbox<'a> {
    queue: &'a mut VecDeque<Frame>,
    queued_bytes: &'a mut u32,
    counters: &'a mut Counters,
    shares: u32,
    waker: Waker,
}

/// Who wakes a VM when a frame is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waker {
    Nobody,
    Resident,
    Parked,
}

impl<'a> Inbox<'a> {
    /// The inbox of a VM in memory, unless it has none: it has ended, or was never admitted.
    fn of_vm<H: Hardware>(vm: &'a mut Vm<H>) -> Option<Self> {
        if matches!(vm.state, State::Ended | State::Created | State::Waiting) {
            return None;
        }
        let is_awaited = vm.state == State::Idle && vm.enabled & Pending::RECEIVE.bits() != 0;
        Some(Self {
            queue: &mut vm.queue,
            queued_bytes: &mut vm.queued_bytes,
            counters: &mut vm.counters,
            shares: vm.shares,
            waker: if is_awaited { Waker::Resident } else { Waker::Nobody },
        })
    }

    fn of_stub(stub: &'a mut Stub) -> Option<Self> {
        let is_awaited = stub.enabled & Pending::RECEIVE.bits() != 0;
        (stub.state != Sleeper::Ended).then_some(Self {
            queue: &mut stub.queue,
            queued_bytes: &mut stub.queued_bytes,
            counters: &mut stub.counters,
            shares: stub.shares,
            waker: if is_awaited { Waker::Parked } else { Waker::Nobody },
        })
    }

    fn refusal(&self, length: usize, free: usize, weight: Weight) -> Option<Refusal> {
        let bytes = (*self.queued_bytes as usize).saturating_add(length);
        if bytes > MAX_RECEIVE_QUEUE_BYTES || self.queue.len() >= MAX_RECEIVE_QUEUE_FRAMES {
            Some(Refusal::QueueFull)
        } else if packet_share::may_queue(self.queue.len(), free, weight) {
            None
        } else {
            Some(Refusal::NoBuffer)
        }
    }
}

/// Why a frame cannot wait for a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no such VM, or it takes no frames.
    NoVm,
    /// As much waits for it as may.
    QueueFull,
    /// Buffers are short, and it has its share of them.
    NoBuffer,
}

/// Where a frame for a VM comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From a VM of this core, which learns it if there is nobody to take it.
    Vm,
    /// From outside of this core: the wire, or another core.
    Outside,
}

impl<H: Hardware> Core<'_, H> {
    fn inbox<'a>(vms: &'a mut crate::table::Vms<H>, out: &'a mut Out<'_, H>, of: u32) -> Option<Inbox<'a>> {
        if out.has(of) {
            return Inbox::of_vm(out.find(of)?);
        }
        if vms.get(of).is_some() {
            return Inbox::of_vm(vms.get_mut(of)?);
        }
        Inbox::of_stub(vms.stub_mut(of)?)
    }

    /// Whether a frame of that length may wait for a VM. If not it is counted as dropped: nothing more is to be done.
    ///
    /// # Errors
    /// Why it may not.
    pub(super) fn admit_frame(&mut self, out: &mut Out<'_, H>, to: u32, length: usize) -> Result<(), Refusal> {
        if self.whereabouts(to) != self.seat.core() {
            // The core that is its home decides.
            return Ok(());
        }
        let free = self.free_frames();
        let (total_shares, nr_vms) = (self.total_shares, self.vms.count());
        let Some(inbox) = Self::inbox(&mut self.vms, out, to) else { return Err(Refusal::NoVm) };
        let weight = Weight { shares: inbox.shares, total_shares, nr_vms };
        let Some(refusal) = inbox.refusal(length, free, weight) else { return Ok(()) };
        let (own, all) = match refusal {
            Refusal::QueueFull => (&mut inbox.counters.drops_queue_full, &mut self.wire.drops_queue_full),
            _ => (&mut inbox.counters.drops_no_buffer, &mut self.wire.drops_no_buffer),
        };
        *own = own.saturating_add(1);
        *all += 1;
        Err(refusal)
    }

    /// Queues a frame for a VM and wakes it if it waits for frames; or drops it, counted. A VM that is parked comes back
    /// for it.
    pub(crate) fn deliver(&mut self, out: &mut Out<'_, H>, to: u32, frame: Frame, origin: Origin) {
        match self.admit_frame(out, to, frame.bytes().len()) {
            Ok(()) => self.enqueue_frame(out, to, frame),
            Err(refusal) => {
                if refusal == Refusal::NoVm && origin == Origin::Outside {
                    self.wire.drops_unroutable += 1;
                    self.wire.frames_dropped += 1;
                }
                self.give_back(frame);
            }
        }
    }

    /// Queues a frame that was admitted.
    pub(super) fn enqueue_frame(&mut self, out: &mut Out<'_, H>, to: u32, mut frame: Frame) {
        let home = self.whereabouts(to);
        if home != self.seat.core() {
            return self.hand_over(home, to, frame);
        }
        if let Some(destination) = frame.bytes_mut().first_chunk_mut() {
            *destination = Network::mac_of(to);
        }
        let length = u32::try_from(frame.bytes().len()).unwrap_or(u32::MAX);
        let waker = match Self::inbox(&mut self.vms, out, to) {
            Some(inbox) => {
                *inbox.queued_bytes = inbox.queued_bytes.saturating_add(length);
                inbox.queue.push_back(frame);
                inbox.waker
            }
            None => return self.give_back(frame),
        };
        match waker {
            Waker::Nobody => {}
            // One that is out is looked at by whoever puts it back.
            Waker::Resident => self.wake(to),
            Waker::Parked => self.wake_parked(to),
        }
        self.note_arrival(to);
    }

    /// Copies queued frames into a VM's receive ring, as many as fit.
    ///
    /// # Errors
    /// With what becomes of the VM if its ring is corrupt, or there is no memory for it.
    #[inline]
    pub(crate) fn fill_receive_ring(&mut self, vm: &mut Vm<H>) -> Result<(), After> {
        if vm.queue.is_empty() { Ok(()) } else { self.fill_from_queue(vm) }
    }

    #[inline(never)]
    fn fill_from_queue(&mut self, vm: &mut Vm<H>) -> Result<(), After> {
        if let Some(memory) = &mut vm.memory
            && memory.fixed.receive.is_none()
        {
            vm.has_changed = true;
            if memory.fixed.need_receive(&mut self.hw).is_err() {
                return Err(After::Starve);
            }
        }
        let Some(ring) = vm.receive_ring() else { return Ok(()) };
        let mut any = false;
        while let Some(frame) = vm.queue.front() {
            let pushed = ring.push(&mut self.hw, vm.indices.receive_head, frame.bytes()).map_err(After::End)?;
            let Some(head) = pushed else { break };
            vm.indices.receive_head = head;
            vm.counters.frames_received += 1;
            any = true;
            if let Some(frame) = vm.queue.pop_front() {
                let length = u32::try_from(frame.bytes().len()).unwrap_or(u32::MAX);
                vm.queued_bytes = vm.queued_bytes.saturating_sub(length);
                self.give_back(frame);
            }
        }
        if any {
            vm.set_pending(&mut self.hw, Pending::RECEIVE);
        }
        Ok(())
    }
}
