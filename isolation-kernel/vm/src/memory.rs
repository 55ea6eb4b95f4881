//! A VM's memory: what is the image's, what is private, what is still zero, and the faults that sort it out.
//!
//! The compact truth is here: a map of private pages as large as what was touched. The page tables are a cache
//! of it, filled by faults, and can be dropped at any time.

use crate::delta::{Delta, Place};
use crate::fixed::{END_FIXED, FIRST_FIXED, Fixed, FixedPages, allocate_some, page_number};
use crate::images::{ImagePage, LoadedImage};
use crate::map::Key;
use crate::pack::{Pack, Packer};
use crate::swap::{Defect, Swap};
use crate::template::Template;
use crate::tlb::Tlb;
use alloc::boxed::Box;
use alloc::vec::Vec;
use hal::{Access, Hardware, LEAF_PAGES, Mpn, NoMemory, PAGE_SIZE, Pages, Ppn, Rights};
use virtual_isa::exception;
use virtual_isa::image::Rights as ImageRights;
use virtual_isa::layout;

mod reach;
mod spaces;

pub use spaces::{AllTables, Parts};
use spaces::{own_tables, take_accessed};

/// What stands behind a guest's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backing {
    /// A fixed page.
    Fixed(Mpn, Rights),
    /// A fixed page that is not there yet.
    FixedAbsent,
    /// A page of the VM's own in memory, readable and writable: its index and its page.
    Private(u32, Mpn),
    /// A page of the VM's own that is not in memory.
    Away,
    /// A page of the template or the image, to be copied on the first write if that is allowed.
    Shared(Mpn, ImageRights),
    /// Nothing yet: reads as zero.
    Zero(ImageRights),
}

/// A VM's memory.
#[derive(Debug)]
pub struct Memory<S> {
    /// The fixed pages.
    pub fixed: FixedPages,
    /// The VM's own pages.
    pub delta: Delta,
    /// Packs in which some of them are.
    pub packs: Vec<Option<Pack>>,
    /// Pages of the template and the image that it does not see, as it has its own there or gave them back.
    pub hidden_pages: u32,
    /// What it has of address spaces of its own making. If there is one, it has the VM's own tables too.
    pub tlb: Option<Box<Tlb<S>>>,
    size_pages: u32,
    space: Option<S>,
    table_pages: u32,
}

/// What all VMs of a core share.
pub struct Shared<'a> {
    /// The VM's image.
    pub image: &'a LoadedImage,
    /// The VM's template.
    pub template: &'a Template,
    /// A page of zeros.
    pub zero: Mpn,
}

/// What it takes to bring pages back.
pub struct Means<'a> {
    /// The swap disk.
    pub swap: &'a mut Swap,
    /// The decompressor.
    pub packer: &'a mut Packer,
}

/// What a fault came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// Something that was there is mapped now.
    Found,
    /// It got a page of zeros.
    Zeroed,
    /// It got its own copy of a page.
    Copied,
    /// A page was decompressed.
    Unpacked,
}

/// Why a page cannot be had at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// It is in that pack, which must be read back first.
    Pack(u32),
    /// There is no memory.
    NoMemory,
    /// It is the register page, which the kernel must write first.
    Register,
    /// It is not the guest's, or does not allow the access.
    Violation,
    /// What is in its pack is no page: the swap disk must have changed it.
    Broken(u32),
}

impl From<NoMemory> for Absent {
    fn from(NoMemory: NoMemory) -> Self {
        Self::NoMemory
    }
}

impl<S> Memory<S> {
    /// Memory with nothing private but the fixed pages. `key` is a number that no guest knows.
    pub fn new(size_pages: u32, fixed: FixedPages, key: u64) -> Self {
        let (delta, packs) = (Delta::new(Key(key)), Vec::new());
        Self { fixed, delta, packs, hidden_pages: 0, tlb: None, size_pages, space: None, table_pages: 0 }
    }

    /// Pages of memory that are this VM's alone, the fixed ones included.
    pub fn private_pages(&self) -> u32 {
        u32::try_from(self.delta.nr_residents()).unwrap_or(u32::MAX).saturating_add(self.fixed.count())
    }

