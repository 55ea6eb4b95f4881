//! The kernel's heap.
//!
//! It begins in the direct map, in runs of memory that no guest has had, so that devices can be given what lies
//! there. Once guests have taken the rest of the machine there are no such runs: then the heap goes on in a window of
//! its own, where single pages that guests gave back lie side by side.

use crate::layout::{HEAP_BASE, HEAP_LIMIT, PAGE, direct};
use crate::{paging, ram};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use spin::Mutex;
use talc::TalcLock;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;

/// The heap takes memory from the pool in runs of at least this many pages (1 MiB).
const STEP_PAGES: u64 = 256;

/// The window grows by at least this many pages.
const WINDOW_STEP_PAGES: u64 = 16;

/// Pages that wait to become part of the window, linked through their first words.
struct Stock {
    /// Physical address of the first; 0 for none.
    first: u64,
    count: u64,
}

static STOCK: Mutex<Stock> = Mutex::new(Stock { first: 0, count: 0 });

/// Bytes of the window that are mapped.
static WINDOW_BYTES: AtomicU64 = AtomicU64::new(0);

/// Where the allocator's part of the window ends.
static WINDOW_END: AtomicPtr<u8> = AtomicPtr::new(null_mut());

/// Adds a page to what the heap can grow by. Nobody else has it.
pub fn stock(page: u64) {
    let mut stock = STOCK.lock();
    // SAFETY: the page is in the direct map and the stock's own from here on.
    unsafe { direct(page).cast::<u64>().write(stock.first) };
    stock.first = page;
    stock.count += 1;
}

/// Takes a page out of the stock or, if that is empty, one that nobody has had. It holds anything.
pub fn take_page() -> Option<u64> {
    let mut stock = STOCK.lock();
    let page = stock.first;
    if page == 0 {
        return ram::take_for_heap(1).map(|range| range.start);
    }
    // SAFETY: the stock's pages begin with the link.
    stock.first = unsafe { direct(page).cast::<u64>().read() };
    stock.count -= 1;
    Some(page)
}

/// Gives the heap in the direct map the next memory below what it has.
#[derive(Debug)]
struct Runs;

fn wanted_pages(layout: Layout) -> Result<u64, ()> {
    // Room for the allocation at any alignment, and for the allocator's own marks.
    let bytes = layout.size().checked_add(layout.align()).and_then(|n| n.checked_add(PAGE as usize)).ok_or(())?;
    Ok((bytes as u64).div_ceil(PAGE))
}

// SAFETY: `acquire` claims memory that has just left the pool, and touches no allocator but the one it is given.
unsafe impl Source for Runs {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let range = ram::take_for_heap(wanted_pages(layout)?.max(STEP_PAGES)).ok_or(())?;
        // SAFETY: the range is in the direct map, and nobody else's from here on.
        unsafe { talc.claim(direct(range.start), (range.end - range.start) as usize) }.map(|_| ()).ok_or(())
    }
}

/// Lengthens the window by single pages.
#[derive(Debug)]
struct Window;

// SAFETY: `acquire` claims addresses that it has just mapped to pages that nobody else has, always behind those it claimed
// before, under the allocator's lock; it touches no allocator but the one it is given.
unsafe impl Source for Window {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let wanted = wanted_pages(layout)?.max(WINDOW_STEP_PAGES);
        let before = WINDOW_BYTES.load(Ordering::Relaxed);
        let mut bytes = before;
        // Page tables take pages as well: one for 512 pages, and those above it.
        if room() < (wanted + wanted / 512 + 4) * PAGE || before + wanted * PAGE > HEAP_LIMIT {
            return Err(());
        }
        for _ in 0..wanted {
            let Some(page) = take_page() else { break };
            if paging::map_heap(HEAP_BASE + bytes, page).is_err() {
                stock(page);
                break;
            }
            bytes += PAGE;
        }
        WINDOW_BYTES.store(bytes, Ordering::Relaxed);
        if bytes == before {
            return Err(());
        }
        let new_end = (HEAP_BASE + bytes) as *mut u8;
        // SAFETY: everything below `new_end` in the window is mapped, and nobody else's.
        let end = unsafe {
            match NonNull::new(WINDOW_END.load(Ordering::Relaxed)) {
                Some(end) => talc.extend(end, new_end),
                None => talc.claim(HEAP_BASE as *mut u8, bytes as usize).ok_or(())?,
            }
        };
        WINDOW_END.store(end.as_ptr(), Ordering::Relaxed);
        Ok(())
    }
}

/// The allocator: the direct map first, then the window.
struct Heap {
    runs: TalcLock<Mutex<()>, Runs>,
    window: TalcLock<Mutex<()>, Window>,
}

#[global_allocator]
static HEAP: Heap = Heap { runs: TalcLock::new(Runs), window: TalcLock::new(Window) };

/// Whether something lies in the window, where devices must not be sent.
pub fn is_in_window(pointer: *const u8) -> bool {
    (HEAP_BASE..HEAP_BASE + HEAP_LIMIT).contains(&(pointer as u64))
}

// SAFETY: every block goes back to the allocator it came from, which its address tells.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as promised by the caller.
        unsafe {
            let block = self.runs.alloc(layout);
            if block.is_null() { self.window.alloc(layout) } else { block }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe {
            if is_in_window(block) { self.window.dealloc(block, layout) } else { self.runs.dealloc(block, layout) }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as promised by the caller; a block that could not grow is whole, and copied to its new place.
        unsafe {
            if is_in_window(block) {
                return self.window.realloc(block, layout, new_size);
            }
            let moved = self.runs.realloc(block, layout, new_size);
            if !moved.is_null() {
                return moved;
            }
            let moved = self.window.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, layout.size().min(new_size));
                self.runs.dealloc(block, layout);
            }
            moved
        }
    }
}

/// Bytes of the heap that are in use.
pub fn used_bytes() -> u64 {
    let (runs, window) = (HEAP.runs.lock().counters().allocated_bytes, HEAP.window.lock().counters().allocated_bytes);
    runs as u64 + window as u64
}

/// Bytes the heap can grow by. What it has and does not use may be too scattered to count.
#[inline]
pub fn room() -> u64 {
    (ram::remaining() + STOCK.lock().count) * PAGE
}

/// Bytes in use, taken, and to grow by, unless the heap is being changed: for reports when nothing else can be done.
pub fn figures() -> Option<(u64, u64, u64)> {
    let (runs, window, stock) = (HEAP.runs.try_lock()?, HEAP.window.try_lock()?, STOCK.try_lock()?);
    let used = runs.counters().allocated_bytes + window.counters().allocated_bytes;
    let claimed = runs.counters().claimed_bytes as u64 + WINDOW_BYTES.load(Ordering::Relaxed);
    Some((used as u64, claimed, (ram::remaining() + stock.count) * PAGE))
}

/// Pages the heap has taken from memory so far, its stock included.
pub fn taken_pages() -> u64 {
    claimed_bytes().div_ceil(PAGE) + STOCK.lock().count
}

/// Bytes the heap has taken from memory so far.
pub fn claimed_bytes() -> u64 {
    HEAP.runs.lock().counters().claimed_bytes as u64 + WINDOW_BYTES.load(Ordering::Relaxed)
}
