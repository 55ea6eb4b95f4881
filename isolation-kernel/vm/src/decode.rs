//! From the words of a virtual instruction to a typed request. Pure: nothing is touched.

use hal::{Nanos, Registers};
use virtual_isa::control::Devices;
use virtual_isa::instruction::{Instruction, InstructionError};
use virtual_isa::limits::{MAX_CONSOLE_BYTES, MAX_ENTROPY_BYTES, MAX_TLB_WRITE};
use virtual_isa::tlb::{ENTRY_BYTES, Key, Right, VIRTUAL_PAGES, asid_of};

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
    /// Something about address spaces of its own: [`decode_spaces`] says what.
    Spaces,
}

/// What a guest asks about address spaces of its own. Apart from the others, which are not to be larger for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpacesRequest {
    /// To load the TLB entries there.
    Write(Allegation),
    /// To drop TLB entries.
    Invalidate(Pages),
    /// To run a context.
    Enter(Entering),
}

/// Pages of an address space, or of every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// The asid, or [`virtual_isa::tlb::EVERY_ASID`].
    pub asid: u16,
    /// First page.
    pub first: u32,
    /// Last page.
    pub last: u32,
}

impl Pages {
    /// `count` pages from a key's on.
    fn decode(key: u64, count: u64) -> Result<Self, InstructionError> {
        let Key { asid, page } = Key::from_word(key)?;
        let bad = InstructionError::BadArgument;
        let end = u64::from(page).checked_add(count).filter(|end| *end <= VIRTUAL_PAGES).ok_or(bad)?;
        let last = end.checked_sub(1).filter(|last| *last >= u64::from(page)).ok_or(bad)?;
        Ok(Self { asid, first: page, last: u32::try_from(last).map_err(|_| bad)? })
    }

    /// Whether a page is among them.
    #[must_use]
    pub const fn has(&self, key: Key) -> bool {
        (self.asid == virtual_isa::tlb::EVERY_ASID || self.asid == key.asid)
            && self.first <= key.page
            && key.page <= self.last
    }
}

/// In which space a context is to run, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entering {
    /// The space.
    pub asid: u16,
    /// What it sees of it.
    pub right: Right,
    /// When it comes back at the latest.
    pub deadline: Nanos,
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
        Instruction::TlbWrite | Instruction::TlbInvalidate | Instruction::EnterContext => Request::Spaces,
    })
}

/// Decodes the virtual instruction for address spaces in these registers.
///
/// # Errors
/// `UndefinedInstruction` if it is none of those, `BadArgument` for what none of them takes.
pub fn decode_spaces(registers: &Registers) -> Result<SpacesRequest, InstructionError> {
    Ok(match Instruction::try_from(registers.rax)? {
        Instruction::TlbWrite => SpacesRequest::Write(entries(registers.rdi, registers.rsi)?),
        Instruction::TlbInvalidate => SpacesRequest::Invalidate(Pages::decode(registers.rdi, registers.rsi)?),
        Instruction::EnterContext => SpacesRequest::Enter(Entering {
            asid: asid_of(registers.rdi)?,
            right: Right::try_from(registers.rsi)?,
            deadline: Nanos(registers.rdx),
        }),
        _ => return Err(InstructionError::UndefinedInstruction),
    })
}

/// Where so many TLB entries are.
fn entries(address: u64, count: u64) -> Result<Allegation, InstructionError> {
    let count = usize::try_from(count).ok().filter(|count| (1..=MAX_TLB_WRITE).contains(count));
    let count = count.ok_or(InstructionError::BadArgument)?;
    Ok(Allegation { address, length: count.saturating_mul(ENTRY_BYTES) as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_words_decode_or_are_refused(
            rax in 0u64..20,
            rdi in prop_oneof![any::<u64>(), 0u64..300],
            rsi in prop_oneof![any::<u64>(), 0u64..100],
            rdx: u64,
        ) {
            let registers = Registers { rax, rdi, rsi, rdx, ..Registers::default() };
            match decode(&registers) {
                Ok(Request::Console(a)) => prop_assert!(a.length <= MAX_CONSOLE_BYTES as u64),
                Ok(Request::Entropy(a)) => prop_assert!(a.length <= MAX_ENTROPY_BYTES as u64),
                Ok(Request::Notify(d)) => prop_assert_eq!(d.bits(), rdi),
                Ok(Request::Spaces) => match decode_spaces(&registers) {
                    Ok(SpacesRequest::Write(a)) => prop_assert_eq!((a.address, a.length), (rdi, 16 * rsi)),
                    Ok(SpacesRequest::Invalidate(p)) => {
                        prop_assert_eq!(u64::from(p.first) * 4096 + u64::from(p.asid), rdi);
                        prop_assert_eq!(u64::from(p.last) + 1 - u64::from(p.first), rsi);
                    }
                    Ok(SpacesRequest::Enter(e)) => {
                        prop_assert_eq!((u64::from(e.asid), e.right as u64, e.deadline.0), (rdi, rsi, rdx));
                    }
                    Err(e) => {
                        prop_assert_eq!(e, InstructionError::BadArgument);
                        match rax {
                            9 => prop_assert!(rsi == 0 || rsi > 64),
                            10 => {
                                let end = (rdi >> 12).saturating_add(rsi);
                                prop_assert!(rdi % 4096 > 255 || rsi == 0 || end > 1 << 32);
                            }
                            _ => prop_assert!(rax == 11 && (rdi == 0 || rdi > 255 || rsi > 1)),
                        }
                    }
                },
                Ok(_) => {}
                Err(InstructionError::BadArgument) => prop_assert!(rax == 3 && rdi > 3),
                Err(e) => {
                    prop_assert_eq!(e, InstructionError::UndefinedInstruction);
                    prop_assert!(rax == 0 || rax > 11);
                }
            }
        }
    }
}