    /// Whether there are page tables, and no others than those.
    pub const fn has_space(&self) -> bool {
        self.space.is_some()
    }

    /// What stands behind a page, or `None` if the guest has nothing there.
    fn backing(&self, shared: &Shared<'_>, ppn: Ppn) -> Option<Backing> {
        if ppn.0 == 0 || ppn.0 >= self.size_pages {
            return None;
        }
        if (FIRST_FIXED..END_FIXED).contains(&ppn.0) {
            return Some(match self.fixed.at(ppn) {
                Some(Fixed::There(mpn, rights)) => Backing::Fixed(mpn, rights),
                Some(Fixed::Absent) => Backing::FixedAbsent,
                None => return None,
            });
        }
        Some(match self.delta.find(ppn) {
            Some(Place::Resident(index)) => Backing::Private(index, self.delta.resident(index)?.page.mpn()),
            Some(Place::Packed { .. } | Place::Filled(_)) => Backing::Away,
            place => match (shared.template.page(ppn).filter(|_| place.is_none()), shared.image.page(ppn)) {
                (Some(mpn), image) => Backing::Shared(mpn, image.map_or(ImageRights::ReadWrite, |image| image.rights)),
                (None, Some(ImagePage { mpn: Some(mpn), rights })) => Backing::Shared(mpn, rights),
                (None, Some(ImagePage { mpn: None, rights })) => Backing::Zero(rights),
                (None, None) => Backing::Zero(ImageRights::ReadWrite),
            },
        })
    }

    /// Handles a page fault of the guest: maps what it may use.
    ///
    /// # Errors
    /// Why that cannot be, or not yet.
    pub fn fault<H>(
        &mut self,
        hw: &mut H,
        shared: &Shared<'_>,
        means: &mut Means<'_>,
        ppn: Ppn,
        access: Access,
    ) -> Result<Mapped, Absent>
    where
        H: Hardware<Space = S>,
    {
        use ImageRights as R;
        let backing = self.backing(shared, ppn).ok_or(Absent::Violation)?;
        match (access, backing) {
            (Access::Execute, Backing::Shared(mpn, rights @ R::ReadExecute))
            | (Access::Read, Backing::Shared(mpn, rights)) => {
                let is_there = self.furnish(hw, shared, ppn)? && self.delta.find(ppn).is_none();
                if !is_there {
                    self.map(hw, shared, ppn, mpn, shared_rights(rights))?;
                }
            }
            (Access::Read, Backing::Zero(_)) => self.map(hw, shared, ppn, shared.zero, Rights::Read)?,
            (Access::Read, Backing::Fixed(mpn, rights)) => self.map(hw, shared, ppn, mpn, rights)?,
            (Access::Execute, _)
            | (Access::Write, Backing::Fixed(_, Rights::Read) | Backing::Shared(_, R::Read | R::ReadExecute))
            | (Access::Write, Backing::Zero(R::Read | R::ReadExecute)) => return Err(Absent::Violation),
            (_, Backing::FixedAbsent | Backing::Away | Backing::Private(..)) | (Access::Write, _) => {
                return self.own(hw, shared, means, ppn).map(|(_, mapped)| mapped);
            }
        }
        Ok(Mapped::Found)
    }

