//! The global allocator: from the end of the image to the end of memory.

use super::{instruction, registers};
use crate::heap::{Compact, Growing};
use talc::cell::{TalcCell, TalcSyncCell};
use virtual_isa::PAGE_SIZE;

unsafe extern "C" {
    static __heap_start: u8;
}

// SAFETY: there is one thread, and nothing interrupts it: no two calls are at work at a time.
#[global_allocator]
static HEAP: TalcSyncCell<Growing, Compact> = unsafe { TalcSyncCell::new(TalcCell::new(talc_source())) };

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
