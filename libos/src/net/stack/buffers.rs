//! Memory for sockets' buffers: whole pages, so that what is not in use can be given back to the machine while the
//! socket keeps its addresses.
//!
//! Slots of one size are cut from a slab. A page of a slot costs nothing before something is written to it. When a slot
//! is empty it may be *discarded*: its pages are the machine's again, and come back as zeros when they are used.

use alloc::alloc::{alloc, dealloc};
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;
use virtual_isa::PAGE_SIZE;

/// Bytes of a slab, or of its only slot if that is larger.
const SLAB_BYTES: usize = 32 * PAGE_SIZE;

/// Most slots of a slab: the bits of a mask.
const MOST_SLOTS: usize = 16;

/// Free slots whose pages are kept for the next who comes, when others are given back.
const MOST_KEPT: u32 = 1;

/// Slots that keep their pages though nothing is in them: for so few, giving pages back is not worth waking up for.
pub(super) const MOST_WARM: u32 = 4;

/// Gives pages back: start and length. They read as anything afterwards.
pub(super) type Discard<'a> = &'a mut dyn FnMut(NonNull<u8>, usize);

struct Slab {
    start: NonNull<u8>,
    slot_bytes: usize,
    nr_slots: usize,
    /// A bit for each slot that nobody has.
    free: u32,
    /// A bit for each slot of which a page may be in use.
    touched: u32,
}

impl Slab {
    const fn layout(slot_bytes: usize, nr_slots: usize) -> Option<Layout> {
        match slot_bytes.checked_mul(nr_slots) {
            Some(bytes) => match Layout::from_size_align(bytes, PAGE_SIZE) {
                Ok(layout) => Some(layout),
                Err(_) => None,
            },
            None => None,
        }
    }

    const fn all(&self) -> u32 {
        // At most 16.
        (1 << self.nr_slots) - 1
    }

    fn slot(&self, index: usize) -> NonNull<u8> {
        // SAFETY: `index` is less than `nr_slots`, and the slab is that many slots long.
        unsafe { self.start.add(index * self.slot_bytes) }
    }
}

/// A slot that somebody has.
#[derive(Debug)]
pub(super) struct Slot {
    start: NonNull<u8>,
    bytes: usize,
}

impl Slot {
    /// No memory at all.
    pub const fn empty() -> Self {
        Self { start: NonNull::dangling(), bytes: 0 }
    }

    #[cfg(test)]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The slot's memory in two parts, the first of `first` bytes.
    ///
    /// # Safety
    /// At most one pair may be in use at a time, and none after the slot was given back.
    pub unsafe fn split(&self, first: usize, second: usize) -> (&'static mut [u8], &'static mut [u8]) {
        assert!(first.checked_add(second).is_some_and(|sum| sum <= self.bytes));
        // SAFETY: the bytes are the slot's, and were initialised when its slab was made; the caller sees to the rest.
        unsafe {
            let start = self.start.as_ptr();
            (core::slice::from_raw_parts_mut(start, first), core::slice::from_raw_parts_mut(start.add(first), second))
        }
    }
}

/// All slots of a stack.
pub(super) struct Buffers {
    slabs: Vec<Slab>,
    /// Bytes of the slots that somebody has.
    used_bytes: usize,
    pub max_bytes: usize,
}

impl Buffers {
    pub const fn new(max_bytes: usize) -> Self {
        Self { slabs: Vec::new(), used_bytes: 0, max_bytes }
    }

    #[cfg(test)]
    pub const fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    const fn slot_bytes(bytes: usize) -> usize {
        bytes.saturating_add(PAGE_SIZE - 1) / PAGE_SIZE * PAGE_SIZE
    }

    /// Whether a slot of `bytes` may be had.
    pub const fn allows(&self, bytes: usize) -> bool {
        Self::slot_bytes(bytes) <= self.max_bytes.saturating_sub(self.used_bytes)
    }

