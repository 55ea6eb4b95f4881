//! How a program ends.

use crate::elf::ElfError;
use core::fmt;
use libos::mmu::{Exception, Fault, FaultCause, MapError};
use libos::virtual_isa::instruction::{Instruction, InstructionError};
use programs::abi::KILLED;

/// How a program has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// By itself, with a status below 256.
    Exited(u64),
    /// It used memory in a way it may not.
    Fault(Fault),
    /// It raised an exception.
    Exception(Exception),
    /// It made a system call that there is not.
    UndefinedCall(u64),
    /// It has had all the turns that it may have.
    OutOfTime,
    /// It waits for something that only programs that wait themselves could send.
    Stuck,
    /// Its registers cannot be entered.
    BadRegisters(InstructionError),
}

impl Fate {
    /// What whoever waits for it is told.
    #[must_use]
    pub const fn status(self) -> u64 {
        match self {
            Self::Exited(status) => status,
            _ => KILLED,
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited with {status}"),
            Self::Fault(fault) => write!(f, "killed: {fault}"),
            Self::Exception(exception) => write!(f, "killed: exception: {}", exception.name()),
            Self::UndefinedCall(number) => match Instruction::try_from(*number) {
                Ok(instruction) => write!(f, "killed: virtual instruction {instruction:?}"),
                Err(_) => write!(f, "killed: undefined system call {number:#x}"),
            },
            Self::OutOfTime => f.write_str("killed: it has had all its turns"),
            Self::Stuck => f.write_str("killed: it waits for what nobody can send"),
            Self::BadRegisters(error) => write!(f, "killed: its registers are none: {error}"),
        }
    }
}

/// How many programs have ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// By themselves, with status 0.
    pub succeeded: u32,
    /// By themselves, with another one.
    pub failed: u32,
    /// For memory that is not theirs.
    pub memory: u32,
    /// For more memory than they may have.
    pub limit: u32,
    /// For exceptions.
    pub exception: u32,
    /// For system calls that there are not.
    pub call: u32,
    /// For time.
    pub time: u32,
    /// For waiting.
    pub stuck: u32,
}

impl Tally {
    /// Counts one.
    pub fn add(&mut self, fate: Fate) {
        *match fate {
            Fate::Exited(0) => &mut self.succeeded,
            Fate::Exited(_) => &mut self.failed,
            Fate::Fault(Fault { cause: FaultCause::Limit | FaultCause::NoMemory, .. }) => &mut self.limit,
            Fate::Fault(_) => &mut self.memory,
            Fate::Exception(_) | Fate::BadRegisters(_) => &mut self.exception,
            Fate::UndefinedCall(_) => &mut self.call,
            Fate::OutOfTime => &mut self.time,
            Fate::Stuck => &mut self.stuck,
        } += 1;
    }

    /// How many there were.
    #[must_use]
    pub const fn total(&self) -> u32 {
        let Self { succeeded, failed, memory, limit, exception, call, time, stuck } = self;
        *succeeded + *failed + *memory + *limit + *exception + *call + *time + *stuck
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { succeeded, failed, memory, limit, exception, call, time, stuck } = self;
        write!(f, "{} ended: {succeeded} well, {failed} not; killed for memory {memory}, ", self.total())?;
        write!(f, "limit {limit}, exception {exception}, call {call}, time {time}, waiting {stuck}")
    }
}

/// Why a program was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// There is none of this name.
    NoProgram,
    /// There are as many tasks as there can be, or as its family may have.
    Limit,
    /// The file is no program.
    Elf(ElfError),
    /// Its pages cannot be mapped.
    Map(MapError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProgram => f.write_str("no program of this name"),
            Self::Limit => f.write_str("too many tasks"),
            Self::Elf(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for StartError {}
