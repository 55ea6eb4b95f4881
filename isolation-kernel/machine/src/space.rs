//! Address spaces: page tables as a cache of what a VM's memory is.

use crate::layout::PAGE;
use crate::paging::{self, ACCESSED, ADDRESS, NO_EXECUTE, PRESENT, SHARED, USER, WRITE, entry, guest_bits, index};
use crate::{Machine, frames};
use alloc::vec::Vec;
use hal::{LEAF_PAGES, Leaf, Mpn, NoMemory, Page, Ppn, Rights, Spaces};

/// First entry of a top table that is the kernel's.
const FIRST_KERNEL_SLOT: usize = 256;

/// The tables of one address space.
pub struct Space {
    root: u64,
    /// All its tables, the top one first.
    tables: Vec<Page>,
}

impl Space {
    /// Physical address of the top table.
    #[inline(always)]
    pub const fn root(&self) -> u64 {
        self.root
    }
}

/// The entries of the kernel's half, to be copied into each space: the same on all cores. They never change once the
/// machine is set up.
#[derive(Clone)]
pub struct KernelHalf {
    slots: [(u16, u64); 8],
    count: usize,
}

impl KernelHalf {
    /// Reads them from the kernel's own table. `None` if there are more than there is room for.
    pub fn read() -> Option<Self> {
        let mut half = Self { slots: [(0, 0); 8], count: 0 };
        for slot in FIRST_KERNEL_SLOT..512 {
            // SAFETY: the kernel's own table stays.
            let value = unsafe { entry(paging::kernel_root(), slot).read_volatile() };
            if value & PRESENT != 0 {
                *half.slots.get_mut(half.count)? = (slot as u16, value);
                half.count += 1;
            }
        }
        Some(half)
    }
}

const fn root_of(page: Mpn) -> u64 {
    page.0 as u64 * PAGE
}

impl Machine {
    fn add_table(&mut self, space: &mut Space) -> Result<u64, NoMemory> {
        space.tables.try_reserve(1).map_err(|_| NoMemory)?;
        let table = self.frames.allocate().ok_or(NoMemory)?;
        let address = root_of(table.mpn());
        space.tables.push(table);
        Ok(address)
    }

    /// The entry of level 2 for an address, if the tables above it are there.
    #[inline]
    fn find_middle(space: &Space, at: u64) -> Option<*mut u64> {
        let mut table = space.root;
        for level in [4, 3] {
            // SAFETY: `space` owns its tables.
            let value = unsafe { entry(table, index(at, level)).read_volatile() };
            if value & PRESENT == 0 {
                return None;
            }
            table = value & ADDRESS;
        }
        // SAFETY: as above.
        Some(unsafe { entry(table, index(at, 2)) })
    }

    /// The same, with the tables made that are missing.
    fn make_middle(&mut self, space: &mut Space, at: u64) -> Result<*mut u64, NoMemory> {
        let mut table = space.root;
        for level in [4, 3] {
            // SAFETY: `space` owns its tables; `at` is below 2^56, in the lower half.
            let slot = unsafe { entry(table, index(at, level)) };
            // SAFETY: as above.
            let mut value = unsafe { slot.read_volatile() };
            if value & PRESENT == 0 {
                value = self.add_table(space)? | PRESENT | WRITE | USER | ACCESSED;
                // SAFETY: as above.
                unsafe { slot.write_volatile(value) };
            }
            table = value & ADDRESS;
        }
        // SAFETY: as above.
        Ok(unsafe { entry(table, index(at, 2)) })
    }

    /// Makes the lowest table for an address the space's own: a new one, or a copy of the one that it shares.
    fn own_leaf(&mut self, space: &mut Space, at: u64, middle: *mut u64) -> Result<u64, NoMemory> {
        // SAFETY: `middle` is an entry of a table of `space`.
        let before = unsafe { middle.read_volatile() };
        if before & (PRESENT | SHARED) == PRESENT {
            return Ok(before & ADDRESS);
        }
        let table = self.add_table(space)?;
        if before & PRESENT != 0 {
            let number = |address: u64| Mpn(u32::try_from(address / PAGE).unwrap_or(u32::MAX));
            frames::copy_page(number(before & ADDRESS), number(table));
        }
        // SAFETY: as above.
        unsafe { middle.write_volatile(table | PRESENT | WRITE | USER | ACCESSED) };
        if before & PRESENT != 0 {
            // Processors remember where the lowest table is, and forget it with any page.
            self.flush_page(space, at);
        }
        Ok(table)
    }

