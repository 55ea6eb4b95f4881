//! The sparse delta of a VM: which of its pages are its own, and where they are. As large as what was touched.

use crate::map::{Key, Map};
use crate::pack::Span;
use alloc::vec::Vec;
use core::ops::Range;
use hal::{NoMemory, Page, Ppn};

/// Where a page of the VM's own is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory; its index among the residents.
    Resident(u32),
    /// In a pack of this VM.
    Packed {
        /// Number of the pack.
        pack: u32,
        /// Where in it.
        span: Span,
    },
    /// Nowhere: it is this word over and over.
    Filled(u64),
    /// Nowhere: it was given back, and is as the image has it, whatever the template has.
    Bare,
}

/// A page in memory.
#[derive(Debug)]
pub struct Resident {
    pub ppn: Ppn,
    pub page: Page,
    /// Whether the VM has used it since the clock came by, or since the VM woke.
    pub is_hot: bool,
}

/// A VM's own pages.
#[derive(Debug)]
pub struct Delta {
    places: Map<Ppn, Place>,
    residents: Vec<Resident>,
    /// Where the clock stands among the residents.
    hand: usize,
}

impl Delta {
    /// Nothing.
    pub fn new(key: Key) -> Self {
        Self { places: Map::with_hasher(key), residents: Vec::new(), hand: 0 }
    }

    /// A number that no guest knows.
    pub fn key(&self) -> Key {
        *self.places.hasher()
    }

    /// Pages that are the VM's own.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Pages of these in memory.
    pub fn nr_residents(&self) -> usize {
        self.residents.len()
    }

    /// All pages and where they are.
    pub fn places(&self) -> impl Iterator<Item = (Ppn, Place)> {
        self.places.iter().map(|(&ppn, &place)| (ppn, place))
    }

    /// Whether nothing is the VM's own.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Those of a range, in the time that the shorter of both takes.
    pub fn places_in(&self, range: Range<u32>) -> impl Iterator<Item = (Ppn, Place)> {
        let is_few = self.places.len() <= range.len();
        let all = is_few.then(|| {
            self.places().filter({
                let range = range.clone();
                move |(ppn, _)| range.contains(&ppn.0)
            })
        });
        let each = (!is_few).then(|| range.filter_map(|n| self.find(Ppn(n)).map(|place| (Ppn(n), place))));
        all.into_iter().flatten().chain(each.into_iter().flatten())
    }

    /// The pages in memory.
    pub fn residents(&self) -> &[Resident] {
        &self.residents
    }

    /// Where a page is, if it is the VM's own.
    pub fn find(&self, ppn: Ppn) -> Option<Place> {
        self.places.get(&ppn).copied()
    }

    /// A page in memory, by its index.
    pub fn resident(&self, index: u32) -> Option<&Resident> {
        self.residents.get(index as usize)
    }

    /// The VM uses a page in memory.
    pub fn warm(&mut self, index: u32) {
        if let Some(resident) = self.residents.get_mut(index as usize) {
            resident.is_hot = true;
        }
    }

    /// The VM uses those pages in memory of which this is true.
    pub fn warm_those(&mut self, mut is_used: impl FnMut(Ppn) -> bool) {
        for resident in &mut self.residents {
            resident.is_hot |= is_used(resident.ppn);
        }
    }

    /// Makes room for one more page of each kind, so that the next `put` cannot fail.
    ///
    /// # Errors
    /// If the kernel's heap has no room.
    pub fn reserve(&mut self) -> Result<(), NoMemory> {
        self.places.try_reserve(1).map_err(|_| NoMemory)?;
        self.residents.try_reserve(1).map_err(|_| NoMemory)
    }

    /// Bytes of the kernel's heap that [`reserve`](Self::reserve) may ask for in one piece: its tables double.
    pub fn growth_bytes(&self) -> u64 {
        const SLOT: usize = size_of::<(Ppn, Place)>() + 1;
        // One place in eight of a table stays free.
        let table = self.places.capacity().saturating_mul(16) / 7;
        let list = self.residents.capacity().saturating_mul(2).saturating_mul(size_of::<Resident>());
        let table = table.saturating_mul(SLOT);
        (if table > list { table } else { list }) as u64
    }

