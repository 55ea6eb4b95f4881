//! One core's instance of the kernel: its event loop.

use crate::ablation::Ablation;
use crate::account::{Ledger, latency_bucket, note_latency};
use crate::classes::{Classes, SUPERVISOR_GROUP};
use crate::console::{Level, log};
use crate::cores::{FIRST, Message, Seat};
use crate::gate::{Loading, Reply};
use crate::gateways::Gateways;
use crate::images::LoadedImage;
use crate::lifecycle::Remains;
use crate::mail::Search;
use crate::memory::Memory;
use crate::network::Wire;
use crate::network::transmit::Senders;
use crate::orders::Gathering;
use crate::pack::Packer;
use crate::reclaim::HEAVIEST;
use crate::swap::Swap;
use crate::table::Vms;
use crate::template::{Embryo, Template};
use crate::timers::Timers;
use crate::vm::{State, Vm};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hal::{Exit, Hardware, Nanos, Page};
use policy::bucket::Bucket;
use policy::gatekeeper::{Gatekeeper, Timekeeper};
use policy::reclaim::Watermarks;
use policy::scheduler::{MAX_QUANTUM_NS, Scheduler};
use rand_chacha::ChaCha20Rng;
use virtual_isa::bundle::Bundle;
use virtual_isa::control::Pending;
use virtual_isa::exception::{Cause, Exception};
use virtual_isa::gate::{Event, LATENCY_BUCKETS, ProcessorTerms};
use virtual_isa::limits::MAX_COMPLETION_BYTES;
use virtual_isa::network::Network;

/// Number of the supervisor VM.
pub const SUPERVISOR: u32 = 0;

/// What a turn is charged with, beside its time, in which a VM found no memory.
const VAIN_TURN_NS: u64 = 5_000;

/// Timers that fire in one turn of the loop.
const TIMER_BATCH: u32 = 64;

/// How many of these a call counts for that moves deadlines and finds none that has passed.
const TIMER_MOVES: u32 = 4;

/// With more timers due than a turn takes, VMs run and frames move for so long before the next ones fire.
const TIMER_GAP_NS: u64 = 50_000;

/// In so many turns it is looked once if memory is short, while VMs run.
const MEMORY_PERIOD: u32 = 8;

/// How often a request is tried again for which there is no room.
const GATE_RETRY_NS: u64 = 10_000_000;

/// After so many turns a VM is none that has just been admitted, though it does not rest.
const NEWBORN_TURNS: u64 = 16;

/// Events that wait for the supervisor.
pub(crate) const MAX_EVENTS: usize = 256;

