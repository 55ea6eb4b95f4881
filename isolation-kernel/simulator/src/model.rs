//! A guest that does random things with its memory and knows what every byte of it must be.

use crate::bundle::{CONSTANTS, DATA, END, TEXT, fill_of};
use crate::guest::{Cpu, Fault, Op, Program, rings};
use fastrand::Rng;
use hal::PAGE_SIZE;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use virtual_isa::control::{self, Pending};
use virtual_isa::instruction::{Instruction, InstructionError, NO_DEADLINE};
use virtual_isa::layout;
use virtual_isa::network::Network;

/// A page's bytes.
type Bytes = Box<[u8; PAGE_SIZE]>;

/// Pages that the template writes, after the image.
const TEMPLATE_PAGES: u32 = 6;

/// Pages that a guest mostly uses for a while.
const WINDOW: u32 = 24;

/// What all guests of a run have done together: a run in which nothing happened proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deeds {
    /// Pages that were compared with the model.
    pub checks: u64,
    /// Pages or parts of pages that were written.
    pub writes: u64,
    /// Discards.
    pub discards: u64,
    /// Frames received.
    pub frames: u64,
    /// Times a guest went to sleep.
    pub sleeps: u64,
    /// Contexts that were entered.
    pub contexts: u64,
    /// Accesses of contexts that an entry allowed.
    pub hits: u64,
    /// Accesses of contexts for which there was no entry, and how many of these entries the guest had loaded.
    pub misses: u64,
    /// See [`misses`](Self::misses).
    pub vanished: u64,
    /// Accesses of contexts that an entry did not allow.
    pub protections: u64,
    /// Contexts that were interrupted.
    pub interrupts: u64,
}

/// What the result of the last instruction must be, and what it changes.
enum Expected {
    Nothing,
    /// Random bytes at this address.
    Entropy(u64),
    /// Pages that are as new.
    Discard(std::ops::Range<u32>),
    /// A refusal.
    BadAddress,
    /// A second `ready()`.
    Ready,
}

/// The guest.
pub struct Modelled {
    number: u32,
    pub(crate) random: Rng,
    /// Pages that are not as the image has them.
    pages: BTreeMap<u32, Bytes>,
    memory_pages: u32,
    /// First page after those that it uses.
    limit: u32,
    window: u32,
    expected: Expected,
    deeds: Rc<RefCell<Deeds>>,
}

/// Contents of some kind: incompressible, compressible, one word over and over, zeros.
fn contents(random: &mut Rng) -> Bytes {
    let mut bytes = Box::new([0; PAGE_SIZE]);
    match random.u32(..8) {
        0..3 => random.fill(&mut bytes[..]),
        3..5 => {
            let (byte, from) = (random.u8(..), random.usize(..PAGE_SIZE / 2));
            let to = from + random.usize(..PAGE_SIZE / 2);
            bytes[from..to].fill(byte);
            random.fill(&mut bytes[..16]);
        }
        5..7 => {
            let word = random.u64(..).to_le_bytes();
            bytes.as_chunks_mut::<8>().0.fill(word);
        }
        _ => {}
    }
    bytes
}

/// What the template writes into a page.
fn template_contents(page: u32) -> Bytes {
    contents(&mut Rng::with_seed(u64::from(page)))
}

fn template_pages() -> std::ops::Range<u32> {
    END + 1..END + 1 + TEMPLATE_PAGES
}

/// What guests do before `ready()`.
///
/// # Errors
/// The fault of an access.
pub fn prologue(cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
    for page in template_pages() {
        cpu.write(address(page), &template_contents(page)[..])?;
    }
    Ok(Op::call(Instruction::Ready, &[]))
}

pub(crate) const fn address(page: u32) -> u64 {
    page as u64 * PAGE_SIZE as u64
}

fn image_contents(page: u32) -> Bytes {
    Box::new([if (TEXT..=DATA).contains(&page) { fill_of(page) } else { 0 }; PAGE_SIZE])
}

const fn is_fixed(page: u32) -> bool {
    page == 0 || (page >= 0x10 && page < TEXT)
}

const fn is_writable(page: u32) -> bool {
    !is_fixed(page) && (page < TEXT || page > CONSTANTS)
}

impl Modelled {
    /// A guest that begins behind [`prologue`], with memory of `memory_pages`, of which it uses the first `limit`.
    #[must_use]
    pub fn new(number: u32, seed: u64, memory_pages: u32, limit: u32, deeds: Rc<RefCell<Deeds>>) -> Self {
        let pages = template_pages().map(|page| (page, template_contents(page))).collect();
        let random = Rng::with_seed(seed);
        let expected = Expected::Nothing;
        Self { number, random, pages, memory_pages, limit, window: TEXT, expected, deeds }
    }

