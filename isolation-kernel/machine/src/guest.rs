//! Running a guest: into user mode and back, as a plain call, and what changes between two guests.

use crate::per_cpu::{self, Cpu};
use core::arch::asm;
use core::mem::offset_of;
use hal::{Registers, VectorState};

/// Flags a guest may have set: the arithmetic ones, TF, DF, RF, AC, ID. IF is always set, IOPL always 0.
const FREE_FLAGS: u32 = 0x25_0dd5;
/// Flags that must be as in [`FIXED_FLAGS`].
const CHECKED_FLAGS: u32 = !FREE_FLAGS;
/// IF, and the bit that always reads as one.
const FIXED_FLAGS: u32 = 0x202;

/// Runs the guest whose address space and vector registers are loaded, until something brings it back. Answers
/// the vector, or [`crate::trap::SYSCALL`], and the error code.
///
/// The short way in is `sysretq`. It loads rip from rcx and rflags from r11, so it is right exactly if those are
/// equal, as they are after a virtual instruction. With a rip that is not canonical it would fault in the kernel
/// (on Intel's processors), so such a guest gets the exception it would have raised without being entered.
///
/// # Safety
/// The page tables in use map the kernel.
#[inline(always)]
pub unsafe fn run(registers: &mut Registers) -> (u64, u64) {
    let vector: u64;
    let code: u64;
    // SAFETY: all registers that the guest or the way back change are declared, or saved here (rbp, rbx).
    // `registers` is exclusive, and the trap path writes nothing but it and this processor's `Cpu`. Interrupts are
    // off, so nothing is pushed while the stack pointer points elsewhere, but what has a stack of its own.
    unsafe {
        asm!(
            "push rbp",
            "push rbx",
            "lea rcx, [rip + 4f]",
            "push rcx",
            "mov gs:[{kernel_stack}], rsp",
            "lea rcx, [rdi + {registers_size}]",
            "mov gs:[{registers_end}], rcx",
            "mov rcx, [rdi + 0x78]",
            "mov rdx, [rdi + 0x88]",
            "cmp rcx, [rdi + 0x10]",
            "jne 2f",
            "cmp rdx, [rdi + 0x50]",
            "jne 2f",
            "and edx, {checked}",
            "cmp edx, {fixed}",
            "jne 2f",
            "shr rcx, 47",
            "jnz 2f",
            "mov rsp, rdi",
            "pop rax",
            "pop rbx",
            "pop rcx",
            "pop rdx",
            "pop rsi",
            "pop rdi",
            "pop rbp",
            "pop r8",
            "pop r9",
            "pop r10",
            "pop r11",
            "pop r12",
            "pop r13",
            "pop r14",
            "pop r15",
            "mov rsp, [rsp + 8]",
            "swapgs",
            "sysretq",
            // The long way: any rip in user space, all registers as they are.
            "2:",
            "mov rcx, [rdi + 0x78]",
            "mov rdx, rcx",
            "shr rdx, 47",
            "jnz 3f",
            "push {user_data}",
            "push qword ptr [rdi + 0x80]",
            "mov rax, [rdi + 0x88]",
            "and eax, {free}",
            "or eax, {fixed}",
            "push rax",
            "push {user_code}",
            "push rcx",
            "mov rax, [rdi]",
            "mov rbx, [rdi + 0x08]",
            "mov rcx, [rdi + 0x10]",
            "mov rdx, [rdi + 0x18]",
            "mov rsi, [rdi + 0x20]",
            "mov rbp, [rdi + 0x30]",
            "mov r8, [rdi + 0x38]",
            "mov r9, [rdi + 0x40]",
            "mov r10, [rdi + 0x48]",
            "mov r11, [rdi + 0x50]",
            "mov r12, [rdi + 0x58]",
            "mov r13, [rdi + 0x60]",
            "mov r14, [rdi + 0x68]",
            "mov r15, [rdi + 0x70]",
            "mov rdi, [rdi + 0x28]",
            "swapgs",
            "iretq",
            "3:",
            "mov eax, 13",
            "xor edx, edx",
            "add rsp, 8",
            // The trap path returns here, with the vector in rax and the code in rdx.
            "4:",
            "pop rbx",
            "pop rbp",
            kernel_stack = const offset_of!(Cpu, kernel_stack),
            registers_end = const offset_of!(Cpu, registers_end),
            registers_size = const size_of::<Registers>(),
            checked = const CHECKED_FLAGS.cast_signed(),
            free = const FREE_FLAGS,
            fixed = const FIXED_FLAGS,
            user_data = const per_cpu::USER_DATA,
            user_code = const per_cpu::USER_CODE,
            inout("rdi") &raw mut *registers => _,
            out("rax") vector,
            out("rdx") code,
            out("rcx") _, out("rsi") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
    (vector, code)
}

/// Clears what a guest may have loaded into the data segment registers. Their bases are 0 anyway: no descriptor
/// has another, and guests cannot write the bases.
#[inline(always)]
pub fn clear_segments() {
    let selectors: u32;
    // SAFETY: reads segment selectors.
    unsafe {
        asm!(
            "mov {0:e}, ds", "mov {1:e}, es", "or {0:e}, {1:e}",
            "mov {1:e}, fs", "or {0:e}, {1:e}",
            "mov {1:e}, gs", "or {0:e}, {1:e}",
            out(reg) selectors, out(reg) _, options(nomem, nostack)
        );
    }
    if selectors & 0xffff == 0 {
        return;
    }
    // SAFETY: null selectors are allowed, and 64-bit code does not use them. Loading GS may clear its base, so the
    // guest's is made the current one meanwhile.
    unsafe {
        asm!(
            "mov ds, {0:e}", "mov es, {0:e}", "mov fs, {0:e}",
            "swapgs", "mov gs, {0:e}", "swapgs",
            in(reg) 0_u32, options(nomem, nostack, preserves_flags)
        );
    }
}

/// Keeps what the last guest taught the branch predictors from the next one. Costs the processor some thousand
/// cycles, which is why it can be switched off.
#[inline(always)]
pub fn predictor_barrier() {
    const PREDICTOR_COMMAND: u32 = 0x49;
    // SAFETY: only called where the processor has the register; the one bit is the barrier.
    unsafe { x86_64::registers::model_specific::Msr::new(PREDICTOR_COMMAND).write(1) };
}

/// Overwrites the addresses of the last x87 instruction and operand, which some processors neither save nor load
/// unless an exception is pending.
#[inline(always)]
pub fn overwrite_x87_pointers() {
    static ZERO: u32 = 0;
    // SAFETY: the x87 state is loaded right after this.
    unsafe { asm!("fnclex", "emms", "fild dword ptr [{}]", in(reg) &raw const ZERO, options(nostack, readonly)) };
}

/// Loads vector registers, all components.
///
/// # Safety
/// XSAVE is switched on. `state` holds what [`save_vector`] or `VectorState::new` wrote: the processor raises
/// general protection for anything else.
#[inline(always)]
pub unsafe fn load_vector(state: &VectorState) {
    // SAFETY: aligned by its type; the kernel itself uses no vector registers.
    unsafe {
        asm!("xrstor64 [{}]", in(reg) &raw const *state, in("eax") u32::MAX, in("edx") u32::MAX,
            options(nostack, readonly, preserves_flags));
    }
}

/// Saves vector registers, all components. With `XSAVEOPT` the processor may leave out what has not changed since
/// it was loaded from the same place: between the two nobody else writes there.
///
/// # Safety
/// XSAVE is switched on, and `is_optimised` only if the processor has XSAVEOPT.
#[inline(always)]
pub unsafe fn save_vector(state: &mut VectorState, is_optimised: bool) {
    // SAFETY: 832 bytes hold all components of XCR0; aligned by its type.
    unsafe {
        if is_optimised {
            asm!("xsaveopt64 [{}]", in(reg) &raw mut *state, in("eax") u32::MAX, in("edx") u32::MAX,
                options(nostack, preserves_flags));
        } else {
            asm!("xsave64 [{}]", in(reg) &raw mut *state, in("eax") u32::MAX, in("edx") u32::MAX,
                options(nostack, preserves_flags));
        }
    }
}

/// The kernel's own flags, for a self-test to see what a guest's flags have become.
pub fn kernel_flags() -> u64 {
    x86_64::registers::rflags::read_raw()
}
