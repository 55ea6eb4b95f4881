//! Moving frames: wire to VM, VM to wire, VM to VM. Here is the wire's side; `receive` has the queues of frames that
//! wait for VMs, `transmit` the VMs that wait to send, `lanes` what other cores have for the wire.
//!
//! What arrives waits in a bounded queue of kernel buffers and is copied into the VM's receive ring when the VM
//! is dispatched: a flood costs its target its queue, and nobody a copy.

pub mod lanes;
pub mod receive;
pub mod transmit;

use crate::core::Core;
use crate::cores::FIRST;
use crate::network::receive::Origin;
use crate::route::{self, Reason, Source, Verdict};
use crate::vm::{Sleeper, State, Vm};
use hal::{Frame, Hardware, Nanos};
use policy::bucket::{Bucket, Rate};
use virtual_isa::network::MAX_FRAME_BYTES;

/// Frames taken from the wire at a time.
const WIRE_BATCH: usize = 64;

/// While VMs want to run, a wire with more frames than are taken at a time is left alone for so long: under a flood,
/// what frames cost is bounded by a batch in this time, and the rest is dropped by the card for nothing (Mogul and
/// Ramakrishnan, "Eliminating Receive Livelock in an Interrupt-driven Kernel", 1996). The card raises no interrupt
/// before it was looked at.
pub const POLL_GAP_NS: u64 = 100_000;

/// Frames queued for the wire that are sent without waiting for more.
const FLUSH_AFTER: u32 = 16;

/// How long a frame waits for more while VMs want to run: telling the card costs far more than a frame.
const FLUSH_GAP_NS: u64 = 250_000;

/// A wire whose rate is bounded carries what that is in a second divided by this at a time: 10 ms of it.
const WIRE_BURST_PART: u32 = 100;

/// Counters of the wire.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire {
    pub frames_in: u64,
    pub frames_out: u64,
    /// Frames that came in and were for nobody: all of the next three.
    pub frames_dropped: u64,
    pub drops_bad_length: u64,
    pub drops_spoofed: u64,
    pub drops_unroutable: u64,
    /// Frames for VMs, from anywhere, that found the VM's queue full.
    pub drops_queue_full: u64,
    /// Frames for VMs, from anywhere, that found too few buffers free.
    pub drops_no_buffer: u64,
    /// Answers of the switch itself that found the card full, or no buffer.
    pub answers_dropped: u64,
    /// Frames that were queued for the wire and not flushed.
    pub unflushed: u32,
    /// When they are, at the latest.
    pub flush_at: Nanos,
    /// When the wire is looked at next, though VMs want to run.
    pub next_poll: Nanos,
    /// Whether a look at it was put off until then.
    pub is_poll_due: bool,
    /// The VM of this core that sent last of those.
    pub last_sender: Option<u32>,
    /// How many bytes it may carry, if that is bounded.
    pub rate: Option<Bucket>,
}

/// VMs that are worked on and therefore not in the table: the one that runs, and the one that sends.
pub struct Out<'a, H: Hardware>([Option<&'a mut Vm<H>>; 2]);

impl<'a, H: Hardware> Out<'a, H> {
    /// These two, as far as there are any.
    pub(crate) const fn new(running: Option<&'a mut Vm<H>>, sending: Option<&'a mut Vm<H>>) -> Self {
        Self([running, sending])
    }

    fn has(&self, number: u32) -> bool {
        self.0.iter().flatten().any(|vm| vm.number == number)
    }

    pub(crate) fn find(&mut self, number: u32) -> Option<&mut Vm<H>> {
        self.0.iter_mut().flatten().find(|vm| vm.number == number).map(|vm| &mut **vm)
    }
}

