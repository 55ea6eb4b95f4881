//! What comes from other cores, and VMs that change their home.
//!
//! A core that has had nothing to do for a while asks the one with the most VMs waiting for one of them. A VM goes as
//! one value, with its pages; its page tables are a cache and stay behind. It goes only while it waits for the
//! processor and has nothing on disk or on its way there, as each core has a part of the disk of its own.

use crate::core::{Core, SUPERVISOR};
use crate::cores::{FIRST, MAX_CORES, Message};
use crate::gateways::Range;
use crate::network::Out;
use crate::network::receive::Origin;
use crate::network::transmit::Waits;
use crate::vm::{State, Vm};
use alloc::boxed::Box;
use alloc::sync::Arc;
use hal::{Frame, Hardware, Nanos};
use virtual_isa::limits::MAX_CLASSES;

/// Messages taken from one core in one turn of the loop.
const MAIL_BATCH: usize = 64;

/// How long a core has nothing to do before it asks for a VM, and how often it asks.
const PATIENCE_NS: u64 = 1_000_000;

/// VMs that wait for memory among which one is looked for that is parked.
const LOOKED_AT: usize = 64;

/// How often a core that lacks memory looks whether there is some.
const MEMORY_RETRY_NS: u64 = 2_000_000;

/// VMs that wait on a core before another asks for one.
const MIN_WAITING: u32 = 2;

/// VMs that are looked at for one that can go.
const CANDIDATES: usize = 4;

/// A core's search for something to do.
#[derive(Debug, Default)]
pub struct Search {
    /// Since when it has nothing.
    idle_since: Option<Nanos>,
    /// Whether it waits for an answer.
    is_asking: bool,
    /// When it asked last, or woke another to ask.
    asked: Nanos,
}

