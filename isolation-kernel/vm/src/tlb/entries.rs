//! The entries of a TLB: found by their key, and by the physical page that they are for.

use crate::map::{Key as Hash, Mix};
use alloc::vec::Vec;
use core::hash::{BuildHasher, Hasher};
use hal::NoMemory;
use hashbrown::HashTable;
use virtual_isa::limits::TLB_ENTRIES;
use virtual_isa::tlb::{Entry, Key, Right, Rights};

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

/// An entry in few bytes, and its neighbours in the list of those that are for the same physical page.
#[derive(Clone, Copy, Debug)]
struct Slot {
    page: u32,
    physical: u32,
    asid: u16,
    next: u16,
    before: u16,
    rights: u8,
    views: Views,
}

const _: () = assert!(size_of::<Slot>() == 16);

impl Slot {
    fn new(entry: &Entry) -> Self {
        let &Entry { key: Key { asid, page }, physical, rights } = entry;
        // All bits that there are fit.
        let rights = u8::try_from(rights.bits()).unwrap_or(0);
        Self { page, physical, asid, next: NONE, before: NONE, rights, views: Views::default() }
    }

    const fn key(&self) -> Key {
        Key { asid: self.asid, page: self.page }
    }

    const fn entry(&self) -> Entry {
        Entry { key: self.key(), physical: self.physical, rights: Rights::from_bits_truncate(self.rights as u64) }
    }
}

/// The entries, without holes: whichever is last takes the place of one that goes.
#[derive(Debug)]
pub struct Entries {
    slots: Vec<Slot>,
    /// Places of entries, by their keys.
    by_key: HashTable<u16>,
    /// Places of the first entries for each physical page.
    by_physical: HashTable<u16>,
    hash: Hash,
    /// What chooses who makes room.
    chance: u64,
}

fn hash_of_key(hash: Hash, key: Key) -> u64 {
    let mut mix = hash.build_hasher();
    mix.write_u64(key.to_word());
    mix.finish()
}

fn hash_of_physical(hash: Hash, physical: u32) -> u64 {
    let mut mix = hash.build_hasher();
    mix.write_u32(physical);
    mix.finish()
}

/// A hash of what is at a place, for a table that grows.
fn rehash<'a>(slots: &'a [Slot], hash: impl Fn(&Slot) -> u64 + 'a) -> impl Fn(&u16) -> u64 + 'a {
    move |&at| slots.get(usize::from(at)).map_or(0, &hash)
}

