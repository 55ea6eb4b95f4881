//! A guest with address spaces of its own that follows a script: its own context does one thing after the other, and
//! so do the contexts that it enters, whichever of them runs.

use crate::bundle::END;
use crate::guest::{Cpu, Fault, Op, Program};
use crate::lab::{Lab, LabPlan};
use std::cell::Cell;
use std::rc::Rc;
use virtual_isa::context::{Context, Exit};
use virtual_isa::exception::Access;
use virtual_isa::instruction::{Instruction, InstructionError, NO_DEADLINE};
use virtual_isa::tlb::{Entry, Key, Right, Rights};

/// Where contexts begin: what is below is the VM's own.
pub const CODE: u64 = 0x4000_0000;
/// A page of lists of entries.
pub const LIST: u64 = (END as u64 + 10) * 4096;
/// Memory of the VM in pages.
pub const PAGES: u32 = 1024;
/// A page of the VM's that is zero.
pub const PAGE: u32 = END + 1;
/// A virtual page.
pub const AT: u32 = 0x5_0000;

/// Rights at user right.
pub const R: Rights = Rights::READ.union(Rights::USER);
/// The same, to write.
pub const RW: Rights = R.union(Rights::WRITE);
/// The same, to execute.
pub const RX: Rights = R.union(Rights::EXECUTE);

