//! Moving frames: wire to VM, VM to wire, VM to VM.
//!
//! What arrives waits in a bounded queue of kernel buffers and is copied into the VM's receive ring when the VM
//! is dispatched: a flood costs its target its queue, and nobody a copy.

use crate::core::{After, Core};
use crate::rings::Next;
use crate::route::{self, Reason, Source, Verdict};
use crate::vm::{Sleeper, State, Vm};
use hal::{Frame, Hardware};
use policy::packet_share;
use virtual_isa::control::Pending;
use virtual_isa::exception::Cause;
use virtual_isa::gate::Event;
use virtual_isa::limits::{MAX_RECEIVE_QUEUE_BYTES, MAX_RECEIVE_QUEUE_FRAMES};
use virtual_isa::network::{MAX_FRAME_BYTES, Network};

/// Frames taken from the wire in one turn of the loop.
const WIRE_BATCH: usize = 64;

/// At most one event of a spoofed frame per VM in this time.
const SPOOF_EVENT_NS: u64 = 1_000_000_000;

/// Counters of the wire.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire {
    pub frames_in: u64,
    pub frames_out: u64,
    pub frames_dropped: u64,
    /// Frames that were queued for the wire and not flushed.
    pub unflushed: u32,
}

/// How far a transmit ring was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drained {
    All,
    /// The wire is full, or there is no buffer: the rest waits in the ring.
    Blocked,
}