/// One core's kernel. It owns its hardware and its VMs outright.
pub struct Core<'b, H: Hardware> {
    pub(crate) hw: H,
    pub(crate) bundle: Bundle<'b>,
    pub(crate) network: Network,
    /// VMs whose frames go through others.
    pub(crate) gateways: Gateways,
    pub(crate) vms: Vms<H>,
    /// This core's place among the others.
    pub(crate) seat: Seat<H>,
    pub(crate) images: Vec<Arc<LoadedImage>>,
    pub(crate) templates: Vec<Template>,
    pub(crate) embryos: VecDeque<Embryo<H>>,
    pub(crate) template_pages: u64,
    pub(crate) swap: Swap,
    pub(crate) packer: Packer,
    pub(crate) marks: Watermarks,
    /// Of all cores' pages.
    pub(crate) gatekeeper: Gatekeeper,
    /// Time of this core that is promised.
    pub(crate) timekeeper: Timekeeper,
    pub(crate) total_shares: u64,
    /// VMs that were admitted and have not come to rest yet.
    pub(crate) newborns: u32,
    pub(crate) classes: Classes,
    /// How each group competes for the processors.
    pub(crate) groups: Vec<ProcessorTerms>,
    /// Times from waking to running of each group's VMs.
    pub(crate) latency: Vec<[u32; LATENCY_BUCKETS]>,
    pub(crate) nr_turns: u32,
    pub(crate) is_reclaiming: bool,
    /// Turns in a row in which memory was short and nobody had any to give.
    pub(crate) vain_turns: u32,
    /// Bytes of the kernel's heap that a VM waits for in one piece.
    pub(crate) heap_wanted: u64,
    /// VMs in memory, as reclaim comes by them.
    pub(crate) clock: VecDeque<u32>,
    pub(crate) heaviest: heapless::Vec<u32, HEAVIEST>,
    /// VMs that are to be parked once their packs are on disk.
    pub(crate) parking: VecDeque<u32>,
    /// VMs that wait for memory.
    pub(crate) starved: VecDeque<u32>,
    /// VMs that wait for admission, in order, with their place in the order of the machine.
    pub(crate) waiting: VecDeque<(u64, u32)>,
    pub(crate) parks: u64,
    pub(crate) record_bytes: u64,
    pub(crate) wakes_memory: u64,
    pub(crate) wakes_disk: u64,
    pub(crate) parked_on_disk: u32,
    /// Room for a message to the supervisor.
    pub(crate) message: Box<[u8; MAX_COMPLETION_BYTES]>,
    /// Whether a request waits in the supervisor's ring, for a template or for room.
    pub(crate) is_gate_stalled: bool,
    /// Since when there is no room for one.
    pub(crate) no_room_since: Option<Nanos>,
    pub(crate) zero: Page,
    pub(crate) scheduler: Scheduler,
    pub(crate) ledger: Ledger,
    pub(crate) timers: Timers,
    pub(crate) ablation: Ablation,
    pub(crate) random: ChaCha20Rng,
    pub(crate) wire: Wire,
    pub(crate) console: Bucket,
    pub(crate) senders: Senders,
    pub(crate) loading: VecDeque<Loading<'b>>,
    pub(crate) remains: VecDeque<Remains<H>>,
    /// At most [`MAX_EVENTS`].
    pub(crate) events: VecDeque<Event>,
    pub(crate) events_lost: u64,
    /// Completions for the supervisor.
    pub(crate) replies: VecDeque<Reply>,
    /// Orders that other cores have.
    pub(crate) orders: u32,
    pub(crate) gatherings: Vec<Gathering>,
    pub(crate) search: Search,
    pub(crate) next_generation: u64,
}

/// What a VM does after an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum After {
    /// It goes on.
    Resume,
    /// It could go on, but others have waited long enough.
    Yield,
    /// It sleeps until this time.
    Sleep(Nanos),
    /// It is over.
    End(Cause),
    /// It waits for a page that is on its way.
    Wait,
    /// It waits for memory.
    Starve,
    /// It has come to `ready()` for the first time: it is a template.
    Ready,
    /// It did what no template may do before `ready()`.
    Plain,
    /// It goes on in a context.
    Enter,
}

impl<'b, H: Hardware> Core<'b, H> {
    /// One turn of the loop: what has arrived, what is due, then one VM or a halt.
    pub fn turn(&mut self) {
        if !self.seat.is_alone() {
            let _ = self.poll_mail(None);
        }
        if self.hw.has_received() || self.wire.is_poll_due {
            self.poll_wire(None);
        }
        if self.hw.has_typed() {
            self.poll_serial(None);
        }
        self.fire_timers();
        let has_senders = self.senders.is_waiting() && self.serve_senders(None).unwrap_or(false);
        let has_work = (self.has_chores() || (self.looks_at_memory() && self.is_short())) && self.do_chores();
        self.show_others();
        let now = self.hw.now();
        match self.next_vm(now) {
            Some(number) => self.dispatch(number, now),
            None if has_work || has_senders => {}
            None => self.halt(now),
        }
        self.flush_if_due(self.scheduler.is_empty());
    }

