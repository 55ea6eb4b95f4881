//! The VMs that send, and those that wait to.
//!
//! When nobody waits, a VM's frames go as soon as it says that they are there, out of its own time. When the card is
//! full, or others wait for it, frames stay in their VM's ring and the VM joins a circle that is served by deficit
//! round robin ([`policy::deficit`]). Frames for other VMs need no card: they do not wait for it unless they are
//! behind one that does. A VM that sends faster than its class may ([`policy::pace`]) is left alone until it may go on.

use crate::core::Core;
use crate::cores::FIRST;
use crate::network::Out;
use crate::network::lanes::Lanes;
use crate::network::receive::{Origin, Refusal};
use crate::rings::{Next, RingMemory};
use crate::route::{self, Reason, Source, Verdict};
use crate::vm::{State, Vm};
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use hal::{Frame, Hardware, Nanos};
use policy::deficit::{Circle, Credit};
use policy::pace::Pace;
use virtual_isa::control::{self, Pending};
use virtual_isa::exception::Cause;
use virtual_isa::gate::{ClassTerms, Event};
use virtual_isa::layout::TRANSMIT_RING_BYTES;
use virtual_isa::network::MAX_FRAME_BYTES;

/// Frames that a VM puts on the wire at a time though nobody waits: a quarter of what the card queues.
const WIRE_FRAMES: u32 = 64;

/// VMs that are visited at a time, and VMs whose rate allows more that are looked at.
const VISITS: usize = 64;

/// What a frame costs at least, however short: the shortest that Ethernet has.
const LEAST_BYTES: usize = 64;

/// How long a full card is left alone, if it does not say before that it has room.
const RETRY_NS: u64 = 250_000;

/// At most one event of a spoofed frame per VM in this time.
const SPOOF_EVENT_NS: u64 = 1_000_000_000;

/// What a VM's frames wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waits {
    /// Nothing: there are none, or the VM has not said so.
    #[default]
    Not,
    /// Its turn to use the wire.
    Turn,
    /// The time when its rate allows more.
    Rate(Nanos),
}

/// A VM's account with the network. A VM that is parked has none: it waits for nothing, and its buckets are full.
#[derive(Debug, Default)]
pub struct Transmit {
    pub waits: Waits,
    credit: Credit,
    /// How fast it may send, if there is a bound.
    pace: Option<Box<Pace>>,
    last_spoof_event: Option<Nanos>,
}

impl Transmit {
    /// That of a VM that has not sent anything lately.
    pub fn new(terms: &ClassTerms, now: Nanos) -> Self {
        let longest = u32::try_from(MAX_FRAME_BYTES).unwrap_or(u32::MAX);
        let pace = Pace::new(terms.frames_per_s, terms.bytes_per_s, longest, now);
        Self { pace: pace.map(Box::new), ..Self::default() }
    }

    /// Whether a new one would be the same.
    pub fn is_at_rest(&self, now: Nanos) -> bool {
        self.waits == Waits::Not && self.pace.as_ref().is_none_or(|pace| pace.is_full(now))
    }
}

/// The VMs whose frames wait.
#[derive(Debug)]
pub struct Senders {
    /// For the wire.
    pub circle: Circle,
    /// For time to pass.
    paced: BTreeSet<(Nanos, u32)>,
    /// When those that wait for the wire are served next, at the latest.
    retry_at: Nanos,
    /// Frames of other cores.
    pub lanes: Lanes,
}

impl Senders {
    /// Nobody, on a machine with so many cores.
    pub fn new(nr_cores: u32) -> Self {
        let lanes = Lanes::new(nr_cores);
        Self { circle: Circle::new(), paced: BTreeSet::new(), retry_at: Nanos::NEVER, lanes }
    }

