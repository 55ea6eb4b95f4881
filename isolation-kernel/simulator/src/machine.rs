//! The fake hardware of one core, over [`Memory`], [`Tables`] and the [`Outside`].
//!
//! It is strict about processors too: a VM that comes back must find the registers it left, but for those that the
//! virtual instruction changes, and its vector registers. Address spaces are never stale: what is unmapped is so at
//! once, as the traits demand, and `pages` sees to it that nothing is released before.

use crate::disk::FakeDisk;
use crate::guest::{Cpu, Fault, Op, Program};
use crate::outside::Outside;
use crate::pages::Memory;
pub use crate::spaces::Space;
use crate::spaces::{Entries, Tables};
use hal::{
    Access, Clock, Cores, Exit, Frame, Mpn, Nanos, PAGE_SIZE, Page, Pages, Ppn, Processor, Registers, Rights, Serial,
    VectorState,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use virtual_isa::layout;
use virtual_isa::register::Features;

/// Nanoseconds that one step of a program takes.
pub const STEP_NS: u64 = 1_000;

/// Frames that the fake card queues before it says that it is full.
pub const TRANSMIT_QUEUE: usize = 8;

/// Frames of the fake machine's pool.
pub const FRAME_POOL: usize = 2048;

/// What the kernel's work takes, if it is to take time: a page, a copy of one, another address space, an exit, a frame.
const ALLOCATE_NS: u64 = 200;
const COPY_NS: u64 = 1_500;
const SWITCH_NS: u64 = 2_000;
const EXIT_NS: u64 = 300;
const FRAME_NS: u64 = 1_000;

/// What it takes to tell the card that there are frames.
const FLUSH_NS: u64 = 10_000;

mod devices;
mod tables;

/// Number of a VM that is in no table: the one that becomes a template.
pub const NOBODY: u32 = u32::MAX;

/// The VM that a program is for, as its register page has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its number.
    pub vm: u32,
    /// Its generation.
    pub generation: u64,
    /// Whether it has the privilege bit.
    pub is_supervisor: bool,
}

/// A factory of programs: what a VM runs.
pub type Loader = Box<dyn FnMut(Identity) -> Box<dyn Program>>;