/// What is done in a step.
pub type Step = Box<dyn FnMut(&mut Cpu<'_>) -> Result<Op, Fault>>;

/// What the VM's own context does, and what the contexts do that it enters, one after the other.
pub struct Script {
    own: Vec<Step>,
    contexts: Vec<Step>,
    next: [usize; 2],
    is_done: Rc<Cell<bool>>,
}

impl Program for Script {
    fn step(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        let which = usize::from(cpu.registers().rip >= CODE);
        let steps = if which == 0 { &mut self.own } else { &mut self.contexts };
        let Some(step) = steps.get_mut(self.next[which]) else {
            assert_eq!(which, 0, "a context runs longer than it should");
            self.is_done.set(true);
            return Ok(Op::call(Instruction::Idle, &[NO_DEADLINE]));
        };
        let op = step(cpu)?;
        self.next[which] += 1;
        Ok(op)
    }

    fn has_contexts(&self) -> bool {
        true
    }
}

/// A step.
#[must_use]
pub fn step(step: impl FnMut(&mut Cpu<'_>) -> Result<Op, Fault> + 'static) -> Step {
    Box::new(step)
}

impl Script {
    /// A program of these steps, and whether all of its own are done.
    #[must_use]
    pub fn new(own: Vec<Step>, contexts: Vec<Step>) -> (Self, Rc<Cell<bool>>) {
        let is_done = Rc::new(Cell::new(false));
        (Self { own, contexts, next: [0; 2], is_done: Rc::clone(&is_done) }, is_done)
    }
}

/// Boots a machine, and starts VM 1, which does this. Others would compute for ever.
#[must_use]
pub fn start(plan: LabPlan, own: Vec<Step>, contexts: Vec<Step>) -> (Lab, Rc<Cell<bool>>) {
    let (script, is_done) = Script::new(own, contexts);
    let mut script = Some(script);
    let mut lab = plan.boot(move |vm| match vm {
        1 => Box::new(script.take().expect("one VM")),
        _ => Box::new(|_: &mut Cpu<'_>| Ok(Op::Compute)),
    });
    lab.start(1);
    (lab, is_done)
}

/// Lets it run until all steps of its own are done.
///
/// # Panics
/// If they never are.
pub fn finish(lab: &mut Lab, is_done: &Cell<bool>) {
    lab.until("the script to be done", |lab| {
        if let Some(report) = lab.report_now(1) {
            panic!("the VM ended: {}", report.cause);
        }
        is_done.get()
    });
}

/// Runs one VM whose own context and others do this. All steps of its own must be done.
///
/// # Panics
/// If they are not.
pub fn run(own: Vec<Step>, contexts: Vec<Step>) {
    let (mut lab, is_done) = start(LabPlan::new(1024), own, contexts);
    finish(&mut lab, &is_done);
}

/// An entry.
#[must_use]
pub const fn entry(asid: u16, page: u32, physical: u32, rights: Rights) -> Entry {
    Entry { key: Key { asid, page }, physical, rights }
}

/// Loads words as entries.
#[must_use]
pub fn load_words(words: &[[u64; 2]]) -> Step {
    let bytes: Vec<u8> = words.iter().flatten().flat_map(|word| word.to_le_bytes()).collect();
    let count = words.len() as u64;
    step(move |cpu| {
        cpu.write(LIST, &bytes)?;
        Ok(Op::call(Instruction::TlbWrite, &[LIST, count]))
    })
}

/// Loads entries.
#[must_use]
pub fn load(entries: &[Entry]) -> Step {
    load_words(&entries.iter().map(|entry| entry.to_words()).collect::<Vec<_>>())
}

/// Executes a virtual instruction.
#[must_use]
pub fn call(number: Instruction, arguments: [u64; 3]) -> Step {
    step(move |_| Ok(Op::call(number, &arguments)))
}

/// What the last instruction must have answered.
#[must_use]
pub fn answers(expected: Result<u64, InstructionError>) -> Step {
    step(move |cpu| {
        assert_eq!(cpu.result(), expected);
        Ok(Op::Compute)
    })
}

/// Enters a context.
#[must_use]
pub fn enter_at(asid: u16, right: Right, deadline: u64, context: Context) -> Step {
    step(move |cpu| {
        cpu.set_context(context)?;
        Ok(Op::call(Instruction::EnterContext, &[u64::from(asid), right as u64, deadline]))
    })
}

/// Enters a new context at user right.
#[must_use]
pub fn enter(asid: u16) -> Step {
    enter_at(asid, Right::User, NO_DEADLINE, Context::at(CODE, 0))
}

/// Enters what came back last.
#[must_use]
pub fn enter_again(asid: u16) -> Step {
    step(move |_| Ok(Op::call(Instruction::EnterContext, &[u64::from(asid), 0, NO_DEADLINE])))
}

/// How the context must have come back.
#[must_use]
pub fn comes_back(expected: Exit) -> Step {
    step(move |cpu| {
        assert_eq!(cpu.exit()?.1, expected);
        assert_eq!(cpu.result(), Ok(expected.cause()));
        Ok(Op::Compute)
    })
}

/// The address of a page.
#[must_use]
pub const fn address(page: u32) -> u64 {
    page as u64 * 4096
}

/// Fills a page with a byte.
#[must_use]
pub fn write(page: u32, byte: u8) -> Step {
    step(move |cpu| cpu.write(address(page), &[byte; 4096]).map(|()| Op::Compute))
}

/// Sees that a page holds nothing but a byte.
///
/// # Panics
/// In the step, if it holds something else.
#[must_use]
pub fn holds(page: u32, byte: u8) -> Step {
    step(move |cpu| {
        let mut found = [0; 4096];
        cpu.read(address(page), &mut found)?;
        assert!(found == [byte; 4096], "page {page:#x} holds {:#x}, not {byte:#x}", found[0]);
        Ok(Op::Compute)
    })
}

/// A context's system call.
#[must_use]
pub fn leave() -> Step {
    step(|_| Ok(Op::RawCall(77)))
}

/// An access of a context that must not be possible.
#[must_use]
pub fn cannot(page: u32, access: Access) -> Step {
    step(move |cpu| {
        let at = address(page) + 8;
        match access {
            Access::Read => cpu.read(at, &mut [0])?,
            Access::Write => cpu.write(at, &[1])?,
            Access::Execute => cpu.fetch(at)?,
        }
        panic!("{access:?} of page {page:#x} is possible")
    })
}

/// The exit of [`cannot`] without an entry.
#[must_use]
pub const fn miss(page: u32, access: Access) -> Exit {
    Exit::Miss { address: address(page) + 8, access }
}

/// The exit of [`cannot`] with one.
#[must_use]
pub const fn protection(page: u32, access: Access) -> Exit {
    Exit::Protection { address: address(page) + 8, access }
}
