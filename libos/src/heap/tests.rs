//! The heap over memory of the host's, in which a page that is given back is scribbled over.

use super::*;
use proptest::prelude::*;
use std::vec::Vec;

const SIZE: usize = 256 * PAGE;
/// Bytes of the first page that are the image's.
const OFFSET: usize = 1000;
const SECOND: u64 = 1_000_000_000;

#[repr(align(4096))]
struct Memory([u8; SIZE]);

std::thread_local! {
    static MEMORY: *mut Memory = std::boxed::Box::leak(std::boxed::Box::new(Memory([0; SIZE]))) ;
    static DISCARDED: Cell<usize> = const { Cell::new(0) };
}

fn find() -> (*mut u8, *mut u8) {
    let base: *mut u8 = MEMORY.with(|&memory| memory.cast());
    (base.wrapping_add(OFFSET), base.wrapping_add(SIZE))
}

fn discard(from: *mut u8, bytes: usize) {
    assert!(from.addr().is_multiple_of(PAGE) && bytes.is_multiple_of(PAGE) && bytes > 0);
    assert!(from.addr() > find().0.addr() && from.addr() + bytes <= find().1.addr());
    // SAFETY: the heap says that nothing is there.
    unsafe { from.write_bytes(0xa5, bytes) };
    DISCARDED.set(DISCARDED.get() + bytes / PAGE);
}

fn heap() -> Heap {
    DISCARDED.set(0);
    // SAFETY: each test's thread has its own memory, and this one heap on it at a time.
    unsafe { Heap::new(find, discard) }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).unwrap()
}

fn claimed_pages(heap: &Heap) -> usize {
    heap.with(|talc| talc.counters().claimed_bytes).div_ceil(PAGE)
}

#[test]
fn a_small_program_touches_one_page_and_low_addresses_come_first() {
    let heap = heap();
    // SAFETY: sizes are not zero; the same below.
    let small: Vec<_> = (0..20).map(|_| unsafe { heap.alloc(layout(64)) }).collect();
    assert_eq!(claimed_pages(&heap), 1);
    assert!(small.iter().all(|p| p.addr() < find().0.addr() - OFFSET + PAGE));
    let left = heap.left();
    // SAFETY: as above.
    let large = unsafe { heap.alloc(layout(4096)) };
    assert!(!large.is_null());
    assert_eq!(claimed_pages(&heap), 2);
    assert!((4096..4096 + 64).contains(&(left - heap.left())), "{left} {}", heap.left());
}

#[test]
fn whole_free_pages_are_given_back_from_below_and_between_what_stays() {
    let heap = heap();
    // SAFETY: sizes are not zero; what is freed was allocated so.
    unsafe {
        let large: Vec<_> = (0..3)
            .map(|_| {
                let large = heap.alloc(layout(30 * PAGE));
                large.write_bytes(7, 30 * PAGE);
                (large, heap.alloc(layout(32)))
            })
            .collect();
        assert_eq!(heap.tend(5), None, "nothing is free");
        for &(large, small) in &large {
            small.write_bytes(9, 32);
            heap.dealloc(large, layout(30 * PAGE));
        }
        assert_eq!(heap.tend(10), Some(10 + SECOND));
        assert_eq!(heap.tend(11), Some(10 + SECOND));
        assert_eq!(DISCARDED.get(), 0, "it may be wanted again");
        assert_eq!(heap.tend(10 + SECOND), None);
        assert!((3 * 28..=3 * 30).contains(&DISCARDED.get()), "{}", DISCARDED.get());
        for &(_, small) in &large {
            assert_eq!(*small.cast::<[u8; 32]>(), [9; 32]);
        }
        // What is used in the meantime, and free again, is less than it takes.
        let small = heap.alloc(layout(4 * PAGE));
        assert_eq!(heap.tend(2 * SECOND), None);
        heap.dealloc(small, layout(4 * PAGE));
        assert_eq!(heap.tend(3 * SECOND), None);
        let again = heap.alloc(layout(20 * PAGE));
        assert_eq!(heap.tend(4 * SECOND), None);
        heap.dealloc(again, layout(20 * PAGE));
        assert_eq!(heap.tend(5 * SECOND), Some(6 * SECOND));
        // Somebody wants it after all.
        let again = heap.alloc(layout(28 * PAGE));
        assert_eq!(heap.tend(6 * SECOND), None);
        heap.dealloc(again, layout(28 * PAGE));
    }
}

