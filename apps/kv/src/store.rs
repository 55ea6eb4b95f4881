//! Keys, their values, and when they expire.
//!
//! Keys are sorted by a keyed hash of theirs, then by themselves: a cursor of `SCAN` is a hash, so that a key that is
//! there from the beginning of a scan to its end is seen once, whatever comes and goes meanwhile, and no state is kept
//! for a scan. A tree never has to be made anew in one piece, as a table would when it grows.
//!
//! Deadlines are in a tree of their own: the next one is found, and what is due is removed, without looking at the rest.
//! Whatever is due is not there for anybody who asks, removed or not. `now` is always an argument, in milliseconds.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::hash::Hasher;
use core::ops::Bound;
use siphasher::sip::SipHasher13;

/// Longest key.
pub const MAX_KEY_BYTES: usize = 16 << 10;

/// Bytes of a key's hash.
const HASH_BYTES: usize = 8;

/// What a key takes besides its bytes and its value's: its part of a tree's node when nodes are half full (91 bytes), of
/// the nodes above (20), and two allocations with their counts, hash and tags (72).
const ENTRY_BYTES: usize = 192;

/// What a deadline takes: its part of a node of the other tree.
const DEADLINE_BYTES: usize = 80;

/// The value would not fit into what data may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// When what is set expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    Never,
    /// When what was there would have.
    Keep,
    /// At this time.
    At(u64),
}

/// Hash and key, in one string.
type Name = Rc<[u8]>;

#[derive(Debug)]
struct Entry {
    value: Box<[u8]>,
    deadline: Option<u64>,
}

impl Entry {
    fn is_due(&self, now: u64) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    fn cost(&self, key_bytes: usize) -> usize {
        cost(key_bytes, self.value.len(), self.deadline.is_some())
    }
}

/// What a key takes of the limit.
#[must_use]
pub const fn cost(key_bytes: usize, value_bytes: usize, expires: bool) -> usize {
    let deadline = if expires { DEADLINE_BYTES } else { 0 };
    key_bytes.saturating_add(value_bytes).saturating_add(ENTRY_BYTES + deadline)
}

/// All keys.
#[derive(Debug)]
pub struct Store {
    seed: [u8; 16],
    entries: BTreeMap<Name, Entry>,
    deadlines: BTreeSet<(u64, Name)>,
    used: usize,
    limit: usize,
    expired: u64,
    /// Where names are put together to look them up.
    scratch: Vec<u8>,
}

impl Store {
    /// An empty one, for so many bytes. Nobody may guess the seed.
    #[must_use]
    pub const fn new(seed: [u8; 16], limit: usize) -> Self {
        Self {
            seed,
            entries: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            used: 0,
            limit,
            expired: 0,
            scratch: Vec::new(),
        }
    }

    /// How many keys there are.
    pub fn len(&mut self, now: u64) -> usize {
        self.expire(now, usize::MAX);
        self.entries.len()
    }

    /// How many of them expire.
    #[must_use]
    pub fn nr_deadlines(&self) -> usize {
        self.deadlines.len()
    }

