//! The connections of a run, and which of them are busy, kept for later, or free. Every slot is in exactly one
//! of the three lists; moving one takes constant time.

use super::connection::{Connection, Phase};

/// No slot.
const NONE: u32 = u32::MAX;

/// The slots of a run.
#[derive(Debug)]
pub struct Slots {
    connections: Vec<Connection>,
    busy: Vec<u32>,
    idle: Vec<u32>,
    free: Vec<u32>,
    /// An idle connection to each target, if kept connections are found by target. More of them follow by
    /// `links`.
    idle_of_target: Vec<u32>,
    /// The idle slots before and after each one with the same target.
    links: Vec<Link>,
}

/// A slot's neighbours in the list of idle connections to its target.
#[derive(Clone, Copy, Debug)]
struct Link {
    before: u32,
    after: u32,
}

impl Slots {
    /// That many slots, all free. With `by_target` set, idle connections can be found by their target, of which
    /// there are that many.
    #[must_use]
    pub fn new(nr_slots: u32, by_target: Option<u32>) -> Self {
        Self {
            connections: (0..nr_slots).map(|_| Connection::default()).collect(),
            busy: Vec::with_capacity(nr_slots as usize),
            idle: Vec::with_capacity(nr_slots as usize),
            free: (0..nr_slots).rev().collect(),
            idle_of_target: vec![NONE; by_target.unwrap_or(0) as usize],
            links: vec![Link { before: NONE, after: NONE }; by_target.map_or(0, |_| nr_slots as usize)],
        }
    }

    /// The connection of a slot.
    pub fn get(&mut self, slot: u32) -> &mut Connection {
        &mut self.connections[slot as usize]
    }

    /// The busy slots.
    #[must_use]
    pub fn busy(&self) -> &[u32] {
        &self.busy
    }

    /// The idle slots.
    #[must_use]
    pub fn idle(&self) -> &[u32] {
        &self.idle
    }

    /// Takes a free slot, which is busy from now on.
    pub fn take_free(&mut self) -> Option<u32> {
        let slot = self.free.pop()?;
        self.make_busy(slot);
        Some(slot)
    }

    /// Takes the idle slot at that place of [`Self::idle`], which is busy from now on.
    pub fn take_idle(&mut self, place: usize) -> u32 {
        let slot = self.idle[place];
        self.leave_idle(slot);
        self.make_busy(slot);
        slot
    }

    /// Takes the idle connection to a target, if there is one.
    pub fn take_idle_to(&mut self, target: u32) -> Option<u32> {
        let slot = self.idle_of_target[target as usize];
        (slot != NONE).then(|| self.take_idle(self.connections[slot as usize].place))
    }

    /// A busy slot becomes free. Its connection is closed.
    pub fn release(&mut self, slot: u32) {
        self.leave_busy(slot);
        self.connections[slot as usize].close();
        self.free.push(slot);
    }

    /// A busy slot becomes idle, whether its connection is open or not.
    pub fn keep(&mut self, slot: u32) {
        let connection = &mut self.connections[slot as usize];
        if let Some(head) = self.idle_of_target.get_mut(connection.target as usize) {
            self.links[slot as usize] = Link { before: NONE, after: *head };
            if *head != NONE {
                self.links[*head as usize].before = slot;
            }
            *head = slot;
        }
        if connection.is_open() {
            connection.phase = Phase::Idle;
            connection.was_kept = true;
        }
        self.leave_busy(slot);
        self.connections[slot as usize].place = self.idle.len();
        self.idle.push(slot);
    }

    /// The connection of an idle slot is gone. It becomes free if connections are found by target; else it stays,
    /// to be opened again.
    pub fn drop_idle(&mut self, slot: u32) {
        self.connections[slot as usize].close();
        if !self.idle_of_target.is_empty() {
            self.leave_idle(slot);
            self.free.push(slot);
        }
    }

    fn make_busy(&mut self, slot: u32) {
        self.connections[slot as usize].place = self.busy.len();
        self.busy.push(slot);
    }

    fn leave_busy(&mut self, slot: u32) {
        let place = self.connections[slot as usize].place;
        debug_assert_eq!(self.busy[place], slot);
        self.busy.swap_remove(place);
        if let Some(&moved) = self.busy.get(place) {
            self.connections[moved as usize].place = place;
        }
    }

    fn leave_idle(&mut self, slot: u32) {
        let Connection { place, target, .. } = self.connections[slot as usize];
        debug_assert_eq!(self.idle[place], slot);
        self.idle.swap_remove(place);
        if let Some(&moved) = self.idle.get(place) {
            self.connections[moved as usize].place = place;
        }
        if let Some(head) = self.idle_of_target.get_mut(target as usize) {
            let Link { before, after } = self.links[slot as usize];
            match self.links.get_mut(before as usize) {
                Some(link) => link.after = after,
                None => *head = after,
            }
            if let Some(link) = self.links.get_mut(after as usize) {
                link.before = before;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Random moves against the plain truth: each slot is in one list, and is found by its target when idle.
        #[test]
        fn every_slot_is_in_exactly_one_list(
            by_target: bool,
            moves in proptest::collection::vec((0u8..5, any::<u32>(), 0u32..6), 1..200),
        ) {
            const SLOTS: u32 = 8;
            let mut slots = Slots::new(SLOTS, by_target.then_some(6));
            for (what, choice, target) in moves {
                let pick = |list: &[u32]| (!list.is_empty()).then(|| list[choice as usize % list.len()]);
                match what {
                    0 => {
                        if let Some(slot) = slots.take_free() {
                            slots.get(slot).target = target;
                        }
                    }
                    1 => if let Some(slot) = pick(slots.busy()) { slots.release(slot) },
                    2 => if let Some(slot) = pick(slots.busy()) { slots.keep(slot) },
                    3 => if let Some(slot) = pick(slots.idle()) { slots.drop_idle(slot) },
                    _ if by_target => {
                        if let Some(slot) = slots.take_idle_to(target) {
                            prop_assert_eq!(slots.get(slot).target, target);
                        }
                    }
                    _ => if !slots.idle().is_empty() {
                        slots.take_idle(choice as usize % slots.idle().len());
                    },
                }
                let mut all: Vec<u32> = [&slots.busy[..], &slots.idle, &slots.free].concat();
                all.sort_unstable();
                prop_assert_eq!(all, (0..SLOTS).collect::<Vec<_>>());
                for (target, &head) in slots.idle_of_target.iter().enumerate() {
                    let of_target = |s: &u32| slots.connections[*s as usize].target as usize == target;
                    let mut wanted: Vec<u32> = slots.idle.iter().copied().filter(of_target).collect();
                    let next = |s: &u32| slots.links.get(*s as usize).map(|link| link.after);
                    let linked = std::iter::successors(Some(head), next).take_while(|&s| s != NONE);
                    let mut linked: Vec<u32> = linked.take(99).collect();
                    wanted.sort_unstable();
                    linked.sort_unstable();
                    prop_assert_eq!(wanted, linked);
                }
            }
        }
    }
}