    /// Whether it is looked in this turn if memory is short: in some of them, and before a halt. Who finds none meanwhile
    /// makes it a chore.
    #[inline]
    fn looks_at_memory(&mut self) -> bool {
        self.nr_turns = self.nr_turns.wrapping_add(1);
        self.nr_turns.is_multiple_of(MEMORY_PERIOD) || self.scheduler.is_empty()
    }

    /// Whether there is anything for [`Self::do_chores`] but memory to reclaim: one look at many lengths.
    #[inline]
    fn has_chores(&self) -> bool {
        let waiting = self.events.len() | self.replies.len() | self.loading.len() | self.remains.len();
        let waiting = waiting | self.parking.len() | self.embryos.len() | self.starved.len() | self.waiting.len();
        let is_at_memory = self.is_reclaiming || self.vain_turns != 0;
        (waiting | self.swap.waiting() | usize::from(self.is_gate_stalled) | usize::from(is_at_memory)) != 0
    }

    /// What is done between VMs' turns: a bounded piece of everything that there is. Says whether there may be more.
    #[inline(never)]
    fn do_chores(&mut self) -> bool {
        let has_work = self.serve_supervisor() | self.serve_memory();
        // What was done above is told before the core may halt.
        self.tell_supervisor();
        has_work
    }

    /// The hardware, for whoever drives the core.
    pub fn hardware(&mut self) -> &mut H {
        &mut self.hw
    }

    /// Work that the supervisor wanted and that is done between turns, at its cost. Says whether there is more.
    fn serve_supervisor(&mut self) -> bool {
        if self.loading.is_empty()
            && self.remains.is_empty()
            && self.embryos.is_empty()
            && self.waiting.is_empty()
            && !self.is_gate_stalled
        {
            return false;
        }
        let has_work = self.load_images() | self.reap_remains() | self.grow_template();
        if !self.waiting.is_empty() {
            self.admit_waiting();
        }
        if self.is_gate_stalled {
            self.resume_gate();
        }
        self.bill(SUPERVISOR);
        has_work
    }

    /// Work on the machine's memory. Says whether there is more.
    fn serve_memory(&mut self) -> bool {
        let is_busy = self.swap.waiting() != 0 || !self.starved.is_empty() || !self.parking.is_empty();
        let has_work = self.serve_disk() | self.reclaim() | self.continue_parking();
        if !self.starved.is_empty() {
            self.feed_starved();
        }
        if is_busy || has_work {
            self.note_memory_work();
        }
        has_work
    }

    #[inline(never)]
    fn halt(&mut self, before: Nanos) {
        self.ledger.loop_ns += self.ledger.move_mark(before);
        self.flush_if_due(true);
        let mut alarm = self.next_alarm().min(self.timers.next_idle());
        if self.swap.has_writes() && self.swap.resume_writes_at > before {
            alarm = alarm.min(self.swap.resume_writes_at);
        }
        if self.no_room_since.is_some() {
            alarm = alarm.min(before.after(GATE_RETRY_NS));
        }
        let alarm = self.seek_work(before, alarm);
        self.hw.set_alarm(alarm);
        if self.seat.lie_down() {
            self.hw.halt();
        }
        let now = self.hw.now();
        self.ledger.idle_ns += self.ledger.move_mark(now);
    }

    /// Fires timers that are due, if any are.
    #[inline]
    fn fire_timers(&mut self) {
        if self.timers.next() != Nanos::NEVER {
            let now = self.hw.now();
            if self.timers.next() <= now {
                self.fire_due(now);
            }
        }
    }

    /// Fires a batch of timers. With more of them due, the machine does something else before the next batch.
    #[inline(never)]
    fn fire_due(&mut self, now: Nanos) {
        let mut left = TIMER_BATCH;
        while self.timers.next() <= now {
            if left == 0 {
                return self.timers.put_off(now.after(TIMER_GAP_NS));
            }
            match self.timers.expired(now) {
                Some(number) => {
                    left = left.saturating_sub(1);
                    self.fire(number);
                }
                None => left = left.saturating_sub(TIMER_MOVES),
            }
        }
    }