impl Entries {
    /// None.
    pub const fn new(hash: Hash) -> Self {
        Self { slots: Vec::new(), by_key: HashTable::new(), by_physical: HashTable::new(), hash, chance: hash.0 }
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

    /// Makes room for so many to be added, or put in the place of others.
    ///
    /// # Errors
    /// If the kernel's heap has none.
    pub fn reserve(&mut self, count: usize) -> Result<(), NoMemory> {
        let more = count.min(TLB_ENTRIES.saturating_sub(self.len()));
        self.slots.try_reserve(more).map_err(|_| NoMemory)?;
        let (slots, hash) = (&self.slots, self.hash);
        let of_key = rehash(slots, |slot| hash_of_key(hash, slot.key()));
        self.by_key.try_reserve(count, of_key).map_err(|_| NoMemory)?;
        let of_physical = rehash(slots, |slot| hash_of_physical(hash, slot.physical));
        self.by_physical.try_reserve(count, of_physical).map_err(|_| NoMemory)
    }

    /// Where the entry for a key is.
    pub fn find(&self, key: Key) -> Option<u16> {
        let is_it = |&at: &u16| self.slots.get(usize::from(at)).is_some_and(|slot| slot.key() == key);
        self.by_key.find(hash_of_key(self.hash, key), is_it).copied()
    }

    /// The entry at a place.
    pub fn get(&self, at: u16) -> Option<Entry> {
        self.slots.get(usize::from(at)).map(Slot::entry)
    }

    /// Where the first entry from a place on is of which this is true.
    pub fn position(&self, from: u16, is_it: impl Fn(Key) -> bool) -> Option<u16> {
        let rest = self.slots.get(usize::from(from)..)?;
        let at = rest.iter().position(|slot| is_it(slot.key()))?;
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
    pub fn insert(&mut self, entry: &Entry) {
        let Ok(at) = u16::try_from(self.slots.len()) else { return };
        self.slots.push(Slot::new(entry));
        self.add_key(at, entry.key);
        self.link(at, entry.physical);
    }

    /// Puts an entry in the place of another one; its own key has none, or is that one's. Room was
    /// [reserved](Self::reserve). Returns what was there, and which tables may have it.
    pub fn replace(&mut self, at: u16, entry: &Entry) -> Option<(Entry, Views)> {
        let slot = self.slots.get_mut(usize::from(at))?;
        let (old, views) = (slot.entry(), slot.views);
        let is_same_page = old.physical == entry.physical;
        if is_same_page && old.key == entry.key {
            *slot = Slot { next: slot.next, before: slot.before, ..Slot::new(entry) };
            return Some((old, views));
        }
        self.remove_key(at, old.key);
        self.unlink(at);
        if let Some(slot) = self.slots.get_mut(usize::from(at)) {
            *slot = Slot::new(entry);
        }
        self.add_key(at, entry.key);
        self.link(at, entry.physical);
        Some((old, views))
    }

    /// Removes the entry at a place. Returns it, and which tables may have it.
    pub fn remove(&mut self, at: u16) -> Option<(Entry, Views)> {
        let slot = self.slots.get(usize::from(at))?;
        let (old, views) = (slot.entry(), slot.views);
        self.remove_key(at, old.key);
        self.unlink(at);
        let last = u16::try_from(self.slots.len().saturating_sub(1)).unwrap_or(NONE);
        if at != last
            && let Some(&moved) = self.slots.get(usize::from(last))
        {
            // Who was last is there from now on: its key and its neighbours have to know.
            let (key, physical) = (hash_of_key(self.hash, moved.key()), hash_of_physical(self.hash, moved.physical));
            rename(&mut self.by_key, key, last, at);
            match self.slots.get_mut(usize::from(moved.before)) {
                Some(before) => before.next = at,
                None => rename(&mut self.by_physical, physical, last, at),
            }
            if let Some(next) = self.slots.get_mut(usize::from(moved.next)) {
                next.before = at;
            }
        }
        self.slots.swap_remove(usize::from(at));
        Some((old, views))
    }

    fn add_key(&mut self, at: u16, key: Key) {
        let (slots, hash) = (&self.slots, self.hash);
        let of_key = rehash(slots, |slot| hash_of_key(hash, slot.key()));
        self.by_key.insert_unique(hash_of_key(hash, key), at, of_key);
    }

    fn remove_key(&mut self, at: u16, key: Key) {
        if let Ok(entry) = self.by_key.find_entry(hash_of_key(self.hash, key), |&other| other == at) {
            entry.remove();
        }
    }

    /// Puts the entry at a place in front of the list of its physical page.
    fn link(&mut self, at: u16, physical: u32) {
        let (slots, hash) = (&self.slots, self.hash);
        let is_it = |&first: &u16| slots.get(usize::from(first)).is_some_and(|slot| slot.physical == physical);
        let place = hash_of_physical(hash, physical);
        let first = match self.by_physical.find_mut(place, is_it) {
            Some(first) => core::mem::replace(first, at),
            None => {
                let of_physical = rehash(slots, |slot| hash_of_physical(hash, slot.physical));
                self.by_physical.insert_unique(place, at, of_physical);
                NONE
            }
        };
        if let Some(slot) = self.slots.get_mut(usize::from(at)) {
            slot.next = first;
        }
        if let Some(slot) = self.slots.get_mut(usize::from(first)) {
            slot.before = at;
        }
    }

    /// Takes the entry at a place out of the list of its physical page.
    fn unlink(&mut self, at: u16) {
        let Some(&Slot { physical, next, before, .. }) = self.slots.get(usize::from(at)) else { return };
        if let Some(slot) = self.slots.get_mut(usize::from(next)) {
            slot.before = before;
        }
        if let Some(slot) = self.slots.get_mut(usize::from(before)) {
            slot.next = next;
            return;
        }
        let place = hash_of_physical(self.hash, physical);
        if next != NONE {
            rename(&mut self.by_physical, place, at, next);
        } else if let Ok(entry) = self.by_physical.find_entry(place, |&first| first == at) {
            entry.remove();
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
        let slots = &mut self.slots;
        let is_it = |&first: &u16| slots.get(usize::from(first)).is_some_and(|slot| slot.physical == physical);
        let first = self.by_physical.find(hash_of_physical(self.hash, physical), is_it);
        let mut at = first.copied().unwrap_or(NONE);
        while let Some(slot) = slots.get_mut(usize::from(at)) {
            if slot.views.is_any() {
                see(slot.key(), slot.views);
                if forget {
                    slot.views = Views::default();
                }
            }
            at = slot.next;
        }
    }
}

/// Puts another place where one was.
fn rename(table: &mut HashTable<u16>, hash: u64, from: u16, to: u16) {
    if let Some(at) = table.find_mut(hash, |&at| at == from) {
        *at = to;
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
        for &first in &entries.by_physical {
            let physical = entries.slots[usize::from(first)].physical;
            let (mut before, mut at) = (NONE, first);
            let mut keys = Vec::new();
            while at != NONE {
                let slot = &entries.slots[usize::from(at)];
                assert_eq!((slot.before, slot.physical), (before, physical));
                assert!(keys.len() < entries.len(), "a list without end");
                keys.push(slot.key());
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
                entries.reserve(1).unwrap();
                match entries.find(entry.key) {
                    Some(at) if is_load => {
                        let old = entries.replace(at, &entry).map(|(e, _)| e);
                        prop_assert_eq!(old, model.insert(entry.key, entry));
                    }
                    Some(at) => prop_assert_eq!(entries.remove(at).map(|(e, _)| e), model.remove(&entry.key)),
                    None => {
                        prop_assert!(!model.contains_key(&entry.key));
                        match entries.any() {
                            // As if there were no room.
                            Some(at) if is_load && entries.len() >= 12 => {
                                let old = entries.replace(at, &entry).unwrap().0;
                                prop_assert_eq!(model.remove(&old.key), Some(old));
                                model.insert(entry.key, entry);
                            }
                            _ if is_load => {
                                entries.insert(&entry);
                                model.insert(entry.key, entry);
                            }
                            _ => {}
                        }
                    }
                }
                prop_assert_eq!(entries.len(), model.len());
                for (&key, expected) in &model {
                    let at = entries.find(key);
                    prop_assert_eq!(at.and_then(|at| entries.get(at)), Some(*expected));
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
            entries.insert(&entry(asid, page, 9));
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
            entries.insert(&entry(1, page, page));
        }
        assert!(entries.is_full());
        for page in 1..20_000 {
            entries.reserve(64).unwrap();
            let at = entries.any().unwrap();
            entries.replace(at, &entry(2, page, page));
        }
        // The caveats say how much.
        assert!((50 << 10..=80 << 10).contains(&entries.bytes()), "{}", entries.bytes());
    }

    #[test]
    fn chance_comes_to_all() {
        let mut entries = Entries::new(Hash(3));
        assert_eq!(entries.any(), None);
        entries.reserve(8).unwrap();
        (1..=8).for_each(|page| entries.insert(&entry(1, page, page)));
        let mut seen = [false; 8];
        (0..200).for_each(|_| seen[usize::from(entries.any().unwrap())] = true);
        assert_eq!(seen, [true; 8]);
    }
}
