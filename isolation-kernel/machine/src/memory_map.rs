//! Which memory the kernel may use: the firmware's map with holes cut into it. Pure.

use crate::PAGE;

/// Physical memory `[start, end)`, whole pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
}

impl Range {
    /// Number of pages.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        (self.end - self.start) / PAGE
    }
}

/// Most ranges there can be. Firmware maps have about ten, and each hole adds one.
pub const MAX_RANGES: usize = 64;

/// The usable ranges, in ascending order, with nothing in two of them.
///
/// Single pages are taken from the bottom, contiguous runs from the top: the first are guests' memory and never
/// run dry before the two meet, the second are the kernel's heap and the devices' rings.
#[derive(Clone, Debug)]
pub struct MemoryMap {
    ranges: [Range; MAX_RANGES],
    count: usize,
}

impl MemoryMap {
    /// No memory at all.
    #[must_use]
    pub const fn new() -> Self {
        Self { ranges: [Range { start: 0, end: 0 }; MAX_RANGES], count: 0 }
    }

    /// The ranges.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.ranges[..self.count]
    }

    /// Pages in all ranges together.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.ranges().iter().map(Range::pages).sum()
    }

    /// Adds memory, as far as it is whole pages and not in the map yet. Returns false if there are too many
    /// ranges; the memory is then left unused.
    pub fn add(&mut self, start: u64, end: u64) -> bool {
        let Some(start) = start.checked_next_multiple_of(PAGE) else { return true };
        let end = end / PAGE * PAGE;
        if start >= end {
            return true;
        }
        // What overlaps is cut out first and then covered by the new range, so nothing is in two ranges.
        if !self.remove(start, end) || self.count == MAX_RANGES {
            return false;
        }
        let at = self.ranges().iter().position(|r| r.start > start).unwrap_or(self.count);
        self.ranges.copy_within(at..self.count, at + 1);
        self.ranges[at] = Range { start, end };
        self.count += 1;
        true
    }

    /// Removes memory, together with the pages it only touches. Returns false if the map cannot hold one more
    /// range: then more was removed than asked for, never less.
    pub fn remove(&mut self, start: u64, end: u64) -> bool {
        let start = start / PAGE * PAGE;
        let end = end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX / PAGE * PAGE);
        let mut complete = true;
        let mut i = 0;
        while i < self.count {
            let range = self.ranges[i];
            let below = Range { start: range.start, end: range.end.min(start) };
            let above = Range { start: range.start.max(end), end: range.end };
            match (below.start < below.end, above.start < above.end) {
                (true, true) => {
                    self.ranges[i] = below;
                    if self.count < MAX_RANGES {
                        self.ranges.copy_within(i + 1..self.count, i + 2);
                        self.ranges[i + 1] = above;
                        self.count += 1;
                    } else {
                        complete = false;
                    }
                    return complete;
                }
                (true, false) => self.ranges[i] = below,
                (false, true) => self.ranges[i] = above,
                (false, false) => {
                    self.ranges.copy_within(i + 1..self.count, i);
                    self.count -= 1;
                    continue;
                }
            }
            i += 1;
        }
        complete
    }

    /// Takes up to `pages` pages from the bottom, contiguous ones.
    pub fn take_low(&mut self, pages: u64) -> Option<Range> {
        let first = self.ranges().first().copied()?;
        let end = first.end.min(first.start + pages * PAGE);
        self.ranges[0].start = end;
        if end == first.end {
            self.ranges.copy_within(1..self.count, 0);
            self.count -= 1;
        }
        Some(Range { start: first.start, end })
    }

    /// Takes exactly `pages` contiguous pages from as high as they are found.
    pub fn take_high(&mut self, pages: u64) -> Option<Range> {
        let at = (0..self.count).rev().find(|&i| self.ranges[i].pages() >= pages)?;
        let end = self.ranges[at].end;
        let start = end - pages * PAGE;
        self.ranges[at].end = start;
        if self.ranges[at].pages() == 0 {
            self.ranges.copy_within(at + 1..self.count, at);
            self.count -= 1;
        }
        Some(Range { start, end })
    }
}

impl Default for MemoryMap {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const M: u64 = 1 << 20;

    fn map(ranges: &[(u64, u64)]) -> MemoryMap {
        let mut map = MemoryMap::new();
        for &(start, end) in ranges {
            assert!(map.add(start, end));
        }
        map
    }