    /// The deadline of a VM has passed.
    fn fire(&mut self, number: u32) {
        let Some(mut vm) = self.vms.take(number) else {
            if let Some(stub) = self.vms.stub_mut(number) {
                stub.deadline = None;
                stub.pending |= Pending::TIMER;
                self.wake_parked(number);
                self.bill(number);
            }
            return;
        };
        vm.deadline = None;
        vm.set_pending(&mut self.hw, Pending::TIMER);
        if vm.state == State::Idle {
            self.make_runnable(&mut vm);
        }
        self.bill_vm(&mut vm);
        self.vms.put_back(vm);
    }

    /// Wakes a VM that is idle. The VM that runs now is not, and is not in the table.
    pub(crate) fn wake(&mut self, number: u32) {
        if let Some(mut vm) = self.vms.take(number) {
            if vm.state == State::Idle {
                self.make_runnable(&mut vm);
            }
            self.vms.put_back(vm);
        }
    }

    /// Lets a VM run when its turn comes.
    pub(crate) fn make_runnable(&mut self, vm: &mut Vm<H>) {
        if let Some(deadline) = vm.deadline.take() {
            self.timers.clear(deadline, vm.number);
        }
        let has_slept = vm.state == State::Idle;
        vm.state = State::Runnable;
        vm.wants_park = None;
        if vm.is_queued {
            return;
        }
        let claim = self.processor_claim(vm);
        let is_group = self.scheduler.has_group(claim.group)
            || self.scheduler.set_group(claim.group, &self.group_terms(claim.group)).is_ok();
        if !is_group || self.scheduler.enqueue(vm.number, &claim).is_err() {
            // It is tried again when there is memory.
            vm.state = State::Starved;
            self.starved.push_back(vm.number);
            return;
        }
        vm.is_queued = true;
        (vm.pace.since, vm.pace.has_slept) = (self.ledger.mark, has_slept);
    }

    fn dispatch(&mut self, number: u32, now: Nanos) {
        let Some(mut vm) = self.vms.take(number) else { return self.scheduler.sleep(number) };
        vm.is_queued = false;
        if vm.state == State::Runnable {
            vm.counters.dispatches += 1;
            let waited = now.since(vm.pace.since);
            vm.pace.waited_ns = vm.pace.waited_ns.saturating_add(waited);
            if vm.pace.has_slept {
                self.note_latency(&mut vm, waited);
            }
            let awaited = vm.awaited;
            let after = self.run(&mut vm);
            // Without memory it has not come to use it.
            if vm.awaited == awaited && !matches!(after, After::Wait | After::Starve) {
                vm.awaited = None;
            }
            self.charge_run(number);
            self.scheduler.tell(self.ledger.mark);
            if after == After::Yield {
                vm.pace.preemptions = vm.pace.preemptions.saturating_add(1);
            }
            match after {
                After::Resume | After::Yield | After::Ready | After::Plain | After::Enter => {
                    self.make_runnable(&mut vm)
                }
                After::Wait => vm.state = State::Paging,
                After::Starve => {
                    // Or one that asks again and again would go before all others for ever.
                    self.scheduler.charge(number, VAIN_TURN_NS);
                    vm.state = State::Starved;
                    self.starved.push_back(number);
                }
                After::Sleep(deadline) => {
                    vm.state = State::Idle;
                    if deadline != Nanos::NEVER {
                        vm.deadline = Some(deadline);
                        self.timers.set(deadline, number);
                    }
                }
                After::End(cause) => self.end(&mut vm, cause),
            }
            if vm.is_newborn && (vm.state == State::Idle || vm.counters.dispatches >= NEWBORN_TURNS) {
                self.note_grown(&mut vm);
            }
            vm.last_ran = self.ledger.mark;
        }
        if !vm.is_queued {
            self.scheduler.sleep(number);
        }
        self.vms.put_after_run(vm);
    }

