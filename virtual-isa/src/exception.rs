//! What can end a VM, and the report that says so.

use crate::limits::MAX_BACKTRACE;
use core::fmt;
use serde::{Deserialize, Serialize};

/// What a guest tried to do with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// A processor exception that a guest can raise, by its x86 vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Exception {
    /// Division by zero or overflow.
    Divide = 0,
    /// Single step or debug register.
    Debug = 1,
    /// `int3`.
    Breakpoint = 3,
    /// `into`.
    Overflow = 4,
    /// `bound`.
    BoundRange = 5,
    /// An instruction that is none, or that this ISA does not have.
    IllegalInstruction = 6,
    /// An instruction of a unit that is not there.
    DeviceNotAvailable = 7,
    /// A bad segment.
    InvalidTss = 10,
    /// A segment that is not there.
    SegmentNotPresent = 11,
    /// A bad stack segment, or a non-canonical stack address.
    StackSegment = 12,
    /// A privileged instruction, or a non-canonical address.
    GeneralProtection = 13,
    /// An x87 error.
    X87 = 16,
    /// A misaligned access with alignment checks on.
    AlignmentCheck = 17,
    /// A vector floating-point error.
    Simd = 19,
}

impl TryFrom<u8> for Exception {
    type Error = u8;

    fn try_from(vector: u8) -> Result<Self, u8> {
        Ok(match vector {
            0 => Self::Divide,
            1 => Self::Debug,
            3 => Self::Breakpoint,
            4 => Self::Overflow,
            5 => Self::BoundRange,
            6 => Self::IllegalInstruction,
            7 => Self::DeviceNotAvailable,
            10 => Self::InvalidTss,
            11 => Self::SegmentNotPresent,
            12 => Self::StackSegment,
            13 => Self::GeneralProtection,
            16 => Self::X87,
            17 => Self::AlignmentCheck,
            19 => Self::Simd,
            other => return Err(other),
        })
    }
}

/// A ring between a guest and the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ring {
    /// Frames from the guest.
    Transmit,
    /// Frames to the guest.
    Receive,
    /// The supervisor's requests.
    Request,
    /// The supervisor's completions.
    Completion,
    /// Console input.
    Console,
}

/// What can go wrong with a page on the swap disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SwapError {
    /// The disk reported an error.
    Read,
    /// What was read is not what was written.
    Checksum,
}

/// Why a VM is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// It executed `terminate`.
    Terminated {
        /// What it gave as its status; 0 means success.
        status: u64,
    },
    /// The supervisor stopped it.
    Stopped,
    /// It used memory in a way its rights do not allow, or that is not there.
    Memory {
        /// The address it used.
        address: u64,
        /// What it tried.
        access: Access,
    },
    /// It raised a processor exception.
    Exception(Exception),
    /// It published ring indices that cannot be.
    RingCorrupt {
        /// Which ring.
        ring: Ring,
        /// The producer's index.
        head: u32,
        /// The consumer's index.
        tail: u32,
    },
    /// The machine had no memory left for a page it needed.
    OutOfMemory {
        /// The address it used.
        address: u64,
    },
    /// A page of its own, or its whole record, could not be read back from the swap disk.
    PageLost {
        /// The block it was to be in.
        block: u64,
        /// What went wrong.
        error: SwapError,
    },
}

impl Cause {
    /// Whether the VM ended by its own will with success, or by the supervisor's.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        matches!(self, Self::Terminated { status: 0 } | Self::Stopped)
    }
}

/// The state in which a VM ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Why.
    pub cause: Cause,
    /// Address of the instruction.
    pub instruction: u64,
    /// Stack pointer.
    pub stack: u64,
    /// Flags register.
    pub flags: u64,
    /// `rax rbx rcx rdx rsi rdi rbp r8 r9 r10 r11 r12 r13 r14 r15`.
    pub registers: [u64; 15],
    /// Return addresses found by following frame pointers, innermost first; 0 ends the list.
    pub backtrace: [u64; MAX_BACKTRACE],
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Terminated { status } => write!(f, "terminated with status {status}"),
            Self::Stopped => f.write_str("stopped by the supervisor"),
            Self::Memory { address, access } => {
                let what = match access {
                    Access::Read => "read of",
                    Access::Write => "write to",
                    Access::Execute => "execution of",
                };
                write!(f, "memory violation: {what} {address:#x}")
            }
            Self::Exception(e) => write!(f, "exception: {}", e.name()),
            Self::RingCorrupt { ring, head, tail } => {
                write!(f, "corrupt {} ring: head {head:#x}, tail {tail:#x}", ring.name())
            }
            Self::OutOfMemory { address } => write!(f, "out of machine memory at {address:#x}"),
            Self::PageLost { block, error: SwapError::Read } => {
                write!(f, "page lost: block {block} of the swap disk cannot be read")
            }
            Self::PageLost { block, error: SwapError::Checksum } => {
                write!(f, "page lost: block {block} of the swap disk does not hold what was written")
            }
        }
    }
}

impl Exception {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Divide => "divide error",
            Self::Debug => "debug",
            Self::Breakpoint => "breakpoint",
            Self::Overflow => "overflow",
            Self::BoundRange => "bound range exceeded",
            Self::IllegalInstruction => "illegal instruction",
            Self::DeviceNotAvailable => "device not available",
            Self::InvalidTss => "invalid TSS",
            Self::SegmentNotPresent => "segment not present",
            Self::StackSegment => "stack-segment fault",
            Self::GeneralProtection => "general protection",
            Self::X87 => "x87 floating-point error",
            Self::AlignmentCheck => "alignment check",
            Self::Simd => "SIMD floating-point error",
        }
    }
}

impl Ring {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transmit => "transmit",
            Self::Receive => "receive",
            Self::Request => "request",
            Self::Completion => "completion",
            Self::Console => "console",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_read_back_as_themselves_and_no_other_is_accepted() {
        for vector in 0..=255u8 {
            match Exception::try_from(vector) {
                Ok(e) => assert_eq!(e as u8, vector),
                Err(v) => assert_eq!(v, vector),
            }
        }
        // Page faults, NMIs, double faults and machine checks are never a guest's exception.
        for vector in [2, 8, 14, 18, 32] {
            assert!(Exception::try_from(vector).is_err());
        }
    }
}