    /// The lowest-level entry for a page, if the space has a table of its own for it.
    fn find(space: &Space, at: u64) -> Option<*mut u64> {
        // SAFETY: `space` owns its tables.
        let value = unsafe { Self::find_middle(space, at)?.read_volatile() };
        if value & (PRESENT | SHARED) != PRESENT {
            return None;
        }
        // SAFETY: as above.
        Some(unsafe { entry(value & ADDRESS, index(at, 1)) })
    }

    #[inline]
    fn flush_page(&self, space: &Space, at: u64) {
        if self.current_root == space.root {
            // SAFETY: only forgets a cached translation.
            unsafe { core::arch::asm!("invlpg [{}]", in(reg) at, options(nostack, preserves_flags)) };
        }
    }

    /// Maps a page with these bits of its entry, replacing what was mapped there.
    #[inline]
    pub(crate) fn map_with(&mut self, space: &mut Space, at: Ppn, to: Mpn, bits: u64) -> Result<(), NoMemory> {
        let address = u64::from(at.0) * PAGE;
        let middle = self.make_middle(space, address)?;
        let table = self.own_leaf(space, address, middle)?;
        // SAFETY: `space` owns its tables.
        let slot = unsafe { entry(table, index(address, 1)) };
        // SAFETY: as above.
        let before = unsafe { slot.read_volatile() };
        // SAFETY: as above; the page table only decides what guests see, whatever `to` is.
        unsafe { slot.write_volatile((u64::from(to.0) * PAGE) | bits) };
        // What was not present is in no cache.
        if before & PRESENT != 0 {
            self.flush_page(space, address);
        }
        Ok(())
    }

    /// Loads the tables of a space. False if they were loaded.
    #[inline(always)]
    pub(crate) fn load_space(&mut self, root: u64) -> bool {
        if self.current_root == root {
            return false;
        }
        self.current_root = root;
        // SAFETY: every space has the kernel's half.
        unsafe { paging::load_root(root) };
        true
    }
}

impl Spaces for Machine {
    type Space = Space;

    fn create_space(&mut self) -> Result<Space, NoMemory> {
        let mut space = Space { root: 0, tables: Vec::new() };
        space.tables.try_reserve_exact(4).map_err(|_| NoMemory)?;
        space.root = self.add_table(&mut space)?;
        for &(slot, value) in &self.kernel_half.slots[..self.kernel_half.count] {
            // SAFETY: the table is the new space's own.
            unsafe { entry(space.root, usize::from(slot)).write_volatile(value) };
        }
        Ok(space)
    }

    fn create_leaf(&mut self, at: Ppn) -> Result<Leaf, NoMemory> {
        let table = self.frames.allocate().ok_or(NoMemory)?;
        Ok(Leaf { first: Ppn(at.0 / LEAF_PAGES * LEAF_PAGES), table })
    }

    fn fill_leaf(&mut self, leaf: &mut Leaf, at: Ppn, to: Mpn, rights: Rights) {
        debug_assert!(at.0 / LEAF_PAGES == leaf.first.0 / LEAF_PAGES);
        let value = (u64::from(to.0) * PAGE) | guest_bits(rights) | ACCESSED;
        // SAFETY: the table is the leaf's own, and no processor uses it yet.
        unsafe { entry(root_of(leaf.table.mpn()), index(u64::from(at.0) * PAGE, 1)).write_volatile(value) };
    }

    fn share_leaf(&mut self, space: &mut Space, leaf: &Leaf) -> Result<bool, NoMemory> {
        let middle = self.make_middle(space, u64::from(leaf.first.0) * PAGE)?;
        // SAFETY: an entry of a table of `space`. Without the bit for stores nothing below can be written.
        unsafe {
            if middle.read_volatile() & PRESENT != 0 {
                return Ok(false);
            }
            middle.write_volatile(root_of(leaf.table.mpn()) | PRESENT | USER | ACCESSED | SHARED);
        }
        Ok(true)
    }

    fn map(&mut self, space: &mut Space, at: Ppn, to: Mpn, rights: Rights) -> Result<(), NoMemory> {
        self.map_with(space, at, to, guest_bits(rights))
    }

