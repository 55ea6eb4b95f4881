//! Sets of VM numbers, a bit each: what the supervisor may know of every VM of a large machine.

use alloc::vec::Vec;
use core::ops::Range;

/// A set of VM numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
    count: u32,
}

/// Word and bit of a number.
const fn place(vm: u32) -> (usize, u64) {
    ((vm / 64) as usize, 1 << (vm % 64))
}

impl Bits {
    /// The numbers in these ranges.
    #[must_use]
    pub fn of(ranges: impl IntoIterator<Item = Range<u32>>) -> Self {
        let mut bits = Self::default();
        ranges.into_iter().flatten().for_each(|vm| {
            bits.insert(vm);
        });
        bits
    }

    /// Adds a number. Says whether it is new.
    pub fn insert(&mut self, vm: u32) -> bool {
        let (word, bit) = place(vm);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u32::from(is_new);
        is_new
    }

    /// Whether a number is in it.
    #[must_use]
    pub fn contains(&self, vm: u32) -> bool {
        let (word, bit) = place(vm);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(numbers in proptest::collection::vec(0u32..2000, 0..300), asked in 0u32..4000) {
            let mut bits = Bits::default();
            let mut set = BTreeSet::new();
            for vm in numbers {
                prop_assert_eq!(bits.insert(vm), set.insert(vm));
            }
            prop_assert_eq!(bits.count() as usize, set.len());
            prop_assert_eq!(bits.contains(asked), set.contains(&asked));
        }
    }

    #[test]
    fn a_hundred_thousand_take_as_many_bits() {
        let bits = Bits::of(core::iter::once(1..100_001));
        assert_eq!((bits.count(), bits.contains(0), bits.contains(100_000)), (100_000, false, true));
        assert!(bits.words.len() * 8 <= 100_001 / 8 + 8);
    }
}
