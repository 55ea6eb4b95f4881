//! The machine's memory before it has an owner: one pool for all cores.

use crate::memory_map::{MemoryMap, Range};
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

static POOL: Mutex<MemoryMap> = Mutex::new(MemoryMap::new());
static TOTAL: AtomicU64 = AtomicU64::new(0);
static REMAINING: AtomicU64 = AtomicU64::new(0);
static HEAP_PAGES: AtomicU64 = AtomicU64::new(0);

/// The part of memory that is kept for the kernel's heap (one page of so many): guests that take every page they
/// can get must not leave the kernel without memory that devices can be given. The heap may take more while there is
/// more.
const HEAP_PART: u64 = 32;

/// Says what memory there is. All of it must be in the direct map before it is used.
pub fn start(map: MemoryMap) {
    let pages = map.pages();
    *POOL.lock() = map;
    TOTAL.store(pages, Ordering::Relaxed);
    REMAINING.store(pages, Ordering::Relaxed);
}

/// Pages there were at the start.
pub fn total_pages() -> u64 {
    TOTAL.load(Ordering::Relaxed)
}

/// Pages that guests may still have: those nobody has taken, without what is kept for the heap.
pub fn remaining_pages() -> u64 {
    for_guests(remaining())
}

/// Pages of these that only the heap can take.
pub fn kept_pages() -> u64 {
    let remaining = remaining();
    remaining - for_guests(remaining)
}

/// Of so many pages that nobody has taken, those that guests may have. The number is an argument because another
/// processor may take pages between two looks at it.
fn for_guests(remaining: u64) -> u64 {
    let kept = (total_pages() / HEAP_PART).saturating_sub(HEAP_PAGES.load(Ordering::Relaxed));
    remaining.saturating_sub(kept)
}

/// Counts what was taken. The pool's lock is held meanwhile (a temporary lives to the end of its statement).
fn note(range: Option<Range>) -> Option<Range> {
    if let Some(range) = range {
        REMAINING.fetch_sub(range.pages(), Ordering::Relaxed);
    }
    range
}

/// Takes up to so many contiguous pages for guests. They hold anything.
pub fn take_for_guests(pages: u64) -> Option<Range> {
    // Under the lock, which all who take hold: two processors must not both take the last that is not kept.
    let mut pool = POOL.lock();
    match remaining_pages().min(pages) {
        0 => None,
        pages => note(pool.take_low(pages)),
    }
}

/// Takes up to so many contiguous pages from the bottom of memory. They hold anything.
pub fn take_low(pages: u64) -> Option<Range> {
    note(POOL.lock().take_low(pages))
}

/// Takes that many contiguous pages from the top of memory. They hold anything.
pub fn take_high(pages: u64) -> Option<Range> {
    note(POOL.lock().take_high(pages))
}

/// Takes that many contiguous pages for the kernel's heap. They hold anything.
pub fn take_for_heap(pages: u64) -> Option<Range> {
    let mut pool = POOL.lock();
    let range = note(pool.take_high(pages))?;
    HEAP_PAGES.fetch_add(range.pages(), Ordering::Relaxed);
    Some(range)
}

/// Pages that nobody has taken, those kept for the heap included.
pub fn remaining() -> u64 {
    REMAINING.load(Ordering::Relaxed)
}
