//! The heap grows a page at a time: a page that is never touched costs nothing, one that is touched costs the VM
//! a page for as long as it is the VM's. What is free at the top is given back.

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;
use talc::base::Talc;
use talc::base::binning::{Binning, linear_extent_then_linearly_divided_exponential_binning};
use talc::source::Source;

/// Bytes in a page.
const PAGE: usize = virtual_isa::PAGE_SIZE;

/// Free bytes at the top of the heap from which on they are given back.
const MOST_SLACK: usize = 16 * PAGE;

/// Free bytes at the top that stay then, so that the next request does not grow the heap again.
const KEPT_SLACK: usize = 4 * PAGE;

/// 64 free lists: half a kilobyte of bookkeeping, on the page where the image's data ends.
pub(crate) struct Compact;

impl Binning for Compact {
    type AvailabilityBitField = u64;

    fn size_to_bin(size: usize) -> u32 {
        linear_extent_then_linearly_divided_exponential_binning::<2, 8>(size)
    }
}

/// Where the heap's memory comes from: one range of addresses, from its start.
pub(crate) struct Growing {
    /// The range that is the heap's, as soon as it is known.
    find: fn() -> (*mut u8, *mut u8),
    /// What is done with pages at the top that are given back.
    give_back: fn(*mut u8, usize),
    /// End of what the allocator has now.
    end: Option<NonNull<u8>>,
}

impl fmt::Debug for Growing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Growing").field("end", &self.end).finish_non_exhaustive()
    }
}

impl Growing {
    /// # Safety
    /// `find` must return the start and end of memory that is this allocator's alone. `give_back` must leave every
    /// byte of its range readable and writable.
    pub const unsafe fn new(find: fn() -> (*mut u8, *mut u8), give_back: fn(*mut u8, usize)) -> Self {
        Self { find, give_back, end: None }
    }
}

/// Bytes that the allocator may need beyond an allocation's own: a tail, a heap's base, alignment.
fn bytes_needed(layout: Layout) -> Option<usize> {
    let alignment = if layout.align() > talc::base::CHUNK_UNIT { layout.align() } else { 0 };
    layout.size().checked_add(alignment)?.checked_add(2 * talc::base::CHUNK_UNIT)
}

