//! One core's instance of the kernel: its event loop.

use crate::classes::{Classes, DEFAULT_GROUP_TERMS};
use crate::console::{Level, MACHINE_CONSOLE_RATE, log};
use crate::gate::Loading;
use crate::images::LoadedImage;
use crate::lifecycle::Remains;
use crate::memory::{Absent, Mapped, Means, Memory, Shared, report_access};
use crate::network::Wire;
use crate::pack::Packer;
use crate::reclaim::HEAVIEST;
use crate::swap::{Handle, Place, Swap};
use crate::table::Vms;
use crate::template::{Embryo, Template};
use crate::timers::Timers;
use crate::vm::{State, Vm};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;
use hal::{Access, Exit, Hardware, Nanos, NoMemory, Page, Ppn};
use policy::bucket::Bucket;
use policy::gatekeeper::Gatekeeper;
use policy::reclaim::Watermarks;
use policy::scheduler::{Claim, Group, Scheduler};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use virtual_isa::bundle::{Bundle, BundleError, EntryKind, MachinePlan};
use virtual_isa::control::Pending;
use virtual_isa::exception::{Cause, Exception, SwapError};
use virtual_isa::gate::{Event, ProcessorTerms};
use virtual_isa::image::{Image, ImageError};
use virtual_isa::layout;
use virtual_isa::limits::{MAX_COMPLETION_BYTES, MAX_GROUPS};
use virtual_isa::network::{Network, NetworkError};

/// Number of the supervisor VM.
pub(crate) const SUPERVISOR: u32 = 0;

/// The supervisor's group, and what it weighs: with the machine busy it can have an eighth of a core.
const SUPERVISOR_GROUP: (Group, u32) = (Group(0), 1);

/// The group of all other VMs.
const MACHINE_GROUP: (Group, u32) = (Group(1), 7);

/// What waking a VM is charged with, in nanoseconds: the timer or frame, and the queue.
const WAKE_NS: u64 = 1_000;

/// What a turn is charged with beside the time it takes, in nanoseconds: the pick, and the loop around it.
const TURN_NS: u64 = 5_000;

/// Timers that fire in one turn of the loop.
const TIMER_BATCH: usize = 64;

/// Frames queued for the wire that are sent without waiting for the loop to run dry.
const FLUSH_AFTER: u32 = 16;

/// How often a request is tried again for which there is no room.
const GATE_RETRY_NS: u64 = 10_000_000;

/// Events that wait for the supervisor.
pub(crate) const MAX_EVENTS: usize = 256;

/// One core's kernel. It owns its hardware and its VMs outright.
pub struct Core<'b, H: Hardware> {
    pub(crate) hw: H,
    pub(crate) bundle: Bundle<'b>,
    pub(crate) network: Network,
    pub(crate) vms: Vms<H>,
    pub(crate) images: Vec<LoadedImage>,
    pub(crate) templates: Vec<Template>,
    pub(crate) embryos: VecDeque<Embryo<H>>,
    pub(crate) template_pages: u64,
    pub(crate) swap: Swap,
    pub(crate) packer: Packer,
    pub(crate) marks: Watermarks,
    pub(crate) gatekeeper: Gatekeeper,
    pub(crate) total_shares: u64,
    pub(crate) classes: Classes,
    /// How each group competes for the processors.
    pub(crate) groups: Vec<ProcessorTerms>,
    pub(crate) is_reclaiming: bool,
    /// Turns in a row in which memory was short and nobody had any to give.
    pub(crate) vain_turns: u32,
    /// VMs in memory, as reclaim comes by them.
    pub(crate) clock: VecDeque<u32>,
    pub(crate) heaviest: heapless::Vec<u32, HEAVIEST>,
    /// VMs that are to be parked once their packs are on disk.
    pub(crate) parking: VecDeque<u32>,
    /// VMs that wait for memory.
    pub(crate) starved: VecDeque<u32>,
    /// VMs that wait for admission, in order.
    pub(crate) waiting: VecDeque<u32>,
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
    /// Up to when the VM that runs was charged.
    pub(crate) charged: Nanos,
    pub(crate) timers: Timers,
    pub(crate) random: ChaCha20Rng,
    pub(crate) wire: Wire,
    pub(crate) console: Bucket,
    pub(crate) blocked: VecDeque<u32>,
    pub(crate) loading: VecDeque<Loading<'b>>,
    pub(crate) remains: VecDeque<Remains<H>>,
    /// At most [`MAX_EVENTS`].
    pub(crate) events: VecDeque<Event>,
    pub(crate) events_lost: u64,
    pub(crate) idle_ns: u64,
    pub(crate) next_generation: u64,
}

