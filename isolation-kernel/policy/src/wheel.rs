//! Deadlines of sleeping VMs: a hierarchical timing wheel (Varghese and Lauck, "Hashed and Hierarchical Timing
//! Wheels", SOSP 1987, scheme 7).
//!
//! A deadline is rounded up to a tick of [`TICK_NS`]. It waits on the level of the highest digit, of 6 bits, in which
//! its tick differs from the wheel's, in the slot of that digit. When the time comes to a slot, its deadlines move
//! down, a few at each call ([`MOVES`]), until they are due or in a slot of the lowest level, where all are due at
//! once: no call's length depends on how many there are.
//!
//! The lists are linked through one array by VM number, 16 bytes for each.

use alloc::boxed::Box;
use alloc::vec::Vec;
use hal::Nanos;

/// Nanoseconds of a tick. A deadline is met less than this late, and never early.
pub const TICK_NS: u64 = 1 << TICK_BITS;

/// VM numbers that can have a deadline: those below.
pub const MAX_NUMBERS: u32 = 1 << 20;

/// Deadlines that a call of [`Wheel::expired`] moves at most.
pub const MOVES: u32 = 16;

/// Not more: a VM that sleeps for less than it takes to change to another one should not sleep for longer than that.
const TICK_BITS: u32 = 8;
const DIGIT_BITS: u32 = 6;
const SLOTS: u16 = 1 << DIGIT_BITS;
/// Enough for the 54 bits of a tick.
const LEVELS: u16 = 9;
/// The last tick that can be told: 146 years after the machine was started.
const LAST_TICK: u64 = (1 << (64 - PLACE_BITS)) - 1;
/// The list of what is due, behind those of the slots.
const DUE: u16 = LEVELS * SLOTS;
/// The place of what is not set.
const NOWHERE: u16 = DUE + 1;
const PLACE_BITS: u32 = 10;
/// No VM.
const NONE: u32 = u32::MAX;
/// Numbers in a chunk of the array: small enough to need no large run of the heap.
const CHUNK: usize = 256;
/// Deadlines of a slot that are looked at for the first of them; with more in it, the slot's own time is the answer.
const LOOK: u32 = 4;

/// A VM's deadline, and its neighbours in the list it is in.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The tick, and the place in the lower bits.
    when: u64,
    next: u32,
    previous: u32,
}

impl Entry {
    const UNSET: Self = Self { when: NOWHERE as u64, next: NONE, previous: NONE };

    const fn tick(self) -> u64 {
        self.when >> PLACE_BITS
    }

    const fn place(self) -> u16 {
        (self.when & ((1 << PLACE_BITS) - 1)) as u16
    }
}

/// The ends of a list.
#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

/// At most one deadline for each VM.
#[derive(Debug)]
pub struct Wheel {
    chunks: Vec<Option<Box<[Entry]>>>,
    lists: Box<[List]>,
    /// Which slots of each level have deadlines in them.
    occupied: [u64; LEVELS as usize],
    /// The tick that the wheel has come to.
    current: u64,
    /// The slot whose deadlines are being moved. The wheel does not go on before it is empty.
    draining: Option<u16>,
    #[cfg(test)]
    steps: core::cell::Cell<u64>,
}

impl Default for Wheel {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            lists: (0..=DUE).map(|_| List { first: NONE, last: NONE }).collect(),
            occupied: [0; LEVELS as usize],
            current: 0,
            draining: None,
            #[cfg(test)]
            steps: core::cell::Cell::new(0),
        }
    }
}

impl Wheel {
    /// Sets a VM's deadline, in place of the one it had, and answers when it is met. [`Nanos::NEVER`] is none, and
    /// neither is one that is centuries away or of a number from [`MAX_NUMBERS`] on.
    pub fn set(&mut self, at: Nanos, vm: u32) -> Nanos {
        self.clear(vm);
        let tick = at.0.div_ceil(TICK_NS);
        if tick > LAST_TICK || vm >= MAX_NUMBERS {
            return Nanos::NEVER;
        }
        if self.entry(vm).is_none() {
            self.reserve(vm);
        }
        self.link(vm, tick);
        to_time(tick)
    }

