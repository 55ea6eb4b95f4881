//! The fake hardware. It is strict: a page released twice, released while mapped, used after release, or mapped
//! twice when one mapping allows writing, ends the test with a panic that says so.

use crate::guest::{Cpu, Fault, Op, Program};
use hal::{
    Access, Clock, Disk, DiskError, DiskRequest, Ethernet, Exit, FRAME_CAPACITY, Frame, Mpn, Nanos, NoMemory,
    PAGE_SIZE, Page, Pages, Ppn, Processor, Registers, Rights, Serial, Spaces, VectorState,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use virtual_isa::layout;

/// Nanoseconds that one step of a program takes.
pub const STEP_NS: u64 = 1_000;

/// Frames that the fake card queues before it says that it is full.
pub const TRANSMIT_QUEUE: usize = 8;

/// Frames of the fake machine's pool.
pub const FRAME_POOL: usize = 2048;

/// Tables of an address space, as a map; the number tells spaces apart.
#[derive(Debug)]
pub struct Space {
    number: u64,
}

/// What a test sees of the outside, while the kernel owns the machine.
#[derive(Debug, Default)]
pub struct Outside {
    /// Frames on their way in.
    pub incoming: VecDeque<Vec<u8>>,
    /// Frames that came out.
    pub outgoing: Vec<Vec<u8>>,
    /// Whether the card takes no frames.
    pub is_wire_full: bool,
    /// Text that was printed.
    pub serial: String,
    /// Bytes that are typed.
    pub typed: VecDeque<u8>,
    /// Bytes that will be typed while a guest runs: after how many of its steps each.
    pub typed_later: VecDeque<(u32, u8)>,
    /// The status of a power-off.
    pub power_off: Option<u8>,
    /// Times the processor halted with nothing to wait for.
    pub dead_halts: u32,
    /// Pages that can still be allocated before allocation fails; `None` for no limit but memory itself.
    pub allocations_left: Option<u64>,
    /// The time.
    pub now: u64,
}

impl Outside {
    /// Types the next byte if its time has come, which interrupts the guest that runs.
    fn type_now(&mut self) -> bool {
        let Some((steps, byte)) = self.typed_later.front_mut() else { return false };
        let Some(left) = steps.checked_sub(1) else {
            self.typed.push_back(*byte);
            self.typed_later.pop_front();
            return true;
        };
        *steps = left;
        false
    }
}

/// A factory of programs: what the VM of that number runs.
pub type Loader = Box<dyn FnMut(u32) -> Box<dyn Program>>;

/// A program, and where its last `syscall` stands: an instruction pointer that is back there executes it again.
struct Running {
    program: Box<dyn Program>,
    syscall_at: Option<u64>,
}

/// Bytes of the `syscall` instruction.
const SYSCALL_BYTES: u64 = 2;

/// The fake hardware of one core.
pub struct Machine {
    outside: Rc<RefCell<Outside>>,
    memory: Vec<[u8; PAGE_SIZE]>,
    is_free: Vec<bool>,
    free: Vec<u32>,
    mapped: Vec<u32>,
    is_writable: Vec<bool>,
    spaces: BTreeMap<u64, BTreeMap<Ppn, (Mpn, Rights)>>,
    next_space: u64,
    current: Option<u64>,
    programs: BTreeMap<(u32, u64), Running>,
    loader: Loader,
    alarm: Nanos,
    vector: VectorState,
    frames_out: usize,
    queued: Vec<Frame>,
    entropy: u8,
}

impl Machine {
    /// A machine with so many pages, and a handle on its outside.
    #[must_use]
    pub fn new(nr_pages: u32, loader: Loader) -> (Self, Rc<RefCell<Outside>>) {
        let outside = Rc::new(RefCell::new(Outside::default()));
        let machine = Self {
            outside: Rc::clone(&outside),
            // Memory after power-on holds anything.
            memory: vec![[0xdb; PAGE_SIZE]; nr_pages as usize],
            is_free: vec![true; nr_pages as usize],
            free: (0..nr_pages).rev().collect(),
            mapped: vec![0; nr_pages as usize],
            is_writable: vec![false; nr_pages as usize],
            spaces: BTreeMap::new(),
            next_space: 1,
            current: None,
            programs: BTreeMap::new(),
            loader,
            alarm: Nanos::NEVER,
            vector: VectorState::new(),
            frames_out: 0,
            queued: Vec::new(),
            entropy: 0,
        };
        (machine, outside)
    }

    fn page(&self, mpn: Mpn) -> &[u8; PAGE_SIZE] {
        assert!(!self.is_free[mpn.0 as usize], "page {mpn:?} is used after its release");
        &self.memory[mpn.0 as usize]
    }

    fn page_mut(&mut self, mpn: Mpn) -> &mut [u8; PAGE_SIZE] {
        assert!(!self.is_free[mpn.0 as usize], "page {mpn:?} is used after its release");
        &mut self.memory[mpn.0 as usize]
    }

    /// Frames of the pool that somebody holds.
    #[must_use]
    pub const fn frames_in_use(&self) -> usize {
        self.frames_out
    }

    /// What the current space maps at an address for an access, or the fault.
    pub(crate) fn translate(&self, address: u64, access: Access) -> Result<Mpn, Fault> {
        let fault = Fault(Exit::PageFault { address, access });
        let ppn = u32::try_from(layout::page_of(address)).map(Ppn).map_err(|_| fault)?;
        let space = self.current.and_then(|number| self.spaces.get(&number)).ok_or(fault)?;
        let &(mpn, rights) = space.get(&ppn).ok_or(fault)?;
        let is_allowed = match access {
            Access::Read => true,
            Access::Write => rights == Rights::ReadWrite,
            Access::Execute => rights == Rights::ReadExecute,
        };
        if is_allowed { Ok(mpn) } else { Err(fault) }
    }

    pub(crate) fn guest_bytes(&mut self, mpn: Mpn) -> &mut [u8; PAGE_SIZE] {
        self.page_mut(mpn)
    }

    /// The VM whose space is loaded: its number and generation, from its register page.
    fn running(&self) -> (u32, u64) {
        let mpn = self.translate(layout::REGISTER_PAGE, Access::Read).expect("the register page is mapped");
        let page = self.page(mpn);
        let number = u32::from_le_bytes(page[12..16].try_into().expect("four bytes"));
        let generation = u64::from_le_bytes(page[16..24].try_into().expect("eight bytes"));
        (number, generation)
    }

    fn unmap_all(&mut self, number: u64) {
        for (_, (mpn, _)) in self.spaces.remove(&number).expect("the space exists") {
            self.mapped[mpn.0 as usize] -= 1;
        }
    }
}

impl Pages for Machine {
    fn allocate(&mut self) -> Option<Page> {
        if let Some(left) = &mut self.outside.borrow_mut().allocations_left {
            *left = left.checked_sub(1)?;
        }
        let number = self.free.pop()?;
        self.is_free[number as usize] = false;
        self.memory[number as usize].fill(0);
        Some(Page::new(Mpn(number)))
    }

    fn release(&mut self, page: Page) {
        let number = page.mpn().0 as usize;
        assert!(!self.is_free[number], "page {number} is released twice");
        assert_eq!(self.mapped[number], 0, "page {number} is released while it is mapped");
        self.is_free[number] = true;
        self.memory[number].fill(0xdb);
        self.free.push(page.mpn().0);
    }

    fn free_pages(&self) -> u64 {
        self.free.len() as u64
    }

    fn total_pages(&self) -> u64 {
        self.memory.len() as u64
    }

    fn heap_bytes(&self) -> u64 {
        0
    }

    fn read(&self, page: Mpn, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.page(page)[offset..offset + into.len()]);
    }

    fn write(&mut self, page: Mpn, offset: usize, from: &[u8]) {
        self.page_mut(page)[offset..offset + from.len()].copy_from_slice(from);
    }

    fn copy(&mut self, from: Mpn, to: Mpn) {
        *self.page_mut(to) = *self.page(from);
    }

    fn load(&self, page: Mpn, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4));
        u32::from_le_bytes(self.page(page)[offset..offset + 4].try_into().expect("four bytes"))
    }

    fn store(&mut self, page: Mpn, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4));
        self.write(page, offset, &value.to_le_bytes());
    }

    fn set_bits(&mut self, page: Mpn, offset: usize, bits: u32) -> u32 {
        let before = self.load(page, offset);
        self.store(page, offset, before | bits);
        before
    }
}