    fn note_latency(&mut self, vm: &mut Vm<H>, ns: u64) {
        let bucket = latency_bucket(ns);
        note_latency(&mut vm.pace.latency, bucket);
        let group = if vm.is_privileged { SUPERVISOR_GROUP } else { self.classes.terms(vm.class).group };
        if let Some(histogram) = self.latency.get_mut(group as usize) {
            note_latency(histogram, bucket);
        }
    }

    /// Runs a VM until it sleeps, ends, or others have waited long enough. What that took is in the ledger, not charged.
    pub(crate) fn run(&mut self, vm: &mut Box<Vm<H>>) -> After {
        if let Err(after) = self.prepare(vm) {
            self.note_run(vm);
            return after;
        }
        let started = self.note_run(vm);
        self.hw.set_alarm(started.after(self.scheduler.slice_ns(0)).min(self.next_alarm()));
        let after = loop {
            let (exit, left) = self.enter_guest(vm);
            let after = self.handle(vm, exit, left.since(started));
            let now = self.note_run(vm);
            if after != After::Resume {
                break after;
            }
            if self.scheduler.is_to_look_again() && self.is_over(now, now.since(started)) {
                break After::Yield;
            }
        };
        self.hw.switch_from(vm.vector.get_or_insert_default());
        after
    }

    /// Whether the turn of a VM is over that has run so long. If not, it is asked again when it may be.
    #[cold]
    pub(crate) fn is_over(&mut self, now: Nanos, ran_ns: u64) -> bool {
        self.scheduler.note_look();
        if self.has_urgent() || self.scheduler.is_over(ran_ns) {
            return true;
        }
        // A VM that is alone may run over its quantum; the wire is still looked after once in a quantum.
        self.hw.set_alarm(now.after(self.scheduler.slice_ns(ran_ns)).min(self.next_alarm()));
        false
    }

    /// Lets a VM that has the processor run until it comes back, and says when it did.
    #[inline(always)]
    pub(crate) fn enter_guest(&mut self, vm: &mut Vm<H>) -> (Exit, Nanos) {
        let exit = self.hw.enter(&mut vm.registers);
        let left = self.hw.now();
        let guest_ns = self.ledger.move_mark(left);
        self.ledger.run_ns += guest_ns;
        vm.counters.guest_ns += guest_ns;
        (exit, left)
    }

    /// Gives a VM the processor.
    fn prepare(&mut self, vm: &mut Box<Vm<H>>) -> Result<(), After> {
        self.fill_receive_ring(vm)?;
        vm.has_run = true;
        if !vm.memory.as_ref().is_some_and(Memory::has_space) {
            vm.has_changed = true;
            if !self.may_grow(vm) {
                return Err(After::Starve);
            }
            if vm.memory.as_ref().is_some_and(|memory| memory.tlb.is_some()) {
                return Err(self.run_contexts(vm));
            }
        }
        let memory = vm.memory.as_mut().ok_or(After::Sleep(Nanos::NEVER))?;
        let space = memory.prepare(&mut self.hw).map_err(|_| After::Starve)?;
        let template = self.templates.get(vm.template as usize).ok_or(After::Sleep(Nanos::NEVER))?;
        self.hw.switch_to(space, vm.vector.as_deref().unwrap_or(&template.vector));
        Ok(())
    }

    /// What was done since the mark was for the VM that runs. Returns the time.
    pub(crate) fn note_run(&mut self, vm: &mut Vm<H>) -> Nanos {
        let now = self.hw.now();
        let ns = self.ledger.move_mark(now);
        self.ledger.run_ns += ns;
        vm.counters.kernel_ns += ns;
        now
    }

