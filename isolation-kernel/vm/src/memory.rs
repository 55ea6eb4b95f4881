//! A VM's memory: what is the image's, what is private, what is still zero, and the faults that sort it out.
//!
//! The compact truth is here: a map of private pages as large as what was touched. The page tables are a cache
//! of it, filled by faults, and can be dropped at any time.

use crate::decode::Allegation;
use crate::images::LoadedImage;
use hal::{Access, Hardware, Mpn, NoMemory, PAGE_SIZE, Page, Ppn, Rights};
use hashbrown::HashMap;
use virtual_isa::exception::{self, Cause};
use virtual_isa::image::Rights as ImageRights;
use virtual_isa::instruction::InstructionError;
use virtual_isa::layout;

/// Pages of image text or constants that one fault maps at once: they cost an entry each and nothing else.
const FAULT_AROUND: u32 = 16;

/// The pages at fixed addresses, which every VM has.
#[derive(Debug)]
pub struct FixedPages {
    /// The register page.
    pub register: Page,
    /// The control page.
    pub control: Page,
    /// The transmit ring.
    pub transmit: Page,
    /// The receive ring.
    pub receive: [Page; 2],
    /// The gate's rings, of a VM with the privilege bit.
    pub gate: Option<GatePages>,
}

/// The pages of the supervisor gate.
#[derive(Debug)]
pub struct GatePages {
    /// The request ring.
    pub request: Page,
    /// The completion ring.
    pub completion: [Page; 2],
}

impl FixedPages {
    /// Allocates them.
    ///
    /// # Errors
    /// If the machine has too few pages left; then none is kept.
    pub fn allocate<H: Hardware>(hw: &mut H, privileged: bool) -> Result<Self, NoMemory> {
        const MOST: usize = 8;
        let wanted = if privileged { MOST } else { MOST.saturating_sub(3) };
        let mut pages = heapless::Vec::<Page, MOST>::new();
        while pages.len() < wanted {
            let Some(page) = hw.allocate() else { break };
            if let Err(page) = pages.push(page) {
                hw.release(page);
            }
        }
        let mut next = pages.into_iter();
        let mut take = || next.next();
        let taken = [take(), take(), take(), take(), take()];
        let gate = [take(), take(), take()];
        let [Some(register), Some(control), Some(transmit), Some(first), Some(second)] = taken else {
            for page in taken.into_iter().chain(gate).flatten() {
                hw.release(page);
            }
            return Err(NoMemory);
        };
        let mut fixed = Self { register, control, transmit, receive: [first, second], gate: None };
        match gate {
            [Some(request), Some(one), Some(two)] => {
                fixed.gate = Some(GatePages { request, completion: [one, two] });
                Ok(fixed)
            }
            [None, None, None] if !privileged => Ok(fixed),
            some => {
                for page in some.into_iter().flatten() {
                    hw.release(page);
                }
                fixed.release(hw);
                Err(NoMemory)
            }
        }
    }

    /// Gives them back.
    pub fn release<H: Hardware>(self, hw: &mut H) {
        let [first, second] = self.receive;
        for page in [self.register, self.control, self.transmit, first, second] {
            hw.release(page);
        }
        if let Some(GatePages { request, completion: [one, two] }) = self.gate {
            for page in [request, one, two] {
                hw.release(page);
            }
        }
    }

    /// Which they are: where, which machine page, with which rights.
    fn each(&self) -> impl Iterator<Item = (Ppn, Mpn, Rights)> {
        let at = |address: u64, index: u32| Ppn(page_number(address).saturating_add(index));
        let [first, second] = &self.receive;
        let gate = self.gate.iter().flat_map(move |gate| {
            let [one, two] = &gate.completion;
            [
                (at(layout::REQUEST_RING, 0), gate.request.mpn(), Rights::ReadWrite),
                (at(layout::COMPLETION_RING, 0), one.mpn(), Rights::ReadWrite),
                (at(layout::COMPLETION_RING, 1), two.mpn(), Rights::ReadWrite),
            ]
        });
        [
            (at(layout::REGISTER_PAGE, 0), self.register.mpn(), Rights::Read),
            (at(layout::CONTROL_PAGE, 0), self.control.mpn(), Rights::ReadWrite),
            (at(layout::TRANSMIT_RING, 0), self.transmit.mpn(), Rights::ReadWrite),
            (at(layout::RECEIVE_RING, 0), first.mpn(), Rights::ReadWrite),
            (at(layout::RECEIVE_RING, 1), second.mpn(), Rights::ReadWrite),
        ]
        .into_iter()
        .chain(gate)
    }
}

