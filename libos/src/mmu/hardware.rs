//! The three instructions, and the registers that go with them, in a VM.

use super::thread::{MXCSR, Thread, Vectors};
use crate::guest::{control, instruction, registers};
use crate::rings::index;
use core::arch::asm;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use virtual_isa::PAGE_SIZE;
use virtual_isa::context::{CONTEXT_WORDS, Context, EXIT_WORDS, Exit};
use virtual_isa::control::{CONTEXT, EXIT, PENDING, Pending};
use virtual_isa::instruction::{Instruction, InstructionError};
use virtual_isa::layout::CONTROL_PAGE;
use virtual_isa::register::Features;
use virtual_isa::tlb::{Entry, Key, Right};

static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// Whether nobody has the processor.
pub(super) fn take() -> bool {
    !IS_TAKEN.swap(true, Ordering::Relaxed)
}

/// It is nobody's again.
pub(super) fn release() {
    IS_TAKEN.store(false, Ordering::Relaxed);
}

/// The number of the physical page at an address of this VM's.
pub(super) fn physical_page(at: NonNull<u8>) -> u32 {
    // No VM has so much memory that this would not fit.
    u32::try_from(at.addr().get() / PAGE_SIZE).unwrap_or(0)
}

/// A page is about to become something else.
pub(super) const fn forget(_at: NonNull<u8>) {}

/// Loads entries.
///
/// # Safety
/// What they let contexts write must be nothing that this program's own code relies on while a context runs.
pub(super) unsafe fn load(entries: &[Entry]) -> Result<(), InstructionError> {
    let mut bytes = [[0; virtual_isa::tlb::ENTRY_BYTES]; super::space::MAX_LOAD];
    for (bytes, entry) in bytes.iter_mut().zip(entries) {
        *bytes = entry.to_bytes();
    }
    let nr_entries = entries.len().min(bytes.len());
    // SAFETY: the entries lie in memory; the caller answers for what they say.
    let result =
        unsafe { instruction::raw(Instruction::TlbWrite as u64, bytes.as_ptr().addr() as u64, nr_entries as u64) };
    InstructionError::read(result).map(|_| ())
}

/// Drops the entries of a range of pages.
pub(super) fn invalidate(key: Key, nr_pages: u64) {
    // SAFETY: it takes something away from contexts, and reads no memory.
    let result = unsafe { instruction::raw(Instruction::TlbInvalidate as u64, key.to_word(), nr_pages) };
    // A page that some context still reaches must not be used for anything else.
    assert_eq!(InstructionError::read(result), Ok(0), "entries stay");
}

/// Takes the timer's bit, which the end of a thread's time has set. Timers go by the clock, not by the bit.
fn take_timer() {
    index(control(), PENDING).fetch_and(!Pending::TIMER.bits(), Ordering::Relaxed);
}

/// Runs a thread until it comes back.
pub(super) fn enter(asid: u16, right: Right, deadline_ns: u64, thread: &mut Thread) -> Result<Exit, InstructionError> {
    let place = (CONTROL_PAGE as *mut u8).wrapping_add(CONTEXT).cast::<[u64; CONTEXT_WORDS]>();
    // SAFETY: these words of the control page are there and aligned, and nobody else uses them.
    unsafe { place.write_volatile(thread.registers.to_words()) };
    let result = switch(asid, right, deadline_ns, &mut thread.vectors);
    InstructionError::read(result)?;
    let exit = (CONTROL_PAGE as *const u8).wrapping_add(EXIT).cast::<[u64; EXIT_WORDS]>();
    // SAFETY: as above; the kernel has written them before the instruction ended.
    let (words, exit) = unsafe { (place.read_volatile(), exit.read_volatile()) };
    thread.registers = Context::from_words(words);
    let exit = Exit::from_words(exit).ok_or(InstructionError::UndefinedInstruction)?;
    if exit == Exit::Interrupt {
        take_timer();
    }
    Ok(exit)
}

/// `enter_context`, with the thread's vector registers in the processor meanwhile.
fn switch(asid: u16, right: Right, deadline_ns: u64, vectors: &mut Vectors) -> u64 {
    let has_avx = Features::from_bits_truncate(registers::registers().features).contains(Features::AVX);
    if has_avx { switch_avx(asid, right, deadline_ns, vectors) } else { switch_sse(asid, right, deadline_ns, vectors) }
}

fn switch_sse(asid: u16, right: Right, deadline_ns: u64, vectors: &mut Vectors) -> u64 {
    let result;
    // SAFETY: the kernel preserves all general registers but rax, rcx and r11. Vector registers are the thread's before
    // and after, which is saved; of this program the compiler keeps none across (`clobber_abi`), and the control words
    // are what they were at the start. What contexts write is what entries let them write: see `load`.
    unsafe {
        asm!(
            "fxrstor64 [r12]",
            "syscall",
            "fxsave64 [r12]",
            "fninit",
            "ldmxcsr [r13]",
            in("r12") vectors,
            in("r13") &MXCSR,
            inlateout("rax") Instruction::EnterContext as u64 => result,
            in("rdi") u64::from(asid),
            in("rsi") right as u64,
            in("rdx") deadline_ns,
            clobber_abi("C"),
            options(nostack),
        );
    }
    result
}

/// The same with the upper halves of AVX. The instructions that save and restore take their mask in eax and edx.
fn switch_avx(asid: u16, right: Right, deadline_ns: u64, vectors: &mut Vectors) -> u64 {
    let result;
    // SAFETY: as in `switch_sse`. The area is aligned, and its header was 0 or written by `xsave64`.
    unsafe {
        asm!(
            "mov eax, 7",
            "xor edx, edx",
            "xrstor64 [r12]",
            "mov rax, r14",
            "mov rdx, r15",
            "syscall",
            "mov r14, rax",
            "mov eax, 7",
            "xor edx, edx",
            "xsave64 [r12]",
            "vzeroupper",
            "fninit",
            "ldmxcsr [r13]",
            in("r12") vectors,
            in("r13") &MXCSR,
            inlateout("r14") Instruction::EnterContext as u64 => result,
            in("r15") deadline_ns,
            in("rdi") u64::from(asid),
            in("rsi") right as u64,
            clobber_abi("C"),
            options(nostack),
        );
    }
    result
}
