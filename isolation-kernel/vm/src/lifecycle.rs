//! Creating, ending and destroying VMs. Neither takes time in proportion to a VM's memory: what an ended VM
//! leaves is freed a few pages at a time.

use crate::account::Pace;
use crate::console::{CONSOLE_RATE, Level, log};
use crate::core::{Core, SUPERVISOR};
use crate::delta::Delta;
use crate::fixed::FixedPages;
use crate::memory::{Absent, AllTables, Memory, Parts};
use crate::network::transmit::Transmit;
use crate::pack::Pack;
use crate::park::WAKE_ROOM;
use crate::report;
use crate::start::BootError;
use crate::swap::Place;
use crate::vm::{Account, Indices, Sleeper, State, Vm};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use hal::{Hardware, NoMemory, PAGE_SIZE, Registers};
use policy::bucket::Bucket;
use rand_chacha::rand_core::Rng;
use virtual_isa::control;
use virtual_isa::exception::Cause;
use virtual_isa::gate::{ClassTerms, Counters, Event};
use virtual_isa::limits::MAX_PAGES_PER_STEP;
use virtual_isa::register::{Features, RegisterPage};

/// What is left of a VM that ended, on its way back to the machine.
pub struct Remains<H: Hardware> {
    delta: Delta,
    packs: alloc::vec::IntoIter<Option<Pack>>,
    rest: Option<(FixedPages, AllTables<H::Space>)>,
}

/// VMs of which something may be left to free before who ends another one helps.
const MAX_REMAINS: usize = 64;

/// Steps of that help.
const MAX_STEPS: u32 = 8;

/// As how many pages tables count in a step.
const TABLE_PAGES: u32 = 8;

/// What a VM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The supervisor.
    Supervisor,
    /// One of the others.
    Ordinary,
    /// One that nobody sees, on its way to becoming a template.
    Nobody,
}

/// What a new VM is to be.
#[derive(Clone, Copy, Debug)]
pub struct Birth<'a> {
    pub number: u32,
    pub template: u32,
    pub memory_pages: u32,
    pub minimum_pages: u32,
    pub shares: u32,
    pub class: u16,
    pub arguments: &'a str,
    pub identity: Identity,
}

