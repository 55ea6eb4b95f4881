//! A guest that makes address spaces of its own, at random, and knows what every access in them must come to: a model of
//! the architected TLB that walks the entries the guest has loaded, over the model of its memory.

use crate::bundle::{CONSTANTS, TEXT};
use crate::guest::{Cpu, Fault, Op, Program};
use crate::model::{Deeds, Modelled, address};
use fastrand::Rng;
use hal::PAGE_SIZE;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use virtual_isa::context::{Context, Exit};
use virtual_isa::control::{self, Pending};
use virtual_isa::exception::{Access, Exception};
use virtual_isa::instruction::{Instruction, InstructionError, NO_DEADLINE};
use virtual_isa::layout;
use virtual_isa::register::REGISTER_MAGIC;
use virtual_isa::tlb::{ENTRY_BYTES, EVERY_ASID, Entry, Key, Right, Rights, VIRTUAL_PAGES};

/// Where contexts run: the VM's own does so below.
const CODE: u64 = 0x4000_0000;

/// Pages of a space that are used.
const SPOTS: u32 = 12;

/// The first of the numbers that are no virtual instructions.
const NO_INSTRUCTION: u64 = 100;

/// What a context has begun and has not seen the end of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    Nothing,
    Access(u64, Access),
    SystemCall(u64),
    Raise(Exception),
}

/// The context that was entered.
#[derive(Clone, Copy, Debug)]
struct Inside {
    asid: u16,
    right: Right,
    deadline: u64,
    /// What the VM's own registers must be afterwards.
    own: [u64; 3],
    /// Its registers as they were last seen.
    registers: Context,
    attempt: Attempt,
}

/// What the last instruction must answer, and what it changes.
#[derive(Clone, Debug)]
enum Expected {
    Nothing,
    Loaded(Vec<Entry>),
    Dropped(Key, u64),
    Refused(InstructionError),
}

/// The guest.
pub struct Domains {
    number: u32,
    random: Rng,
    memory: Modelled,
    memory_pages: u32,
    /// Entries that it has loaded and not dropped. The kernel may have fewer, and none else.
    entries: BTreeMap<Key, Entry>,
    asids: u16,
    /// Contexts that came back, by their spaces.
    contexts: BTreeMap<u16, Context>,
    inside: Option<Inside>,
    expected: Expected,
    /// Where a list of entries was written.
    list: Option<(u64, u64)>,
    vector: Option<[u8; 16]>,
    deeds: Rc<RefCell<Deeds>>,
}

/// Registers that nothing but their own context changes.
fn tokens(cpu: &mut Cpu<'_>) -> [u64; 3] {
    let registers = cpu.registers();
    [registers.rbx, registers.r12, registers.rsp]
}

fn vector(cpu: &mut Cpu<'_>) -> [u8; 16] {
    cpu.vector().0[160..176].try_into().expect("sixteen bytes")
}

/// Where a refusal of an entry comes from: the reference's words, written down once more.
fn check(words: [u64; 2], memory_pages: u32) -> Result<Entry, InstructionError> {
    let entry = Entry::from_words(words)?;
    let page = entry.physical;
    let writes = entry.rights.contains(Rights::WRITE);
    let is_register_page = address(page) == layout::REGISTER_PAGE;
    let is_fixed = (0x10..0x18).contains(&page);
    let is_refused = page == 0
        || page >= memory_pages
        || (is_register_page && entry.rights.intersects(Rights::WRITE | Rights::EXECUTE))
        || (is_fixed && !is_register_page)
        || (writes && (TEXT..=CONSTANTS).contains(&page));
    if is_refused { Err(InstructionError::BadAddress) } else { Ok(entry) }
}

impl Domains {
    /// A guest that begins behind [`model::prologue`](crate::model::prologue), with memory of `memory_pages`, of which
    /// it uses the first `limit`.
    #[must_use]
    pub fn new(number: u32, seed: u64, memory_pages: u32, limit: u32, deeds: Rc<RefCell<Deeds>>) -> Self {
        let mut random = Rng::with_seed(!seed);
        Self {
            number,
            memory: Modelled::new(number, seed, memory_pages, limit, Rc::clone(&deeds)),
            memory_pages,
            entries: BTreeMap::new(),
            asids: [2, 6, 40][random.usize(..3)],
            random,
            contexts: BTreeMap::new(),
            inside: None,
            expected: Expected::Nothing,
            list: None,
            vector: None,
            deeds,
        }
    }