/// What a guest does before `ready()`, step by step: the same for all that begin at an address.
pub type Prologue = Rc<RefCell<dyn FnMut(&mut Cpu<'_>) -> Result<Op, Fault>>>;

/// A program, and where its last `syscall` stands: an instruction pointer that is back there executes it again.
///
/// A VM's `r15` says which it is: 0 before it has read its register page, and so in every clone that begins.
struct Running {
    program: Box<dyn Program>,
    owner: Identity,
    syscall_at: Option<u64>,
    /// Registers and vector registers when it last came back.
    left: Option<(Registers, VectorState)>,
}

/// Bytes of the `syscall` instruction.
const SYSCALL_BYTES: u64 = 2;

/// The fake hardware of one core. Memory and programs are one machine's: whichever core runs has them
/// ([`hand_over`](Machine::hand_over)).
pub struct Machine {
    core: u32,
    nr_cores: u32,
    /// Whether it halts, with other cores beside it.
    is_halted: bool,
    outside: Rc<RefCell<Outside>>,
    memory: Memory,
    spaces: BTreeMap<u64, Tables>,
    /// Tables that spaces share.
    leaves: BTreeMap<Mpn, Entries>,
    next_space: u64,
    current: Option<u64>,
    programs: BTreeMap<u64, Running>,
    next_program: u64,
    loader: Loader,
    /// What is done at this address before anything else.
    prologue: Option<(u64, Prologue)>,
    alarm: Nanos,
    vector: VectorState,
    frames_out: usize,
    queued: Vec<Frame>,
    /// Frames that were sent and are other cores' buffers.
    sent: Vec<Frame>,
    /// Frames that are on the wire, and when each has left.
    leaving: VecDeque<(u64, Frame)>,
    /// Whether the card was full when it was given a frame: then it says when it has room.
    is_room_awaited: bool,
    /// Whether the card was found empty, and interrupts when a frame is there.
    is_frame_awaited: bool,
    entropy: u8,
}

impl Machine {
    /// A machine with so many pages and no disk, and a handle on its outside.
    #[must_use]
    pub fn new(nr_pages: u32, loader: Loader) -> (Self, Rc<RefCell<Outside>>) {
        Self::with_disk(nr_pages, 0, loader)
    }

    /// A machine with so many pages and a disk of so many blocks, and a handle on its outside.
    #[must_use]
    pub fn with_disk(nr_pages: u32, nr_blocks: u64, loader: Loader) -> (Self, Rc<RefCell<Outside>>) {
        let outside = Outside { disk: FakeDisk::new(nr_blocks), ..Outside::default() };
        let outside = Rc::new(RefCell::new(outside));
        let machine = Self::of_core(0, 1, nr_pages, &outside, loader);
        (machine, outside)
    }

    /// The machines of so many cores, and a handle on what is outside of them all. The first has the memory.
    #[must_use]
    pub fn with_cores(
        nr_cores: u32,
        nr_pages: u32,
        nr_blocks: u64,
        loader: Loader,
    ) -> (Vec<Self>, Rc<RefCell<Outside>>) {
        let (mut first, outside) = Self::with_disk(nr_pages, nr_blocks, loader);
        first.nr_cores = nr_cores;
        outside.borrow_mut().woken = vec![false; nr_cores as usize];
        let nobody = || Box::new(|_: Identity| -> Box<dyn Program> { panic!("this core does not run") });
        let others = (1..nr_cores).map(|core| Self::of_core(core, nr_cores, 0, &outside, nobody()));
        let machines = std::iter::once(first).chain(others).collect();
        (machines, outside)
    }

    fn of_core(core: u32, nr_cores: u32, nr_pages: u32, outside: &Rc<RefCell<Outside>>, loader: Loader) -> Self {
        Self {
            core,
            nr_cores,
            is_halted: false,
            outside: Rc::clone(outside),
            memory: Memory::new(nr_pages),
            spaces: BTreeMap::new(),
            leaves: BTreeMap::new(),
            next_space: 1,
            current: None,
            programs: BTreeMap::new(),
            next_program: 1,
            loader,
            prologue: None,
            alarm: Nanos::NEVER,
            vector: VectorState::new(),
            frames_out: 0,
            queued: Vec::new(),
            sent: Vec::new(),
            leaving: VecDeque::new(),
            is_room_awaited: false,
            is_frame_awaited: true,
            entropy: 0,
        }
    }

    /// Lets another core run: it has memory and programs from now on.
    pub fn hand_over(&mut self, to: &mut Self) {
        std::mem::swap(&mut self.memory, &mut to.memory);
        std::mem::swap(&mut self.programs, &mut to.programs);
        std::mem::swap(&mut self.next_program, &mut to.next_program);
        std::mem::swap(&mut self.loader, &mut to.loader);
        std::mem::swap(&mut self.prologue, &mut to.prologue);
    }

    /// When the core has a reason to run: now, if it does not halt or something has come for it.
    #[must_use]
    pub fn next_at(&self) -> Option<u64> {
        let outside = self.outside.borrow();
        let has_input = self.core == 0 && (!outside.incoming.is_empty() || !outside.typed.is_empty());
        if !self.is_halted || has_input || outside.woken[self.core as usize] {
            return Some(outside.now);
        }
        // Any core takes what the disk has done, whoever it is for.
        let disk = outside.disk.next_at().map_or(u64::MAX, |at| at.max(outside.now));
        let room = self.room_at().map_or(u64::MAX, |at| at.max(outside.now));
        let at = disk.min(room).min(self.alarm.0.max(outside.now));
        (at != u64::MAX).then_some(at)
    }

    /// Ends a halt.
    pub fn resume(&mut self) {
        self.is_halted = false;
        let mut outside = self.outside.borrow_mut();
        outside.woken[self.core as usize] = false;
        if self.alarm <= Nanos(outside.now) {
            self.alarm = Nanos::NEVER;
        }
    }

    /// Frames of the pool that somebody holds.
    #[must_use]
    pub const fn frames_in_use(&self) -> usize {
        self.frames_out
    }

    /// Pages that are free.
    #[must_use]
    pub fn total_free(&self) -> usize {
        self.memory.free()
    }

    /// Pages of all page tables.
    #[must_use]
    pub fn pages_in_tables(&self) -> usize {
        self.spaces.values().map(Tables::count).sum()
    }

    /// What the current space maps at an address for an access, or the fault.
    pub(crate) fn translate(&mut self, address: u64, access: Access) -> Result<Mpn, Fault> {
        let fault = Fault(Exit::PageFault { address, access });
        let ppn = u32::try_from(layout::page_of(address)).map(Ppn).map_err(|_| fault)?;
        let space = self.current.and_then(|number| self.spaces.get_mut(&number)).ok_or(fault)?;
        let entry = space.slot(ppn).and_then(Option::as_mut).ok_or(fault)?;
        let is_allowed = match access {
            Access::Read => true,
            Access::Write => entry.rights == Rights::ReadWrite,
            Access::Execute => entry.rights == Rights::ReadExecute,
        };
        entry.is_accessed |= is_allowed;
        if is_allowed { Ok(entry.mpn) } else { Err(fault) }
    }

    pub(crate) fn guest_bytes(&mut self, mpn: Mpn) -> &mut [u8; PAGE_SIZE] {
        self.memory.page_mut(mpn)
    }

    pub(crate) const fn guest_vector(&mut self) -> &mut VectorState {
        &mut self.vector
    }

    /// Lets guests that begin at an address do this before their programs are looked for.
    pub fn set_prologue(&mut self, entry: u64, prologue: Prologue) {
        self.prologue = Some((entry, prologue));
    }

    /// Who the register page of the loaded space says that its VM is.
    fn identity(&mut self) -> Result<Identity, Fault> {
        let mpn = self.translate(layout::REGISTER_PAGE, Access::Read)?;
        Ok(identity(self.memory.page(mpn)))
    }

    /// Begins a program: the guest reads its register page to see who it is.
    fn load_program(&mut self, registers: &mut Registers) -> Result<Running, Fault> {
        let owner = self.identity()?;
        // What becomes a template keeps no name, for its clones to find their own.
        if owner.vm != NOBODY {
            registers.r15 = self.next_program;
            self.next_program += 1;
        }
        Ok(Running { program: (self.loader)(owner), owner, syscall_at: None, left: None })
    }

    /// What must be as the VM left it.
    fn check_return(&mut self, running: &mut Running, registers: &Registers) {
        let vm = running.owner.vm;
        if let Ok(found) = self.identity() {
            assert_eq!(found, running.owner, "VM {vm} has become another one");
        }
        if let Some((left, vector)) = running.left.take() {
            assert_eq!(kept(&left), kept(registers), "VM {vm} has lost its registers");
            assert!(vector == self.vector, "VM {vm} has lost its vector registers");
            let may_be_at = [left.rip, left.rip.wrapping_sub(SYSCALL_BYTES)];
            assert!(may_be_at.contains(&registers.rip), "VM {vm} goes on somewhere else");
        }
    }

    /// Runs steps of the program until something comes up.
    fn step_until_exit(&mut self, running: &mut Running, registers: &mut Registers) -> Exit {
        loop {
            {
                let mut outside = self.outside.borrow_mut();
                outside.now += STEP_NS;
                let now = outside.now;
                if self.alarm <= Nanos(now) {
                    self.alarm = Nanos::NEVER;
                    return Exit::Interrupt;
                }
                if outside.disk.interrupts(now) || outside.type_now() {
                    return Exit::Interrupt;
                }
                if self.is_frame_awaited && !outside.incoming.is_empty() {
                    self.is_frame_awaited = false;
                    return Exit::Interrupt;
                }
            }
            if running.syscall_at != Some(registers.rip) {
                match running.program.step(&mut Cpu::new(self, registers)) {
                    Err(Fault(exit)) => return exit,
                    Ok(Op::Compute) => continue,
                    Ok(Op::Raise(vector)) => return Exit::Exception { vector, code: 0 },
                    Ok(Op::Call { number, arguments }) => {
                        registers.rax = number as u64;
                        [registers.rdi, registers.rsi, registers.rdx] = arguments;
                    }
                    Ok(Op::RawCall(number)) => registers.rax = number,
                }
            }
            running.syscall_at = Some(registers.rip);
            registers.rip = registers.rip.wrapping_add(SYSCALL_BYTES);
            return Exit::Instruction;
        }
    }

    /// The kernel has done something that takes so long.
    fn spend(&self, ns: u64) {
        self.outside.borrow_mut().spend(ns);
    }

    fn allocate_page(&mut self) -> Option<Page> {
        self.spend(ALLOCATE_NS);
        if self.outside.borrow_mut().allocation.strikes() {
            return None;
        }
        self.memory.take()
    }
}

fn identity(register_page: &[u8; PAGE_SIZE]) -> Identity {
    let word = |at: usize| u64::from_le_bytes(register_page[at..at + 8].try_into().expect("eight bytes"));
    Identity {
        vm: u32::from_le_bytes(register_page[12..16].try_into().expect("four bytes")),
        generation: word(16),
        is_supervisor: word(24) & Features::SUPERVISOR.bits() != 0,
    }
}

/// What a VM must find again, whatever happened in between: not the result of an instruction (`rax`), what `syscall`
/// loses (`rcx`, `r11`), nor what goes on when an instruction is executed again (`rip`, `rdi`, `rsi`).
fn kept(registers: &Registers) -> Registers {
    Registers { rax: 0, rcx: 0, r11: 0, rip: 0, rdi: 0, rsi: 0, ..*registers }
}

impl Pages for Machine {
    fn allocate(&mut self) -> Option<Page> {
        self.allocate_page()
    }

    fn release(&mut self, page: Page) {
        self.memory.give(page);
    }

    fn free_pages(&self) -> u64 {
        self.memory.free() as u64
    }

    fn total_pages(&self) -> u64 {
        self.memory.total() as u64
    }

    fn heap_bytes(&self) -> u64 {
        0
    }

    fn heap_room(&self) -> u64 {
        self.outside.borrow().heap_room.unwrap_or(u64::MAX)
    }

    fn read(&self, page: Mpn, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.memory.page(page)[offset..offset + into.len()]);
    }

    fn write(&mut self, page: Mpn, offset: usize, from: &[u8]) {
        self.memory.page_mut(page)[offset..offset + from.len()].copy_from_slice(from);
    }

    fn copy(&mut self, from: Mpn, to: Mpn) {
        self.spend(COPY_NS);
        let bytes = *self.memory.page(from);
        *self.memory.page_mut(to) = bytes;
    }

    fn load(&self, page: Mpn, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4));
        u32::from_le_bytes(self.memory.page(page)[offset..offset + 4].try_into().expect("four bytes"))
    }

    fn store(&mut self, page: Mpn, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4));
        self.write(page, offset, &value.to_le_bytes());
    }

    fn set_bits(&mut self, page: Mpn, offset: usize, bits: u32) -> u32 {
        {
            let mut outside = self.outside.borrow_mut();
            // A VM that raises its own again and again does so in its own time.
            if outside.raised_last.replace(page) != Some(page) {
                outside.raised += 1;
            }
            outside.most_raised = outside.most_raised.max(outside.raised);
        }
        let before = self.load(page, offset);
        self.store(page, offset, before | bits);
        before
    }
}

