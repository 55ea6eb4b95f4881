//! Virtual instructions: what a guest asks of the kernel by `syscall`.
//!
//! The number is in `rax`, arguments in `rdi rsi rdx r10 r8 r9`, the result in `rax`. `rcx` and `r11` are
//! lost, all other registers, vector registers too, survive. A result from 0 up is a value, a negative one is
//! an [`InstructionError`].

/// A virtual instruction. The discriminant is the number in `rax`.
///
/// Numbers are never reused. Zero is not an instruction, so that a cleared register does nothing by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Instruction {
    /// `idle(deadline_ns)`: sleeps until an enabled interrupt is pending or the machine's clock reaches the
    /// deadline ([`NO_DEADLINE`] for none). Publishes the deadline, serves every ring that has work, and then
    /// returns at once if something enabled is pending already: no wake-up is lost. Result 0.
    Idle = 1,
    /// `terminate(status)`: ends this VM. Does not return.
    Terminate = 2,
    /// `notify(devices)`: tells the kernel that the rings named by the bits of [`crate::control::Devices`]
    /// have work. One trap serves any number of rings. Result 0.
    Notify = 3,
    /// `ready()`: marks the point from which clones of this VM may start. Must come before the network,
    /// entropy, timers or arguments are used. `Busy` unless all rings are empty. Result 0.
    Ready = 4,
    /// `discard(address, bytes)`: gives whole pages back; they read as zero (or as the image has them)
    /// afterwards. Long ranges take several executions: `rdi` and `rsi` advance. Result 0.
    Discard = 5,
    /// `entropy(address, bytes)`: fills at most [`crate::limits::MAX_ENTROPY_BYTES`] with random bytes.
    /// Result: bytes written.
    Entropy = 6,
    /// `console(address, bytes)`: prints at most [`crate::limits::MAX_CONSOLE_BYTES`]. Result: bytes taken.
    Console = 7,
    /// `gate()`: serves the supervisor's request ring. Only with the privilege bit. Result: requests taken.
    Gate = 8,
    /// `tlb_write(address, count)`: loads 1 to [`crate::limits::MAX_TLB_WRITE`] entries ([`crate::tlb::Entry`]) that
    /// lie in memory one after the other, each instead of the one for its page. All or none. Result 0.
    TlbWrite = 9,
    /// `tlb_invalidate(key, pages)`: drops the entries of so many pages from that page ([`crate::tlb::Key`]) on, of
    /// that asid or of every one. Result 0.
    TlbInvalidate = 10,
    /// `enter_context(asid, right, deadline_ns)`: runs the context in the control page in that address space, until it
    /// comes back. Result: the cause of its [`crate::context::Exit`].
    EnterContext = 11,
}

/// A deadline that never comes.
pub const NO_DEADLINE: u64 = u64::MAX;

/// What a guest did wrong, or what the machine lacks, when a virtual instruction is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum InstructionError {
    /// The number in `rax` is not an instruction of this ISA version.
    UndefinedInstruction = -1,
    /// Part of the named memory is not the VM's, or does not allow the access.
    BadAddress = -2,
    /// An argument is outside what the instruction allows.
    BadArgument = -3,
    /// The VM lacks the privilege bit.
    NotPermitted = -4,
    /// A precondition does not hold now; the guest can make it hold and try again.
    Busy = -5,
    /// The machine, or the VM's limit, has no memory left for this.
    NoMemory = -6,
}

impl TryFrom<u64> for Instruction {
    type Error = InstructionError;

    fn try_from(number: u64) -> Result<Self, InstructionError> {
        Ok(match number {
            1 => Self::Idle,
            2 => Self::Terminate,
            3 => Self::Notify,
            4 => Self::Ready,
            5 => Self::Discard,
            6 => Self::Entropy,
            7 => Self::Console,
            8 => Self::Gate,
            9 => Self::TlbWrite,
            10 => Self::TlbInvalidate,
            11 => Self::EnterContext,
            _ => return Err(InstructionError::UndefinedInstruction),
        })
    }
}

impl InstructionError {
    /// The word that goes into `rax`.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        (self as i64).cast_unsigned()
    }

    /// Reads a result word: a value, or the error it stands for.
    ///
    /// # Errors
    /// The error that the kernel answered. A negative word of no meaning reads as `UndefinedInstruction`.
    pub const fn read(word: u64) -> Result<u64, Self> {
        match word.cast_signed() {
            0.. => Ok(word),
            -2 => Err(Self::BadAddress),
            -3 => Err(Self::BadArgument),
            -4 => Err(Self::NotPermitted),
            -5 => Err(Self::Busy),
            -6 => Err(Self::NoMemory),
            _ => Err(Self::UndefinedInstruction),
        }
    }
}

impl core::fmt::Display for InstructionError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::UndefinedInstruction => "undefined virtual instruction",
            Self::BadAddress => "bad address",
            Self::BadArgument => "bad argument",
            Self::NotPermitted => "not permitted",
            Self::Busy => "busy",
            Self::NoMemory => "out of memory",
        })
    }
}

impl core::error::Error for InstructionError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_reads_back_as_itself_and_no_other_is_accepted() {
        for number in 0..1000u64 {
            match Instruction::try_from(number) {
                Ok(instruction) => assert_eq!(instruction as u64, number),
                Err(e) => {
                    assert_eq!(e, InstructionError::UndefinedInstruction);
                    assert!(number == 0 || number > Instruction::EnterContext as u64);
                }
            }
        }
        assert!(Instruction::try_from(u64::MAX).is_err());
    }

    #[test]
    fn errors_survive_the_register() {
        for e in [
            InstructionError::UndefinedInstruction,
            InstructionError::BadAddress,
            InstructionError::BadArgument,
            InstructionError::NotPermitted,
            InstructionError::Busy,
            InstructionError::NoMemory,
        ] {
            assert_eq!(InstructionError::read(e.to_word()), Err(e));
        }
        assert_eq!(InstructionError::read(7), Ok(7));
    }
}
