//! The global allocator: from the end of the image to the end of memory.

use super::{instruction, registers};
use crate::heap::{Compact, Growing};
use core::alloc::{GlobalAlloc, Layout};
use talc::cell::TalcCell;
use virtual_isa::PAGE_SIZE;

unsafe extern "C" {
    static __heap_start: u8;
}

/// The heap of the one thread there is. (`talc` has such a type, but it does not show its counters.)
struct Heap(TalcCell<Growing, Compact>);

// SAFETY: there is one thread, and nothing interrupts it: no two calls are at work at a time.
unsafe impl Sync for Heap {}

// SAFETY: `talc` keeps the contract.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises; the same below.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.0.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { self.0.realloc(memory, layout, new_size) }
    }
}

#[global_allocator]
static HEAP: Heap = Heap(TalcCell::new(talc_source()));

const fn talc_source() -> Growing {
    // SAFETY: nobody but the allocator uses memory from `__heap_start` on, all of which is this VM's and reads as
    // zero after it is discarded.
    unsafe { Growing::new(range, give_back) }
}

fn range() -> (*mut u8, *mut u8) {
    let start = (&raw const __heap_start).cast_mut();
    let end = registers::registers().memory_pages as usize * PAGE_SIZE;
    (start, start.with_addr(end.max(start.addr())))
}

fn give_back(from: *mut u8, bytes: usize) {
    let start = from.addr() as u64;
    // SAFETY: the allocator has nothing there. What cannot be given back stays.
    let _ = unsafe { instruction::discard(start..start + bytes as u64) };
}

/// Bytes between the heap's start and the end of memory.
pub(crate) fn heap_size() -> usize {
    let (start, end) = range();
    end.addr() - start.addr()
}

/// Bytes of it that nobody has.
pub(crate) fn heap_left() -> usize {
    let counters = HEAP.0.counters();
    heap_size().saturating_sub(counters.claimed_bytes).saturating_add(counters.available_bytes)
}