/// Number of the page at an address of the layout, all of which are small.
const fn page_number(address: u64) -> u32 {
    let page = layout::page_of(address);
    assert!(page <= u32::MAX as u64);
    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
    {
        page as u32
    }
}

const FIRST_FIXED: u32 = page_number(layout::REGISTER_PAGE);
const END_FIXED: u32 = page_number(layout::COMPLETION_RING) + layout::COMPLETION_RING_BYTES / 4096;

/// What stands behind a guest's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backing {
    /// A fixed page.
    Fixed(Mpn, Rights),
    /// A page of the VM's own, readable and writable.
    Private(Mpn),
    /// A page of the image, to be copied on the first write if that is allowed.
    Shared(Mpn, ImageRights),
    /// Nothing yet: reads as zero.
    Zero(ImageRights),
}

/// A VM's memory.
#[derive(Debug)]
pub struct Memory<S> {
    /// The fixed pages.
    pub fixed: FixedPages,
    size_pages: u32,
    private: HashMap<Ppn, Page>,
    space: Option<S>,
}

/// What all VMs of a core share.
pub struct Shared<'a> {
    /// The VM's image.
    pub image: &'a LoadedImage,
    /// A page of zeros.
    pub zero: Mpn,
}

impl<S> Memory<S> {
    /// Memory with nothing private but the fixed pages.
    pub fn new(size_pages: u32, fixed: FixedPages) -> Self {
        Self { fixed, size_pages, private: HashMap::new(), space: None }
    }

    /// Its size in pages.
    pub const fn size_pages(&self) -> u32 {
        self.size_pages
    }

    /// Pages that are this VM's alone, the fixed ones included.
    pub fn private_pages(&self) -> u32 {
        let fixed = if self.fixed.gate.is_some() { 8 } else { 5 };
        u32::try_from(self.private.len()).unwrap_or(u32::MAX).saturating_add(fixed)
    }

    /// Takes everything apart, for the pages to be released.
    pub fn into_parts(self) -> (FixedPages, HashMap<Ppn, Page>, Option<S>) {
        (self.fixed, self.private, self.space)
    }

    /// The page tables, if they are cached.
    pub const fn space(&self) -> Option<&S> {
        self.space.as_ref()
    }

    /// What stands behind a page, or `None` if the guest has nothing there.
    fn backing(&self, image: &LoadedImage, ppn: Ppn) -> Option<Backing> {
        if ppn.0 == 0 || ppn.0 >= self.size_pages {
            return None;
        }
        if let Some(page) = self.private.get(&ppn) {
            return Some(Backing::Private(page.mpn()));
        }
        if (FIRST_FIXED..END_FIXED).contains(&ppn.0) {
            return self.fixed.each().find(|&(at, ..)| at == ppn).map(|(_, mpn, rights)| Backing::Fixed(mpn, rights));
        }
        Some(match image.page(ppn) {
            Some(page) => match page.mpn {
                Some(mpn) => Backing::Shared(mpn, page.rights),
                None => Backing::Zero(page.rights),
            },
            None => Backing::Zero(ImageRights::ReadWrite),
        })
    }

    /// Makes sure that there are page tables, with the fixed pages in them.
    ///
    /// # Errors
    /// If there is no page for them.
    pub fn prepare<H: Hardware<Space = S>>(&mut self, hw: &mut H) -> Result<&S, NoMemory> {
        if self.space.is_none() {
            let mut space = hw.create_space()?;
            for (ppn, mpn, rights) in self.fixed.each() {
                if hw.map(&mut space, ppn, mpn, rights).is_err() {
                    hw.destroy_space(space);
                    return Err(NoMemory);
                }
            }
            self.space = Some(space);
        }
        self.space.as_ref().ok_or(NoMemory)
    }

