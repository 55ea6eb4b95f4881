//! Extents: which blocks of the swap disk are in use.
//!
//! A bitmap, searched next-fit from a hand: what is allocated one after the other lies one after the other, so that
//! the disk is written in sequence. A summary with one bit a full word lets the search step over full stretches of
//! the disk 4,096 blocks at a time.

use alloc::vec;
use alloc::vec::Vec;

const BITS: u32 = u64::BITS;

/// A run of blocks of the swap disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first block.
    pub first: u32,
    /// How many blocks.
    pub count: u32,
}

impl Extent {
    /// The block after the last, if there can be such a block.
    #[must_use]
    pub const fn end(self) -> Option<u32> {
        self.first.checked_add(self.count)
    }
}

/// The blocks of a swap disk, each free or allocated.
#[derive(Debug)]
pub struct Extents {
    /// A bit for each block, set where it is allocated and past the end of the disk.
    blocks: Vec<u64>,
    /// A bit for each word of `blocks`, set where that word is full and past the end.
    full: Vec<u64>,
    total: u32,
    used: u32,
    /// Where the next search begins.
    hand: u32,
    /// No run of this many blocks is free: known since a search failed, until enough is freed in one place. A full
    /// disk is asked often, and a fragmented one takes long to search.
    too_long: u32,
}

impl Extents {
    /// A disk of `nr_blocks` free blocks.
    #[must_use]
    pub fn new(nr_blocks: u32) -> Self {
        let nr_words = nr_blocks.div_ceil(BITS);
        let blocks = all_free(nr_blocks);
        let full = all_free(nr_words);
        Self { blocks, full, total: nr_blocks, used: 0, hand: 0, too_long: u32::MAX }
    }

    /// No disk.
    #[must_use]
    pub const fn none() -> Self {
        Self { blocks: Vec::new(), full: Vec::new(), total: 0, used: 0, hand: 0, too_long: u32::MAX }
    }

    /// Allocates `count` blocks in one run, after the last run allocated if there is room. `None` if no such run is
    /// free, or none was asked for.
    pub fn allocate(&mut self, count: u32) -> Option<Extent> {
        if count == 0 || count >= self.too_long || count > self.total - self.used {
            return None;
        }
        // What begins before the hand ends before this.
        let end = self.hand.saturating_add(count).min(self.total);
        let found = self.find(self.hand, self.total, count).or_else(|| self.find(0, end, count));
        let Some(first) = found else {
            self.too_long = count;
            return None;
        };
        let extent = Extent { first, count };
        self.mark(extent, true);
        self.used += count;
        self.hand = first + count;
        Some(extent)
    }

    /// Frees what `allocate` gave, or a part of it. False, and nothing changed, if any of the blocks was not
    /// allocated or is none of the disk's.
    pub fn free(&mut self, extent: Extent) -> bool {
        let is_ours = extent.end().is_some_and(|end| end <= self.total);
        if !is_ours || !self.is_allocated(extent) {
            return false;
        }
        self.mark(extent, false);
        self.used -= extent.count;
        if self.too_long != u32::MAX && self.run_around(extent, self.too_long) >= self.too_long {
            self.too_long = u32::MAX;
        }
        true
    }

    /// Blocks that are allocated.
    #[must_use]
    pub const fn used(&self) -> u32 {
        self.used
    }

