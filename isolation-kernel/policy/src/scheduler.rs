//! The scheduler: virtual-deadline fair queueing in two levels, groups and the VMs in them.
//!
//! EEVDF: I. Stoica, H. Abdel-Wahab, "Earliest Eligible Virtual Deadline First" (Old Dominion University, TR-95-22,
//! 1995). Every entity has a virtual time of its own, which its use of the processor moves on in inverse proportion
//! to its weight, and a request of one quantum, which a fluid system would have served by the request's virtual
//! deadline. Among those that are not ahead of the mean (lag >= 0) the earliest deadline runs.
//!
//! *Sleepers.* The lag of one that sleeps goes on, but is at most one quantum either way when it comes back: debts
//! are paid by time, and patience buys promptness, a deadline before everybody's who ran in the meantime, not more
//! than the share. Arrivals are placed by the latest virtual time there has been, so no coming and going moves
//! anything back. One that is new, or comes to a queue in which nobody competes, has no credit. One that is removed
//! with a debt finds it again if it comes back before it is paid.
//!
//! *Quantum.* [`LATENCY_NS`] divided by the number that can run, between [`MIN_QUANTUM_NS`] and
//! [`MAX_QUANTUM_NS`]: 4 ms for up to 8, 1 ms from 32 on.
//!
//! *Memory.* Entities are in chunks and made as VMs first come; those that sleep and have nothing more to remember
//! are dropped by and by, two looked at in each pick, so a parked VM costs its 4 bytes in the index.
//!
//! Not there: upper limits and reservations of an entity.

mod nodes;
mod queue;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::vec::Vec;
use hal::NoMemory;
use nodes::{NONE, Node, Nodes, State};
use queue::{Queue, scaled};

/// The longest quantum, in nanoseconds.
pub const MAX_QUANTUM_NS: u64 = 4_000_000;

/// The shortest quantum.
pub const MIN_QUANTUM_NS: u64 = 1_000_000;

/// In this time everybody is to have a turn, as long as the shortest quantum allows it.
pub const LATENCY_NS: u64 = 32_000_000;

/// How long a VM runs before one that has come with an earlier deadline takes its place.
pub const PREEMPT_NS: u64 = 200_000;

/// The most that one charge can be: no dispatch is as long, whatever a clock says.
const MAX_CHARGE_NS: u64 = 1 << 40;

/// Numbers in a chunk of the index.
const INDEX_CHUNK: usize = 1024;

/// A group of VMs, by number. Numbers are to be small: there is a place for each up to the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group(pub u32);

/// As what a VM competes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// With whom. The group must have been added.
    pub group: Group,
    /// Its shares: its weight in the group. At least 1.
    pub shares: u32,
    /// Whether it has never run: then it cannot have earned anything by waiting.
    pub is_new: bool,
}

/// Why a VM is not in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnqueueError {
    /// There is no memory to note it.
    NoMemory,
    /// There is no such group.
    NoGroup,
}

impl From<NoMemory> for EnqueueError {
    fn from(NoMemory: NoMemory) -> Self {
        Self::NoMemory
    }
}

/// A group and its VMs.
#[derive(Debug)]
struct Members {
    /// The group as an entity.
    node: u32,
    queue: Queue,
}

/// What runs.
#[derive(Clone, Copy, Debug)]
struct Running {
    vm: u32,
    node: u32,
    group: u32,
    /// What is left of its request.
    left_ns: u64,
}

/// The VMs of one core that can run.
#[derive(Debug)]
pub struct Scheduler {
    nodes: Nodes,
    /// The entity of each VM that has one, by number.
    index: Vec<Option<Box<[u32]>>>,
    groups: Vec<Option<Members>>,
    top: Queue,
    running: Option<Running>,
    nr_waiting: usize,
    /// Whether one waits that should run before the one that runs.
    is_urgent: bool,
    /// Where dropping goes on.
    hand: u32,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self::new()
    }
}