    /// Makes room for a VM's deadline, so that setting it takes none. Numbers from [`MAX_NUMBERS`] on get none.
    pub fn reserve(&mut self, vm: u32) {
        if vm >= MAX_NUMBERS {
            return;
        }
        let chunk = vm as usize / CHUNK;
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, || None);
        }
        if let Some(chunk) = self.chunks.get_mut(chunk) {
            chunk.get_or_insert_with(|| (0..CHUNK).map(|_| Entry::UNSET).collect());
        }
    }

    /// Forgets a VM's deadline, if it has one.
    pub fn clear(&mut self, vm: u32) {
        let Some(entry) = self.entry(vm) else { return };
        if entry.place() != NOWHERE {
            self.unlink(vm, entry);
        }
    }

    /// When [`Self::expired`] has something to do: not after the first deadline, rounded up to a tick, and exactly
    /// then if it is near.
    #[must_use]
    pub fn next(&self) -> Nanos {
        if self.list(DUE).first != NONE || self.is_draining() {
            return to_time(self.current);
        }
        let Some((place, start)) = self.first_slot() else { return Nanos::NEVER };
        if place < SLOTS {
            return to_time(start);
        }
        let mut earliest = u64::MAX;
        let mut vm = self.list(place).first;
        for _ in 0..LOOK {
            let Some(entry) = self.entry(vm) else { break };
            earliest = earliest.min(entry.tick());
            vm = entry.next;
        }
        to_time(if vm == NONE { earliest } else { start })
    }

    /// Takes out a VM whose deadline has passed. Moves at most [`MOVES`] others: while there are more to move it may
    /// answer `None` although one has passed, and [`Self::next`] is not later than `now`.
    pub fn expired(&mut self, now: Nanos) -> Option<u32> {
        let now = now.0 / TICK_NS;
        let mut vm = self.first_due(now);
        if vm == NONE {
            self.advance(now);
            vm = self.first_due(now);
        }
        let entry = self.entry(vm)?;
        self.unlink(vm, entry);
        Some(vm)
    }

    /// The first of those that are due where they are.
    #[inline]
    fn first_due(&self, now: u64) -> u32 {
        let due = self.list(DUE).first;
        if due != NONE {
            return due;
        }
        match self.first_slot() {
            Some((place, start)) if place < SLOTS && start <= now => self.list(place).first,
            _ => NONE,
        }
    }

    /// Goes on towards a tick, as far as [`MOVES`] deadlines allow.
    fn advance(&mut self, now: u64) {
        let mut left = MOVES;
        loop {
            while let Some(place) = self.draining {
                let vm = self.list(place).first;
                let Some(entry) = self.entry(vm) else {
                    self.draining = None;
                    break;
                };
                let Some(fewer) = left.checked_sub(1) else { return };
                left = fewer;
                self.unlink(vm, entry);
                self.link(vm, entry.tick());
            }
            match self.first_slot() {
                Some((place, start)) if start <= now => {
                    if place < SLOTS {
                        return;
                    }
                    // Into the slot, so that all in it finds a place below, but not past it, as others follow.
                    let end = start | ((1 << (DIGIT_BITS * u32::from(place / SLOTS))) - 1);
                    self.current = now.min(end);
                    self.draining = Some(place);
                }
                _ => {
                    self.current = self.current.max(now);
                    return;
                }
            }
        }
    }

    fn is_draining(&self) -> bool {
        self.draining.is_some_and(|place| self.list(place).first != NONE)
    }

    /// The slot that comes first, and its first tick. Slots of the lowest level come before the one being drained.
    #[inline]
    fn first_slot(&self) -> Option<(u16, u64)> {
        let (level, slots) = (0..LEVELS).zip(self.occupied).find(|&(_, slots)| slots != 0)?;
        let digit = slots.trailing_zeros();
        let shift = DIGIT_BITS * u32::from(level);
        let above = self.current >> (shift + DIGIT_BITS) << DIGIT_BITS;
        Some((level * SLOTS + u16::try_from(digit).ok()?, (above | u64::from(digit)) << shift))
    }

    /// Where a tick has its place, as seen from the wheel's.
    fn place_of(&self, tick: u64) -> u16 {
        if tick <= self.current {
            return DUE;
        }
        let level = (tick ^ self.current).ilog2() / DIGIT_BITS;
        let digit = tick >> (level * DIGIT_BITS) & u64::from(SLOTS - 1);
        u16::try_from(u64::from(level) * u64::from(SLOTS) + digit).unwrap_or(DUE)
    }

    /// Puts a VM that is in no list at the end of the right one.
    fn link(&mut self, vm: u32, tick: u64) {
        let place = self.place_of(tick);
        let List { first, last } = self.list(place);
        let when = tick << PLACE_BITS | u64::from(place);
        self.change(vm, |entry| *entry = Entry { when, next: NONE, previous: last });
        self.change(last, |entry| entry.next = vm);
        self.set_list(place, List { first: if first == NONE { vm } else { first }, last: vm });
    }

    /// Takes a VM out of the list it is in.
    fn unlink(&mut self, vm: u32, entry: Entry) {
        let Entry { next, previous, .. } = entry;
        let mut list = self.list(entry.place());
        if next == NONE {
            list.last = previous;
        }
        if previous == NONE {
            list.first = next;
        }
        self.change(next, |entry| entry.previous = previous);
        self.change(previous, |entry| entry.next = next);
        self.change(vm, |entry| *entry = Entry::UNSET);
        self.set_list(entry.place(), list);
    }

    fn list(&self, place: u16) -> List {
        self.lists.get(usize::from(place)).copied().unwrap_or(List { first: NONE, last: NONE })
    }

    fn set_list(&mut self, place: u16, new: List) {
        if let Some(list) = self.lists.get_mut(usize::from(place)) {
            *list = new;
        }
        if let Some(slots) = self.occupied.get_mut(usize::from(place / SLOTS)) {
            let bit = 1 << (place % SLOTS);
            *slots = if new.first == NONE { *slots & !bit } else { *slots | bit };
        }
    }

    fn entry(&self, vm: u32) -> Option<Entry> {
        #[cfg(test)]
        self.steps.set(self.steps.get() + 1);
        self.chunks.get(vm as usize / CHUNK)?.as_ref()?.get(vm as usize % CHUNK).copied()
    }

    fn change(&mut self, vm: u32, change: impl FnOnce(&mut Entry)) {
        #[cfg(test)]
        self.steps.set(self.steps.get() + 1);
        let chunk = self.chunks.get_mut(vm as usize / CHUNK).and_then(Option::as_mut);
        if let Some(entry) = chunk.and_then(|chunk| chunk.get_mut(vm as usize % CHUNK)) {
            change(entry);
        }
    }
}