    /// Blocks there are.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.total
    }

    /// The length of the free run in which a free extent lies, as far as `most` blocks to each side.
    fn run_around(&self, extent: Extent, most: u32) -> u32 {
        let is_free = |block: &u32| *block < self.total && !self.is_allocated(Extent { first: *block, count: 1 });
        let count = |blocks: usize| u32::try_from(blocks).unwrap_or(u32::MAX);
        let end = extent.first.saturating_add(extent.count);
        let before = (extent.first.saturating_sub(most)..extent.first).rev().take_while(is_free).count();
        let behind = (end..end.saturating_add(most)).take_while(is_free).count();
        extent.count.saturating_add(count(before)).saturating_add(count(behind))
    }

    /// The first run of `count` free blocks from `from` up to `limit`.
    fn find(&self, from: u32, limit: u32, count: u32) -> Option<u32> {
        let mut at = from;
        loop {
            let first = self.next_free(at)?;
            // A run that would pass the limit is none, and nor are the later ones.
            let end = first.checked_add(count).filter(|end| *end <= limit)?;
            match self.next_used(first, end) {
                None => return Some(first),
                Some(used) => at = used,
            }
        }
    }

    /// The first free block at `from` or after it.
    fn next_free(&self, from: u32) -> Option<u32> {
        if let Some(block) = zero_in(&self.blocks, from) {
            return Some(block);
        }
        // The summary names the next word that is not full.
        let mut word = from / BITS + 1;
        loop {
            if let Some(found) = zero_in(&self.full, word) {
                return zero_in(&self.blocks, found * BITS);
            }
            word = (word / BITS + 1) * BITS;
            if word / BITS >= u32::try_from(self.full.len()).unwrap_or(u32::MAX) {
                return None;
            }
        }
    }

    /// The first allocated block from `from` up to `end`.
    fn next_used(&self, from: u32, end: u32) -> Option<u32> {
        spans(Extent { first: from, count: end - from }).find_map(|(word, mask)| {
            let used = self.blocks.get(word as usize)? & mask;
            (used != 0).then(|| word * BITS + used.trailing_zeros())
        })
    }

    fn is_allocated(&self, extent: Extent) -> bool {
        spans(extent).all(|(word, mask)| self.blocks.get(word as usize).is_some_and(|bits| bits & mask == mask))
    }

    fn mark(&mut self, extent: Extent, is_used: bool) {
        for (word, mask) in spans(extent) {
            let Some(bits) = self.blocks.get_mut(word as usize) else { return };
            *bits = if is_used { *bits | mask } else { *bits & !mask };
            let is_full = *bits == u64::MAX;
            let Some(summary) = self.full.get_mut((word / BITS) as usize) else { return };
            let bit = 1u64 << (word % BITS);
            *summary = if is_full { *summary | bit } else { *summary & !bit };
        }
    }
}

/// `nr_bits` clear bits, and set ones up to the end of the last word.
fn all_free(nr_bits: u32) -> Vec<u64> {
    let mut words = vec![0; nr_bits.div_ceil(BITS) as usize];
    if let Some(last) = words.last_mut()
        && !nr_bits.is_multiple_of(BITS)
    {
        *last = u64::MAX << (nr_bits % BITS);
    }
    words
}

/// The first clear bit at `from` or after it in the same word.
fn zero_in(words: &[u64], from: u32) -> Option<u32> {
    let free = !words.get((from / BITS) as usize)? & (u64::MAX << (from % BITS));
    (free != 0).then(|| from / BITS * BITS + free.trailing_zeros())
}

