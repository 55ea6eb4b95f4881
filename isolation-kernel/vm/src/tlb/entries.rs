//! The entries of a TLB: found by their key, and by the physical page that they are for.

use crate::map::{Key as Hash, Map, Mix};
use alloc::vec::Vec;
use core::hash::Hasher;
use hal::NoMemory;
use virtual_isa::limits::TLB_ENTRIES;
use virtual_isa::tlb::{Entry, Key, Right};

/// No entry.
const NONE: u16 = u16::MAX;
const _: () = assert!(TLB_ENTRIES < NONE as usize);

/// In which of the two tables of its asid an entry may be mapped: a bit for each right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Views(u8);

impl Views {
    const fn bit(right: Right) -> u8 {
        1 << right as u8
    }

    /// Whether that table may have it.
    pub const fn has(self, right: Right) -> bool {
        self.0 & Self::bit(right) != 0
    }

    /// Whether a table may have it.
    pub const fn is_any(self) -> bool {
        self.0 != 0
    }
}

/// An entry, and its neighbours in the list of those that are for the same physical page.
#[derive(Clone, Copy, Debug)]
struct Slot {
    entry: Entry,
    views: Views,
    next: u16,
    before: u16,
}

/// The entries, without holes: whichever is last takes the place of one that goes.
#[derive(Debug)]
pub struct Entries {
    slots: Vec<Slot>,
    by_key: Map<u64, u16>,
    /// The first entry for each physical page.
    by_physical: Map<u32, u16>,
    /// What chooses who makes room.
    chance: u64,
}