/// When a tick is. The last one ends with time itself.
fn to_time(tick: u64) -> Nanos {
    Nanos(tick.saturating_mul(TICK_NS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The most entries that a call of `next` and one of `expired` look at.
    const MOST_STEPS: u64 = 8 * (MOVES as u64 + 2);

    fn tick(at: u64) -> u64 {
        at.div_ceil(TICK_NS)
    }

    /// All that have expired, in as many calls as it takes; each call is bounded and the wheel must get on.
    fn drain(wheel: &mut Wheel, now: u64, most: usize) -> Vec<u32> {
        let mut all = Vec::new();
        for _ in 0..most {
            wheel.steps.set(0);
            let next = wheel.next();
            let vm = wheel.expired(Nanos(now));
            assert!(wheel.steps.get() <= MOST_STEPS, "{} steps", wheel.steps.get());
            match vm {
                Some(vm) => all.push(vm),
                None if wheel.next() > Nanos(now) => return all,
                None => assert!(next <= Nanos(now)),
            }
        }
        panic!("the wheel spins: {} came out", all.len());
    }

    #[test]
    fn an_entry_has_16_bytes() {
        assert_eq!(size_of::<Entry>(), 16);
    }

    #[test]
    fn the_past_is_due_and_never_is_not_set() {
        let mut wheel = Wheel::default();
        assert_eq!(drain(&mut wheel, 5_000_000_000, 10), []);
        wheel.set(Nanos(7), 3);
        wheel.set(Nanos::NEVER, 4);
        wheel.set(Nanos(7), MAX_NUMBERS);
        assert!(wheel.next() <= Nanos(5_000_000_000));
        assert_eq!(drain(&mut wheel, 5_000_000_000, 10), [3]);
        assert_eq!(wheel.set(Nanos(u64::MAX - 1), 3), Nanos::NEVER);
        let last = LAST_TICK * TICK_NS;
        assert_eq!(wheel.set(Nanos(last - 1), 3), Nanos(last));
        assert_eq!(drain(&mut wheel, last - 1, 10), []);
        wheel.clear(3);
        assert_eq!(wheel.next(), Nanos::NEVER);
        // A call makes room for it, but not for a number that can have none.
        wheel.reserve(MAX_NUMBERS);
        wheel.reserve(700);
        assert_eq!(wheel.set(Nanos(TICK_NS + 1), 700), Nanos(2 * TICK_NS));
    }

    #[test]
    fn a_lone_deadline_is_answered_exactly_however_far() {
        for at in [TICK_NS, 1 << 30, 1 << 45, 1 << 61] {
            let mut wheel = Wheel::default();
            wheel.set(Nanos(at), 9);
            assert_eq!(wheel.next(), Nanos(at));
            assert_eq!(drain(&mut wheel, at - 1, 20), []);
            assert_eq!(wheel.next(), Nanos(at));
            assert_eq!(drain(&mut wheel, at, 20), [9]);
        }
    }

    #[test]
    fn a_million_sleepers_cost_nothing() {
        let mut wheel = Wheel::default();
        for vm in 0..1_000_000u32 {
            wheel.set(Nanos(3_600_000_000_000 + u64::from(vm) * 1_000), vm);
        }
        // The time comes to their slots long before it comes to them: then they move down, a few at a time.
        let reached = wheel.next().0;
        for turn in 0..10_000 {
            wheel.steps.set(0);
            assert_eq!(wheel.expired(Nanos(turn * 100_000)), None);
            assert!(wheel.next() == Nanos(reached) && wheel.steps.get() <= 8, "{} steps", wheel.steps.get());
        }
        assert_eq!(drain(&mut wheel, 3_599_000_000_000, 1_000_000), []);
        assert_eq!(drain(&mut wheel, 3_700_000_000_000, 3_000_000).len(), 1_000_000);
        assert_eq!(wheel.next(), Nanos::NEVER);
    }

    #[test]
    fn a_storm_comes_out_in_bounded_pieces_each_once() {
        let mut wheel = Wheel::default();
        let start = 60_000_000_000;
        for vm in 0..100_000u32 {
            wheel.set(Nanos(start + u64::from(vm) * 10), vm);
        }
        assert_eq!(drain(&mut wheel, start - 1, 100_000), []);
        let mut all = drain(&mut wheel, start + 500_000, 200_000);
        assert!(all.iter().all(|&vm| u64::from(vm) * 10 <= 500_000));
        all.extend(drain(&mut wheel, start + 1_000_000 + TICK_NS, 200_000));
        all.sort_unstable();
        assert_eq!(all, (0..100_000).collect::<Vec<u32>>());
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(
            steps in proptest::collection::vec((0u8..6, 0u32..600, 0u32..60, any::<u64>()), 1..400),
        ) {
            let (mut wheel, mut now) = (Wheel::default(), 0u64);
            let mut model: BTreeSet<(u64, u32)> = BTreeSet::new();
            for (what, vm, bits, any) in steps {
                let span = any & ((1 << bits) - 1);
                match what {
                    0..4 => {
                        let at = match what {
                            0 => any,
                            1 => now.saturating_sub(span),
                            _ => now.saturating_add(span),
                        };
                        model.retain(|&(_, other)| other != vm);
                        if tick(at) <= LAST_TICK {
                            model.insert((tick(at), vm));
                        }
                        wheel.set(Nanos(at), vm);
                    }
                    4 => {
                        model.retain(|&(_, other)| other != vm);
                        wheel.clear(vm);
                    }
                    _ => {
                        now = now.saturating_add(span);
                        let later = model.split_off(&(now / TICK_NS + 1, 0));
                        let mut got = drain(&mut wheel, now, 20_000);
                        got.sort_unstable();
                        let mut due: Vec<u32> = model.iter().map(|&(_, vm)| vm).collect();
                        due.sort_unstable();
                        prop_assert_eq!(got, due);
                        model = later;
                    }
                }
                let first = model.first().map_or(Nanos::NEVER, |&(tick, _)| to_time(tick));
                prop_assert!(wheel.next() <= first.max(Nanos(now)));
            }
        }
    }
}
