//! From the words of a virtual instruction to a typed request. Pure: nothing is touched.

use hal::{Nanos, Registers};
use virtual_isa::control::Devices;
use virtual_isa::instruction::{Instruction, InstructionError};
use virtual_isa::limits::{MAX_CONSOLE_BYTES, MAX_ENTROPY_BYTES};

/// Memory that a guest says is its own. Nothing about it is known until it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allegation {
    /// First address.
    pub address: u64,
    /// Number of bytes.
    pub length: u64,
}

impl Allegation {
    /// The same place, at most `limit` bytes of it.
    const fn up_to(self, limit: usize) -> Self {
        let limit = limit as u64;
        Self { address: self.address, length: if self.length < limit { self.length } else { limit } }
    }
}

/// What a guest asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// To sleep, until this time at the latest.
    Idle(Nanos),
    /// To end.
    Terminate {
        /// Its status.
        status: u64,
    },
    /// To serve rings.
    Notify(Devices),
    /// To be the template.
    Ready,
    /// To give pages back.
    Discard(Allegation),
    /// Random bytes.
    Entropy(Allegation),
    /// To print.
    Console(Allegation),
    /// To serve the request ring.
    Gate,
}

/// The devices of a `notify` that is right; `None` for whatever else is in these registers.
#[inline]
pub fn decode_notify(registers: &Registers) -> Option<Devices> {
    if registers.rax == Instruction::Notify as u64 { Devices::from_bits(registers.rdi) } else { None }
}

/// Decodes the virtual instruction in these registers.
///
/// # Errors
/// `UndefinedInstruction` for a number that is none, `BadArgument` for undefined bits.
pub fn decode(registers: &Registers) -> Result<Request, InstructionError> {
    let range = Allegation { address: registers.rdi, length: registers.rsi };
    Ok(match Instruction::try_from(registers.rax)? {
        Instruction::Idle => Request::Idle(Nanos(registers.rdi)),
        Instruction::Terminate => Request::Terminate { status: registers.rdi },
        Instruction::Notify => Request::Notify(Devices::from_bits(registers.rdi).ok_or(InstructionError::BadArgument)?),
        Instruction::Ready => Request::Ready,
        Instruction::Discard => Request::Discard(range),
        Instruction::Entropy => Request::Entropy(range.up_to(MAX_ENTROPY_BYTES)),
        Instruction::Console => Request::Console(range.up_to(MAX_CONSOLE_BYTES)),
        Instruction::Gate => Request::Gate,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_words_decode_or_are_refused(rax in 0u64..20, rdi: u64, rsi: u64) {
            let registers = Registers { rax, rdi, rsi, ..Registers::default() };
            match decode(&registers) {
                Ok(Request::Console(a)) => prop_assert!(a.length <= MAX_CONSOLE_BYTES as u64),
                Ok(Request::Entropy(a)) => prop_assert!(a.length <= MAX_ENTROPY_BYTES as u64),
                Ok(Request::Notify(d)) => prop_assert_eq!(d.bits(), rdi),
                Ok(_) => {}
                Err(InstructionError::BadArgument) => prop_assert!(rdi > 3),
                Err(e) => {
                    prop_assert_eq!(e, InstructionError::UndefinedInstruction);
                    prop_assert!(rax == 0 || rax > 8);
                }
            }
        }
    }
}
