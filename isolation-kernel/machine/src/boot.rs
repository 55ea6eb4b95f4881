//! From the loader to `kernel_main`: the first Rust code, and what the loader says (PVH start information).
//!
//! Layouts are those of Xen's `start_info.h`, which QEMU and other loaders follow.

use crate::layout::{direct, symbol};
use crate::memory_map::MemoryMap;
use crate::{per_cpu, trap};
use core::arch::global_asm;
use core::cell::UnsafeCell;

global_asm!(include_str!("entry.s"));

/// What the loader left in memory, all addresses physical.
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    nr_modules: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    nr_memory_ranges: u32,
    reserved: u32,
}

#[repr(C)]
struct Module {
    address: u64,
    bytes: u64,
    command_line: u64,
    reserved: u64,
}

#[repr(C)]
struct MemoryRange {
    address: u64,
    bytes: u64,
    kind: u32,
    reserved: u32,
}

const MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;
/// The boot tables map this much.
const REACHABLE: u64 = 4 << 30;
/// Memory below is the firmware's.
const FIRST_USED: u64 = 1 << 20;
const MAX_COMMAND_LINE: usize = 2048;

/// Why what the loader says is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoaderError {
    /// No PVH start information.
    NoStartInfo,
    /// It has no memory map: version 0 of the protocol.
    NoMemoryMap,
    /// It has no ACPI tables.
    NoRsdp,
    /// The command line is longer than the kernel takes, or not UTF-8.
    BadCommandLine,
}

/// What the loader says.
pub struct BootInfo {
    /// All RAM, to be mapped.
    pub(crate) memory: MemoryMap,
    /// RAM that nothing lies in.
    pub(crate) free: MemoryMap,
    pub(crate) rsdp: u64,
    /// A page of RAM below 1 MiB, where processors start.
    pub(crate) start_page: Option<u64>,
    bundle: Option<(u64, u64)>,
    command_line: &'static str,
}

struct CommandLine(UnsafeCell<[u8; MAX_COMMAND_LINE]>);

// SAFETY: written once, by the first processor, before anybody has a reference.
unsafe impl Sync for CommandLine {}

static COMMAND_LINE: CommandLine = CommandLine(UnsafeCell::new([0; MAX_COMMAND_LINE]));

impl BootInfo {
    /// What was given on the kernel's command line.
    pub const fn command_line(&self) -> &'static str {
        self.command_line
    }

    /// The boot bundle (the first module), if there is one. Valid once the direct map is there.
    pub(crate) fn bundle(&self) -> Option<&'static [u8]> {
        let (address, bytes) = self.bundle?;
        // SAFETY: the loader put it there, it was kept out of the free memory, and nobody writes to it.
        Some(unsafe { core::slice::from_raw_parts(direct(address), usize::try_from(bytes).ok()?) })
    }

    /// Reads what the loader left.
    ///
    /// # Safety
    /// On the boot path's tables, with the address the loader gave, and only once.
    unsafe fn read(at: u64) -> Result<Self, LoaderError> {
        if at == 0 || at >= REACHABLE {
            return Err(LoaderError::NoStartInfo);
        }
        // SAFETY: within the 4 GiB that are mapped; the loader aligns it, and wrote it whole.
        let info = unsafe { direct(at).cast::<StartInfo>().read_unaligned() };
        if info.magic != MAGIC {
            return Err(LoaderError::NoStartInfo);
        }
        if info.version < 1 || info.memory_map == 0 || info.nr_memory_ranges == 0 {
            return Err(LoaderError::NoMemoryMap);
        }
        let mut memory = MemoryMap::new();
        let mut low = MemoryMap::new();
        let ranges = || {
            (0..u64::from(info.nr_memory_ranges.min(256))).map(|n| {
                let at = info.memory_map + n * size_of::<MemoryRange>() as u64;
                // SAFETY: as above.
                unsafe { direct(at).cast::<MemoryRange>().read_unaligned() }
            })
        };
        for range in ranges().filter(|range| range.kind == RAM) {
            memory.add(range.address.max(FIRST_USED), range.address.saturating_add(range.bytes));
            // Not the first page, which has the vectors of real mode.
            low.add(range.address.max(4096), range.address.saturating_add(range.bytes).min(FIRST_USED));
        }
        // Where two ranges overlap, the one that is not RAM counts.
        for range in ranges().filter(|range| range.kind != RAM && range.bytes > 0) {
            memory.remove(range.address, range.address.saturating_add(range.bytes));
            low.remove(range.address, range.address.saturating_add(range.bytes));
        }
        memory.remove(symbol::kernel_physical_start(), symbol::kernel_physical_end());
        let mut free = memory.clone();
        let mut bundle = None;
        if info.nr_modules > 0 && info.modules != 0 {
            // SAFETY: as above.
            let module = unsafe { direct(info.modules).cast::<Module>().read_unaligned() };
            free.remove(module.address, module.address.saturating_add(module.bytes));
            low.remove(module.address, module.address.saturating_add(module.bytes));
            bundle = Some((module.address, module.bytes));
        }
        let command_line = if info.command_line == 0 {
            ""
        } else {
            // SAFETY: as above, and this function is called once.
            unsafe { copy_command_line(info.command_line) }.ok_or(LoaderError::BadCommandLine)?
        };
        if info.rsdp == 0 {
            return Err(LoaderError::NoRsdp);
        }
        let start_page = low.take_high(1).map(|range| range.start);
        Ok(Self { memory, free, rsdp: info.rsdp, start_page, bundle, command_line })
    }
}

