//! Contexts: what `enter_context` runs in an address space of the guest's own, and how it comes back.
//!
//! `enter_context` is a call. The kernel takes the registers in the control page ([`Context`], at
//! [`crate::control::CONTEXT`]), runs them, and when they come back writes them there again, says why beside it
//! ([`Exit`], at [`crate::control::EXIT`]), and returns to the instruction behind the call. The guest kernel's own
//! registers are as after any virtual instruction; vector registers pass in both directions unchanged.

use crate::exception::{Access, Exception};
use crate::instruction::InstructionError;

/// Words of a context.
pub const CONTEXT_WORDS: usize = 18;

/// Bytes of a context.
pub const CONTEXT_BYTES: usize = CONTEXT_WORDS * 8;

/// Words of an exit.
pub const EXIT_WORDS: usize = 4;

/// First address that no context can have its instruction pointer at: the lower half ends there.
pub const ADDRESS_LIMIT: u64 = 1 << 47;

/// Flags that every context has: interrupts on, and the bit that always reads as one.
pub const FLAGS: u64 = 0x202;

/// Flags that a context may have besides: the arithmetic ones, TF (single step), DF, RF, AC (alignment check), ID.
pub const FREE_FLAGS: u64 = 0x25_0dd5;

/// The registers of a context, in the order of its words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "named as the processor names them")]
pub struct Context {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rsp: u64,
    pub rflags: u64,
}

const _: () = assert!(size_of::<Context>() == CONTEXT_BYTES);

impl Context {
    /// A context that begins at an address with a stack, all else 0.
    #[must_use]
    pub fn at(rip: u64, rsp: u64) -> Self {
        Self { rip, rsp, rflags: FLAGS, ..Self::default() }
    }

    /// Its words.
    #[must_use]
    pub const fn to_words(self) -> [u64; CONTEXT_WORDS] {
        let Self { rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rsp, rflags } = self;
        [rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rsp, rflags]
    }

    /// The context of words.
    #[must_use]
    pub const fn from_words(words: [u64; CONTEXT_WORDS]) -> Self {
        let [rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rsp, rflags] = words;
        Self { rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rsp, rflags }
    }

    /// Whether it can be entered.
    ///
    /// # Errors
    /// `BadArgument` for an instruction pointer that is not in the lower half, flags that no context may have, or
    /// without those that every context has.
    pub const fn check(&self) -> Result<(), InstructionError> {
        if self.rip < ADDRESS_LIMIT && self.rflags & !FREE_FLAGS == FLAGS {
            Ok(())
        } else {
            Err(InstructionError::BadArgument)
        }
    }
}

/// Why a context came back. The number that `enter_context` answers is its [`cause`](Exit::cause).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Something enabled is pending, or the deadline has passed.
    Interrupt,
    /// It executed `syscall` at user right, with `rip` after it. Nothing was performed.
    Instruction,
    /// There is no entry for an address that it used; `rip` is at the instruction.
    Miss {
        /// The address.
        address: u64,
        /// What it tried.
        access: Access,
    },
    /// The entry for an address that it used does not allow that; `rip` is at the instruction.
    Protection {
        /// The address.
        address: u64,
        /// What it tried.
        access: Access,
    },
    /// It raised an exception; `rip` is as the processor defines for it.
    Exception {
        /// Which.
        exception: Exception,
        /// The processor's error code, or 0.
        code: u64,
    },
}

const fn access_word(access: Access) -> u64 {
    match access {
        Access::Read => 0,
        Access::Write => 1,
        Access::Execute => 2,
    }
}

const fn access_of(word: u64) -> Option<Access> {
    match word {
        0 => Some(Access::Read),
        1 => Some(Access::Write),
        2 => Some(Access::Execute),
        _ => None,
    }
}

impl Exit {
    /// Its number.
    #[must_use]
    pub const fn cause(&self) -> u64 {
        match self {
            Self::Interrupt => 0,
            Self::Instruction => 1,
            Self::Miss { .. } => 2,
            Self::Protection { .. } => 3,
            Self::Exception { .. } => 4,
        }
    }

    /// Its words: the number, the address, the access or the vector, the error code.
    #[must_use]
    pub const fn to_words(self) -> [u64; EXIT_WORDS] {
        let cause = self.cause();
        match self {
            Self::Interrupt | Self::Instruction => [cause, 0, 0, 0],
            Self::Miss { address, access } | Self::Protection { address, access } => {
                [cause, address, access_word(access), 0]
            }
            Self::Exception { exception, code } => [cause, 0, exception as u64, code],
        }
    }

    /// Reads the words of one; `None` if they are none.
    #[must_use]
    pub fn from_words([cause, address, detail, code]: [u64; EXIT_WORDS]) -> Option<Self> {
        Some(match cause {
            0 => Self::Interrupt,
            1 => Self::Instruction,
            2 => Self::Miss { address, access: access_of(detail)? },
            3 => Self::Protection { address, access: access_of(detail)? },
            4 => Self::Exception { exception: u8::try_from(detail).ok()?.try_into().ok()?, code },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exits_read_back_as_themselves() {
        let mut all = std::vec![Exit::Interrupt, Exit::Instruction];
        for access in [Access::Read, Access::Write, Access::Execute] {
            all.push(Exit::Miss { address: 0x1234, access });
            all.push(Exit::Protection { address: u64::MAX, access });
        }
        all.extend(
            (0..=255u8).filter_map(|v| v.try_into().ok()).map(|exception| Exit::Exception { exception, code: 7 }),
        );
        for exit in all {
            assert_eq!(Exit::from_words(exit.to_words()), Some(exit));
            assert_eq!(exit.to_words()[0], exit.cause());
        }
        for none in [[5, 0, 0, 0], [2, 0, 3, 0], [4, 0, 14, 0], [4, 0, 1 << 32, 0]] {
            assert_eq!(Exit::from_words(none), None);
        }
    }

    #[test]
    fn contexts_with_what_they_may_not_have_are_refused() {
        let good = Context::at(0x40_0000, 0);
        assert_eq!(good.check(), Ok(()));
        assert_eq!(Context { rflags: FLAGS | FREE_FLAGS, rip: ADDRESS_LIMIT - 1, ..good }.check(), Ok(()));
        let bad = [
            Context { rip: ADDRESS_LIMIT, ..good },
            Context { rip: u64::MAX, ..good },
            Context { rip: 0xffff_8000_0000_0000, ..good },
            Context { rflags: FLAGS | 0x3000, ..good },  // IOPL 3
            Context { rflags: FLAGS | 0x1000, ..good },  // IOPL 1
            Context { rflags: FLAGS | 0x4000, ..good },  // nested task
            Context { rflags: FLAGS | 1 << 17, ..good }, // virtual-8086
            Context { rflags: FLAGS | 1 << 19, ..good }, // virtual interrupt
            Context { rflags: FLAGS | 1 << 20, ..good }, // virtual interrupt pending
            Context { rflags: FLAGS | 1 << 32, ..good },
            Context { rflags: FLAGS & !0x200, ..good }, // interrupts off
            Context { rflags: FLAGS & !2, ..good },
            Context { rflags: 0, ..good },
        ];
        for context in bad {
            assert_eq!(context.check(), Err(InstructionError::BadArgument), "{context:x?}");
        }
    }

    proptest! {
        #[test]
        fn contexts_read_back_as_themselves(words: [u64; CONTEXT_WORDS]) {
            prop_assert_eq!(Context::from_words(words).to_words(), words);
        }
    }
}