impl Spaces for Machine {
    type Space = Space;

    fn create_space(&mut self) -> Result<Space, NoMemory> {
        if self.outside.borrow().allocations_left == Some(0) {
            return Err(NoMemory);
        }
        let number = self.next_space;
        self.next_space += 1;
        self.spaces.insert(number, BTreeMap::new());
        Ok(Space { number })
    }

    fn map(&mut self, space: &mut Space, at: Ppn, to: Mpn, rights: Rights) -> Result<(), NoMemory> {
        assert!(!self.is_free[to.0 as usize], "page {to:?} is mapped after its release");
        let entries = self.spaces.get_mut(&space.number).expect("the space exists");
        if let Some((before, _)) = entries.insert(at, (to, rights)) {
            self.mapped[before.0 as usize] -= 1;
        }
        let mapped = &mut self.mapped[to.0 as usize];
        *mapped += 1;
        if rights == Rights::ReadWrite {
            assert_eq!(*mapped, 1, "page {to:?} can be written and has another owner");
            self.is_writable[to.0 as usize] = true;
        } else {
            assert!(!self.is_writable[to.0 as usize] || *mapped == 1, "page {to:?} is shared while it can be written");
            self.is_writable[to.0 as usize] = false;
        }
        Ok(())
    }

    fn unmap(&mut self, space: &mut Space, at: Ppn) {
        if let Some((mpn, _)) = self.spaces.get_mut(&space.number).expect("the space exists").remove(&at) {
            self.mapped[mpn.0 as usize] -= 1;
        }
    }

