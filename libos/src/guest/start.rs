//! The first instruction, and the way to `main`.
//!
//! The first VM of an image stops at `ready()`, and what it is then becomes the template of all others: clones start
//! behind it. So nothing that tells one VM from another may be looked at before: no register, clock or random byte,
//! and nothing that is set up from one (log level, heap, network, generator). What stands there is the loader's work
//! and an empty `main` future, the same in every clone, and no page has been written but the stack's first.
//!
//! All else is done by each VM when it first needs it, and costs it a private page only then. An idle `web` VM that has
//! served has about eleven: control page, three ring pages, register page, one or two of the stack, the one where its
//! data ends and its heap begins, two more of the heap, and the page of its identity.

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
    // Before anything that makes this VM different from its clones is read, and before anything is allocated.
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
