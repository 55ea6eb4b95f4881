//! How long the VM that runs has its turn, and what those who come meanwhile change about it.

use super::heap::is_before;
use super::nodes::Node;
use super::{LATENCY_NS, MAX_QUANTUM_NS, MIN_QUANTUM_NS, MIN_TURN_NS, PREEMPT_NS, Running, Scheduler};

impl Scheduler {
    /// The quantum, by how many can run.
    #[must_use]
    pub fn quantum_ns(&self) -> u64 {
        const FEW: u64 = LATENCY_NS / MAX_QUANTUM_NS;
        const MANY: u64 = LATENCY_NS / MIN_QUANTUM_NS;
        match self.nr_waiting as u64 + u64::from(self.running.is_some()) {
            0..=FEW => MAX_QUANTUM_NS,
            MANY.. => MIN_QUANTUM_NS,
            nr => LATENCY_NS / nr,
        }
    }

    /// How long the VM that runs has its turn if others wait.
    #[inline(always)]
    fn turn_ns(&self) -> u64 {
        let (turn, request) = self.running.map_or((u64::MAX, 0), |running| (running.turn_ns, running.request_ns));
        if self.is_urgent { PREEMPT_NS } else { turn.min(self.quantum_ns().max(request)) }
    }

    /// Whether a VM that has run so long gives way now.
    #[must_use]
    pub fn is_over(&self, ran_ns: u64) -> bool {
        let is_used_up = self.running.is_some_and(|running| ran_ns >= running.allowance_ns);
        let turn = self.turn_ns();
        is_used_up || (ran_ns >= turn && !self.is_empty())
    }

    /// Whether it is to be asked again if the turn of the one that runs is over: somebody came meanwhile.
    #[must_use]
    #[inline(always)]
    pub const fn is_to_look_again(&self) -> bool {
        self.has_come
    }

    /// It is.
    pub const fn look_again(&mut self) {
        self.has_come = true;
    }

    /// It has been asked.
    pub const fn note_look(&mut self) {
        self.has_come = false;
    }

    /// How long a VM that has run so long may run before it must be asked again whether its turn is over.
    #[must_use]
    pub fn slice_ns(&self, ran_ns: u64) -> u64 {
        let turn = self.turn_ns();
        let slice = match turn.saturating_sub(ran_ns) {
            0 => self.quantum_ns(),
            rest => rest,
        };
        match self.running {
            Some(Running { allowance_ns, .. }) => slice.min(allowance_ns.saturating_sub(ran_ns).max(MIN_TURN_NS)),
            None => slice,
        }
    }

    /// Notes whether a VM that has just come is to run before the one that runs.
    #[inline(never)]
    pub(super) fn note_urgency(&mut self, node: u32, group: u32) {
        let Some(running) = self.running else { return };
        let is_earlier = |a: u32, b: u32| is_before(self.nodes.at(a).deadline, self.nodes.at(b).deadline);
        let Some(Some(members)) = self.groups.get(group as usize) else { return };
        let is_due = |id: u32| {
            let Node { bounds, state, .. } = self.nodes.at(id);
            bounds.reservation_ppm != 0 && state.is_waiting() && bounds.due_at <= self.now
        };
        self.is_urgent |= if group == running.group {
            is_earlier(node, running.node)
        } else {
            self.nodes.at(members.node).state.is_waiting() && is_earlier(members.node, running.leader)
        } || is_due(node)
            || is_due(members.node);
        if self.is_urgent {
            return;
        }
        // Or it is its turn once the request of the one that runs has been served.
        let rival = if group == running.group { running.node } else { running.leader };
        let rest = self.nodes.at(rival).request_left_ns();
        let end = self.now.saturating_sub(running.since).saturating_add(rest).max(PREEMPT_NS);
        self.running = Some(Running { turn_ns: running.turn_ns.min(end), ..running });
    }
}