    fn any_key(&mut self, asid: u16) -> Key {
        // Some side by side, some far apart, so that their tables are many.
        let spot = self.random.u32(..SPOTS);
        let page = 1 + spot + [0, spot << 9, spot << 18, u32::MAX - SPOTS][self.random.usize(..4)];
        Key { asid, page }
    }

    fn any_asid(&mut self) -> u16 {
        self.random.u16(1..=self.asids)
    }

    fn any_words(&mut self) -> [u64; 2] {
        let asid = self.any_asid();
        let key = self.any_key(asid);
        let rights = [1, 3, 5, 9, 11, 11, 11, 13][self.random.usize(..8)];
        let physical = match self.random.u32(..32) {
            0 => 0x10,
            1 => self.random.u32(..0x30),
            _ => self.memory.any_page(),
        };
        let mut words = [key.to_word(), address(physical) | rights];
        if self.random.u32(..64) == 0 {
            // Some other bit: most of these cannot be.
            words[self.random.usize(..2)] ^= 1 << self.random.u32(..64);
        }
        words
    }

    /// Loads entries: new ones, or from where some were written before, whatever is there now.
    fn load(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        let (at, count) = match self.list {
            Some(list) if self.random.u32(..4) == 0 => list,
            _ => {
                let count = [1, 2, 5, 64][self.random.usize(..4)];
                let bytes: Vec<u8> = (0..count).flat_map(|_| self.any_words()).flat_map(u64::to_le_bytes).collect();
                let at = address(self.memory.writable_page()) + self.random.u64(..PAGE_SIZE as u64);
                if !self.memory.store(cpu, at, &bytes)? {
                    return Ok(Op::Compute);
                }
                (at, count)
            }
        };
        self.list = Some((at, count));
        let bytes = self.memory.recall(at, usize::try_from(count).expect("few") * ENTRY_BYTES);
        let entries: Result<Vec<Entry>, InstructionError> = bytes
            .as_chunks::<8>()
            .0
            .as_chunks::<2>()
            .0
            .iter()
            .map(|words| Entry::from_words(words.map(u64::from_le_bytes)).map(|_| words.map(u64::from_le_bytes)))
            .collect::<Result<Vec<_>, _>>()
            // What is no entry at all is seen before what is not this VM's.
            .and_then(|all| all.into_iter().map(|words| check(words, self.memory_pages)).collect());
        self.expected = match entries {
            Ok(entries) => Expected::Loaded(entries),
            Err(e) => Expected::Refused(e),
        };
        Ok(Op::call(Instruction::TlbWrite, &[at, count]))
    }

    fn invalidate(&mut self, most: u64) -> Op {
        let asid = if self.random.u32(..4) == 0 { EVERY_ASID } else { self.any_asid() };
        let key = if self.random.bool() { Key { asid, page: 0 } } else { self.any_key(asid) };
        let rest = VIRTUAL_PAGES - u64::from(key.page);
        let pages = [1, 2, 70, rest][self.random.usize(..4)].min(rest).min(most);
        if self.random.u32(..8) == 0 {
            self.expected = Expected::Refused(InstructionError::BadArgument);
            return Op::call(Instruction::TlbInvalidate, &[key.to_word(), [0, rest + 1][self.random.usize(..2)]]);
        }
        self.expected = Expected::Dropped(key, pages);
        Op::call(Instruction::TlbInvalidate, &[key.to_word(), pages])
    }

    fn enter(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        let asid = self.any_asid();
        let right = if self.random.u32(..4) == 0 { Right::Kernel } else { Right::User };
        let fresh = Context {
            rbx: self.random.u64(..),
            r12: self.random.u64(..),
            ..Context::at(CODE + self.random.u64(..1 << 20) * 16, self.random.u64(..))
        };
        let context = self.contexts.get(&asid).copied().filter(|_| self.random.u32(..4) != 0).unwrap_or(fresh);
        let deadline = match self.random.u32(..8) {
            0..3 => NO_DEADLINE,
            3 => 0,
            _ => cpu.now() + self.random.u64(..400_000),
        };
        if self.random.u32(..16) == 0 {
            let bad = [
                Context { rip: 1 << 47, ..context },
                Context { rflags: 0x3202, ..context },
                Context { rflags: 2, ..context },
            ];
            cpu.set_context(bad[self.random.usize(..3)])?;
            self.expected = Expected::Refused(InstructionError::BadArgument);
        } else {
            cpu.set_context(context)?;
            let own = tokens(cpu);
            let registers = Context { r15: cpu.registers().r15, ..context };
            self.inside = Some(Inside { asid, right, deadline, own, registers, attempt: Attempt::Nothing });
            self.deeds.borrow_mut().contexts += 1;
        }
        Ok(Op::call(Instruction::EnterContext, &[u64::from(asid), right as u64, deadline]))
    }