/// Why a core cannot start. Whoever made the bundle must mend it, or the machine is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// The bundle is refused.
    Bundle(BundleError),
    /// The bundle has no machine entry, or an unreadable one.
    NoMachinePlan,
    /// The addresses in it cannot be.
    Network(NetworkError),
    /// The bundle has no image for the supervisor.
    NoSupervisor,
    /// The supervisor's image is refused.
    Image(ImageError),
    /// The machine has too little memory for the supervisor.
    NoMemory,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(e) => write!(f, "boot bundle: {e}"),
            Self::NoMachinePlan => f.write_str("boot bundle: no machine entry, or an unreadable one"),
            Self::Network(e) => write!(f, "boot bundle: network: {e}"),
            Self::NoSupervisor => f.write_str("boot bundle: no image for the supervisor"),
            Self::Image(e) => write!(f, "boot bundle: supervisor image: {e}"),
            Self::NoMemory => f.write_str("the machine has too little memory for the supervisor"),
        }
    }
}

impl core::error::Error for BootError {}

impl From<NoMemory> for BootError {
    fn from(NoMemory: NoMemory) -> Self {
        Self::NoMemory
    }
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
}

impl<'b, H: Hardware> Core<'b, H> {
    /// Starts a core with the bundle it was booted with: the first image becomes the supervisor VM.
    ///
    /// # Errors
    /// See [`BootError`].
    pub fn new(mut hw: H, bundle: &'b [u8]) -> Result<Self, BootError> {
        let bundle = Bundle::check(bundle).map_err(BootError::Bundle)?;
        let plan = bundle.entries().find(|entry| entry.kind == EntryKind::Machine);
        let plan: MachinePlan =
            plan.and_then(|entry| postcard::from_bytes(entry.bytes).ok()).ok_or(BootError::NoMachinePlan)?;
        plan.network.check(1).map_err(BootError::Network)?;
        let entry = bundle.entries().find(|entry| entry.kind == EntryKind::Image).ok_or(BootError::NoSupervisor)?;
        let image = Image::check(entry.bytes).map_err(BootError::Image)?;
        image.check_memory(plan.supervisor_pages).map_err(BootError::Image)?;
        let mut loaded = LoadedImage::new(&image, entry.name);
        loaded.load_more(&image, u32::MAX, &mut hw)?;

        let random = ChaCha20Rng::from_seed(seed(&mut hw, plan.seed));
        let zero = hw.allocate().ok_or(BootError::NoMemory)?;
        let swap = Swap::new(&mut hw, plan.swap_pages);
        let marks = Watermarks::of(hw.total_pages());
        let gatekeeper = Gatekeeper::new(hw.total_pages().saturating_sub(marks.high));
        let template = Template::plain(0, loaded.entry, plan.supervisor_pages).born();
        let template_pages = u64::from(loaded.nr_pages()).saturating_add(1);
        let mut core = Self {
            hw,
            bundle,
            network: plan.network,
            vms: Vms::new(),
            images: Vec::from([loaded]),
            templates: Vec::from([template]),
            embryos: VecDeque::new(),
            template_pages,
            swap,
            packer: Packer::new(),
            marks,
            gatekeeper,
            total_shares: 0,
            classes: Classes::new(),
            groups: alloc::vec![DEFAULT_GROUP_TERMS; MAX_GROUPS as usize],
            is_reclaiming: false,
            vain_turns: 0,
            clock: VecDeque::new(),
            heaviest: heapless::Vec::new(),
            parking: VecDeque::new(),
            starved: VecDeque::new(),
            waiting: VecDeque::new(),
            parks: 0,
            record_bytes: 0,
            wakes_memory: 0,
            wakes_disk: 0,
            parked_on_disk: 0,
            message: Box::new([0; MAX_COMPLETION_BYTES]),
            is_gate_stalled: false,
            no_room_since: None,
            zero,
            scheduler: Scheduler::new(),
            charged: Nanos(0),
            timers: Timers::default(),
            random,
            wire: Wire::default(),
            console: Bucket::new(MACHINE_CONSOLE_RATE, Nanos(0)),
            blocked: VecDeque::new(),
            loading: VecDeque::new(),
            remains: VecDeque::new(),
            events: VecDeque::with_capacity(MAX_EVENTS),
            events_lost: 0,
            idle_ns: 0,
            next_generation: 1,
        };
        for (group, shares) in [SUPERVISOR_GROUP, MACHINE_GROUP] {
            core.scheduler.set_group(group, shares)?;
        }
        core.create_supervisor(plan.supervisor_pages)?;
        if core.hw.free_pages() < core.marks.high {
            return Err(BootError::NoMemory);
        }
        Ok(core)
    }