    fn list(map: &MemoryMap) -> Vec<(u64, u64)> {
        map.ranges().iter().map(|r| (r.start, r.end)).collect()
    }

    #[test]
    fn partial_pages_are_not_memory() {
        assert_eq!(list(&map(&[(1, 8191)])), []);
        assert_eq!(list(&map(&[(1, 3 * 4096 - 1)])), [(4096, 8192)]);
        assert_eq!(list(&map(&[(u64::MAX - 5, u64::MAX)])), []);
    }

    #[test]
    fn ranges_are_kept_in_order_and_apart() {
        assert_eq!(list(&map(&[(4 * M, 8 * M), (0, M)])), [(0, M), (4 * M, 8 * M)]);
        let overlapping = map(&[(0, 4 * M), (2 * M, 6 * M), (M, 2 * M)]);
        assert_eq!(overlapping.pages(), 6 * M / PAGE);
        let mut last = 0;
        for range in overlapping.ranges() {
            assert!(range.start >= last && range.end > range.start);
            last = range.end;
        }
    }

    #[test]
    fn holes_are_cut_with_every_page_they_touch() {
        let mut m = map(&[(0, 8 * M)]);
        assert!(m.remove(M + 5, M + 6));
        assert_eq!(list(&m), [(0, M), (M + 4096, 8 * M)]);
        assert!(m.remove(0, M));
        assert!(m.remove(7 * M, 9 * M));
        assert_eq!(list(&m), [(M + 4096, 7 * M)]);
        assert!(m.remove(0, 100 * M));
        assert_eq!(m.pages(), 0);
    }

    proptest! {
        /// Whatever is added, removed and taken: a page is in the map exactly if a plain list of pages says so,
        /// and none is given out twice.
        #[test]
        fn the_map_is_the_set_of_its_pages(
            steps in proptest::collection::vec((0u8..4, 0u64..200, 0u64..60, 0u64..4096), 1..30),
        ) {
            let mut map = MemoryMap::new();
            let mut model = [false; 300];
            let mut mark = |range: Range, is_there: bool| {
                for page in range.start / PAGE..range.end / PAGE {
                    let page = usize::try_from(page).unwrap();
                    assert!(is_there || model[page], "page {page} was not in the map");
                    model[page] = is_there;
                }
                model.iter().filter(|page| **page).count() as u64
            };
            for (what, first, count, odd) in steps {
                let nr_pages = match what {
                    0 => {
                        prop_assert!(map.add(first * PAGE, (first + count) * PAGE + odd));
                        mark(Range { start: first * PAGE, end: (first + count) * PAGE }, true)
                    }
                    1 => {
                        let end = (first + count) * PAGE + odd;
                        let before = map.clone();
                        prop_assert!(map.remove(first * PAGE + odd, end));
                        let end = end.next_multiple_of(PAGE);
                        let mut left = before.pages();
                        for range in before.ranges() {
                            let cut = Range { start: range.start.max(first * PAGE), end: range.end.min(end) };
                            if cut.start < cut.end {
                                left = mark(cut, false);
                            }
                        }
                        left
                    }
                    2 => map.take_low(count + 1).map_or(0, |range| mark(range, false)),
                    _ => map.take_high(count + 1).map_or(map.pages(), |range| mark(range, false)),
                };
                prop_assert_eq!(map.pages(), nr_pages);
            }
        }
    }

    #[test]
    fn a_full_map_loses_memory_but_never_gives_out_a_hole() {
        let mut m = map(&[(0, 1024 * M)]);
        for i in 0..100 {
            m.remove(i * 2 * M, i * 2 * M + M);
        }
        for range in m.ranges() {
            assert_eq!(range.start / M % 2, 1, "{range:?}");
        }
    }

    #[test]
    fn pages_come_from_the_bottom_and_runs_from_the_top_until_they_meet() {
        let mut m = map(&[(M, 2 * M), (4 * M, 6 * M)]);
        assert_eq!(m.take_low(3), Some(Range { start: M, end: M + 3 * 4096 }));
        assert_eq!(m.take_high(256), Some(Range { start: 5 * M, end: 6 * M }));
        assert_eq!(m.take_high(300), None);
        assert_eq!(m.take_low(1000), Some(Range { start: M + 3 * 4096, end: 2 * M }));
        assert_eq!(m.take_high(256), Some(Range { start: 4 * M, end: 5 * M }));
        assert_eq!(m.take_low(1), None);
        assert_eq!(m.take_high(1), None);
    }
}