    pub(crate) fn any_page(&mut self) -> u32 {
        loop {
            let page = match self.random.u32(..8) {
                0 => self.random.u32(..self.limit),
                _ => self.window + self.random.u32(..WINDOW),
            };
            if !is_fixed(page) && page < self.limit {
                return page;
            }
        }
    }

    pub(crate) fn writable_page(&mut self) -> u32 {
        loop {
            let page = self.any_page();
            if is_writable(page) {
                return page;
            }
        }
    }

    /// The bytes of a page in the model, to change.
    fn model(&mut self, page: u32) -> &mut Bytes {
        self.pages.entry(page).or_insert_with(|| image_contents(page))
    }

    /// What the model has at an address.
    pub(crate) fn recall(&self, at: u64, length: usize) -> Vec<u8> {
        let byte = |at: u64| {
            let page = u32::try_from(layout::page_of(at)).expect("low");
            let offset = usize::try_from(at % PAGE_SIZE as u64).expect("short");
            self.pages.get(&page).map_or_else(|| image_contents(page)[offset], |bytes| bytes[offset])
        };
        (at..at + length as u64).map(byte).collect()
    }

    /// Notes what was written at an address.
    pub(crate) fn note(&mut self, at: u64, bytes: &[u8]) {
        for (at, &byte) in (at..).zip(bytes) {
            let page = u32::try_from(layout::page_of(at)).expect("low");
            self.model(page)[usize::try_from(at % PAGE_SIZE as u64).expect("short")] = byte;
        }
    }

    /// Writes bytes that may lie in two pages. False if not all of them can be written.
    pub(crate) fn store(&mut self, cpu: &mut Cpu<'_>, at: u64, bytes: &[u8]) -> Result<bool, Fault> {
        let last = u32::try_from(layout::page_of(at + bytes.len() as u64)).expect("low");
        if !is_writable(last) || last >= self.memory_pages {
            return Ok(false);
        }
        cpu.write(at, bytes)?;
        self.note(at, bytes);
        Ok(true)
    }

    fn check(&mut self, cpu: &mut Cpu<'_>) -> Result<(), Fault> {
        let page = self.any_page();
        let (from, length) = match self.random.u32(..3) {
            0 => (0, PAGE_SIZE),
            1 => (self.random.usize(..PAGE_SIZE - 64), 64),
            _ => (PAGE_SIZE - 8, 8),
        };
        let mut found = [0; PAGE_SIZE];
        let found = &mut found[from..from + length];
        cpu.read(address(page) + from as u64, found)?;
        let expected = self.pages.get(&page);
        let is_right = match expected {
            Some(bytes) => bytes[from..from + length] == *found,
            None => image_contents(page)[from..from + length] == *found,
        };
        let (vm, is_changed) = (self.number, expected.is_some());
        assert!(is_right, "VM {vm} reads wrong bytes in page {page:#x} (changed by it: {is_changed})");
        self.deeds.borrow_mut().checks += 1;
        Ok(())
    }

    fn write(&mut self, cpu: &mut Cpu<'_>) -> Result<(), Fault> {
        let page = self.writable_page();
        if self.random.bool() {
            let bytes = contents(&mut self.random);
            cpu.write(address(page), &bytes[..])?;
            self.pages.insert(page, bytes);
        } else {
            let (at, word) = (self.random.usize(..PAGE_SIZE - 8), self.random.u64(..).to_le_bytes());
            cpu.write(address(page) + at as u64, &word)?;
            self.model(page)[at..at + 8].copy_from_slice(&word);
        }
        self.deeds.borrow_mut().writes += 1;
        Ok(())
    }

    fn discard(&mut self) -> Op {
        let first = END + self.random.u32(..self.limit - END);
        let count = 1 + self.random.u32(..80);
        let mut range = first..(first + count).min(self.memory_pages);
        self.expected = Expected::Discard(range.clone());
        if self.random.u32(..8) == 0 {
            // Half outside: nothing may change.
            range.end = self.memory_pages + 1;
            self.expected = Expected::BadAddress;
        }
        self.deeds.borrow_mut().discards += 1;
        Op::call(Instruction::Discard, &[address(range.start), address(range.end - range.start)])
    }