impl<H: Hardware> Core<'_, H> {
    pub(crate) fn create_supervisor(&mut self, memory_pages: u32) -> Result<(), BootError> {
        let birth = Birth {
            number: SUPERVISOR,
            template: 0,
            memory_pages,
            minimum_pages: 0,
            shares: 100,
            class: 0,
            arguments: "",
            identity: Identity::Supervisor,
        };
        let mut vm = self.create(&birth)?;
        self.endow(&mut vm)?;
        self.make_runnable(&mut vm);
        self.timers.reserve(vm.number);
        self.vms.insert(vm);
        Ok(())
    }

    /// Makes a VM from values that were checked: a clone of its template, with nothing of its own. It is in no table
    /// and no queue yet.
    pub(crate) fn create(&mut self, birth: &Birth<'_>) -> Result<Box<Vm<H>>, NoMemory> {
        let template = self.templates.get(birth.template as usize).ok_or(NoMemory)?;
        let is_privileged = birth.identity == Identity::Supervisor;
        let generation = self.next_generation;
        // No two cores give out the same.
        self.next_generation += u64::from(self.seat.nr_cores());
        let now = self.hw.now();
        Ok(Box::new(Vm {
            number: birth.number,
            generation,
            state: State::Created,
            is_queued: false,
            is_privileged,
            is_embryo: birth.identity == Identity::Nobody,
            is_admitted: false,
            is_newborn: false,
            has_run: false,
            wants_park: None,
            registers: template.registers,
            vector: None,
            memory_pages: birth.memory_pages,
            memory: None,
            template: birth.template,
            shares: birth.shares,
            class: birth.class,
            minimum_pages: birth.minimum_pages,
            activity: 0,
            arguments: Box::from(birth.arguments),
            indices: Indices::default(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            transmit: Transmit::new(self.classes.terms(birth.class), now),
            awaited: None,
            last_fault: None,
            enabled: 0,
            deadline: None,
            last_ran: now,
            barren_until: now,
            console: Bucket::new(CONSOLE_RATE, now),
            counters: Counters::default(),
            pace: Pace::default(),
            accounted: Account::default(),
            has_changed: true,
        }))
    }

    /// Gives a VM the memory it cannot be without: its control page.
    pub(crate) fn endow(&mut self, vm: &mut Vm<H>) -> Result<(), NoMemory> {
        let template = self.templates.get(vm.template as usize).ok_or(NoMemory)?;
        let fixed = FixedPages::allocate(&mut self.hw, vm.is_privileged)?;
        self.hw.write(fixed.control.mpn(), 0, &template.control);
        vm.memory = Some(Memory::new(vm.memory_pages, fixed, self.random.next_u64()));
        Ok(())
    }

    /// Puts a new VM into the table.
    pub(crate) fn settle(&mut self, vm: Box<Vm<H>>) {
        let number = vm.number;
        self.total_shares += u64::from(vm.shares);
        self.vms.insert(vm);
        self.timers.reserve(number);
        self.note_resident(number);
        // Without room ahead, waking makes it.
        let in_memory = self.vms.count().saturating_sub(self.vms.parked());
        let _ = self.scheduler.reserve(in_memory as usize, number);
        // None that is parked sends.
        self.senders.circle.reserve(in_memory as usize, number.saturating_add(1));
    }

    /// Starts a VM that was created, or lets it wait until what it needs at least is there.
    pub(crate) fn start(&mut self, vm: &mut Vm<H>) {
        if self.waiting.is_empty() && self.seat.is_next(u64::MAX) && self.admits(vm) {
            return self.make_runnable(vm);
        }
        vm.state = State::Waiting;
        self.waiting.push_back((self.seat.draw_number(), vm.number));
        self.show_first_waiting();
    }

    fn admits(&mut self, vm: &mut Vm<H>) -> bool {
        let &ClassTerms { group, reservation_ppm, .. } = self.classes.terms(vm.class);
        // Those that have just been admitted have a page or two, and will want more: were all memory given out to such as
        // they are, none could go on, and none could be parked. Other cores have as many, or about that.
        let newborns = u64::from(self.newborns).saturating_mul(u64::from(self.seat.nr_cores()));
        let spoken_for = newborns.saturating_mul(WAKE_ROOM);
        let least = self.marks.minimum.saturating_add(spoken_for);
        if self.hw.free_pages() < least || self.timekeeper.admit(group, reservation_ppm).is_err() {
            return false;
        }
        if !self.seat.promise(self.gatekeeper, u64::from(vm.minimum_pages)) {
            self.timekeeper.release(group, reservation_ppm);
            return false;
        }
        if self.endow(vm).is_err() {
            self.timekeeper.release(group, reservation_ppm);
            self.seat.release(u64::from(vm.minimum_pages));
            return false;
        }
        (vm.is_admitted, vm.is_newborn) = (true, true);
        self.newborns = self.newborns.saturating_add(1);
        true
    }

    /// A VM is none any more that has just been admitted.
    pub(crate) fn note_grown(&mut self, vm: &mut Vm<H>) {
        if core::mem::take(&mut vm.is_newborn) {
            self.newborns = self.newborns.saturating_sub(1);
        }
    }

    /// Admits VMs that wait, first come first served, as long as there is room.
    pub(crate) fn admit_waiting(&mut self) {
        for _ in 0..MAX_PAGES_PER_STEP {
            let Some(&(place, number)) = self.waiting.front() else { return };
            let Some(mut vm) = self.vms.take(number) else {
                self.waiting.pop_front();
                self.show_first_waiting();
                continue;
            };
            let is_done = vm.state != State::Waiting || (self.seat.is_next(place) && self.admits(&mut vm));
            if is_done {
                self.waiting.pop_front();
                self.show_first_waiting();
                if vm.state == State::Waiting {
                    self.make_runnable(&mut vm);
                }
            }
            self.vms.put(vm);
            if !is_done {
                return;
            }
        }
    }

    /// Shows the other cores who of this one's VMs is the first that waits.
    fn show_first_waiting(&self) {
        self.seat.show_waiting(self.waiting.front().map(|&(place, _)| place));
    }

    /// Makes a VM's register page: what it can be told about itself at any time.
    pub(crate) fn make_register_page(&mut self, vm: &mut Vm<H>) -> Result<(), Absent> {
        let Some(memory) = &mut vm.memory else { return Err(Absent::Violation) };
        vm.has_changed = true;
        let page = self.hw.allocate().ok_or(Absent::NoMemory)?;
        let mpn = page.mpn();
        memory.fixed.register = Some(page);
        let page = self.register_page(vm);
        self.hw.write(mpn, 0, &page.to_bytes());
        Ok(())
    }

    fn register_page(&self, vm: &Vm<H>) -> RegisterPage {
        let mut features = Features::TSC;
        features.set(Features::AVX, self.hw.has_avx());
        features.set(Features::SUPERVISOR, vm.is_privileged);
        let clock = self.hw.clock();
        RegisterPage {
            generation: vm.generation,
            features: features.bits(),
            memory_pages: vm.memory_pages,
            base_tsc: clock.base_tsc,
            base_ns: clock.base_ns,
            scale: clock.scale,
            epoch_ns: clock.epoch_ns,
            ..RegisterPage::new(&self.network, vm.number, &vm.arguments)
        }
    }

    /// Ends a VM: report to the log and to the supervisor, memory to the remains.
    #[inline(never)]
    pub(crate) fn end(&mut self, vm: &mut Vm<H>, cause: Cause) {
        if vm.state == State::Ended {
            return;
        }
        let report =
            report::make(&self.hw, vm.memory.as_ref(), self.shared(vm.template).as_ref(), &vm.own_registers(), cause);
        report::print(&mut self.hw, vm.number, &report);
        if vm.number == SUPERVISOR {
            log(&mut self.hw, Level::Error, format_args!("the supervisor has ended; the other VMs run on"));
        }
        vm.state = State::Ended;
        self.note_grown(vm);
        self.scheduler.remove(vm.number);
        vm.is_queued = false;
        vm.has_changed = true;
        self.seat.note_ended(vm.number);
        if let Some(deadline) = vm.deadline.take() {
            self.timers.clear(deadline, vm.number);
        }
        self.stop_sending(vm);
        for frame in core::mem::take(&mut vm.queue) {
            self.give_back(frame);
        }
        vm.queued_bytes = 0;
        if let Some(memory) = vm.memory.take() {
            self.bury(memory);
        }
        self.part(vm.shares, vm.is_admitted.then_some((vm.minimum_pages, vm.class)));
        self.post_event(Event::Ended { vm: vm.number, report });
    }

    /// What a VM had promised to it is free again.
    fn part(&mut self, shares: u32, promised: Option<(u32, u16)>) {
        self.total_shares = self.total_shares.saturating_sub(u64::from(shares));
        if let Some((minimum_pages, class)) = promised {
            self.seat.release(u64::from(minimum_pages));
            let &ClassTerms { group, reservation_ppm, .. } = self.classes.terms(class);
            self.timekeeper.release(group, reservation_ppm);
        }
    }

    /// Frees a VM's memory, a little at a time. With much to free already some of that is freed first, at the cost of who
    /// ends VMs: they may come to an end faster than the core takes turns.
    pub(crate) fn bury(&mut self, memory: Memory<H::Space>) {
        for _ in 0..MAX_STEPS {
            if self.remains.len() < MAX_REMAINS {
                break;
            }
            self.reap_remains();
        }
        let Parts { fixed, delta, packs, tables } = memory.into_parts();
        self.remains.push_back(Remains { delta, packs: packs.into_iter(), rest: Some((fixed, tables)) });
    }

    /// Ends a VM that is parked.
    pub(crate) fn end_parked(&mut self, number: u32, cause: Cause) {
        let Some(mut stub) = self.vms.take_stub(number) else { return };
        if stub.state == Sleeper::Ended {
            return self.vms.put_stub(stub);
        }
        let report = report::make::<H>(&self.hw, None, None, &Registers::default(), cause);
        report::print(&mut self.hw, number, &report);
        if stub.is_on_disk() {
            self.parked_on_disk = self.parked_on_disk.saturating_sub(1);
        }
        stub.state = Sleeper::Ended;
        self.scheduler.remove(number);
        self.seat.note_ended(number);
        stub.is_waking = false;
        if let Some(deadline) = stub.deadline.take() {
            self.timers.clear(deadline, number);
        }
        for frame in core::mem::take(&mut stub.queue) {
            self.give_back(frame);
        }
        stub.queued_bytes = 0;
        for pack in core::mem::take(&mut stub.kept) {
            self.swap.discard(&mut self.hw, pack);
        }
        let head = core::mem::replace(&mut stub.head, Pack::none());
        self.swap.discard(&mut self.hw, head);
        for extent in core::mem::take(&mut stub.cold) {
            self.swap.free(Place::Reserved(extent));
        }
        (stub.own_pages, stub.cold_pages) = (0, 0);
        self.part(stub.shares, Some((stub.minimum_pages, stub.class)));
        self.vms.put_stub(stub);
        self.post_event(Event::Ended { vm: number, report });
    }

    /// Frees some of what ended VMs left. Returns whether there is more.
    pub(crate) fn reap_remains(&mut self) -> bool {
        let mut left = MAX_PAGES_PER_STEP;
        while let Some(remains) = self.remains.front_mut()
            && left > 0
        {
            // The tables go first: no page is free while it can still be reached.
            if let Some((fixed, tables)) = remains.rest.take() {
                tables.destroy(&mut self.hw);
                fixed.release(&mut self.hw);
                left = left.saturating_sub(TABLE_PAGES);
            }
            if let Some(resident) = remains.delta.pop_resident() {
                self.hw.release(resident.page);
            } else if let Some(pack) = remains.packs.next() {
                if let Some(pack) = pack {
                    self.swap.discard(&mut self.hw, pack);
                }
            } else {
                self.remains.pop_front();
            }
            left = left.saturating_sub(1);
        }
        !self.remains.is_empty()
    }
}

impl<H: Hardware> Vm<H> {
    /// Puts a byte into the console ring; false if there is no room, or the guest's index cannot be.
    pub(crate) fn type_byte(&mut self, hw: &mut H, byte: u8) -> bool {
        let Some(memory) = &self.memory else { return false };
        let page = memory.fixed.control.mpn();
        let used = self.indices.console_head.wrapping_sub(hw.load(page, control::CONSOLE_TAIL));
        if used >= control::CONSOLE_INPUT_BYTES {
            self.counters.console_dropped += 1;
            return false;
        }
        let at = self.indices.console_head % control::CONSOLE_INPUT_BYTES;
        let offset = control::CONSOLE_INPUT.saturating_add(at as usize).min(PAGE_SIZE - 1);
        hw.write(page, offset, &[byte]);
        self.indices.console_head = self.indices.console_head.wrapping_add(1);
        hw.store(page, control::CONSOLE_HEAD, self.indices.console_head);
        true
    }
}
