//! Where things lie in the kernel's half of the address space.
//!
//! | from | what |
//! |---|---|
//! | `0xffff_8000_0000_0000` | direct map: physical address 0 and on; RAM, and the device registers in use |
//! | `0xffff_ffc0_0000_0000` | the part of the kernel's heap that is made of single pages |
//! | `0xffff_fff0_0000_0000` | stacks of the processors but the first |
//! | `0xffff_ffff_8000_0000` | the kernel itself, at its physical address plus this |

/// First address of the direct map.
pub const DIRECT_BASE: u64 = 0xffff_8000_0000_0000;

/// The kernel's addresses are its physical ones plus this.
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;

/// First address of the heap's window. It shares its top table entry with the kernel, so that every space sees it
/// grow.
pub const HEAP_BASE: u64 = 0xffff_ffc0_0000_0000;

/// Most bytes of it.
pub const HEAP_LIMIT: u64 = 128 << 30;

/// First address of the other processors' stacks. It shares its top table entry with the kernel.
pub const STACKS_BASE: u64 = 0xffff_fff0_0000_0000;

/// First physical address the direct map cannot reach: it ends where the kernel's own 512 GiB begin.
pub const DIRECT_LIMIT: u64 = 0xffff_ff80_0000_0000 - DIRECT_BASE;

/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// The address at which the kernel sees a physical address.
#[inline(always)]
pub fn direct(physical: u64) -> *mut u8 {
    debug_assert!(physical < DIRECT_LIMIT);
    (DIRECT_BASE + physical) as *mut u8
}

/// The physical address of something in the direct map or the kernel itself.
pub fn physical_of(pointer: *const u8) -> u64 {
    let address = pointer as u64;
    debug_assert!(!(HEAP_BASE..HEAP_BASE + HEAP_LIMIT).contains(&address));
    if address >= KERNEL_BASE { address - KERNEL_BASE } else { address - DIRECT_BASE }
}

macro_rules! linker_symbols {
    ($($name:ident),* $(,)?) => {
        unsafe extern "C" {
            $(static $name: u8;)*
        }
        /// Addresses that the link script defines.
        #[allow(missing_docs)]
        pub mod symbol {
            $(pub fn $name() -> u64 {
                (&raw const super::$name) as u64
            })*
        }
    };
}

linker_symbols!(
    kernel_physical_start,
    kernel_physical_end,
    text_start,
    text_end,
    rodata_start,
    rodata_end,
    data_start,
    data_end,
    stacks_start,
    kernel_stack_guard,
    trap_stack_guard,
    trap_stack_top,
    double_fault_stack_guard,
    double_fault_stack_top,
    nmi_stack_guard,
    nmi_stack_top,
    machine_check_stack_guard,
    machine_check_stack_top,
    debug_stack_guard,
    debug_stack_top,
);

/// The pages below the stacks, which are never mapped.
pub fn guard_pages() -> [u64; 6] {
    [
        symbol::kernel_stack_guard(),
        symbol::trap_stack_guard(),
        symbol::double_fault_stack_guard(),
        symbol::nmi_stack_guard(),
        symbol::machine_check_stack_guard(),
        symbol::debug_stack_guard(),
    ]
}