    /// Finds the machine page a guest's page is written to, making it the VM's own, bringing it back and mapping
    /// it if need be.
    fn own<H>(
        &mut self,
        hw: &mut H,
        shared: &Shared<'_>,
        means: &mut Means<'_>,
        ppn: Ppn,
    ) -> Result<(Mpn, Mapped), Absent>
    where
        H: Hardware<Space = S>,
    {
        let source = match self.backing(shared, ppn) {
            Some(Backing::Fixed(mpn, Rights::ReadWrite)) => {
                self.map(hw, shared, ppn, mpn, Rights::ReadWrite)?;
                return Ok((mpn, Mapped::Found));
            }
            Some(Backing::Private(index, mpn)) => {
                self.delta.warm(index);
                self.map(hw, shared, ppn, mpn, Rights::ReadWrite)?;
                return Ok((mpn, Mapped::Found));
            }
            Some(Backing::FixedAbsent) if ppn.0 == FIRST_FIXED => return Err(Absent::Register),
            Some(Backing::FixedAbsent) => {
                if ppn.0 == page_number(layout::TRANSMIT_RING) {
                    let [page] = allocate_some(hw)?;
                    self.fixed.transmit = Some(page);
                } else {
                    self.fixed.need_receive(hw)?;
                }
                let Some(Backing::Fixed(mpn, rights)) = self.backing(shared, ppn) else {
                    return Err(Absent::Violation);
                };
                self.map(hw, shared, ppn, mpn, rights)?;
                return Ok((mpn, Mapped::Zeroed));
            }
            Some(Backing::Away) => {
                let mpn = self.bring(hw, means, ppn, true)?;
                self.map(hw, shared, ppn, mpn, Rights::ReadWrite)?;
                return Ok((mpn, Mapped::Unpacked));
            }
            Some(Backing::Shared(mpn, ImageRights::ReadWrite)) => Some(mpn),
            Some(Backing::Zero(ImageRights::ReadWrite)) => None,
            _ => return Err(Absent::Violation),
        };
        self.delta.reserve()?;
        let page = hw.allocate().ok_or(NoMemory)?;
        let mpn = page.mpn();
        if let Some(source) = source {
            hw.copy(source, mpn);
        }
        if self.map(hw, shared, ppn, mpn, Rights::ReadWrite).is_err() {
            hw.release(page);
            return Err(Absent::NoMemory);
        }
        self.delta.put_resident(ppn, page, true);
        if !means.swap.has(Defect::StaleCopy)
            && let Some(tlb) = &mut self.tlb
        {
            tlb.unmap_physical(hw, ppn);
        }
        if source.is_some() {
            self.hidden_pages = self.hidden_pages.saturating_add(1);
        }
        Ok((mpn, if source.is_some() { Mapped::Copied } else { Mapped::Zeroed }))
    }

