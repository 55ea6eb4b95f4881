//! The machine's memory before it has an owner: one pool for all cores, and the kernel's heap on top of it.

use crate::layout::{PAGE, direct};
use crate::memory_map::{MemoryMap, Range};
use core::alloc::Layout;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;

static POOL: Mutex<MemoryMap> = Mutex::new(MemoryMap::new());
static TOTAL: AtomicU64 = AtomicU64::new(0);
static REMAINING: AtomicU64 = AtomicU64::new(0);
static HEAP_PAGES: AtomicU64 = AtomicU64::new(0);

/// The part of memory that is kept for the kernel's heap (one page of so many): guests that take every page they
/// can get must not leave the kernel without. The heap may take more while there is more.
const HEAP_PART: u64 = 32;

/// The kernel's heap takes memory in runs of at least this many pages (1 MiB).
const HEAP_STEP_PAGES: u64 = 256;

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
    let kept = (total_pages() / HEAP_PART).saturating_sub(HEAP_PAGES.load(Ordering::Relaxed));
    REMAINING.load(Ordering::Relaxed).saturating_sub(kept)
}

fn note(range: Option<Range>) -> Option<Range> {
    if let Some(range) = range {
        REMAINING.fetch_sub(range.pages(), Ordering::Relaxed);
    }
    range
}

/// Takes up to so many contiguous pages for guests. They hold anything.
pub fn take_for_guests(pages: u64) -> Option<Range> {
    match remaining_pages().min(pages) {
        0 => None,
        pages => take_low(pages),
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

/// Gives the heap the next memory below what it has.
#[derive(Debug)]
struct Growth;

// SAFETY: `acquire` claims memory that has just left the pool, and touches no allocator but the one it is given.
unsafe impl Source for Growth {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        // Room for the allocation at any alignment, and for the allocator's own marks.
        let wanted = layout.size().checked_add(layout.align()).and_then(|n| n.checked_add(PAGE as usize)).ok_or(())?;
        let pages = (wanted as u64).div_ceil(PAGE).max(HEAP_STEP_PAGES);
        let range = take_high(pages).ok_or(())?;
        HEAP_PAGES.fetch_add(range.pages(), Ordering::Relaxed);
        // SAFETY: the range is in the direct map, and nobody else's from here on.
        unsafe { talc.claim(direct(range.start), (range.end - range.start) as usize) }.map(|_| ()).ok_or(())
    }
}

#[global_allocator]
static HEAP: talc::TalcLock<spin::Mutex<()>, Growth> = talc::TalcLock::new(Growth);

/// Bytes of the kernel's heap that are in use.
pub fn heap_bytes() -> u64 {
    HEAP.lock().counters().allocated_bytes as u64
}

/// Bytes the heap can still hand out: what it has taken and not used, and what it can take.
pub fn heap_room() -> u64 {
    let heap = HEAP.lock();
    let counters = heap.counters();
    let unused = counters.claimed_bytes.saturating_sub(counters.allocated_bytes) as u64;
    REMAINING.load(Ordering::Relaxed) * PAGE + unused
}

/// Bytes the kernel's heap has taken from memory so far.
pub fn heap_claimed_bytes() -> u64 {
    HEAP.lock().counters().claimed_bytes as u64
}
