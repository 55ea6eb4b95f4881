//! What each page of an address space is, by ranges of pages.

use alloc::collections::BTreeMap;
use core::ops::Range;

/// A value for each of some ranges of pages, which do not overlap.
#[derive(Debug)]
pub(super) struct Ranges<T> {
    /// By first page: the page behind the last, and the value.
    by_start: BTreeMap<u64, (u64, T)>,
}

impl<T: Clone> Ranges<T> {
    pub const fn new() -> Self {
        Self { by_start: BTreeMap::new() }
    }

    /// How many ranges there are.
    pub fn len(&self) -> usize {
        self.by_start.len()
    }

    /// The value of a page, and the range it was found in.
    pub fn get(&self, page: u64) -> Option<(Range<u64>, &T)> {
        let (&start, (end, value)) = self.by_start.range(..=page).next_back()?;
        (page < *end).then_some((start..*end, value))
    }

    /// Whether any page of the range has a value.
    pub fn overlaps(&self, pages: &Range<u64>) -> bool {
        self.by_start.range(..pages.end).next_back().is_some_and(|(_, (end, _))| *end > pages.start)
    }

    /// Whether every page of the range has a value.
    pub fn covers(&self, pages: &Range<u64>) -> bool {
        let mut at = pages.start;
        while at < pages.end {
            match self.get(at) {
                Some((found, _)) => at = found.end,
                None => return false,
            }
        }
        true
    }

    /// Gives pages that have none a value. Says whether it did: it does not if one of them has a value.
    pub fn insert(&mut self, pages: Range<u64>, value: T) -> bool {
        if pages.is_empty() || self.overlaps(&pages) {
            return false;
        }
        self.by_start.insert(pages.start, (pages.end, value));
        true
    }

    /// Takes the values of a range of pages, whether they have one or not, and returns what was there.
    pub fn remove(&mut self, pages: &Range<u64>) -> BTreeMap<u64, (u64, T)> {
        self.split(pages.start);
        self.split(pages.end);
        let mut removed = self.by_start.split_off(&pages.start);
        let mut above = removed.split_off(&pages.end);
        self.by_start.append(&mut above);
        removed
    }

    /// Changes the values of a range of pages.
    pub fn update(&mut self, pages: &Range<u64>, mut change: impl FnMut(&mut T)) {
        self.split(pages.start);
        self.split(pages.end);
        for (_, value) in self.by_start.range_mut(pages.clone()).map(|(_, entry)| entry) {
            change(value);
        }
    }

    /// Makes `page` the first of a range, if it is in one.
    fn split(&mut self, page: u64) {
        let Some((&start, (end, value))) = self.by_start.range_mut(..page).next_back() else { return };
        if page < *end && start < page {
            let rest = (core::mem::replace(end, page), value.clone());
            self.by_start.insert(page, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const PAGES: usize = 40;
    const END: u64 = PAGES as u64;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Range<u64>, u8),
        Remove(Range<u64>),
        Update(Range<u64>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let pages = (0..END, 0..END / 2).prop_map(|(start, length)| start..(start + length).min(END));
        prop_oneof![
            (pages.clone(), any::<u8>()).prop_map(|(pages, value)| Step::Insert(pages, value)),
            pages.clone().prop_map(Step::Remove),
            pages.prop_map(Step::Update),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_an_array_of_pages(steps in proptest::collection::vec(step(), 0..60)) {
            let mut ranges = Ranges::new();
            let mut model = [None::<u8>; PAGES];
            let at = |pages: &Range<u64>| usize::try_from(pages.start).unwrap()..usize::try_from(pages.end).unwrap();
            for step in steps {
                match step {
                    Step::Insert(pages, value) => {
                        let is_free = !pages.is_empty() && model[at(&pages)].iter().all(Option::is_none);
                        prop_assert_eq!(ranges.insert(pages.clone(), value), is_free);
                        if is_free {
                            model[at(&pages)].fill(Some(value));
                        }
                    }
                    Step::Remove(pages) => {
                        let removed: u64 = ranges.remove(&pages).iter().map(|(start, (end, _))| end - start).sum();
                        prop_assert_eq!(removed, model[at(&pages)].iter().flatten().count() as u64);
                        model[at(&pages)].fill(None);
                    }
                    Step::Update(pages) => {
                        ranges.update(&pages, |value| *value = value.wrapping_add(1));
                        for value in model[at(&pages)].iter_mut().flatten() {
                            *value = value.wrapping_add(1);
                        }
                    }
                }
                let found: Vec<_> = (0..END).map(|page| ranges.get(page).map(|(_, &value)| value)).collect();
                prop_assert_eq!(&found[..], &model[..]);
                for start in 0..END {
                    let pages = start..(start + 7).min(END);
                    let values = &model[at(&pages)];
                    prop_assert_eq!(ranges.covers(&pages), values.iter().all(Option::is_some));
                    prop_assert_eq!(ranges.overlaps(&pages), values.iter().any(Option::is_some));
                }
            }
        }
    }
}
