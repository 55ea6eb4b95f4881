//! Page tables of a VM: those of its physical memory, and those composed of the entries of its TLB.

use super::{Absent, Backing, Means, Memory, Shared};
use crate::decode::Pages;
use crate::delta::Delta;
use crate::fixed::{END_FIXED, FIRST_FIXED, FixedPages};
use crate::memory::Mapped;
use crate::pack::Pack;
use crate::swap::{Defect, Swap};
use crate::tlb::{Entered, Found, Tlb};
use alloc::boxed::Box;
use alloc::vec::Vec;
use hal::{Access, Hardware, NoMemory, Ppn, Rights};
use virtual_isa::image::Rights as ImageRights;
use virtual_isa::instruction::InstructionError;
use virtual_isa::limits::MAX_PAGES_PER_STEP;
use virtual_isa::tlb::{EVERY_ASID, Entry, Key, Right, Rights as EntryRights};

/// What a VM's memory was made of, for its pages to be released after its tables.
pub struct Parts<S> {
    /// The fixed pages.
    pub fixed: FixedPages,
    /// The VM's own pages.
    pub delta: Delta,
    /// Packs in which some of them are.
    pub packs: Vec<Option<Pack>>,
    /// All its page tables.
    pub tables: AllTables<S>,
}

/// All page tables of a VM: those of its physical memory, and of its TLB.
pub struct AllTables<S>(Option<S>, Option<Box<Tlb<S>>>);

impl<S> AllTables<S> {
    /// Frees them.
    pub fn destroy<H: Hardware<Space = S>>(self, hw: &mut H) {
        let Self(space, mut tlb) = self;
        let others = tlb.as_mut().map(|tlb| tlb.take_spaces());
        space.into_iter().chain(others.into_iter().flatten()).for_each(|space| hw.destroy_space(space));
    }
}

/// The tables of a VM's physical memory, wherever they are.
pub fn own_tables<'a, S>(space: &'a mut Option<S>, tlb: &'a mut Option<Box<Tlb<S>>>) -> Option<&'a mut S> {
    match space {
        Some(space) => Some(space),
        None => tlb.as_mut()?.own.as_mut(),
    }
}

/// Whether the guest has used a page in any of its spaces since this was last asked; it is forgotten.
pub fn take_accessed<H: Hardware>(
    space: &mut Option<H::Space>,
    tlb: &mut Option<Box<Tlb<H::Space>>>,
    hw: &mut H,
    ppn: Ppn,
) -> bool {
    let is_used = own_tables(space, tlb).is_some_and(|space| hw.take_accessed(space, ppn));
    is_used | tlb.as_mut().is_some_and(|tlb| tlb.take_accessed(hw, ppn))
}

impl<S> Memory<S> {
    /// Pages of its page tables.
    pub fn table_pages(&self) -> u32 {
        self.table_pages.saturating_add(self.tlb.as_ref().map_or(0, |tlb| tlb.table_pages()))
    }

    /// Pages' worth of the kernel's heap that its TLB takes.
    pub fn heap_pages(&self) -> u32 {
        self.tlb.as_ref().map_or(0, |tlb| tlb.heap_pages())
    }

    /// The context that it is in, if it is in one.
    pub fn entered(&self) -> Option<&Entered> {
        self.tlb.as_ref()?.entered.as_ref()
    }

    /// Drops the page tables: they can be built again at any time. What they tell of the pages' use is kept. False if
    /// there are none.
    pub fn drop_space<H: Hardware<Space = S>>(&mut self, hw: &mut H) -> bool {
        self.note_used(hw);
        self.table_pages = 0;
        let mut any = false;
        let others = self.tlb.as_mut().map(|tlb| tlb.take_spaces());
        for space in self.space.take().into_iter().chain(others.into_iter().flatten()) {
            hw.destroy_space(space);
            any = true;
        }
        any
    }