impl<H: Hardware> Core<'_, H> {
    /// Takes a batch of frames from the wire. `running` is the VM that is taken out of the table now. Returns how many
    /// frames were handled that were not for it.
    #[inline(never)]
    pub(crate) fn poll_wire(&mut self, running: Option<&mut Vm<H>>) -> u32 {
        if self.seat.core() != FIRST {
            return 0;
        }
        let now = self.hw.now();
        let is_busy = running.is_some() || !self.scheduler.is_empty();
        if is_busy && now < self.wire.next_poll && self.ablation.switches.batching {
            self.wire.is_poll_due = true;
            return 0;
        }
        self.wire.is_poll_due = false;
        self.wire.next_poll = now;
        let own = running.as_ref().map(|vm| vm.number);
        let mut out = Out::new(running, None);
        let mut others = 0;
        for _ in 0..WIRE_BATCH {
            if self.has_urgent() {
                break;
            }
            let Some(frame) = self.hw.receive() else { return others };
            self.wire.frames_in += 1;
            let to = self.take_in(&mut out, frame);
            self.bill_out(&mut out, to);
            if to != own || own.is_none() {
                others += 1;
            }
        }
        // There is more than is taken at a time. The card says nothing of what it had then already.
        self.wire.is_poll_due = true;
        self.wire.next_poll = now.after(POLL_GAP_NS);
        others
    }

    /// Does with a frame from the wire what is to be done. Returns the VM that it was for.
    fn take_in(&mut self, out: &mut Out<'_, H>, frame: Frame) -> Option<u32> {
        match route::route(&self.network, &self.gateways, Source::Wire, frame.bytes(), frame.bytes().len()) {
            Verdict::ToVm(to) => {
                self.deliver(out, to, frame, Origin::Outside);
                return Some(to);
            }
            Verdict::Asks { ipv4, vm, mac } if vm.is_none_or(|vm| self.answers_for(out, vm)) => {
                self.answer_on_wire(frame, ipv4, mac);
            }
            Verdict::Drop(Reason::BadLength) => self.drop_from_wire(frame, |wire| &mut wire.drops_bad_length),
            Verdict::Drop(Reason::Spoofed) => self.drop_from_wire(frame, |wire| &mut wire.drops_spoofed),
            Verdict::ToWire | Verdict::Asks { .. } | Verdict::Drop(Reason::Unroutable) => {
                self.drop_from_wire(frame, |wire| &mut wire.drops_unroutable);
            }
        }
        None
    }

    fn drop_from_wire(&mut self, frame: Frame, counter: impl Fn(&mut Wire) -> &mut u64) {
        *counter(&mut self.wire) += 1;
        self.wire.frames_dropped += 1;
        self.give_back(frame);
    }

    /// Bounds what all VMs together send, in bytes in a second; 0 for no bound but the card's.
    pub fn set_wire_rate(&mut self, bytes_per_s: u32) {
        let longest = u32::try_from(MAX_FRAME_BYTES).unwrap_or(u32::MAX);
        let rate = Rate { per_second: bytes_per_s, burst: (bytes_per_s / WIRE_BURST_PART).max(2 * longest) };
        self.wire.rate = (bytes_per_s != 0).then(|| Bucket::new(rate, self.hw.now()));
    }

    /// Whether a frame that long cannot go now, as far as can be told without a buffer for it.
    pub(crate) fn is_wire_full(&mut self, length: usize) -> bool {
        if self.seat.core() != FIRST {
            return !self.seat.may_pass();
        }
        let Some(bucket) = &mut self.wire.rate else { return false };
        let now = self.hw.now();
        bucket.ready_at(u32::try_from(length).unwrap_or(u32::MAX), now) > now
    }

    /// Puts a frame on the wire. This core must have the card.
    ///
    /// # Errors
    /// The frame comes back if there is no room for it now.
    pub(crate) fn put_on_wire(&mut self, frame: Frame) -> Result<(), Frame> {
        let length = frame.bytes().len();
        if self.is_wire_full(length) {
            return Err(frame);
        }
        self.hw.transmit(frame)?;
        if let Some(bucket) = &mut self.wire.rate {
            bucket.take(u32::try_from(length).unwrap_or(u32::MAX), self.hw.now());
        }
        self.wire.frames_out += 1;
        if self.wire.unflushed == 0 {
            self.wire.flush_at = self.hw.now().after(FLUSH_GAP_NS);
        }
        self.wire.unflushed += 1;
        Ok(())
    }

    /// Sends what is queued on the card if there is enough of it, or it has waited long enough, or nothing follows.
    pub(crate) fn flush_if_due(&mut self, is_last: bool) {
        let Wire { unflushed, flush_at, .. } = self.wire;
        if unflushed == 0 {
            return;
        }
        if is_last || unflushed >= FLUSH_AFTER || self.hw.now() >= flush_at {
            self.hw.flush();
            self.wire.unflushed = 0;
            // The card takes its time, and what is sent was sent for somebody. A VM that runs pays for itself.
            if let Some(sender) = self.wire.last_sender.take()
                && !self.vms.is_out(sender)
            {
                self.bill(sender);
            }
        }
    }

    fn answers_for(&self, out: &Out<'_, H>, vm: u32) -> bool {
        out.has(vm)
            || self.vms.get(vm).is_some_and(|vm| vm.state != State::Ended)
            || self.vms.stub(vm).is_some_and(|stub| stub.state != Sleeper::Ended)
            || self.seat.is_elsewhere(vm) == Some(false)
    }

    fn answer_on_wire(&mut self, request: Frame, ipv4: [u8; 4], mac: [u8; 6]) {
        match self.make_answer(request.bytes(), ipv4, mac).map(|answer| self.put_on_wire(answer)) {
            Some(Ok(())) => {}
            Some(Err(frame)) => {
                self.wire.answers_dropped += 1;
                self.give_back(frame);
            }
            None => self.wire.answers_dropped += 1,
        }
        self.give_back(request);
    }

    fn make_answer(&mut self, request: &[u8], ipv4: [u8; 4], mac: [u8; 6]) -> Option<Frame> {
        let mut answer = self.hw.take_frame()?;
        answer.set_length(route::neighbour::MAX_ANSWER_BYTES);
        let Some(length) = route::answer(request, ipv4, mac, answer.bytes_mut()) else {
            self.give_back(answer);
            return None;
        };
        answer.set_length(length);
        Some(answer)
    }

    /// When a timer or the network is to be seen to, though nothing arrives.
    pub(crate) fn next_alarm(&self) -> Nanos {
        let poll = if self.wire.is_poll_due { self.wire.next_poll } else { Nanos::NEVER };
        let flush = if self.wire.unflushed > 0 { self.wire.flush_at } else { Nanos::NEVER };
        let own = self.timers.next().min(self.scheduler.next_release());
        own.min(self.senders.alarm()).min(poll).min(flush)
    }
}