    /// A slot of at least `bytes`, or `None` if there is no memory for it. What it holds is undefined.
    pub fn take(&mut self, bytes: usize, discard: Discard<'_>) -> Option<Slot> {
        let slot_bytes = Self::slot_bytes(bytes);
        if !self.allows(bytes) {
            return None;
        }
        // One whose pages are there already, if there is one.
        let fits = |slab: &Slab, mask: u32| slab.slot_bytes == slot_bytes && slab.free & mask != 0;
        let warm = self.slabs.iter().position(|slab| fits(slab, slab.touched));
        let (slab, mask) = match warm.or_else(|| self.slabs.iter().position(|slab| fits(slab, u32::MAX))) {
            Some(index) => {
                let slab = &mut self.slabs[index];
                let mask = if warm.is_some() { slab.free & slab.touched } else { slab.free };
                (slab, mask)
            }
            None => {
                let slab = new_slab(slot_bytes, discard)?;
                let mask = slab.free;
                self.slabs.push(slab);
                (self.slabs.last_mut()?, mask)
            }
        };
        let index = mask.trailing_zeros();
        slab.free &= !(1 << index);
        self.used_bytes += slot_bytes;
        Some(Slot { start: slab.slot(index as usize), bytes: slot_bytes })
    }

    fn find(&mut self, slot: &Slot) -> Option<(usize, u32)> {
        self.slabs.iter().enumerate().find_map(|(index, slab)| {
            let offset = slot.start.addr().get().checked_sub(slab.start.addr().get())?;
            let number = offset / slab.slot_bytes;
            (number < slab.nr_slots).then(|| (index, 1 << number))
        })
    }

    /// Notes that something may have been written to a slot.
    pub fn touch(&mut self, slot: &Slot) {
        if let Some((index, bit)) = self.find(slot) {
            self.slabs[index].touched |= bit;
        }
    }

    /// Gives a slot's pages back while its owner keeps it. There must be nothing in them.
    pub fn discard(&mut self, slot: &Slot, discard: Discard<'_>) {
        if let Some((index, bit)) = self.find(slot)
            && self.slabs[index].touched & bit != 0
        {
            self.slabs[index].touched &= !bit;
            discard(slot.start, slot.bytes);
        }
    }

    /// Takes a slot back. Its pages stay for the next who comes until [`Self::trim`], unless they are many.
    pub fn give_back(&mut self, slot: Slot) {
        let Some((index, bit)) = self.find(&slot) else { return };
        self.used_bytes -= slot.bytes;
        self.slabs[index].free |= bit;
        if self.slabs[index].nr_slots == 1 {
            self.drop_slab(index);
        }
    }

    /// Gives slabs of which nobody has a slot to the heap, but for a first one, and the pages of other free slots to
    /// the machine, but for a few.
    pub fn trim(&mut self, discard: Discard<'_>) {
        for index in (1..self.slabs.len()).rev() {
            if self.slabs[index].free == self.slabs[index].all() {
                self.drop_slab(index);
            }
        }
        let mut kept = 0;
        for slab in &mut self.slabs {
            let warm = slab.free & slab.touched;
            for number in (0..slab.nr_slots).filter(|number| warm & (1 << number) != 0) {
                if kept < MOST_KEPT {
                    kept += 1;
                } else {
                    slab.touched &= !(1 << number);
                    discard(slab.slot(number), slab.slot_bytes);
                }
            }
        }
    }

    /// Whether there may be something to trim.
    pub fn is_spread(&self) -> bool {
        self.slabs.len() > 1 || self.nr_touched() > MOST_WARM
    }

    /// Slots of which a page may be in use.
    pub fn nr_touched(&self) -> u32 {
        self.slabs.iter().map(|slab| slab.touched.count_ones()).sum()
    }