    /// Drops composed tables, but the `kept` that were used last. False if there are none.
    pub fn drop_composed<H: Hardware<Space = S>>(&mut self, hw: &mut H, kept: usize) -> bool {
        let Some(tlb) = &mut self.tlb else { return false };
        if tlb.nr_composed() <= kept {
            return false;
        }
        self.delta.warm_those(|ppn| tlb.take_accessed(hw, ppn));
        while tlb.nr_composed() > kept {
            tlb.drop_last(hw);
        }
        true
    }

    /// Learns from the page tables which pages in memory the guest has used.
    pub fn note_used<H: Hardware<Space = S>>(&mut self, hw: &mut H) {
        let (space, tlb) = (&mut self.space, &mut self.tlb);
        if space.is_some() || tlb.is_some() {
            self.delta.warm_those(|ppn| take_accessed(space, tlb, hw, ppn));
        }
    }

    /// Takes everything apart, for the pages to be released.
    pub fn into_parts(self) -> Parts<S> {
        let Self { fixed, delta, packs, space, tlb, .. } = self;
        Parts { fixed, delta, packs, tables: AllTables(space, tlb) }
    }

    /// Takes a page out of all tables: what stands behind it changes. `is_own_only` leaves it in the spaces that the
    /// VM made: a defect that is planted.
    pub fn unmap<H: Hardware<Space = S>>(&mut self, hw: &mut H, ppn: Ppn, is_own_only: bool) {
        if let Some(space) = own_tables(&mut self.space, &mut self.tlb) {
            hw.unmap(space, ppn);
        }
        if let Some(tlb) = &mut self.tlb
            && !is_own_only
        {
            tlb.unmap_physical(hw, ppn);
        }
    }

    /// Makes sure that there are page tables of a VM that makes no address spaces.
    ///
    /// # Errors
    /// If there is no page for them.
    #[inline]
    pub fn prepare<H: Hardware<Space = S>>(&mut self, hw: &mut H) -> Result<&S, NoMemory> {
        if self.space.is_none() {
            let space = hw.create_space()?;
            self.table_pages = hw.table_pages(&space);
            self.space = Some(space);
        }
        self.space.as_ref().ok_or(NoMemory)
    }

    /// Makes sure that there are the page tables that a VM is to run in which makes address spaces.
    ///
    /// # Errors
    /// If there is no page for them.
    pub fn prepare_current<H: Hardware<Space = S>>(&mut self, hw: &mut H) -> Result<&S, NoMemory> {
        let Some(tlb) = &mut self.tlb else { return Err(NoMemory) };
        if tlb.own.is_none() {
            let space = hw.create_space()?;
            self.table_pages = hw.table_pages(&space);
            tlb.own = Some(space);
        }
        tlb.current(hw)
    }

    /// The TLB, made if there is none: the VM's own tables are with it from then on.
    pub fn need_tlb(&mut self) -> &mut Tlb<S> {
        let (hash, space) = (self.delta.key(), &mut self.space);
        self.tlb.get_or_insert_with(|| Box::new(Tlb::new(hash, space.take())))
    }

    /// Whether the guest may load an entry.
    fn check_entry(&self, shared: &Shared<'_>, entry: &Entry) -> Result<(), InstructionError> {
        let can_write = entry.rights.contains(EntryRights::WRITE);
        let is_there = match entry.physical {
            // Of the fixed pages only the register page, as the VM's own context has it.
            FIRST_FIXED => entry.rights.difference(EntryRights::USER) == EntryRights::READ,
            n if (FIRST_FIXED..END_FIXED).contains(&n) => false,
            n => n != 0 && n < self.size_pages,
        };
        let image = shared.image.page(Ppn(entry.physical)).map_or(ImageRights::ReadWrite, |page| page.rights);
        let is_allowed = is_there && (!can_write || image == ImageRights::ReadWrite);
        if is_allowed { Ok(()) } else { Err(InstructionError::BadAddress) }
    }

