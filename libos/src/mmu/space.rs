//! An address space: what its pages are, the pages themselves, and the entries that say so to the processor.

use super::pages::{Page, Pool, SharedMemory};
use super::ranges::Ranges;
use super::{Exit, Fault, FaultCause, Fill, MapError, Mmu, Thread, Usage, hardware};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use virtual_isa::PAGE_SIZE;
use virtual_isa::context;
use virtual_isa::exception::Access;
use virtual_isa::instruction::InstructionError;
use virtual_isa::layout::page_of;
use virtual_isa::tlb::{Entry, Key, Right, Rights, VIRTUAL_PAGES};

/// Most ranges of pages of one kind in a space.
pub const MAX_AREAS: usize = 256;

/// Most entries that one miss loads: the page that missed, and those behind it that are there already.
pub(super) const MAX_LOAD: usize = 16;

/// Bytes of a page.
const PAGE: u64 = PAGE_SIZE as u64;

/// Where the pages of a range come from.
#[derive(Clone)]
pub enum Backing {
    /// A page of zeros of the space's own, when it is first used.
    Zero,
    /// A page of the space's own that is filled when it is first used.
    Filled(Rc<dyn Fill>),
    /// Whole pages of this program's own image, in place: nothing is copied, and nobody can write to them.
    Image(&'static [u8]),
    /// Pages that other spaces may have too.
    Shared(Rc<SharedMemory>),
}

impl fmt::Debug for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zero => "Zero",
            Self::Filled(_) => "Filled",
            Self::Image(_) => "Image",
            Self::Shared(_) => "Shared",
        })
    }
}

/// What a range of pages is.
#[derive(Clone, Debug)]
struct Area {
    rights: Rights,
    backing: Backing,
    /// The page that the backing's first byte is on.
    origin: u64,
}

impl Area {
    /// A page that needs not be made.
    fn ready_page(&self, page: u64) -> Option<NonNull<u8>> {
        let n = page.checked_sub(self.origin)?;
        match &self.backing {
            Backing::Zero | Backing::Filled(_) => None,
            Backing::Image(bytes) => {
                let at = usize::try_from(n).ok()?.checked_mul(PAGE_SIZE)?;
                bytes.get(at..at.checked_add(PAGE_SIZE)?).map(|bytes| NonNull::from_ref(bytes).cast())
            }
            Backing::Shared(memory) => memory.at(n),
        }
    }
}

/// An address space of this VM's own making. Dropped, it leaves no entry behind, and its pages go back to their pool.
///
/// ```
/// use libos::mmu::{AddressSpace, Backing, FaultCause, MAX_AREAS, Mmu, Pool, Rights, Thread};
///
/// let (mmu, pool) = (Mmu::new().unwrap(), Pool::new(8));
/// let mut space = AddressSpace::new(&mmu, &pool, 8);
/// space.map(5..9, Rights::READ | Rights::WRITE | Rights::USER, Backing::Zero)?;
/// space.write(0x5000, b"kept").unwrap();
/// space.protect(5..6, Rights::READ | Rights::USER)?;
/// space.unmap(7..9)?;
/// assert_eq!(space.read(0x7000, &mut [0]).unwrap_err().cause, FaultCause::Unmapped);
/// let usage = space.usage();
/// assert!(usage.own_pages == 1 && usage.areas == 2 && usage.areas <= MAX_AREAS);
///
/// fn run_trusted(space: &mut AddressSpace, thread: &mut Thread) {
///     // SAFETY: the thread's text is part of this program.
///     let exit = unsafe { space.enter_privileged(thread, u64::MAX) };
///     println!("{exit:?}");
/// }
/// # Ok::<(), libos::mmu::MapError>(())
/// ```
pub struct AddressSpace {
    mmu: Mmu,
    /// Who it is to the asids.
    owner: u64,
    /// The asid it had last, which may be another's by now.
    asid: u16,
    areas: Ranges<Area>,
    pages: BTreeMap<u64, Page>,
    pool: Pool,
    limit: usize,
    shared_pages: usize,
    nr_misses: u64,
    nr_fills: u64,
}

