//! What programs and kernel agree on: system calls, errors, and where things lie in a program's address space.
//!
//! A system call is `syscall`: its number in `rax`, arguments in `rdi rsi rdx r10`, the result in `rax`. `rcx` and `r11`
//! are lost. A result from 0 up is a value, a negative one an [`Error`].

/// Where a program is linked.
pub const PROGRAM_BASE: u64 = 0x40_0000;

/// First address behind the largest program.
pub const PROGRAM_LIMIT: u64 = 0x80_0000;

/// Where the memory that `grow` adds begins.
pub const HEAP_BASE: u64 = 0x1000_0000;

/// First address that `grow` cannot reach.
pub const HEAP_LIMIT: u64 = 0x5000_0000;

/// Where the shared memory that `attach` maps begins.
pub const SHARED_BASE: u64 = 0x6000_0000;

/// First address that `attach` cannot reach.
pub const SHARED_LIMIT: u64 = 0x7000_0000;

/// First address above the stack.
pub const STACK_TOP: u64 = 0x8000_0000;

/// Pages that the stack can have. Below them nothing is mapped.
pub const STACK_PAGES: u64 = 16;

/// The handle that is the console, for writing.
pub const CONSOLE: u64 = 0;

/// The handle that a program gets from its parent.
pub const INHERITED: u64 = 1;

/// No handle.
pub const NO_HANDLE: u64 = u64::MAX;

/// Handles that a program can have, the console's among them.
pub const MAX_HANDLES: usize = 8;

/// Most bytes that one `read` or `write` moves.
pub const MAX_TRANSFER: usize = 1024;

/// Bytes that a pipe holds.
pub const PIPE_BYTES: usize = 512;

/// The status that `wait` answers for a program that was killed. Its own ones are below.
pub const KILLED: u64 = 256;

/// The status of a program that panicked.
pub const PANICKED: u64 = 101;

/// A system call. The number of none is that of a virtual instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Number {
    /// `exit(status)`: ends the program; the status is one below 256.
    Exit = 0x100,
    /// `yield()`: lets others have their turn.
    Yield = 0x101,
    /// `sleep(ns)`.
    Sleep = 0x102,
    /// `write(handle, address, bytes)`: to the console or into a pipe; waits while the pipe is full. Result: bytes.
    Write = 0x103,
    /// `read(handle, address, bytes)`: out of a pipe; waits while it is empty. Result: bytes, 0 if nobody can write.
    Read = 0x104,
    /// `close(handle)`.
    Close = 0x105,
    /// `pipe()`. Result: the handle of the reading end, and that of the writing end times 256.
    Pipe = 0x106,
    /// `memory(pages)`: shared memory. Result: a handle.
    Memory = 0x107,
    /// `attach(handle)`: maps shared memory. Result: its address.
    Attach = 0x108,
    /// `grow(pages)`: more memory of the program's own, which costs nothing until it is used. Result: its address.
    Grow = 0x109,
    /// `spawn(name, bytes, argument, handle)`: starts a program, which gets a copy of the handle. Result: its number.
    Spawn = 0x10a,
    /// `wait(program)`: waits until a program that this one has spawned has ended. Result: its status.
    Wait = 0x10b,
    /// `clock()`. Result: nanoseconds of the machine's clock.
    Clock = 0x10c,
}

impl Number {
    const ALL: [Self; 13] = [
        Self::Exit,
        Self::Yield,
        Self::Sleep,
        Self::Write,
        Self::Read,
        Self::Close,
        Self::Pipe,
        Self::Memory,
        Self::Attach,
        Self::Grow,
        Self::Spawn,
        Self::Wait,
        Self::Clock,
    ];

    /// The call with that number.
    #[must_use]
    pub fn from_word(word: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|number| *number as u64 == word)
    }
}

/// Why a system call did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Error {
    /// Memory that the program has not, or not for this.
    BadAddress = -1,
    /// No such handle, or not one for this.
    BadHandle = -2,
    /// An argument that is out of range.
    BadArgument = -3,
    /// There is no program of this name.
    NoProgram = -4,
    /// The program, or its family, has all it may have of this.
    Limit = -5,
    /// The operating system has no memory left for it.
    NoMemory = -6,
    /// Nobody can read what is written.
    Broken = -7,
    /// It has not spawned this program, or has waited for it already.
    NoChild = -8,
}

impl Error {
    const ALL: [Self; 8] = [
        Self::BadAddress,
        Self::BadHandle,
        Self::BadArgument,
        Self::NoProgram,
        Self::Limit,
        Self::NoMemory,
        Self::Broken,
        Self::NoChild,
    ];

    /// The word that goes into `rax`.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        (self as i64).cast_unsigned()
    }

    /// Reads a result word: a value, or the error it stands for.
    ///
    /// # Errors
    /// The kernel's answer. A negative word of no meaning reads as `BadArgument`.
    pub fn read(word: u64) -> Result<u64, Self> {
        if word.cast_signed() >= 0 {
            return Ok(word);
        }
        Err(Self::ALL.into_iter().find(|error| error.to_word() == word).unwrap_or(Self::BadArgument))
    }
}

#[cfg(all(test, not(firn_program)))]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_as_themselves_and_virtual_instructions_are_none() {
        for number in 0..0x1000 {
            assert_eq!(Number::from_word(number).map(|n| n as u64), (0x100..0x10d).contains(&number).then_some(number));
        }
    }

    #[test]
    fn errors_survive_the_register() {
        for error in Error::ALL {
            assert_eq!(Error::read(error.to_word()), Err(error));
        }
        assert_eq!(Error::read(7), Ok(7));
    }
}
