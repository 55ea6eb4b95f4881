//! The servers behind: which of them is next, which are well, and which connections to them are free. No sockets of its
//! own, no clock of its own.

use alloc::vec::Vec;
use core::net::SocketAddr;
use libos::time::{Duration, Instant};

/// Most back ends: sets of them are the bits of a word.
pub const MAX_BACKENDS: usize = 64;

/// Which back end is next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// The one with the fewest requests under way.
    LeastConnections,
}

impl core::str::FromStr for Policy {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "round-robin" => Ok(Self::RoundRobin),
            "least" => Ok(Self::LeastConnections),
            _ => Err(()),
        }
    }
}

/// When a back end is taken to be down, and how it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthTerms {
    /// Failures in a row after which it is down.
    pub fall: u32,
    /// Successes in a row after which it is up again.
    pub rise: u32,
    /// Time from one check to the next; zero: it is only seen by requests.
    pub interval: Duration,
    /// The most that becomes of it while a back end is down: it doubles with each failure.
    pub most: Duration,
}

impl Default for HealthTerms {
    fn default() -> Self {
        Self { fall: 3, rise: 2, interval: Duration::from_secs(2), most: Duration::from_secs(30) }
    }
}

/// What became of a back end's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Same,
    /// It is down now.
    Down,
    /// It is up again.
    Up,
}

/// What is known of one back end, with its free connections.
#[derive(Debug)]
struct Backend<C> {
    address: SocketAddr,
    is_up: bool,
    /// Failures in a row while it is up, successes in a row while it is down.
    streak: u32,
    /// Time to the next check.
    pause: Duration,
    /// When it may be tried again, if nothing but requests looks at it.
    retry: Instant,
    active: usize,
    /// Since when each is free; the last one was freed last.
    free: Vec<(Instant, C)>,
}

/// All back ends. `C` is a connection.
#[derive(Debug)]
pub struct Backends<C> {
    list: Vec<Backend<C>>,
    policy: Policy,
    terms: HealthTerms,
    /// Free connections that are kept to each.
    keep: usize,
    /// For how long.
    keep_for: Duration,
    next: usize,
}