    /// Sees to what the last instruction answered.
    fn conclude(&mut self, result: Result<u64, InstructionError>) {
        match std::mem::replace(&mut self.expected, Expected::Nothing) {
            Expected::Nothing => {}
            Expected::Loaded(entries) => {
                assert_eq!(result, Ok(0), "{entries:?}");
                self.entries.extend(entries.into_iter().map(|entry| (entry.key, entry)));
            }
            Expected::Dropped(key, pages) => {
                assert_eq!(result, Ok(0));
                let range = u64::from(key.page)..u64::from(key.page) + pages;
                let is_of = |other: &Key| key.asid == EVERY_ASID || key.asid == other.asid;
                self.entries.retain(|other, _| !(is_of(other) && range.contains(&u64::from(other.page))));
            }
            Expected::Refused(e) => assert_eq!(result, Err(e), "VM {}", self.number),
        }
    }

    /// What the entries say of an access: the entry, and whether it allows that.
    fn walk(&self, inside: &Inside, at: u64, access: Access) -> Option<(Entry, bool)> {
        let page = u32::try_from(layout::page_of(at)).ok()?;
        let entry = *self.entries.get(&Key { asid: inside.asid, page })?;
        let is_visible = inside.right == Right::Kernel || entry.rights.contains(Rights::USER);
        Some((entry, is_visible && entry.rights.allow(access)))
    }

    /// Sees to how the context came back.
    fn conclude_context(&mut self, cpu: &mut Cpu<'_>) -> Result<(), Fault> {
        let Some(inside) = self.inside else { return Ok(()) };
        let (context, exit) = cpu.exit()?;
        assert_eq!(cpu.result(), Ok(exit.cause()));
        assert_eq!(tokens(cpu), inside.own, "VM {} has lost its own registers", self.number);
        let mut expected = inside.registers;
        if !matches!(self.expected, Expected::Nothing) {
            // A virtual instruction at kernel right, and it ended before its next step.
            expected.rip += 2;
            self.conclude(InstructionError::read(context.rax));
        }
        let mut deeds = self.deeds.borrow_mut();
        match exit {
            Exit::Interrupt => {
                let (pending, enabled) = (cpu.control(control::PENDING)?, cpu.control(control::ENABLED)?);
                let is_due = inside.deadline <= cpu.now() && pending & Pending::TIMER.bits() != 0;
                assert!(pending & enabled != 0 || is_due, "nothing has interrupted VM {}", self.number);
                deeds.interrupts += 1;
            }
            Exit::Instruction => {
                let Attempt::SystemCall(number) = inside.attempt else { panic!("{exit:?} after {inside:?}") };
                assert_eq!((inside.right, context.rax), (Right::User, number));
                expected.rip += 2;
            }
            Exit::Miss { address, access } => {
                assert_eq!(inside.attempt, Attempt::Access(address, access));
                if let Some((entry, _)) = self.walk(&inside, address, access) {
                    // The kernel has lost it, and must not find it again.
                    self.entries.remove(&entry.key);
                    deeds.vanished += 1;
                }
                deeds.misses += 1;
            }
            Exit::Protection { address, access } => {
                assert_eq!(inside.attempt, Attempt::Access(address, access));
                let walked = self.walk(&inside, address, access);
                assert!(walked.is_some_and(|(_, is_allowed)| !is_allowed), "{exit:?}: {walked:?}");
                deeds.protections += 1;
            }
            Exit::Exception { exception, .. } => assert_eq!(inside.attempt, Attempt::Raise(exception)),
        }
        let kept = |c: &Context| Context { rax: 0, rcx: 0, r11: 0, rdi: 0, rsi: 0, rdx: 0, ..*c };
        assert_eq!(kept(&context), kept(&expected), "a context of VM {} has lost its registers: {exit:?}", self.number);
        drop(deeds);
        self.contexts.insert(inside.asid, context);
        self.inside = None;
        // Frames are taken when it sleeps. This may fault, and is not tried again then.
        if exit == Exit::Interrupt { cpu.set_control(control::PENDING, 0) } else { Ok(()) }
    }

    fn in_own(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        self.conclude_context(cpu)?;
        self.conclude(cpu.result());
        self.memory.conclude(cpu)?;
        match self.random.u32(..16) {
            0..3 => self.load(cpu),
            3 if self.random.bool() => Ok(self.invalidate(VIRTUAL_PAGES)),
            3..9 => self.enter(cpu),
            _ => self.memory.step(cpu),
        }
    }