impl Entries {
    /// None.
    pub fn new(hash: Hash) -> Self {
        let (by_key, by_physical) = (Map::with_hasher(hash), Map::with_hasher(hash));
        Self { slots: Vec::new(), by_key, by_physical, chance: hash.0 }
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no room without one going.
    pub const fn is_full(&self) -> bool {
        self.len() >= TLB_ENTRIES
    }

    /// Bytes that they take of the kernel's heap.
    pub fn bytes(&self) -> usize {
        let slots = self.slots.capacity().saturating_mul(size_of::<Slot>());
        slots.saturating_add(self.by_key.allocation_size()).saturating_add(self.by_physical.allocation_size())
    }

    /// Makes room for so many more, as far as there can be more at all.
    ///
    /// # Errors
    /// If the kernel's heap has none.
    pub fn reserve(&mut self, count: usize) -> Result<(), NoMemory> {
        let more = count.min(TLB_ENTRIES.saturating_sub(self.len()));
        self.slots.try_reserve(more).map_err(|_| NoMemory)?;
        self.by_key.try_reserve(more).map_err(|_| NoMemory)?;
        self.by_physical.try_reserve(more).map_err(|_| NoMemory)
    }

    /// Where the entry for a key is.
    pub fn find(&self, key: Key) -> Option<u16> {
        self.by_key.get(&key.to_word()).copied()
    }

    /// The entry at a place.
    pub fn get(&self, at: u16) -> Option<&Entry> {
        self.slots.get(usize::from(at)).map(|slot| &slot.entry)
    }

    /// Where the first entry from a place on is of which this is true.
    pub fn position(&self, from: u16, is_it: impl Fn(Key) -> bool) -> Option<u16> {
        let rest = self.slots.get(usize::from(from)..)?;
        let at = rest.iter().position(|slot| is_it(slot.entry.key))?;
        u16::try_from(at).ok()?.checked_add(from)
    }

    /// A number that no guest can guess, and another one each time.
    pub fn chance(&mut self) -> u64 {
        let mut mix = Mix::default();
        mix.write_u64(self.chance);
        self.chance = mix.finish();
        self.chance
    }

    /// Any of them, as chance has it.
    pub fn any(&mut self) -> Option<u16> {
        let at = self.chance().checked_rem(self.slots.len() as u64)?;
        u16::try_from(at).ok()
    }

    /// Adds an entry, whose key has none, and for which room was [reserved](Self::reserve).
    pub fn insert(&mut self, entry: Entry) {
        let Ok(at) = u16::try_from(self.slots.len()) else { return };
        let next = self.by_physical.insert(entry.physical, at).unwrap_or(NONE);
        if let Some(slot) = self.slots.get_mut(usize::from(next)) {
            slot.before = at;
        }
        self.slots.push(Slot { entry, views: Views::default(), next, before: NONE });
        self.by_key.insert(entry.key.to_word(), at);
    }

    /// Removes the entry at a place. Returns it, and which tables may have it.
    pub fn remove(&mut self, at: u16) -> Option<(Entry, Views)> {
        let &Slot { entry, views, next, before } = self.slots.get(usize::from(at))?;
        self.by_key.remove(&entry.key.to_word());
        self.point(before, next, entry.physical);
        if let Some(slot) = self.slots.get_mut(usize::from(next)) {
            slot.before = before;
        }
        self.slots.swap_remove(usize::from(at));
        // Who was last is there now: its neighbours and its key have to know.
        if let Some(&Slot { entry: moved, next, before, .. }) = self.slots.get(usize::from(at)) {
            self.by_key.insert(moved.key.to_word(), at);
            self.point(before, at, moved.physical);
            if let Some(slot) = self.slots.get_mut(usize::from(next)) {
                slot.before = at;
            }
        }
        Some((entry, views))
    }

    /// Lets what comes before a place in the list of a physical page lead to another place.
    fn point(&mut self, before: u16, to: u16, physical: u32) {
        match self.slots.get_mut(usize::from(before)) {
            Some(slot) => slot.next = to,
            None if to == NONE => drop(self.by_physical.remove(&physical)),
            None => drop(self.by_physical.insert(physical, to)),
        }
    }

    /// A table has the entry at a place from now on.
    pub fn note_mapped(&mut self, at: u16, right: Right) {
        if let Some(slot) = self.slots.get_mut(usize::from(at)) {
            slot.views.0 |= Views::bit(right);
        }
    }

    /// The entries for a physical page and the tables that may have them. `forget` says that they do no more.
    pub fn each_of(&mut self, physical: u32, forget: bool, mut see: impl FnMut(Key, Views)) {
        let mut at = self.by_physical.get(&physical).copied().unwrap_or(NONE);
        while let Some(slot) = self.slots.get_mut(usize::from(at)) {
            if slot.views.is_any() {
                see(slot.entry.key, slot.views);
                if forget {
                    slot.views = Views::default();
                }
            }
            at = slot.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;
    use virtual_isa::tlb::Rights;

    fn entry(asid: u16, page: u32, physical: u32) -> Entry {
        Entry { key: Key { asid, page }, physical, rights: Rights::READ }
    }

    /// What the lists say of each physical page, and whether they hang together.
    fn by_physical(entries: &Entries) -> BTreeMap<u32, Vec<Key>> {
        let mut all = BTreeMap::new();
        for (&physical, &first) in &entries.by_physical {
            let (mut before, mut at) = (NONE, first);
            let mut keys = Vec::new();
            while at != NONE {
                let slot = &entries.slots[usize::from(at)];
                assert_eq!((slot.before, slot.entry.physical), (before, physical));
                assert!(keys.len() < entries.len(), "a list without end");
                keys.push(slot.entry.key);
                (before, at) = (at, slot.next);
            }
            keys.sort_unstable();
            all.insert(physical, keys);
        }
        all
    }

    proptest! {
        #[test]
        fn entries_are_what_was_loaded_and_not_dropped(
            steps in proptest::collection::vec((1u16..4, 1u32..20, 1u32..6, any::<bool>()), 0..300),
        ) {
            let mut entries = Entries::new(Hash(7));
            let mut model = BTreeMap::new();
            for (asid, page, physical, is_load) in steps {
                let entry = entry(asid, page, physical);
                if let Some(at) = entries.find(entry.key) {
                    prop_assert_eq!(entries.remove(at).map(|(e, _)| e), model.remove(&entry.key));
                } else {
                    prop_assert!(!model.contains_key(&entry.key));
                }
                if is_load {
                    entries.reserve(1).unwrap();
                    entries.insert(entry);
                    model.insert(entry.key, entry);
                }
                prop_assert_eq!(entries.len(), model.len());
                for (&key, expected) in &model {
                    let at = entries.find(key);
                    prop_assert_eq!(at.and_then(|at| entries.get(at)), Some(expected));
                }
                let mut expected: BTreeMap<u32, Vec<Key>> = BTreeMap::new();
                for e in model.values() {
                    expected.entry(e.physical).or_default().push(e.key);
                }
                prop_assert_eq!(by_physical(&entries), expected);
            }
        }
    }

    #[test]
    fn a_view_is_told_of_until_it_is_forgotten() {
        let mut entries = Entries::new(Hash(1));
        entries.reserve(3).unwrap();
        for (asid, page) in [(1, 5), (2, 6), (3, 7)] {
            entries.insert(entry(asid, page, 9));
        }
        let at = entries.find(Key { asid: 2, page: 6 }).unwrap();
        entries.note_mapped(at, Right::Kernel);
        let mut seen = Vec::new();
        entries.each_of(9, false, |key, views| seen.push((key.asid, views.has(Right::User), views.has(Right::Kernel))));
        entries.each_of(9, true, |key, views| seen.push((key.asid, views.has(Right::User), views.has(Right::Kernel))));
        entries.each_of(9, true, |_, _| panic!("it was forgotten"));
        assert_eq!(seen, [(2, false, true); 2]);
    }

    #[test]
    fn a_full_tlb_takes_no_more_of_the_heap_than_is_said() {
        let mut entries = Entries::new(Hash(5));
        for page in 1..=u32::try_from(TLB_ENTRIES).unwrap() {
            entries.reserve(1).unwrap();
            entries.insert(entry(1, page, page));
        }
        assert!(entries.is_full());
        // The caveats say how much.
        assert!((100 << 10..=170 << 10).contains(&entries.bytes()), "{}", entries.bytes());
    }

    #[test]
    fn chance_comes_to_all() {
        let mut entries = Entries::new(Hash(3));
        assert_eq!(entries.any(), None);
        entries.reserve(8).unwrap();
        (1..=8).for_each(|page| entries.insert(entry(1, page, page)));
        let mut seen = [false; 8];
        (0..200).for_each(|_| seen[usize::from(entries.any().unwrap())] = true);
        assert_eq!(seen, [true; 8]);
    }
}
