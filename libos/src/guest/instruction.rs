//! The virtual instructions.

use core::arch::asm;
use core::ops::Range;
pub use virtual_isa::control::Devices;
pub use virtual_isa::instruction::{Instruction, InstructionError, NO_DEADLINE};
use virtual_isa::limits::{MAX_CONSOLE_BYTES, MAX_ENTROPY_BYTES};

/// Executes `syscall` with any words, as no program but a test of the kernel wants to.
///
/// # Safety
/// The kernel may read and write what the words name, as the ISA says.
#[inline]
pub unsafe fn raw(number: u64, first: u64, second: u64) -> u64 {
    let result;
    // SAFETY: the kernel preserves everything but rax, rcx and r11; `discard` advances its arguments. The stack
    // below the pointer is not used by the kernel.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            inlateout("rdi") first => _,
            inlateout("rsi") second => _,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

#[inline]
fn execute(instruction: Instruction, first: u64, second: u64) -> Result<u64, InstructionError> {
    // SAFETY: the callers below pass only memory that they hold.
    InstructionError::read(unsafe { raw(instruction as u64, first, second) })
}

/// Sleeps until something enabled is pending, or until that time of the machine's clock. All rings are served first.
pub fn idle(deadline_ns: u64) {
    // It cannot fail.
    let _ = execute(Instruction::Idle, deadline_ns, 0);
}

/// Ends this VM.
pub fn terminate(status: u64) -> ! {
    let _ = execute(Instruction::Terminate, status, 0);
    unreachable!("a terminated VM ran on")
}

/// Has the kernel serve rings.
pub fn notify(devices: Devices) {
    // Only undefined bits are refused.
    let _ = execute(Instruction::Notify, devices.bits(), 0);
}

/// Marks the point from which clones of this VM may start.
///
/// # Errors
/// `Busy` unless all rings are empty.
pub fn ready() -> Result<(), InstructionError> {
    execute(Instruction::Ready, 0, 0).map(|_| ())
}

/// Gives whole pages back. They read as zero, or as the image has them, afterwards.
///
/// # Errors
/// `BadAddress` if part of the range is not this VM's.
///
/// # Safety
/// Nothing may rely on what these pages hold.
pub unsafe fn discard(range: Range<u64>) -> Result<(), InstructionError> {
    execute(Instruction::Discard, range.start, range.end.saturating_sub(range.start)).map(|_| ())
}

/// Fills `bytes` with random bytes of the machine.
///
/// # Panics
/// If the machine has no memory left for the page `bytes` are on.
pub fn entropy(bytes: &mut [u8]) {
    for piece in bytes.chunks_mut(MAX_ENTROPY_BYTES) {
        let filled = execute(Instruction::Entropy, piece.as_mut_ptr().addr() as u64, piece.len() as u64);
        assert_eq!(filled, Ok(piece.len() as u64), "no entropy");
    }
}

/// Prints bytes, in as many pieces as it takes.
pub fn console(bytes: &[u8]) {
    for piece in bytes.chunks(MAX_CONSOLE_BYTES) {
        // It cannot fail on memory of this VM's, and there is nowhere to report it.
        let _ = execute(Instruction::Console, piece.as_ptr().addr() as u64, piece.len() as u64);
    }
}

/// Serves the supervisor's request ring. Returns how many requests were taken.
///
/// # Errors
/// `NotPermitted` without the privilege bit.
pub fn gate() -> Result<u64, InstructionError> {
    execute(Instruction::Gate, 0, 0)
}