impl<H: Hardware> Core<'_, H> {
    /// Gives a buffer back to the core whose it is.
    pub(crate) fn give_back(&mut self, frame: Frame) {
        let home = frame.home();
        if home == self.seat.core() {
            self.hw.give_frame(frame);
        } else {
            self.seat.send(&mut self.hw, home, Message::Buffer(frame));
        }
    }

    /// Tells all other cores something.
    pub(crate) fn tell_all(&mut self, message: impl Fn() -> Message<H>) {
        let others: heapless::Vec<u32, { MAX_CORES as usize }> = self.seat.others().collect();
        for core in others {
            self.seat.send(&mut self.hw, core, message());
        }
    }

    /// Takes what other cores have sent. While a VM runs (`running`, which is taken out of the table) that is frames
    /// alone; says then whether something else waits.
    #[inline(never)]
    pub(crate) fn poll_mail(&mut self, running: Option<&mut Vm<H>>) -> bool {
        if self.seat.is_alone() {
            return false;
        }
        self.seat.get_up();
        self.seat.flush(&mut self.hw);
        while let Some(frame) = self.hw.sent_frame() {
            self.give_back(frame);
        }
        let mut waits = false;
        let is_between = running.is_none();
        let mut out = Out::new(running, None);
        for core in 0..self.seat.nr_cores() {
            for _ in 0..MAIL_BATCH {
                let is_frame = match self.seat.peek(core) {
                    None => break,
                    Some(Message::Frame { .. } | Message::ToWire { .. } | Message::Buffer(_)) => true,
                    Some(_) => false,
                };
                if !is_between && !is_frame {
                    waits = true;
                    break;
                }
                let Some(message) = self.seat.receive(core) else { break };
                self.open(core, message, &mut out);
            }
        }
        waits
    }

    fn open(&mut self, core: u32, message: Message<H>, out: &mut Out<'_, H>) {
        match message {
            Message::Hello => {
                self.seat.welcome(core);
                if self.seat.core() == FIRST {
                    self.brief(core);
                }
            }
            Message::Frame { to, frame } => {
                self.deliver(out, to, frame, Origin::Outside);
                self.bill_out(out, Some(to));
            }
            Message::ToWire { frame, shares } => self.senders.lanes.push(core, frame, shares),
            Message::Buffer(frame) => self.hw.give_frame(frame),
            Message::Image(image) => self.images.push(image),
            Message::Template { index, shape } => self.adopt_template(index, shape),
            // The first core has checked these.
            Message::Group { group, processor } => drop(self.set_group(group, processor)),
            Message::Class { class, terms } => drop(self.classes.define(class, terms)),
            Message::Gateway { first, count, through } => drop(self.gateways.set(first, count, through)),
            Message::Order { ticket, order } => self.obey(ticket, order),
            Message::Done(done) => self.hear(core, *done),
            Message::Figures { ticket, figures } => self.add_figures(ticket, &figures),
            Message::Event(event) => self.post_event(*event),
            Message::Idle => self.spare(core),
            Message::Nothing => self.search.is_asking = false,
            Message::Vm(vm) => self.welcome_vm(vm),
        }
    }

    /// A core has come up: it is told all there is to know.
    fn brief(&mut self, core: u32) {
        for image in &self.images {
            self.seat.send(&mut self.hw, core, Message::Image(Arc::clone(image)));
        }
        for (template, index) in self.templates.iter().zip(0..).filter(|(template, _)| template.is_born()) {
            self.seat.send(&mut self.hw, core, Message::Template { index, shape: template.shape() });
        }
        for (&processor, group) in self.groups.iter().zip(0..) {
            if processor != crate::classes::DEFAULT_GROUP_TERMS {
                self.seat.send(&mut self.hw, core, Message::Group { group, processor });
            }
        }
        for &Range { first, end, through } in self.gateways.iter() {
            let (count, through) = (end.saturating_sub(first), Some(through));
            self.seat.send(&mut self.hw, core, Message::Gateway { first, count, through });
        }
        for class in 1..MAX_CLASSES {
            if let Some(number) = self.classes.find(class) {
                let terms = *self.classes.terms(number);
                self.seat.send(&mut self.hw, core, Message::Class { class, terms });
            }
        }
    }

    /// Shows the other cores what there is to do here, and wakes one that halts if it is too much for one.
    pub(crate) fn show_others(&mut self) {
        if self.seat.is_alone() {
            return;
        }
        let waiting = self.scheduler.len();
        self.seat.show(waiting, self.total_shares, self.vms.owed_pages());
        let has_waker = self.starved.iter().take(LOOKED_AT).any(|&number| self.vms.stub(number).is_some());
        self.seat.show_waker(&mut self.hw, has_waker);
        if self.seat.core() == FIRST {
            self.seat.show_free_frames(self.hw.free_frames());
        }
        if waiting > MIN_WAITING as usize {
            let now = self.hw.now();
            if now.since(self.search.asked) >= PATIENCE_NS {
                self.search.asked = now;
                self.seat.rouse_idle(&mut self.hw);
            }
        }
        if waiting > 0 {
            self.search.idle_since = None;
        }
    }

    /// Looks for work elsewhere, if there is none here. Returns when the core is to look again at the latest.
    pub(crate) fn seek_work(&mut self, now: Nanos, alarm: Nanos) -> Nanos {
        // Memory comes unannounced, from another core or from a VM that has slept for long enough to give some.
        let is_short = !self.starved.is_empty()
            || !self.waiting.is_empty()
            || self.swap.waits_for_pages()
            || self.seat.wakers_elsewhere() != 0;
        let alarm = if is_short { alarm.min(now.after(MEMORY_RETRY_NS)) } else { alarm };
        if self.seat.is_alone() {
            return alarm;
        }
        let since = *self.search.idle_since.get_or_insert(now);
        let Some(busiest) = self.seat.busiest(MIN_WAITING) else { return alarm };
        let is_patient = now.since(since) >= PATIENCE_NS && now.since(self.search.asked) >= PATIENCE_NS;
        if is_patient && !self.search.is_asking {
            self.search.is_asking = true;
            self.search.asked = now;
            self.seat.send(&mut self.hw, busiest, Message::Idle);
        }
        alarm.min(now.after(PATIENCE_NS))
    }

    /// Another core would take a VM that waits here.
    fn spare(&mut self, core: u32) {
        for _ in 0..CANDIDATES.min(self.scheduler.len().saturating_sub(1)) {
            let Some(number) = self.scheduler.spare() else { break };
            let Some(mut vm) = self.vms.take(number) else { continue };
            vm.is_queued = false;
            // A reservation is promised of this core's time.
            let is_bound = self.classes.terms(vm.class).reservation_ppm != 0;
            if is_bound || !vm.may_move() {
                if vm.state == State::Runnable {
                    self.make_runnable(&mut vm);
                }
                self.vms.put(vm);
                continue;
            }
            if let Some(memory) = &mut vm.memory {
                memory.drop_space(&mut self.hw);
                // Its clock is another core's from now on. It is made again when it is looked at.
                if let Some(page) = memory.fixed.register.take() {
                    self.hw.release(page);
                }
            }
            self.total_shares = self.total_shares.saturating_sub(u64::from(vm.shares));
            self.note_grown(&mut vm);
            self.vms.send_away(&mut vm, core);
            return self.seat.send(&mut self.hw, core, Message::Vm(vm));
        }
        self.seat.send(&mut self.hw, core, Message::Nothing);
    }

    /// A VM has come to stay.
    fn welcome_vm(&mut self, mut vm: Box<Vm<H>>) {
        self.search.is_asking = false;
        self.search.idle_since = None;
        let number = vm.number;
        self.make_runnable(&mut vm);
        self.settle(vm);
        self.seat.set_home(number, Some(self.seat.core()));
    }

    /// Sends a VM's frame to the core that has the wire.
    ///
    /// # Errors
    /// The frame comes back if there is no room for it now.
    pub(crate) fn pass_to_wire(&mut self, vm: &Vm<H>, frame: Frame) -> Result<(), Frame> {
        if !self.seat.may_pass() {
            return Err(frame);
        }
        let shares = self.senders.circle.shares().max(u64::from(vm.shares));
        match self.seat.offer(&mut self.hw, FIRST, Message::ToWire { frame, shares }) {
            Err(Message::ToWire { frame, .. }) => Err(frame),
            // Nothing else can come back.
            Ok(()) | Err(_) => {
                // Those who send pay for what their frames before this one took there.
                let ns = self.seat.note_passed();
                self.scheduler.charge(vm.number, ns);
                Ok(())
            }
        }
    }

    /// Buffers that are free for frames from the wire.
    pub(crate) fn free_frames(&self) -> usize {
        if self.seat.core() == FIRST { self.hw.free_frames() } else { self.seat.free_frames() }
    }

    /// Hands a frame to the core that is a VM's home.
    pub(crate) fn hand_over(&mut self, core: u32, to: u32, frame: Frame) {
        if let Err(Message::Frame { frame, .. }) = self.seat.offer(&mut self.hw, core, Message::Frame { to, frame }) {
            self.wire.drops_queue_full += 1;
            self.give_back(frame);
        }
    }
}

impl<H: Hardware> Vm<H> {
    /// Whether it can change its home: it waits for the processor, and all that it has is in memory.
    fn may_move(&self) -> bool {
        let is_whole = self.memory.as_ref().is_some_and(|memory| memory.packs.iter().all(Option::is_none));
        self.number != SUPERVISOR
            && self.state == State::Runnable
            && self.wants_park.is_none()
            && self.awaited.is_none()
            && self.transmit.waits == Waits::Not
            && !self.is_embryo
            && is_whole
    }
}
