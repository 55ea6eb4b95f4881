//! The report of a VM that ends: registers, and a backtrace by its frame pointers.

use crate::console::{Level, log};
use crate::decode::Allegation;
use crate::memory::{Memory, Shared};
use core::fmt;
use hal::{Hardware, Registers};
use virtual_isa::exception::{Cause, Report};
use virtual_isa::limits::MAX_BACKTRACE;

/// Makes the report. The stack is the guest's and may say anything.
pub fn make<H: Hardware>(
    hw: &H,
    memory: Option<&Memory<H::Space>>,
    shared: Option<&Shared<'_>>,
    r: &Registers,
    cause: Cause,
) -> Report {
    let mut backtrace = [0; MAX_BACKTRACE];
    if let (Some(memory), Some(shared)) = (memory, shared) {
        let mut frame = r.rbp;
        for place in &mut backtrace {
            let mut words = [0u8; 16];
            let at = Allegation { address: frame, length: 16 };
            if memory.try_read(hw, shared, at, &mut words).is_err() {
                break;
            }
            let [next, back] = *words.as_chunks::<8>().0 else { break };
            let next = u64::from_le_bytes(next);
            *place = u64::from_le_bytes(back);
            // Callers' frames lie higher on the stack. A guest that says otherwise only shortens its own list.
            if next <= frame {
                break;
            }
            frame = next;
        }
    }
    Report {
        cause,
        instruction: r.rip,
        stack: r.rsp,
        flags: r.rflags,
        registers: [
            r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15,
        ],
        backtrace,
    }
}

/// Prints the report to the log: one line for a clean end, all of it otherwise. What the supervisor wanted is no news,
/// and a line takes longer than the end itself: the port takes its bytes one at a time.
pub fn print<H: Hardware>(hw: &mut H, vm: u32, report: &Report) {
    if report.cause == Cause::Stopped {
        return;
    }
    if report.cause.is_clean() {
        log(hw, Level::Info, format_args!("vm {vm} ended: {}", report.cause));
        return;
    }
    log(hw, Level::Warn, format_args!("vm {vm} ended: {}", report.cause));
    let Report { instruction, stack, flags, .. } = report;
    log(hw, Level::Warn, format_args!("vm {vm}   rip {instruction:#x} rsp {stack:#x} rflags {flags:#x}"));
    const NAMES: [&str; 15] =
        ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
    for (names, values) in NAMES.chunks(5).zip(report.registers.chunks(5)) {
        log(hw, Level::Warn, format_args!("vm {vm}  {}", Row(names, values)));
    }
    log(hw, Level::Warn, format_args!("vm {vm}   backtrace{}", Addresses(&report.backtrace)));
}

struct Row<'a>(&'a [&'a str], &'a [u64]);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().zip(self.1).try_for_each(|(name, value)| write!(f, " {name} {value:#x}"))
    }
}

struct Addresses<'a>(&'a [u64]);

impl fmt::Display for Addresses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take_while(|&&address| address != 0).try_for_each(|address| write!(f, " {address:#x}"))
    }
}
