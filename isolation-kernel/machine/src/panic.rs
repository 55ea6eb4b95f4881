//! The end of the kernel by its own defect: a report, and the machine ends.

use crate::layout::symbol;
use crate::{heap, per_cpu, serial, smp, time};
use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};
use x86_64::instructions::port::Port;
use x86_64::registers::control::{Cr2, Cr3};

/// Port of the debug-exit device.
const DEBUG_EXIT: u16 = 0xf4;

/// Most return addresses in a report.
const MAX_BACKTRACE: usize = 32;

/// The processor that panics, plus one; 0 if none does.
static PANICKING: AtomicU32 = AtomicU32::new(0);

/// Not 0 once the machine is ending: a non-maskable interrupt then stops the processor that it comes to.
pub static IS_ENDING: AtomicU32 = AtomicU32::new(0);

/// Processors that have stopped because of it.
pub static NR_STOPPED: AtomicU32 = AtomicU32::new(0);

/// How long the others have for that. None needs it, but one that is broken.
const STOP_NS: u64 = 50_000_000;

/// Stops all other processors, wherever they are, for ever.
pub fn stop_others() {
    // Before the interrupts: sending one is ordered after it.
    IS_ENDING.store(1, Ordering::SeqCst);
    let nr_told = smp::interrupt_others();
    let start = time::uptime_ns();
    while NR_STOPPED.load(Ordering::Acquire) < nr_told && time::uptime_ns().saturating_sub(start) < STOP_NS {
        core::hint::spin_loop();
    }
}

/// Ends the emulator through its debug-exit device. Returns if there is none.
pub fn debug_exit(value: u8) {
    // SAFETY: on machines without the device nothing listens to the port.
    unsafe { Port::<u32>::new(DEBUG_EXIT).write(u32::from(value)) };
}

/// Halts for ever.
pub fn halt_for_ever() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

/// Ends a machine on which the kernel cannot run, with that value of the debug-exit device.
pub fn refuse(exit_value: u8) -> ! {
    debug_exit(exit_value);
    halt_for_ever();
}

struct Prefix;

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = time::uptime_ns() / 1000;
        write!(f, "[{:5}.{:06}] error", us / 1_000_000, us % 1_000_000)
    }
}

macro_rules! report {
    ($($text:tt)*) => { serial::print(format_args!("{} {}\n", Prefix, format_args!($($text)*))) };
}

/// Reports a panic on the serial line (message, registers if it was an exception, return addresses) and ends the
/// machine with that value of the debug-exit device.
pub fn die(info: &PanicInfo<'_>, exit_value: u8) -> ! {
    x86_64::instructions::interrupts::disable();
    let number = per_cpu::number();
    match PANICKING.compare_exchange(0, number + 1, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        Err(who) if who == number + 1 => {
            // A defect in the report itself: end at once.
            debug_exit(exit_value);
            halt_for_ever();
        }
        // Another was first, and its report is the one that counts.
        Err(_) => {
            NR_STOPPED.fetch_add(1, Ordering::AcqRel);
            halt_for_ever();
        }
    }
    stop_others();
    // SAFETY: whoever printed when this began is what is dying, or has been stopped.
    unsafe { serial::seize() };
    match info.location() {
        Some(at) => report!("panic: {} ({}:{})", info.message(), at.file(), at.line()),
        None => report!("panic: {}", info.message()),
    }
    report!("  on processor {number} of {}", smp::nr_running());
    let mut trace = Backtrace { addresses: [0; MAX_BACKTRACE], count: 0 };
    // SAFETY: set only by this processor, to a frame on a stack that is still there.
    let frame = unsafe { (*per_cpu::this()).fatal.as_ref() };
    if let Some(r) = frame {
        report!("  vector {} code {:#x} rip {:#x} cs {:#x}", r.vector, r.code, r.rip, r.cs);
        report!("  rflags {:#x} rsp {:#x} ss {:#x} rbp {:#x}", r.rflags, r.rsp, r.ss, r.rbp);
        report!("  rax {:#x} rbx {:#x} rcx {:#x} rdx {:#x}", r.rax, r.rbx, r.rcx, r.rdx);
        report!("  rsi {:#x} rdi {:#x} r8 {:#x} r9 {:#x}", r.rsi, r.rdi, r.r8, r.r9);
        report!("  r10 {:#x} r11 {:#x} r12 {:#x} r13 {:#x}", r.r10, r.r11, r.r12, r.r13);
        report!("  r14 {:#x} r15 {:#x}", r.r14, r.r15);
        trace.push(r.rip);
        trace.follow(r.rbp);
    } else {
        let rbp: u64;
        // SAFETY: reads a register.
        unsafe { core::arch::asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags)) };
        trace.follow(rbp);
    }
    report!("  cr2 {:#x} cr3 {:#x}", Cr2::read_raw(), Cr3::read_raw().0.start_address());
    if let Some((used, claimed, room)) = heap::figures() {
        report!("  heap {used} bytes used of {claimed}, {room} to grow by");
    }
    report!("  backtrace{trace}");
    debug_exit(exit_value);
    halt_for_ever();
}

struct Backtrace {
    addresses: [u64; MAX_BACKTRACE],
    count: usize,
}

impl Backtrace {
    fn push(&mut self, address: u64) {
        if self.count < MAX_BACKTRACE {
            self.addresses[self.count] = address;
            self.count += 1;
        }
    }

    /// Follows frame pointers as long as they stay on the kernel's stacks and go up.
    fn follow(&mut self, mut frame: u64) {
        let stacks = symbol::stacks_start()..symbol::data_end() - 16;
        let mut last = 0;
        let is_stack = |at: u64| stacks.contains(&at) || smp::is_stack(at);
        while is_stack(frame) && frame.is_multiple_of(8) && frame > last && self.count < MAX_BACKTRACE {
            if crate::layout::guard_pages().contains(&(frame / crate::PAGE * crate::PAGE)) || smp::is_guard(frame) {
                return;
            }
            // SAFETY: on one of the stacks, which are mapped but for the pages just excluded; a frame that lies
            // at the very end of a stack reads at most 8 bytes of the page above it, so it must not be the last.
            let (next, address) = unsafe { (*(frame as *const u64), *(frame as *const u64).add(1)) };
            if !(symbol::text_start()..symbol::text_end()).contains(&address) {
                return;
            }
            self.push(address);
            last = frame;
            frame = next;
        }
    }
}

impl fmt::Display for Backtrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for address in &self.addresses[..self.count] {
            write!(f, " {address:#x}")?;
        }
        Ok(())
    }
}
