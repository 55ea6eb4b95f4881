//! Machine pages: taken, given back, read and written through the direct map.
//!
//! Free pages are in the caches of the processors or in the pool that they share (`common`). A cache is a list of
//! pages that were given back (linked through the pages themselves), a full batch beside it, and a run of pages that
//! nobody has had. It goes to the pool once for each [`BATCH`] pages, not more often.

use crate::common::{self, BATCH};
use crate::layout::{DIRECT_LIMIT, PAGE, direct};
use crate::memory_map::Range;
use crate::{copy, ram};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use hal::{Mpn, PAGE_SIZE, Page};

/// Pages that are taken from what nobody has had at a time (1 MiB).
const RUN_PAGES: u64 = 256;

/// Most free pages that one processor keeps to itself.
pub const CACHE_PAGES: u64 = 2 * BATCH + RUN_PAGES;

/// The end of a list: no page has this number.
pub const NONE: u32 = u32::MAX;

/// Pages that are free, linked through their first words.
#[derive(Clone, Copy)]
pub struct Chain {
    /// The first; [`NONE`] if there is none.
    pub first: u32,
    /// How many.
    pub count: u64,
}

impl Chain {
    /// Of no pages.
    pub const EMPTY: Self = Self { first: NONE, count: 0 };
}

/// The free pages of a processor.
pub struct Frames {
    /// What is taken from and given back to.
    free: Chain,
    /// A full batch, or nothing: so that a processor that takes and gives a few by turns never goes to the pool.
    spare: Chain,
    run: Range,
}

/// Where a page is in the direct map.
///
/// A token or number always names a page that came out of the pool, and those are all mapped.
#[inline(always)]
pub fn address(page: Mpn) -> *mut u8 {
    direct(u64::from(page.0) * PAGE)
}

impl Frames {
    /// No free page but those in the machine's pool.
    pub const fn new() -> Self {
        Self { free: Chain::EMPTY, spare: Chain::EMPTY, run: Range { start: 0, end: 0 } }
    }

    /// Takes a page that holds anything.
    #[inline]
    fn take(&mut self) -> Option<Page> {
        if self.free.first != NONE {
            let page = Mpn(self.free.first);
            // SAFETY: a page on the list belongs to the list, and its first word is the link.
            self.free.first = unsafe { address(page).cast::<u32>().read() };
            self.free.count -= 1;
            return Some(Page::new(page));
        }
        self.take_slowly()
    }

    #[cold]
    fn take_slowly(&mut self) -> Option<Page> {
        self.free = core::mem::replace(&mut self.spare, Chain::EMPTY);
        if self.free.first == NONE {
            self.free = common::take_chain();
        }
        if self.free.first != NONE {
            return self.take();
        }
        // What was used before what nobody has had: it may still be in the processor's caches, and in the emulator's.
        self.free = common::take_retired();
        if self.free.first != NONE {
            return self.take();
        }
        if self.run.start == self.run.end {
            self.run = ram::take_for_guests(RUN_PAGES)?;
        }
        let number = u32::try_from(self.run.start / PAGE).ok().filter(|n| *n != NONE)?;
        self.run.start += PAGE;
        Some(Page::new(Mpn(number)))
    }

    /// Takes a page, all zero.
    #[inline]
    pub fn allocate(&mut self) -> Option<Page> {
        let page = self.take()?;
        // SAFETY: the page is nobody's but the caller's from here on.
        unsafe { copy::zero_page(address(page.mpn())) };
        common::note_taken(page.mpn());
        Some(page)
    }

    /// Gives a page back.
    #[inline]
    pub fn release(&mut self, page: Page) {
        let page = page.mpn();
        common::note_released(page);
        // Before it grows: a page that is taken and given by turns then never moves a batch.
        if self.free.count == BATCH {
            self.put_batch_away();
        }
        // SAFETY: the token was the page's only owner, and is gone: the page belongs to the list now.
        unsafe { address(page).cast::<u32>().write(self.free.first) };
        self.free.first = page.0;
        self.free.count += 1;
    }

    #[cold]
    fn put_batch_away(&mut self) {
        let full = core::mem::replace(&mut self.free, Chain::EMPTY);
        let before = core::mem::replace(&mut self.spare, full);
        if before.first != NONE {
            common::give_chain(before);
        }
    }

    /// Lets a page go for good: it is in no list afterwards.
    pub fn give_away(&mut self, page: Page) -> Mpn {
        let page = page.mpn();
        common::note_released(page);
        page
    }

    /// Gives many pages back in one step.
    pub fn retire(&mut self, pages: Vec<Page>) {
        let mut pages = if pages.len() <= 8 {
            pages
        } else {
            let Err(pages) = common::retire(pages) else { return };
            pages
        };
        for page in pages.drain(..) {
            self.release(page);
        }
    }

    /// Free pages, here and in the machine's pool. What other processors keep is not among them.
    pub fn free_pages(&self) -> u64 {
        self.kept_here() + common::free_pages() + ram::remaining_pages()
    }

    /// Free pages that only this processor can take: [`CACHE_PAGES`] at most.
    pub const fn kept_here(&self) -> u64 {
        self.free.count + self.spare.count + (self.run.end - self.run.start) / PAGE
    }
}

#[inline(always)]
#[track_caller]
fn check(page: Mpn, offset: usize, bytes: usize) {
    assert!(offset <= PAGE_SIZE && bytes <= PAGE_SIZE - offset, "an access leaves its page");
    debug_assert!(u64::from(page.0) * PAGE < DIRECT_LIMIT);
}

/// Copies bytes out of a page.
#[inline]
#[track_caller]
pub fn read(page: Mpn, offset: usize, into: &mut [u8]) {
    check(page, offset, into.len());
    // SAFETY: within the page, which is mapped; `into` is the kernel's own memory, so the two are apart.
    unsafe { copy::copy(address(page).add(offset), into.as_mut_ptr(), into.len()) };
}

/// Copies bytes into a page.
#[inline]
#[track_caller]
pub fn write(page: Mpn, offset: usize, from: &[u8]) {
    check(page, offset, from.len());
    // SAFETY: as in `read`.
    unsafe { copy::copy(from.as_ptr(), address(page).add(offset), from.len()) };
}

/// Copies a whole page to another.
#[inline]
pub fn copy_page(from: Mpn, to: Mpn) {
    if from != to {
        // SAFETY: two different pages, both mapped.
        unsafe { copy::copy(address(from), address(to), PAGE_SIZE) };
    }
}

/// A word in a page that others may use at the same time.
#[inline(always)]
#[track_caller]
pub fn word<'a>(page: Mpn, offset: usize) -> &'a AtomicU32 {
    check(page, offset, 4);
    assert!(offset.is_multiple_of(4), "a word that is not aligned");
    // SAFETY: mapped and aligned; whoever else touches the word meanwhile is a guest, whose accesses are the
    // processor's, and for those an atomic access is defined.
    unsafe { AtomicU32::from_ptr(address(page).add(offset).cast()) }
}

/// Loads a word (acquire).
#[inline]
#[track_caller]
pub fn load(page: Mpn, offset: usize) -> u32 {
    word(page, offset).load(Ordering::Acquire)
}