/// Copies the command line out of memory that will be used for other things.
///
/// # Safety
/// Once; `at` is a zero-terminated text that is mapped.
unsafe fn copy_command_line(at: u64) -> Option<&'static str> {
    // SAFETY: nobody else has a reference yet.
    let copy = unsafe { &mut *COMMAND_LINE.0.get() };
    for (n, byte) in copy.iter_mut().enumerate() {
        // SAFETY: before the terminating zero, says the caller.
        *byte = unsafe { direct(at + n as u64).read() };
        if *byte == 0 {
            return core::str::from_utf8(&copy[..n]).ok();
        }
    }
    None
}

unsafe extern "Rust" {
    /// The kernel, given by the binary through [`crate::entry!`].
    safe fn firn_kernel_main(boot: Result<BootInfo, LoaderError>) -> !;
}

/// Names the function that is the kernel: `fn(Result<BootInfo, LoaderError>) -> !`; and the value by which the
/// debug-exit device ends a machine whose processor is refused before there is any Rust.
#[macro_export]
macro_rules! entry {
    ($main:path, $refusal_exit:expr) => {
        #[unsafe(no_mangle)]
        fn firn_kernel_main(boot: ::core::result::Result<$crate::BootInfo, $crate::LoaderError>) -> ! {
            let main: fn(::core::result::Result<$crate::BootInfo, $crate::LoaderError>) -> ! = $main;
            main(boot)
        }

        #[unsafe(no_mangle)]
        static firn_refusal_exit: u8 = $refusal_exit;
    };
}

/// The first Rust code, on the boot path's tables and the kernel's own stack.
#[unsafe(no_mangle)]
extern "C" fn firn_start(start_info: u64) -> ! {
    // SAFETY: this is the first thing that runs, once; first segments, then the table that names them.
    unsafe {
        per_cpu::load();
        trap::load();
    }
    // SAFETY: the address is the loader's, and this is the one call.
    firn_kernel_main(unsafe { BootInfo::read(start_info) })
}

impl core::fmt::Display for LoaderError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoStartInfo => "the loader gave no PVH start information",
            Self::NoMemoryMap => "the loader gave no memory map (PVH start information of version 1 is needed)",
            Self::NoRsdp => "no ACPI tables: start the machine with ACPI (QEMU: -M microvm,acpi=on)",
            Self::BadCommandLine => "the command line is longer than 2047 bytes, or not UTF-8",
        })
    }
}
