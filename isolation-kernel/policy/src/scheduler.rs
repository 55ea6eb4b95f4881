//! The scheduler: virtual-deadline fair queueing in two levels, groups and the VMs in them.
//!
//! Every entity has a virtual time of its own, which its use of the processor moves on in inverse proportion to its
//! weight, and a request of one quantum, which a fluid system would have served by the request's virtual deadline.
//! Among those that are not ahead of their queue's virtual time the earliest deadline runs. That is EEVDF (I. Stoica,
//! H. Abdel-Wahab, "Earliest Eligible Virtual Deadline First", Old Dominion University, TR-95-22, 1995). A queue is two
//! heaps, as in hierarchical packet schedulers (J. Bennett, H. Zhang, "Hierarchical Packet Fair Queueing Algorithms",
//! SIGCOMM 1996): by deadline, and those that are ahead, by when they will not be. What is used is only added up until
//! the entity waits again.
//!
//! *Sleepers.* One that sleeps while it is ahead competes on until it is so no more, and so pays. One that comes back has
//! early deadlines until it has used a quantum: patience buys promptness, turns before everybody's who goes on, and
//! not more than the share. Of what it was behind by it keeps 400 us of everybody's time. Debts are kept, at most a quantum,
//! also by one that is removed and comes back.
//!
//! *Quantum.* [`LATENCY_NS`] divided by the number that can run, between [`MIN_QUANTUM_NS`] and
//! [`MAX_QUANTUM_NS`]: 4 ms for up to 8, 0.5 ms from 64 on. That is the request of one that weighs as much as the mean;
//! who weighs more asks for more at a time, at most for the longest quantum.
//!
//! *Limits and reservations* of VMs and groups are in time of the clock ([`Terms`]). Who has had what its limit allows
//! is held until half of it is there again; whoever has a reservation and is due goes before all others, the one that
//! has been due longest first. The gatekeeper sees to it that all of these can be served.
//!
//! *Memory.* Entities are made as VMs first come; those that sleep and have nothing more to remember
//! are dropped by and by, one looked at in every fourth pick and more where they are many, so a parked VM costs its 4 bytes
//! in the index.

mod groups;
mod heap;
mod index;
mod limits;
mod nodes;
mod queue;
mod terms;
#[cfg(test)]
mod tests;
mod turn;

use alloc::boxed::Box;
use alloc::vec::Vec;
use hal::{Nanos, NoMemory};
use heap::Heap;
use nodes::{NONE, Node, Nodes, State};
use queue::Queue;
pub use terms::{Terms, WINDOW_NS};

/// The longest quantum, in nanoseconds.
pub const MAX_QUANTUM_NS: u64 = 4_000_000;

/// The shortest quantum.
pub const MIN_QUANTUM_NS: u64 = 500_000;

/// In this time everybody is to have a turn, as long as the shortest quantum allows it.
pub const LATENCY_NS: u64 = 32_000_000;

/// How long a VM runs before one that has come with an earlier deadline takes its place.
pub const PREEMPT_NS: u64 = 200_000;

/// The most that one charge counts for: no turn is as long, unless the host has stopped the machine meanwhile.
const MAX_CHARGE_NS: u64 = 4 * MAX_QUANTUM_NS;

/// The shortest turn that a limit leaves: the rest of it comes off the next one.
const MIN_TURN_NS: u64 = 50_000;

/// What was done for a VM that sleeps is taken into account when it wakes, if it is more than this, or else after its turn.
const SMALL_DEBT_NS: u64 = 20_000;

/// Those that were held and are let go in one look.
const RELEASE_BATCH: usize = 16;

/// Those with a reservation that are looked at in one pick.
const DUE_BATCH: usize = 8;

/// In so many picks one entity is looked at that may be dropped, and one more for each so many that there are: with more
/// than come in that many picks, their number stops growing.
const DROP_PERIOD: u32 = 4;
const DROP_CROWD: usize = 4096;

