//! The entities that compete: VMs and groups.
//!
//! [`Nodes`] is a slab: entities have numbers that stay.

use super::PREEMPT_NS;
use super::queue::{in_ns, scaled};
use super::terms::Bounds;
use alloc::vec::Vec;
use hal::NoMemory;

/// No node.
pub(super) const NONE: u32 = u32::MAX;

/// By how many it grows at least.
const MORE: usize = 128;

/// What an entity does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The place is free.
    Free,
    /// Does not compete.
    Asleep,
    /// Sleeps, and competes until it is no longer ahead of its part.
    Paying,
    /// Has been removed, and owes something.
    Gone,
    /// Waits, and has not had more than its part: it is among those of which the earliest deadline runs.
    Ready,
    /// Waits, and is ahead of its part.
    Ahead,
    /// Could run, but has had all that its limit allows.
    Held,
    /// Has the processor.
    Running,
}

impl State {
    /// Whether it waits for its turn.
    pub const fn is_waiting(self) -> bool {
        matches!(self, Self::Ready | Self::Ahead)
    }

    /// Whether it does not want the processor, and is no more than that.
    pub const fn is_asleep(self) -> bool {
        matches!(self, Self::Asleep | Self::Paying)
    }

    /// Whether its weight counts in its queue.
    pub const fn is_competing(self) -> bool {
        matches!(self, Self::Ready | Self::Ahead | Self::Running | Self::Paying)
    }
}

/// An entity: a VM, or a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    /// Its virtual time: what it has received for its weight.
    pub time: u64,
    /// Virtual time by which its request is served in a fluid system.
    pub deadline: u64,
    /// What it has used that is not in its virtual time yet, in nanoseconds.
    pub owed_ns: u64,
    /// What it may still ask for in short requests, in nanoseconds: it has come lately.
    pub fresh_ns: u32,
    pub weight: u32,
    /// Number of the VM or group.
    pub owner: u32,
    /// Number of the group a VM is in; [`NONE`] for a group.
    pub group: u32,
    pub bounds: Bounds,
    pub state: State,
}

impl Node {
    const NIL: Self = Self {
        time: 0,
        deadline: 0,
        owed_ns: 0,
        fresh_ns: 0,
        weight: 1,
        owner: NONE,
        group: NONE,
        bounds: Bounds::NONE,
        state: State::Free,
    };

    /// An entity that sleeps.
    pub const fn new(owner: u32, group: u32, weight: u32, time: u64) -> Self {
        Self { time, deadline: time, weight, owner, group, state: State::Asleep, ..Self::NIL }
    }

    /// Asks as one that has come lately: its deadline is before those of all who ask for a quantum at a time, and among its
    /// like it is the first that is furthest behind.
    pub fn be_prompt(&mut self) {
        self.deadline = self.time.wrapping_sub(scaled(PREEMPT_NS, self.weight));
    }

    /// What of its request has not been served yet, in nanoseconds.
    pub fn request_left_ns(&self) -> u64 {
        let left = self.deadline.wrapping_sub(self.time);
        if left.cast_signed() <= 0 { 0 } else { in_ns(left, self.weight.into()) }
    }
}

/// Where each entity is in its queue or among those that are held; and among those with a reservation. For a free
/// number the first is the next free one.
pub(super) type Places = Vec<[u32; 2]>;

/// All entities.
#[derive(Debug)]
pub(super) struct Nodes {
    nodes: Vec<Node>,
    pub places: Places,
    /// First free place.
    free: u32,
    /// What stands at every number at which there is nothing.
    nil: Node,
    /// What is written at such a number goes here, and is never read.
    void: Node,
}

impl Nodes {
    pub const fn new() -> Self {
        Self { nodes: Vec::new(), places: Vec::new(), free: NONE, nil: Node::NIL, void: Node::NIL }
    }

    /// Places there are.
    pub const fn capacity(&self) -> usize {
        self.nodes.len()
    }

    #[inline(always)]
    pub fn at(&self, id: u32) -> &Node {
        self.nodes.get(id as usize).unwrap_or(&self.nil)
    }

    #[inline(always)]
    pub fn at_mut(&mut self, id: u32) -> &mut Node {
        match self.nodes.get_mut(id as usize) {
            Some(node) => node,
            None => &mut self.void,
        }
    }

    #[cfg(test)]
    pub fn all(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.state != State::Free)
    }

    /// Makes room for more entities.
    pub fn grow(&mut self) -> Result<(), NoMemory> {
        let first = u32::try_from(self.capacity()).map_err(|_| NoMemory)?;
        self.nodes.try_reserve(MORE).map_err(|_| NoMemory)?;
        self.places.try_reserve(self.nodes.capacity() - self.places.len()).map_err(|_| NoMemory)?;
        self.nodes.resize(self.nodes.capacity(), Node::NIL);
        self.places.resize(self.nodes.len(), [NONE; 2]);
        let last = u32::try_from(self.capacity()).map_err(|_| NoMemory)?;
        for id in (first..last).rev() {
            self.release(id);
        }
        Ok(())
    }

    pub fn add(&mut self, node: Node) -> Result<u32, NoMemory> {
        if self.free == NONE {
            self.grow()?;
        }
        let id = self.free;
        if let Some(places) = self.places.get_mut(id as usize) {
            [self.free, _] = core::mem::replace(places, [NONE; 2]);
        }
        *self.at_mut(id) = node;
        Ok(id)
    }

    pub fn release(&mut self, id: u32) {
        *self.at_mut(id) = Node::NIL;
        if let Some(places) = self.places.get_mut(id as usize) {
            *places = [self.free, NONE];
            self.free = id;
        }
    }
}
