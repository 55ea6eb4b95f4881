//! The global allocator: from the end of the image to the end of memory.

use super::{instruction, registers};
use crate::heap::Heap;
use core::alloc::{GlobalAlloc, Layout};
use virtual_isa::PAGE_SIZE;

unsafe extern "C" {
    static __heap_start: u8;
}

/// The heap of the one thread there is.
struct Only(Heap);

// SAFETY: there is one thread, and nothing interrupts it: no two calls are at work at a time.
unsafe impl Sync for Only {}

// SAFETY: the heap keeps the contract.
unsafe impl GlobalAlloc for Only {
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

// SAFETY: nobody but the allocator uses memory from `__heap_start` on, all of which is this VM's and reads as zero after
// it is discarded; neither function allocates.
#[global_allocator]
static HEAP: Only = Only(unsafe { Heap::new(range, discard) });

fn range() -> (*mut u8, *mut u8) {
    let start = (&raw const __heap_start).cast_mut();
    let end = registers::registers().memory_pages as usize * PAGE_SIZE;
    (start, start.with_addr(end.max(start.addr())))
}

fn discard(from: *mut u8, bytes: usize) {
    let start = from.addr() as u64;
    // SAFETY: the allocator has nothing there. What cannot be given back stays.
    let _ = unsafe { instruction::discard(start..start + bytes as u64) };
}

/// The heap.
pub(crate) fn heap() -> &'static Heap {
    &HEAP.0
}