    /// One turn of the loop: what has arrived, what is due, then one VM or a halt.
    pub fn turn(&mut self) {
        self.poll_wire(None);
        self.poll_serial(None);
        self.fire_timers();
        self.retry_blocked();
        self.tell_supervisor();
        let has_work = self.serve_disk() | self.load_images() | self.reap_remains();
        let has_work = has_work | self.reclaim() | self.continue_parking() | self.grow_template();
        if !self.starved.is_empty() {
            self.feed_starved();
        }
        if !self.waiting.is_empty() {
            self.admit_waiting();
        }
        if self.is_gate_stalled {
            self.resume_gate();
        }
        match self.scheduler.pick() {
            Some(number) => self.dispatch(number),
            None if has_work => {}
            None => self.halt(),
        }
        if self.wire.unflushed >= FLUSH_AFTER || (self.wire.unflushed > 0 && self.scheduler.is_empty()) {
            self.flush();
        }
    }

    /// The hardware, for whoever drives the core.
    pub fn hardware(&mut self) -> &mut H {
        &mut self.hw
    }

    fn flush(&mut self) {
        self.hw.flush();
        self.wire.unflushed = 0;
    }

    fn halt(&mut self) {
        if self.wire.unflushed > 0 {
            self.flush();
        }
        let before = self.hw.now();
        let mut alarm = self.timers.next();
        if self.swap.has_writes() && self.swap.resume_writes_at > before {
            alarm = alarm.min(self.swap.resume_writes_at);
        }
        if self.no_room_since.is_some() {
            alarm = alarm.min(before.after(GATE_RETRY_NS));
        }
        self.hw.set_alarm(alarm);
        self.hw.halt();
        self.idle_ns += self.hw.now().since(before);
    }

    fn fire_timers(&mut self) {
        let next = self.timers.next();
        if next == Nanos::NEVER {
            return;
        }
        let now = self.hw.now();
        for _ in 0..TIMER_BATCH {
            let Some(number) = self.timers.expired(now) else { return };
            if let Some(stub) = self.vms.stub_mut(number) {
                stub.deadline = None;
                stub.pending |= Pending::TIMER;
                self.wake_parked(number);
                continue;
            }
            let Some(mut vm) = self.vms.take(number) else { continue };
            vm.deadline = None;
            vm.set_pending(&mut self.hw, Pending::TIMER);
            if vm.state == State::Idle {
                self.make_runnable(&mut vm);
            }
            self.vms.put(vm);
        }
    }

    /// Wakes a VM that is idle. The VM that runs now is not, and is not in the table.
    pub(crate) fn wake(&mut self, number: u32) {
        if let Some(mut vm) = self.vms.take(number) {
            if vm.state == State::Idle {
                self.make_runnable(&mut vm);
            }
            self.vms.put(vm);
        }
    }

    /// Lets a VM run when its turn comes.
    pub(crate) fn make_runnable(&mut self, vm: &mut Vm<H>) {
        if let Some(deadline) = vm.deadline.take() {
            self.timers.clear(deadline, vm.number);
        }
        let is_waking = vm.state == State::Idle;
        vm.state = State::Runnable;
        vm.wants_park = None;
        if vm.is_queued {
            return;
        }
        let (group, _) = if vm.is_privileged { SUPERVISOR_GROUP } else { MACHINE_GROUP };
        let claim = Claim { group, shares: vm.shares, is_new: vm.counters.dispatches == 0 };
        if self.scheduler.enqueue(vm.number, claim).is_err() {
            // It is tried again when there is memory.
            vm.state = State::Starved;
            self.starved.push_back(vm.number);
            return;
        }
        vm.is_queued = true;
        if is_waking {
            self.scheduler.charge(vm.number, WAKE_NS);
        }
    }

