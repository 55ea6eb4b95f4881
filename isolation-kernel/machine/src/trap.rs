//! The interrupt table, and what becomes of an exception in the kernel.
//!
//! The entries themselves are in `trap.s`. From user mode they all end in the return of [`crate::guest::run`]; in
//! the kernel an exception is a defect, and interrupts only arrive while it is halted.

use crate::per_cpu::{self, Cpu};
use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use hal::Registers;
use x86_64::registers::control::Cr2;
use x86_64::registers::model_specific::{LStar, Msr, SFMask, Star};
use x86_64::registers::rflags::RFlags;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::SegmentSelector;
use x86_64::{PrivilegeLevel, VirtAddr};

/// What `run` answers for a virtual instruction, next to the processor's vectors.
pub const SYSCALL: u64 = 0x100;

/// Vector of all devices whose lines keep their level until they are served.
pub const DEVICE_VECTOR: u8 = 0x40;
/// Vector of the lines that tell by an edge: the serial line. A vector must not have both kinds: the processor's
/// controller remembers one kind for each vector, and after the edge of one line would not tell the other line's
/// controller that its interrupt has been served, which then raises no more.
pub const EDGE_VECTOR: u8 = 0x42;
const _: () = assert!(EDGE_VECTOR != DEVICE_VECTOR);
/// Vector of the timer.
pub const TIMER_VECTOR: u8 = 0x41;
/// Vector by which one processor wakes another: an edge, and so a vector of its own.
pub const WAKE_VECTOR: u8 = 0x43;
/// Where the legacy interrupt controllers would deliver, if they were not masked: 16 vectors from here.
pub const LEGACY_VECTORS: u8 = 0x50;
/// Vector of interrupts that went away before they were delivered.
pub const SPURIOUS_VECTOR: u8 = 0xff;

global_asm!(
    include_str!("trap.s"),
    scratch = const offset_of!(Cpu, scratch),
    registers_end = const offset_of!(Cpu, registers_end),
    kernel_stack = const offset_of!(Cpu, kernel_stack),
    pending = const offset_of!(Cpu, pending),
    nmis = const offset_of!(Cpu, nmis),
    is_ending = sym crate::panic::IS_ENDING,
    nr_stopped = sym crate::panic::NR_STOPPED,
    registers_size = const size_of::<Registers>(),
    syscall = const SYSCALL,
);

// The offsets that `trap.s` and `guest.rs` have as numbers.
const _: () = {
    assert!(offset_of!(Registers, rbx) == 0x08 && offset_of!(Registers, r15) == 0x70);
    assert!(offset_of!(Registers, rip) == 0x78 && offset_of!(Registers, rsp) == 0x80);
    assert!(offset_of!(Registers, rflags) == 0x88 && size_of::<Registers>() == 0x90);
};

unsafe extern "C" {
    fn syscall_entry();
    fn trap_stubs();
    fn nmi_entry();
}

/// The registers at an exception in the kernel, as `trap.s` pushes them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// An entry of the interrupt table.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Gate([u64; 2]);

impl Gate {
    const fn new(address: u64, stack: Option<u16>, level: PrivilegeLevel) -> Self {
        let index = match stack {
            Some(index) => index as u64 + 1,
            None => 0,
        };
        let low = address & 0xffff
            | (per_cpu::KERNEL_CODE as u64) << 16
            | index << 32
            | 0x8e << 40
            | (level as u64) << 45
            | (address >> 16 & 0xffff) << 48;
        Self([low, address >> 32])
    }
}

struct Table(UnsafeCell<[Gate; 256]>);

// SAFETY: written once by the first processor before it is loaded, read by processors only.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([Gate([0; 2]); 256]));

/// Loads the interrupt table and the entry of `syscall`.
///
/// # Safety
/// Once, after [`per_cpu::load`].
pub unsafe fn load() {
    let table = TABLE.0.get();
    for vector in 0..256 {
        let stack = match vector {
            1 => Some(per_cpu::DEBUG_STACK),
            2 => Some(per_cpu::NMI_STACK),
            8 => Some(per_cpu::DOUBLE_FAULT_STACK),
            18 => Some(per_cpu::MACHINE_CHECK_STACK),
            _ => None,
        };
        // `int3` is the one software interrupt of user mode; any other raises general protection.
        let level = if vector == 3 { PrivilegeLevel::Ring3 } else { PrivilegeLevel::Ring0 };
        let address =
            if vector == 2 { nmi_entry as *const () as u64 } else { trap_stubs as *const () as u64 + vector * 16 };
        // SAFETY: within the table, which nobody else uses yet.
        unsafe { (*table)[vector as usize] = Gate::new(address, stack, level) };
    }
    // SAFETY: the table is complete.
    unsafe { activate() };
}

/// Loads the table that is there already, on this processor, and the entry of `syscall`.
///
/// # Safety
/// After [`load`] on the first processor, and [`per_cpu::activate`] on this one.
pub unsafe fn activate() {
    let table = TABLE.0.get();
    let pointer = DescriptorTablePointer { limit: 256 * 16 - 1, base: VirtAddr::from_ptr(table) };
    // SAFETY: the table is static and complete.
    unsafe { x86_64::instructions::tables::lidt(&pointer) };
    Star::write(
        SegmentSelector(per_cpu::USER_CODE),
        SegmentSelector(per_cpu::USER_DATA),
        SegmentSelector(per_cpu::KERNEL_CODE),
        SegmentSelector(per_cpu::KERNEL_DATA),
    )
    .expect("the segments are in the order `sysret` wants");
    LStar::write(VirtAddr::new(syscall_entry as *const () as u64));
    // All flags a guest can set, the direction and alignment flags first of all.
    SFMask::write(RFlags::from_bits_truncate(0x25_7fd5));
    // No entry for compatibility mode, which has no segment anyway, and none by `sysenter`.
    // SAFETY: these registers only say where the two instructions would enter.
    unsafe {
        Msr::new(0xc000_0083).write(0);
        Msr::new(0x174).write(0);
    }
}

/// An exception in the kernel: keeps its registers for the report, and panics.
#[unsafe(no_mangle)]
extern "C" fn firn_fatal_trap(frame: *const TrapFrame) -> ! {
    // SAFETY: `trap.s` passes the frame it built on the stack in use, and GS is the kernel's.
    let (vector, code, rip) = unsafe {
        (*per_cpu::this()).fatal = frame;
        ((*frame).vector, (*frame).code, (*frame).rip)
    };
    let (name, whose) = (name_of(vector), crate::alone::whose(rip));
    let address = Cr2::read_raw();
    let is_overflow = vector == 8
        && (crate::layout::guard_pages().contains(&(address / crate::PAGE * crate::PAGE))
            || crate::smp::is_guard(address));
    match vector {
        8 if is_overflow => panic!("the kernel's stack overflowed at {address:#x}"),
        14 => panic!("{name} in {whose} at {address:#x}, code {code:#x}"),
        _ => panic!("{name} in {whose}, code {code:#x}"),
    }
}

/// An exception's name.
pub const fn name_of(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        3 => "breakpoint",
        6 => "invalid instruction",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack-segment fault",
        13 => "general protection",
        14 => "page fault",
        16 => "x87 error",
        17 => "alignment check",
        18 => "machine check",
        19 => "vector floating-point error",
        21 => "control protection",
        _ => "exception",
    }
}