impl<H: Hardware> Core<'_, H> {
    /// Takes a batch of frames from the wire. `running` is the VM that is taken out of the table now.
    pub(crate) fn poll_wire(&mut self, mut running: Option<&mut Vm<H>>) {
        for _ in 0..WIRE_BATCH {
            let Some(frame) = self.hw.receive() else { break };
            self.wire.frames_in += 1;
            match route::route(&self.network, Source::Wire, frame.bytes()) {
                Verdict::ToVm(to) => {
                    self.deliver(running.as_deref_mut(), to, frame);
                    self.bill_either(running.as_deref_mut(), to);
                }
                Verdict::Asks { ipv4, vm, mac } if vm.is_none_or(|vm| self.answers_for(running.as_deref(), vm)) => {
                    self.answer_on_wire(frame, ipv4, mac);
                    self.note_wire_work();
                }
                Verdict::ToWire | Verdict::Asks { .. } | Verdict::Drop(_) => {
                    self.wire.frames_dropped += 1;
                    self.give_back(frame);
                    self.note_wire_work();
                }
            }
        }
    }

    fn answers_for(&self, running: Option<&Vm<H>>, vm: u32) -> bool {
        running.is_some_and(|running| running.number == vm)
            || self.vms.get(vm).is_some_and(|vm| vm.state != State::Ended)
            || self.vms.stub(vm).is_some_and(|stub| stub.state != Sleeper::Ended)
            || self.seat.is_elsewhere(vm) == Some(false)
    }

    fn answer_on_wire(&mut self, request: Frame, ipv4: [u8; 4], mac: [u8; 6]) {
        if let Some(answer) = self.make_answer(request.bytes(), ipv4, mac)
            && let Err(frame) = self.put_on_wire(answer)
        {
            self.wire.frames_dropped += 1;
            self.give_back(frame);
        }
        self.give_back(request);
    }

    fn make_answer(&mut self, request: &[u8], ipv4: [u8; 4], mac: [u8; 6]) -> Option<Frame> {
        let mut answer = self.hw.take_frame()?;
        answer.set_length(route::ARP_FRAME_BYTES);
        if route::answer_arp(request, ipv4, mac, answer.bytes_mut()).is_none() {
            self.give_back(answer);
            return None;
        }
        Some(answer)
    }

    /// Queues a frame for a VM and wakes it if it waits for frames.
    pub(crate) fn deliver(&mut self, running: Option<&mut Vm<H>>, to: u32, mut frame: Frame) {
        let home = self.whereabouts(to);
        if home != self.seat.core() {
            return self.hand_over(home, to, frame);
        }
        if let Some(destination) = frame.bytes_mut().first_chunk_mut() {
            *destination = Network::mac_of(to);
        }
        let vm = match running {
            Some(running) if running.number == to => Some(running),
            _ => self.vms.get_mut(to),
        };
        let Some(vm) = vm.filter(|vm| !matches!(vm.state, State::Ended | State::Created | State::Waiting)) else {
            if self.vms.stub(to).is_some_and(|stub| stub.state != Sleeper::Ended) {
                return self.deliver_to_parked(to, frame);
            }
            self.wire.frames_dropped += 1;
            self.give_back(frame);
            return;
        };
        let queued_bytes = vm.queued_bytes.saturating_add(frame.bytes().len());
        let has_share = packet_share::may_queue(vm.queue.len(), self.hw.free_frames());
        if !has_share || queued_bytes > MAX_RECEIVE_QUEUE_BYTES || vm.queue.len() >= MAX_RECEIVE_QUEUE_FRAMES {
            vm.counters.drops_queue_full += 1;
            self.give_back(frame);
            return;
        }
        vm.queued_bytes = queued_bytes;
        vm.queue.push_back(frame);
        if vm.state == State::Idle && vm.enabled & Pending::RECEIVE.bits() != 0 {
            self.wake(to);
        }
    }

    /// Queues a frame for a VM that is parked, and wakes it if it waits for frames. It is delivered when the VM runs.
    fn deliver_to_parked(&mut self, to: u32, frame: Frame) {
        let free = self.hw.free_frames();
        let Some(stub) = self.vms.stub_mut(to) else { return self.give_back(frame) };
        let queued_bytes = stub.queued_bytes.saturating_add(frame.bytes().len());
        let has_share = packet_share::may_queue(stub.queue.len(), free);
        if !has_share || queued_bytes > MAX_RECEIVE_QUEUE_BYTES || stub.queue.len() >= MAX_RECEIVE_QUEUE_FRAMES {
            stub.counters.drops_queue_full += 1;
            self.give_back(frame);
            return;
        }
        stub.queued_bytes = queued_bytes;
        stub.queue.push_back(frame);
        if stub.enabled & Pending::RECEIVE.bits() != 0 {
            self.wake_parked(to);
        }
    }

    /// Copies queued frames into a VM's receive ring, as many as fit.
    ///
    /// # Errors
    /// With what becomes of the VM if its ring is corrupt, or there is no memory for it.
    pub(crate) fn fill_receive_ring(&mut self, vm: &mut Vm<H>) -> Result<(), After> {
        if vm.queue.is_empty() {
            return Ok(());
        }
        if let Some(memory) = &mut vm.memory
            && memory.fixed.need_receive(&mut self.hw).is_err()
        {
            return Err(After::Starve);
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
                vm.queued_bytes = vm.queued_bytes.saturating_sub(frame.bytes().len());
                self.give_back(frame);
            }
        }
        if any {
            vm.set_pending(&mut self.hw, Pending::RECEIVE);
        }
        Ok(())
    }

    /// Sends what is in a VM's transmit ring.
    ///
    /// # Errors
    /// With the cause for which the VM ends, if its ring is corrupt.
    pub(crate) fn drain_transmit_ring(&mut self, vm: &mut Vm<H>) -> Result<(), Cause> {
        let Some(ring) = vm.transmit_ring(self.zero.mpn()) else { return Ok(()) };
        let head = ring.guest_head(&self.hw);
        let before = vm.indices.transmit_tail;
        if head == before {
            return Ok(());
        }
        let result = self.drain_up_to(vm, head);
        if vm.indices.transmit_tail != before {
            ring.publish_tail(&mut self.hw, vm.indices.transmit_tail);
            vm.set_pending(&mut self.hw, Pending::TRANSMIT);
        }
        if result? == Drained::Blocked && !vm.is_blocked {
            vm.is_blocked = true;
            self.blocked.push_back(vm.number);
        }
        Ok(())
    }

    fn drain_up_to(&mut self, vm: &mut Vm<H>, head: u32) -> Result<Drained, Cause> {
        let Some(ring) = vm.transmit_ring(self.zero.mpn()) else { return Ok(Drained::All) };
        loop {
            let (at, length, next_tail) = match ring.next(&self.hw, head, vm.indices.transmit_tail)? {
                Next::Empty => return Ok(Drained::All),
                Next::Record { at, length, next_tail } if length <= MAX_FRAME_BYTES => (at, length, next_tail),
                Next::Record { next_tail, .. } | Next::Malformed { next_tail } => {
                    vm.counters.drops_bad_length += 1;
                    vm.indices.transmit_tail = next_tail;
                    continue;
                }
            };
            let Some(mut frame) = self.hw.take_frame() else { return Ok(Drained::Blocked) };
            frame.set_length(length);
            ring.read(&self.hw, at, frame.bytes_mut());
            if let Err(frame) = self.forward(vm, frame) {
                self.give_back(frame);
                return Ok(Drained::Blocked);
            }
            vm.indices.transmit_tail = next_tail;
        }
    }

    /// Sends one frame of a VM on its way, or drops it. It comes back if the wire is full.
    fn forward(&mut self, from: &mut Vm<H>, mut frame: Frame) -> Result<(), Frame> {
        match route::route(&self.network, Source::Vm(from.number), frame.bytes()) {
            Verdict::ToWire => {
                if let Some(destination) = frame.bytes_mut().first_chunk_mut() {
                    *destination = self.network.host_mac;
                }
                self.put_on_wire(frame)?;
                from.counters.frames_sent += 1;
            }
            Verdict::ToVm(to) => {
                from.counters.frames_sent += 1;
                self.deliver(Some(from), to, frame);
            }
            Verdict::Asks { ipv4, vm, mac } if vm.is_none_or(|vm| self.answers_for(Some(from), vm)) => {
                from.counters.frames_sent += 1;
                if let Some(answer) = self.make_answer(frame.bytes(), ipv4, mac) {
                    let number = from.number;
                    self.deliver(Some(from), number, answer);
                }
                self.give_back(frame);
            }
            Verdict::Asks { .. } => {
                from.counters.drops_unroutable += 1;
                self.give_back(frame);
            }
            Verdict::Drop(reason) => {
                match reason {
                    Reason::BadLength => from.counters.drops_bad_length += 1,
                    Reason::Unroutable => from.counters.drops_unroutable += 1,
                    Reason::Spoofed => self.note_spoof(from),
                }
                self.give_back(frame);
            }
        }
        Ok(())
    }

    fn note_spoof(&mut self, from: &mut Vm<H>) {
        from.counters.drops_spoofed += 1;
        let now = self.hw.now();
        if from.last_spoof_event.is_none_or(|last| now.since(last) >= SPOOF_EVENT_NS) {
            from.last_spoof_event = Some(now);
            self.post_event(Event::Spoofed { vm: from.number });
        }
    }

    /// Gives VMs whose frames wait for the wire another chance, in order.
    pub(crate) fn retry_blocked(&mut self) {
        for _ in 0..self.blocked.len() {
            let Some(number) = self.blocked.pop_front() else { return };
            let Some(mut vm) = self.vms.take(number) else { continue };
            vm.is_blocked = false;
            let result = self.drain_transmit_ring(&mut vm);
            self.bill_vm(&mut vm);
            let is_blocked = vm.is_blocked;
            if let Err(cause) = result {
                self.end(&mut vm, cause);
            } else if vm.state == State::Idle {
                // Frames it sent to itself, or room in its ring.
                let receives = !vm.queue.is_empty() && vm.enabled & Pending::RECEIVE.bits() != 0;
                let transmits = !is_blocked && vm.enabled & Pending::TRANSMIT.bits() != 0;
                if receives || transmits {
                    self.make_runnable(&mut vm);
                }
            }
            self.vms.put(vm);
            if is_blocked {
                return;
            }
        }
    }
}