    fn destroy_space(&mut self, space: Space) {
        if self.current == Some(space.number) {
            self.current = None;
        }
        self.unmap_all(space.number);
    }

    fn table_pages(&self, space: &Space) -> u32 {
        u32::try_from(self.spaces[&space.number].len().div_ceil(512)).unwrap_or(u32::MAX) + 3
    }
}

impl Processor for Machine {
    fn switch_to(&mut self, space: &Space, vector: &VectorState) {
        self.current = Some(space.number);
        self.vector = vector.clone();
    }

    fn switch_from(&mut self, vector: &mut VectorState) {
        *vector = self.vector.clone();
    }

    fn enter(&mut self, registers: &mut Registers) -> Exit {
        let vm = self.running();
        let mut running = match self.programs.remove(&vm) {
            Some(running) => running,
            None => Running { program: (self.loader)(vm.0), syscall_at: None },
        };
        let exit = loop {
            {
                let mut outside = self.outside.borrow_mut();
                outside.now += STEP_NS;
                if self.alarm <= Nanos(outside.now) {
                    self.alarm = Nanos::NEVER;
                    break Exit::Interrupt;
                }
                if outside.type_now() {
                    break Exit::Interrupt;
                }
            }
            if running.syscall_at != Some(registers.rip) {
                match running.program.step(&mut Cpu::new(self, registers)) {
                    Err(Fault(exit)) => break exit,
                    Ok(Op::Compute) => continue,
                    Ok(Op::Raise(vector)) => break Exit::Exception { vector, code: 0 },
                    Ok(Op::Call { number, arguments }) => {
                        registers.rax = number as u64;
                        [registers.rdi, registers.rsi, registers.rdx] = arguments;
                    }
                    Ok(Op::RawCall(number)) => registers.rax = number,
                }
            }
            running.syscall_at = Some(registers.rip);
            registers.rip = registers.rip.wrapping_add(SYSCALL_BYTES);
            break Exit::Instruction;
        };
        self.programs.insert(vm, running);
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
        let mut outside = self.outside.borrow_mut();
        if !outside.incoming.is_empty() || !outside.typed.is_empty() {
            return;
        }
        if self.alarm == Nanos::NEVER {
            outside.dead_halts += 1;
        } else {
            outside.now = outside.now.max(self.alarm.0);
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

impl Ethernet for Machine {
    fn take_frame(&mut self) -> Option<Frame> {
        if self.frames_out >= FRAME_POOL {
            return None;
        }
        self.frames_out += 1;
        Some(Frame::new(Box::new([0; FRAME_CAPACITY])))
    }

    fn free_frames(&self) -> usize {
        FRAME_POOL - self.frames_out
    }

    fn give_frame(&mut self, frame: Frame) {
        drop(frame);
        self.frames_out = self.frames_out.checked_sub(1).expect("a frame is given back that was never taken");
    }

    fn receive(&mut self) -> Option<Frame> {
        // Without a buffer a real card keeps waiting.
        let mut frame = self.take_frame()?;
        let Some(bytes) = self.outside.borrow_mut().incoming.pop_front() else {
            self.give_frame(frame);
            return None;
        };
        // A real card has no room for more, and hands on what it has.
        let length = bytes.len().min(Frame::MAX_LENGTH);
        frame.set_length(length);
        frame.bytes_mut().copy_from_slice(&bytes[..length]);
        Some(frame)
    }

    fn transmit(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.outside.borrow().is_wire_full || self.queued.len() >= TRANSMIT_QUEUE {
            return Err(frame);
        }
        self.queued.push(frame);
        Ok(())
    }

    fn flush(&mut self) {
        for frame in std::mem::take(&mut self.queued) {
            self.outside.borrow_mut().outgoing.push(frame.bytes().to_vec());
            self.give_frame(frame);
        }
    }
}

impl Disk for Machine {
    fn nr_blocks(&self) -> u64 {
        0
    }

    fn submit(&mut self, _ticket: u64, request: DiskRequest) -> Result<(), (DiskError, DiskRequest)> {
        Err((DiskError::NoDisk, request))
    }

    fn complete(&mut self) -> Option<(u64, Page, Result<(), DiskError>)> {
        None
    }
}

impl Serial for Machine {
    fn print(&mut self, text: fmt::Arguments<'_>) {
        fmt::Write::write_fmt(&mut self.outside.borrow_mut().serial, text).expect("a string takes all");
    }

    fn read_byte(&mut self) -> Option<u8> {
        self.outside.borrow_mut().typed.pop_front()
    }
}