    /// Loads entries: all, or none.
    ///
    /// # Errors
    /// `BadAddress` for a physical page that is not the guest's, or not for this; `NoMemory` if the kernel has no room.
    pub fn load_entries<H: Hardware<Space = S>>(
        &mut self,
        hw: &mut H,
        shared: &Shared<'_>,
        entries: &[Entry],
    ) -> Result<(), InstructionError> {
        entries.iter().try_for_each(|entry| self.check_entry(shared, entry))?;
        let tlb = self.need_tlb();
        tlb.reserve(entries.len()).map_err(|NoMemory| InstructionError::NoMemory)?;
        entries.iter().for_each(|entry| tlb.load(hw, entry));
        Ok(())
    }

    /// Drops entries, a bounded number of them. True if there may be more.
    pub fn drop_entries<H: Hardware<Space = S>>(&mut self, hw: &mut H, swap: &Swap, pages: Pages) -> bool {
        let is_kept = swap.has(Defect::KeptEntry);
        let Some(tlb) = &mut self.tlb else { return false };
        if pages.asid == EVERY_ASID || pages.last.saturating_sub(pages.first) >= MAX_PAGES_PER_STEP {
            return tlb.drop_those(hw, MAX_PAGES_PER_STEP, is_kept, |key| pages.has(key));
        }
        for page in pages.first..=pages.last {
            tlb.drop_one(hw, Key { asid: pages.asid, page }, is_kept);
        }
        false
    }

    /// Handles a page fault of a context that an entry allows: maps what stands behind the entry's page now.
    ///
    /// # Errors
    /// Why that cannot be, or not yet.
    pub fn compose<H: Hardware<Space = S>>(
        &mut self,
        hw: &mut H,
        shared: &Shared<'_>,
        means: &mut Means<'_>,
        entry: Entry,
        right: Right,
        access: Access,
    ) -> Result<Mapped, Absent> {
        let ppn = Ppn(entry.physical);
        let backing = self.backing(shared, ppn).ok_or(Absent::Violation)?;
        let (mpn, can_write, mapped) = match backing {
            Backing::Private(index, mpn) => {
                self.delta.warm(index);
                (mpn, true, Mapped::Found)
            }
            Backing::Away => (self.bring(hw, means, ppn, true)?, true, Mapped::Unpacked),
            Backing::Shared(..) | Backing::Zero(_) if access == Access::Write => {
                let (mpn, mapped) = self.own(hw, shared, means, ppn)?;
                (mpn, true, mapped)
            }
            Backing::Fixed(mpn, _) | Backing::Shared(mpn, _) => (mpn, false, Mapped::Found),
            Backing::Zero(_) => (shared.zero, false, Mapped::Found),
            Backing::FixedAbsent => return Err(Absent::Register),
        };
        let rights = if entry.rights.contains(EntryRights::EXECUTE) {
            Rights::ReadExecute
        } else if can_write && entry.rights.contains(EntryRights::WRITE) {
            Rights::ReadWrite
        } else {
            Rights::Read
        };
        let tlb = self.tlb.as_mut().ok_or(Absent::Violation)?;
        tlb.map(hw, entry.key, right, mpn, rights)?;
        Ok(mapped)
    }

    /// What its TLB says of an access of the context it is in; at which right that is.
    pub fn look(&self, address: u64, access: Access) -> (Found, Right) {
        let Some((tlb, entered)) = self.tlb.as_ref().and_then(|tlb| Some((tlb, tlb.entered.as_ref()?))) else {
            return (Found::Miss, Right::User);
        };
        let right = entered.right;
        let Ok(page) = u32::try_from(virtual_isa::layout::page_of(address)) else { return (Found::Miss, right) };
        let found = tlb.look(Key { asid: entered.asid, page }, right, super::report_access(access));
        (found, right)
    }
}
