//! One level of the fair queue: the virtual time of those that compete, and who of them is next.

use super::heap::{Heap, is_before};
use super::nodes::{Node, Nodes, State};
use super::{MAX_QUANTUM_NS, PREEMPT_NS};
use hal::NoMemory;

/// Fraction bits of virtual time, which wraps round. At weight 1 a second is 2^50 of its units, so nothing that is
/// compared is further apart than two hours of one weight's time.
const FRACTION_BITS: u32 = 20;

/// The most that one charge can be: no dispatch is as long, whatever a clock says.
const MAX_CHARGE_NS: u64 = 1 << 34;

/// What one that comes back is owed at most for the time that it slept, of the time of all together: so that is less for
/// each of many, or virtual time would stand still while they come and go.
const CREDIT_NS: u64 = 2 * PREEMPT_NS;

/// Entities that become ready in one look for the next; the others do in the next one.
const BATCH: usize = 64;

/// Those that have paid and go in one look. At most one begins to pay in each.
const PAID_BATCH: usize = 4;

/// What a time in nanoseconds is in virtual time for a weight.
pub(super) fn scaled(ns: u64, weight: u32) -> u64 {
    (ns.min(MAX_CHARGE_NS) << FRACTION_BITS) / u64::from(weight.max(1))
}

/// What virtual time is in nanoseconds for a weight.
pub(super) fn in_ns(time: u64, weight: u64) -> u64 {
    u64::try_from((u128::from(time) * u128::from(weight)) >> FRACTION_BITS).unwrap_or(u64::MAX)
}

/// Those that compete with each other: all groups, or the VMs of one group.
///
/// Virtual time is the mean of the competitors' own times by weight. So it goes on by what is used, divided by the weight
/// of all that compete, and whoever goes while ahead of it, or comes with a debt, leaves that to the others by their
/// weights, as section 3 of the paper has it.
///
/// One that sleeps while it is ahead goes on competing until virtual time has come up with it: it pays. Else what it is
/// ahead by would be what the others are behind by, virtual time would go back, and it would owe as much when it returns,
/// however long it slept. Linux does so too ("delayed dequeue", since 6.12).
#[derive(Debug)]
pub(super) struct Queue {
    /// Those that are not ahead, by deadline.
    ready: Heap<0>,
    /// Those that are, by their own virtual time.
    ahead: Heap<0>,
    /// Those that sleep and pay, by their own virtual time.
    paying: Heap<0>,
    /// How many entities there are, those that sleep included: there is room for all of them.
    nr_known: usize,
    /// How many compete, one that runs included, and their weight.
    nr: usize,
    weight: u64,
    now: u64,
}

impl Queue {
    pub const fn new() -> Self {
        Self { ready: Heap::new(), ahead: Heap::new(), paying: Heap::new(), nr_known: 0, nr: 0, weight: 0, now: 0 }
    }

    /// Whether nobody competes but those that sleep.
    pub const fn is_deserted(&self) -> bool {
        self.nr == self.paying.len()
    }

    /// Virtual time, by which those that come are placed.
    pub const fn now(&self) -> u64 {
        self.now
    }

    /// Whether one alone competes.
    pub const fn is_alone(&self) -> bool {
        self.nr == 1
    }

    /// Makes room for one more entity, so that `join` does not allocate. It stays until [`Self::forget`].
    pub fn admit(&mut self) -> Result<(), NoMemory> {
        let nr = self.nr_known + 1;
        self.ready.reserve(nr)?;
        self.ahead.reserve(nr)?;
        self.paying.reserve(nr)?;
        self.nr_known = nr;
        Ok(())
    }

    /// An entity is no more.
    pub const fn forget(&mut self) {
        self.nr_known = self.nr_known.saturating_sub(1);
    }

    /// Moves virtual time on: somebody has used so much.
    #[inline(always)]
    const fn advance(&mut self, ns: u64) {
        if let Some(time) = (ns << FRACTION_BITS).checked_div(self.weight) {
            self.now = self.now.wrapping_add(time);
        }
    }

