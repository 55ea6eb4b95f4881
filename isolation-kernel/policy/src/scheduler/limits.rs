//! Entities with a limit or a reservation: who is held, and who is due.

use super::heap::is_before;
use super::nodes::{NONE, State};
use super::{DUE_BATCH, Scheduler, Terms, members};
use hal::NoMemory;

impl Scheduler {
    /// Gives an entity a limit and a reservation.
    pub(super) fn bound(&mut self, id: u32, terms: &Terms) -> Result<(), NoMemory> {
        if terms.limit_ppm | terms.reservation_ppm != 0 {
            self.held.reserve(self.nodes.capacity())?;
            self.due.reserve(self.nodes.capacity())?;
        }
        let now = self.now;
        let node = self.nodes.at_mut(id);
        node.bounds.set(terms, now);
        if node.state == State::Held {
            let until = node.bounds.held_until(now).unwrap_or(now);
            self.held.remove(&mut self.nodes.places, id);
            self.held.push(&mut self.nodes.places, until, id);
        }
        Ok(())
    }

    /// Notes when one that waits is due, if it has a reservation.
    pub(super) fn note_due(&mut self, id: u32) {
        let bounds = &self.nodes.at(id).bounds;
        if bounds.reservation_ppm != 0 {
            let at = bounds.due_at;
            self.due.push(&mut self.nodes.places, at, id);
        }
    }

    /// The first of those with a reservation that are due: a group, and a VM of it if it is the VM's reservation.
    pub(super) fn first_due(&mut self) -> Option<(u32, Option<u32>)> {
        for _ in 0..DUE_BATCH {
            let (at, id) = self.due.first()?;
            if is_before(self.now, at) {
                return None;
            }
            let group = self.nodes.at(id).group;
            if group == NONE {
                return Some((id, None));
            }
            let leader = members(&mut self.groups, group)?.node;
            if self.nodes.at(leader).state.is_waiting() {
                return Some((leader, Some(id)));
            }
            // Its group has had all it may: a limit goes before a reservation.
            let until = self.nodes.at(leader).bounds.held_until(self.now).unwrap_or(self.now);
            self.due.remove(&mut self.nodes.places, id);
            self.due.push(&mut self.nodes.places, until.max(self.now + 1), id);
        }
        None
    }
}