    fn drop_slab(&mut self, index: usize) {
        let slab = self.slabs.remove(index);
        if let Some(layout) = Slab::layout(slab.slot_bytes, slab.nr_slots) {
            // SAFETY: it was allocated with this layout, and nobody has a slot of it.
            unsafe { dealloc(slab.start.as_ptr(), layout) };
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        while !self.slabs.is_empty() {
            self.drop_slab(0);
        }
    }
}

fn new_slab(slot_bytes: usize, discard: Discard<'_>) -> Option<Slab> {
    let nr_slots = (SLAB_BYTES / slot_bytes.max(1)).clamp(1, MOST_SLOTS);
    let layout = Slab::layout(slot_bytes, nr_slots).filter(|layout| layout.size() > 0)?;
    // SAFETY: the size is not zero.
    let start = NonNull::new(unsafe { alloc(layout) })?;
    // Whatever was there before goes to the machine. After it every byte has a value.
    discard(start, layout.size());
    let slab = Slab { start, slot_bytes, nr_slots, free: 0, touched: 0 };
    Some(Slab { free: slab.all(), ..slab })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages are given back by scribbling over them: whoever still needs them sees it.
    fn scribble(discarded: &mut usize) -> impl FnMut(NonNull<u8>, usize) + '_ {
        move |start, bytes| {
            assert!(start.addr().get().is_multiple_of(PAGE_SIZE) && bytes.is_multiple_of(PAGE_SIZE));
            *discarded += bytes;
            // SAFETY: the pages are the test's.
            unsafe { start.as_ptr().write_bytes(0xa5, bytes) };
        }
    }

    #[test]
    fn slots_are_apart_bounded_and_come_back() {
        let mut discarded = 0;
        let mut buffers = Buffers::new(40 * 8192);
        let mut slots: Vec<Slot> = Vec::new();
        while let Some(slot) = buffers.take(8000, &mut scribble(&mut discarded)) {
            // SAFETY: one pair at a time.
            let (first, second) = unsafe { slot.split(2000, 6000) };
            first.fill(slots.len().to_le_bytes()[0]);
            second.fill(slots.len().to_le_bytes()[0]);
            buffers.touch(&slot);
            slots.push(slot);
        }
        assert_eq!((slots.len(), buffers.used_bytes()), (40, 40 * 8192));
        for (n, slot) in slots.iter().enumerate() {
            // SAFETY: the other pair is gone.
            let (first, second) = unsafe { slot.split(2000, 6000) };
            assert!(first.iter().chain(second.iter()).all(|&b| b == n.to_le_bytes()[0]));
        }
        discarded = 0;
        for slot in slots {
            buffers.give_back(slot);
        }
        assert!(buffers.is_spread());
        buffers.trim(&mut scribble(&mut discarded));
        assert_eq!((buffers.used_bytes(), buffers.slabs.len()), (0, 1));
        assert!(!buffers.is_spread());
        assert_eq!(discarded, 15 * 8192, "all but one of the slab that stays");
        assert_eq!(buffers.nr_touched(), 1);
    }

    #[test]
    fn pages_that_are_there_are_used_first_and_large_slots_are_not_kept() {
        let mut discarded = 0;
        let mut buffers = Buffers::new(1 << 20);
        let first = buffers.take(8192, &mut scribble(&mut discarded)).unwrap();
        let second = buffers.take(8192, &mut scribble(&mut discarded)).unwrap();
        let address = second.start;
        buffers.touch(&second);
        buffers.give_back(first);
        buffers.give_back(second);
        assert_eq!(buffers.take(8192, &mut scribble(&mut discarded)).unwrap().start, address);
        let large = buffers.take(200_000, &mut scribble(&mut discarded)).unwrap();
        assert_eq!(large.bytes(), 49 * PAGE_SIZE);
        assert!(buffers.take(1 << 20, &mut scribble(&mut discarded)).is_none());
        buffers.give_back(large);
        assert_eq!(buffers.slabs.len(), 1);
    }

    #[test]
    fn an_owner_can_give_pages_back_and_go_on() {
        let mut discarded = 0;
        let mut buffers = Buffers::new(1 << 20);
        let slot = buffers.take(8192, &mut scribble(&mut discarded)).unwrap();
        discarded = 0;
        buffers.discard(&slot, &mut scribble(&mut discarded));
        assert_eq!(discarded, 0, "nothing was written to it");
        buffers.touch(&slot);
        buffers.discard(&slot, &mut scribble(&mut discarded));
        assert_eq!((discarded, buffers.nr_touched()), (8192, 0));
    }
}