    /// Moves virtual time because one came or went that is so far from it.
    #[inline(always)]
    fn shift(&mut self, weight: u32, difference: u64) {
        let difference = difference.cast_signed();
        if self.weight == 0 || difference == 0 {
            return;
        }
        let is_small = weight < 1 << 22 && difference.unsigned_abs() < 1 << 41 && self.weight < 1 << 62;
        let change = match i64::try_from(self.weight) {
            Ok(all) if is_small => i64::from(weight) * difference / all,
            _ => self.share_widely(weight, difference),
        };
        self.now = self.now.wrapping_add(change.cast_unsigned());
    }

    /// The same division for what is too large for words.
    #[cold]
    fn share_widely(&self, weight: u32, difference: i64) -> i64 {
        let change = i128::from(weight) * i128::from(difference) / i128::from(self.weight.max(1));
        // It is a mean of times that are closer than that.
        i64::try_from(change).unwrap_or(0)
    }

    /// Brings an entity that does not wait up to date: its virtual time, its request, and the queue's time if it
    /// competes. A request that is served is followed by the next. Returns what it had used since it was settled last.
    pub fn settle(&mut self, node: &mut Node, quantum_ns: u64) -> u64 {
        let ns = core::mem::take(&mut node.owed_ns).min(MAX_CHARGE_NS);
        if ns > 0 {
            // Rounded up, so that nobody gains by many short turns.
            node.time = node.time.wrapping_add((ns << FRACTION_BITS).div_ceil(u64::from(node.weight)));
            // What was done for one that slept is its own debt alone.
            if node.state.is_competing() {
                self.advance(ns);
            }
            node.fresh_ns = node.fresh_ns.saturating_sub(u32::try_from(ns).unwrap_or(u32::MAX));
        }
        if !is_before(node.time, node.deadline) {
            if node.fresh_ns == 0 {
                let request = scaled(self.request_ns(node.weight, quantum_ns), node.weight);
                node.deadline = node.time.wrapping_add(request);
            } else {
                node.be_prompt();
            }
        }
        ns
    }

    /// What an entity asks for at a time: a quantum if it weighs as much as the mean of those that compete, and more or
    /// less by its weight. So all have their turns equally often, and nobody is further from its part by that than others.
    fn request_ns(&self, weight: u32, quantum_ns: u64) -> u64 {
        let by_weight = quantum_ns.saturating_mul(weight.into()).saturating_mul(self.nr as u64);
        by_weight.checked_div(self.weight).unwrap_or(quantum_ns).clamp(PREEMPT_NS, MAX_QUANTUM_NS)
    }

    /// Gives an entity that comes back its virtual time: what it is behind by stays up to [`CREDIT_NS`] of everybody's time,
    /// what it is ahead by up to a quantum. Its requests are short until it has used a quantum, so its turns come soon.
    #[inline(always)]
    pub fn place(&self, node: &mut Node, quantum_ns: u64) {
        let credit = (CREDIT_NS << FRACTION_BITS).checked_div(self.weight).filter(|_| !self.is_deserted()).unwrap_or(0);
        let earliest = self.now.wrapping_sub(credit);
        if is_before(node.time, earliest) {
            node.time = earliest;
        } else {
            self.limit_debt(node, quantum_ns);
        }
        Self::freshen(node, quantum_ns);
    }

    /// A turn is no longer than a quantum, but for time that the host has taken away.
    #[inline(always)]
    fn limit_debt(&self, node: &mut Node, quantum_ns: u64) {
        let latest = self.now.wrapping_add(scaled(quantum_ns, node.weight));
        if is_before(latest, node.time) {
            node.time = latest;
        }
    }

    #[inline(always)]
    fn freshen(node: &mut Node, quantum_ns: u64) {
        node.be_prompt();
        node.fresh_ns = u32::try_from(quantum_ns).unwrap_or(u32::MAX);
    }

    /// An entity begins to compete; it waits. There is room for it.
    #[inline(always)]
    pub fn join(&mut self, nodes: &mut Nodes, id: u32) {
        let node = nodes.at(id);
        if self.nr == 0 {
            // It owes nothing to anybody.
            self.now = node.time;
        }
        self.nr += 1;
        let (weight, time) = (node.weight, node.time);
        self.weight += u64::from(weight);
        self.shift(weight, time.wrapping_sub(self.now));
        self.wait(nodes, id);
    }

