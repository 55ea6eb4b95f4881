//! Machine pages: taken, given back, read and written through the direct map.
//!
//! Three places hold free pages: the run that was last taken from the pool of the machine, the list of pages that
//! were given back (linked through the pages themselves), and whole spaces' tables, which are given back in one
//! step however many they are.

use crate::layout::{DIRECT_LIMIT, PAGE, direct};
use crate::memory_map::Range;
use crate::{copy, ram};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use hal::{Mpn, PAGE_SIZE, Page};

/// Pages that are taken from the pool at a time (1 MiB).
const RUN_PAGES: u64 = 256;

/// The end of the list: no page has this number.
const NONE: u32 = u32::MAX;

/// The free pages of this core.
pub struct Frames {
    first_free: u32,
    nr_free: u64,
    run: Range,
    retired: Vec<Vec<Page>>,
    nr_retired: u64,
    #[cfg(debug_assertions)]
    in_use: Vec<u64>,
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
        Self {
            first_free: NONE,
            nr_free: 0,
            run: Range { start: 0, end: 0 },
            retired: Vec::new(),
            nr_retired: 0,
            #[cfg(debug_assertions)]
            in_use: Vec::new(),
        }
    }

    /// Takes a page that holds anything.
    #[inline]
    fn take(&mut self) -> Option<Page> {
        if self.first_free != NONE {
            let page = Mpn(self.first_free);
            // SAFETY: a page on the list belongs to the list, and its first word is the link.
            self.first_free = unsafe { address(page).cast::<u32>().read() };
            self.nr_free -= 1;
            return Some(Page::new(page));
        }
        self.take_slowly()
    }

    #[cold]
    fn take_slowly(&mut self) -> Option<Page> {
        if let Some(pages) = self.retired.last_mut() {
            let page = pages.pop();
            if pages.is_empty() {
                self.retired.pop();
            }
            if page.is_some() {
                self.nr_retired -= 1;
                return page;
            }
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
        self.note_taken(page.mpn());
        Some(page)
    }

    /// Gives a page back.
    #[inline]
    pub fn release(&mut self, page: Page) {
        let page = page.mpn();
        self.note_released(page);
        // SAFETY: the token was the page's only owner, and is gone: the page belongs to the list now.
        unsafe { address(page).cast::<u32>().write(self.first_free) };
        self.first_free = page.0;
        self.nr_free += 1;
    }

    /// Lets a page go for good: it is in no list afterwards.
    pub fn give_away(&mut self, page: Page) -> Mpn {
        let page = page.mpn();
        self.note_released(page);
        page
    }

    /// Gives many pages back in one step.
    pub fn retire(&mut self, mut pages: Vec<Page>) {
        if pages.len() <= 8 || self.retired.try_reserve(1).is_err() {
            for page in pages.drain(..) {
                self.release(page);
            }
            return;
        }
        for page in &pages {
            self.note_released(page.mpn());
        }
        self.nr_retired += pages.len() as u64;
        self.retired.push(pages);
    }

    /// Free pages, here and in the machine's pool.
    pub fn free_pages(&self) -> u64 {
        self.nr_free + self.nr_retired + self.run.pages() + ram::remaining_pages()
    }

    #[cfg(debug_assertions)]
    fn mark(&mut self, page: Mpn, is_taken: bool) {
        let (word, bit) = (page.0 as usize / 64, page.0 % 64);
        if self.in_use.len() <= word {
            self.in_use.resize(word + 1, 0);
        }
        let was_taken = self.in_use[word] >> bit & 1 == 1;
        assert_ne!(
            was_taken,
            is_taken,
            "page {:#x} is {}",
            page.0,
            if is_taken { "given out twice" } else { "released twice" }
        );
        self.in_use[word] ^= 1 << bit;
    }

    #[inline(always)]
    fn note_taken(&mut self, page: Mpn) {
        #[cfg(debug_assertions)]
        self.mark(page, true);
        let _ = page;
    }

    #[inline(always)]
    fn note_released(&mut self, page: Mpn) {
        #[cfg(debug_assertions)]
        self.mark(page, false);
        let _ = page;
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
