//! What each processor has of its own, found through the GS base: segments, stacks, the trap path's scratch.

use crate::layout::symbol;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::ptr::{null, null_mut};
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::model_specific::{GsBase, KernelGsBase};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::SegmentSelector;
use x86_64::structures::tss::TaskStateSegment;

/// Kernel code segment.
pub const KERNEL_CODE: u16 = 0x08;
/// Kernel data segment; user segments follow it in the order `sysret` wants.
pub const KERNEL_DATA: u16 = 0x10;
/// User data segment, with privilege level 3.
pub const USER_DATA: u16 = 0x18 | 3;
/// User code segment, 64-bit, with privilege level 3. There is no other for user mode.
pub const USER_CODE: u16 = 0x20 | 3;
const TSS: u16 = 0x28;

/// Index of the interrupt stacks in the TSS.
pub const DOUBLE_FAULT_STACK: u16 = 0;
/// For non-maskable interrupts.
pub const NMI_STACK: u16 = 1;
/// For machine checks.
pub const MACHINE_CHECK_STACK: u16 = 2;
/// For debug exceptions, which can arrive on the first instruction of a `syscall`.
pub const DEBUG_STACK: u16 = 3;

/// One processor's own data. The trap path uses the first fields by their offsets from GS.
#[repr(C, align(64))]
pub struct Cpu {
    /// Where the kernel's stack is while a guest runs.
    pub kernel_stack: u64,
    /// End of the guest's `Registers` while it runs.
    pub registers_end: u64,
    /// For the one value that has no register to be in.
    pub scratch: u64,
    /// Vector of the interrupt that arrived while halted; 0 for none.
    pub pending: u64,
    /// Non-maskable interrupts there were.
    pub nmis: u64,
    /// Number of this processor, 0 for the first.
    pub number: u32,
    /// Registers of the exception the kernel is dying of.
    pub fatal: *const crate::trap::TrapFrame,
    this: *mut Self,
    tss: TaskStateSegment,
    gdt: [u64; 7],
}

/// Tops of a processor's stacks: of `trap`, and of the exceptions that have one of their own.
#[derive(Clone, Copy, Debug)]
pub struct StackTops {
    /// For what comes from user mode.
    pub trap: u64,
    /// In the order of their indices.
    pub own: [u64; 4],
}

impl Cpu {
    /// With nothing in it that depends on where it is.
    pub const fn new(number: u32) -> Self {
        Self {
            number,
            kernel_stack: 0,
            registers_end: 0,
            scratch: 0,
            pending: 0,
            nmis: 0,
            fatal: null(),
            this: null_mut(),
            tss: TaskStateSegment::new(),
            gdt: [
                0,
                0x00af_9b00_0000_ffff, // kernel code, 64-bit
                0x00cf_9300_0000_ffff, // kernel data
                0x00cf_f300_0000_ffff, // user data
                0x00af_fb00_0000_ffff, // user code, 64-bit
                0,
                0,
            ],
        }
    }
}

/// The first processor's. The others' are beside their stacks.
struct BootCpu(UnsafeCell<Cpu>);

// SAFETY: only the processor it belongs to touches it, through GS or through the functions here.
unsafe impl Sync for BootCpu {}

static BOOT_CPU: BootCpu = BootCpu(UnsafeCell::new(Cpu::new(0)));

/// Loads GS base, segments and task state of the first processor.
///
/// # Safety
/// Once, on the first processor, before anything else of this module or a trap.
pub unsafe fn load() {
    let own = [
        symbol::double_fault_stack_top(),
        symbol::nmi_stack_top(),
        symbol::machine_check_stack_top(),
        symbol::debug_stack_top(),
    ];
    // SAFETY: nobody else knows the structure yet.
    unsafe { activate(BOOT_CPU.0.get(), StackTops { trap: symbol::trap_stack_top(), own }) };
}

/// Makes a structure this processor's own.
///
/// # Safety
/// Once on each processor, before anything else of this module or a trap; the structure is valid, stays, and is
/// nobody else's, and so are the stacks.
pub unsafe fn activate(this: *mut Cpu, stacks: StackTops) {
    // SAFETY: as promised by the caller.
    let cpu = unsafe { &mut *this };
    cpu.this = this;
    cpu.tss.privilege_stack_table[0] = VirtAddr::new(stacks.trap);
    for (index, top) in stacks.own.into_iter().enumerate() {
        cpu.tss.interrupt_stack_table[index] = VirtAddr::new(top);
    }
    // The I/O bitmap would begin behind the segment's end: user mode may use no port.
    cpu.tss.iomap_base = 0x68;
    let base = (&raw const cpu.tss) as u64;
    cpu.gdt[5] = 0x67 | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    cpu.gdt[6] = base >> 32;
    let table = DescriptorTablePointer { limit: 7 * 8 - 1, base: VirtAddr::from_ptr(&raw const cpu.gdt) };
    // SAFETY: the table stays, and its code segment is like the one in use.
    unsafe {
        x86_64::instructions::tables::lgdt(&table);
        CS::set_reg(SegmentSelector(KERNEL_CODE));
        core::arch::asm!("mov ss, {0:x}", in(reg) KERNEL_DATA, options(nostack, preserves_flags));
        core::arch::asm!(
            "mov ds, {0:x}", "mov es, {0:x}", "mov fs, {0:x}", "mov gs, {0:x}",
            in(reg) 0_u16, options(nostack, preserves_flags)
        );
        load_tss(SegmentSelector(TSS));
    }
    GsBase::write(VirtAddr::from_ptr(&raw const *cpu));
    KernelGsBase::write(VirtAddr::zero());
}

/// This processor's data. The trap path changes it behind the compiler's back: read and write its fields through
/// the pointer, and hold no reference.
pub fn this() -> *mut Cpu {
    let this;
    // SAFETY: GS is the kernel's while it runs, and the field never changes.
    unsafe {
        core::arch::asm!(
            "mov {}, gs:[{this}]", out(reg) this, this = const offset_of!(Cpu, this),
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    this
}

/// Takes the vector that arrived while halted.
pub fn take_pending() -> u64 {
    let cpu = this();
    // SAFETY: this processor's own, and interrupts are off, so nothing else changes the field now.
    unsafe {
        let vector = (&raw const (*cpu).pending).read_volatile();
        (&raw mut (*cpu).pending).write_volatile(0);
        vector
    }
}

/// Non-maskable interrupts there were so far.
pub fn nmis() -> u64 {
    // SAFETY: this processor's own; an aligned word is read whole.
    unsafe { (&raw const (*this()).nmis).read_volatile() }
}

/// The number of the processor that runs this, 0 for the first.
pub fn number() -> u32 {
    // SAFETY: this processor's own; the field never changes.
    unsafe { (*this()).number }
}