    /// Handles an exit of a VM that has run so long since it was dispatched.
    #[inline(always)]
    pub(crate) fn handle(&mut self, vm: &mut Vm<H>, exit: Exit, ran_ns: u64) -> After {
        if !matches!(exit, Exit::PageFault { .. }) {
            vm.last_fault = None;
        }
        match exit {
            Exit::Instruction => self.perform(vm),
            Exit::PageFault { address, access } => self.fault(vm, address, access),
            Exit::Exception { vector, code: _ } => match Exception::try_from(vector) {
                Ok(exception) => After::End(Cause::Exception(exception)),
                // Not a guest's exception by the ISA; the nearest that is tells the truth about the guest.
                Err(_) => After::End(Cause::Exception(Exception::GeneralProtection)),
            },
            Exit::Interrupt => self.handle_interrupt(vm, ran_ns),
        }
    }

    #[inline(never)]
    pub(crate) fn handle_interrupt(&mut self, vm: &mut Vm<H>, ran_ns: u64) -> After {
        let began = self.settle_run(vm);
        let has_orders = self.poll_mail(Some(vm));
        self.poll_wire(Some(vm));
        // The wire is short then, and must not stand still.
        let is_wire_short = self.senders.is_waiting();
        let served = self.serve_senders(Some(vm)).map_err(After::End);
        if let Err(after) = served.and_then(|_| self.fill_receive_ring(vm)) {
            return after;
        }
        self.flush_if_due(is_wire_short);
        self.poll_serial(Some(vm));
        self.fire_timers();
        // With other cores, or chores, there is more to do between turns than to let others run.
        let has_more = ran_ns >= MAX_QUANTUM_NS && (!self.seat.is_alone() || self.has_chores());
        if has_orders || has_more {
            return After::Yield;
        }
        let now = self.hw.now();
        let is_over = self.is_over(now, ran_ns.saturating_add(now.since(began)));
        if is_over { After::Yield } else { After::Resume }
    }

    /// What a VM that runs has used is taken into account before anybody wakes: those who come have no part in it.
    /// Returns the time.
    pub(crate) fn settle_run(&mut self, vm: &mut Vm<H>) -> Nanos {
        let now = self.note_run(vm);
        self.charge_run(vm.number);
        self.scheduler.catch_up(now);
        now
    }

    /// Moves what was typed into the supervisor's console ring. `current` is the VM that was running.
    #[inline(never)]
    fn poll_serial(&mut self, current: Option<&mut Vm<H>>) {
        if self.seat.core() != FIRST {
            return;
        }
        let Some(first) = self.hw.read_byte() else { return };
        if let Some(vm) = current
            && vm.number == SUPERVISOR
        {
            self.type_bytes(vm, first);
        } else if let Some(mut vm) = self.vms.take(SUPERVISOR) {
            let any = self.type_bytes(&mut vm, first);
            if any && vm.state == State::Idle && vm.enabled & Pending::CONSOLE.bits() != 0 {
                self.make_runnable(&mut vm);
            }
            self.vms.put(vm);
        }
    }

    /// Puts this byte and those behind it into the supervisor's console ring. Says whether one found room.
    fn type_bytes(&mut self, vm: &mut Vm<H>, first: u8) -> bool {
        let mut any = false;
        let mut byte = Some(first);
        while let Some(typed) = byte {
            any |= vm.type_byte(&mut self.hw, typed);
            byte = self.hw.read_byte();
        }
        if any {
            vm.set_pending(&mut self.hw, Pending::CONSOLE);
        }
        any
    }

    /// Notes an event for the supervisor; if too many wait it is lost and counted.
    pub(crate) fn post_event(&mut self, event: Event) {
        if self.seat.core() != FIRST && self.seat.backlog(FIRST) < MAX_EVENTS {
            return self.seat.send(&mut self.hw, FIRST, Message::Event(Box::new(event)));
        }
        if self.seat.core() == FIRST && self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        } else {
            self.events_lost += 1;
            if self.events_lost == 1 {
                log(&mut self.hw, Level::Warn, format_args!("events are being lost: the supervisor is too slow"));
            }
        }
    }
}
