//! The heap grows a page at a time: a page that is never touched costs nothing, one that is touched costs the VM
//! a page for as long as it is the VM's. Whole pages that are free are given back some time after a burst, wherever they
//! lie: what is still in use may lie above them, or among them.

use core::alloc::Layout;
use core::cell::{Cell, UnsafeCell};
use core::fmt;
use core::ptr::{self, NonNull};
use talc::base::Talc;
use talc::base::binning::{Binning, linear_extent_then_linearly_divided_exponential_binning};
use talc::source::Source;

/// Bytes in a page.
const PAGE: usize = virtual_isa::PAGE_SIZE;

/// Free bytes, more than at the last look for pages to give back, from which on it is worth looking again.
const WORTHWHILE: usize = 8 * PAGE;

/// How long memory is left to whoever wants it next before it is given back.
const PATIENCE_NS: u64 = 1_000_000_000;

/// Bytes of the largest gaps, which are looked for first, then those of half as many, down to a page.
const LARGE_GAP: usize = 64 * PAGE;

/// Gaps that are looked at in one go.
const MOST_GAPS: usize = 256;

/// 64 free lists: half a kilobyte of bookkeeping, on the page where the image's data ends.
struct Compact;

impl Binning for Compact {
    type AvailabilityBitField = u64;

    fn size_to_bin(size: usize) -> u32 {
        linear_extent_then_linearly_divided_exponential_binning::<2, 8>(size)
    }
}

/// Where the heap's memory comes from: one range of addresses, from its start.
struct Growing {
    /// The range that is the heap's, as soon as it is known.
    find: fn() -> (*mut u8, *mut u8),
    /// End of what the allocator has now.
    end: Option<NonNull<u8>>,
}

impl fmt::Debug for Growing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Growing").field("end", &self.end).finish_non_exhaustive()
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
            // SAFETY: `end` is the heap's: it was returned by `claim` or `extend`, last.
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
}

/// A gap that is held while pages are given back. It is written to its own beginning.
struct Held {
    next: *mut Held,
    bytes: usize,
}

const HELD_ALIGN: usize = align_of::<Held>();

/// The memory of a VM's program.
pub(crate) struct Heap {
    talc: UnsafeCell<Talc<Growing, Compact>>,
    /// Gives whole pages back, by their start and length.
    discard: fn(*mut u8, usize),
    /// The least that was free since pages were given back.
    least_free: Cell<usize>,
    /// When pages are to be given back.
    trim_at: Cell<Option<u64>>,
}

impl Heap {
    /// # Safety
    /// `find` must return the start and end of memory that is this heap's alone. `discard` must leave every byte of its
    /// range readable and writable. Neither may allocate. The heap may be used by one thread at a time.
    pub const unsafe fn new(find: fn() -> (*mut u8, *mut u8), discard: fn(*mut u8, usize)) -> Self {
        Self {
            talc: UnsafeCell::new(Talc::new(Growing { find, end: None })),
            discard,
            least_free: Cell::new(0),
            trim_at: Cell::new(None),
        }
    }

    /// Works on the allocator.
    fn with<R>(&self, work: impl FnOnce(&mut Talc<Growing, Compact>) -> R) -> R {
        // SAFETY: the heap is used by one thread at a time, and none of the works below comes back here.
        work(unsafe { &mut *self.talc.get() })
    }

    /// # Safety
    /// As [`core::alloc::GlobalAlloc`] has it; the same below.
    pub unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises; the same below.
        let memory = self.with(|talc| unsafe { talc.allocate(layout) });
        self.note(layout.size());
        memory.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    /// Notes that so much was allocated. What is small adds up, and is seen when the program rests.
    fn note(&self, bytes: usize) {
        if bytes >= PAGE {
            self.least_free.set(self.least_free.get().min(self.free()));
        }
    }

    /// Free bytes of what the allocator has.
    fn free(&self) -> usize {
        self.with(|talc| talc.counters().available_bytes)
    }

    pub unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        self.with(|talc| unsafe { talc.deallocate(memory, layout) });
    }

    pub unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as above. What cannot grow where it is has a new size above the old one.
        unsafe {
            if self.with(|talc| talc.try_realloc_in_place(memory, layout, new_size)) {
                self.note(new_size);
                return memory;
            }
            let moved = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(memory, layout.size());
                self.dealloc(memory, layout);
            }
            moved
        }
    }

    /// Bytes between the heap's start and the end of memory.
    pub fn size(&self) -> usize {
        let (start, end) = self.with(|talc| (talc.source.find)());
        end.addr() - start.addr()
    }

    /// Bytes of it that nobody has.
    pub fn left(&self) -> usize {
        let claimed = self.with(|talc| talc.counters().claimed_bytes);
        self.size().saturating_sub(claimed).saturating_add(self.free())
    }

    /// Gives pages back if it is time to. Returns when to come again, if nothing happens.
    pub fn tend(&self, now_ns: u64) -> Option<u64> {
        let free = self.free();
        let least = self.least_free.get().min(free);
        self.least_free.set(least);
        if free - least < WORTHWHILE {
            self.trim_at.set(None);
        } else if let Some(at) = self.trim_at.get() {
            if at <= now_ns {
                self.trim();
                self.least_free.set(free);
                self.trim_at.set(None);
            }
        } else {
            self.trim_at.set(Some(now_ns.saturating_add(PATIENCE_NS)));
        }
        self.trim_at.get()
    }

    /// Gives back the pages that lie in gaps between allocations. The allocator shows no gaps: each is allocated, as far as
    /// it goes, until all are found; then what is in them is nobody's.
    #[cold]
    fn trim(&self) {
        let mut held: *mut Held = ptr::null_mut();
        let (mut least, mut nr_held) = (LARGE_GAP, 0);
        while nr_held < MOST_GAPS && least >= PAGE {
            match self.with(|talc| hold(talc, least)) {
                Some((start, bytes)) => {
                    // SAFETY: it is more than a page, aligned as asked for, and was allocated just now.
                    unsafe { start.cast::<Held>().write(Held { next: held, bytes }) };
                    held = start.cast();
                    nr_held += 1;
                }
                None => least /= 2,
            }
        }
        while !held.is_null() {
            let start: *mut u8 = held.cast();
            // SAFETY: it was written above.
            let Held { next, bytes } = unsafe { held.read() };
            let first = (start.addr() + size_of::<Held>()).next_multiple_of(PAGE);
            let end = (start.addr() + bytes) / PAGE * PAGE;
            if first < end {
                (self.discard)(start.with_addr(first), end - first);
            }
            // SAFETY: it was allocated with this layout, and is used no more.
            self.with(|talc| unsafe { talc.deallocate(start, Layout::from_size_align_unchecked(bytes, HELD_ALIGN)) });
            held = next;
        }
    }
}

/// Allocates a gap of `least` bytes or more, all of it.
fn hold(talc: &mut Talc<Growing, Compact>, least: usize) -> Option<(*mut u8, usize)> {
    let layout = Layout::from_size_align(least, HELD_ALIGN).ok()?;
    // SAFETY: the size is not zero.
    let start = unsafe { talc.try_allocate(layout) }?.as_ptr();
    let mut bytes = least;
    let mut more = talc.counters().available_bytes.checked_next_power_of_two()?;
    while more >= talc::base::CHUNK_UNIT {
        // SAFETY: it was allocated, or has grown, to so many bytes.
        if unsafe { talc.try_grow_in_place(start, Layout::from_size_align(bytes, HELD_ALIGN).ok()?, bytes + more) } {
            bytes += more;
        }
        more /= 2;
    }
    Some((start, bytes))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod watched;