/// The most that are looked at in one pick.
const MOST_DROPS: usize = 8;

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
    /// How.
    pub terms: Terms,
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
    /// The group as an entity.
    leader: u32,
    /// What limits leave of its turn.
    allowance_ns: u64,
    /// When one that is ahead, and would go before it, will be so no more.
    turn_ns: u64,
    /// What is left of its request.
    request_ns: u64,
    /// Since when it runs.
    since: u64,
}

/// The VMs of one core that can run.
#[derive(Debug)]
pub struct Scheduler {
    nodes: Nodes,
    /// The entity of each VM that has one, by number.
    index: Vec<Option<Box<[u32; INDEX_CHUNK]>>>,
    groups: Vec<Option<Members>>,
    nr_groups: usize,
    top: Queue,
    /// The group that competes, where only one does and it has neither limit nor reservation: what it uses is only added
    /// up, and it is not in the top queue's heaps.
    lone: u32,
    /// Those that have had all that their limits allow, by when they may run again.
    held: Heap<0>,
    /// Those that wait and have a reservation, VMs and groups, by when they are due.
    due: Heap<1>,
    running: Option<Running>,
    nr_waiting: usize,
    /// Whether one waits that should run before the one that runs.
    is_urgent: bool,
    /// Whether somebody came since the one that runs was asked last whether its turn is over.
    has_come: bool,
    nr_picks: u32,
    /// Where dropping goes on.
    hand: u32,
    /// The time of the clock, as it was last told.
    now: u64,
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
            nr_groups: 0,
            top: Queue::new(),
            lone: NONE,
            held: Heap::new(),
            due: Heap::new(),
            running: None,
            nr_waiting: 0,
            is_urgent: false,
            has_come: false,
            nr_picks: 0,
            hand: 0,
            now: 0,
        }
    }

    /// Makes room for so many VMs that can run or slept lately, and for numbers up to `last`, so that no later call
    /// for these allocates but for the queues.
    ///
    /// # Errors
    /// If there is no memory for it; then later calls may fail.
    pub fn reserve(&mut self, nr_vms: usize, last: u32) -> Result<(), NoMemory> {
        while self.nodes.capacity() < nr_vms.saturating_add(self.nr_groups) {
            self.nodes.grow()?;
        }
        self.index_place(last).map(|_| ())
    }

    /// Whether a group has been added.
    #[must_use]
    pub fn has_group(&self, group: Group) -> bool {
        self.groups.get(group.0 as usize).is_some_and(Option::is_some)
    }

    /// Adds a group, or gives one that is there other terms, which hold at once.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn set_group(&mut self, group: Group, terms: &Terms) -> Result<(), NoMemory> {
        let at = group.0 as usize;
        if at >= self.groups.len() {
            self.groups.try_reserve(at - self.groups.len() + 1).map_err(|_| NoMemory)?;
            self.groups.resize_with(at + 1, || None);
        }
        let node = match self.groups.get(at) {
            Some(Some(members)) => members.node,
            _ => {
                self.top.admit()?;
                let node = self.nodes.add(Node::new(group.0, NONE, terms.shares.max(1), self.top.now()))?;
                if let Some(place) = self.groups.get_mut(at) {
                    *place = Some(Members { node, queue: Queue::new() });
                    self.nr_groups += 1;
                }
                node
            }
        };
        self.settle_lone();
        self.bound(node, terms)?;
        self.top.weigh(&mut self.nodes, node, terms.shares);
        if self.nodes.at(node).state.is_waiting() {
            self.due.remove(&mut self.nodes.places, node);
            self.note_due(node);
        }
        Ok(())
    }

    /// Tells what time it is. Those that were held until now compete again.
    #[inline]
    pub fn tell(&mut self, now: Nanos) {
        self.now = self.now.max(now.0);
        if !self.held.is_empty() {
            self.release_due();
        }
    }

    fn release_due(&mut self) {
        for _ in 0..RELEASE_BATCH {
            match self.held.first() {
                Some((until, id)) if until <= self.now => self.release(id),
                _ => return,
            }
        }
    }

    /// The same while a VM runs, whose use so far is taken into account: those who come have no part in that.
    pub fn catch_up(&mut self, now: Nanos) {
        self.settle_running();
        self.tell(now);
    }

    /// When one that is held may run again.
    #[must_use]
    pub fn next_release(&self) -> Nanos {
        self.held.first().map_or(Nanos::NEVER, |(until, _)| Nanos(until))
    }

    /// A VM can run: it has just woken, or goes on after a turn. One that waits already is left where it is.
    ///
    /// # Errors
    /// See [`EnqueueError`]. Then the VM is not in the queue.
    #[inline]
    pub fn enqueue(&mut self, vm: u32, claim: &Claim) -> Result<(), EnqueueError> {
        let known = self.entity_of(vm);
        let entity = self.nodes.at(known);
        let is_as_before =
            entity.group == claim.group.0 && entity.weight == claim.terms.shares && entity.bounds.is(&claim.terms);
        if is_as_before && entity.state.is_asleep() {
            self.join(known, claim.group.0);
            return Ok(());
        }
        self.enqueue_anew(vm, claim)
    }

    /// The same for one that is new, or waits, or comes on other terms.
    #[inline(never)]
    fn enqueue_anew(&mut self, vm: u32, claim: &Claim) -> Result<(), EnqueueError> {
        let group = claim.group.0;
        let node = self.entity(vm, claim)?;
        let members = members(&mut self.groups, group).ok_or(EnqueueError::NoGroup)?;
        if self.nodes.at(node).weight != claim.terms.shares {
            members.queue.weigh(&mut self.nodes, node, claim.terms.shares);
        }
        if !self.nodes.at(node).bounds.is(&claim.terms) {
            self.bound(node, &claim.terms)?;
        }
        match self.nodes.at(node).state {
            State::Ready | State::Ahead | State::Held | State::Free => {}
            State::Running => self.stop_running(true),
            State::Asleep | State::Paying | State::Gone => self.join(node, group),
        }
        Ok(())
    }

    /// Takes the VM that runs next out of the queue. It competes until it is enqueued again or sleeps.
    #[inline]
    pub fn pick(&mut self, now: Nanos) -> Option<u32> {
        if self.running.is_some() {
            self.stop_running(false);
        }
        self.tell(now);
        (self.is_urgent, self.has_come) = (false, false);
        self.nr_picks = self.nr_picks.wrapping_add(1);
        if self.nr_picks.is_multiple_of(DROP_PERIOD) {
            let crowds = self.nodes.capacity() / DROP_CROWD;
            for _ in 0..=crowds.min(MOST_DROPS - 1) {
                self.drop_forgotten();
            }
        }
        let due = if self.due.is_empty() { None } else { self.take_due() };
        let (leader, group, node) = match due {
            Some(found) => found,
            None => self.take_next()?,
        };
        let (of_vm, of_group) = (self.nodes.at(node), self.nodes.at(leader));
        let vm = of_vm.owner;
        let mut allowance_ns = u64::MAX;
        if !of_vm.bounds.is_none() || !of_group.bounds.is_none() {
            allowance_ns = of_vm.bounds.allowance_ns(self.now).min(of_group.bounds.allowance_ns(self.now));
            allowance_ns = allowance_ns.max(MIN_TURN_NS);
            self.due.remove(&mut self.nodes.places, node);
            self.due.remove(&mut self.nodes.places, leader);
        }
        let turn_ns = members_of(&self.groups, group).map_or(u64::MAX, |queue| queue.turn_ns(&self.nodes, node));
        let turn_ns = turn_ns.min(self.top.turn_ns(&self.nodes, leader)).max(PREEMPT_NS);
        let request_ns = self.nodes.at(node).request_left_ns();
        self.running = Some(Running { vm, node, group, leader, allowance_ns, turn_ns, request_ns, since: self.now });
        self.nr_waiting = self.nr_waiting.saturating_sub(1);
        Some(vm)
    }

    /// The group whose turn it is, and the VM in it, which run.
    #[inline(always)]
    fn take_next(&mut self) -> Option<(u32, u32, u32)> {
        let leader = if self.lone == NONE { self.take_group()? } else { self.lone };
        let group = self.nodes.at(leader).owner;
        let node = members(&mut self.groups, group)?.queue.take_next(&mut self.nodes)?;
        Some((leader, group, node))
    }

    /// Takes a VM out of the queue that another core can have: one whose turn would come late.
    pub fn spare(&mut self) -> Option<u32> {
        let leader = if self.lone == NONE { self.top.late(self.hand)? } else { self.lone };
        let node = members_of(&self.groups, self.nodes.at(leader).owner)?.late(self.hand)?;
        // The next time it is another one.
        self.hand = self.hand.wrapping_add(1);
        let vm = self.nodes.at(node).owner;
        self.sleep(vm);
        Some(vm)
    }

    /// A VM has used so much of the processor, itself or by what was done for it.
    pub fn charge(&mut self, vm: u32, ns: u64) {
        let node = self.entity_of(vm);
        let node = self.nodes.at_mut(node);
        node.owed_ns = node.owed_ns.saturating_add(ns.min(MAX_CHARGE_NS));
    }

    /// A VM cannot run any more. Nothing happens if it could not.
    pub fn sleep(&mut self, vm: u32) {
        if self.is_running(vm) {
            return self.stop_running(false);
        }
        let quantum = self.quantum_ns();
        let node = self.node_of(vm);
        let state = self.nodes.at(node).state;
        let Some(members) = members(&mut self.groups, self.nodes.at(node).group) else { return };
        if state == State::Held {
            self.held.remove(&mut self.nodes.places, node);
            self.nodes.at_mut(node).state = State::Asleep;
        }
        if !state.is_waiting() {
            return;
        }
        members.queue.sleep(&mut self.nodes, node, quantum);
        self.due.remove(&mut self.nodes.places, node);
        self.nr_waiting = self.nr_waiting.saturating_sub(1);
        let leader = members.node;
        if members.queue.is_deserted() && self.nodes.at(leader).state.is_waiting() {
            self.due.remove(&mut self.nodes.places, leader);
            self.settle_lone();
            self.top.sleep(&mut self.nodes, leader, quantum);
        }
    }

    /// One that pays only sleeps.
    fn stop_paying(&mut self, node: u32) {
        let Node { state: before, group, .. } = *self.nodes.at(node);
        if before == State::Paying
            && let Some(members) = members(&mut self.groups, group)
        {
            members.queue.leave(&mut self.nodes, node, State::Asleep);
        }
    }

    /// A VM is no more. What it owes is kept until it is paid, if it should come back.
    pub fn remove(&mut self, vm: u32) {
        self.sleep(vm);
        let node = self.node_of(vm);
        self.stop_paying(node);
        if self.nodes.at(node).state == State::Asleep {
            self.nodes.at_mut(node).state = State::Gone;
        }
    }

    /// Whether this VM is the one that was picked last, and has neither been enqueued again nor slept since.
    #[must_use]
    pub fn is_running(&self, vm: u32) -> bool {
        self.running.is_some_and(|running| running.vm == vm)
    }

    /// Whether no VM waits. Those that are held do not.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.nr_waiting == 0
    }

    /// How many VMs wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.nr_waiting
    }

    /// A VM that slept, or was held, competes again, unless its limit forbids it.
    fn join(&mut self, node: u32, group: u32) {
        let quantum = self.quantum_ns();
        let Some(members) = members(&mut self.groups, group) else { return };
        let (queue, leader) = (&mut members.queue, members.node);
        let was_deserted = queue.is_deserted();
        let entity = self.nodes.at(node);
        let is_to_settle = entity.owed_ns > SMALL_DEBT_NS || !entity.bounds.is_none();
        let is_paying = entity.state == State::Paying;
        if is_paying && is_to_settle {
            queue.leave(&mut self.nodes, node, State::Asleep);
        }
        let entity = self.nodes.at_mut(node);
        let mut used = 0;
        if is_to_settle {
            used = queue.settle(entity, quantum);
            entity.bounds.charge(used, quantum, self.now);
            if let Some(until) = entity.bounds.held_until(self.now) {
                entity.state = State::Held;
                self.nodes.at_mut(leader).owed_ns += used;
                return self.held.push(&mut self.nodes.places, until, node);
            }
            entity.bounds.wake(self.now);
        }
        if is_paying && !is_to_settle {
            queue.rejoin(&mut self.nodes, node, quantum);
        } else {
            queue.place(entity, quantum);
            queue.join(&mut self.nodes, node);
        }
        self.nr_waiting += 1;
        if used > 0 {
            self.nodes.at_mut(leader).owed_ns += used;
        }
        self.note_due(node);
        if was_deserted && self.nodes.at(leader).state.is_asleep() {
            self.join_group(leader, quantum);
        }
        if self.running.is_some() {
            self.has_come = true;
            self.note_urgency(node, group);
        }
    }

    /// One that was held competes again, if it has not used more meanwhile.
    fn release(&mut self, id: u32) {
        self.held.remove(&mut self.nodes.places, id);
        let node = self.nodes.at_mut(id);
        node.state = State::Asleep;
        let (owner, group) = (node.owner, node.group);
        if group == NONE {
            let is_wanted = members(&mut self.groups, owner).is_some_and(|members| !members.queue.is_deserted());
            if is_wanted {
                self.join_group(id, self.quantum_ns());
            }
        } else {
            self.join(id, group);
        }
    }

    /// What the VM that runs has used is taken into account, for it and its group.
    #[inline(always)]
    fn settle_running(&mut self) {
        let quantum = self.quantum_ns();
        let Some(Running { node, group, leader, .. }) = self.running else { return };
        let Some(members) = members(&mut self.groups, group) else { return };
        let entity = self.nodes.at_mut(node);
        let used = members.queue.settle(entity, quantum);
        if !entity.bounds.is_none() {
            entity.bounds.charge(used, quantum, self.now);
        }
        self.nodes.at_mut(leader).owed_ns += used;
        if leader != self.lone {
            self.settle_group(leader, quantum);
        }
    }

    /// The VM that runs does so no more, and waits again or sleeps.
    fn stop_running(&mut self, can_run: bool) {
        self.settle_running();
        let quantum = self.quantum_ns();
        let Some(Running { node, group, leader, .. }) = self.running.take() else { return };
        let Some(members) = members(&mut self.groups, group) else { return };
        if !can_run {
            members.queue.sleep(&mut self.nodes, node, quantum);
        } else if let Some(until) = self.nodes.at(node).bounds.held_until(self.now) {
            members.queue.leave(&mut self.nodes, node, State::Held);
            self.held.push(&mut self.nodes.places, until, node);
        } else {
            members.queue.wait(&mut self.nodes, node);
            self.nr_waiting += 1;
            self.note_due(node);
        }
        let is_deserted = members_of(&self.groups, group).is_none_or(Queue::is_deserted);
        if leader != self.lone || is_deserted {
            self.stop_group(leader, is_deserted);
        }
    }
}

/// A group, if it is there.
#[inline(always)]
fn members(groups: &mut [Option<Members>], group: u32) -> Option<&mut Members> {
    groups.get_mut(group as usize).and_then(Option::as_mut)
}

/// A group's queue, if it is there.
#[inline(always)]
fn members_of(groups: &[Option<Members>], group: u32) -> Option<&Queue> {
    groups.get(group as usize)?.as_ref().map(|members| &members.queue)
}