/// The words that an extent touches, and the bits of it in each. The extent ends at or below `u32::MAX`.
fn spans(extent: Extent) -> impl Iterator<Item = (u32, u64)> {
    let Extent { first, count } = extent;
    let end = first.saturating_add(count);
    let words = if count == 0 { 0..0 } else { first / BITS..(end - 1) / BITS + 1 };
    words.map(move |word| {
        let from = first.saturating_sub(word * BITS);
        let to = (end - word * BITS).min(BITS);
        (word, (u64::MAX << from) & (u64::MAX >> (BITS - to)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn extent(first: u32, count: u32) -> Extent {
        Extent { first, count }
    }

    #[test]
    fn consecutive_allocations_are_adjacent() {
        let mut extents = Extents::new(1000);
        assert_eq!(extents.allocate(60), Some(extent(0, 60)));
        assert_eq!(extents.allocate(200), Some(extent(60, 200)));
        assert!(extents.free(extent(0, 60)));
        // The hole at the start waits until the hand has come round.
        assert_eq!(extents.allocate(40), Some(extent(260, 40)));
        assert_eq!(extents.allocate(700), Some(extent(300, 700)));
        assert_eq!(extents.allocate(59), Some(extent(0, 59)));
        assert_eq!(extents.allocate(2), None);
        assert_eq!(extents.allocate(1), Some(extent(59, 1)));
        assert_eq!((extents.used(), extents.total()), (1000, 1000));
        assert_eq!(extents.allocate(1), None);
    }

    #[test]
    fn frees_only_what_is_allocated() {
        let mut extents = Extents::new(100);
        assert_eq!(extents.allocate(10), Some(extent(0, 10)));
        for wrong in [extent(0, 11), extent(10, 1), extent(99, 2), extent(100, 28), extent(u32::MAX, 1)] {
            assert!(!extents.free(wrong), "{wrong:?}");
        }
        assert_eq!(extents.used(), 10);
        assert!(extents.free(extent(0, 10)));
        assert!(!extents.free(extent(0, 10)));
        assert_eq!(extents.used(), 0);
    }

    #[test]
    fn a_run_found_missing_is_looked_for_again_once_something_is_free() {
        let mut extents = Extents::new(64);
        assert_eq!(extents.allocate(32), Some(extent(0, 32)));
        assert_eq!(extents.allocate(33), None);
        assert_eq!(extents.allocate(16), Some(extent(32, 16)));
        assert!(extents.free(extent(0, 32)));
        assert_eq!(extents.allocate(17), Some(extent(0, 17)));
        assert!(extents.free(extent(32, 16)));
        assert_eq!(extents.allocate(33), Some(extent(17, 33)));
    }

    #[test]
    fn holes_that_grow_together_are_found() {
        let mut extents = Extents::new(256);
        assert_eq!(extents.allocate(256), Some(extent(0, 256)));
        for first in (0..256).step_by(4) {
            assert!(extents.free(extent(first, 2)));
        }
        assert_eq!(extents.allocate(3), None);
        assert!(extents.free(extent(102, 1)));
        assert_eq!(extents.allocate(4), None);
        assert_eq!(extents.allocate(3), Some(extent(100, 3)));
        assert!(extents.free(extent(102, 1)));
        assert!(extents.free(extent(103, 1)));
        assert_eq!(extents.allocate(4), Some(extent(102, 4)));
    }

    #[test]
    fn no_disk_has_no_blocks() {
        for mut extents in [Extents::none(), Extents::new(0)] {
            assert_eq!(extents.allocate(1), None);
            assert!(!extents.free(extent(0, 1)));
            assert_eq!(extents.total(), 0);
        }
        assert_eq!(Extents::new(8).allocate(0), None);
    }

    #[test]
    fn the_last_free_block_of_a_large_disk_is_found_past_full_words() {
        const TOTAL: u32 = 1 << 20;
        let mut extents = Extents::new(TOTAL);
        assert_eq!(extents.allocate(TOTAL), Some(extent(0, TOTAL)));
        for block in [0, 63, 64, 4095, 4096, 700_001, TOTAL - 1] {
            assert!(extents.free(extent(block, 1)));
            assert_eq!(extents.allocate(1), Some(extent(block, 1)));
        }
    }

    /// Whether a plain list of blocks has a free run of this length.
    fn has_run(model: &[bool], count: u32) -> bool {
        model.split(|is_used| *is_used).any(|run| run.len() >= count as usize)
    }

    proptest! {
        #[test]
        fn agrees_with_a_list_of_blocks(
            total in 1u32..10_000,
            steps in proptest::collection::vec((any::<bool>(), 1u32..400, any::<prop::sample::Index>()), 1..200),
        ) {
            let mut extents = Extents::new(total);
            let mut model = vec![false; total as usize];
            let mut held: Vec<Extent> = Vec::new();
            for (is_allocation, count, which) in steps {
                if is_allocation || held.is_empty() {
                    let got = extents.allocate(count);
                    prop_assert_eq!(got.is_some(), has_run(&model, count));
                    if let Some(new) = got {
                        prop_assert_eq!(new.count, count);
                        for block in new.first..new.first + new.count {
                            prop_assert!(!model[block as usize], "block {} given twice", block);
                            model[block as usize] = true;
                        }
                        held.push(new);
                    }
                } else {
                    let old = held.swap_remove(which.index(held.len()));
                    prop_assert!(extents.free(old));
                    prop_assert!(!extents.free(old));
                    model[old.first as usize..(old.first + old.count) as usize].fill(false);
                }
                prop_assert_eq!(extents.used() as usize, model.iter().filter(|is_used| **is_used).count());
            }
        }

        #[test]
        fn a_wrong_free_changes_nothing(first in 0u32..300, count in 0u32..300) {
            let mut extents = Extents::new(256);
            prop_assert_eq!(extents.allocate(100), Some(extent(0, 100)));
            let is_right = first + count <= 100 || (count == 0 && first <= 256);
            prop_assert_eq!(extents.free(extent(first, count)), is_right);
            prop_assert_eq!(extents.used(), if is_right { 100 - count } else { 100 });
        }
    }
}