#[test]
fn memory_that_was_given_back_is_allocated_again() {
    let heap = heap();
    let all = layout(heap.size() - 3 * PAGE);
    for n in 0..3 {
        // SAFETY: as above.
        unsafe {
            let memory = heap.alloc(all);
            assert!(!memory.is_null());
            memory.write_bytes(n, all.size());
            heap.dealloc(memory, all);
        }
        let now = u64::from(n) * 10 * SECOND;
        heap.tend(now);
        heap.tend(now + 2 * SECOND);
    }
    assert!(DISCARDED.get() >= 3 * 250, "{}", DISCARDED.get());
}

#[test]
fn what_cannot_be_is_refused() {
    let heap = heap();
    // SAFETY: as above.
    unsafe {
        assert!(heap.alloc(layout(SIZE)).is_null());
        assert!(heap.alloc(layout(isize::MAX as usize - 7)).is_null());
        let half = heap.alloc(layout(SIZE / 2));
        assert!(!half.is_null());
        assert!(heap.alloc(layout(SIZE / 2)).is_null());
        assert!(heap.realloc(half, layout(SIZE / 2), SIZE).is_null());
        assert!(!heap.alloc(Layout::from_size_align(100, 4096).unwrap()).is_null());
    }
}

/// What is live, with the byte it is filled with.
struct Live(*mut u8, Layout, u8);

impl Live {
    fn is_whole(&self, bytes: usize) -> bool {
        // SAFETY: it is live with this layout, and was filled.
        unsafe { core::slice::from_raw_parts(self.0, bytes) }.iter().all(|&b| b == self.2)
    }
}

proptest! {
    #[test]
    fn allocations_never_overlap_and_are_never_given_back(
        steps in proptest::collection::vec((0u8..8, 1usize..20_000, 0u32..8), 1..300),
    ) {
        let heap = heap();
        let mut live: Vec<Live> = Vec::new();
        for (n, (step, size, alignment)) in steps.into_iter().enumerate() {
            let mark = n.to_le_bytes()[0];
            let at = size % live.len().max(1);
            match step {
                0..=2 => {
                    let layout = Layout::from_size_align(size, 1 << alignment).unwrap();
                    // SAFETY: the size is not zero; every byte written was handed out.
                    unsafe {
                        let p = heap.alloc(layout);
                        if !p.is_null() {
                            prop_assert!(p.addr() >= find().0.addr() && p.addr() + size <= find().1.addr());
                            prop_assert!(p.addr().is_multiple_of(layout.align()));
                            p.write_bytes(mark, size);
                            live.push(Live(p, layout, mark));
                        }
                    }
                }
                3..=5 if !live.is_empty() => {
                    let old = live.swap_remove(at);
                    prop_assert!(old.is_whole(old.1.size()));
                    // SAFETY: it is live with this layout.
                    unsafe { heap.dealloc(old.0, old.1) };
                }
                6 if !live.is_empty() => {
                    let old = &mut live[at];
                    // SAFETY: as above; the size is not zero.
                    let moved = unsafe { heap.realloc(old.0, old.1, size) };
                    if !moved.is_null() {
                        let kept = old.1.size().min(size);
                        *old = Live(moved, Layout::from_size_align(size, old.1.align()).unwrap(), old.2);
                        prop_assert!(old.is_whole(kept));
                        // SAFETY: it has that size now.
                        unsafe { moved.write_bytes(old.2, size) };
                    }
                }
                _ => heap.trim(),
            }
        }
        for old in live {
            prop_assert!(old.is_whole(old.1.size()));
            // SAFETY: as above.
            unsafe { heap.dealloc(old.0, old.1) };
        }
        heap.trim();
        prop_assert_eq!(heap.with(|talc| talc.counters().fragment_count), usize::from(claimed_pages(&heap) > 0));
    }
}
