//! Address spaces by hand: the instructions that make them, and programs of a few bytes.

use core::arch::asm;
use libos::instruction::{Instruction, InstructionError};
use virtual_isa::context::{CONTEXT_WORDS, Context, EXIT_WORDS, Exit};
use virtual_isa::control::{CONTEXT, EXIT};
use virtual_isa::layout::{CONTROL_PAGE, page_of};
use virtual_isa::tlb::{ENTRY_BYTES, Entry, Key, Right, Rights};

/// A page to be mapped.
#[repr(C, align(4096))]
pub struct Page(pub [u8; 4096]);

impl Page {
    /// Zeros.
    pub const ZERO: Self = Self([0; 4096]);

    /// Its number: memory is mapped as it is.
    pub fn number(&self) -> u32 {
        page_number(&raw const *self as u64)
    }
}

/// The number of a page of a space.
///
/// # Panics
/// If no space has it.
#[must_use]
pub fn page_number(at: u64) -> u32 {
    u32::try_from(page_of(at)).expect("spaces are not so large")
}

/// Executes an instruction with three arguments. What a context may leave in the vector registers is lost.
///
/// # Safety
/// The kernel may read what the words name, and run the context in the control page.
pub unsafe fn execute(number: Instruction, words: [u64; 3]) -> Result<u64, InstructionError> {
    let mut result = number as u64;
    // SAFETY: the kernel preserves all other registers.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") result,
            inlateout("rdi") words[0] => _,
            inlateout("rsi") words[1] => _,
            in("rdx") words[2],
            lateout("rcx") _, lateout("r11") _,
            lateout("xmm0") _, lateout("xmm1") _, lateout("xmm2") _, lateout("xmm3") _,
            lateout("xmm4") _, lateout("xmm5") _, lateout("xmm6") _, lateout("xmm7") _,
            lateout("xmm8") _, lateout("xmm9") _, lateout("xmm10") _, lateout("xmm11") _,
            lateout("xmm12") _, lateout("xmm13") _, lateout("xmm14") _, lateout("xmm15") _,
            options(nostack),
        );
    }
    InstructionError::read(result)
}

/// Loads entries.
pub fn load<const N: usize>(entries: &[Entry; N]) -> Result<u64, InstructionError> {
    let bytes: [[u8; ENTRY_BYTES]; N] = core::array::from_fn(|n| entries[n].to_bytes());
    // SAFETY: the kernel reads the list.
    unsafe { execute(Instruction::TlbWrite, [bytes.as_ptr() as u64, N as u64, 0]) }
}

/// Drops entries.
pub fn invalidate(key: Key, pages: u64) -> Result<u64, InstructionError> {
    // SAFETY: no context runs.
    unsafe { execute(Instruction::TlbInvalidate, [key.to_word(), pages, 0]) }
}

/// An entry for a page.
pub fn entry(asid: u16, at: u64, page: &Page, rights: Rights) -> Entry {
    Entry { key: Key { asid, page: page_number(at) }, physical: page.number(), rights }
}

/// Runs a context until it comes back.
pub fn enter(asid: u16, right: Right, deadline: u64, context: &Context) -> Result<(Context, Exit), InstructionError> {
    let place = (CONTROL_PAGE + CONTEXT as u64) as *mut [u64; CONTEXT_WORDS];
    // SAFETY: this part of the control page is nobody else's, and the context can only use what was mapped for it.
    unsafe {
        place.write_volatile(context.to_words());
        let cause = execute(Instruction::EnterContext, [u64::from(asid), right as u64, deadline])?;
        let words = ((CONTROL_PAGE + EXIT as u64) as *const [u64; EXIT_WORDS]).read_volatile();
        let exit = Exit::from_words(words);
        match exit {
            Some(exit) if exit.cause() == cause => Ok((Context::from_words(place.read_volatile()), exit)),
            _ => crate::failure(format_args!("cause {cause} and exit {words:x?}")),
        }
    }
}