    /// Handles a page fault of the guest: maps what it may use, or says why it ends.
    pub fn fault<H>(&mut self, hw: &mut H, shared: &Shared<'_>, address: u64, access: Access) -> Result<(), Cause>
    where
        H: Hardware<Space = S>,
    {
        let violation = Cause::Memory { address, access: report_access(access) };
        let ppn = u32::try_from(layout::page_of(address)).map(Ppn).map_err(|_| violation)?;
        let backing = self.backing(shared.image, ppn).ok_or(violation)?;
        let mapped = match (access, backing) {
            (Access::Execute, Backing::Shared(_, ImageRights::ReadExecute)) | (Access::Read, Backing::Shared(..)) => {
                self.map_around(hw, shared.image, ppn)
            }
            (Access::Read, Backing::Zero(_)) => self.map(hw, ppn, shared.zero, Rights::Read),
            (Access::Read, Backing::Private(mpn)) => self.map(hw, ppn, mpn, Rights::ReadWrite),
            (Access::Read, Backing::Fixed(mpn, rights)) => self.map(hw, ppn, mpn, rights),
            (Access::Write, Backing::Fixed(_, Rights::Read) | Backing::Shared(_, ImageRights::Read))
            | (Access::Write, Backing::Shared(_, ImageRights::ReadExecute)) => return Err(violation),
            (Access::Write, Backing::Zero(rights)) if rights != ImageRights::ReadWrite => return Err(violation),
            (Access::Write, _) => match self.writable(hw, shared, ppn) {
                Ok(_) => Ok(()),
                Err(InstructionError::NoMemory) => Err(NoMemory),
                Err(_) => return Err(violation),
            },
            (Access::Execute, _) => return Err(violation),
        };
        mapped.map_err(|NoMemory| Cause::OutOfMemory { address })
    }

    /// Finds the machine page a guest's page is written to, making it private and mapping it first if need be.
    fn writable<H>(&mut self, hw: &mut H, shared: &Shared<'_>, ppn: Ppn) -> Result<Mpn, InstructionError>
    where
        H: Hardware<Space = S>,
    {
        let source = match self.backing(shared.image, ppn) {
            Some(Backing::Private(mpn) | Backing::Fixed(mpn, Rights::ReadWrite)) => {
                return self.map(hw, ppn, mpn, Rights::ReadWrite).map(|()| mpn).map_err(|_| InstructionError::NoMemory);
            }
            Some(Backing::Shared(mpn, ImageRights::ReadWrite)) => Some(mpn),
            Some(Backing::Zero(ImageRights::ReadWrite)) => None,
            _ => return Err(InstructionError::BadAddress),
        };
        let page = hw.allocate().ok_or(InstructionError::NoMemory)?;
        let mpn = page.mpn();
        if let Some(source) = source {
            hw.copy(source, mpn);
        }
        if self.map(hw, ppn, mpn, Rights::ReadWrite).is_err() {
            hw.release(page);
            return Err(InstructionError::NoMemory);
        }
        self.private.insert(ppn, page);
        Ok(mpn)
    }

    fn map<H: Hardware<Space = S>>(&mut self, hw: &mut H, at: Ppn, to: Mpn, rights: Rights) -> Result<(), NoMemory> {
        match &mut self.space {
            Some(space) => hw.map(space, at, to, rights),
            None => Ok(()),
        }
    }

    /// Maps an image page and, as they come for free, its neighbours of the same kind.
    fn map_around<H>(&mut self, hw: &mut H, image: &LoadedImage, ppn: Ppn) -> Result<(), NoMemory>
    where
        H: Hardware<Space = S>,
    {
        let first = ppn.0 & !(FAULT_AROUND - 1);
        for neighbour in (first..first.saturating_add(FAULT_AROUND)).map(Ppn) {
            if let Some(Backing::Shared(mpn, rights)) = self.backing(image, neighbour) {
                let rights = match rights {
                    ImageRights::ReadExecute => Rights::ReadExecute,
                    ImageRights::Read | ImageRights::ReadWrite => Rights::Read,
                };
                self.map(hw, neighbour, mpn, rights)?;
            }
        }
        Ok(())
    }

    /// Copies bytes out of the memory a guest named.
    ///
    /// # Errors
    /// `BadAddress` if part of it is not the guest's to read.
    pub fn try_read<H>(
        &self,
        hw: &H,
        image: &LoadedImage,
        from: Allegation,
        into: &mut [u8],
    ) -> Result<(), InstructionError>
    where
        H: Hardware<Space = S>,
    {
        let mut rest = into;
        for piece in Pieces::new(from, rest.len())? {
            let backing = self.backing(image, piece.ppn).ok_or(InstructionError::BadAddress)?;
            let (bytes, tail) = rest.split_at_mut_checked(piece.length).ok_or(InstructionError::BadAddress)?;
            match backing {
                Backing::Fixed(mpn, _) | Backing::Private(mpn) | Backing::Shared(mpn, _) => {
                    hw.read(mpn, piece.offset, bytes);
                }
                Backing::Zero(_) => bytes.fill(0),
            }
            rest = tail;
        }
        Ok(())
    }

    /// Copies bytes into the memory a guest named: all of them, or none.
    ///
    /// # Errors
    /// `BadAddress` if part of it is not the guest's to write, `NoMemory` if there is no page for it.
    pub fn try_write<H>(
        &mut self,
        hw: &mut H,
        shared: &Shared<'_>,
        to: Allegation,
        from: &[u8],
    ) -> Result<(), InstructionError>
    where
        H: Hardware<Space = S>,
    {
        // Every page is made writable before the first byte is written.
        for piece in Pieces::new(to, from.len())? {
            self.writable(hw, shared, piece.ppn)?;
        }
        let mut rest = from;
        for piece in Pieces::new(to, from.len())? {
            let mpn = self.writable(hw, shared, piece.ppn)?;
            let (bytes, tail) = rest.split_at_checked(piece.length).ok_or(InstructionError::BadAddress)?;
            hw.write(mpn, piece.offset, bytes);
            rest = tail;
        }
        Ok(())
    }

    /// Gives back up to `limit` whole pages at the start of a range, and returns what is left of it, or `None`
    /// if nothing is.
    ///
    /// # Errors
    /// `BadAddress` if part of the range is not the guest's, or is a fixed page; then nothing has changed.
    pub fn discard<H>(
        &mut self,
        hw: &mut H,
        range: Allegation,
        limit: u32,
    ) -> Result<Option<Allegation>, InstructionError>
    where
        H: Hardware<Space = S>,
    {
        let bad = InstructionError::BadAddress;
        let page = PAGE_SIZE as u64;
        let end = range.address.checked_add(range.length).ok_or(bad)?;
        if range.address < page || end > u64::from(self.size_pages).saturating_mul(page) {
            return Err(bad);
        }
        let number = |n: u64| u32::try_from(n).map_err(|_| bad);
        let first = number(range.address.div_ceil(page))?;
        let last = number(layout::page_of(end))?;
        if first < END_FIXED && last > FIRST_FIXED {
            return Err(bad);
        }
        let stop = last.min(first.saturating_add(limit));
        for ppn in (first..stop).map(Ppn) {
            if let Some(space) = &mut self.space {
                hw.unmap(space, ppn);
            }
            if let Some(page) = self.private.remove(&ppn) {
                hw.release(page);
            }
        }
        if stop >= last {
            return Ok(None);
        }
        let address = u64::from(stop).saturating_mul(page);
        Ok(Some(Allegation { address, length: end.saturating_sub(address) }))
    }
}

/// The access, as reports name it.
pub const fn report_access(access: Access) -> exception::Access {
    match access {
        Access::Read => exception::Access::Read,
        Access::Write => exception::Access::Write,
        Access::Execute => exception::Access::Execute,
    }
}

/// The part of a range that lies in one page.
struct Piece {
    ppn: Ppn,
    offset: usize,
    length: usize,
}

/// The pieces of a range, page by page.
struct Pieces {
    address: u64,
    left: usize,
}

impl Pieces {
    fn new(at: Allegation, length: usize) -> Result<Self, InstructionError> {
        at.address.checked_add(length as u64).ok_or(InstructionError::BadAddress)?;
        // Page numbers of 32 bits: no VM has memory beyond them.
        u32::try_from(layout::page_of(at.address.saturating_add(length as u64)))
            .map_err(|_| InstructionError::BadAddress)?;
        Ok(Self { address: at.address, left: length })
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.left == 0 {
            return None;
        }
        let offset = usize::try_from(self.address % PAGE_SIZE as u64).ok()?;
        let length = self.left.min(PAGE_SIZE.saturating_sub(offset));
        let ppn = Ppn(u32::try_from(layout::page_of(self.address)).ok()?);
        self.address = self.address.saturating_add(length as u64);
        self.left = self.left.saturating_sub(length);
        Some(Piece { ppn, offset, length })
    }
}