    /// One that pays waits.
    #[inline(always)]
    pub fn rejoin(&mut self, nodes: &mut Nodes, id: u32, quantum_ns: u64) {
        self.paying.remove(&mut nodes.places, id);
        Self::freshen(nodes.at_mut(id), quantum_ns);
        self.wait(nodes, id);
    }

    /// An entity that competes sleeps. If it is ahead of others, it pays.
    #[inline(always)]
    pub fn sleep(&mut self, nodes: &mut Nodes, id: u32, quantum_ns: u64) {
        let node = nodes.at_mut(id);
        if self.nr == 1 || !is_before(self.now, node.time) {
            return self.leave(nodes, id, State::Asleep);
        }
        let (weight, time) = (node.weight, node.time);
        self.limit_debt(node, quantum_ns);
        self.shift(weight, node.time.wrapping_sub(time));
        let key = node.time;
        self.unlink(nodes, id);
        nodes.at_mut(id).state = State::Paying;
        self.paying.push(&mut nodes.places, key, id);
    }

    /// Those that have paid go.
    #[inline(always)]
    fn release_paid(&mut self, nodes: &mut Nodes) {
        for _ in 0..PAID_BATCH {
            match self.paying.first() {
                Some((time, id)) if !is_before(self.now, time) => self.leave(nodes, id, State::Asleep),
                _ => return,
            }
        }
    }

    /// An entity that competes ceases to, and becomes what `state` says.
    #[inline(always)]
    pub fn leave(&mut self, nodes: &mut Nodes, id: u32, state: State) {
        self.unlink(nodes, id);
        let node = nodes.at_mut(id);
        node.state = state;
        self.nr = self.nr.saturating_sub(1);
        let (weight, time) = (node.weight, node.time);
        self.weight = self.weight.saturating_sub(u64::from(weight));
        self.shift(weight, self.now.wrapping_sub(time));
    }

    /// One that competes waits.
    pub fn wait(&mut self, nodes: &mut Nodes, id: u32) {
        let node = nodes.at_mut(id);
        if is_before(self.now, node.time) {
            node.state = State::Ahead;
            let key = node.time;
            self.ahead.push(&mut nodes.places, key, id);
        } else {
            node.state = State::Ready;
            let key = node.deadline;
            self.ready.push(&mut nodes.places, key, id);
        }
    }

    /// One that waits runs, before its turn.
    pub fn run(&mut self, nodes: &mut Nodes, id: u32) {
        self.unlink(nodes, id);
        nodes.at_mut(id).state = State::Running;
    }

    fn unlink(&mut self, nodes: &mut Nodes, id: u32) {
        match nodes.at(id).state {
            State::Ready => self.ready.remove(&mut nodes.places, id),
            State::Ahead => self.ahead.remove(&mut nodes.places, id),
            State::Paying => self.paying.remove(&mut nodes.places, id),
            _ => {}
        }
    }

    /// Takes the one that is next, which runs.
    #[inline(always)]
    pub fn take_next(&mut self, nodes: &mut Nodes) -> Option<u32> {
        self.release_paid(nodes);
        let id = match self.ahead.first() {
            None => self.ready.pop(&mut nodes.places)?,
            Some((time, _)) => self.take_among_ahead(nodes, time)?,
        };
        nodes.at_mut(id).state = State::Running;
        Some(id)
    }

    /// The same where some are ahead, the first of them by this time.
    fn take_among_ahead(&mut self, nodes: &mut Nodes, time: u64) -> Option<u32> {
        if self.ready.is_empty() {
            self.skip_to(nodes, time);
            let first = self.ahead.pop(&mut nodes.places)?;
            if self.ahead.first().is_none_or(|(time, _)| is_before(self.now, time)) {
                return Some(first);
            }
            self.admit_ready(nodes, first);
        }
        self.make_ready(nodes);
        self.ready.pop(&mut nodes.places)
    }

    /// Moves virtual time to what it is but for rounding: nobody that waits is behind it. Those that have paid by then go.
    fn skip_to(&mut self, nodes: &mut Nodes, time: u64) {
        for _ in 0..BATCH {
            match self.paying.first() {
                Some((paid, id)) if !is_before(time, paid) => {
                    self.now = if is_before(self.now, paid) { paid } else { self.now };
                    self.leave(nodes, id, State::Asleep);
                }
                _ => break,
            }
        }
        if is_before(self.now, time) {
            self.now = time;
        }
    }

