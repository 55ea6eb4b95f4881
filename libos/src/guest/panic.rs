//! A panic ends the VM, after saying why and where.

use super::instruction;
use super::logger::Line;
use core::arch::asm;
use core::fmt::Write;
use core::panic::PanicInfo;
use virtual_isa::layout::{STACK_BOTTOM, STACK_TOP};
use virtual_isa::limits::MAX_BACKTRACE;

/// The status of a VM that panicked.
const PANIC_STATUS: u64 = 101;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say(info);
    instruction::terminate(PANIC_STATUS)
}

#[inline(never)]
fn say(info: &PanicInfo<'_>) {
    let frame: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    let mut line = Line::new();
    let _ = writeln!(line, "{info}");
    let _ = write!(line, "backtrace");
    walk(frame, |address| {
        let _ = write!(line, " {address:#x}");
    });
    let _ = writeln!(line);
}

/// Follows the frame pointers as long as they stay on the stack and go up.
fn walk(mut frame: u64, mut found: impl FnMut(u64)) {
    for _ in 0..MAX_BACKTRACE {
        if !frame.is_multiple_of(8) || !(STACK_BOTTOM..STACK_TOP - 15).contains(&frame) {
            return;
        }
        // SAFETY: both words lie on the stack, which is this VM's and aligned.
        let (next, address) = unsafe { (*(frame as *const u64), *((frame + 8) as *const u64)) };
        if address == 0 {
            return;
        }
        found(address);
        if next <= frame {
            return;
        }
        frame = next;
    }
}