    fn unmap(&mut self, space: &mut Space, at: Ppn) {
        let address = u64::from(at.0) * PAGE;
        let Some(middle) = Self::find_middle(space, address) else { return };
        // SAFETY: `space` owns its tables.
        if unsafe { middle.read_volatile() } & PRESENT == 0 {
            return;
        }
        let Ok(table) = self.own_leaf(space, address, middle) else {
            // SAFETY: as above.
            unsafe { middle.write_volatile(0) };
            if self.current_root == space.root {
                // All that was mapped through it: the whole cache goes.
                // SAFETY: the tables are those in use.
                unsafe { paging::load_root(space.root) };
            }
            return;
        };
        // SAFETY: as above.
        let slot = unsafe { entry(table, index(address, 1)) };
        // SAFETY: as above.
        let before = unsafe { slot.read_volatile() };
        if before & PRESENT != 0 {
            // SAFETY: as above.
            unsafe { slot.write_volatile(0) };
            self.flush_page(space, address);
        }
    }

    fn take_accessed(&mut self, space: &mut Space, at: Ppn) -> bool {
        let address = u64::from(at.0) * PAGE;
        let Some(slot) = Self::find(space, address) else { return false };
        // SAFETY: `space` owns its tables.
        let value = unsafe { slot.read_volatile() };
        if value & (PRESENT | ACCESSED) != PRESENT | ACCESSED {
            return false;
        }
        // SAFETY: as above. The processor that would set bits in it is this one.
        unsafe { slot.write_volatile(value & !ACCESSED) };
        // With the translation still cached, the next access would not set the bit.
        self.flush_page(space, address);
        true
    }

    fn destroy_space(&mut self, space: Space) {
        if self.current_root == space.root {
            self.load_space(paging::kernel_root());
        }
        self.frames.retire(space.tables);
    }

    fn table_pages(&self, space: &Space) -> u32 {
        u32::try_from(space.tables.len()).unwrap_or(u32::MAX)
    }
}

/// Whether user mode can reach an address in a space, and how: what a self-test compares with what it asked for.
pub fn rights_at(space: &Space, at: Ppn) -> Option<(Mpn, Rights)> {
    let address = u64::from(at.0) * PAGE;
    // SAFETY: `space` owns its tables, and what it shares stays.
    let middle = unsafe { Machine::find_middle(space, address)?.read_volatile() };
    if middle & PRESENT == 0 {
        return None;
    }
    // SAFETY: as above.
    let value = unsafe { entry(middle & ADDRESS, index(address, 1)).read_volatile() };
    if value & (PRESENT | USER) != PRESENT | USER {
        return None;
    }
    let rights = match (value & middle & WRITE != 0, value & NO_EXECUTE != 0) {
        (true, _) => Rights::ReadWrite,
        (false, true) => Rights::Read,
        (false, false) => Rights::ReadExecute,
    };
    Some((Mpn(u32::try_from((value & ADDRESS) / PAGE).ok()?), rights))
}

impl hal::Pages for Machine {
    #[inline]
    fn allocate(&mut self) -> Option<Page> {
        self.frames.allocate()
    }

    #[inline]
    fn release(&mut self, page: Page) {
        self.frames.release(page);
    }

    #[inline]
    fn free_pages(&self) -> u64 {
        self.frames.free_pages()
    }

    fn total_pages(&self) -> u64 {
        crate::ram::total_pages()
    }

    fn heap_bytes(&self) -> u64 {
        crate::heap::used_bytes()
    }

    fn heap_pages(&self) -> u64 {
        crate::heap::taken_pages()
    }

    fn kept_pages(&self) -> u64 {
        crate::ram::kept_pages()
    }

    #[inline]
    fn heap_room(&self) -> u64 {
        crate::heap::room()
    }

    fn give_to_heap(&mut self, page: Page) {
        crate::heap::stock(u64::from(self.frames.give_away(page).0) * PAGE);
    }

    #[inline]
    fn read(&self, page: Mpn, offset: usize, into: &mut [u8]) {
        frames::read(page, offset, into);
    }

    #[inline]
    fn write(&mut self, page: Mpn, offset: usize, from: &[u8]) {
        frames::write(page, offset, from);
    }

    #[inline]
    fn copy(&mut self, from: Mpn, to: Mpn) {
        frames::copy_page(from, to);
    }

    #[inline]
    fn load(&self, page: Mpn, offset: usize) -> u32 {
        frames::load(page, offset)
    }

    #[inline]
    fn store(&mut self, page: Mpn, offset: usize, value: u32) {
        frames::word(page, offset).store(value, core::sync::atomic::Ordering::Release);
    }

    #[inline]
    fn set_bits(&mut self, page: Mpn, offset: usize, bits: u32) -> u32 {
        frames::word(page, offset).fetch_or(bits, core::sync::atomic::Ordering::AcqRel)
    }
}
