//! The free pages that all processors share: what their caches gave back, and whole sets of tables.
//!
//! Pages come and go in batches, as chains linked through the pages themselves: whoever holds the lock reads or
//! writes a few words, however many pages that are.

use crate::frames::{Chain, NONE, address};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use hal::{Mpn, Page};
use spin::Mutex;

/// Pages in a chain.
pub const BATCH: u64 = 128;

/// Sets of tables that wait to be used again. When there are more, their pages are given back one by one.
const MAX_SETS: usize = 64;

/// Chains, each of [`BATCH`] pages. The second word of a chain's first page is the first page of the next chain.
struct Chains {
    first: u32,
}

static CHAINS: Mutex<Chains> = Mutex::new(Chains { first: NONE });

/// Sets of pages that nobody uses. None is empty but those behind `count`.
struct Retired {
    sets: [Vec<Page>; MAX_SETS],
    count: usize,
}

static RETIRED: Mutex<Retired> = Mutex::new(Retired { sets: [const { Vec::new() }; MAX_SETS], count: 0 });

/// Pages in all of these. A figure, and not what decides whether there is one: it may be behind.
static FREE: AtomicU64 = AtomicU64::new(0);

/// Pages that any processor can take here.
pub fn free_pages() -> u64 {
    FREE.load(Ordering::Relaxed)
}

/// Where the first page of a chain has the next chain.
fn next_of(first: u32) -> *mut u32 {
    address(Mpn(first)).cast::<u32>().wrapping_add(1)
}

/// Gives a chain of [`BATCH`] pages to whoever needs it. The lock makes the links in its pages, which this processor
/// has written, seen by the one that takes it.
pub fn give_chain(chain: Chain) {
    debug_assert!(chain.count == BATCH && chain.first != NONE);
    let mut chains = CHAINS.lock();
    // SAFETY: the chain's pages were the giver's, and are the pool's from here on; each is in the direct map.
    unsafe { next_of(chain.first).write(chains.first) };
    chains.first = chain.first;
    FREE.fetch_add(chain.count, Ordering::Relaxed);
}

/// Takes a chain; an empty one if there is none.
pub fn take_chain() -> Chain {
    let mut chains = CHAINS.lock();
    let first = chains.first;
    if first == NONE {
        return Chain::EMPTY;
    }
    // SAFETY: the page is the pool's, and begins with what `give_chain` wrote.
    chains.first = unsafe { next_of(first).read() };
    FREE.fetch_sub(BATCH, Ordering::Relaxed);
    Chain { first, count: BATCH }
}

/// Keeps a set of pages, in one step however many they are.
///
/// # Errors
/// With the pages, if there are too many sets already.
pub fn retire(pages: Vec<Page>) -> Result<(), Vec<Page>> {
    let mut retired = RETIRED.lock();
    let place = retired.count;
    let Some(slot) = retired.sets.get_mut(place) else { return Err(pages) };
    for page in &pages {
        note_released(page.mpn());
    }
    FREE.fetch_add(pages.len() as u64, Ordering::Relaxed);
    *slot = pages;
    retired.count += 1;
    Ok(())
}

/// Takes up to [`BATCH`] pages of the sets, as a chain; an empty one if there are no sets.
pub fn take_retired() -> Chain {
    let mut taken = [NONE; BATCH as usize];
    let mut emptied = Vec::new();
    {
        let mut retired = RETIRED.lock();
        let Some(last) = retired.count.checked_sub(1) else { return Chain::EMPTY };
        let Some(pages) = retired.sets.get_mut(last) else { return Chain::EMPTY };
        for slot in &mut taken {
            let Some(page) = pages.pop() else { break };
            *slot = page.mpn().0;
        }
        if pages.is_empty() {
            emptied = core::mem::take(pages);
            retired.count = last;
        }
    }
    // Outside the lock: the list goes back to the heap, and each page is touched.
    drop(emptied);
    let mut chain = Chain::EMPTY;
    for number in taken.into_iter().filter(|number| *number != NONE) {
        // SAFETY: the page's token has just been taken out of a set: it is the chain's.
        unsafe { address(Mpn(number)).cast::<u32>().write(chain.first) };
        chain = Chain { first: number, count: chain.count + 1 };
    }
    FREE.fetch_sub(chain.count, Ordering::Relaxed);
    chain
}

/// Which pages are in use, in builds with assertions: no page is given out or given back twice.
#[cfg(debug_assertions)]
static IN_USE: Mutex<Vec<u64>> = Mutex::new(Vec::new());

#[cfg(debug_assertions)]
fn mark(page: Mpn, is_taken: bool) {
    let (word, bit) = (page.0 as usize / 64, page.0 % 64);
    let mut in_use = IN_USE.lock();
    if in_use.len() <= word {
        in_use.resize(word + 1, 0);
    }
    let was_taken = in_use[word] >> bit & 1 == 1;
    let what = if is_taken { "given out twice" } else { "released twice" };
    assert_ne!(was_taken, is_taken, "page {:#x} is {what}", page.0);
    in_use[word] ^= 1 << bit;
}

/// Notes that a page has an owner.
#[inline(always)]
pub fn note_taken(page: Mpn) {
    #[cfg(debug_assertions)]
    mark(page, true);
    let _ = page;
}

/// Notes that it has none.
#[inline(always)]
pub fn note_released(page: Mpn) {
    #[cfg(debug_assertions)]
    mark(page, false);
    let _ = page;
}