impl fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpace").field("areas", &self.areas).field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl AddressSpace {
    /// An empty one, which takes its pages from `pool`, at most `limit` of them, shared ones included.
    #[must_use]
    pub fn new(mmu: &Mmu, pool: &Pool, limit: usize) -> Self {
        let owner = mmu.0.asids.borrow_mut().new_owner();
        let (mmu, pool) = (mmu.clone(), pool.clone());
        let (areas, pages) = (Ranges::new(), BTreeMap::new());
        Self { mmu, owner, asid: 0, areas, pages, pool, limit, shared_pages: 0, nr_misses: 0, nr_fills: 0 }
    }

    /// Says what a range of pages is from now on.
    ///
    /// # Errors
    /// `BadRange` for an empty range, page 0, or pages that no space has; `BadRights` for rights that no entry can
    /// have, or to write to the image; `BadBacking` if the backing has not whole pages for all of the range;
    /// `Overlap` if some page is mapped already; `TooManyAreas`; `OverLimit` for shared pages beyond the limit.
    pub fn map(&mut self, pages: Range<u64>, rights: Rights, backing: Backing) -> Result<(), MapError> {
        let nr_pages = check_range(&pages)?;
        if !rights.is_valid() {
            return Err(MapError::BadRights);
        }
        let mut new_shared = 0;
        match &backing {
            Backing::Zero | Backing::Filled(_) => {}
            Backing::Image(_) if rights.contains(Rights::WRITE) => return Err(MapError::BadRights),
            Backing::Image(bytes) => {
                let is_aligned = bytes.as_ptr().addr().is_multiple_of(PAGE_SIZE);
                if !is_aligned || ((bytes.len() / PAGE_SIZE) as u64) < nr_pages {
                    return Err(MapError::BadBacking);
                }
            }
            Backing::Shared(memory) => {
                new_shared = usize::try_from(nr_pages).unwrap_or(usize::MAX);
                if memory.nr_pages() < new_shared {
                    return Err(MapError::BadBacking);
                }
            }
        }
        if self.areas.len() >= MAX_AREAS {
            return Err(MapError::TooManyAreas);
        }
        if self.areas.overlaps(&pages) {
            return Err(MapError::Overlap);
        }
        if new_shared > self.room() {
            return Err(MapError::OverLimit);
        }
        self.shared_pages += new_shared;
        self.areas.insert(pages.clone(), Area { rights, backing, origin: pages.start });
        Ok(())
    }

    /// Changes what a range of pages allows. What they hold stays.
    ///
    /// # Errors
    /// `BadRange`, `BadRights` and `TooManyAreas` as for `map`; `NotMapped` if some page is not mapped. Nothing has been
    /// changed then.
    pub fn protect(&mut self, pages: Range<u64>, rights: Rights) -> Result<(), MapError> {
        check_range(&pages)?;
        if !self.areas.covers(&pages) {
            return Err(MapError::NotMapped);
        }
        if !rights.is_valid() || (rights.contains(Rights::WRITE) && self.has_image(&pages)) {
            return Err(MapError::BadRights);
        }
        self.check_split()?;
        self.invalidate(&pages);
        self.areas.update(&pages, |area| area.rights = rights);
        Ok(())
    }

    /// Takes a range of pages away. Pages of the space's own, and what they held, are gone.
    ///
    /// # Errors
    /// `BadRange` and `TooManyAreas` as for `map`. Pages that are not mapped are none.
    pub fn unmap(&mut self, pages: Range<u64>) -> Result<(), MapError> {
        check_range(&pages)?;
        self.check_split()?;
        // No entry may be left when the pages go.
        self.invalidate(&pages);
        let removed = self.areas.remove(&pages);
        for (start, (end, area)) in &removed {
            if matches!(area.backing, Backing::Shared(_)) {
                self.shared_pages -= usize::try_from(end - start).unwrap_or(0);
            }
        }
        let mut freed = self.pages.split_off(&pages.start);
        let mut above = freed.split_off(&pages.end);
        self.pages.append(&mut above);
        Ok(())
    }

    /// Reads memory as a context at user right would.
    ///
    /// # Errors
    /// The fault that it would raise. What was read before it is in `bytes`.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let length = bytes.len();
        self.pieces(address, length, Access::Read, |at, done, n| {
            // SAFETY: `n` bytes from `at` on are on a page of the space, which no Rust reference points into.
            unsafe { core::ptr::copy_nonoverlapping(at.as_ptr(), bytes[done..done + n].as_mut_ptr(), n) };
        })
    }

    /// Writes memory as a context at user right would.
    ///
    /// # Errors
    /// The fault that it would raise. What comes before it is written.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.pieces(address, bytes.len(), Access::Write, |at, done, n| {
            // SAFETY: as in `read`. Writing is allowed, so that this is no page of the image.
            unsafe { core::ptr::copy_nonoverlapping(bytes[done..done + n].as_ptr(), at.as_ptr(), n) };
        })
    }

    /// Has `work` done for each page that a range of bytes is on: where it is, how many bytes came before, how many
    /// are on this page.
    fn pieces(
        &mut self,
        address: u64,
        length: usize,
        access: Access,
        mut work: impl FnMut(NonNull<u8>, usize, usize),
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < length {
            let at = address.checked_add(done as u64);
            let at = at.ok_or(Fault { address, access, cause: FaultCause::Unmapped })?;
            let page = self.resolve(at, access, Right::User)?;
            let offset = usize::try_from(at % PAGE).unwrap_or(0);
            let n = (PAGE_SIZE - offset).min(length - done);
            // SAFETY: the offset is on the page.
            work(unsafe { page.add(offset) }, done, n);
            done += n;
        }
        Ok(())
    }

    /// Runs a thread at user right in this space until it comes back. Pages that it may use and that have no entry are made and
    /// loaded on the way; of what it may not do, the exit says what that was, and the caller sees to it: it may map
    /// something and enter again.
    ///
    /// Interrupts that are enabled, and the deadline, in nanoseconds of the machine's clock, end it too. While
    /// something enabled is pending it ends at once: let the runtime look at it by `task::yield_now().await`.
    ///
    /// # Errors
    /// `BadArgument` for registers that cannot be entered.
    pub fn enter(&mut self, thread: &mut Thread, deadline_ns: u64) -> Result<Exit, InstructionError> {
        self.run(thread, Right::User, deadline_ns)
    }

    /// The same at kernel right: the thread may use all pages of the space, and its virtual instructions are performed.
    ///
    /// # Errors
    /// As [`AddressSpace::enter`].
    ///
    /// # Safety
    /// Virtual instructions name physical memory, which is all of this program's. The thread must be trusted as this
    /// program is.
    pub unsafe fn enter_privileged(&mut self, thread: &mut Thread, deadline_ns: u64) -> Result<Exit, InstructionError> {
        self.run(thread, Right::Kernel, deadline_ns)
    }

    fn run(&mut self, thread: &mut Thread, right: Right, deadline_ns: u64) -> Result<Exit, InstructionError> {
        loop {
            // In the loop: whoever filled a page may have entered other spaces, which may have taken the asid.
            let asid = self.assign();
            let (address, access) = match hardware::enter(asid, right, deadline_ns, thread)? {
                context::Exit::Interrupt => return Ok(Exit::Interrupt),
                context::Exit::Instruction => return Ok(Exit::Instruction),
                context::Exit::Exception { exception, code } => return Ok(Exit::Exception { exception, code }),
                context::Exit::Miss { address, access } | context::Exit::Protection { address, access } => {
                    (address, access)
                }
            };
            self.nr_misses += 1;
            match self.resolve(address, access, right) {
                Ok(_) => self.load(page_of(address))?,
                Err(fault) => return Ok(Exit::Fault(fault)),
            }
        }
    }

    /// What it uses.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            own_pages: self.pages.len(),
            shared_pages: self.shared_pages,
            limit_pages: self.limit,
            areas: self.areas.len(),
            misses: self.nr_misses,
            fills: self.nr_fills,
        }
    }

    /// Pages that it may still get.
    fn room(&self) -> usize {
        self.limit.saturating_sub(self.pages.len() + self.shared_pages)
    }

    /// Cutting a range out of others makes at most two more of them.
    fn check_split(&self) -> Result<(), MapError> {
        if self.areas.len() + 2 > MAX_AREAS { Err(MapError::TooManyAreas) } else { Ok(()) }
    }

    fn has_image(&self, pages: &Range<u64>) -> bool {
        let mut at = pages.start;
        while let Some((found, area)) = self.areas.get(at).filter(|_| at < pages.end) {
            if matches!(area.backing, Backing::Image(_)) {
                return true;
            }
            at = found.end;
        }
        false
    }

    /// Finds the page that an access is to, and makes it if it is not there yet.
    fn resolve(&mut self, address: u64, access: Access, right: Right) -> Result<NonNull<u8>, Fault> {
        let fault = |cause| Fault { address, access, cause };
        let page = page_of(address);
        let (_, area) = self.areas.get(page).ok_or(fault(FaultCause::Unmapped))?;
        let is_visible = right == Right::Kernel || area.rights.contains(Rights::USER);
        if !area.rights.allow(access) || !is_visible {
            return Err(fault(FaultCause::Protection));
        }
        if let Some(at) = area.ready_page(page).or_else(|| self.pages.get(&page).map(Page::at)) {
            return Ok(at);
        }
        if self.room() == 0 {
            return Err(fault(FaultCause::Limit));
        }
        let mut new = self.pool.try_page().ok_or(fault(FaultCause::NoMemory))?;
        if let Backing::Filled(fill) = &area.backing {
            fill.fill(page, new.bytes()).map_err(|_| fault(FaultCause::NotFilled))?;
        }
        self.nr_fills += 1;
        let at = new.at();
        self.pages.insert(page, new);
        Ok(at)
    }

    /// Loads the entry of a page, and of those behind it in the same range that are there.
    fn load(&mut self, page: u64) -> Result<(), InstructionError> {
        if !self.mmu.0.asids.borrow().has(self.owner, self.asid) {
            return Ok(());
        }
        let Some((range, area)) = self.areas.get(page) else { return Ok(()) };
        let mut entries = [None; MAX_LOAD];
        for (slot, page) in entries.iter_mut().zip(page..range.end) {
            let Some(at) = area.ready_page(page).or_else(|| self.pages.get(&page).map(Page::at)) else { break };
            let Some(key) = self.key(page) else { break };
            *slot = Some(Entry { key, physical: hardware::physical_page(at), rights: area.rights });
        }
        let Some(first) = entries[0] else { return Ok(()) };
        let nr_entries = entries.iter().flatten().count();
        let entries = entries.map(|entry| entry.unwrap_or(first));
        // SAFETY: what contexts may write are pages of a pool, into which Rust references point only while somebody
        // works on a page that is not yet mapped, or within a call that does not enter. Pages of the image are never
        // to be written.
        unsafe { hardware::load(&entries[..nr_entries]) }
    }

    fn key(&self, page: u64) -> Option<Key> {
        Some(Key { asid: self.asid, page: u32::try_from(page).ok()? })
    }

    /// The asid it runs under, which it gets now if it has none.
    fn assign(&mut self) -> u16 {
        let mut asids = self.mmu.0.asids.borrow_mut();
        if !asids.has(self.owner, self.asid) {
            let assigned = asids.assign(self.owner);
            self.asid = assigned.asid;
            if assigned.is_robbed {
                hardware::invalidate(Key { asid: assigned.asid, page: 0 }, VIRTUAL_PAGES);
            }
        }
        self.asid
    }

    /// Drops the entries of a range of pages, if there can be any.
    fn invalidate(&self, pages: &Range<u64>) {
        if self.mmu.0.asids.borrow().has(self.owner, self.asid)
            && let Some(key) = self.key(pages.start)
        {
            hardware::invalidate(key, pages.end - pages.start);
        }
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        // Before its pages go, and before another space gets the asid.
        if self.mmu.0.asids.borrow_mut().release(self.owner, self.asid) {
            hardware::invalidate(Key { asid: self.asid, page: 0 }, VIRTUAL_PAGES);
        }
    }
}

/// How many pages a range has.
fn check_range(pages: &Range<u64>) -> Result<u64, MapError> {
    if pages.start == 0 || pages.start >= pages.end || pages.end > VIRTUAL_PAGES {
        return Err(MapError::BadRange);
    }
    Ok(pages.end - pages.start)
}