impl Scheduler {
    /// No groups, no VMs.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            nodes: Nodes::new(),
            index: Vec::new(),
            groups: Vec::new(),
            top: Queue::new(),
            running: None,
            nr_waiting: 0,
            is_urgent: false,
            hand: 0,
        }
    }

    /// Makes room for so many VMs that can run or slept lately, and for numbers up to `last`, so that no later call
    /// for these allocates.
    ///
    /// # Errors
    /// If there is no memory for it; then later calls may fail.
    pub fn reserve(&mut self, nr_vms: usize, last: u32) -> Result<(), NoMemory> {
        while self.nodes.capacity() < nr_vms.saturating_add(self.groups.len()) {
            self.nodes.grow()?;
        }
        self.index_place(last).map(|_| ())
    }

    /// Adds a group, or gives one that is there another weight.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn set_group(&mut self, group: Group, shares: u32) -> Result<(), NoMemory> {
        let at = group.0 as usize;
        if let Some(Some(members)) = self.groups.get(at) {
            self.top.weigh(&mut self.nodes, members.node, shares);
            return Ok(());
        }
        if at >= self.groups.len() {
            self.groups.try_reserve(at - self.groups.len() + 1).map_err(|_| NoMemory)?;
            self.groups.resize_with(at + 1, || None);
        }
        let node = self.nodes.add(Node::new(group.0, NONE, shares.max(1), self.top.clock()))?;
        if let Some(place) = self.groups.get_mut(at) {
            *place = Some(Members { node, queue: Queue::new() });
        }
        Ok(())
    }

    /// Removes a group. Returns false if there is none, or VMs of it can run.
    pub fn remove_group(&mut self, group: Group) -> bool {
        let Some(place) = self.groups.get_mut(group.0 as usize) else { return false };
        let Some(members) = place.take_if(|members| members.queue.is_deserted()) else { return false };
        self.nodes.release(members.node);
        true
    }

    /// A VM can run: it has just woken, or goes on after a turn. One that waits already is left where it is.
    ///
    /// # Errors
    /// See [`EnqueueError`]. Then the VM is not in the queue.
    pub fn enqueue(&mut self, vm: u32, claim: Claim) -> Result<(), EnqueueError> {
        let group = claim.group.0;
        let node = self.entity(vm, &claim)?;
        let quantum = self.quantum_after(1);
        let members = members(&mut self.groups, group).ok_or(EnqueueError::NoGroup)?;
        if self.nodes.at(node).weight != claim.shares.max(1) {
            members.queue.weigh(&mut self.nodes, node, claim.shares);
        }
        match self.nodes.at(node).state {
            State::Waiting => return Ok(()),
            State::Running => {
                members.queue.wait(&mut self.nodes, node);
                self.running = None;
                self.top.wait(&mut self.nodes, members.node);
            }
            State::Asleep | State::Gone | State::Free => {
                place(&members.queue, &mut self.nodes, node, quantum);
                let was_deserted = members.queue.is_deserted();
                members.queue.join(&mut self.nodes, node);
                if was_deserted {
                    place(&self.top, &mut self.nodes, members.node, quantum);
                    self.top.join(&mut self.nodes, members.node);
                }
                self.note_urgency(node, group);
            }
        }
        self.nr_waiting += 1;
        Ok(())
    }

    /// Takes the VM that runs next out of the queue. It competes until it is enqueued again or sleeps.
    pub fn pick(&mut self) -> Option<u32> {
        if let Some(running) = self.running {
            self.sleep(running.vm);
        }
        self.is_urgent = false;
        self.drop_forgotten();
        let leader = self.top.next(&self.nodes);
        let group = self.nodes.at(leader).owner;
        let members = members(&mut self.groups, group)?;
        let node = members.queue.next(&self.nodes);
        let vm = self.nodes.at(node).owner;
        members.queue.run(&mut self.nodes, node);
        self.top.run(&mut self.nodes, leader);
        let left_ns = Queue::left_ns(&self.nodes, node).max(PREEMPT_NS);
        self.running = Some(Running { vm, node, group, left_ns });
        self.nr_waiting = self.nr_waiting.saturating_sub(1);
        Some(vm)
    }

    /// A VM has used so much of the processor, itself or by what was done for it.
    pub fn charge(&mut self, vm: u32, ns: u64) {
        let (node, ns) = (self.node_of(vm), ns.min(MAX_CHARGE_NS));
        let quantum = self.quantum_ns();
        let Some(members) = members(&mut self.groups, self.nodes.at(node).group) else { return };
        members.queue.charge(&mut self.nodes, node, ns, quantum);
        self.top.charge(&mut self.nodes, members.node, ns, quantum);
    }

    /// A VM cannot run any more. Nothing happens if it could not.
    pub fn sleep(&mut self, vm: u32) {
        let node = self.node_of(vm);
        let state = self.nodes.at(node).state;
        if !matches!(state, State::Waiting | State::Running) {
            return;
        }
        let Some(members) = members(&mut self.groups, self.nodes.at(node).group) else { return };
        members.queue.leave(&mut self.nodes, node);
        if state == State::Running {
            self.running = None;
            if !members.queue.is_deserted() {
                self.top.wait(&mut self.nodes, members.node);
            }
        } else {
            self.nr_waiting = self.nr_waiting.saturating_sub(1);
        }
        if members.queue.is_deserted() {
            self.top.leave(&mut self.nodes, members.node);
        }
    }

    /// A VM is no more. What it owes is kept until it is paid, if it should come back.
    pub fn remove(&mut self, vm: u32) {
        self.sleep(vm);
        let node = self.node_of(vm);
        if self.nodes.at(node).state == State::Asleep {
            self.nodes.at_mut(node).state = State::Gone;
        }
    }

    /// Gives a VM another weight, whatever it does now. Its lag stays what it is in nanoseconds.
    pub fn set_shares(&mut self, vm: u32, shares: u32) {
        let node = self.node_of(vm);
        if let Some(members) = members(&mut self.groups, self.nodes.at(node).group) {
            members.queue.weigh(&mut self.nodes, node, shares);
        }
    }

    /// Whether this VM is the one that was picked last, and has neither been enqueued again nor slept since.
    #[must_use]
    pub fn is_running(&self, vm: u32) -> bool {
        self.running.is_some_and(|running| running.vm == vm)
    }

    /// Whether no VM waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.nr_waiting == 0
    }

    /// How many VMs wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.nr_waiting
    }

    /// The quantum, by how many can run.
    #[must_use]
    pub fn quantum_ns(&self) -> u64 {
        self.quantum_after(0)
    }

    /// Whether a VM that has run so long gives way now.
    #[must_use]
    pub fn is_over(&self, ran_ns: u64) -> bool {
        !self.is_empty() && (ran_ns >= self.turn_ns() || (self.is_urgent && ran_ns >= PREEMPT_NS))
    }

    /// How long a VM that has run so long may run before it must be asked again whether its turn is over.
    #[must_use]
    pub fn slice_ns(&self, ran_ns: u64) -> u64 {
        let turn = if self.is_urgent { PREEMPT_NS } else { self.turn_ns() };
        match turn.saturating_sub(ran_ns) {
            0 => self.quantum_ns(),
            rest => rest,
        }
    }

    /// How long a turn of the one that runs is: its request, but for what is not worth a turn of its own.
    fn turn_ns(&self) -> u64 {
        self.running.map_or(u64::MAX, |running| running.left_ns).min(self.quantum_ns())
    }

    /// The quantum if so many more could run.
    fn quantum_after(&self, more: usize) -> u64 {
        let nr_runnable = self.nr_waiting + usize::from(self.running.is_some()) + more;
        let part = LATENCY_NS / u64::try_from(nr_runnable.max(1)).unwrap_or(u64::MAX);
        part.clamp(MIN_QUANTUM_NS, MAX_QUANTUM_NS)
    }

    /// Notes whether a VM that has just come has an earlier deadline than the one that runs.
    fn note_urgency(&mut self, node: u32, group: u32) {
        let Some(running) = self.running else { return };
        let deadline = |id: u32| self.nodes.at(id).deadline;
        let leader = |group: u32| self.groups.get(group as usize).and_then(Option::as_ref).map_or(NONE, |m| m.node);
        self.is_urgent |= if group == running.group {
            deadline(node) < deadline(running.node)
        } else {
            deadline(leader(group)) < deadline(leader(running.group))
        };
    }

    /// The entity of a VM, which is made if there is none.
    fn entity(&mut self, vm: u32, claim: &Claim) -> Result<u32, EnqueueError> {
        let group = claim.group.0;
        if self.groups.get(group as usize).is_none_or(Option::is_none) {
            return Err(EnqueueError::NoGroup);
        }
        let known = self.node_of(vm);
        if self.nodes.at(known).group == group {
            if self.nodes.at(known).state == State::Gone {
                let clock = members(&mut self.groups, group).map_or(0, |members| members.queue.clock());
                let node = self.nodes.at_mut(known);
                node.time = node.time.max(clock);
            }
            return Ok(known);
        }
        if known != NONE {
            self.forget(vm, known);
        }
        let place = *self.index_place(vm)?;
        debug_assert_eq!(place, NONE);
        let clock = members(&mut self.groups, group).map_or(0, |members| members.queue.clock());
        // One that was dropped had waited long enough for all the credit there is.
        let earned = if claim.is_new { 0 } else { scaled(MAX_QUANTUM_NS, claim.shares) };
        let node = self.nodes.add(Node::new(vm, group, claim.shares.max(1), clock - earned))?;
        *self.index_place(vm)? = node;
        Ok(node)
    }

    /// Drops an entity.
    fn forget(&mut self, vm: u32, node: u32) {
        self.sleep(vm);
        self.nodes.release(node);
        if let Ok(place) = self.index_place(vm) {
            *place = NONE;
        }
    }

    /// Looks at two entities, and drops them if they sleep and have nothing to remember.
    fn drop_forgotten(&mut self) {
        for _ in 0..2 {
            self.hand = if (self.hand as usize) < self.nodes.capacity() { self.hand + 1 } else { 0 };
            let node = *self.nodes.at(self.hand);
            let Some(members) = members(&mut self.groups, node.group) else { continue };
            let credit = if node.state == State::Gone { 0 } else { scaled(MAX_QUANTUM_NS, node.weight) };
            let is_paid = members.queue.clock() - node.time >= credit;
            if is_paid && matches!(node.state, State::Asleep | State::Gone) {
                self.forget(node.owner, self.hand);
            }
        }
    }

    fn node_of(&self, vm: u32) -> u32 {
        let chunk = self.index.get(vm as usize / INDEX_CHUNK).and_then(Option::as_ref);
        chunk.and_then(|chunk| chunk.get(vm as usize % INDEX_CHUNK)).copied().unwrap_or(NONE)
    }

    /// Where a VM's entity is noted.
    fn index_place(&mut self, vm: u32) -> Result<&mut u32, NoMemory> {
        let at = vm as usize / INDEX_CHUNK;
        if at >= self.index.len() {
            self.index.try_reserve(at - self.index.len() + 1).map_err(|_| NoMemory)?;
            self.index.resize_with(at + 1, || None);
        }
        let chunk = self.index.get_mut(at).ok_or(NoMemory)?;
        if chunk.is_none() {
            let mut places = Vec::new();
            places.try_reserve_exact(INDEX_CHUNK).map_err(|_| NoMemory)?;
            places.resize(INDEX_CHUNK, NONE);
            *chunk = Some(places.into_boxed_slice());
        }
        chunk.as_mut().and_then(|chunk| chunk.get_mut(vm as usize % INDEX_CHUNK)).ok_or(NoMemory)
    }
}

/// A group, if it is there.
fn members(groups: &mut [Option<Members>], group: u32) -> Option<&mut Members> {
    groups.get_mut(group as usize).and_then(Option::as_mut)
}

/// Gives an entity that comes back its virtual time, and a request of one quantum.
fn place(queue: &Queue, nodes: &mut Nodes, id: u32, quantum_ns: u64) {
    let node = nodes.at_mut(id);
    node.time = queue.place(node.time, node.weight, quantum_ns, MAX_QUANTUM_NS);
    node.deadline = node.time + scaled(quantum_ns, node.weight);
}
