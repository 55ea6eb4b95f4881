//! One level of the fair queue: the virtual time of those that compete, and who of them is next.

use super::nodes::{NONE, Nodes, State};

/// Fraction bits of virtual time: a nanosecond of an entity with the largest weight is still one unit.
const FRACTION_BITS: u32 = 32;

/// What a time in nanoseconds is in virtual time for a weight, rounded up, so that nobody gains by many short runs.
pub(super) fn scaled(ns: u64, weight: u32) -> i128 {
    let weight = weight.max(1);
    match u32::try_from(ns) {
        // The usual case, for which one division of 64 bits is enough.
        Ok(ns) => i128::from((u64::from(ns) << FRACTION_BITS).div_ceil(u64::from(weight))),
        Err(_) => ((u128::from(ns) << FRACTION_BITS).div_ceil(u128::from(weight))).cast_signed(),
    }
}

/// Those that compete with each other: all groups, or the VMs of one group.
///
/// Virtual time is the mean of the competitors' own times by weight, kept exactly: `now` and a remainder. So lags add
/// up to nothing, and whoever comes or goes with a lag leaves it to the others by their weights, as the paper's
/// section 3 has it. `clock` is the latest that virtual time has been; arrivals are placed by it, so that coming and
/// going cannot move anything back.
#[derive(Debug)]
pub(super) struct Queue {
    root: u32,
    /// Weight of all that compete, one that runs included.
    weight: u64,
    now: i128,
    /// What virtual time is past `now`, times the weight of all: less than that weight.
    rest: i128,
    clock: i128,
}

impl Queue {
    pub const fn new() -> Self {
        Self { root: NONE, weight: 0, now: 0, rest: 0, clock: 0 }
    }

    /// Whether nobody competes.
    pub const fn is_deserted(&self) -> bool {
        self.weight == 0
    }

    pub const fn clock(&self) -> i128 {
        self.clock
    }

    #[cfg(test)]
    /// By how much virtual time an entity is behind: positive if it is owed something.
    pub fn behind(&self, time: i128) -> i128 {
        self.now - time
    }

    /// Moves virtual time by a sum over all that compete.
    fn advance(&mut self, sum: i128) {
        let sum = self.rest + sum;
        if self.weight == 0 {
            self.rest = 0;
            return;
        }
        if let Ok(sum) = u64::try_from(sum) {
            self.now += i128::from(sum / self.weight);
            self.rest = i128::from(sum % self.weight);
        } else {
            let weight = i128::from(self.weight);
            self.now += sum.div_euclid(weight);
            self.rest = sum.rem_euclid(weight);
        }
        self.clock = self.clock.max(self.now);
    }

    /// The time at which a sleeper comes back that last had this time: its lag, at most one quantum either way.
    pub fn place(&self, time: i128, weight: u32, credit_ns: u64, debt_ns: u64) -> i128 {
        // Where nobody competes nothing is owed to anybody.
        let floor = if self.is_deserted() { self.clock } else { self.clock - scaled(credit_ns, weight) };
        time.clamp(floor, self.clock + scaled(debt_ns, weight))
    }

    /// An entity begins to compete; it waits.
    pub fn join(&mut self, nodes: &mut Nodes, id: u32) {
        let node = nodes.at(id);
        self.weight += u64::from(node.weight);
        self.advance(i128::from(node.weight) * (node.time - self.now));
        self.wait(nodes, id);
    }

    /// An entity ceases to compete.
    pub fn leave(&mut self, nodes: &mut Nodes, id: u32) {
        if nodes.at(id).state == State::Waiting {
            self.root = nodes.remove(self.root, id);
        }
        let node = nodes.at_mut(id);
        node.state = State::Asleep;
        self.weight = self.weight.saturating_sub(u64::from(node.weight));
        let sum = i128::from(node.weight) * (self.now - node.time);
        self.advance(sum);
    }

    /// One that competes waits.
    pub fn wait(&mut self, nodes: &mut Nodes, id: u32) {
        nodes.at_mut(id).state = State::Waiting;
        self.root = nodes.insert(self.root, id);
    }

    /// One that waits runs.
    pub fn run(&mut self, nodes: &mut Nodes, id: u32) {
        self.root = nodes.remove(self.root, id);
        nodes.at_mut(id).state = State::Running;
    }

    /// Who is next.
    pub fn next(&self, nodes: &Nodes) -> u32 {
        nodes.earliest(self.root, self.now)
    }

    /// What is left of an entity's request, in nanoseconds.
    pub fn left_ns(nodes: &Nodes, id: u32) -> u64 {
        let node = nodes.at(id);
        let left = (node.deadline - node.time).saturating_mul(i128::from(node.weight)) >> FRACTION_BITS;
        u64::try_from(left).unwrap_or(0)
    }

    /// An entity has used so much. A request that is served is followed by the next.
    pub fn charge(&mut self, nodes: &mut Nodes, id: u32, ns: u64, quantum_ns: u64) {
        let is_waiting = nodes.at(id).state == State::Waiting;
        if is_waiting {
            self.root = nodes.remove(self.root, id);
        }
        let node = nodes.at_mut(id);
        let used = scaled(ns, node.weight);
        node.time += used;
        if node.time >= node.deadline {
            node.deadline = node.time + scaled(quantum_ns, node.weight);
        }
        if matches!(node.state, State::Waiting | State::Running) {
            self.advance(used * i128::from(node.weight));
        }
        if is_waiting {
            self.root = nodes.insert(self.root, id);
        }
    }

    /// Gives an entity another weight. It keeps its lag and its request, in nanoseconds.
    pub fn weigh(&mut self, nodes: &mut Nodes, id: u32, weight: u32) {
        let state = nodes.at(id).state;
        let is_competing = matches!(state, State::Waiting | State::Running);
        let base = if is_competing { self.now } else { self.clock };
        if is_competing {
            self.leave(nodes, id);
        }
        let node = nodes.at_mut(id);
        let (old, new) = (i128::from(node.weight), i128::from(weight.max(1)));
        let left = node.deadline.saturating_sub(node.time).saturating_mul(old) / new;
        node.time = base.saturating_add(node.time.saturating_sub(base).saturating_mul(old) / new);
        node.deadline = node.time.saturating_add(left);
        node.weight = weight.max(1);
        if is_competing {
            self.join(nodes, id);
            if state == State::Running {
                self.run(nodes, id);
            }
        }
    }

    /// Whether the tree is as it must be.
    #[cfg(test)]
    pub fn is_sound(&self, nodes: &Nodes) -> bool {
        nodes.is_sound(self.root) && self.now <= self.clock
    }
}