// SAFETY: allocates nothing itself, and hands out only memory of the range it was given.
unsafe impl Source for Growing {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let (start, limit) = (talc.source.find)();
        let needed = bytes_needed(layout).ok_or(())?;
        let page_end = |address: usize| address.checked_next_multiple_of(PAGE).ok_or(());
        if let Some(end) = talc.source.end {
            // What is free at the top counts.
            // SAFETY: `end` is the heap's: it was returned by `claim`, `extend` or `resize`, last.
            let top = unsafe { talc.reserved(end) }.up_to.addr().get();
            let goal = page_end(top.checked_add(needed).ok_or(())?)?;
            if goal <= end.addr().get() || goal > limit.addr() {
                return Err(());
            }
            // SAFETY: the memory up to `goal` lies in the range, and nobody else uses it.
            talc.source.end = Some(unsafe { talc.extend(end, start.with_addr(goal)) });
            return Ok(());
        }
        let first = talc::min_first_heap_size::<B>() + needed;
        let goal = page_end(start.addr().checked_add(first).ok_or(())?)?;
        if goal > limit.addr() {
            return Err(());
        }
        // SAFETY: this memory lies in the range, and nobody else uses it.
        talc.source.end = unsafe { talc.claim(start, goal - start.addr()) };
        if talc.source.end.is_some() { Ok(()) } else { Err(()) }
    }

    const TRACK_HEAP_END: bool = true;

    unsafe fn resize(&mut self, chunk_base: *mut u8, heap_end: *mut u8, is_heap_base: bool) -> *mut u8 {
        if is_heap_base || heap_end.addr() - chunk_base.addr() < MOST_SLACK {
            return heap_end;
        }
        let kept = (chunk_base.addr() + KEPT_SLACK).next_multiple_of(PAGE);
        let new_end = heap_end.with_addr(kept);
        // The heap ends at a page's end: see `acquire`.
        (self.give_back)(new_end, heap_end.addr() - kept);
        self.end = NonNull::new(new_end);
        new_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::alloc::GlobalAlloc;
    use core::sync::atomic::{AtomicUsize, Ordering};
    use proptest::prelude::*;
    use std::vec::Vec;
    use talc::cell::TalcCell;

    const SIZE: usize = 256 * PAGE;
    /// Bytes of the first page that are the image's.
    const OFFSET: usize = 1000;

    #[repr(align(4096))]
    struct Memory([u8; SIZE]);

    static GIVEN_BACK: AtomicUsize = AtomicUsize::new(0);

    std::thread_local! {
        static MEMORY: *mut Memory = std::boxed::Box::leak(std::boxed::Box::new(Memory([0; SIZE])));
    }

    fn find() -> (*mut u8, *mut u8) {
        let base: *mut u8 = MEMORY.with(|&memory| memory.cast());
        (base.wrapping_add(OFFSET), base.wrapping_add(SIZE))
    }

    fn count(_from: *mut u8, bytes: usize) {
        GIVEN_BACK.fetch_add(bytes, Ordering::Relaxed);
    }

    fn heap() -> TalcCell<Growing, Compact> {
        // SAFETY: each test's thread has its own memory, and this one allocator on it at a time.
        TalcCell::new(unsafe { Growing::new(find, count) })
    }

    fn pages_in_use(heap: &TalcCell<Growing, Compact>) -> usize {
        heap.counters().claimed_bytes.div_ceil(PAGE)
    }

    #[test]
    fn a_small_program_touches_one_page_and_low_addresses_come_first() {
        let heap = heap();
        let layout = Layout::from_size_align(64, 8).unwrap();
        // SAFETY: sizes are not zero.
        let small: Vec<_> = (0..20).map(|_| unsafe { heap.alloc(layout) }).collect();
        assert_eq!(pages_in_use(&heap), 1);
        assert!(small.iter().all(|p| p.addr() < find().0.addr() - OFFSET + PAGE));
        // SAFETY: as above.
        let large = unsafe { heap.alloc(Layout::from_size_align(4096, 8).unwrap()) };
        assert!(!large.is_null());
        assert_eq!(pages_in_use(&heap), 2);
    }

    #[test]
    fn the_top_is_given_back_and_grows_again() {
        let heap = heap();
        let layout = Layout::from_size_align(100 * PAGE, 8).unwrap();
        let before = GIVEN_BACK.load(Ordering::Relaxed);
        for _ in 0..3 {
            // SAFETY: the size is not zero; the memory is freed with the same layout.
            unsafe {
                let small = heap.alloc(Layout::from_size_align(64, 8).unwrap());
                let large = heap.alloc(layout);
                assert!(!small.is_null() && !large.is_null());
                large.write_bytes(1, layout.size());
                heap.dealloc(large, layout);
                heap.dealloc(small, Layout::from_size_align(64, 8).unwrap());
            }
            assert!(pages_in_use(&heap) < 10, "{}", pages_in_use(&heap));
        }
        assert!(GIVEN_BACK.load(Ordering::Relaxed) - before >= 3 * 90 * PAGE);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let heap = heap();
        // SAFETY: sizes are not zero.
        unsafe {
            assert!(heap.alloc(Layout::from_size_align(SIZE, 8).unwrap()).is_null());
            assert!(heap.alloc(Layout::from_size_align(isize::MAX as usize - 7, 8).unwrap()).is_null());
            assert!(!heap.alloc(Layout::from_size_align(SIZE / 2, 8).unwrap()).is_null());
            assert!(heap.alloc(Layout::from_size_align(SIZE / 2, 8).unwrap()).is_null());
            assert!(!heap.alloc(Layout::from_size_align(100, 4096).unwrap()).is_null());
        }
    }

    proptest! {
        #[test]
        fn allocations_never_overlap(steps in proptest::collection::vec((any::<bool>(), 1usize..20_000, 0u32..8), 1..200)) {
            let heap = heap();
            let mut live: Vec<(*mut u8, Layout, u8)> = Vec::new();
            for (n, (allocate, size, alignment)) in steps.into_iter().enumerate() {
                let mark = n.to_le_bytes()[0];
                if allocate {
                    let layout = Layout::from_size_align(size, 1 << alignment).unwrap();
                    // SAFETY: the size is not zero; every byte written was handed out.
                    unsafe {
                        let p = heap.alloc(layout);
                        if !p.is_null() {
                            prop_assert!(p.addr() >= find().0.addr() && p.addr() + size <= find().1.addr());
                            p.write_bytes(mark, size);
                            live.push((p, layout, mark));
                        }
                    }
                } else if !live.is_empty() {
                    let (p, layout, mark) = live.swap_remove(size % live.len());
                    // SAFETY: `p` is live with this layout.
                    unsafe {
                        let bytes = core::slice::from_raw_parts(p, layout.size());
                        prop_assert!(bytes.iter().all(|&b| b == mark));
                        heap.dealloc(p, layout);
                    }
                }
            }
        }
    }
}
