//! A heap of entities by a time, in which each knows its place: the first is found at once, and any can be taken out.

use super::nodes::{NONE, Places};
use alloc::vec::Vec;
use hal::NoMemory;

/// Children of a place. With four the way down is half as long as with two, and they lie in one cache line.
const ARITY: usize = 4;

/// Whether a time is before another. Times wrap round, but are never half the range apart.
pub(super) const fn is_before(a: u64, b: u64) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

/// Entities by time, the earliest first. `SLOT` is which of their places is theirs here.
#[derive(Debug)]
pub(super) struct Heap<const SLOT: usize> {
    items: Vec<(u64, u32)>,
}

impl<const SLOT: usize> Heap<SLOT> {
    pub const fn new() -> Self {
        Self { items: Vec::new() }
    }

    /// Makes room for so many entities all together, so that `push` does not allocate.
    pub fn reserve(&mut self, nr: usize) -> Result<(), NoMemory> {
        if nr <= self.items.capacity() {
            return Ok(());
        }
        self.items.try_reserve(nr.saturating_sub(self.items.len())).map_err(|_| NoMemory)
    }

    pub const fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub const fn len(&self) -> usize {
        self.items.len()
    }

    /// The earliest and its time.
    #[inline(always)]
    pub fn first(&self) -> Option<(u64, u32)> {
        self.items.first().copied()
    }

    /// One of the latter half, another for each `n`.
    pub fn late(&self, n: u32) -> Option<u32> {
        let half = self.items.len().div_ceil(2).max(1);
        self.items.iter().rev().nth(n as usize % half).map(|&(_, id)| id)
    }

    #[inline]
    pub fn push(&mut self, places: &mut Places, key: u64, id: u32) {
        self.items.push((key, id));
        if self.items.len() == 1 {
            return set_place::<SLOT>(places, id, 0);
        }
        self.rise(places, self.items.len() - 1, (key, id));
    }

    /// Takes the earliest out.
    #[inline(always)]
    pub fn pop(&mut self, places: &mut Places) -> Option<u32> {
        let &(_, id) = self.items.first()?;
        let last = self.items.pop()?;
        if !self.items.is_empty() {
            self.sink(places, 0, last);
        }
        Some(id)
    }

    /// Takes an entity out, if it is in.
    #[inline]
    pub fn remove(&mut self, places: &mut Places, id: u32) {
        let at = place_of::<SLOT>(places, id) as usize;
        if self.items.get(at).is_none_or(|&(_, found)| found != id) {
            return;
        }
        let Some(last) = self.items.pop() else { return };
        if at == self.items.len() {
            return;
        }
        self.fill(places, at, last);
    }

    /// Fills a place that has become free with what was last.
    #[inline(never)]
    fn fill(&mut self, places: &mut Places, at: usize, last: (u64, u32)) {
        let is_above = at > 0 && self.items.get((at - 1) / ARITY).is_some_and(|parent| is_before(last.0, parent.0));
        if is_above {
            self.rise(places, at, last);
        } else {
            self.sink(places, at, last);
        }
    }

    /// Puts an item at a place or above it.
    #[inline(never)]
    fn rise(&mut self, places: &mut Places, mut at: usize, item: (u64, u32)) {
        while at > 0 {
            let above = (at - 1) / ARITY;
            let Some(&parent) = self.items.get(above) else { break };
            if !is_before(item.0, parent.0) {
                break;
            }
            self.set(places, at, parent);
            at = above;
        }
        self.set(places, at, item);
    }

    /// Puts an item at a place or below it.
    #[inline(never)]
    fn sink(&mut self, places: &mut Places, mut at: usize, item: (u64, u32)) {
        loop {
            let first = at * ARITY + 1;
            let end = (first + ARITY).min(self.items.len());
            let Some(children) = self.items.get(first..end) else { break };
            let Some((mut least, rest)) = children.split_first() else { break };
            let mut below = first;
            for (n, child) in rest.iter().enumerate() {
                if is_before(child.0, least.0) {
                    (least, below) = (child, first + n + 1);
                }
            }
            if !is_before(least.0, item.0) {
                break;
            }
            let least = *least;
            self.set(places, at, least);
            at = below;
        }
        self.set(places, at, item);
    }

    #[expect(clippy::cast_possible_truncation, reason = "there are no more entities than numbers for them")]
    fn set(&mut self, places: &mut Places, at: usize, item: (u64, u32)) {
        if let Some(place) = self.items.get_mut(at) {
            *place = item;
            set_place::<SLOT>(places, item.1, at as u32);
        }
    }

    /// Whether the order is as it must be, and everybody knows its place.
    #[cfg(test)]
    pub fn is_sound(&self, places: &Places) -> bool {
        self.items.iter().enumerate().all(|(at, &(key, id))| {
            let is_ordered = at == 0 || !is_before(key, self.items[(at - 1) / ARITY].0);
            is_ordered && place_of::<SLOT>(places, id) as usize == at
        })
    }
}

#[inline(always)]
fn place_of<const SLOT: usize>(places: &Places, id: u32) -> u32 {
    places.get(id as usize).and_then(|places| places.get(SLOT)).copied().unwrap_or(NONE)
}

#[inline(always)]
fn set_place<const SLOT: usize>(places: &mut Places, id: u32, at: u32) {
    if let Some(place) = places.get_mut(id as usize).and_then(|places| places.get_mut(SLOT)) {
        *place = at;
    }
}