    /// Brings a page of the VM's own back into memory. It is not mapped.
    pub fn bring<H>(&mut self, hw: &mut H, means: &mut Means<'_>, ppn: Ppn, is_hot: bool) -> Result<Mpn, Absent>
    where
        H: Hardware<Space = S>,
    {
        let place = self.delta.find(ppn).ok_or(Absent::Violation)?;
        if let Place::Packed { pack, .. } = place
            && self.pack(pack).is_none_or(|pack| pack.pages.is_empty())
        {
            return Err(Absent::Pack(pack));
        }
        self.delta.reserve()?;
        let page = hw.allocate().ok_or(NoMemory)?;
        let mpn = page.mpn();
        match place {
            Place::Resident(_) | Place::Bare => {
                hw.release(page);
                return Err(Absent::Violation);
            }
            Place::Filled(word) => fill(hw, mpn, word),
            Place::Packed { pack, span } => {
                let pages = self.pack(pack).map_or(&[][..], |pack| &pack.pages);
                if !means.packer.unpack(hw, pages, span, mpn) {
                    hw.release(page);
                    return Err(Absent::Broken(pack));
                }
                self.let_go(hw, means.swap, pack);
            }
        }
        self.delta.put_resident(ppn, page, is_hot);
        Ok(mpn)
    }

    /// One of its packs.
    pub fn pack(&self, number: u32) -> Option<&Pack> {
        self.packs.get(number as usize)?.as_ref()
    }

    /// A page of a pack is needed no more; with the last of them the pack goes.
    fn let_go<H: Hardware<Space = S>>(&mut self, hw: &mut H, swap: &mut Swap, number: u32) {
        let Some(place) = self.packs.get_mut(number as usize) else { return };
        let Some(pack) = place else { return };
        pack.live = pack.live.saturating_sub(1);
        let last = u32::from(swap.has(Defect::UncountedPage));
        if pack.live <= last
            && let Some(pack) = place.take()
        {
            swap.discard(hw, pack);
        }
    }

    /// Makes room for one more pack, so that the next [`add_pack`](Self::add_pack) cannot fail.
    ///
    /// # Errors
    /// If the kernel's heap has no room.
    pub fn reserve_pack(&mut self) -> Result<(), NoMemory> {
        self.packs.try_reserve(1).map_err(|_| NoMemory)
    }

    /// Adds a pack, for which room was made, and returns its number.
    pub fn add_pack(&mut self, pack: Pack) -> u32 {
        let free = self.packs.iter().position(Option::is_none);
        let number = free.unwrap_or(self.packs.len());
        match self.packs.get_mut(number) {
            Some(place) => *place = Some(pack),
            None => self.packs.push(Some(pack)),
        }
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// Takes a page out of memory: it is at `to` from now on.
    pub fn evict<H: Hardware<Space = S>>(&mut self, hw: &mut H, swap: &Swap, ppn: Ppn, to: Place) {
        if !swap.has(Defect::KeptMapping) {
            self.unmap(hw, ppn, swap.has(Defect::KeptInSpace));
        }
        if let Some(page) = self.delta.evict(ppn, Some(to)) {
            hw.release(page);
        }
    }

    /// Moves the clock's hand by one page. Returns the page, and whether it is in use.
    pub fn tick<H: Hardware<Space = S>>(&mut self, hw: &mut H) -> Option<(Ppn, bool)> {
        let (space, tlb) = (&mut self.space, &mut self.tlb);
        self.delta.tick(|ppn| take_accessed(space, tlb, hw, ppn))
    }

    fn map<H>(&mut self, hw: &mut H, shared: &Shared<'_>, at: Ppn, to: Mpn, rights: Rights) -> Result<(), NoMemory>
    where
        H: Hardware<Space = S>,
    {
        self.furnish(hw, shared, at)?;
        let Some(space) = own_tables(&mut self.space, &mut self.tlb) else { return Ok(()) };
        let mapped = hw.map(space, at, to, rights);
        self.table_pages = hw.table_pages(space);
        mapped
    }

    /// Where the space has no table for a page yet, gives it what the template has and what the VM has of its own in
    /// memory around there, so that neither costs a fault. True if it did.
    fn furnish<H>(&mut self, hw: &mut H, shared: &Shared<'_>, at: Ppn) -> Result<bool, NoMemory>
    where
        H: Hardware<Space = S>,
    {
        let Some(space) = own_tables(&mut self.space, &mut self.tlb) else { return Ok(false) };
        let Some(leaf) = shared.template.leaf(at) else { return Ok(false) };
        if !hw.share_leaf(space, leaf)? {
            return Ok(false);
        }
        let end = leaf.first.0.saturating_add(LEAF_PAGES);
        let mut result = Ok(());
        for (ppn, place) in self.delta.places_in(leaf.first.0..end) {
            let resident = if let Place::Resident(index) = place { self.delta.resident(index) } else { None };
            match resident {
                Some(resident) if result.is_ok() => {
                    result = hw.map(space, ppn, resident.page.mpn(), Rights::ReadWrite);
                }
                _ => hw.unmap(space, ppn),
            }
            if result.is_err() {
                // The template's page must not be seen there.
                hw.unmap(space, ppn);
            }
        }
        if leaf.first.0 <= FIRST_FIXED && FIRST_FIXED < end && !self.delta.is_empty() {
            for ppn in (FIRST_FIXED..END_FIXED).map(Ppn) {
                if let Some(Fixed::There(mpn, rights)) = self.fixed.at(ppn) {
                    result = result.and(hw.map(space, ppn, mpn, rights));
                }
            }
        }
        self.table_pages = hw.table_pages(space);
        result.map(|()| true)
    }
}

/// How a page of the template or the image is mapped as long as it is shared.
pub const fn shared_rights(rights: ImageRights) -> Rights {
    match rights {
        ImageRights::ReadExecute => Rights::ReadExecute,
        ImageRights::Read | ImageRights::ReadWrite => Rights::Read,
    }
}

/// Fills a page with a word.
fn fill<P: Pages>(hw: &mut P, page: Mpn, word: u64) {
    if word == 0 {
        return;
    }
    let bytes = [word.to_le_bytes(); PAGE_SIZE / 8];
    hw.write(page, 0, bytes.as_flattened());
}

/// The access, as reports name it.
pub const fn report_access(access: Access) -> exception::Access {
    match access {
        Access::Read => exception::Access::Read,
        Access::Write => exception::Access::Write,
        Access::Execute => exception::Access::Execute,
    }
}
