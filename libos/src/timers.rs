//! Who wants to be woken when. Pure: the time is an argument.

use crate::burst;
use alloc::collections::VecDeque;
use core::task::Waker;

/// Names one timer: when it fires, and a number that tells it from others at the same time.
pub(crate) type Key = (u64, u64);

/// Wakers by the time they are due.
pub(crate) struct Timers {
    /// Sorted. Most timers are set for a time after all others, or are the next to fire: at the ends it costs nothing, and
    /// a tree would be nine kilobytes of code.
    due: VecDeque<(Key, Waker)>,
    next_number: u64,
}

impl Timers {
    pub const fn new() -> Self {
        Self { due: VecDeque::new(), next_number: 0 }
    }

    fn place_of(&self, key: Key) -> Result<usize, usize> {
        self.due.binary_search_by_key(&key, |&(key, _)| key)
    }

    /// Wakes `waker` at `deadline_ns`.
    pub fn insert(&mut self, deadline_ns: u64, waker: Waker) -> Key {
        let key = (deadline_ns, self.next_number);
        self.next_number += 1;
        match self.due.back() {
            Some(&(last, _)) if last > key => {
                let (Ok(at) | Err(at)) = self.place_of(key);
                self.due.insert(at, (key, waker));
            }
            _ => self.due.push_back((key, waker)),
        }
        key
    }

    /// Changes whom a timer wakes. False if it has fired.
    pub fn update(&mut self, key: Key, waker: &Waker) -> bool {
        match self.place_of(key) {
            Ok(at) => {
                self.due[at].1.clone_from(waker);
                true
            }
            Err(_) => false,
        }
    }

    /// Forgets a timer. Returns its waker, to be dropped where that can do no harm.
    pub fn remove(&mut self, key: Key) -> Option<Waker> {
        let removed = match self.due.front() {
            Some(&(first, _)) if first == key => self.due.pop_front(),
            _ => self.due.remove(self.place_of(key).ok()?),
        };
        burst::trim(&mut self.due);
        removed.map(|(_, waker)| waker)
    }

    /// When the next one is due.
    pub fn next_deadline(&self) -> Option<u64> {
        self.due.front().map(|&((deadline, _), _)| deadline)
    }

    /// Takes out one timer that is due by now.
    pub fn pop_due(&mut self, now_ns: u64) -> Option<Waker> {
        if self.next_deadline()? > now_ns {
            return None;
        }
        let due = self.due.pop_front();
        burst::trim(&mut self.due);
        due.map(|(_, waker)| waker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::sync::Arc;
    use alloc::task::Wake;
    use std::sync::Mutex;
    use std::vec::Vec;

    struct Note(u32, Arc<Mutex<Vec<u32>>>);

    impl Wake for Note {
        fn wake(self: Arc<Self>) {
            self.1.lock().unwrap().push(self.0);
        }
    }

    #[test]
    fn timers_fire_in_order_once_and_not_early() {
        let woken = Arc::new(Mutex::new(Vec::new()));
        let waker = |n| Waker::from(Arc::new(Note(n, woken.clone())));
        let mut timers = Timers::new();
        timers.insert(30, waker(3));
        timers.insert(10, waker(1));
        let removed = timers.insert(15, waker(9));
        let updated = timers.insert(20, waker(8));
        timers.insert(20, waker(4));
        assert_eq!(timers.next_deadline(), Some(10));
        assert!(timers.remove(removed).is_some());
        assert!(timers.update(updated, &waker(2)));
        let fire = |timers: &mut Timers, now| {
            while let Some(waker) = timers.pop_due(now) {
                waker.wake();
            }
            core::mem::take(&mut *woken.lock().unwrap())
        };
        assert_eq!(fire(&mut timers, 9), [0; 0]);
        assert_eq!(fire(&mut timers, 20), [1, 2, 4]);
        assert!(!timers.update(updated, &waker(2)));
        assert_eq!(timers.next_deadline(), Some(30));
        assert_eq!(fire(&mut timers, u64::MAX), [3]);
        assert_eq!(timers.next_deadline(), None);
    }
}
