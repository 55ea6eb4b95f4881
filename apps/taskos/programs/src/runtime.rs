//! The first instruction, panics, and what the compiler calls.

use crate::abi::{PANICKED, PROGRAM_BASE};
use crate::{exit, print};
use core::arch::global_asm;
use core::panic::PanicInfo;

// A program starts with the stack pointer at the top of its stack and its argument in rdi, all else 0. The link script
// compares its number with the one of the ABI.
global_asm!(
    ".section .text.start, \"ax\", @progbits",
    ".globl _start",
    "_start:",
    "    xor ebp, ebp",
    "    call program_main",
    "    ud2",
    ".globl program_no_unwinding",
    "program_no_unwinding:",
    "    ud2",
    ".globl program_base",
    ".set program_base, {base}",
    base = const PROGRAM_BASE,
);

// As small as can be: programs copy little.
global_asm!(
    ".section .text.copy, \"ax\", @progbits",
    ".globl memcpy",
    "memcpy:",
    "    mov rax, rdi",
    "    mov rcx, rdx",
    "    rep movsb",
    "    ret",
    ".globl memset",
    "memset:",
    "    mov r8, rdi",
    "    mov eax, esi",
    "    mov rcx, rdx",
    "    rep stosb",
    "    mov rax, r8",
    "    ret",
    ".globl memmove",
    "memmove:",
    "    mov rax, rdi",
    "    mov rcx, rdx",
    "    cmp rdi, rsi",
    "    ja 2f",
    "    rep movsb",
    "    ret",
    "2:  lea rdi, [rdi + rcx - 1]",
    "    lea rsi, [rsi + rcx - 1]",
    "    std",
    "    rep movsb",
    "    cld",
    "    ret",
    ".globl memcmp",
    ".globl bcmp",
    "memcmp:",
    "bcmp:",
    "    xor eax, eax",
    "    mov rcx, rdx",
    "    test rcx, rcx",
    "    jz 2f",
    "    repe cmpsb",
    "    movzx eax, byte ptr [rdi - 1]",
    "    movzx ecx, byte ptr [rsi - 1]",
    "    sub ecx, eax",
    "    mov eax, ecx",
    "2:  ret",
);

/// What `program!` expands to.
pub fn run(main: impl FnOnce(u64) -> u64, argument: u64) -> ! {
    exit(main(argument))
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    print("panic");
    if let Some(location) = info.location() {
        print(" in ");
        print(location.file());
    }
    print("\n");
    exit(PANICKED)
}
