//! A guest that sleeps until a frame comes, does what its test has asked for in the meantime, and sleeps again.

use crate::guest::{Cpu, Fault, Op, Program, rings};
use crate::lab::Lab;
use hal::PAGE_SIZE;
use std::cell::{Ref, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use virtual_isa::control::{self, Pending};
use virtual_isa::instruction::{Instruction, InstructionError, NO_DEADLINE};

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Fills a page with the noise of a seed, which cannot be compressed.
    Fill(u32, u64),
    /// Sees that a page holds the noise of a seed.
    Expect(u32, u64),
    /// Fills a page with a byte.
    FillByte(u32, u8),
    /// Sees that a page holds nothing but a byte.
    ExpectByte(u32, u8),
    /// Notes the first bytes of a page.
    Read(u32, usize),
    /// Executes an instruction and notes its result.
    Call(Instruction, [u64; 2]),
    /// Sleeps at most so long next time, in nanoseconds.
    SleepFor(u64),
}

/// The noise of a seed.
#[must_use]
pub fn noise(seed: u64) -> [u8; PAGE_SIZE] {
    let mut bytes = [0; PAGE_SIZE];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// What goes between a test and its guest.
#[derive(Debug, Default)]
pub struct Basket {
    todo: VecDeque<Errand>,
    is_called: bool,
    sleep_ns: Option<u64>,
    /// Results of instructions.
    pub results: Vec<Result<u64, InstructionError>>,
    /// Bytes that were read.
    pub read: Vec<Vec<u8>>,
    /// Frames that came.
    pub frames: Vec<Vec<u8>>,
    /// Times it went to sleep.
    pub sleeps: u32,
    /// When it last woke or began.
    pub woke_at: u64,
}

/// The test's end of a guest.
#[derive(Clone, Debug, Default)]
pub struct Runner(Rc<RefCell<Basket>>);

impl Runner {
    /// The guest's program.
    #[must_use]
    pub fn program(&self) -> Box<dyn Program> {
        Box::new(Self(Rc::clone(&self.0)))
    }

    /// What the guest has noted.
    #[must_use]
    pub fn basket(&self) -> Ref<'_, Basket> {
        self.0.borrow()
    }

    /// Asks for errands, without waking the guest.
    pub fn ask(&self, errands: impl IntoIterator<Item = Errand>) {
        self.0.borrow_mut().todo.extend(errands);
    }

    /// Whether all errands are done and the guest sleeps, or slept last.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let basket = self.0.borrow();
        basket.todo.is_empty() && !basket.is_called
    }

    /// Asks for errands, wakes VM `vm` with a frame, and waits until they are done.
    ///
    /// # Panics
    /// If they never are.
    pub fn run(&self, lab: &mut Lab, vm: u32, errands: impl IntoIterator<Item = Errand>) {
        let sleeps = self.basket().sleeps;
        self.ask(errands);
        lab.frame_to(vm, 60, 1);
        lab.until("errands to be done", |_| self.is_done() && self.basket().sleeps > sleeps);
        lab.turns(4);
    }
}

impl Program for Runner {
    fn step(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        let basket = &mut *self.0.borrow_mut();
        if std::mem::take(&mut basket.is_called) {
            basket.results.push(cpu.result());
            basket.todo.pop_front();
        }
        cpu.set_control(control::ENABLED, (Pending::RECEIVE | Pending::TIMER).bits())?;
        let Some(errand) = basket.todo.front() else { return basket.sleep(cpu) };
        match *errand {
            Errand::Fill(page, seed) => cpu.write(at(page), &noise(seed))?,
            Errand::FillByte(page, byte) => cpu.write(at(page), &[byte; PAGE_SIZE])?,
            Errand::Expect(page, seed) => expect(cpu, page, &noise(seed))?,
            Errand::ExpectByte(page, byte) => expect(cpu, page, &[byte; PAGE_SIZE])?,
            Errand::Read(page, length) => {
                let mut bytes = vec![0; length];
                cpu.read(at(page), &mut bytes)?;
                basket.read.push(bytes);
            }
            Errand::SleepFor(ns) => basket.sleep_ns = Some(ns),
            Errand::Call(number, arguments) => {
                basket.is_called = true;
                return Ok(Op::call(number, &arguments));
            }
        }
        basket.todo.pop_front();
        Ok(Op::Compute)
    }
}

impl Basket {
    fn sleep(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        cpu.set_control(control::PENDING, 0)?;
        while let Some(frame) = cpu.pop(&rings::RECEIVE)? {
            self.frames.push(frame);
        }
        self.sleeps += 1;
        self.woke_at = cpu.now();
        let deadline = self.sleep_ns.take().map_or(NO_DEADLINE, |ns| cpu.now() + ns);
        Ok(Op::call(Instruction::Idle, &[deadline]))
    }
}

fn at(page: u32) -> u64 {
    u64::from(page) * PAGE_SIZE as u64
}

fn expect(cpu: &mut Cpu<'_>, page: u32, bytes: &[u8; PAGE_SIZE]) -> Result<(), Fault> {
    let mut found = [0; PAGE_SIZE];
    cpu.read(at(page), &mut found)?;
    assert!(found == *bytes, "page {page:#x} holds {:x?}..., not {:x?}...", &found[..8], &bytes[..8]);
    Ok(())
}