    /// How long the one that was chosen runs before another is to be looked at, in nanoseconds: until virtual time has
    /// come up with one that is ahead now and has an earlier deadline, or what was asked for has been served.
    #[inline(always)]
    pub fn turn_ns(&self, nodes: &Nodes, chosen: u32) -> u64 {
        match self.ahead.first() {
            None => u64::MAX,
            Some((time, id)) => self.until(nodes, chosen, time, id),
        }
    }

    #[inline(never)]
    fn until(&self, nodes: &Nodes, chosen: u32, time: u64, id: u32) -> u64 {
        if !is_before(nodes.at(id).deadline, nodes.at(chosen).deadline) {
            return nodes.at(chosen).request_left_ns();
        }
        let lead = if is_before(self.now, time) { time.wrapping_sub(self.now) } else { 0 };
        in_ns(lead, self.weight)
    }

    /// One of those whose turn comes late, another for each `n`.
    pub fn late(&self, n: u32) -> Option<u32> {
        self.ahead.late(n).or_else(|| self.ready.late(n))
    }

    /// Those that virtual time has come up with are ahead no more.
    fn make_ready(&mut self, nodes: &mut Nodes) {
        for _ in 0..BATCH {
            match self.ahead.first() {
                Some((time, id)) if !is_before(self.now, time) => {
                    self.ahead.pop(&mut nodes.places);
                    self.admit_ready(nodes, id);
                }
                _ => return,
            }
        }
    }

    /// One that was ahead is so no more.
    fn admit_ready(&mut self, nodes: &mut Nodes, id: u32) {
        let node = nodes.at_mut(id);
        node.state = State::Ready;
        let deadline = node.deadline;
        self.ready.push(&mut nodes.places, deadline, id);
    }

    /// Gives an entity another weight. It keeps its lag and its request, in nanoseconds.
    pub fn weigh(&mut self, nodes: &mut Nodes, id: u32, weight: u32) {
        let node = nodes.at_mut(id);
        let (old, new, state) = (node.weight, weight.max(1), node.state);
        if old == new {
            return;
        }
        self.unlink(nodes, id);
        let now = self.now;
        let convert = |difference: u64| {
            let converted = i128::from(difference.cast_signed()) * i128::from(old) / i128::from(new);
            i64::try_from(converted).unwrap_or(if converted < 0 { i64::MIN / 4 } else { i64::MAX / 4 }).cast_unsigned()
        };
        let node = nodes.at_mut(id);
        let before = node.time;
        let left = convert(node.deadline.wrapping_sub(before));
        node.time = now.wrapping_add(convert(before.wrapping_sub(now)));
        node.deadline = node.time.wrapping_add(left);
        node.weight = new;
        let time = node.time;
        if state.is_competing() {
            self.weight = self.weight.saturating_sub(u64::from(old));
            self.shift(old, now.wrapping_sub(before));
            self.weight += u64::from(new);
            self.shift(new, time.wrapping_sub(self.now));
        }
        if state.is_waiting() {
            self.wait(nodes, id);
        } else if state == State::Paying {
            self.paying.push(&mut nodes.places, time, id);
        }
    }

    /// By how much virtual time an entity is behind: positive if it is owed something.
    #[cfg(test)]
    pub fn behind(&self, time: u64) -> i64 {
        self.now.wrapping_sub(time).cast_signed()
    }

    /// By how much virtual time, multiplied by all their weights, differs from the sum of those of these that compete.
    #[cfg(test)]
    pub fn error<'a>(&self, nodes: impl Iterator<Item = &'a Node>) -> u128 {
        let competing = nodes.filter(|node| node.state.is_competing());
        let sum: i128 = competing.map(|node| i128::from(node.weight) * i128::from(-self.behind(node.time))).sum();
        sum.unsigned_abs()
    }

    /// Whether the heaps are as they must be.
    #[cfg(test)]
    pub fn is_sound(&self, nodes: &Nodes) -> bool {
        self.ready.is_sound(&nodes.places) && self.ahead.is_sound(&nodes.places)
    }
}