    /// A page is in memory from now on. For its room [`reserve`](Self::reserve) was called. Where it was before
    /// is the caller's business.
    pub fn put_resident(&mut self, ppn: Ppn, page: Page, is_hot: bool) {
        let index = u32::try_from(self.residents.len()).unwrap_or(u32::MAX);
        self.residents.push(Resident { ppn, page, is_hot });
        self.places.insert(ppn, Place::Resident(index));
    }

    /// A page that was not there, or not in memory, is in a pack or filled from now on.
    pub fn put(&mut self, ppn: Ppn, place: Place) {
        self.places.insert(ppn, place);
    }

    /// A page in memory goes: somewhere else, or for good. Returns it, for the caller to release.
    pub fn evict(&mut self, ppn: Ppn, to: Option<Place>) -> Option<Page> {
        let Some(Place::Resident(index)) = self.find(ppn) else { return None };
        let index = index as usize;
        if index >= self.residents.len() {
            return None;
        }
        match to {
            Some(place) => self.change(ppn, place),
            None => drop(self.places.remove(&ppn)),
        }
        let gone = self.residents.swap_remove(index);
        if let Some(moved) = self.residents.get(index).map(|resident| resident.ppn) {
            self.change(moved, Place::Resident(u32::try_from(index).unwrap_or(u32::MAX)));
        }
        Some(gone.page)
    }

    /// A page that is in the map is elsewhere from now on. Not by `insert`: that makes room for one more before it
    /// looks, and memory is short when pages go.
    fn change(&mut self, ppn: Ppn, to: Place) {
        if let Some(place) = self.places.get_mut(&ppn) {
            *place = to;
        }
    }

    /// Forgets a page that is not in memory.
    pub fn forget(&mut self, ppn: Ppn) {
        self.places.remove(&ppn);
    }

    /// Moves the clock's hand and returns the page it comes to, and whether it was hot; it is no more. `used`
    /// says whether the guest has used it lately.
    pub fn tick(&mut self, mut used: impl FnMut(Ppn) -> bool) -> Option<(Ppn, bool)> {
        if self.hand >= self.residents.len() {
            self.hand = 0;
        }
        let resident = self.residents.get_mut(self.hand)?;
        self.hand = self.hand.saturating_add(1);
        let was_hot = core::mem::take(&mut resident.is_hot);
        Some((resident.ppn, used(resident.ppn) | was_hot))
    }

    /// Takes a page in memory out, any of them, of a VM that ends or is parked.
    pub fn pop_resident(&mut self) -> Option<Resident> {
        self.residents.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hal::Mpn;

    #[test]
    fn it_says_beforehand_what_its_tables_will_take() {
        let mut delta = Delta::new(Key(7));
        let (mut before, mut grown) = (0, 0);
        for next in 0..100_000 {
            let said = delta.growth_bytes();
            delta.reserve().unwrap();
            let places = delta.places.capacity();
            if places != before && next > 100 {
                // Its buckets, a power of two, and a byte for each.
                let bytes = (places * 8 / 7) * (size_of::<(Ppn, Place)>() + 1);
                assert!(said >= bytes as u64, "{said} for {bytes}");
                assert!(said <= bytes as u64 * 2, "{said} for {bytes}");
                grown += 1;
            }
            before = places;
            delta.put_resident(Ppn(next), Page::new(Mpn(next)), true);
        }
        assert!(grown > 8);
    }

    #[test]
    fn a_page_that_goes_takes_no_room_although_the_map_is_full() {
        let mut delta = Delta::new(Key(7));
        let mut next = 0;
        while next == 0 || delta.len() < delta.places.capacity() {
            delta.reserve().unwrap();
            delta.put_resident(Ppn(next), Page::new(Mpn(next)), true);
            next += 1;
        }
        let room = delta.places.capacity();
        for ppn in (0..next).map(Ppn) {
            let page = delta.evict(ppn, Some(Place::Filled(5))).unwrap();
            assert_eq!(page.mpn(), Mpn(ppn.0), "the right one goes");
            assert_eq!((delta.find(ppn), delta.places.capacity()), (Some(Place::Filled(5)), room));
        }
        assert_eq!((delta.len(), delta.nr_residents()), (next as usize, 0));
    }
}