    /// An access to memory in a context: it must be one that the entries allow, and find what they say.
    fn access(&mut self, cpu: &mut Cpu<'_>, inside: &mut Inside) -> Result<(), Fault> {
        let of_space = Key { asid: inside.asid, page: 0 }..=Key { asid: inside.asid, page: u32::MAX };
        let count = self.entries.range(of_space.clone()).count();
        let page = match self.random.u32(..8) {
            0 => self.memory.any_page(),
            1 => self.any_key(inside.asid).page,
            _ if count == 0 => self.any_key(inside.asid).page,
            _ => self.entries.range(of_space).nth(self.random.usize(..count)).expect("one of them").0.page,
        };
        let offset = self.random.usize(..PAGE_SIZE - 8);
        let at = address(page) + offset as u64;
        let access =
            [Access::Read, Access::Read, Access::Write, Access::Write, Access::Execute][self.random.usize(..5)];
        inside.attempt = Attempt::Access(at, access);
        self.inside = Some(*inside);
        let word = self.random.u64(..).to_le_bytes();
        let mut found = [0; 8];
        match access {
            Access::Read => cpu.read(at, &mut found)?,
            Access::Write => cpu.write(at, &word)?,
            Access::Execute => cpu.fetch(at)?,
        }
        let walked = self.walk(inside, at, access);
        let Some((entry, true)) = walked else {
            panic!("VM {} may {access:?} {at:#x} in {inside:?}, and its entry is {walked:?}", self.number);
        };
        let physical = address(entry.physical) + offset as u64;
        match access {
            Access::Read if entry.physical == 0x10 => {
                assert!(offset != 0 || found == REGISTER_MAGIC.to_le_bytes(), "this is no register page");
            }
            Access::Read => {
                let expected = self.memory.recall(physical, 8);
                assert!(
                    found == *expected,
                    "VM {} reads {found:x?} at {at:#x}, not {expected:x?}: {entry:?}",
                    self.number
                );
            }
            Access::Write => self.memory.note(physical, &word),
            Access::Execute => {}
        }
        inside.attempt = Attempt::Nothing;
        self.deeds.borrow_mut().hits += 1;
        Ok(())
    }

    fn in_context(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        let mut inside = self.inside.expect("a context runs that was entered");
        let known = [inside.registers.rbx, inside.registers.r12, inside.registers.rsp];
        assert_eq!(tokens(cpu), known, "a context of VM {} has lost its registers", self.number);
        inside.registers.rip = cpu.registers().rip;
        self.conclude(cpu.result());
        let op = match self.random.u32(..64) {
            0..52 => {
                self.access(cpu, &mut inside)?;
                Op::Compute
            }
            52..54 => {
                cpu.registers().rbx = self.random.u64(..);
                inside.registers.rbx = cpu.registers().rbx;
                Op::Compute
            }
            54 => {
                let vector = [0, 1, 3, 6, 13, 17][self.random.usize(..6)];
                inside.attempt = Attempt::Raise(Exception::try_from(vector).expect("a guest's"));
                Op::Raise(vector)
            }
            55..58 if inside.right == Right::Kernel => self.privileged(),
            _ => {
                let number = NO_INSTRUCTION + self.random.u64(..1000);
                inside.attempt = Attempt::SystemCall(number);
                if inside.right == Right::Kernel {
                    self.expected = Expected::Refused(InstructionError::UndefinedInstruction);
                }
                Op::RawCall(number)
            }
        };
        self.inside = Some(inside);
        Ok(op)
    }

    /// A virtual instruction at kernel right.
    fn privileged(&mut self) -> Op {
        if self.random.bool() {
            // Few enough to be dropped at once.
            return self.invalidate(2);
        }
        self.expected = Expected::Refused(InstructionError::NotPermitted);
        Op::call(Instruction::EnterContext, &[1, 0, NO_DEADLINE])
    }
}

impl Program for Domains {
    fn step(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        if let Some(known) = self.vector {
            assert_eq!(vector(cpu), known, "VM {} has lost its vector registers", self.number);
        }
        // A step that faults is done again from the same random state.
        let before = (self.random.clone(), self.memory.random.clone());
        let op = if cpu.registers().rip >= CODE { self.in_context(cpu) } else { self.in_own(cpu) };
        match op {
            Ok(_) => self.vector = Some(vector(cpu)),
            Err(_) => (self.random, self.memory.random) = before,
        }
        op
    }

    fn has_contexts(&self) -> bool {
        true
    }
}
