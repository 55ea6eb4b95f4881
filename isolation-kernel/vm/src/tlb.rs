//! A VM's software-loaded TLB: the entries that its guest kernel loaded, and the page tables composed of them.
//!
//! An entry says which physical page a virtual page is; what stands behind the physical page is the business of
//! [`Memory`](crate::memory::Memory), which fills the tables by faults and takes back what changes. All of this may be
//! dropped at any time: tables come back by faults, entries by misses. See the design record on the TLB.

use crate::map::Key as Hash;
use alloc::vec::Vec;
use hal::{Hardware, Mpn, Nanos, NoMemory, PAGE_SIZE, Ppn, Registers, Rights};
use virtual_isa::tlb::{Entry, Key, Right};

mod entries;

use entries::{Entries, Views};

/// Most composed tables that a VM has at once.
pub const MAX_TABLES: usize = 16;

/// Most pages of memory that they take.
const MAX_TABLE_PAGES: u32 = 256;

/// Most pages that one mapping adds to them.
const PAGES_A_MAPPING: u32 = 3;

/// A context that is being run, and what comes back when it ends.
#[derive(Clone, Copy, Debug)]
pub struct Entered {
    /// The address space it is in.
    pub asid: u16,
    /// What it sees of that.
    pub right: Right,
    /// When it comes back at the latest.
    pub deadline: Nanos,
    /// The registers of the VM's own context.
    pub own: Registers,
}

/// The tables of an address space at a right.
#[derive(Debug)]
struct Composed<S> {
    asid: u16,
    right: Right,
    space: S,
    pages: u32,
}

impl<S> Composed<S> {
    fn is_of(&self, asid: u16, right: Right) -> bool {
        self.asid == asid && self.right == right
    }
}

/// What a VM has that made address spaces of its own.
#[derive(Debug)]
pub struct Tlb<S> {
    /// The tables of its physical memory, in which its own context runs.
    pub own: Option<S>,
    /// The context that it is in, if it is in one.
    pub entered: Option<Entered>,
    entries: Entries,
    /// The first of them are those that were used last.
    composed: Vec<Composed<S>>,
}

/// What the entries say of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// That physical page, with these rights.
    Entry(Entry),
    /// Nothing.
    Miss,
    /// That it is not allowed.
    Protection,
}

impl<S> Tlb<S> {
    /// One without entries, for a VM whose own tables are these.
    pub fn new(hash: Hash, own: Option<S>) -> Self {
        Self { own, entered: None, entries: Entries::new(hash), composed: Vec::new() }
    }

    /// Pages of the composed tables.
    pub fn table_pages(&self) -> u32 {
        self.composed.iter().map(|composed| composed.pages).fold(0, u32::saturating_add)
    }

    /// Pages' worth of the kernel's heap that the entries take.
    pub fn heap_pages(&self) -> u32 {
        u32::try_from(self.entries.bytes().div_ceil(PAGE_SIZE)).unwrap_or(u32::MAX)
    }

    /// Takes out all tables, its own first.
    pub fn take_spaces(&mut self) -> impl Iterator<Item = S> {
        self.own
            .take()
            .into_iter()
            .chain(core::mem::take(&mut self.composed).into_iter().map(|composed| composed.space))
    }

    /// What the entries say of an access at a right.
    pub fn look(&self, key: Key, right: Right, access: virtual_isa::exception::Access) -> Found {
        use virtual_isa::tlb::Rights as R;
        let Some(entry) = self.entries.find(key).and_then(|at| self.entries.get(at)) else { return Found::Miss };
        let is_visible = right == Right::Kernel || entry.rights.contains(R::USER);
        if is_visible && entry.rights.allow(access) { Found::Entry(entry) } else { Found::Protection }
    }

    /// Makes room for so many more entries.
    ///
    /// # Errors
    /// If the kernel's heap has none.
    pub fn reserve(&mut self, count: usize) -> Result<(), NoMemory> {
        self.entries.reserve(count)
    }

    /// Loads an entry, instead of the one for its key, or of any if there is no room. Room in the kernel's heap was
    /// reserved.
    pub fn load<H: Hardware<Space = S>>(&mut self, hw: &mut H, entry: &Entry) {
        let place = match self.entries.find(entry.key) {
            None if self.entries.is_full() => self.entries.any(),
            place => place,
        };
        let Some(at) = place else { return self.entries.insert(entry) };
        if let Some((old, views)) = self.entries.replace(at, entry) {
            unmap(&mut self.composed, hw, old.key, views);
        }
    }

    /// Removes an entry, and what tables have of it unless that is to be forgotten.
    fn remove<H: Hardware<Space = S>>(&mut self, hw: &mut H, at: u16, is_kept: bool) {
        if let Some((entry, views)) = self.entries.remove(at)
            && !is_kept
        {
            unmap(&mut self.composed, hw, entry.key, views);
        }
    }

    /// Drops up to `limit` entries of which this is true, looking at all of them once. True if there may be more.
    /// `is_kept` leaves them in the tables: a defect that is planted.
    pub fn drop_those<H: Hardware<Space = S>>(
        &mut self,
        hw: &mut H,
        limit: u32,
        is_kept: bool,
        is_it: impl Fn(Key) -> bool,
    ) -> bool {
        let mut from = 0;
        for _ in 0..limit {
            let Some(at) = self.entries.position(from, &is_it) else { return false };
            self.remove(hw, at, is_kept);
            // Another one is there now.
            from = at;
        }
        true
    }