    /// Whether anybody is to be served, now or later.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        self.wants_wire() || !self.paced.is_empty()
    }

    /// Whether anybody is to be served as soon as the wire has room.
    #[inline]
    fn wants_wire(&self) -> bool {
        !self.circle.is_empty() || !self.lanes.is_empty()
    }

    /// When somebody is to be served at the latest.
    pub fn alarm(&self) -> Nanos {
        let paced = self.paced.first().map_or(Nanos::NEVER, |&(at, _)| at);
        if self.wants_wire() { paced.min(self.retry_at) } else { paced }
    }

    fn expired(&mut self, now: Nanos) -> Option<u32> {
        let &(at, _) = self.paced.first()?;
        if at > now {
            return None;
        }
        self.paced.pop_first().map(|(_, vm)| vm)
    }
}

/// Why a VM's frames are sent, and so how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    /// It asked for it, and may put so many frames on the wire.
    Asked(u32),
    /// It is its turn in the circle.
    Visit,
}

/// Why sending stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The ring is empty.
    Empty,
    /// Others come first.
    Others,
    /// The card is full, or there is no buffer.
    Full,
    /// Its rate allows no more until then.
    Rate(Nanos),
}

impl<H: Hardware> Core<'_, H> {
    /// Sends what is in a VM's transmit ring, as far as it may go now; the rest waits there and follows by itself.
    /// `running` is the VM that is out of the table besides, if any.
    ///
    /// # Errors
    /// With the cause for which the VM ends, if its ring is corrupt.
    #[inline]
    pub(crate) fn drain_transmit_ring(&mut self, vm: &mut Vm<H>, running: Option<&mut Vm<H>>) -> Result<(), Cause> {
        let Some(memory) = &vm.memory else { return Ok(()) };
        let head = self.hw.load(memory.fixed.control.mpn(), control::TRANSMIT_HEAD);
        if head == vm.indices.transmit_tail { Ok(()) } else { self.drain_what_is_there(vm, running) }
    }

    #[inline(never)]
    fn drain_what_is_there(&mut self, vm: &mut Vm<H>, running: Option<&mut Vm<H>>) -> Result<(), Cause> {
        if matches!(vm.transmit.waits, Waits::Rate(_)) {
            return Ok(());
        }
        let is_alone = self.senders.lanes.is_empty()
            && match self.senders.circle.len() {
                0 => true,
                1 => vm.transmit.waits == Waits::Turn,
                _ => false,
            };
        let stop = self.send_from_ring(vm, running, Service::Asked(if is_alone { WIRE_FRAMES } else { 0 }))?;
        match stop {
            Stop::Empty => {}
            Stop::Rate(at) => self.wait_for_rate(vm, at),
            Stop::Others | Stop::Full => self.wait_for_turn(vm, stop),
        }
        Ok(())
    }

    fn wait_for_turn(&mut self, vm: &mut Vm<H>, stop: Stop) {
        if vm.transmit.waits == Waits::Not {
            vm.transmit.waits = Waits::Turn;
            vm.counters.waits_wire = vm.counters.waits_wire.saturating_add(1);
        }
        let pause = if stop == Stop::Full { RETRY_NS } else { 0 };
        if self.senders.circle.is_empty() {
            self.senders.retry_at = self.hw.now().after(pause);
        }
        self.senders.circle.join(vm.number);
    }

    /// A VM that still has a place in the circle is found at its turn to have no use for it.
    fn wait_for_rate(&mut self, vm: &mut Vm<H>, at: Nanos) {
        vm.transmit.waits = Waits::Rate(at);
        vm.transmit.credit = Credit::default();
        vm.counters.waits_rate = vm.counters.waits_rate.saturating_add(1);
        self.senders.paced.insert((at, vm.number));
    }

    /// Forgets that a VM's frames wait: it has ended.
    pub(crate) fn stop_sending(&mut self, vm: &mut Vm<H>) {
        if let Waits::Rate(at) = vm.transmit.waits {
            self.senders.paced.remove(&(at, vm.number));
        }
        vm.transmit = Transmit::default();
    }

    /// Sends frames of one service, and tells the VM how far that got.
    fn send_from_ring(&mut self, vm: &mut Vm<H>, running: Option<&mut Vm<H>>, service: Service) -> Result<Stop, Cause> {
        let Some(ring) = vm.transmit_ring(self.zero.mpn()) else { return Ok(Stop::Empty) };
        let head = ring.guest_head(&self.hw);
        let before = vm.indices.transmit_tail;
        if head == before {
            return Ok(Stop::Empty);
        }
        let result = self.send_up_to(vm, running, &ring, head, service);
        if vm.indices.transmit_tail != before {
            ring.publish_tail(&mut self.hw, vm.indices.transmit_tail);
            vm.set_pending(&mut self.hw, Pending::TRANSMIT);
        }
        result
    }

    fn send_up_to(
        &mut self,
        vm: &mut Vm<H>,
        mut running: Option<&mut Vm<H>>,
        ring: &RingMemory<1>,
        head: u32,
        mut service: Service,
    ) -> Result<Stop, Cause> {
        loop {
            let (record, next_tail) = match ring.next(&self.hw, head, vm.indices.transmit_tail)? {
                Next::Empty => return Ok(Stop::Empty),
                Next::Record { at, length, next_tail } => ((at, length), next_tail),
                Next::Malformed { next_tail } => ((0, 0), next_tail),
            };
            // What cannot be a frame costs like one, or dropping it would be for nothing.
            let bytes = u32::try_from(record.1.clamp(LEAST_BYTES, MAX_FRAME_BYTES)).unwrap_or(u32::MAX);
            if service == Service::Visit && !vm.transmit.credit.covers(bytes) {
                return Ok(Stop::Others);
            }
            if let Some(pace) = &mut vm.transmit.pace
                && let Err(at) = pace.check(bytes, self.hw.now())
            {
                return Ok(Stop::Rate(at));
            }
            if let Err(stop) = self.send_one(vm, running.as_deref_mut(), ring, record, &mut service) {
                return Ok(stop);
            }
            if service == Service::Visit {
                vm.transmit.credit.pay(bytes);
                self.senders.lanes.own_bytes = self.senders.lanes.own_bytes.saturating_add(bytes);
            }
            if let Some(pace) = &mut vm.transmit.pace {
                pace.spend(bytes, self.hw.now());
            }
            vm.indices.transmit_tail = next_tail;
        }
    }

    /// Sends one frame of a VM on its way, or drops it. What becomes of it is decided by its first bytes, before a
    /// buffer is taken for the rest.
    ///
    /// # Errors
    /// Why it has to wait.
    fn send_one(
        &mut self,
        vm: &mut Vm<H>,
        running: Option<&mut Vm<H>>,
        ring: &RingMemory<1>,
        record: (usize, usize),
        service: &mut Service,
    ) -> Result<(), Stop> {
        let (at, length) = record;
        let mut bytes = [0; route::HEAD_BYTES];
        let head = bytes.get_mut(..length.min(route::HEAD_BYTES)).unwrap_or_default();
        ring.read(&self.hw, at, head);
        match route::route(&self.network, &self.gateways, Source::Vm(vm.number), head, length) {
            Verdict::ToWire => {
                if let Service::Asked(left) = service {
                    *left = left.checked_sub(1).ok_or(Stop::Others)?;
                }
                if self.is_wire_full(length) {
                    return Err(Stop::Full);
                }
                let mut frame = self.copy_frame(ring, record, head).ok_or(Stop::Full)?;
                if let Some(destination) = frame.bytes_mut().first_chunk_mut() {
                    *destination = self.network.host_mac;
                }
                let is_here = self.seat.core() == FIRST;
                let sent = if is_here { self.put_on_wire(frame) } else { self.pass_to_wire(vm, frame) };
                if let Err(frame) = sent {
                    self.give_back(frame);
                    return Err(Stop::Full);
                }
                self.wire.last_sender = is_here.then_some(vm.number);
                vm.counters.frames_sent += 1;
            }
            Verdict::ToVm(to) => {
                let mut out = Out::new(running, Some(&mut *vm));
                match self.admit_frame(&mut out, to, length) {
                    Ok(()) => {
                        let frame = self.copy_frame(ring, record, head).ok_or(Stop::Full)?;
                        self.enqueue_frame(&mut out, to, frame);
                        vm.counters.frames_sent += 1;
                    }
                    Err(Refusal::NoVm) => count(&mut vm.counters.drops_unroutable),
                    Err(Refusal::QueueFull | Refusal::NoBuffer) => vm.counters.frames_sent += 1,
                }
            }
            Verdict::Asks { ipv4, vm: target, mac } => {
                let number = vm.number;
                let mut out = Out::new(running, Some(&mut *vm));
                if target.is_some_and(|target| !self.answers_for(&out, target)) {
                    count(&mut vm.counters.drops_unroutable);
                    return Ok(());
                }
                match self.make_answer(head, ipv4, mac) {
                    Some(answer) => self.deliver(&mut out, number, answer, Origin::Vm),
                    None => self.wire.answers_dropped += 1,
                }
                vm.counters.frames_sent += 1;
            }
            Verdict::Drop(Reason::BadLength) => count(&mut vm.counters.drops_bad_length),
            Verdict::Drop(Reason::Unroutable) => count(&mut vm.counters.drops_unroutable),
            Verdict::Drop(Reason::Spoofed) => self.note_spoof(vm),
        }
        Ok(())
    }

    /// Copies a frame out of a ring, but for its head, which was read and checked. `None` if there is no buffer.
    fn copy_frame(&mut self, ring: &RingMemory<1>, (at, length): (usize, usize), head: &[u8]) -> Option<Frame> {
        let mut frame = self.hw.take_frame()?;
        frame.set_length(length.min(MAX_FRAME_BYTES));
        if let Some((first, rest)) = frame.bytes_mut().split_at_mut_checked(head.len()) {
            first.copy_from_slice(head);
            ring.read(&self.hw, at.saturating_add(head.len()), rest);
        }
        Some(frame)
    }

    fn note_spoof(&mut self, from: &mut Vm<H>) {
        count(&mut from.counters.drops_spoofed);
        let now = self.hw.now();
        if from.transmit.last_spoof_event.is_none_or(|last| now.since(last) >= SPOOF_EVENT_NS) {
            from.transmit.last_spoof_event = Some(now);
            self.post_event(Event::Spoofed { vm: from.number });
        }
    }

    /// Serves VMs whose frames wait and may go by now. Returns whether there is more to do at once. `running` is the VM
    /// that is out of the table.
    ///
    /// # Errors
    /// With the cause for which the running VM ends, if its ring is corrupt. Others are ended here.
    pub(crate) fn serve_senders(&mut self, mut running: Option<&mut Vm<H>>) -> Result<bool, Cause> {
        if !self.senders.is_waiting() {
            return Ok(false);
        }
        let now = self.hw.now();
        if !self.senders.lanes.is_empty() {
            // What was done up to here is not what sending their frames takes.
            self.note_wire_work();
        }
        for _ in 0..VISITS {
            let Some(number) = self.senders.expired(now) else { break };
            self.serve(number, running.as_deref_mut(), Self::serve_again)?;
        }
        for _ in 0..VISITS {
            let stop = match self.next_core() {
                None => return Ok(self.senders.alarm() <= now),
                Some(core) if core != self.seat.core() => Some(self.serve_lane(core)),
                Some(_) => match self.senders.circle.front() {
                    None => None,
                    Some(number) => self.serve(number, running.as_deref_mut(), Self::visit)?,
                },
            };
            if stop == Some(Stop::Full) {
                self.senders.retry_at = now.after(RETRY_NS);
                return Ok(false);
            }
        }
        self.senders.retry_at = now;
        Ok(true)
    }

    /// The core whose frames go next: this one, if it is its VMs' turn.
    fn next_core(&mut self) -> Option<u32> {
        let Senders { circle, lanes, .. } = &mut self.senders;
        let own = (!circle.is_empty()).then(|| circle.shares());
        let core = self.seat.core();
        if core != FIRST || self.seat.is_alone() { own.map(|_| core) } else { lanes.next(own) }
    }

    /// Has a VM served, wherever it is, and wakes it if that is what it waits for.
    fn serve(
        &mut self,
        number: u32,
        mut running: Option<&mut Vm<H>>,
        work: Work<Self, H>,
    ) -> Result<Option<Stop>, Cause> {
        if let Some(vm) = running.as_deref_mut().filter(|vm| vm.number == number) {
            return work(self, vm, None).map(Some);
        }
        let Some(mut vm) = self.vms.take(number) else {
            if self.senders.circle.front() == Some(number) {
                self.senders.circle.remove_front();
            }
            return Ok(None);
        };
        let before = vm.indices.transmit_tail;
        let result = work(self, &mut vm, running);
        self.bill_vm(&mut vm);
        match result {
            Err(cause) => self.end(&mut vm, cause),
            Ok(_) if vm.state == State::Idle => {
                let is_enabled = |bit: Pending| vm.enabled & bit.bits() != 0;
                // Frames that it sent to itself, or room in its ring: so much that waking it for it pays.
                let receives = is_enabled(Pending::RECEIVE) && !vm.queue.is_empty();
                let left = vm.transmit_ring(self.zero.mpn()).map_or(0, |ring| ring.guest_head(&self.hw));
                let left = left.wrapping_sub(vm.indices.transmit_tail);
                let has_room = before != vm.indices.transmit_tail && left <= TRANSMIT_RING_BYTES / 2;
                if receives || (has_room && is_enabled(Pending::TRANSMIT)) {
                    self.make_runnable(&mut vm);
                }
            }
            Ok(_) => {}
        }
        self.vms.put(vm);
        Ok(result.ok())
    }

    /// A VM that had sent too much may go on.
    fn serve_again(&mut self, vm: &mut Vm<H>, running: Option<&mut Vm<H>>) -> Result<Stop, Cause> {
        vm.transmit.waits = Waits::Not;
        self.drain_transmit_ring(vm, running).map(|()| Stop::Others)
    }

    /// The visit of the first in the circle.
    fn visit(&mut self, vm: &mut Vm<H>, running: Option<&mut Vm<H>>) -> Result<Stop, Cause> {
        if vm.transmit.waits != Waits::Turn {
            self.senders.circle.remove_front();
            return Ok(Stop::Empty);
        }
        self.senders.circle.visit(&mut vm.transmit.credit, vm.shares);
        let before = vm.indices.transmit_tail;
        let result = self.send_from_ring(vm, running, Service::Visit);
        match result {
            Ok(Stop::Full) => {}
            Ok(Stop::Others) => self.senders.circle.rotate(),
            // It may send more by its next turn.
            Ok(Stop::Empty) if vm.indices.transmit_tail != before => self.senders.circle.rotate(),
            Ok(Stop::Empty) => {
                vm.transmit.waits = Waits::Not;
                vm.transmit.credit = Credit::default();
                self.senders.circle.remove_front();
            }
            Ok(Stop::Rate(at)) => {
                self.senders.circle.remove_front();
                self.wait_for_rate(vm, at);
            }
            Err(_) => self.senders.circle.remove_front(),
        }
        result
    }
}

/// What is done for a VM that waits; the other VM is the one that runs.
type Work<C, H> = fn(&mut C, &mut Vm<H>, Option<&mut Vm<H>>) -> Result<Stop, Cause>;

/// Counts in a counter that stays at its end.
fn count(counter: &mut u32) {
    *counter = counter.saturating_add(1);
}
