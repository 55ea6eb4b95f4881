//! Answers that are still good. Pure: the time is an argument.

use super::message::{Family, Name};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;

/// An answer is kept for at most a day, whatever it says.
const MOST_SECONDS: u32 = 24 * 3600;

/// That there is no such name or address is believed for so long.
const NOTHING_SECONDS: u32 = 30;

const SECOND_NS: u64 = 1_000_000_000;

/// Answers by what was asked.
pub struct Cache {
    entries: BTreeMap<(Name, Family), Entry>,
    most: usize,
}

struct Entry {
    addresses: Vec<IpAddr>,
    expires_ns: u64,
}

impl Cache {
    pub const fn new(most: usize) -> Self {
        Self { entries: BTreeMap::new(), most }
    }

    /// What is known, if it is still good. Empty: it is known that there is nothing.
    pub fn find(&self, name: &Name, family: Family, now_ns: u64) -> Option<&[IpAddr]> {
        let entry = self.entries.get(&(name.clone(), family)).filter(|entry| entry.expires_ns > now_ns)?;
        Some(&entry.addresses)
    }

    /// Keeps an answer for as long as it is good. What expires first makes room.
    pub fn keep(&mut self, name: &Name, family: Family, addresses: &[IpAddr], seconds: u32, now_ns: u64) {
        let limit = if addresses.is_empty() { NOTHING_SECONDS } else { MOST_SECONDS };
        let seconds = seconds.min(limit);
        if seconds == 0 || self.most == 0 {
            return;
        }
        let key = (name.clone(), family);
        if self.entries.len() >= self.most && !self.entries.contains_key(&key) {
            self.entries.retain(|_, entry| entry.expires_ns > now_ns);
            if self.entries.len() >= self.most
                && let Some(first) = self.entries.iter().min_by_key(|(_, e)| e.expires_ns).map(|(key, _)| key.clone())
            {
                self.entries.remove(&first);
            }
        }
        let expires_ns = now_ns.saturating_add(u64::from(seconds) * SECOND_NS);
        self.entries.insert(key, Entry { addresses: addresses.to_vec(), expires_ns });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    fn name(n: u32) -> Name {
        Name::parse(&format!("n{n}.example")).unwrap()
    }

    #[test]
    fn answers_are_good_for_as_long_as_they_say() {
        let mut cache = Cache::new(10);
        cache.keep(&name(1), Family::V4, &[[10, 0, 0, 1].into()], 5, SECOND_NS);
        cache.keep(&name(2), Family::V4, &[], u32::MAX, SECOND_NS);
        cache.keep(&name(3), Family::V4, &[[10, 0, 0, 3].into()], 0, SECOND_NS);
        cache.keep(&name(4), Family::V4, &[[10, 0, 0, 4].into()], u32::MAX, SECOND_NS);
        assert_eq!(cache.find(&name(1), Family::V4, 5 * SECOND_NS), Some(&[[10, 0, 0, 1].into()][..]));
        assert_eq!(cache.find(&name(1), Family::V6, 5 * SECOND_NS), None);
        assert_eq!(cache.find(&name(1), Family::V4, 6 * SECOND_NS), None);
        assert_eq!(cache.find(&name(2), Family::V4, 30 * SECOND_NS), Some(&[][..]));
        assert_eq!(cache.find(&name(2), Family::V4, 31 * SECOND_NS), None);
        assert_eq!(cache.find(&name(3), Family::V4, SECOND_NS), None);
        assert!(cache.find(&name(4), Family::V4, 86_400 * SECOND_NS).is_some());
        assert!(cache.find(&name(4), Family::V4, 86_401 * SECOND_NS).is_none());
    }

    #[test]
    fn it_is_bounded_and_what_expires_first_goes_first() {
        let mut cache = Cache::new(3);
        for n in 1..=4 {
            cache.keep(&name(n), Family::V4, &[[10, 0, 0, 1].into()], 10 * n, 0);
        }
        assert_eq!(cache.entries.len(), 3);
        assert!(cache.find(&name(1), Family::V4, 1).is_none());
        assert!((2..=4).all(|n| cache.find(&name(n), Family::V4, 1).is_some()));
    }
}