    /// Drops the entry for a key, if there is one.
    pub fn drop_one<H: Hardware<Space = S>>(&mut self, hw: &mut H, key: Key, is_kept: bool) {
        if let Some(at) = self.entries.find(key) {
            self.remove(hw, at, is_kept);
        }
    }

    /// Takes a physical page out of all composed tables: what stands behind it changes.
    pub fn unmap_physical<H: Hardware<Space = S>>(&mut self, hw: &mut H, ppn: Ppn) {
        let composed = &mut self.composed;
        self.entries.each_of(ppn.0, true, |key, views| unmap(composed, hw, key, views));
    }

    /// Whether a context has used a physical page since this was last asked; it is forgotten.
    pub fn take_accessed<H: Hardware<Space = S>>(&mut self, hw: &mut H, ppn: Ppn) -> bool {
        let composed = &mut self.composed;
        let mut is_used = false;
        self.entries.each_of(ppn.0, false, |key, views| {
            for table in composed.iter_mut().filter(|table| table.asid == key.asid && views.has(table.right)) {
                is_used |= hw.take_accessed(&mut table.space, Ppn(key.page));
            }
        });
        is_used
    }

    /// The tables that the VM is to run in; its own are there.
    ///
    /// # Errors
    /// If there is no page for them.
    pub fn current<H: Hardware<Space = S>>(&mut self, hw: &mut H) -> Result<&S, NoMemory> {
        match self.entered {
            Some(Entered { asid, right, .. }) => self.tables(hw, asid, right).map(|space| &*space),
            None => self.own.as_ref().ok_or(NoMemory),
        }
    }

    /// The tables of an address space at a right, made if there are none, and first from now on.
    ///
    /// # Errors
    /// If there is no page for them.
    fn tables<H: Hardware<Space = S>>(&mut self, hw: &mut H, asid: u16, right: Right) -> Result<&mut S, NoMemory> {
        match self.composed.iter().position(|table| table.is_of(asid, right)) {
            Some(at) => self.composed.swap(0, at),
            None => self.add_tables(hw, asid, right)?,
        }
        self.composed.first_mut().map(|table| &mut table.space).ok_or(NoMemory)
    }

    #[inline(never)]
    fn add_tables<H: Hardware<Space = S>>(&mut self, hw: &mut H, asid: u16, right: Right) -> Result<(), NoMemory> {
        self.composed.try_reserve_exact(1).map_err(|_| NoMemory)?;
        if self.composed.len() >= MAX_TABLES {
            self.drop_any(hw, 0);
        }
        let own = self.own.as_ref().ok_or(NoMemory)?;
        let space = hw.create_space_beside(own)?;
        let pages = hw.table_pages(&space);
        self.composed.push(Composed { asid, right, space, pages });
        let last = self.composed.len().saturating_sub(1);
        self.composed.swap(0, last);
        Ok(())
    }

    /// Drops tables as chance has it, but none of the first so many. False if there are no others.
    fn drop_any<H: Hardware<Space = S>>(&mut self, hw: &mut H, first: usize) -> bool {
        let others = self.composed.len().saturating_sub(first);
        let chance = self.entries.chance();
        let Some(at) = chance.checked_rem(others as u64).and_then(|at| usize::try_from(at).ok()) else { return false };
        let at = at.saturating_add(first);
        if at >= self.composed.len() {
            return false;
        }
        hw.destroy_space(self.composed.swap_remove(at).space);
        true
    }

    /// How many address spaces have composed tables.
    pub const fn nr_composed(&self) -> usize {
        self.composed.len()
    }

    /// Drops the last of them.
    pub fn drop_last<H: Hardware<Space = S>>(&mut self, hw: &mut H) {
        if let Some(last) = self.composed.pop() {
            hw.destroy_space(last.space);
        }
    }

    /// Maps a page of an address space that has an entry.
    ///
    /// # Errors
    /// If there is no page for a table.
    pub fn map<H: Hardware<Space = S>>(
        &mut self,
        hw: &mut H,
        key: Key,
        right: Right,
        to: Mpn,
        rights: Rights,
    ) -> Result<(), NoMemory> {
        let Some(at) = self.entries.find(key) else { return Ok(()) };
        self.tables(hw, key.asid, right)?;
        while self.table_pages().saturating_add(PAGES_A_MAPPING) > MAX_TABLE_PAGES {
            if !self.drop_any(hw, 1) {
                // It has filled them all itself: it begins anew.
                self.drop_any(hw, 0);
                self.tables(hw, key.asid, right)?;
            }
        }
        let Some(table) = self.composed.first_mut() else { return Err(NoMemory) };
        // Before it is mapped, as part of it may be when that fails.
        self.entries.note_mapped(at, right);
        let mapped = hw.map(&mut table.space, Ppn(key.page), to, rights);
        table.pages = hw.table_pages(&table.space);
        mapped
    }
}

/// Takes an entry out of the tables that may have it.
fn unmap<H: Hardware>(composed: &mut [Composed<H::Space>], hw: &mut H, key: Key, views: Views) {
    if !views.is_any() {
        return;
    }
    for table in composed.iter_mut().filter(|table| table.asid == key.asid && views.has(table.right)) {
        hw.unmap(&mut table.space, Ppn(key.page));
    }
}
