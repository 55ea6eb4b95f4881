//! Programs, and the processor as they see it.

use crate::machine::Machine;
use hal::{Access, Exit, PAGE_SIZE, Processor, Registers, VectorState};
use virtual_isa::context::{self as exits, CONTEXT_WORDS, Context, EXIT_WORDS};
use virtual_isa::instruction::{Instruction, InstructionError};
use virtual_isa::ring::{self, Found};
use virtual_isa::{control, layout};

/// A memory access that the address space does not allow now. A program hands it on with `?`; when the kernel
/// has seen to it, the step is executed again from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub Exit);

/// What a program does at the end of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Goes on.
    Compute,
    /// Executes a virtual instruction. Its result is in [`Cpu::result`] in the next step.
    Call {
        /// Which.
        number: Instruction,
        /// Its arguments.
        arguments: [u64; 3],
    },
    /// Executes a virtual instruction of any number.
    RawCall(u64),
    /// Raises an exception.
    Raise(u8),
}

impl Op {
    /// A virtual instruction with its arguments, as many as it has.
    #[must_use]
    pub fn call(number: Instruction, given: &[u64]) -> Self {
        let mut arguments = [0; 3];
        arguments[..given.len()].copy_from_slice(given);
        Self::Call { number, arguments }
    }
}

/// A guest. A step that faults is executed again, so a program changes its own state only when all its accesses
/// have succeeded, or in a way that repeats.
pub trait Program {
    /// Does something with memory, then one operation.
    ///
    /// # Errors
    /// The fault of an access.
    fn step(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault>;

    /// Whether it enters contexts. All of them are this program, and have its `r15`; whether registers and address
    /// space are those that they should be is its own business then.
    fn has_contexts(&self) -> bool {
        false
    }
}

impl<F: FnMut(&mut Cpu<'_>) -> Result<Op, Fault>> Program for F {
    fn step(&mut self, cpu: &mut Cpu<'_>) -> Result<Op, Fault> {
        self(cpu)
    }
}

/// The processor in one step of a program.
pub struct Cpu<'a> {
    machine: &'a mut Machine,
    registers: &'a mut Registers,
}

impl<'a> Cpu<'a> {
    pub(crate) fn new(machine: &'a mut Machine, registers: &'a mut Registers) -> Self {
        Self { machine, registers }
    }

    /// The result of the last virtual instruction.
    ///
    /// # Errors
    /// The error it answered.
    pub fn result(&self) -> Result<u64, InstructionError> {
        InstructionError::read(self.registers.rax)
    }

    /// The registers.
    pub fn registers(&mut self) -> &mut Registers {
        self.registers
    }