impl Processor for Machine {
    fn switch_to(&mut self, space: &Space, vector: &VectorState) {
        self.spend(SWITCH_NS);
        self.current = Some(space.number);
        self.vector = vector.clone();
    }

    fn change_space(&mut self, space: &Space) {
        if self.current != Some(space.number) {
            self.spend(SWITCH_NS);
            self.current = Some(space.number);
        }
    }

    fn switch_from(&mut self, vector: &mut VectorState) {
        *vector = self.vector.clone();
    }

    fn enter(&mut self, registers: &mut Registers) -> Exit {
        self.spend(EXIT_NS);
        if registers.r15 == 0
            && let Some((entry, prologue)) = &self.prologue
            && *entry == registers.rip
        {
            let prologue = Rc::clone(prologue);
            let owner = Identity { vm: NOBODY, generation: 0, is_supervisor: false };
            let program = Box::new(move |cpu: &mut Cpu<'_>| prologue.borrow_mut()(cpu));
            let mut running = Running { program, owner, syscall_at: None, left: None };
            return self.step_until_exit(&mut running, registers);
        }
        let mut running = match self.programs.remove(&registers.r15) {
            Some(running) => running,
            None => match self.load_program(registers) {
                Ok(running) => running,
                Err(Fault(exit)) => return exit,
            },
        };
        if !running.program.has_contexts() {
            self.check_return(&mut running, registers);
        }
        let exit = self.step_until_exit(&mut running, registers);
        if running.owner.vm != NOBODY {
            running.left = Some((*registers, self.vector.clone()));
            self.programs.insert(registers.r15, running);
        }
        exit
    }

    fn now(&self) -> Nanos {
        Nanos(self.outside.borrow().now)
    }

    fn clock(&self) -> Clock {
        Clock { base_tsc: 0, base_ns: 0, scale: 1 << 32, epoch_ns: 1_000_000_000_000_000_000 }
    }

    fn set_alarm(&mut self, at: Nanos) {
        self.alarm = at;
    }

    fn halt(&mut self) {
        self.let_leave();
        if self.nr_cores > 1 {
            // Whoever drives the cores lets others run meanwhile.
            self.is_halted = true;
            return;
        }
        let mut outside = self.outside.borrow_mut();
        if !outside.incoming.is_empty() || !outside.typed.is_empty() || outside.disk.is_due(outside.now) {
            return;
        }
        let room = self.room_at().map_or(Nanos::NEVER, Nanos);
        let wake = self.alarm.min(outside.disk.next_at().map_or(Nanos::NEVER, Nanos)).min(room);
        if wake == Nanos::NEVER {
            outside.dead_halts += 1;
            return;
        }
        outside.now = outside.now.max(wake.0);
        if self.alarm <= Nanos(outside.now) {
            self.alarm = Nanos::NEVER;
        }
    }

    fn hardware_entropy(&mut self, into: &mut [u8; 32]) -> bool {
        self.entropy = self.entropy.wrapping_add(1);
        into.fill(self.entropy);
        true
    }

    fn has_avx(&self) -> bool {
        false
    }

    fn power_off(&mut self, status: u8) {
        self.outside.borrow_mut().power_off = Some(status);
    }
}

impl Cores for Machine {
    fn core(&self) -> u32 {
        self.core
    }

    fn nr_cores(&self) -> u32 {
        self.nr_cores
    }

    fn wake(&mut self, core: u32) {
        assert_ne!(core, self.core, "a core wakes itself");
        self.outside.borrow_mut().woken[core as usize] = true;
    }
}

impl Serial for Machine {
    fn print(&mut self, text: fmt::Arguments<'_>) {
        fmt::Write::write_fmt(&mut self.outside.borrow_mut().serial, text).expect("a string takes all");
    }

    fn has_typed(&self) -> bool {
        !self.outside.borrow().typed.is_empty()
    }

    fn read_byte(&mut self) -> Option<u8> {
        self.outside.borrow_mut().typed.pop_front()
    }
}