impl<C> Backends<C> {
    /// These back ends, all of them taken to be up; at most [`MAX_BACKENDS`].
    #[must_use]
    pub fn new(addresses: &[SocketAddr], policy: Policy, terms: HealthTerms, keep: (usize, Duration)) -> Self {
        let new = |&address: &SocketAddr| Backend {
            address,
            is_up: true,
            streak: 0,
            pause: terms.interval,
            retry: Instant::now(),
            active: 0,
            free: Vec::new(),
        };
        let list = addresses.iter().take(MAX_BACKENDS).map(new).collect();
        Self { list, policy, terms, keep: keep.0, keep_for: keep.1, next: 0 }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Where one of them is.
    #[must_use]
    pub fn address(&self, n: usize) -> Option<SocketAddr> {
        self.list.get(n).map(|backend| backend.address)
    }

    /// How many are up.
    #[must_use]
    pub fn up(&self) -> usize {
        self.list.iter().filter(|backend| backend.is_up).count()
    }

    /// The back end for the next request, which is under way from now on, but none of those in `tried`.
    pub fn pick(&mut self, tried: u64, now: Instant) -> Option<usize> {
        let (count, only_requests) = (self.list.len(), self.terms.interval.is_zero());
        let can = |n: &usize| {
            let backend = &self.list[*n];
            let is_open = backend.is_up || (only_requests && now >= backend.retry);
            is_open && tried & (1 << n) == 0
        };
        let mut in_turn = (self.next..count).chain(0..self.next).filter(can);
        let n = match self.policy {
            Policy::RoundRobin => in_turn.next()?,
            // The first one of several, in turn.
            Policy::LeastConnections => in_turn.min_by_key(|&n| self.list[n].active)?,
        };
        self.next = (n + 1) % count;
        self.list[n].active += 1;
        // One request tries it, others wait for what becomes of that.
        self.list[n].retry = now + self.list[n].pause.max(self.terms.most / 16);
        Some(n)
    }

    /// A request is under way no more.
    pub fn release(&mut self, n: usize) {
        if let Some(backend) = self.list.get_mut(n) {
            backend.active = backend.active.saturating_sub(1);
        }
    }

    /// A free connection.
    pub fn take(&mut self, n: usize, now: Instant) -> Option<C> {
        let free = &mut self.list.get_mut(n)?.free;
        // Those behind are older.
        let (since, connection) = free.pop()?;
        if now - since < self.keep_for {
            return Some(connection);
        }
        free.clear();
        None
    }

    /// A connection is free again. It is closed if there are enough, or the back end is down.
    pub fn put(&mut self, n: usize, connection: C, now: Instant) {
        let Some(backend) = self.list.get_mut(n).filter(|backend| backend.is_up) else { return };
        if self.keep > 0 {
            if backend.free.len() >= self.keep {
                backend.free.remove(0);
            }
            backend.free.push((now, connection));
        }
    }

    /// Closes connections that were free for too long.
    pub fn sweep(&mut self, now: Instant) {
        for backend in &mut self.list {
            backend.free.retain(|(since, _)| now - *since < self.keep_for);
        }
    }

    /// A check or a request succeeded or failed.
    pub fn note(&mut self, n: usize, is_well: bool, now: Instant) -> Change {
        let (terms, Some(backend)) = (self.terms, self.list.get_mut(n)) else { return Change::Same };
        let enough = if backend.is_up { terms.fall } else { terms.rise };
        if is_well == backend.is_up {
            backend.streak = 0;
            if !is_well {
                backend.pause = (backend.pause.max(terms.most / 256) * 2).min(terms.most.max(terms.interval));
                backend.retry = now + backend.pause;
            }
            return Change::Same;
        }
        backend.streak += 1;
        if is_well {
            backend.pause = terms.interval;
        }
        if backend.streak < enough {
            return Change::Same;
        }
        backend.streak = 0;
        backend.is_up = is_well;
        backend.pause = terms.interval;
        backend.retry = now + backend.pause.max(terms.most / 256);
        backend.free.clear();
        if is_well { Change::Up } else { Change::Down }
    }

    /// Time from one check of a back end to its next one, as things are.
    #[must_use]
    pub fn pause(&self, n: usize) -> Duration {
        self.list.get(n).map_or(self.terms.most, |backend| backend.pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEEP: (usize, Duration) = (2, Duration::from_secs(10));

    fn backends(count: u8, policy: Policy, terms: HealthTerms) -> Backends<u32> {
        let addresses: Vec<SocketAddr> = (0..count).map(|n| ([10, 0, 0, n], 80).into()).collect();
        Backends::new(&addresses, policy, terms, KEEP)
    }

    #[test]
    fn each_is_next_in_turn_and_none_that_was_tried() {
        let (mut all, now) = (backends(3, Policy::RoundRobin, HealthTerms::default()), Instant::now());
        let picks: Vec<_> = (0..4).map(|_| all.pick(0, now).unwrap()).collect();
        assert_eq!(picks, [0, 1, 2, 0]);
        assert_eq!((all.pick(0b010, now), all.pick(0b110, now), all.pick(0b111, now)), (Some(2), Some(0), None));
    }

    #[test]
    fn the_least_busy_is_next() {
        let (mut all, now) = (backends(3, Policy::LeastConnections, HealthTerms::default()), Instant::now());
        let picks: Vec<_> = (0..3).map(|_| all.pick(0, now).unwrap()).collect();
        assert_eq!(picks, [0, 1, 2]);
        all.release(1);
        assert_eq!((all.pick(0, now), all.pick(0, now)), (Some(1), Some(2)));
    }

    #[test]
    fn who_fails_often_is_down_until_it_is_well_often() {
        let terms = HealthTerms { fall: 3, rise: 2, ..HealthTerms::default() };
        let (mut all, now) = (backends(2, Policy::RoundRobin, terms), Instant::now());
        let mut note = |is_well| (all.note(0, is_well, now), all.pause(0).as_secs(), all.up());
        let same = |pause, up| (Change::Same, pause, up);
        assert_eq!([note(false), note(false), note(true)], [same(2, 2); 3]);
        assert_eq!([note(false), note(false), note(false)], [same(2, 2), same(2, 2), (Change::Down, 2, 1)]);
        // It is looked at less and less.
        assert_eq!([4, 8, 16, 30, 30].map(|pause| note(false) == same(pause, 1)), [true; 5]);
        assert_eq!([note(true), note(false), note(true)], [same(2, 1), same(4, 1), same(2, 1)]);
        assert_eq!(note(true), (Change::Up, 2, 2));
        all.note(0, false, now);
        assert_eq!((all.pick(0, now), all.pick(0, now)), (Some(0), Some(1)));
    }

    #[test]
    fn without_checks_a_request_tries_now_and_then() {
        let terms = HealthTerms { fall: 1, rise: 1, interval: Duration::ZERO, most: Duration::from_secs(16) };
        let (mut all, now) = (backends(1, Policy::RoundRobin, terms), Instant::now());
        assert_eq!(all.pick(0, now), Some(0));
        assert_eq!(all.note(0, false, now), Change::Down);
        assert_eq!(all.pick(0, now), None);
        let later = now + Duration::from_secs(1);
        assert_eq!((all.pick(0, later), all.pick(0, later)), (Some(0), None), "one tries it");
        assert_eq!(all.note(0, true, later), Change::Up);
        assert_eq!(all.pick(0, later), Some(0));
    }

    #[test]
    fn free_connections_are_few_and_not_old() {
        let (mut all, now) = (backends(1, Policy::RoundRobin, HealthTerms::default()), Instant::now());
        for connection in 1..=3 {
            all.put(0, connection, now + Duration::from_secs(connection.into()));
        }
        assert_eq!((all.take(0, now), all.take(0, now), all.take(0, now)), (Some(3), Some(2), None), "the oldest went");
        all.put(0, 4, now);
        assert_eq!(all.take(0, now + KEEP.1), None);
        all.put(0, 5, now);
        all.sweep(now + KEEP.1);
        assert!(all.list[0].free.is_empty());
        all.put(0, 6, now);
        for _ in 0..3 {
            all.note(0, false, now);
        }
        all.put(0, 7, now);
        assert_eq!(all.take(0, now), None, "none to one that is down");
    }

    proptest! {
        #[test]
        fn whoever_is_picked_is_up_and_was_not_tried(
            acts in proptest::collection::vec((0..5u8, 0..4usize, any::<u64>()), 0..200),
            least: bool,
        ) {
            let policy = if least { Policy::LeastConnections } else { Policy::RoundRobin };
            let (mut all, mut now) = (backends(4, policy, HealthTerms::default()), Instant::now());
            let mut active = [0usize; 4];
            for (what, n, word) in acts {
                now += Duration::from_millis(word % 3000);
                match what {
                    0 => {
                        let picked = all.pick(word, now);
                        let could = (0..4).any(|n| all.list[n].is_up && word & (1 << n) == 0);
                        prop_assert_eq!(picked.is_some(), could);
                        if let Some(n) = picked {
                            prop_assert!(all.list[n].is_up && word & (1 << n) == 0);
                            active[n] += 1;
                        }
                    }
                    1 if active[n] > 0 => {
                        all.release(n);
                        active[n] -= 1;
                    }
                    2 => { all.note(n, word % 2 == 0, now); }
                    3 => all.put(n, 1, now),
                    _ => { all.take(n, now); }
                }
                prop_assert!(all.list.iter().zip(active).all(|(backend, active)| backend.active == active));
                prop_assert!(all.list.iter().all(|backend| backend.free.len() <= KEEP.0 && (backend.is_up || backend.free.is_empty())));
                prop_assert!((0..4).all(|n| all.pause(n) <= Duration::from_secs(30)));
            }
        }
    }
}