    /// The machine's time in nanoseconds, as the time-stamp counter tells it.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.machine.now().0
    }

    /// The vector registers.
    pub fn vector(&mut self) -> &mut VectorState {
        self.machine.guest_vector()
    }

    /// Loads bytes.
    ///
    /// # Errors
    /// The fault, if one of their pages does not allow it.
    pub fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        let (mut at, mut rest) = (address, into);
        while !rest.is_empty() {
            let mpn = self.machine.translate(at, Access::Read)?;
            let (now, later) = rest.split_at_mut(rest.len().min(PAGE_SIZE - offset(at)));
            now.copy_from_slice(&self.machine.guest_bytes(mpn)[offset(at)..][..now.len()]);
            at = at.wrapping_add(now.len() as u64);
            rest = later;
        }
        Ok(())
    }

    /// Stores bytes.
    ///
    /// # Errors
    /// The fault, if one of their pages does not allow it; the pages before it are stored.
    pub fn write(&mut self, address: u64, from: &[u8]) -> Result<(), Fault> {
        let (mut at, mut rest) = (address, from);
        while !rest.is_empty() {
            let mpn = self.machine.translate(at, Access::Write)?;
            let (now, later) = rest.split_at(rest.len().min(PAGE_SIZE - offset(at)));
            self.machine.guest_bytes(mpn)[offset(at)..][..now.len()].copy_from_slice(now);
            at = at.wrapping_add(now.len() as u64);
            rest = later;
        }
        Ok(())
    }

    /// Fetches an instruction.
    ///
    /// # Errors
    /// The fault, if the page does not allow it.
    pub fn fetch(&mut self, address: u64) -> Result<(), Fault> {
        self.machine.translate(address, Access::Execute).map(|_| ())
    }

    /// Loads a word of the control page.
    ///
    /// # Errors
    /// The fault, which a control page does not have.
    pub fn control(&mut self, at: usize) -> Result<u32, Fault> {
        let mut word = [0; 4];
        self.read(layout::CONTROL_PAGE + at as u64, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    /// Stores a word of the control page.
    ///
    /// # Errors
    /// The fault, which a control page does not have.
    pub fn set_control(&mut self, at: usize, value: u32) -> Result<(), Fault> {
        self.write(layout::CONTROL_PAGE + at as u64, &value.to_le_bytes())
    }

    /// Writes the context that is to be entered. It is of this program, like the VM's own.
    ///
    /// # Errors
    /// The fault, which a control page does not have.
    pub fn set_context(&mut self, context: Context) -> Result<(), Fault> {
        let context = Context { r15: self.registers.r15, ..context };
        let words = context.to_words().map(u64::to_le_bytes);
        self.write(layout::CONTROL_PAGE + control::CONTEXT as u64, words.as_flattened())
    }

    /// Reads the context that came back, and why it did.
    ///
    /// # Errors
    /// The fault, which a control page does not have.
    ///
    /// # Panics
    /// If the kernel wrote an exit that is none.
    pub fn exit(&mut self) -> Result<(Context, exits::Exit), Fault> {
        let mut context = [[0; 8]; CONTEXT_WORDS];
        self.read(layout::CONTROL_PAGE + control::CONTEXT as u64, context.as_flattened_mut())?;
        let mut exit = [[0; 8]; EXIT_WORDS];
        self.read(layout::CONTROL_PAGE + control::EXIT as u64, exit.as_flattened_mut())?;
        let exit = exits::Exit::from_words(exit.map(u64::from_le_bytes)).expect("the kernel wrote an exit");
        Ok((Context::from_words(context.map(u64::from_le_bytes)), exit))
    }

    /// Puts a record into a ring of the guest's. False if there is no room.
    ///
    /// # Errors
    /// The fault, which rings do not have.
    ///
    /// # Panics
    /// If the kernel's index cannot be.
    pub fn push(&mut self, ring: &RingAt, record: &[u8]) -> Result<bool, Fault> {
        let (head, tail) = (self.control(ring.head_at)?, self.control(ring.tail_at)?);
        let length = u32::try_from(record.len()).expect("records are short");
        let place = ring::place(ring.capacity, head, tail, length).expect("the kernel's index is right");
        let Some(place) = place else { return Ok(false) };
        if let Some(at) = place.skip_at {
            self.write(ring.base + u64::from(at), &ring::SKIP.to_le_bytes())?;
        }
        self.write(ring.base + u64::from(place.header_at), &length.to_le_bytes())?;
        self.write(ring.base + u64::from(place.bytes_at), record)?;
        self.set_control(ring.head_at, place.next_head)?;
        Ok(true)
    }

    /// Takes a record out of a ring of the guest's.
    ///
    /// # Errors
    /// The fault, which rings do not have.
    ///
    /// # Panics
    /// If the kernel wrote a record that cannot be.
    pub fn pop(&mut self, ring: &RingAt) -> Result<Option<Vec<u8>>, Fault> {
        loop {
            let (head, tail) = (self.control(ring.head_at)?, self.control(ring.tail_at)?);
            let mut word = [0; 4];
            self.read(ring.base + u64::from(ring::header_at(ring.capacity, tail)), &mut word)?;
            let found = ring::read(ring.capacity, head, tail, u32::from_le_bytes(word));
            match found.expect("the kernel's index is right") {
                Found::Empty => return Ok(None),
                Found::Skip { next_tail } => self.set_control(ring.tail_at, next_tail)?,
                Found::Record { bytes_at, length, next_tail } => {
                    let mut record = vec![0; length as usize];
                    self.read(ring.base + u64::from(bytes_at), &mut record)?;
                    self.set_control(ring.tail_at, next_tail)?;
                    return Ok(Some(record));
                }
                Found::Malformed { length } => panic!("the kernel wrote a record of {length} bytes"),
            }
        }
    }
}

/// Where a guest finds a ring.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "as in the layout")]
pub struct RingAt {
    pub base: u64,
    pub capacity: u32,
    pub head_at: usize,
    pub tail_at: usize,
}

/// The guest's end of its rings.
#[expect(missing_docs, reason = "as in the layout")]
pub mod rings {
    use super::RingAt;
    use virtual_isa::{control, layout};

    pub const TRANSMIT: RingAt = RingAt {
        base: layout::TRANSMIT_RING,
        capacity: layout::TRANSMIT_RING_BYTES,
        head_at: control::TRANSMIT_HEAD,
        tail_at: control::TRANSMIT_TAIL,
    };
    pub const RECEIVE: RingAt = RingAt {
        base: layout::RECEIVE_RING,
        capacity: layout::RECEIVE_RING_BYTES,
        head_at: control::RECEIVE_HEAD,
        tail_at: control::RECEIVE_TAIL,
    };
    pub const REQUEST: RingAt = RingAt {
        base: layout::REQUEST_RING,
        capacity: layout::REQUEST_RING_BYTES,
        head_at: control::REQUEST_HEAD,
        tail_at: control::REQUEST_TAIL,
    };
    pub const COMPLETION: RingAt = RingAt {
        base: layout::COMPLETION_RING,
        capacity: layout::COMPLETION_RING_BYTES,
        head_at: control::COMPLETION_HEAD,
        tail_at: control::COMPLETION_TAIL,
    };
}

#[expect(clippy::cast_possible_truncation, reason = "smaller than a page")]
fn offset(address: u64) -> usize {
    (address % PAGE_SIZE as u64) as usize
}
