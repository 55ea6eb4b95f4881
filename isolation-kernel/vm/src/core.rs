//! One core's instance of the kernel: its event loop.

use crate::console::{Level, MACHINE_CONSOLE_RATE, log};
use crate::gate::Loading;
use crate::images::LoadedImage;
use crate::lifecycle::Remains;
use crate::memory::{Shared, report_access};
use crate::network::Wire;
use crate::timers::Timers;
use crate::vm::{State, Vm, Vms};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;
use hal::{Exit, Hardware, Nanos, NoMemory, Page};
use policy::bucket::Bucket;
use policy::scheduler::{QUANTUM_NS, Scheduler};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use virtual_isa::bundle::{Bundle, BundleError, EntryKind, MachinePlan};
use virtual_isa::control::Pending;
use virtual_isa::exception::{Cause, Exception};
use virtual_isa::gate::Event;
use virtual_isa::image::{Image, ImageError};
use virtual_isa::network::{Network, NetworkError};

/// Number of the supervisor VM.
pub(crate) const SUPERVISOR: u32 = 0;

/// Timers that fire in one turn of the loop.
const TIMER_BATCH: usize = 64;

/// Frames queued for the wire that are sent without waiting for the loop to run dry.
const FLUSH_AFTER: u32 = 16;

/// Events that wait for the supervisor.
pub(crate) const MAX_EVENTS: usize = 256;

/// One core's kernel. It owns its hardware and its VMs outright.
pub struct Core<'b, H: Hardware> {
    pub(crate) hw: H,
    pub(crate) bundle: Bundle<'b>,
    pub(crate) network: Network,
    pub(crate) vms: Vms<H>,
    pub(crate) images: Vec<LoadedImage>,
    pub(crate) zero: Page,
    pub(crate) scheduler: Scheduler,
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
        let image = bundle.entries().find(|entry| entry.kind == EntryKind::Image).ok_or(BootError::NoSupervisor)?;
        let image = Image::check(image.bytes).map_err(BootError::Image)?;
        image.check_memory(plan.supervisor_pages).map_err(BootError::Image)?;
        let mut loaded = LoadedImage::new(&image);
        loaded.load_more(&image, u32::MAX, &mut hw)?;

        let random = ChaCha20Rng::from_seed(seed(&mut hw, plan.seed));
        let zero = hw.allocate().ok_or(BootError::NoMemory)?;
        let mut core = Self {
            hw,
            bundle,
            network: plan.network,
            vms: Vms::new(),
            images: Vec::from([loaded]),
            zero,
            scheduler: Scheduler::new(),
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
        core.create_supervisor(plan.supervisor_pages)?;
        Ok(core)
    }

    /// One turn of the loop: what has arrived, what is due, then one VM or a halt.
    pub fn turn(&mut self) {
        self.poll_wire(None);
        self.poll_serial(None);
        self.fire_timers();
        self.retry_blocked();
        self.tell_supervisor();
        let has_work = self.load_images() | self.reap_remains();
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
        self.hw.set_alarm(self.timers.next());
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
        vm.state = State::Runnable;
        if !vm.is_queued {
            vm.is_queued = true;
            self.scheduler.enqueue(vm.number);
        }
    }

    fn dispatch(&mut self, number: u32) {
        let Some(mut vm) = self.vms.take(number) else { return };
        vm.is_queued = false;
        if vm.state == State::Runnable {
            vm.counters.dispatches += 1;
            match self.run(&mut vm) {
                After::Resume | After::Yield => self.make_runnable(&mut vm),
                After::Sleep(deadline) => {
                    vm.state = State::Idle;
                    if deadline != Nanos::NEVER {
                        vm.deadline = Some(deadline);
                        self.timers.set(deadline, number);
                    }
                }
                After::End(cause) => self.end(&mut vm, cause),
            }
        }
        self.vms.put(vm);
    }

    /// Runs a VM until it sleeps, ends, or others have waited long enough.
    fn run(&mut self, vm: &mut Box<Vm<H>>) -> After {
        if let Err(cause) = self.fill_receive_ring(vm) {
            return After::End(cause);
        }
        let Some(memory) = vm.memory.as_mut() else { return After::Sleep(Nanos::NEVER) };
        let Ok(space) = memory.prepare(&mut self.hw) else { return After::End(Cause::OutOfMemory { address: 0 }) };
        self.hw.switch_to(space, &vm.vector);
        let started = self.hw.now();
        self.hw.set_alarm(started.after(QUANTUM_NS).min(self.timers.next()));
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
        self.hw.switch_from(&mut vm.vector);
        after
    }

    /// Handles an exit of a VM that has run so long since it was dispatched.
    fn handle(&mut self, vm: &mut Vm<H>, exit: Exit, ran_ns: u64) -> After {
        if !matches!(exit, Exit::PageFault { .. }) {
            vm.last_fault = None;
        }
        match exit {
            Exit::Instruction => self.perform(vm),
            Exit::PageFault { address, access } => {
                vm.counters.faults += 1;
                // What was just mapped cannot fault again, unless the processor means something else by it (emulated
                // ones do, for instructions that return to another privilege level). Mapping it for ever helps nobody.
                let fault = Some((address, access, vm.registers.rip));
                if core::mem::replace(&mut vm.last_fault, fault) == fault {
                    return After::End(Cause::Memory { address, access: report_access(access) });
                }
                let Some((memory, image)) = vm.memory.as_mut().zip(self.images.get(vm.image as usize)) else {
                    return After::End(Cause::OutOfMemory { address });
                };
                let shared = Shared { image, zero: self.zero.mpn() };
                match memory.fault(&mut self.hw, &shared, address, access) {
                    Ok(()) => After::Resume,
                    Err(cause) => After::End(cause),
                }
            }
            Exit::Exception { vector, code: _ } => match Exception::try_from(vector) {
                Ok(exception) => After::End(Cause::Exception(exception)),
                // Not a guest's exception by the ISA; the nearest that is tells the truth about the guest.
                Err(_) => After::End(Cause::Exception(Exception::GeneralProtection)),
            },
            Exit::Interrupt => self.handle_interrupt(vm, ran_ns),
        }
    }

    fn handle_interrupt(&mut self, vm: &mut Vm<H>, ran_ns: u64) -> After {
        self.poll_wire(Some(vm));
        if let Err(cause) = self.fill_receive_ring(vm) {
            return After::End(cause);
        }
        self.poll_serial(Some(vm));
        self.fire_timers();
        if self.scheduler.is_over(ran_ns) {
            return After::Yield;
        }
        let now = self.hw.now();
        let rest = QUANTUM_NS.saturating_sub(ran_ns);
        // A VM that is alone may run over its quantum; the wire is still looked after once in a quantum.
        let slice = if rest == 0 { QUANTUM_NS } else { rest };
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
