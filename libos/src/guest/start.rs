//! The first instruction, and the way to `main`.

use super::{instruction, logger, runtime};
use crate::start_up::Outcome;
use core::arch::global_asm;
use core::future::Future;
use virtual_isa::instruction::InstructionError;
use virtual_isa::layout::{IMAGE_BASE, IMAGE_LIMIT};

// The VM starts with the stack pointer at the top of the stack and every other register 0: rbp ends a backtrace.
// The link script compares its numbers with the two of the ISA.
global_asm!(
    ".section .text.start, \"ax\", @progbits",
    ".globl _start",
    "_start:",
    "    xor ebp, ebp",
    "    call firn_main",
    "    ud2",
    ".globl firn_no_unwinding",
    "firn_no_unwinding:",
    "    ud2",
    ".globl firn_image_base",
    ".set firn_image_base, {base}",
    ".globl firn_image_limit",
    ".set firn_image_limit, {limit}",
    base = const IMAGE_BASE,
    limit = const IMAGE_LIMIT,
);

/// Runs `main`: what `#[libos::main]` calls.
pub fn run(main: impl Future<Output: Outcome> + 'static) -> ! {
    // Before anything that makes this VM different from its clones is read.
    match instruction::ready() {
        // Somebody has spoken to this VM already: clones cannot start from here, but it serves like any other.
        Ok(()) | Err(InstructionError::Busy) => {}
        Err(e) => panic!("not ready at the start: {e}"),
    }
    logger::start();
    runtime::spawn(async {
        let status = main.await.report();
        instruction::terminate(u64::from(status))
    })
    .detach();
    runtime::run()
}