    fn send(&mut self, cpu: &mut Cpu<'_>) -> Result<(), Fault> {
        let network = Network::default();
        let length = 34 + self.random.usize(..1480);
        let mut frame = vec![mark(length); length];
        frame[..6].copy_from_slice(&Network::SWITCH_MAC);
        frame[6..12].copy_from_slice(&Network::mac_of(self.number));
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[26..30].copy_from_slice(&network.ipv4_of(self.number));
        frame[30..34].copy_from_slice(&network.ipv4_of(1 + self.random.u32(..8)));
        cpu.push(&rings::TRANSMIT, &frame)?;
        Ok(())
    }

    fn receive(&mut self, cpu: &mut Cpu<'_>) -> Result<(), Fault> {
        while let Some(frame) = cpu.pop(&rings::RECEIVE)? {
            assert_eq!(frame[..6], Network::mac_of(self.number), "a frame for somebody else");
            assert!(frame[34..].iter().all(|&byte| byte == mark(frame.len())), "a frame is not as it was sent");
            self.deeds.borrow_mut().frames += 1;
        }
        Ok(())
    }

    fn sleep(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        cpu.set_control(control::PENDING, 0)?;
        self.receive(cpu)?;
        if self.random.u32(..3) == 0 {
            let windows = self.limit.saturating_sub(TEXT + WINDOW).max(1);
            self.window = TEXT + self.random.u32(..windows);
        }
        let deadline = match self.random.u32(..4) {
            0 => NO_DEADLINE,
            n => cpu.now() + u64::from(n) * 100_000 + self.random.u64(..4_000_000),
        };
        self.deeds.borrow_mut().sleeps += 1;
        Ok(Op::call(Instruction::Idle, &[deadline]))
    }

    /// Sees to what the last instruction answered.
    pub(crate) fn conclude(&mut self, cpu: &mut Cpu<'_>) -> Result<(), Fault> {
        match &self.expected {
            Expected::Nothing => return Ok(()),
            Expected::Entropy(at) => match cpu.result() {
                Err(InstructionError::NoMemory) => {}
                result => {
                    assert_eq!(result, Ok(8));
                    let (at, mut bytes) = (*at, [0; 8]);
                    cpu.read(at, &mut bytes)?;
                    let (page, from) = (layout::page_of(at), at % PAGE_SIZE as u64);
                    let (page, from) = (u32::try_from(page).expect("low"), usize::try_from(from).expect("short"));
                    self.model(page)[from..from + 8].copy_from_slice(&bytes);
                }
            },
            Expected::Discard(range) => {
                assert_eq!(cpu.result(), Ok(0));
                self.pages.retain(|page, _| !range.contains(page));
            }
            Expected::BadAddress => assert_eq!(cpu.result(), Err(InstructionError::BadAddress)),
            Expected::Ready => assert!(matches!(cpu.result(), Ok(0) | Err(InstructionError::Busy))),
        }
        self.expected = Expected::Nothing;
        Ok(())
    }

    fn act(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        cpu.set_control(control::ENABLED, (Pending::RECEIVE | Pending::TIMER).bits())?;
        match self.random.u32(..192) {
            0..96 => self.check(cpu)?,
            96..164 => self.write(cpu)?,
            164..166 => return Ok(self.discard()),
            166..170 => {
                let at = address(self.writable_page()) + self.random.u64(..PAGE_SIZE as u64 - 8);
                self.expected = Expected::Entropy(at);
                return Ok(Op::call(Instruction::Entropy, &[at, 8]));
            }
            170..172 => return Ok(Op::call(Instruction::Console, &[address(self.any_page()), 20])),
            172 => {
                self.expected = Expected::Ready;
                return Ok(Op::call(Instruction::Ready, &[]));
            }
            173..177 => {
                self.send(cpu)?;
                return Ok(Op::call(Instruction::Notify, &[1]));
            }
            177..181 => {
                cpu.registers().rbx = self.random.u64(..);
                cpu.registers().r12 = self.random.u64(..);
                let at = self.random.usize(..16);
                // A general vector register: the state before it has bits of a fixed meaning.
                cpu.vector().0[160 + at] = self.random.u8(..);
            }
            _ => return self.sleep(cpu),
        }
        Ok(Op::Compute)
    }
}

/// The byte that a frame of that length is filled with.
#[must_use]
pub fn mark(length: usize) -> u8 {
    u8::try_from(length % 251).expect("less than 251")
}

impl Program for Modelled {
    fn step(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        self.conclude(cpu)?;
        // A step that faults is done again from the same random state.
        let before = self.random.clone();
        let op = self.act(cpu);
        if op.is_err() {
            self.random = before;
        }
        op
    }
}
