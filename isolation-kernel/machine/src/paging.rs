//! Page table entries, and the kernel's own tables: image, direct map, device registers.

use crate::layout::{DIRECT_BASE, DIRECT_LIMIT, KERNEL_BASE, PAGE, direct, guard_pages, symbol};
use crate::memory_map::Range;
use crate::{copy, heap, ram};
use core::sync::atomic::{AtomicU64, Ordering};
use hal::NoMemory;
use spin::Mutex;

pub use crate::entry_bits::*;

/// Physical address of the kernel's own top table. Its upper half is part of every space.
static ROOT: AtomicU64 = AtomicU64::new(0);

/// Held while the kernel's tables are changed.
static CHANGING: Mutex<()> = Mutex::new(());

/// Physical address of the kernel's own top table.
pub fn kernel_root() -> u64 {
    ROOT.load(Ordering::Relaxed)
}

/// An entry of a table.
///
/// # Safety
/// `table` is the physical address of a page table that stays one while the pointer is used.
#[inline(always)]
pub unsafe fn entry(table: u64, index: usize) -> *mut u64 {
    debug_assert!(index < 512);
    // SAFETY: within the table's page.
    unsafe { direct(table).cast::<u64>().add(index) }
}

/// The index into the table of a level (4 is the top) for an address.
#[inline(always)]
pub const fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * (level - 1)) & 511) as usize
}

fn new_table() -> Result<u64, NoMemory> {
    // Low, as the boot path's tables reach no further.
    let page = ram::take_low(1).map(|range| range.start).or_else(heap::take_page).ok_or(NoMemory)?;
    // SAFETY: the page is nobody else's, and is in the direct map.
    unsafe { copy::zero_page(direct(page)) };
    Ok(page)
}

/// Maps `bytes` bytes (whole pages) in the kernel's half, with the largest pages that fit. What is mapped
/// already stays as it is.
fn map(virt: u64, phys: u64, bytes: u64, bits: u64, largest: u32) -> Result<(), NoMemory> {
    let _changing = CHANGING.lock();
    let mut done = 0;
    while done < bytes {
        let (virt, phys) = (virt + done, phys + done);
        let level = (1..=largest)
            .rev()
            .find(|level| {
                let size = size_of_level(*level);
                virt.is_multiple_of(size) && phys.is_multiple_of(size) && bytes - done >= size
            })
            .unwrap_or(1);
        done += map_one(virt, phys, bits, level)?;
    }
    Ok(())
}

/// Maps one page of a level. Answers the bytes that are mapped now, by this or by what was there.
fn map_one(virt: u64, phys: u64, bits: u64, level: u32) -> Result<u64, NoMemory> {
    let mut table = kernel_root();
    for at in (level + 1..=4).rev() {
        // SAFETY: the kernel's tables are never freed, and the lock is held.
        let slot = unsafe { entry(table, index(virt, at)) };
        // SAFETY: as above.
        let mut value = unsafe { slot.read_volatile() };
        if value & PRESENT == 0 {
            value = new_table()? | PRESENT | WRITE;
            // SAFETY: as above.
            unsafe { slot.write_volatile(value) };
        } else if value & LARGE != 0 {
            return Ok(size_of_level(at) - virt % size_of_level(at));
        }
        table = value & ADDRESS;
    }
    // SAFETY: as above.
    let slot = unsafe { entry(table, index(virt, level)) };
    // SAFETY: as above.
    unsafe {
        let value = slot.read_volatile();
        if value & PRESENT == 0 {
            slot.write_volatile(phys | bits | if level > 1 { LARGE } else { 0 });
        } else if level > 1 && value & LARGE == 0 {
            // Part of it is mapped in smaller pages: go on with those.
            return map_one(virt, phys, bits, level - 1);
        }
    }
    Ok(size_of_level(level))
}

/// Builds the kernel's tables and leaves those of the boot path, identity map included.
///
/// # Safety
/// Once, while the tables of the boot path are in use; `memory` are the ranges of RAM.
pub unsafe fn start(memory: &[Range], has_gigabyte_pages: bool, global: bool) -> Result<(), NoMemory> {
    ROOT.store(new_table()?, Ordering::Relaxed);
    let global = if global { GLOBAL } else { 0 };
    let always = PRESENT | ACCESSED | DIRTY | global;
    let largest = if has_gigabyte_pages { 3 } else { 2 };
    for (from, to, bits) in [
        (symbol::text_start(), symbol::text_end(), always),
        (symbol::rodata_start(), symbol::rodata_end(), always | NO_EXECUTE),
    ] {
        map(from, from - KERNEL_BASE, to - from, bits, 1)?;
    }
    let mut at = symbol::data_start();
    while at < symbol::data_end() {
        if !guard_pages().contains(&at) {
            map(at, at - KERNEL_BASE, PAGE, always | WRITE | NO_EXECUTE, 1)?;
        }
        at += PAGE;
    }
    // The kernel's own pages are in its image alone: the direct map gives no second, writable way to them.
    for range in memory {
        let bytes = range.end.min(DIRECT_LIMIT).saturating_sub(range.start);
        map(DIRECT_BASE + range.start, range.start, bytes, always | WRITE | NO_EXECUTE, largest)?;
    }
    // SAFETY: the new tables map the kernel where it is, its stack and the direct map.
    unsafe { load_root(kernel_root()) };
    Ok(())
}

/// Loads a top table.
///
/// # Safety
/// It must map the kernel as all tables do.
#[inline(always)]
pub unsafe fn load_root(root: u64) {
    // SAFETY: as promised by the caller.
    unsafe { core::arch::asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// Maps device registers, uncached, and answers where they are. Only while the machine is being set up: spaces
/// copy the kernel's half once.
pub fn map_device(phys: u64, bytes: u64) -> Result<*mut u8, NoMemory> {
    map_extra(phys, bytes, WRITE | NO_CACHE)
}

/// Maps memory that is not RAM to the kernel, such as the firmware's tables, to read it.
pub fn map_firmware(phys: u64, bytes: u64) -> Result<*mut u8, NoMemory> {
    map_extra(phys, bytes, 0)
}

/// Maps a page in the heap's window. What maps nothing is never cached, so no processor has to be told.
pub fn map_heap(at: u64, page: u64) -> Result<(), NoMemory> {
    map(at, page, PAGE, PRESENT | ACCESSED | DIRTY | WRITE | NO_EXECUTE, 1)
}

/// Maps pages of a processor's stacks.
pub fn map_stack(at: u64, pages: Range) -> Result<(), NoMemory> {
    map(at, pages.start, pages.end - pages.start, PRESENT | ACCESSED | DIRTY | WRITE | NO_EXECUTE, 1)
}

fn map_extra(phys: u64, bytes: u64, bits: u64) -> Result<*mut u8, NoMemory> {
    let start = phys / PAGE * PAGE;
    let end = phys.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(PAGE)).ok_or(NoMemory)?;
    if end > DIRECT_LIMIT {
        return Err(NoMemory);
    }
    map(DIRECT_BASE + start, start, end - start, PRESENT | ACCESSED | DIRTY | NO_EXECUTE | bits, 2)?;
    Ok(direct(phys))
}