    /// Bytes that data takes, with its bookkeeping.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.used
    }

    /// Bytes that it may take.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// How many keys have expired so far.
    #[must_use]
    pub const fn expired(&self) -> u64 {
        self.expired
    }

    /// When the next key expires.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Removes what is due, but at most so many keys. Returns whether nothing that is due is left.
    pub fn expire(&mut self, now: u64, at_most: usize) -> bool {
        for _ in 0..at_most {
            let Some((deadline, _)) = self.deadlines.first() else { return true };
            if *deadline > now {
                return true;
            }
            if let Some((_, name)) = self.deadlines.pop_first()
                && let Some(entry) = self.entries.remove(&name)
            {
                self.used = self.used.saturating_sub(entry.cost(name.len() - HASH_BYTES));
                self.expired += 1;
            }
        }
        self.next_deadline().is_none_or(|deadline| deadline > now)
    }

    /// A key's value.
    pub fn get(&mut self, key: &[u8], now: u64) -> Option<&[u8]> {
        self.find(key, now);
        self.entries.get(&self.scratch[..]).map(|entry| &*entry.value)
    }

    /// Whether there is such a key.
    pub fn contains(&mut self, key: &[u8], now: u64) -> bool {
        self.find(key, now)
    }

    /// A key's deadline; the outer `None` if there is no such key.
    pub fn deadline(&mut self, key: &[u8], now: u64) -> Option<Option<u64>> {
        self.find(key, now);
        self.entries.get(&self.scratch[..]).map(|entry| entry.deadline)
    }

    /// Sets a key's value.
    ///
    /// # Errors
    /// [`Full`] if it does not fit; what was there stays.
    pub fn set(&mut self, key: &[u8], value: &[u8], expiry: Expiry, now: u64) -> Result<(), Full> {
        self.find(key, now);
        let old = self.entries.get(&self.scratch[..]);
        let (old_cost, old_deadline) = old.map_or((0, None), |entry| (entry.cost(key.len()), entry.deadline));
        let deadline = match expiry {
            Expiry::Never => None,
            Expiry::Keep => old_deadline,
            Expiry::At(deadline) => Some(deadline),
        };
        let new_cost = cost(key.len(), value.len(), deadline.is_some());
        if !self.fits(new_cost, old_cost, now) {
            return Err(Full);
        }
        // Making room has left this key alone: it was not due.
        self.used = self.used - old_cost + new_cost;
        let value = value.into();
        let name: Name = match self.entries.get_mut(&self.scratch[..]) {
            Some(entry) if old_deadline == deadline => {
                entry.value = value;
                return Ok(());
            }
            _ => match self.entries.remove_entry(&self.scratch[..]) {
                Some((name, _)) => name,
                None => self.scratch.as_slice().into(),
            },
        };
        if let Some(old) = old_deadline {
            self.deadlines.remove(&(old, name.clone()));
        }
        if let Some(new) = deadline {
            self.deadlines.insert((new, name.clone()));
        }
        self.entries.insert(name, Entry { value, deadline });
        Ok(())
    }

    /// Whether so many bytes fit when others go, after removing what is due if need be.
    pub fn fits(&mut self, new: usize, old: usize, now: u64) -> bool {
        let is_within = |store: &Self| store.used.saturating_sub(old).saturating_add(new) <= store.limit;
        if new <= old || is_within(self) {
            return true;
        }
        self.expire(now, usize::MAX);
        is_within(self)
    }

    /// Changes when a key expires. Returns whether there is such a key.
    ///
    /// # Errors
    /// [`Full`] if there is no room for its deadline.
    pub fn set_deadline(&mut self, key: &[u8], deadline: Option<u64>, now: u64) -> Result<bool, Full> {
        self.find(key, now);
        let Some(entry) = self.entries.get(&self.scratch[..]) else { return Ok(false) };
        let old_cost = entry.cost(key.len());
        let new_cost = cost(key.len(), entry.value.len(), deadline.is_some());
        if !self.fits(new_cost, old_cost, now) {
            return Err(Full);
        }
        let Some((name, mut entry)) = self.entries.remove_entry(&self.scratch[..]) else { return Ok(false) };
        self.used = self.used - old_cost + new_cost;
        if let Some(old) = entry.deadline {
            self.deadlines.remove(&(old, name.clone()));
        }
        if let Some(new) = deadline {
            self.deadlines.insert((new, name.clone()));
        }
        entry.deadline = deadline;
        self.entries.insert(name, entry);
        Ok(true)
    }

    /// Removes a key. Returns whether it was there.
    pub fn remove(&mut self, key: &[u8], now: u64) -> bool {
        self.find(key, now) && self.remove_found()
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        *self = Self { expired: self.expired, ..Self::new(self.seed, self.limit) };
    }

    /// All keys, in the order of a scan.
    pub fn keys(&self, now: u64) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().filter(move |(_, entry)| !entry.is_due(now)).map(|(name, _)| key_of(name))
    }

    /// Visits `count` keys from a cursor on, at least one, or all that are left, and returns the next cursor; 0 at the
    /// end, which is where it begins. Keys of the same hash are visited together: a cursor does not tell them apart.
    pub fn scan<'a>(&'a self, cursor: u64, count: usize, now: u64, mut visit: impl FnMut(&'a [u8])) -> u64 {
        let from = cursor.to_be_bytes();
        let mut last = None;
        for (n, (name, entry)) in
            self.entries.range::<[u8], _>((Bound::Included(&from[..]), Bound::Unbounded)).enumerate()
        {
            let hash = hash_of(name);
            if n >= count.max(1) && last != Some(hash) {
                return hash;
            }
            if !entry.is_due(now) {
                visit(key_of(name));
            }
            last = Some(hash);
        }
        0
    }

    /// Puts a key's name into the scratch, and removes the key if it is due. Returns whether it is there.
    fn find(&mut self, key: &[u8], now: u64) -> bool {
        let (k0, k1) = self.seed.split_at(8);
        let half = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let mut hasher = SipHasher13::new_with_keys(half(k0), half(k1));
        hasher.write(key);
        self.scratch.clear();
        self.scratch.extend_from_slice(&hasher.finish().to_be_bytes());
        self.scratch.extend_from_slice(key);
        match self.entries.get(&self.scratch[..]) {
            None => false,
            Some(entry) if entry.is_due(now) => {
                self.remove_found();
                self.expired += 1;
                false
            }
            Some(_) => true,
        }
    }

    /// Removes the key whose name is in the scratch.
    fn remove_found(&mut self) -> bool {
        let Some((name, entry)) = self.entries.remove_entry(&self.scratch[..]) else { return false };
        self.used = self.used.saturating_sub(entry.cost(name.len() - HASH_BYTES));
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, name));
        }
        true
    }
}

fn key_of(name: &[u8]) -> &[u8] {
    name.get(HASH_BYTES..).unwrap_or(&[])
}

fn hash_of(name: &[u8]) -> u64 {
    name.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