    fn dispatch(&mut self, number: u32) {
        self.charged = self.hw.now();
        let Some(mut vm) = self.vms.take(number) else { return self.scheduler.sleep(number) };
        vm.is_queued = false;
        if vm.state == State::Runnable {
            vm.counters.dispatches += 1;
            let awaited = vm.awaited;
            let after = self.run(&mut vm);
            // Without memory it has not come to use it.
            if vm.awaited == awaited && !matches!(after, After::Wait | After::Starve) {
                vm.awaited = None;
            }
            // A turn that is over at once has a price too, or one that waits for memory would go before all others for ever.
            self.scheduler.charge(number, TURN_NS);
            self.charge(number);
            match after {
                After::Resume | After::Yield | After::Ready | After::Plain => self.make_runnable(&mut vm),
                After::Wait => vm.state = State::Paging,
                After::Starve => {
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
            vm.last_ran = self.hw.now();
        }
        if !vm.is_queued {
            self.scheduler.sleep(number);
        }
        self.vms.put(vm);
    }

    /// Charges the VM that runs with the time since it was charged last: the guest's, and the kernel's for it.
    fn charge(&mut self, number: u32) {
        let now = self.hw.now();
        self.scheduler.charge(number, now.since(self.charged));
        self.charged = now;
    }

    /// Runs a VM until it sleeps, ends, or others have waited long enough.
    pub(crate) fn run(&mut self, vm: &mut Box<Vm<H>>) -> After {
        if let Err(after) = self.fill_receive_ring(vm) {
            return after;
        }
        vm.has_run = true;
        if !vm.memory.as_ref().is_some_and(Memory::has_space) && !self.may_grow(vm) {
            return After::Starve;
        }
        let Some(memory) = vm.memory.as_mut() else { return After::Sleep(Nanos::NEVER) };
        let Ok(space) = memory.prepare(&mut self.hw) else { return After::Starve };
        let Some(template) = self.templates.get(vm.template as usize) else { return After::Sleep(Nanos::NEVER) };
        self.hw.switch_to(space, vm.vector.as_deref().unwrap_or(&template.vector));
        let started = self.hw.now();
        self.hw.set_alarm(started.after(self.scheduler.slice_ns(0)).min(self.timers.next()));
        let mut entered = started;
        let after = loop {
            let exit = self.hw.enter(&mut vm.registers);
            let left = self.hw.now();
            vm.counters.guest_ns += left.since(entered);
            let after = self.handle(vm, exit, left.since(started));
            entered = self.hw.now();
            vm.counters.kernel_ns += entered.since(left);
            if after != After::Resume {
                break after;
            }
        };
        self.hw.switch_from(vm.vector.get_or_insert_default());
        after
    }

    /// Handles an exit of a VM that has run so long since it was dispatched.
    fn handle(&mut self, vm: &mut Vm<H>, exit: Exit, ran_ns: u64) -> After {
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

    fn fault(&mut self, vm: &mut Vm<H>, address: u64, access: Access) -> After {
        if vm.is_embryo && layout::page_of(address) == layout::page_of(layout::REGISTER_PAGE) {
            // What it reads there is one VM's.
            return After::Plain;
        }
        vm.counters.faults += 1;
        let violation = Cause::Memory { address, access: report_access(access) };
        // What was just mapped cannot fault again, unless the processor means something else by it (emulated ones do,
        // for instructions that return to another privilege level). Mapping it for ever helps nobody.
        let fault = Some((address, access, vm.registers.rip));
        if core::mem::replace(&mut vm.last_fault, fault) == fault {
            return After::End(violation);
        }
        let Ok(page) = u32::try_from(layout::page_of(address)) else { return After::End(violation) };
        let result =
            self.with_memory(vm, |memory, hw, shared, means| memory.fault(hw, shared, means, Ppn(page), access));
        match result {
            Ok(mapped) => {
                let counters = &mut vm.counters;
                match mapped {
                    Mapped::Found => {}
                    Mapped::Zeroed => counters.faults_zero += 1,
                    Mapped::Copied => counters.faults_copied += 1,
                    Mapped::Unpacked => counters.faults_packed += 1,
                }
                if mapped != Mapped::Found && vm.memory.as_ref().is_some_and(|m| m.private_pages().is_multiple_of(64)) {
                    self.weigh(vm);
                }
                After::Resume
            }
            Err(Absent::Violation) => After::End(violation),
            Err(other) => self.postpone(vm, other),
        }
    }

    /// What a VM does that needs a page it cannot have at once. It executes the same instruction again later.
    pub(crate) fn postpone(&mut self, vm: &mut Vm<H>, absent: Absent) -> After {
        vm.last_fault = None;
        let pack = |number| vm.memory.as_ref().and_then(|memory| memory.pack(number));
        let block = |number| match pack(number).map(|pack| pack.disk) {
            Some(Place::Stored(stored)) => u64::from(stored.first),
            _ => 0,
        };
        match absent {
            Absent::NoMemory => After::Starve,
            Absent::Pack(number) => {
                let Some(pack) = pack(number) else {
                    return After::End(Cause::PageLost { block: 0, error: SwapError::Checksum });
                };
                let (epoch, place) = (pack.epoch, pack.disk);
                vm.counters.faults_disk += 1;
                vm.awaited = Some(number);
                if matches!(place, Place::Stored(_)) {
                    self.swap.want(Handle { vm: vm.number, pack: Some(number), epoch });
                }
                After::Wait
            }
            Absent::Broken(number) => After::End(Cause::PageLost { block: block(number), error: SwapError::Checksum }),
            Absent::Register | Absent::Violation => After::End(Cause::OutOfMemory { address: 0 }),
        }
    }

    /// Works on a VM's memory with all that takes. The register page is made if it turns out to be needed, and no
    /// memory is taken beyond what the VM may have.
    pub(crate) fn with_memory<R>(
        &mut self,
        vm: &mut Vm<H>,
        work: impl FnMut(&mut Memory<H::Space>, &mut H, &Shared<'_>, &mut Means<'_>) -> Result<R, Absent>,
    ) -> Result<R, Absent> {
        if !self.may_grow(vm) {
            return Err(Absent::NoMemory);
        }
        self.reach_memory(vm, work)
    }

    /// The same for work that takes no memory, or gives some back.
    pub(crate) fn reach_memory<R>(
        &mut self,
        vm: &mut Vm<H>,
        mut work: impl FnMut(&mut Memory<H::Space>, &mut H, &Shared<'_>, &mut Means<'_>) -> Result<R, Absent>,
    ) -> Result<R, Absent> {
        for is_again in [false, true] {
            let memory = vm.memory.as_mut().ok_or(Absent::Violation)?;
            let template = self.templates.get(vm.template as usize).ok_or(Absent::Violation)?;
            let image = self.images.get(template.image as usize).ok_or(Absent::Violation)?;
            let shared = Shared { image, template, zero: self.zero.mpn() };
            let mut means = Means { swap: &mut self.swap, packer: &mut self.packer };
            match work(memory, &mut self.hw, &shared, &mut means) {
                Err(Absent::Register) if !is_again => self.make_register_page(vm)?,
                result => return result,
            }
        }
        Err(Absent::Violation)
    }

    fn handle_interrupt(&mut self, vm: &mut Vm<H>, ran_ns: u64) -> After {
        // Before anybody wakes: those who come have no part in what was used before.
        self.charge(vm.number);
        self.poll_wire(Some(vm));
        if let Err(after) = self.fill_receive_ring(vm) {
            return after;
        }
        self.poll_serial(Some(vm));
        self.fire_timers();
        if self.scheduler.is_over(ran_ns) {
            return After::Yield;
        }
        let now = self.hw.now();
        // A VM that is alone may run over its quantum; the wire is still looked after once in a quantum.
        let slice = self.scheduler.slice_ns(ran_ns);
        self.hw.set_alarm(now.after(slice).min(self.timers.next()));
        if self.wire.unflushed > 0 {
            self.flush();
        }
        After::Resume
    }

    /// Moves what was typed into the supervisor's console ring. `current` is the VM that was running.
    fn poll_serial(&mut self, current: Option<&mut Vm<H>>) {
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
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        } else {
            self.events_lost += 1;
            if self.events_lost == 1 {
                log(&mut self.hw, Level::Warn, format_args!("events are being lost: the supervisor is too slow"));
            }
        }
    }
}

/// Mixes the host's randomness with the processor's: as good as the better of the two.
fn seed<H: Hardware>(hw: &mut H, mut seed: [u8; 32]) -> [u8; 32] {
    let mut own = [0; 32];
    if !hw.hardware_entropy(&mut own) {
        log(hw, Level::Warn, format_args!("the processor has no random numbers: relying on the host's seed alone"));
    }
    for (byte, own) in seed.iter_mut().zip(own) {
        *byte ^= own;
    }
    seed
}
