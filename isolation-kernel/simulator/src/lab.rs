//! A whole machine on the bench: kernel, supervisor, programs, and the means to look at them.

use crate::bundle;
use crate::guest::{Cpu, Fault, Op, Program};
use crate::machine::{Identity, Machine, NOBODY, Prologue};
use crate::outside::Outside;
use crate::supervisor::{Clerk, Desk, Reply};
use std::cell::{Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use virtual_isa::exception::Report;
use virtual_isa::gate::{Answer, Event, GateError, MachineStatus, Operation, Tier, VmState, VmStatus};
use virtual_isa::instruction::{Instruction, NO_DEADLINE};
use virtual_isa::network::Network;
use vm::{Core, Switches, seats};

/// What a machine is to have.
#[derive(Clone)]
pub struct LabPlan {
    pages: u32,
    disk_blocks: u64,
    swap_pages: Option<u64>,
    memory_pages: u32,
    minimum_pages: u32,
    images: u32,
    switches: Switches,
    cores: u32,
    seed: u64,
    prologue: Option<Prologue>,
}

impl LabPlan {
    /// A machine of so many pages, without a disk, with one image, whose VMs have 4 MiB and call `ready()` first
    /// thing.
    #[must_use]
    pub fn new(pages: u32) -> Self {
        Self {
            pages,
            disk_blocks: 0,
            swap_pages: None,
            memory_pages: 1024,
            minimum_pages: 0,
            images: 1,
            switches: Switches::default(),
            cores: cores_wanted(),
            seed: 0,
            prologue: Some(Rc::new(RefCell::new(|_: &mut Cpu<'_>| Ok(Op::call(Instruction::Ready, &[]))))),
        }
    }

    /// With a disk of so many blocks, all of which the kernel may use to swap.
    #[must_use]
    pub fn disk(self, disk_blocks: u64) -> Self {
        Self { disk_blocks, ..self }
    }

    /// With another number of pages planned for swap than the disk has.
    #[must_use]
    pub fn swap(self, swap_pages: u64) -> Self {
        Self { swap_pages: Some(swap_pages), ..self }
    }

    /// With so much memory for each VM.
    #[must_use]
    pub fn memory(self, memory_pages: u32) -> Self {
        Self { memory_pages, ..self }
    }

    /// With so much of it kept for each VM.
    #[must_use]
    pub fn minimum(self, minimum_pages: u32) -> Self {
        Self { minimum_pages, ..self }
    }

    /// With so many images, all alike.
    #[must_use]
    pub fn images(self, images: u32) -> Self {
        Self { images, ..self }
    }

    /// With parts of the kernel switched off.
    #[must_use]
    pub fn switches(self, switches: Switches) -> Self {
        Self { switches, ..self }
    }

    /// With so many cores, whose turns are interleaved by a seed.
    #[must_use]
    pub fn cores(self, cores: u32, seed: u64) -> Self {
        Self { cores, seed, ..self }
    }

    /// With these steps before the programs begin. The last of them calls `ready()`; none may call anything else.
    #[must_use]
    pub fn template(self, steps: impl FnMut(&mut Cpu<'_>) -> Result<Op, Fault> + 'static) -> Self {
        Self { prologue: Some(Rc::new(RefCell::new(steps))), ..self }
    }

    /// With programs that begin at once, `ready()` or not.
    #[must_use]
    pub fn no_template(self) -> Self {
        Self { prologue: None, ..self }
    }

    /// Boots it. VM `n` of those created later runs `programs(n)`.
    ///
    /// # Panics
    /// If it does not boot.
    #[must_use]
    pub fn boot(self, mut programs: impl FnMut(u32) -> Box<dyn Program> + 'static) -> Lab {
        let desk = Rc::new(RefCell::new(Desk::default()));
        let clerk = Rc::clone(&desk);
        let loader = move |identity: Identity| match identity.vm {
            _ if identity.is_supervisor => Box::new(Clerk(Rc::clone(&clerk))) as Box<dyn Program>,
            // It does what a template must not do, and its VMs boot plainly.
            NOBODY => Box::new(|_: &mut Cpu<'_>| Ok(Op::call(Instruction::Idle, &[NO_DEADLINE]))),
            vm => programs(vm),
        };
        let (mut machines, outside) = Machine::with_cores(self.cores, self.pages, self.disk_blocks, Box::new(loader));
        if let Some(prologue) = &self.prologue {
            machines[0].set_prologue(bundle::ENTRY, Rc::clone(prologue));
        }
        let bundle = kept_bundle(self.images, self.swap_pages.unwrap_or(self.disk_blocks));
        let mut cores: Vec<Core<'static, Machine>> = Vec::new();
        for (mut machine, seat) in machines.into_iter().zip(seats(self.cores)) {
            if let Some(before) = cores.last_mut() {
                before.hardware().hand_over(&mut machine);
            }
            let mut core = Core::boot(machine, bundle, seat).expect("the machine boots");
            core.set_switches(self.switches);
            cores.push(core);
        }
        let holder = cores.len() - 1;
        let random = fastrand::Rng::with_seed(self.seed);
        let mut lab = Lab { cores, holder, random, outside, desk, plan: self, images: Vec::new(), next_ticket: 1 };
        for n in 0..lab.plan.images {
            match lab.ask(Operation::LoadImage { entry: 2 + n }) {
                Ok(Reply::Plain(Answer::Image { image })) => lab.images.push(image),
                other => panic!("the test image is not loaded: {other:?}"),
            }
        }
        lab
    }
}

/// On how many cores tests run that do not care: one, or what the environment says.
pub(crate) fn cores_wanted() -> u32 {
    let wanted = std::env::var("FIRN_CORES").ok();
    wanted.map_or(1, |cores| cores.parse().expect("FIRN_CORES must be a number"))
}

/// Bundles live as long as the kernel, which is for ever: there is one of each kind, however many labs.
fn kept_bundle(images: u32, swap_pages: u64) -> &'static [u8] {
    static BUNDLES: Mutex<BTreeMap<(u32, u64), &'static [u8]>> = Mutex::new(BTreeMap::new());
    let mut bundles = BUNDLES.lock().unwrap_or_else(PoisonError::into_inner);
    bundles.entry((images, swap_pages)).or_insert_with(|| {
        let mut all = vec![bundle::supervisor_image()];
        all.extend((0..images).map(|_| bundle::test_image()));
        Box::leak(bundle::bundle_with_swap(&all, swap_pages).into_boxed_slice())
    })
}

/// A machine with a supervisor that does what the test tells it, and programs of the test.
pub struct Lab {
    cores: Vec<Core<'static, Machine>>,
    /// The core that ran last: it has the memory.
    holder: usize,
    random: fastrand::Rng,
    outside: Rc<RefCell<Outside>>,
    desk: Rc<RefCell<Desk>>,
    plan: LabPlan,
    images: Vec<u32>,
    next_ticket: u64,
}

/// Nanoseconds that a turn of the kernel's loop takes at least.
const TURN_NS: u64 = 5_000;

/// Turns after which something that was waited for is taken to have failed.
const PATIENCE: usize = 20_000;

impl Lab {
    /// Boots a machine as in [`LabPlan::new`].
    ///
    /// # Panics
    /// If it does not boot.
    #[must_use]
    pub fn new(nr_pages: u32, programs: impl FnMut(u32) -> Box<dyn Program> + 'static) -> Self {
        LabPlan::new(nr_pages).boot(programs)
    }

    /// One turn of the kernel's loop. It takes time, whether a guest ran in it or not.
    pub fn turn(&mut self) {
        let before = self.outside.borrow().now;
        let Some(core) = self.choose_core() else { return };
        self.cores[core].turn();
        let mut outside = self.outside.borrow_mut();
        outside.now = outside.now.max(before + TURN_NS);
    }

    /// Lets one of the cores run that have a reason to. If none has, time goes on until one has.
    fn choose_core(&mut self) -> Option<usize> {
        if self.cores.len() == 1 {
            return Some(0);
        }
        let times: Vec<(u64, usize)> = (0..self.cores.len())
            .filter_map(|core| self.cores[core].hardware().next_at().map(|at| (at, core)))
            .collect();
        let Some(&(first, _)) = times.iter().min() else {
            self.outside.borrow_mut().dead_halts += 1;
            self.holding(0);
            return None;
        };
        let ready: Vec<usize> = times.into_iter().filter(|&(at, _)| at == first).map(|(_, core)| core).collect();
        let core = ready[self.random.usize(..ready.len())];
        {
            let mut outside = self.outside.borrow_mut();
            outside.now = outside.now.max(first);
        }
        self.holding(core);
        self.cores[core].hardware().resume();
        self.cores[core].note_absence();
        Some(core)
    }

    /// Gives memory and programs to a core.
    fn holding(&mut self, core: usize) {
        if core != self.holder {
            let (low, high) = self.cores.split_at_mut(core.max(self.holder));
            // A swap: it does not matter who gives.
            low[core.min(self.holder)].hardware().hand_over(high[0].hardware());
            self.holder = core;
        }
    }

    /// So many turns.
    pub fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn();
        }
    }

    /// Turns until `done` says so.
    ///
    /// # Panics
    /// If it never does.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..PATIENCE {
            if done(self) {
                return;
            }
            self.turn();
        }
        let state = self.describe();
        panic!("waited for {what} in vain. {state}\nThe log:\n{}", self.outside().serial);
    }

    /// What the machine and the first VMs say of themselves, for a test that fails.
    fn describe(&mut self) -> String {
        let tickets: Vec<u64> = std::iter::once(self.send(Operation::Machine))
            .chain((0..32).map(|vm| self.send(Operation::Inspect { vm })))
            .collect();
        self.turns(400);
        let desk = self.desk.borrow();
        let answers = tickets.iter().filter_map(|&ticket| desk.result(ticket));
        let lines = answers.filter_map(|answer| match answer {
            Ok(Reply::Plain(Answer::Machine(status))) => Some(format!("{status:?}")),
            Ok(Reply::Plain(Answer::Vm(s))) => Some(format!(
                "generation {} is {:?}: {} private, {} packed, {} on disk, {} tables, {} dispatches",
                s.generation,
                s.state,
                s.private_pages,
                s.packed_pages,
                s.disk_pages,
                s.table_pages,
                s.counters.dispatches
            )),
            _ => None,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Turns until a VM is in a state.
    ///
    /// # Panics
    /// If it never is.
    pub fn until_state(&mut self, vm: u32, state: VmState) {
        self.until(&format!("VM {vm} to be {state:?}"), |lab| {
            lab.turns(2);
            lab.inspect(vm).state == state
        });
    }

    /// Puts a request to the gate. Its ticket comes back with the completion, on the [`Desk`].
    pub fn send(&mut self, operation: Operation<'_>) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.desk.borrow_mut().ask(ticket, operation);
        ticket
    }

    /// Puts a request to the gate and waits for its completion.
    ///
    /// # Errors
    /// What the gate answers.
    ///
    /// # Panics
    /// If no completion comes.
    pub fn ask(&mut self, operation: Operation<'_>) -> Result<Reply, GateError> {
        let ticket = self.send(operation);
        let what = format!("the completion of {operation:?}");
        self.until(&what, |lab| lab.desk.borrow().result(ticket).is_some());
        let desk = self.desk.borrow();
        desk.result(ticket).cloned().expect("it was there just now")
    }

    /// Creates a VM of the first image and starts it.
    ///
    /// # Panics
    /// If the gate refuses.
    pub fn start(&mut self, vm: u32) {
        self.create(vm).expect("the VM is created");
        self.ask(Operation::Start { vm }).expect("the VM starts");
    }

    /// Creates a VM of the first image.
    ///
    /// # Errors
    /// What the gate answers.
    pub fn create(&mut self, vm: u32) -> Result<Reply, GateError> {
        self.ask(self.creation(vm))
    }

    /// The request that creates a VM of the first image.
    #[must_use]
    pub fn creation(&self, vm: u32) -> Operation<'static> {
        Operation::Create {
            vm,
            image: self.image(),
            memory_pages: self.plan.memory_pages,
            minimum_pages: self.plan.minimum_pages,
            shares: 100,
            class: 0,
            arguments: "a=1",
        }
    }

    /// Ends a VM, if it has not, and destroys it.
    ///
    /// # Panics
    /// If there is none.
    pub fn destroy(&mut self, vm: u32) {
        let _ = self.ask(Operation::Stop { vm });
        self.ask(Operation::Destroy { vm }).expect("an ended VM can be destroyed");
    }

    /// Parks a VM that sleeps.
    ///
    /// # Errors
    /// What the gate answers.
    pub fn park(&mut self, vm: u32, tier: Tier) -> Result<Reply, GateError> {
        self.ask(Operation::Park { vm, tier })
    }

    /// Parks a VM and waits until it is where it is to be: on disk, nothing of it is in memory.
    ///
    /// # Panics
    /// If that does not come about.
    pub fn park_fully(&mut self, vm: u32, tier: Tier) {
        let on_disk = self.status().parked_on_disk;
        self.park(vm, tier).expect("a VM that sleeps can be parked");
        self.until_state(vm, VmState::Parked);
        if tier == Tier::Disk {
            self.until("the record to be written", |lab| {
                lab.turns(2);
                lab.status().parked_on_disk > on_disk
            });
        }
    }

    /// Whether a VM is parked.
    ///
    /// # Panics
    /// If there is no such VM.
    pub fn is_parked(&mut self, vm: u32) -> bool {
        self.inspect(vm).state == VmState::Parked
    }

    /// A VM's status.
    ///
    /// # Panics
    /// If there is no such VM.
    pub fn inspect(&mut self, vm: u32) -> VmStatus {
        match self.ask(Operation::Inspect { vm }) {
            Ok(Reply::Plain(Answer::Vm(status))) => status,
            other => panic!("no status: {other:?}"),
        }
    }

    /// The machine's status.
    ///
    /// # Panics
    /// Never: there is one.
    pub fn status(&mut self) -> MachineStatus {
        match self.ask(Operation::Machine) {
            Ok(Reply::Plain(Answer::Machine(status))) => status,
            other => panic!("no status: {other:?}"),
        }
    }

    /// The report of a VM that has ended, if it has.
    #[must_use]
    pub fn report_now(&self, vm: u32) -> Option<Report> {
        self.desk.borrow().events.iter().find_map(|event| match event {
            Event::Ended { vm: ended, report } if *ended == vm => Some(*report),
            _ => None,
        })
    }

    /// Waits until a VM has ended and returns its report.
    ///
    /// # Panics
    /// If it does not end.
    pub fn report(&mut self, vm: u32) -> Report {
        self.until("a VM's end", |lab| lab.report_now(vm).is_some());
        self.report_now(vm).expect("it was there just now")
    }

    /// A frame from the host to a VM arrives at the card. All its bytes after the addresses are `mark`.
    pub fn frame_to(&mut self, vm: u32, length: usize, mark: u8) {
        let network = Network::default();
        let mut frame = vec![mark; length.max(34)];
        frame[..6].copy_from_slice(&Network::SWITCH_MAC);
        frame[6..12].copy_from_slice(&network.host_mac);
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[26..30].copy_from_slice(&network.host_ipv4);
        frame[30..34].copy_from_slice(&network.ipv4_of(vm));
        self.outside_mut().incoming.push_back(frame);
    }

    /// The number of the first test image.
    #[must_use]
    pub fn image(&self) -> u32 {
        self.images[0]
    }

    /// The numbers of all test images.
    #[must_use]
    pub fn images(&self) -> &[u32] {
        &self.images
    }

    /// The supervisor's desk.
    #[must_use]
    pub fn desk(&self) -> RefMut<'_, Desk> {
        self.desk.borrow_mut()
    }

    /// The outside, to look at.
    #[must_use]
    pub fn outside(&self) -> Ref<'_, Outside> {
        self.outside.borrow()
    }

    /// The outside, to change.
    #[must_use]
    pub fn outside_mut(&self) -> RefMut<'_, Outside> {
        self.outside.borrow_mut()
    }

    /// The kernel, to plant a defect in.
    pub fn core(&mut self) -> &mut Core<'static, Machine> {
        &mut self.cores[0]
    }

    /// The fake hardware.
    #[must_use]
    pub fn machine(&mut self) -> &Machine {
        self.cores[self.holder].hardware()
    }

    /// Frames of the kernel's pool that are in use.
    #[must_use]
    pub fn frames_in_use(&mut self) -> usize {
        self.cores.iter_mut().map(|core| core.hardware().frames_in_use()).sum()
    }
}
