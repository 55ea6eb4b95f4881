//! Groups as entities: they compete with each other as VMs do within one.
//!
//! Where a single group competes, what it uses need not be known until another comes. Such a lone group is neither
//! settled nor moved in turns: it waits in no heap, and its state is that of one that is ready.

use super::nodes::{NONE, State};
use super::{Scheduler, members};

impl Scheduler {
    /// A group that slept, or was held, competes again, unless its limit forbids it.
    #[inline(never)]
    pub(super) fn join_group(&mut self, leader: u32, quantum: u64) {
        self.settle_lone();
        if self.nodes.at(leader).state == State::Paying {
            self.top.leave(&mut self.nodes, leader, State::Asleep);
        }
        self.settle_group(leader, quantum);
        let entity = self.nodes.at_mut(leader);
        if let Some(until) = entity.bounds.held_until(self.now) {
            entity.state = State::Held;
            return self.held.push(&mut self.nodes.places, until, leader);
        }
        entity.bounds.wake(self.now);
        self.top.place(entity, quantum);
        self.top.join(&mut self.nodes, leader);
        self.note_due(leader);
    }

    /// What a group has used is taken into account.
    #[inline(never)]
    pub(super) fn settle_group(&mut self, leader: u32, quantum: u64) {
        let entity = self.nodes.at_mut(leader);
        let used = self.top.settle(entity, quantum);
        if !entity.bounds.is_none() {
            entity.bounds.charge(used, quantum, self.now);
        }
    }

    /// Takes the group that is next, which runs.
    #[inline(never)]
    pub(super) fn take_group(&mut self) -> Option<u32> {
        let leader = self.top.take_next(&mut self.nodes)?;
        let entity = self.nodes.at_mut(leader);
        if self.top.is_alone() && entity.bounds.is_none() {
            entity.state = State::Ready;
            self.lone = leader;
        }
        Some(leader)
    }

    /// A group that was alone is so no more: it is where it would be had it never been.
    pub(super) fn settle_lone(&mut self) {
        let leader = core::mem::replace(&mut self.lone, NONE);
        if leader == NONE {
            return;
        }
        self.settle_group(leader, self.quantum_ns());
        if self.running.is_some_and(|running| running.leader == leader) {
            self.nodes.at_mut(leader).state = State::Running;
        } else {
            self.top.wait(&mut self.nodes, leader);
        }
    }

    /// The VM of a group that ran does so no more.
    #[inline(never)]
    pub(super) fn stop_group(&mut self, leader: u32, is_deserted: bool) {
        self.settle_lone();
        if is_deserted {
            let quantum = self.quantum_ns();
            self.top.sleep(&mut self.nodes, leader, quantum);
        } else if let Some(until) = self.nodes.at(leader).bounds.held_until(self.now) {
            self.top.leave(&mut self.nodes, leader, State::Held);
            self.held.push(&mut self.nodes.places, until, leader);
        } else {
            self.top.wait(&mut self.nodes, leader);
            self.note_due(leader);
        }
    }

    /// The first of those with a reservation that is due, with its group, which run.
    #[inline(never)]
    pub(super) fn take_due(&mut self) -> Option<(u32, u32, u32)> {
        let (leader, chosen) = self.first_due()?;
        let group = self.nodes.at(leader).owner;
        let queue = &mut members(&mut self.groups, group)?.queue;
        let node = match chosen {
            Some(node) => {
                queue.run(&mut self.nodes, node);
                node
            }
            None => queue.take_next(&mut self.nodes)?,
        };
        if leader != self.lone {
            self.top.run(&mut self.nodes, leader);
        }
        Some((leader, group, node))
    }
}
